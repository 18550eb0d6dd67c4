"""Losses of the elements of a batch, each of which sees the others: who is there, how similar they are, their mean.

A loss says what a row of the matrix of pairs is worth. Rows are made a block at a time: memory is that of a few blocks,
whatever the batch.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _devices
from lossax._angles import direction
from lossax._numerics import divide, sqrt
from lossax._pairs import squared_distances
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import by_rows, gathered, inner, over_sets, places, spread_like, sum_by_rows
from lossax._types import Reduction

Similarity = Literal["cosine", "dot"]
Matrix = Literal["cosine", "dot", "euclidean", "squared_euclidean"]
"""Similarities, or distances."""


class Elements(NamedTuple):
    """Rows or columns of the matrix of pairs."""

    embeddings: jax.Array  # [n, d]
    places: jax.Array  # which element of the batch each is, int [n]
    exist: jax.Array  # bool [n]
    labels: Any = None  # int [n]


def prepared(similarity: Similarity, embeddings: jax.Array) -> jax.Array:
    """What a dot product makes the similarity of."""
    return direction(embeddings) if similarity == "cosine" else embeddings


def kept_elements(embeddings: dict[str, jax.Array], where: ArrayLike | None, weights: ArrayLike | None) -> jax.Array:
    """The weight of each element of `[..., n, d]`."""
    _check.units_of(embeddings, axes=2)
    (array,) = embeddings.values()
    return unit_weights(array.shape[:-1], where, weights, dtype=array.dtype)


def labelled_elements(
    embeddings: Any, labels: Any, where: Any, weights: Any, *hyper: ArrayLike
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """Embeddings after the mask, the weight of each element, hyperparameters in the dtype of the computation."""
    _check.floating(embeddings=embeddings)
    _check.integer(labels=labels)
    _check.units_of({"embeddings": embeddings}, labels=labels)
    rows, *numbers = masked(where, embeddings, *hyper, event=1)
    return rows, kept_elements({"embeddings": rows}, where, weights), tuple(numbers)


def elements(embeddings: jax.Array, kept: jax.Array, axis_name: str | None, labels: Any = None) -> Elements:
    """Those of a set that lie on this device."""
    like = jnp.sum(embeddings, axis=1)  # for its type alone
    marks = jax.tree.map(lambda x: spread_like(x, like), (places(kept.shape[0], axis_name), kept > 0, labels))
    return Elements(embeddings, *marks)


def everyone(own: Elements, axis_name: str | None) -> Elements:
    """Those of all devices."""
    return jax.tree.map(lambda x: gathered(x, axis_name), own)


def pairs(rows: Elements, columns: Elements) -> jax.Array:
    """Which pairs there are: of those who exist, but no element with its own."""
    return rows.exist[:, None] & columns.exist[None, :] & (rows.places[:, None] != columns.places[None, :])


def alike(rows: Elements, columns: Elements) -> tuple[jax.Array, jax.Array]:
    """Which of these pairs are of one label, and which of two."""
    there, same = pairs(rows, columns), rows.labels[:, None] == columns.labels[None, :]
    return there & same, there & ~same


def scores(rows: Elements, columns: Elements) -> jax.Array:
    """Products of the pairs that there are, -inf of the others."""
    return jnp.where(pairs(rows, columns), inner(rows.embeddings, columns.embeddings), -jnp.inf)


def reduced(
    row: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
    of_set: Callable[..., tuple[Any, Any, int]],
    sets: tuple[jax.Array, ...],
    axis_name: str | None,
    tile: int | None,
    kept: jax.Array,
    weights: ArrayLike | None,
    reduction: Reduction,
) -> jax.Array:
    """The loss of sets from what `row` says of a block: the loss of each row and whether it counts.

    `of_set` gives rows, columns and the numbers held for a row, of one set. The gradient of a mean or a sum is made
    along with it.
    """
    _check.choice(("mean", "sum", "none"), reduction=reduction)
    if 0 in kept.shape:
        return reduce(jnp.zeros_like(kept), None, weights, reduction, axis_name)
    if reduction == "none":

        def each(*arrays):
            rows, columns, width = of_set(*arrays)
            return by_rows(lambda rows, columns: (row(rows, columns), ()), rows, columns, width=width, tile=tile)[0]

        values, counted = over_sets(each, kept.ndim - 1)(*sets, kept)
        return reduce(values, counted & (kept > 0), weights, reduction)

    def block(rows, columns):
        rows, weight = rows
        losses, counted = row(rows, columns)
        counted = counted.astype(losses.dtype)
        return jnp.sum(weight * counted * losses), counted

    shrink = 2.0 ** -kept.shape[-1].bit_length()  # a sum of finite losses shall not overflow

    def both(*arrays):
        rows, columns, width = of_set(*arrays)
        weight = shrink * arrays[-1]
        total, counted = sum_by_rows(block, width, tile, (rows, weight), columns)
        weight = jnp.sum(weight * counted)
        return divide(total, weight), weight

    means, weight = over_sets(both, kept.ndim - 1)(*sets, kept)
    return reduce(means, None, weight if reduction == "mean" else weight / shrink, reduction, axis_name)


def sized(embeddings: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """The embeddings over a power of two, which rounds nothing, and that: squares neither overflow nor vanish."""
    size = _devices.largest(jnp.max(jnp.abs(embeddings), initial=0.0), axis_name)
    exponent = jnp.clip(jnp.frexp(size)[1] - 1, -120, 120)
    unit = jnp.ldexp(jnp.ones_like(size), exponent)
    return embeddings / unit, unit


def by_labels(
    row: Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, jax.Array]],
    matrix: Matrix,
    embeddings: jax.Array,
    labels: jax.Array,
    shared: Any,
    kept: jax.Array,
    weights: ArrayLike | None,
    reduction: Reduction,
    *,
    scale: jax.Array | None = None,
    numbers: int = 1,
    tile: int | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The loss of sets whose elements have labels.

    `row` gets a block of the matrix of all pairs, which of these pairs are of one label,
    which of two, and `shared`; it gives the loss of each row and whether it counts. It holds so many `numbers` for a
    pair. `scale` multiplies the matrix.
    """
    of_distances = matrix in ("euclidean", "squared_euclidean")
    kind = "cosine" if matrix == "cosine" else "dot"
    factor = jnp.ones((), embeddings.dtype) if scale is None else scale
    if of_distances:
        embeddings, unit = sized(embeddings, axis_name)
        factor = factor * (unit if matrix == "euclidean" else unit * unit)

    def of_block(rows, common):
        columns, scale, shared = common
        rows = rows._replace(embeddings=prepared(kind, rows.embeddings))
        if of_distances:
            squares = squared_distances(rows.embeddings, columns.embeddings)
            found = scale * (sqrt(squares) if matrix == "euclidean" else squares)
        else:
            found = inner(rows.embeddings * scale, columns.embeddings)
        return row(found, *alike(rows, columns), shared)

    def of_set(x, labels, kept):
        rows = elements(x, kept, axis_name, labels)
        columns = everyone(rows._replace(embeddings=prepared(kind, x)), axis_name)
        return rows, (columns, factor, shared), numbers * len(columns.places)

    return reduced(of_block, of_set, (embeddings, jnp.asarray(labels)), axis_name, tile, kept, weights, reduction)
