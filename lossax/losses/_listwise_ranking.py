"""Ranking by the probability of a choice among the items of a list: one unit per list `[..., n]`."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _choices, _hyper, _numerics, _ranking, _running
from lossax._numerics import divide, scaled
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import whole
from lossax._types import Reduction


def _shares(relevances: jax.Array, kept: jax.Array, distribution: str) -> jax.Array:
    """The target of each item, for all its copies together."""
    relevances = relevances.astype(kept.dtype)
    if distribution == "softmax":
        top = jnp.max(jnp.where(kept > 0, relevances, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
        mass = kept * jnp.exp(jnp.minimum(relevances - jnp.where(jnp.isfinite(top), top, 0.0), 0.0))
    else:
        mass = scaled(kept, relevances)
    return mass if distribution == "none" else divide(mass, jnp.sum(mass, axis=-1, keepdims=True))


def ranking_softmax(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    distribution: Literal["none", "sum", "softmax"] = "none",
    gain: _ranking.Gain = "linear",
    epsilon: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy of the softmax over a list with its relevances: ListNet, and the first thing to try.

    .. math:: -\sum_i t_i \log p_i + \epsilon \Big(1 - \frac{\sum_i t_i\,p_i}{\sum_i t_i}\Big), \qquad
        p = \mathrm{softmax}(s)

    For lists where the top counts and clicks, choices or grades say what is relevant; it bounds NDCG and reciprocal
    rank. Targets t are the relevances (Optax' `ranking_softmax_loss`, rax' `softmax_loss`), these over their sum, or
    the softmax of them (ListNet, whose top-one probabilities are exponentials). For grades 0 to 4
    `distribution="sum", gain="exponential"` is the place to begin: all lists count alike, and the best items most. With
    `epsilon` it is poly-1 softmax, where rax has 1. A list with nothing relevant costs 0. Candidates that were sampled
    need the correction of `sampled_softmax`, the positives of the rest of a batch (two towers) that of `info_nce`.

    A weight of 2 is an item twice, in the sum over the list too. Propensities of clicks belong to the relevances:
    `relevances=clicks / jnp.maximum(propensities, 0.01)`.

    Args:
      scores: Unnormalised log-probabilities of being chosen, float `[..., n]`; -inf is an item that does not exist.
      relevances: How relevant each item is, real `[..., n]`, nonnegative (any for `"softmax"`).
      distribution: How relevances become targets, `"none"`, `"sum"` or `"softmax"`.
      gain: What an item of relevance y is worth as a target: `"linear"` for y, or `"exponential"` for 2^y - 1.
      epsilon: What is added to the coefficient 1 of the first term in 1 - p, -1 or more; 0 is cross-entropy.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative without weights.

    Raises:
      TypeError: if `scores` are not floating point.
      ValueError: if shapes differ, a known relevance is negative, `distribution` or `gain` is unknown or
        `epsilon` under -1.

    Example:
      >>> import jax.numpy as jnp
      >>> scores, relevances = jnp.log(jnp.array([2.0, 1.0, 1.0])), jnp.array([1, 0, 1])
      >>> round(ranking_softmax(scores, relevances, distribution="sum").item(), 4)  # (log 2 + log 4) / 2
      1.0397

    Reference:
      Cao et al., *Learning to rank: from pairwise approach to listwise approach*, 2007; Bruch et al., *An analysis of
      the softmax cross entropy loss for learning-to-rank with binary relevance*, 2019; Leng et al., *PolyLoss: a
      polynomial expansion perspective of classification loss functions*, 2022.
    """
    _check.choice(("none", "sum", "softmax"), distribution=distribution)
    _check.choice(("exponential", "linear"), gain=gain)
    _check.at_least(-1.0, epsilon=epsilon)
    checked = _ranking.lists(scores, relevances, where, weights, nonnegative=distribution != "softmax")
    scores, relevances, kept, known = checked
    _, epsilon_of_item = masked(None, scores, epsilon)
    exists = kept > 0
    copies = jnp.where(exists, kept, 1)
    logits = jnp.where(exists, scores + jnp.log(copies), -jnp.inf)
    targets = _shares(_ranking.gains(relevances.astype(kept.dtype), gain), kept, distribution)
    if scores.shape[-1] == 0:
        return reduce(jnp.sum(scores, axis=-1), False, None, reduction)
    loss = _numerics.cross_entropy(logits, targets)
    if weights is not None:
        loss = loss + jnp.sum(scaled(targets, jnp.log(copies)), axis=-1)
    if not _hyper.is_zero(epsilon):
        p, rest = _numerics.softmax_pair(logits)
        missed = rest + p * ((copies - 1.0) / copies)  # of one copy alone
        miss = epsilon_of_item * divide(targets, jnp.sum(targets, axis=-1, keepdims=True)) * missed
        loss = loss + jnp.sum(miss, axis=-1)
    return reduce(known * loss, jnp.any(kept != 0, axis=-1), None, reduction)


def unique_softmax(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    gain: _ranking.Gain = "exponential",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Each item chosen among itself and all that are less relevant: softmax for several grades.

    .. math:: \sum_i g(y_i) \log\Big(1 + \sum_{j:\, y_j < y_i} e^{s_j - s_i}\Big)

    Where a list has many relevant items, `ranking_softmax` lets them push each other down; here the equally and the
    more relevant are left out of the sum of each. With two grades and linear gains it is InfoNCE with the positives
    apart. One sort, O(n log n), where rax' `unique_softmax_loss` holds all pairs.

    Args:
      scores: Float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`, nonnegative.
      gain: What an item of relevance y is worth: `"exponential"` for 2^y - 1, or `"linear"` for y.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `scores` are not floating point.
      ValueError: if shapes differ, `gain` is unknown or a known relevance is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = unique_softmax(jnp.zeros(3), jnp.array([2, 1, 0]))
      >>> round(loss.item(), 4)  # 3 log 3 + log 2
      3.989

    Reference:
      Zhu and Klabjan, *Listwise learning to rank by exploring unique ratings*, 2020.
    """
    _check.choice(("exponential", "linear"), gain=gain)
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights, nonnegative=True)
    ordered = _ranking.in_order(relevances, kept > 0, scores, relevances, kept)
    _, _, end, logits, grades, copies = ordered
    top, mass = (jnp.flip(x, axis=-1) for x in _choices.exponentials(logits, copies))
    nothings = (jnp.finfo(logits.dtype).min, 0.0)
    totals = _running.running(_running.add_exponentials, (top, mass), nothings)
    top, mass = _choices.beyond([jnp.flip(x, axis=-1) for x in totals], end)
    each = _choices.surprise(mass, logits, jnp.ones_like(logits), top)
    loss = jnp.sum(scaled(copies * _ranking.gains(grades, gain), each), axis=-1)
    return reduce(known * loss, jnp.any(kept != 0, axis=-1), None, reduction)


def list_mle(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    discount: Callable[[jax.Array], jax.Array] | None = None,
    ties: Literal["efron", "breslow"] = "efron",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of the order of the relevances, when items are chosen one after the other (ListMLE).

    .. math:: -\sum_{k=1}^{n} d(k) \log \frac{e^{s_{(k)}}}{\sum_{l \ge k} e^{s_{(l)}}}, \qquad
        y_{(1)} \ge y_{(2)} \ge \dots \ge y_{(n)}

    For full orders, without much noise at the bottom: every place counts the same unless a `discount` of the places k
    is given, which makes it p-ListMLE. That of its paper is `lambda k: 2.0 ** (n - k) - 1.0`, or over its first,
    `lambda k: 2.0 ** (1.0 - k)`; `lambda k: 1 / jnp.log2(1 + k)` is milder, and `lambda k: k <= 10` is the likelihood
    of the first 10. Orders that are known only in part are for `plackett_luce`.

    Equally relevant items have no order. Peers break ties by the order of the data or at random; here they come in
    random order, on average, by Efron's approximation, or each is chosen among all its equals by Breslow's. It is Cox's
    partial likelihood without censoring, O(n log n), and keeps its digits whatever the spread of the scores.

    By Breslow a weight of 2 is an item twice, by Efron tied items share the mean of their weights.

    Args:
      scores: Log of the rates at which items are chosen, float `[..., n]`; only differences matter.
      relevances: What orders the items, the largest first, real `[..., n]`.
      discount: Weight of each place, a function of the places 1, 2, ... (as floats); tied items share it. None is 1.
      ties: How items of one relevance are counted, `"efron"` or `"breslow"`.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative without weights.

    Raises:
      TypeError: if `scores` are not floating point or `discount` cannot be called.
      ValueError: if shapes differ, `ties` is unknown or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> round(list_mle(jnp.log(jnp.array([1.0, 2.0, 1.0])), jnp.array([1, 2, 0])).item(), 4)  # log 2 + log 2
      1.3863

    Reference:
      Xia et al., *Listwise approach to learning to rank: theory and algorithm*, 2008; Lan et al., *Position-aware
      ListMLE: a sequential learning process for ranking*, 2014; Efron, *The efficiency of Cox's likelihood function for
      censored data*, 1977.
    """
    _check.choice(("efron", "breslow"), ties=ties)
    if discount is not None and not callable(discount):
        raise TypeError(f"discount must be a function of places, got {discount!r}")
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights)
    chosen = jnp.ones(scores.shape, bool)
    values = _choices.negative_log_likelihood(
        scores, -relevances, chosen, kept, efron=ties == "efron", discount=discount
    )
    return reduce(known * values, jnp.any(kept != 0, axis=-1), None, reduction)


def plackett_luce(
    scores: jax.Array,
    ranks: jax.Array,
    *,
    ties: Literal["efron", "breslow"] = "efron",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of a full or partial order under the law of Plackett and Luce.

    .. math:: -\sum_{k=1}^{K} \log \frac{e^{s_{(k)}}}{\sum_{l \ge k} e^{s_{(l)}}}

    For preferences: votes, the best few of many, completions that were ranked. An item with rank 0 was not ranked, and
    is only known to come after all that were: K may be smaller than n, and one for each list. Of two items it is the
    law of Bradley and Terry, `logistic(winners - losers, 1)`; orders by grades are for `list_mle`. Ties are those of
    `list_mle`, and so are weights. O(n log n).

    Args:
      scores: Log of the worth of items, float `[..., n]`; only differences matter.
      ranks: Place of each item, integer `[..., n]`, the best 1; 0 or less is not ranked.
      ties: How items of one rank are counted, `"efron"` or `"breslow"`.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative without weights.

    Raises:
      TypeError: if `scores` are not floating point or `ranks` not integer.
      ValueError: if shapes differ or `ties` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> round(plackett_luce(jnp.zeros(4), jnp.array([0, 2, 1, 0])).item(), 4)  # log 4 + log 3
      2.4849

      Items by number, the first choice first:

      >>> order = jnp.array([2, 1, 3, 0])
      >>> round(plackett_luce(jnp.zeros(4), jnp.argsort(order) + 1).item(), 4)  # log 4!
      3.1781

    Reference:
      Plackett, *The analysis of permutations*, 1975; Luce, *Individual choice behavior*, 1959; Bradley and Terry, *Rank
      analysis of incomplete block designs*, 1952.
    """
    _check.floating(scores=scores)
    _check.integer(ranks=ranks)
    _check.choice(("efron", "breslow"), ties=ties)
    _check.same_shape(scores=scores, ranks=ranks)
    _check.units_of({"scores": scores})
    scores, ranks, where, weights = whole((scores, ranks, where, weights), 1)
    (scores,), (ranks,) = masked(where, scores), masked(where, ranks)
    ranks = ranks.astype(jnp.int32) if ranks.dtype.itemsize < 4 else ranks
    kept = unit_weights(scores.shape, where, weights, dtype=scores.dtype)
    ranked = ranks > 0
    times = jnp.where(ranked, ranks, jnp.iinfo(ranks.dtype).max)
    values = _choices.negative_log_likelihood(scores, times, ranked, kept, efron=ties == "efron")
    return reduce(values, jnp.any(kept != 0, axis=-1), None, reduction)
