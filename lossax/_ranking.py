"""Lists of items with scores and relevances: places, ties, gains and discounts. A list is `[..., n]`."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _check, _running
from lossax._numerics import sigmoid_pair, with_slopes
from lossax._reduction import masked, unit_weights
from lossax._tile import by_rows, numbered, spread_like, whole

Gain = Literal["exponential", "linear"]
"""What an item of relevance y is worth: 2^y - 1, or y."""


def lists(
    scores: Any,
    relevances: Any,
    where: Any,
    weights: Any,
    *,
    nonnegative: bool = False,
    name: str = "relevances",
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Scores and relevances after the mask, weight of each item, and 1 for each list, NaN if a relevance is no number.

    Relevances are data, not differentiated; `name` is what errors call them.
    """
    _check.floating(scores=scores)
    _check.real(**{name: relevances})
    _check.same_shape(**{"scores": scores, name: relevances})
    _check.units_of({"scores": scores})
    scores, relevances, where, weights = whole((scores, relevances, where, weights), 1)
    (scores,), (relevances,) = masked(where, scores), masked(where, relevances)
    if not jnp.issubdtype(relevances.dtype, jnp.signedinteger) or relevances.dtype.itemsize < 4:
        relevances = relevances.astype(scores.dtype)
    if nonnegative:
        relevances = _check.domain("nonnegative", lambda y: y >= 0, **{name: relevances.astype(scores.dtype)})
    elif jnp.issubdtype(relevances.dtype, jnp.floating):
        relevances = _check.domain("numbers", lambda y: y == y, **{name: relevances})
    kept = spread_like(unit_weights(scores.shape, where, weights, dtype=scores.dtype), scores)
    missing = jnp.any(relevances != relevances, axis=-1)
    return scores, lax.stop_gradient(relevances), kept, jnp.where(missing, jnp.nan, jnp.ones((), scores.dtype))


def in_order(scores: jax.Array, exists: jax.Array, *arrays: jax.Array) -> tuple[Any, ...]:
    """Items by falling scores, those that do not exist behind.

    Returns:
      Whether each is the first of its score, the place of that one and the place behind the last, all counted from 0,
      and the arrays.
    """
    safe = lax.stop_gradient(jnp.where(exists, scores, 0))
    missing, falling, order = lax.sort(((~exists).astype(jnp.int32), -safe, numbered(scores)), num_keys=2)
    new = (missing[..., 1:] != missing[..., :-1]) | (falling[..., 1:] != falling[..., :-1])
    new = jnp.concatenate([jnp.ones_like(exists[..., :1]), new], axis=-1)
    return new, *_running.bounds(new), *(jnp.take_along_axis(x, order, axis=-1) for x in arrays)


def ranks(array: jax.Array) -> jax.Array:
    """1, 2, 3, ... along the last axis."""
    return numbered(array).astype(array.dtype) + 1.0


def _gain_slopes(relevances: jax.Array) -> tuple[jax.Array]:
    return (0.6931471805599453 * (_exponential(relevances) + 1.0),)


@with_slopes(_gain_slopes)
def _exponential(relevances: jax.Array) -> jax.Array:
    whole = jnp.floor(relevances)
    power = jnp.ldexp(jnp.ones_like(relevances), lax.stop_gradient(whole).astype(jnp.int32))
    return power * jnp.expm1(0.6931471805599453 * (relevances - whole)) + (power - 1.0)


def gains(relevances: jax.Array, gain: str) -> jax.Array:
    """What each item is worth; exact for integer relevances."""
    return _exponential(relevances) if gain == "exponential" else relevances


def discounts(ranks: jax.Array, topn: int | None = None) -> jax.Array:
    """1 / log2(1 + rank), and 0 beyond `topn`."""
    value = 0.6931471805599453 / jnp.log1p(ranks)
    return value if topn is None else jnp.where(ranks <= topn, value, 0)


def ideal(worth: jax.Array, topn: int | None = None) -> jax.Array:
    """The largest discounted sum `[...]` of any order of the items."""
    falling = -jnp.sort(-worth, axis=-1)
    return jnp.sum(falling * discounts(ranks(worth), topn), axis=-1)


def _softplus_slopes(x: jax.Array) -> tuple[jax.Array]:
    return (sigmoid_pair(x)[0],)


@with_slopes(_softplus_slopes)
def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x))."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _pairs(f: Callable[[Any, Any], Any], axes: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    """Sums of `f` over the pairs of a block of rows `[rows, ..., n]`."""

    def block(rows, columns):
        first = {name: x[..., None] for name, x in rows.items()}
        second = {name: x[None] for name, x in columns.items()}
        return jax.tree.map(lambda x: jnp.sum(x, axis=axes), f(first, second))

    return block


def _by_rows(block: Callable[[Any, Any], Any], items: dict[str, jax.Array], tile: int | None) -> Any:
    rows = {name: jnp.moveaxis(x, -1, 0) for name, x in items.items()}
    if 0 in items["scores"].shape:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(block, rows, items))
    return by_rows(block, rows, items, width=items["scores"].size, tile=tile)


def sum_of_pairs(f: Callable[[Any, Any], Any], items: dict[str, jax.Array], tile: int | None) -> Any:
    """Sum of `f` over all pairs of items, `[...]` for each array that it returns.

    Items `[..., n]` go in as the first of a pair `[rows, ..., 1]` and the second `[1, ..., n]`; a first item that is 0
    in everything must add nothing.
    """
    block = _pairs(f, (0, -1))
    return _by_rows(lambda rows, columns: ((), block(rows, columns)), items, tile)[1]


def sum_of_each(f: Callable[[Any, Any], Any], items: dict[str, jax.Array], tile: int | None) -> Any:
    """Sum of `f` over the second item of each pair, `[..., n]` for each array that it returns."""
    block = _pairs(f, (-1,))
    each, _ = _by_rows(lambda rows, columns: (block(rows, columns), ()), items, tile)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), each)


def of_lists(value: jax.Array) -> jax.Array:
    """A hyperparameter, one number or one for each list `[..., 1]`, in the rank of blocks of pairs."""
    return value[..., 0][None, ..., None] if value.ndim else value
