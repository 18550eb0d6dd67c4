"""Ranking metrics of softly sorted lists: one unit per list `[..., n]`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _ranking
from lossax._numerics import divide
from lossax._reduction import masked, reduce
from lossax._tile import by_rows, numbered
from lossax._types import Reduction


@jax.custom_jvp
def _slope_of_ties(scores: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    """0, with what the derivative of `_exponents` lacks: distances between equal scores have none."""
    del start, end
    return jnp.zeros_like(scores)


@_slope_of_ties.defjvp
def _(primals, tangents):
    scores, start, end = primals
    index = numbered(scores)
    total = jnp.cumsum(tangents[0], axis=-1)
    total = jnp.concatenate([jnp.zeros_like(total[..., :1]), total], axis=-1)
    until, before, behind = (jnp.take_along_axis(total, i, axis=-1) for i in (start, index, index + 1))
    sides = (end - 1 - index) - (index - start)
    others = (jnp.take_along_axis(total, end, axis=-1) - behind) - (before - until)
    return _slope_of_ties(*primals), sides.astype(scores.dtype) * tangents[0] - others


def _exponents(place: jax.Array, scores: jax.Array, ties: jax.Array, number: jax.Array) -> jax.Array:
    """(n + 1 - 2k) s_j - sum_l |s_j - s_l| of place k along rows, less its largest entry, of falling scores.

    From j to its neighbour that is by a gap further from k this falls by the gap times an odd number: a sum of one
    sign, where the terms of the formula are large and cancel.
    """
    at = _ranking.ranks(scores)
    gap = jnp.where(at[..., :-1] < number, scores[..., :-1] - scores[..., 1:], 0)
    along = at[..., :-1][None]
    fall = jnp.abs(2.0 * (along - place) + 1.0) * gap[None]
    right = jnp.cumsum(jnp.where(along >= place, fall, 0), axis=-1)
    left = jnp.cumsum(jnp.where(along < place, fall, 0)[..., ::-1], axis=-1)[..., ::-1]
    edge = jnp.zeros_like(fall[..., :1])
    return ties[None] - jnp.concatenate([edge, right], axis=-1) - jnp.concatenate([left, edge], axis=-1)


def _soft_permutation(rows: Any, columns: Any) -> jax.Array:
    """Rows of NeuralSort: how much of each item is at a place; 0 for places that do not exist."""
    place, number = rows["place"][..., None], columns["number"]
    exponents = _exponents(place, columns["scores"], columns["ties"], number)
    exists = _ranking.ranks(columns["scores"]) <= number
    # Limited: far below what counts, where products with the derivative by the temperature stay finite.
    scaled = jnp.maximum(exponents, -400.0 * columns["temperature"][None]) / columns["temperature"][None]
    mass = jnp.where(exists[None], jnp.exp(scaled), 0)
    p = divide(mass, jnp.sum(mass, axis=-1, keepdims=True))
    return jnp.where((place > 0) & (place <= number[None]), p, 0)


def neural_ndcg(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    temperature: ArrayLike = 1.0,
    sinkhorn_steps: int = 50,
    topn: int | None = None,
    gain: _ranking.Gain = "exponential",
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus NDCG of a softly sorted list: NeuralNDCG, and without Sinkhorn steps PiRank.

    .. math:: 1 - \frac 1 Z \sum_k \frac{(P g)_k}{\log_2(1 + k)}, \qquad
        P_{k \cdot} = \mathrm{softmax}_j \Big(\frac{(n + 1 - 2k)\,s_j - \sum_l |s_j - s_l|}{\tau}\Big)

    P is NeuralSort's relaxed permutation, so gains are smooth and not places, unlike `approx_ndcg`: as the temperature
    falls both tend to the metric. Rows of P sum to 1, columns need not: Sinkhorn steps scale both in turn, so that no
    item is counted twice. The authors take up to 50 (allRank, which stops at a tolerance); with 0 it is PiRank's loss
    at depth 1. A list with nothing relevant costs 0. For the stochastic variants see `objectives.gumbel`.

    Each Sinkhorn step goes over all n^2 entries, in blocks of rows: P is never held, only its two scalings are, O(n)
    for each step. Weights multiply gains, also in Z; places count items.

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`, nonnegative.
      temperature: Softness of the sort, in units of the scores; positive.
      sinkhorn_steps: How often columns and then rows are scaled to sum to 1; 0 leaves P as it is.
      topn: Places that count; all if None.
      gain: What an item of relevance y is worth: `"exponential"` for 2^y - 1, or `"linear"` for y.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `scores` are not floating point or `sinkhorn_steps`, `topn` or `tile` is no int.
      ValueError: if shapes differ, a known relevance is negative, `gain` is unknown or `temperature` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = neural_ndcg(jnp.zeros(2), jnp.array([1, 0]))  # half of it at each place: 1/2 - 1 / (2 log2(3))
      >>> round(loss.item(), 4)
      0.1845

    Reference:
      Pobrotyn and Bialobrzeski, *NeuralNDCG: direct optimisation of a ranking metric via differentiable relaxation of
      sorting*, 2021; Swezey et al., *PiRank: scalable learning to rank via differentiable sorting*, 2021; Grover et
      al., *Stochastic optimization of sorting networks via continuous relaxations*, 2019.
    """
    _check.positive(temperature=temperature)
    _check.choice(("exponential", "linear"), gain=gain)
    if sinkhorn_steps != 0:
        _check.count(sinkhorn_steps=sinkhorn_steps)
    for name, value in (("topn", topn), ("tile", tile)):
        if value is not None:
            _check.count(**{name: value})
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights, nonnegative=True)
    _, temperature = masked(None, scores, temperature)
    there = jnp.any(kept != 0, axis=-1)
    if scores.size == 0:
        return reduce(jnp.sum(scores, axis=-1), there, None, reduction)
    worth = jnp.where(kept > 0, kept * _ranking.gains(relevances, gain), 0)
    worth = divide(worth, _ranking.ideal(worth, topn)[..., None])
    exists = (kept > 0).astype(scores.dtype)
    _, start, end, scores, sorted_worth, exists = _ranking.in_order(
        kept * 0.0 + scores, kept > 0, scores, worth, exists
    )
    number = jnp.sum(exists, axis=-1, keepdims=True)
    columns = {
        "scores": scores,
        "ties": _slope_of_ties(scores, start, end),
        "number": number,
        "temperature": jnp.broadcast_to(temperature, scores.shape)[..., :1],
        "worth": sorted_worth,
    }
    place = _ranking.ranks(scores)
    discount = _ranking.discounts(place, topn)
    rows = {"place": place, "best": -jnp.sort(-worth, axis=-1), "discount": discount}
    rows = {name: jnp.moveaxis(x, -1, 0) for name, x in rows.items()}
    width = scores.size

    def sums(rows, columns):
        """What each column gets when rows are scaled to sum to 1, of columns that are scaled already."""
        p = _soft_permutation(rows, columns)
        total = jnp.sum(p * columns["scale"][None], axis=-1, keepdims=True) if "scale" in columns else jnp.ones_like(p)
        return (), jnp.sum(divide(p, total), axis=0)

    def scale(columns, _):
        _, total = by_rows(sums, rows, columns, width=width, tile=tile)
        return columns | {"scale": divide(jnp.ones_like(total), total)}, None

    if sinkhorn_steps:
        columns, _ = scale(columns, None)
        columns, _ = lax.scan(scale, columns, None, length=sinkhorn_steps - 1)

    def missed(rows, columns):
        p = _soft_permutation(rows, columns)
        if sinkhorn_steps:
            p = p * columns["scale"][None]
            p = divide(p, jnp.sum(p, axis=-1, keepdims=True))
        each = jnp.sum(p * (rows["best"][..., None] - columns["worth"][None]), axis=-1)
        return (), jnp.sum(rows["discount"] * each, axis=0)

    _, loss = by_rows(missed, rows, columns, width=width, tile=tile)
    return reduce(known * loss, there, None, reduction)
