"""Areas under curves: the n elements of a set are ranked against each other, one set is one unit."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _double, _excess, _numerics
from lossax._numerics import divide, positive_part
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import numbered, whole
from lossax._types import Reduction


def _sides(
    logits: jax.Array, targets: jax.Array, where: Any, weights: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Logits after the mask, the weight of each element as a positive and as a negative, whether a set has both."""
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.same_shape(logits=logits, targets=targets)
    _check.units_of({"logits": logits})
    logits, targets, where, weights = whole((logits, targets, where, weights), 1)
    logits, targets = masked(where, logits, targets)
    targets = _check.domain("in [0, 1]", lambda t: (t >= 0) & (t <= 1), targets=targets)
    kept = unit_weights(logits.shape, where, weights, dtype=logits.dtype)
    positive, negative = kept * targets, kept * (1.0 - targets)
    return logits, positive, negative, (jnp.sum(positive, axis=-1) != 0) & (jnp.sum(negative, axis=-1) != 0)


def _shares(weights: jax.Array) -> jax.Array:
    """Divided by their sum, all 0 if that is 0."""
    return divide(weights, jnp.sum(weights, axis=-1, keepdims=True))


def auc_squared_hinge(
    logits: jax.Array,
    targets: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared hinge of every pair of a positive and a negative: trains the area under the ROC curve.

    .. math:: \frac{\sum_{ij} t_i\,(1 - t_j)\,(m - z_i + z_j)_+^2}{\sum_{ij} t_i\,(1 - t_j)}

    For rare positives where what counts is their rank and not their probability: the loss does not see how many
    negatives there are, and its outputs are not calibrated. Batches must hold both classes; a set with one class only
    is 0 and left out of the mean. `auc_margin` is cheaper; `average_precision` looks at the top of the ranking alone.

    One sort, O(n log n) time and O(n) memory for all n^2 pairs, exact: sums are carried from element to element by
    steps of one sign, so value and gradient keep all but the last digits of float32 wherever the logits are.

    Args:
      logits: Scores, float `[..., n]`.
      targets: Whether each is a positive, bool or real `[..., n]`, in [0, 1]; between them an element is part of each.
      margin: Lead of a positive that is enough, in units of the logits; positive.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1] or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> auc_squared_hinge(jnp.array([2.0, 1.5, 3.0]), jnp.array([True, False, False])).item()  # (0.5^2 + 2^2) / 2
      2.125

    Reference:
      Gao et al., *One-pass AUC optimization*, 2013; Rust and Hocking, *A log-linear gradient descent algorithm for
      unbalanced binary classification using the all pairs squared hinge loss*, 2023 (sorting).
    """
    logits, positive, negative, both = _sides(logits, targets, where, weights)
    _check.positive(margin=margin)
    _, margin = masked(None, logits, margin)
    ahead, lost = _double.add(logits, jnp.broadcast_to(margin, logits.shape))  # a margin counts next to 1e30 too
    zero = jnp.zeros_like(logits)
    high = jnp.concatenate([logits, ahead], axis=-1)
    low = jnp.concatenate([zero, lost], axis=-1)
    index = numbered(high)
    keys = lax.stop_gradient((-high, -low))
    *_, order = lax.sort((*keys, index), dimension=-1, num_keys=2)
    sides = (
        jnp.concatenate([_shares(positive), zero], axis=-1),
        jnp.concatenate([zero, _shares(negative)], axis=-1),
    )
    placed = (jnp.take_along_axis(x, order, axis=-1) for x in (high, lax.stop_gradient(low), *sides))
    return reduce(_excess.excess(index == 0, *placed, 2), both, None, reduction)


def _mean_and_variance(
    logits: jax.Array, shares: jax.Array, exists: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An element of the class, how far the mean is from it, and the variance."""
    place = jnp.argmax(shares, axis=-1, keepdims=True)
    pivot = lax.stop_gradient(jnp.take_along_axis(logits, place, axis=-1))
    away = jnp.where(exists, _excess.finite(logits - pivot), 0)
    mean = _excess.finite(jnp.sum(shares * away, axis=-1, keepdims=True))
    spread = jnp.where(exists, _excess.finite(away - mean), 0)
    return pivot[..., 0], mean[..., 0], jnp.sum(shares * spread * spread, axis=-1)


def auc_margin(
    logits: jax.Array,
    targets: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""The min-max margin loss of the area under the ROC curve: classes apart in the mean, and each held together.

    .. math:: V_+ + V_- + \big(m - (\mu_+ - \mu_-)\big)_+^2

    with mean and variance of the logits of each class. It is `auc_squared_hinge` with one hinge around the mean lead in
    place of one around each, so pairs that are far ahead pull back by the variance alone, and it takes O(n). Use it on
    bounded scores such as `jax.nn.sigmoid(z)`, as the paper does. A set with one class only is 0 and left out of the
    mean.

    Yuan et al. train it as a saddle point in a, b and alpha, so that batches too small for their own means will do;
    these are its solutions in a batch: a and b the means, alpha the hinge. LibAUC's `AUCMLoss` at them is p (1 - p)
    times this, with p the share of positives.

    Args:
      logits: Scores, float `[..., n]`.
      targets: Whether each is a positive, bool or real `[..., n]`, in [0, 1]; between them an element is part of each.
      margin: Lead of the mean positive that is enough, in units of the logits; positive.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1] or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> auc_margin(jnp.array([0.5, 0.0, 1.0]), jnp.array([True, False, False])).item()  # 0 + 1/4 + 1
      1.25

    Reference:
      Ying, Wen and Lyu, *Stochastic online AUC maximization*, 2016; Yuan et al., *Large-scale robust deep AUC
      maximization: a new surrogate loss and empirical studies on medical image classification*, 2021.
    """
    logits, positive, negative, both = _sides(logits, targets, where, weights)
    _check.positive(margin=margin)
    _, margin = masked(None, logits, margin)
    if logits.size == 0:
        return reduce(jnp.sum(logits, axis=-1), both, None, reduction)
    margin = jnp.broadcast_to(margin[..., 0] if margin.ndim else margin, logits.shape[:-1])
    exists = unit_weights(logits.shape, where) > 0
    pivot, mean, variance = _mean_and_variance(logits, _shares(positive), exists)
    other_pivot, other_mean, other_variance = _mean_and_variance(logits, _shares(negative), exists)
    short = positive_part((margin - _excess.finite(pivot - other_pivot)) - (mean - other_mean))
    return reduce(variance + other_variance + short * short, both, None, reduction)


def average_precision(
    logits: jax.Array,
    targets: jax.Array,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus average precision, with smooth ranks: trains the area under the precision-recall curve.

    .. math:: 1 - \frac{1}{\sum_i t_i} \sum_i t_i\,
        \frac{1 + \sum_{j \ne i} t_j\,\sigma_{ij}}{1 + \sum_{j \ne i} \sigma_{ij}}, \qquad
        \sigma_{ij} = \sigma\big((z_j - z_i) / \tau\big)

    For search, retrieval and rare positives, where a negative at the top costs more than one in the middle; next to it
    `auc_squared_hinge` weighs all ranks alike. As the temperature falls it tends to the metric, and its gradient to 0.
    A set with one class only is 0 and left out of the mean.

    Smooth-AP has a temperature of 0.01 for cosine similarities; logits are spread wider. SOAP replaces the batch's
    ranks by moving averages for each positive, which matters where a batch holds few. Work is O(n^2) by nature; rows
    are evaluated in blocks and again for the gradient, so memory is O(n).

    Args:
      logits: Scores, float `[..., n]`.
      targets: Whether each is a positive, bool or real `[..., n]`, in [0, 1]; between them an element is part of each.
      temperature: Difference of scores that counts as a step of rank, in units of the logits; positive.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1] or `temperature` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = average_precision(jnp.zeros(3), jnp.array([True, False, False]))
      >>> loss.item()  # 1 - 1 / (1 + 2 / 2)
      0.5

    Reference:
      Brown et al., *Smooth-AP: smoothing the path towards large-scale image retrieval*, 2020; Qi et al., *Stochastic
      optimization of areas under precision-recall curves with provable convergence*, 2021 (SOAP).
    """
    logits, positive, negative, both = _sides(logits, targets, where, weights)
    _check.positive(temperature=temperature)
    _, temperature = masked(None, logits, temperature)
    if logits.size == 0:
        return reduce(jnp.sum(logits, axis=-1), both, None, reduction)
    # Copies of an element, and the halves of a soft one, count as its neighbours at the same score.
    reach = 400.0 * temperature

    @jax.checkpoint
    def miss(own):
        half = 0.5 * logits - 0.5 * own[..., None]
        ahead, _ = _numerics.sigmoid_pair(jnp.clip(half, -reach, reach) * 2.0 / temperature)
        wrong = jnp.sum(negative * ahead, axis=-1)
        return wrong / (0.5 + (wrong + jnp.sum(positive * ahead, axis=-1)))

    block = max(1, min(logits.shape[-1], 2**20 // max(logits.size, 1)))
    misses = lax.map(miss, jnp.moveaxis(logits, -1, 0), batch_size=block)
    return reduce(jnp.sum(_shares(positive) * jnp.moveaxis(misses, 0, -1), axis=-1), both, None, reduction)
