"""Logits that are never whole: those of an output embedding, for a block of tokens at a time."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from lossax import _numerics
from lossax._tile import by_rows, floats, product

_LOGITS = 6 * 2**20
"""Logits of a block, about, if its size is not given."""

_COLUMNS = 4096
"""Classes of the embedding whose gradient is added up at once."""


def label_loss(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: jax.Array | None,
    gamma: jax.Array | None,
    z_loss: jax.Array | None,
    soft_cap: jax.Array | None,
) -> jax.Array:
    """Cross-entropy of each row `[..., classes]` with its label; what is None is left out of the program."""
    if soft_cap is not None:
        logits = _numerics.soft_cap(logits, soft_cap)
    loss = _numerics.label_surprise(logits, labels)
    if gamma is not None:
        loss = _numerics.focal_surprise(loss, _numerics.label_miss(logits, labels), gamma)
    if smoothing is not None:
        loss = (1.0 - smoothing) * loss + smoothing * _numerics.mean_surprise(logits)
    return loss if z_loss is None else loss + squared_log_partition(logits, z_loss)


def squared_log_partition(logits: jax.Array, z_loss: jax.Array) -> jax.Array:
    """z_loss * (log sum exp)^2, and 0 for a row without classes."""
    top, remainder = _numerics.log_partition(logits)
    total = jnp.where(jnp.isneginf(remainder), jnp.zeros_like(top), top + remainder)
    return z_loss * total * total


class Head(NamedTuple):
    """What makes logits of hidden states."""

    embedding: jax.Array  # [d, classes]
    bias: jax.Array  # [classes]


def _logits(hidden: jax.Array, head: Head) -> jax.Array:
    return hidden @ head.embedding + head.bias[None, :]


def _tokens(head: Head, tile: int | None) -> int:
    """How many tokens a block has."""
    return max(1, _LOGITS // max(len(head.bias), 1)) if tile is None else tile


def of_each_token(
    f: Callable[[jax.Array, Any, Any], Any], tile: int | None, hidden: jax.Array, rows: Any, shared: Any, head: Head
) -> Any:
    """`f` of logits `[block, classes]`, a block of `rows`, and `shared`; arrays with one entry for each token.

    The gradient makes each block of logits a second time.
    """

    def block(tokens, common):
        (hidden, rows), (head, shared) = tokens, common
        return f(_logits(hidden, head), rows, shared), ()

    found, _ = by_rows(block, (hidden, rows), (head, shared), width=len(head.bias), tile=_tokens(head, tile))
    return found


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def over_tokens(
    f: Callable[[jax.Array, Any, Any], jax.Array],
    tile: int | None,
    hidden: jax.Array,
    rows: Any,
    shared: Any,
    head: Head,
) -> jax.Array:
    """Sum over tokens of the numbers that `f` returns; the gradient is made along with it, from the same logits.

    Args:
      f: Takes logits `[block, classes]`, a block of `rows`, and `shared`. Returns one number for each token, 0 where
        its rows are zeros.
      tile: Tokens of a block; by the number of classes if None.
      hidden: Float `[n, d]`.
      rows: Tree of arrays `[n, ...]`.
      shared: Tree of arrays, whole in every block.
      head: What makes logits of hidden states.

    Returns:
      A scalar.
    """

    def block(tokens, common):
        (hidden, rows), (head, shared) = tokens, common
        return (), jnp.sum(f(_logits(hidden, head), rows, shared))

    return by_rows(block, (hidden, rows), (head, shared), width=len(head.bias), tile=_tokens(head, tile))[1]


def _added(total: jax.Array, hidden: jax.Array, slopes: jax.Array) -> jax.Array:
    """total + hidden^T slopes: in place, of a few classes at a time, so that the product is never whole beside it."""
    classes = total.shape[1]
    if classes <= _COLUMNS or jax.device_count() > 1:  # classes may be spread over devices
        return total + product(hidden, slopes)

    def added(total, at, size):
        some = lax.dynamic_slice_in_dim(slopes, at, size, axis=1)
        sums = lax.dynamic_slice_in_dim(total, at, size, axis=1) + product(hidden, some)
        return lax.dynamic_update_slice_in_dim(total, sums, at, axis=1)

    whole, rest = divmod(classes, _COLUMNS)
    total = lax.fori_loop(0, whole, lambda i, total: added(total, i * _COLUMNS, _COLUMNS), total)
    return added(total, classes - rest, rest) if rest else total


def _over_tokens_jvp(f, tile, primals, tangents):
    hidden, rows, shared, head = primals
    trained = not isinstance(tangents[3].embedding, SymbolicZero)

    def with_gradient(tokens, common, totals):
        (hidden, rows), (head, shared) = tokens, common
        total, sums, of_embedding, of_bias = totals
        (own, of_rows), (all_of_them, of_all) = floats(rows), floats(shared)
        g = jax.value_and_grad(lambda z, x, y: jnp.sum(f(z, of_rows(x), of_all(y))), (0, 1, 2))
        value, (slopes, by_row, by_all) = g(_logits(hidden, head), own, all_of_them)
        of_embedding = _added(of_embedding, hidden, slopes) if trained else of_embedding
        totals = total + value, jax.tree.map(jnp.add, sums, by_all), of_embedding, of_bias + jnp.sum(slopes, axis=0)
        by_hidden = jnp.einsum("nc,dc->nd", slopes, head.embedding)  # XLA would hold a transposed embedding
        return (by_hidden, by_row), totals

    numbers, _ = floats(shared)
    embedding = head.embedding if trained else head.embedding[:0]
    shapes = (jax.ShapeDtypeStruct((), hidden.dtype), numbers, embedding, head.bias)
    width, size = len(head.bias), _tokens(head, tile)
    (by_hidden, by_row), (value, by_all, of_embedding, of_bias) = by_rows(
        with_gradient, (hidden, rows), (head, shared), width=width, tile=size, totals=shapes
    )
    moves = jax.tree.leaves(tangents, is_leaf=lambda x: isinstance(x, SymbolicZero))
    moves = [m for m, x in zip(moves, jax.tree.leaves(primals), strict=True) if jnp.issubdtype(x.dtype, jnp.floating)]
    slopes = (by_hidden, *by_row, *by_all, of_embedding, of_bias)
    terms = [jnp.sum(s * m) for s, m in zip(slopes, moves, strict=True) if not isinstance(m, SymbolicZero)]
    return value, reduce(jnp.add, terms, jnp.zeros_like(value))


over_tokens.defjvp(_over_tokens_jvp, symbolic_zeros=True)
