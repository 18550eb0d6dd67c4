"""Ranking by pairs of items of a list, of which the first is more relevant: one unit per list `[..., n]`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _double, _excess, _numerics, _ranking
from lossax._numerics import divide
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import numbered, whole
from lossax._types import Reduction


def _sigmoid(x: jax.Array) -> jax.Array:
    return _numerics.sigmoid_pair(x)[0]


def _weight_of_pairs(relevances: jax.Array, shares: jax.Array) -> jax.Array:
    """The sum of the products of shares over pairs that differ in relevance, each pair once."""
    _, _, end, shares = _ranking.in_order(relevances, shares > 0, shares)
    total = jnp.cumsum(shares[..., ::-1], axis=-1)[..., ::-1]
    lower = jnp.concatenate([total, jnp.zeros_like(total[..., :1])], axis=-1)
    return jnp.sum(shares * jnp.take_along_axis(lower, end, axis=-1), axis=-1)


def _shares(kept: jax.Array) -> jax.Array:
    return divide(kept, jnp.sum(kept, axis=-1, keepdims=True))


def _mean_of_pairs(
    f: Callable[[jax.Array], jax.Array],
    scores: Any,
    relevances: Any,
    tile: int | None,
    where: Any,
    weights: Any,
    reduction: Reduction,
) -> jax.Array:
    """`f` of how far the less relevant item is above the other one, on average."""
    if tile is not None:
        _check.count(tile=tile)
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights)
    shares = _shares(kept)

    def pairs(first, second):
        lead = f(second["scores"] - first["scores"])
        ordered = first["relevances"] > second["relevances"]
        return jnp.where(ordered, lead, 0) * (first["shares"] * second["shares"])

    total = _ranking.sum_of_pairs(pairs, {"scores": scores, "relevances": relevances, "shares": shares}, tile)
    mean = divide(total, _weight_of_pairs(relevances, shares))
    return reduce(known * mean, jnp.any(kept != 0, axis=-1), None, reduction)


def pairwise_logistic(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy of which of two items is the more relevant, over all pairs of a list that differ: RankNet.

    .. math:: \operatorname*{mean}_{y_i > y_j}\ \log\big(1 + e^{-(s_i - s_j)}\big)

    For lists where the order counts from top to bottom; `lambdarank` weighs the pairs by what they mean at the top.
    One list is one unit: the mean over its pairs, then over lists, while rax' `pairwise_logistic_loss` takes the mean
    over the pairs of the batch, where long lists outweigh all others. A list without pairs costs 0. Where the pairs are
    given (BPR, Bradley-Terry, reward models) it is `logistic(scores_of_positives - scores_of_negatives, signs)` with
    signs of 1. RankNet's sigma is a factor of the scores.

    A pair has the product of the weights of its items, so a weight of 2 is an item twice. For clicks weigh the clicked
    by their inverse propensities, `weights=jnp.where(clicks, 1.0 / jnp.maximum(propensities, 0.01), 1.0)`: what was not
    clicked has a weight of 1. All pairs are evaluated, in blocks of rows: memory is O(n).

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`; only their order matters.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `scores` are not floating point or `tile` is no int.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> scores, relevances = jnp.log(jnp.array([3.0, 1.0, 1.0])), jnp.array([2, 1, 0])
      >>> round(pairwise_logistic(scores, relevances).item(), 4)  # (log 4/3 + log 4/3 + log 2) / 3
      0.4228

    Reference:
      Burges et al., *Learning to rank using gradient descent*, 2005; Rendle et al., *BPR: Bayesian personalized ranking
      from implicit feedback*, 2009; Joachims, Swaminathan and Schnabel, *Unbiased learning-to-rank with biased
      feedback*, 2017.
    """
    return _mean_of_pairs(_ranking.softplus, scores, relevances, tile, where, weights, reduction)


def pairwise_soft_zero_one(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Share of the pairs in the wrong order, smoothed: one minus a smooth area under the curve, for any grades.

    .. math:: \operatorname*{mean}_{y_i > y_j}\ \sigma\big(-(s_i - s_j)\big)

    Bounded, so pairs that are hopelessly wrong (noise, outliers) have no pull; for the same reason it starts slowly
    from a bad order. As scores are multiplied it tends to one minus `metrics.ordered_pair_accuracy`. See
    `pairwise_logistic` for weights, means and memory.

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`; only their order matters.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `tile` is no int.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.log(jnp.array([3.0, 1.0, 1.0]))
      >>> round(pairwise_soft_zero_one(scores, jnp.array([2, 1, 0])).item(), 4)  # (1/4 + 1/4 + 1/2) / 3
      0.3333

    Reference:
      Yan et al., *Optimizing classifier performance via an approximation to the Wilcoxon-Mann-Whitney statistic*, 2003.
    """
    return _mean_of_pairs(_sigmoid, scores, relevances, tile, where, weights, reduction)


def _excess_of_pairs(
    scores: jax.Array, relevances: jax.Array, shares: jax.Array, margin: jax.Array, power: int
) -> jax.Array:
    """Sum over pairs of how much the less relevant item, and the margin, is above the other, to a power.

    Grades are numbered. Any two differ in a highest binary digit: a pass for each digit tells apart the pairs where it
    is that one, and one sort evaluates them all. Two grades take one pass, five take three.
    """
    new, _, _, scores, shares = _ranking.in_order(relevances, shares > 0, scores, shares)
    number = jnp.cumsum(new.astype(jnp.int32), axis=-1) - 1  # the most relevant are 0
    highest = jnp.max(number, initial=0)
    margin = jnp.broadcast_to(margin, scores.shape)
    index = numbered(scores)

    def apart(digit, scores, shares, margin):
        lower = (lax.shift_right_logical(number, digit) & 1) == 1
        block = lax.shift_right_logical(number, digit + 1)
        high, low = _double.add(scores, jnp.where(lower, margin, 0))
        keys = (block, *lax.stop_gradient((-high, -low)), lower.astype(jnp.int32))
        block, *_, order = lax.sort((*keys, index), num_keys=4)
        begins = jnp.concatenate([jnp.ones_like(new[..., :1]), block[..., 1:] != block[..., :-1]], axis=-1)
        nothing = jnp.zeros_like(shares)
        sides = jnp.where(lower, nothing, shares), jnp.where(lower, shares, nothing)
        placed = (jnp.take_along_axis(x, order, axis=-1) for x in (high, lax.stop_gradient(low), *sides))
        return _excess.excess(begins, *placed, power)

    @jax.checkpoint
    def add(total, digit):
        def nothing(*_):
            return jnp.zeros_like(total)

        there = lax.shift_right_logical(highest, digit) > 0
        return total + lax.cond(there, apart, nothing, digit, scores, shares, margin), None

    digits = jnp.arange((max(scores.shape[-1], 1) - 1).bit_length(), dtype=jnp.int32)
    return lax.scan(add, jnp.zeros_like(jnp.sum(scores, axis=-1)), digits)[0]


def pairwise_hinge(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    squared: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Hinge of every pair of items that differ in relevance: the ranking SVM.

    .. math:: \operatorname*{mean}_{y_i > y_j}\ \big(m - (s_i - s_j)\big)_+

    Pairs that lead by the margin are left alone, so a model is not driven apart where it is right. `squared` is
    smoother and its two-grade case is `auc_squared_hinge`. Where the pairs are given it is
    `hinge(scores_of_positives - scores_of_negatives, signs, margin=margin)` with signs of 1, and so is torch's
    `margin_ranking_loss`, whose margin is 0. See `pairwise_logistic` for weights and means.

    Exact without any pair being looked at: one sort for each binary digit of the number of grades, O(n log n) in time
    and O(n) in memory.

    Args:
      scores: Float `[..., n]`; only differences matter.
      relevances: How relevant each item is, real `[..., n]`; only their order matters.
      margin: Lead that is enough, in units of the scores; positive.
      squared: Whether hinges are squared.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `scores` are not floating point.
      ValueError: if shapes differ, a known relevance is NaN or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = pairwise_hinge(jnp.array([2.0, 1.5, 3.0]), jnp.array([2, 1, 0]))
      >>> round(loss.item(), 4)  # (0.5 + 2 + 2.5) / 3
      1.6667

    Reference:
      Joachims, *Optimizing search engines using clickthrough data*, 2002; Herbrich, Graepel and Obermayer, *Large
      margin rank boundaries for ordinal regression*, 2000.
    """
    _check.positive(margin=margin)
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights)
    _, margin_of_item = masked(None, scores, margin)
    shares = _shares(kept)
    total = _excess_of_pairs(scores, relevances, shares, margin_of_item, 2 if squared else 1)
    mean = divide(total, _weight_of_pairs(relevances, shares))
    return reduce(known * mean, jnp.any(kept != 0, axis=-1), None, reduction)


def pairwise_squared_error(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared error of all differences within a list: squared error, but for a shift of each list.

    .. math:: \frac{1}{n^2} \sum_{i, j} \big((p_i - p_j) - (y_i - y_j)\big)^2
        = 2 \operatorname{Var}_i (p_i - y_i)

    Where differences are to be right and not only orders, while every list has a level of its own: ratings of users,
    biased annotators, returns of assets on a day. Twice the variance of the errors, so O(n) where rax'
    `pairwise_mse_loss`, with the same value, holds all pairs; torch and Keras have none.

    Args:
      predictions: Float `[..., n]`; only differences matter.
      targets: True values, real `[..., n]`.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> pairwise_squared_error(jnp.array([1.0, 4.0]), jnp.array([1.0, 2.0])).item()  # (2^2 + 2^2) / 4
      2.0

    Reference:
      Eigen, Puhrsch and Fergus, *Depth map prediction from a single image using a multi-scale deep network*, 2014.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.units_of({"predictions": predictions})
    predictions, targets, where, weights = whole((predictions, targets, where, weights), 1)
    predictions, targets = masked(where, predictions, targets)
    kept = unit_weights(predictions.shape, where, weights, dtype=predictions.dtype)
    shares = _shares(kept)
    errors = predictions - targets
    some = jnp.sum(jnp.where(_first(kept), errors, 0), axis=-1, keepdims=True)
    away = jnp.where(kept > 0, errors - lax.stop_gradient(some), 0)
    spread = away - jnp.sum(shares * away, axis=-1, keepdims=True)
    return reduce(2.0 * jnp.sum(shares * spread * spread, axis=-1), jnp.any(kept != 0, axis=-1), None, reduction)


def _first(kept: jax.Array) -> jax.Array:
    """The first element of each set that exists."""
    exists = kept > 0
    return exists & (jnp.cumsum(exists.astype(jnp.int32), axis=-1) == 1)
