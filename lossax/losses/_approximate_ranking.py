"""Ranking metrics with smooth places, which can be trained: one unit per list `[..., n]`."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _numerics, _ranking
from lossax._numerics import divide, positive_part, with_slopes
from lossax._reduction import masked, reduce
from lossax._tile import numbered
from lossax._types import Reduction


def _gap(first: Any, second: Any, temperature: jax.Array) -> jax.Array:
    """How many steps the second is above the first; halves, as the difference may overflow."""
    half = 0.5 * second["scores"] - 0.5 * first["scores"]
    reach = 400.0 * temperature
    return jnp.clip(half, -reach, reach) * 2.0 / temperature


def _checked(temperature: Any, tile: int | None) -> None:
    _check.positive(temperature=temperature)
    if tile is not None:
        _check.count(tile=tile)


def _discount_slopes(place: jax.Array, lost: jax.Array) -> tuple[jax.Array, jax.Array]:
    def slope(rank):
        return 0.6931471805599453 / ((1.0 + rank) * jnp.square(jnp.log1p(rank)))

    return slope(place + lost) - slope(place), slope(place + lost)


@with_slopes(_discount_slopes)
def _discount_lost(place: jax.Array, lost: jax.Array) -> jax.Array:
    """1 / log2(1 + place) - 1 / log2(1 + place + lost)."""
    own, moved = jnp.log1p(place), jnp.log1p(place + lost)
    return 0.6931471805599453 * jnp.log1p(lost / (1.0 + place)) / (own * moved)


def approx_ndcg(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    temperature: ArrayLike = 0.1,
    gain: _ranking.Gain = "exponential",
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus NDCG, with smooth places.

    .. math:: 1 - \frac{1}{Z} \sum_i \frac{g(y_i)}{\log_2(1 + r_i)}, \qquad
        r_i = 1 + \sum_{j \ne i} \sigma\big((s_j - s_i) / \tau\big)

    with Z the largest discounted sum of any order. For graded relevance where NDCG is what is reported; begin with
    `ranking_softmax` or `lambdarank`, as its gradient vanishes once items are a few temperatures apart. A list with
    nothing relevant costs 0. Average precision with smooth places (ApproxAP, Smooth-AP) is `average_precision`; the
    reciprocal rank `approx_mrr`; any other metric `approximate_metric`; noise against the vanishing gradient
    `objectives.gumbel`. What is left of the loss of a list in the right order keeps its digits.

    Bruch et al. have a temperature of 0.1; rax' `approx_t12n(ndcg_metric)`, which is this minus 1, has 1. Weights
    multiply gains, also in Z: `1.0 / propensities` of the clicked. Places count items.

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`, nonnegative.
      temperature: Difference of scores that counts as a step of rank, in units of the scores; positive.
      gain: What an item of relevance y is worth: `"exponential"` for 2^y - 1, or `"linear"` for y.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `tile` is no int.
      ValueError: if shapes differ, a known relevance is negative, `gain` is unknown or `temperature` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = approx_ndcg(jnp.zeros(3), jnp.array([1, 0, 0]))  # three at the place of 2: 1 - 1 / log2(3)
      >>> round(loss.item(), 4)
      0.3691

    Reference:
      Qin, Liu and Li, *A general approximation framework for direct optimization of information retrieval measures*,
      2010; Bruch et al., *Revisiting approximate metric optimization in the age of deep neural networks*, 2019.
    """
    _checked(temperature, tile)
    _check.choice(("exponential", "linear"), gain=gain)
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights, nonnegative=True)
    tau = _ranking.of_lists(masked(None, scores, temperature)[1])
    worth = jnp.where(kept > 0, kept * _ranking.gains(relevances, gain), 0)
    # In the best order there is, the places are known: what the loss is made of is how far the smooth ones are off.
    keys = (kept <= 0).astype(jnp.int32), -worth, -lax.stop_gradient(scores)
    *_, order = lax.sort((*keys, numbered(scores)), num_keys=3)
    scores, worth, kept = (jnp.take_along_axis(x, order, axis=-1) for x in (scores, worth, kept))
    place = _ranking.ranks(scores)
    worth = divide(worth, jnp.sum(worth * _ranking.discounts(place), axis=-1, keepdims=True))

    def off(first, second):
        ahead, behind = _numerics.sigmoid_pair(_gap(first, second, tau))
        below = jnp.where(second["place"] > first["place"], ahead, 0)
        return second["exists"] * jnp.where(second["place"] < first["place"], -behind, below)

    exists = (kept > 0).astype(scores.dtype)
    lost = _ranking.sum_of_each(off, {"scores": scores, "place": place, "exists": exists}, tile)
    lost = jnp.maximum(lost, 1.0 - place)
    terms = worth * _discount_lost(place, lost)
    loss = jnp.sum(jnp.where(kept > 0, terms, 0), axis=-1)
    loss = loss - lax.stop_gradient(jnp.minimum(loss, 0.0))  # what rounding may take from 0
    return reduce(known * loss, jnp.any(kept != 0, axis=-1), None, reduction)


def _numbered(scores: jax.Array, kept: jax.Array) -> dict[str, jax.Array]:
    return {"scores": scores, "index": _ranking.ranks(scores), "exists": (kept > 0).astype(scores.dtype)}


def approx_mrr(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    temperature: ArrayLike = 0.1,
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus the reciprocal rank of the first relevant item, with smooth places.

    .. math:: 1 - \max_{i:\, y_i > 0} \frac 1 {r_i}, \qquad r_i = 1 + \sum_{j \ne i} \sigma\big((s_j - s_i) / \tau\big)

    For one answer that has to be first: only the relevant item that is nearest to the top is trained, so with several
    use `approx_ndcg`. A list with nothing relevant costs 0. Rax' `approx_t12n(mrr_metric)` is this minus 1 at a
    temperature of 1. A weight above 0 says that an item is there, no more.

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`; above 0 is relevant.
      temperature: Difference of scores that counts as a step of rank, in units of the scores; positive.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `tile` is no int.
      ValueError: if shapes differ, a known relevance is NaN or `temperature` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> approx_mrr(jnp.zeros(3), jnp.array([1, 0, 0])).item()  # 1 - 1 / (1 + 1/2 + 1/2)
      0.5

    Reference:
      Qin, Liu and Li, *A general approximation framework for direct optimization of information retrieval measures*,
      2010; Voorhees, *The TREC-8 question answering track report*, 1999.
    """
    _checked(temperature, tile)
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights)
    tau = _ranking.of_lists(masked(None, scores, temperature)[1])

    def above(first, second):
        ahead, _ = _numerics.sigmoid_pair(_gap(first, second, tau))
        return second["exists"] * jnp.where(first["index"] == second["index"], 0, ahead)

    lost = _ranking.sum_of_each(above, _numbered(scores, kept), tile)
    relevant = (relevances > 0) & (kept > 0)
    found = jnp.any(relevant, axis=-1)
    least = jnp.min(jnp.where(relevant, lost, jnp.inf), axis=-1, initial=jnp.inf)
    least = jnp.where(found, least, 0)
    return reduce(known * (least / (1.0 + least)), jnp.any(kept != 0, axis=-1), None, reduction)


def approximate_metric(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    metric: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    step: Literal["sigmoid", "hinge"] = "sigmoid",
    temperature: ArrayLike = 0.1,
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Minus any metric of places, with smooth places, or with places that are bounds.

    .. math:: -M(r, y, w), \qquad r_i = 1 + \sum_{j \ne i} h\big((s_j - s_i) / \tau\big)

    The step h is :math:`\sigma(x)`, or the hinge :math:`(1 + x)_+`, which is never below the true step: r is then
    never below the place, and the loss never below minus the metric if that falls with the places. These are rax'
    `approx_t12n` and `bound_t12n`, at a temperature of 1, as one function.

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`.
      metric: From places, relevances and weights `[n]` of one list to a number that is to be large. Items that are not
        there have a weight of 0 (and a finite place): multiply by the weights.
      step: What an item adds to the place of another, `"sigmoid"` or `"hinge"`.
      temperature: Difference of scores that counts as a step of rank, in units of the scores; positive.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `scores` are not floating point, `metric` cannot be called or `tile` is no int.
      ValueError: if shapes differ, a known relevance is NaN, `step` is unknown or `temperature` is not positive.

    Example:
      Rank-biased precision, whose reader goes on to the next place with a probability of one half:

      >>> import jax.numpy as jnp
      >>> rbp = lambda places, relevances, weights: jnp.sum(weights * relevances * 0.5**places)
      >>> approximate_metric(jnp.zeros(3), jnp.array([1, 0, 0]), metric=rbp).item()  # at place 2
      -0.25

    Reference:
      Qin, Liu and Li, *A general approximation framework for direct optimization of information retrieval measures*,
      2010; Jagerman et al., *On optimizing top-K metrics for neural ranking models*, 2022.
    """
    _checked(temperature, tile)
    _check.choice(("sigmoid", "hinge"), step=step)
    if not callable(metric):
        raise TypeError(f"metric must be a function of places, relevances and weights, got {metric!r}")
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights)
    tau = _ranking.of_lists(masked(None, scores, temperature)[1])

    def above(first, second):
        gap = _gap(first, second, tau)
        ahead = _numerics.sigmoid_pair(gap)[0] if step == "sigmoid" else positive_part(1.0 + gap)
        return second["exists"] * jnp.where(first["index"] == second["index"], 0, ahead)

    places = 1.0 + _ranking.sum_of_each(above, _numbered(scores, kept), tile)
    there = jnp.any(kept != 0, axis=-1, keepdims=True)
    weight = jnp.where(there, kept, 1)  # a metric of nothing may divide by 0
    values = jnp.vectorize(metric, signature="(n),(n),(n)->()")(places, relevances.astype(scores.dtype), weight)
    return reduce(-known * values, there[..., 0], None, reduction)
