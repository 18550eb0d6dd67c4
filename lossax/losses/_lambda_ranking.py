"""Ranking by pairs that are weighted by what they mean to a metric: one unit per list `[..., n]`."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _numerics, _ranking, _running
from lossax._numerics import absolute, divide, positive_part, scaled
from lossax._reduction import masked, reduce
from lossax._types import Reduction

Weighting = Literal["ndcg", "ndcg1", "ndcg2", "ndcg2++", "precision", "relevance"]


def _swapped(values: jax.Array, new: jax.Array, start: jax.Array, end: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean of falling `values` of places over items of one score, and by how much those of two of them differ."""
    place = _ranking.ranks(values) - 1.0 - start.astype(values.dtype)
    size = (end - start).astype(values.dtype)
    total, tilted = _running.group_sums(new, end, values, (size - 1.0 - 2.0 * place) * values)
    return total / size, divide(2.0 * tilted, size * (size - 1.0))


def _lambdas(weighting: str, first: Any, second: Any, mu: jax.Array, topn: int | None) -> jax.Array:
    """The weight of each pair."""
    worth = absolute(first["worth"] - second["worth"])
    if weighting == "relevance":
        return worth
    if weighting == "ndcg1":
        return jnp.where(first["index"] == second["index"], 0.0, first["worth"] * first["discount"])
    tied = first["scores"] == second["scores"]
    swap = jnp.where(tied, first["apart"], absolute(first["discount"] - second["discount"]))
    if weighting in ("ndcg", "precision"):
        return worth * swap
    # Two places among m are (m + 1) / 3 apart, on average.
    distance = jnp.maximum(jnp.where(tied, first["far"], absolute(first["rank"] - second["rank"])), 1.0)
    loss = _ranking.discounts(distance) - _ranking.discounts(distance + 1.0)
    if topn is not None:
        lower = jnp.maximum(first["rank"], second["rank"])
        loss = loss * jnp.where(lower > topn, 1.0 / (1.0 - _ranking.discounts(jnp.maximum(lower, 2.0))), 1.0)
    return worth * (loss if weighting == "ndcg2" else swap + mu * loss)


def lambdarank(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    weighting: Weighting = "ndcg",
    mu: ArrayLike = 10.0,
    topn: int | None = None,
    gain: _ranking.Gain = "exponential",
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Logistic loss of pairs, each weighted by what it means to a metric: LambdaRank and LambdaLoss.

    .. math:: \sum_{y_i > y_j} \lambda_{ij} \log_2\big(1 + e^{-(s_i - s_j)}\big)

    For graded relevance where the top of the list is what counts. With :math:`G_i` the gain over the largest DCG of the
    list, :math:`D(k) = 1 / \log_2(1 + k)`, places :math:`r_i` by the present scores and
    :math:`\delta_{ij} = D(|r_i - r_j|) - D(|r_i - r_j| + 1)`, the weights are

    - `"ndcg"`: :math:`|G_i - G_j|\,|D(r_i) - D(r_j)|`, what NDCG changes by when the two are swapped (LambdaRank).
    - `"ndcg1"`: :math:`G_i D(r_i)`, for all j: the looser bound of 1 - NDCG (NDCG-Loss1).
    - `"ndcg2"`: :math:`|G_i - G_j|\,\delta_{ij}`: the tighter bound (NDCG-Loss2).
    - `"ndcg2++"`: `"ndcg"` + `mu` * `"ndcg2"`, which did best in the paper.
    - `"precision"`: what precision at `topn` changes by, of items with relevance above 0.
    - `"relevance"`: :math:`|y_i - y_j|`, the bound of the average relevance position (ARP-Loss2).

    Weights have no gradient. Items of one score have no order yet: they take the mean over all their orders (mean
    distance for delta), so that a network that begins with equal scores learns, where an order by index would teach it
    the order of the data. Places and gains count items, whatever their weights; those multiply pairs as in
    `pairwise_logistic`, whose propensities hold here too.

    It is a sum over pairs, as the weights are shares of a metric. Rax' `pairwise_logistic_loss` with
    `dcg_lambdaweight(normalize=True)` is the mean over pairs, times the length of the list, of `"ndcg"` with the
    natural logarithm; `dcg2_lambdaweight` the same of `"ndcg2"`. All pairs are evaluated in blocks of rows.

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`, nonnegative.
      weighting: What a pair means, one of the above.
      mu: Weight of delta in `"ndcg2++"`, nonnegative.
      topn: Places that the metric looks at; all if None. For `"ndcg2"` pairs beyond it grow by 1 / (1 - D(r)) at their
        lower place r instead, which bounds the truncated metric; `"ndcg1"` and `"relevance"` look at all.
      gain: What an item of relevance y is worth: `"exponential"` for 2^y - 1, or `"linear"` for y.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `scores` are not floating point or `topn` or `tile` is no int.
      ValueError: if shapes differ, a known relevance or `mu` is negative, `weighting` or `gain` is unknown, or `topn`
        is missing for `"precision"` or given where it means nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = lambdarank(jnp.zeros(2), jnp.array([1, 0]))  # to be second instead of first: 1 - 1 / log2(3)
      >>> round(loss.item(), 4)
      0.3691

    Reference:
      Burges, *From RankNet to LambdaRank to LambdaMART: an overview*, 2010; Wang et al., *The LambdaLoss framework for
      ranking metric optimization*, 2018; Jagerman et al., *On optimizing top-K metrics for neural ranking models*,
      2022.
    """
    choices = ("ndcg", "ndcg1", "ndcg2", "ndcg2++", "precision", "relevance")
    _check.choice(choices, weighting=weighting)
    _check.choice(("exponential", "linear"), gain=gain)
    _check.nonnegative(mu=mu)
    for name, value in (("topn", topn), ("tile", tile)):
        if value is not None:
            _check.count(**{name: value})
    if (topn is None and weighting == "precision") or (topn is not None and weighting in ("ndcg1", "relevance")):
        raise ValueError(f"topn is {topn}, which means nothing for weighting={weighting!r}")
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights, nonnegative=True)
    exists = kept > 0
    new, start, end, scores, relevances, kept = _ranking.in_order(scores, exists, scores, relevances, kept)
    items = {"scores": scores, "relevances": relevances, "weights": kept}
    if weighting == "precision" and topn is not None:
        items["worth"] = (relevances > 0).astype(kept.dtype)
        values = jnp.where(_ranking.ranks(scores) <= topn, 1.0 / topn, 0)
    else:
        worth = relevances if weighting == "relevance" else _ranking.gains(relevances, gain)
        worth = jnp.where(kept > 0, worth, 0)
        best = _ranking.ideal(worth, topn)[..., None]
        items["worth"] = worth if weighting == "relevance" else divide(worth, best)
        values = _ranking.discounts(_ranking.ranks(scores), topn)
    items["discount"], items["apart"] = _swapped(values, new, start, end)
    items["rank"] = 0.5 * (start + end + 1).astype(kept.dtype)
    items["far"] = (end - start + 1).astype(kept.dtype) / 3.0
    items["index"] = _ranking.ranks(scores)
    items = {name: x if name in ("scores", "weights") else lax.stop_gradient(x) for name, x in items.items()}
    mu = _ranking.of_lists(masked(None, scores, mu)[1])

    def pairs(first, second):
        surprise = _ranking.softplus(second["scores"] - first["scores"]) * (1.0 / 0.6931471805599453)
        lambdas = _lambdas(weighting, first, second, mu, topn) * (first["weights"] * second["weights"])
        if weighting != "ndcg1":
            lambdas = jnp.where(first["relevances"] > second["relevances"], lambdas, 0)
        return scaled(lambdas, surprise)

    total = _ranking.sum_of_pairs(pairs, items, tile)
    return reduce(known * total, jnp.any(kept != 0, axis=-1), None, reduction)


def warp(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Hinge of pairs, weighted by the place of the more relevant item: WARP, as it is on average.

    .. math:: \operatorname*{mean}_i\ \frac{H_{k_i}}{k_i} \sum_{y_j < y_i} (m - s_i + s_j)_+, \qquad
        k_i = \#\{j: y_j < y_i,\ s_i - s_j < m\}, \quad H_k = 1 + \tfrac 1 2 + \dots + \tfrac 1 k

    For recommendations where the first places count: how far an item is down costs the harmonic number of its place,
    so the first step up is worth the most. Weston et al. draw irrelevant items until one violates the margin, and
    estimate the place from the number of draws: that is for items that do not fit in a list, and an estimate of this.
    The mean is over items that something is less relevant than; grades work like two. The place has no gradient, and
    where it changes the loss jumps.

    Weights of a more and a less relevant item multiply, and places count weights, so that a weight of 2 is an item
    twice; for propensities see `pairwise_logistic`. All pairs are evaluated in blocks of rows.

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`; only their order matters.
      margin: Lead that is enough, in units of the scores; positive.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `scores` are not floating point or `tile` is no int.
      ValueError: if shapes differ, a known relevance is NaN or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> warp(jnp.array([2.0, 1.5, 3.0]), jnp.array([1, 0, 0])).item()  # (1 + 1/2) / 2 * (0.5 + 2)
      1.875

    Reference:
      Weston, Bengio and Usunier, *WSABIE: scaling up to large vocabulary image annotation*, 2011; Usunier, Buffoni and
      Gallinari, *Ranking with ordered weighted pairwise classification*, 2009.
    """
    _check.positive(margin=margin)
    if tile is not None:
        _check.count(tile=tile)
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights)
    margin = _ranking.of_lists(masked(None, scores, margin)[1])

    def pairs(first, second):
        lower = jnp.where(first["relevances"] > second["relevances"], second["weights"], 0.0)
        short = positive_part(margin + (second["scores"] - first["scores"]))
        return lower, jnp.where(short > 0, lower, 0.0), scaled(lower, short)

    items = {"scores": scores, "relevances": relevances, "weights": kept}
    lower, violations, short = _ranking.sum_of_each(pairs, items, tile)
    violations = lax.stop_gradient(violations)
    harmonic = (jnp.log(violations + 0.5) + 0.5772156649015329) + _numerics.digamma_rest(violations)
    matters = jnp.where(lower > 0, kept, 0)
    shares = divide(matters, jnp.sum(matters, axis=-1, keepdims=True))
    values = jnp.sum(scaled(shares * divide(harmonic, violations), short), axis=-1)
    return reduce(known * values, jnp.any(kept != 0, axis=-1), None, reduction)
