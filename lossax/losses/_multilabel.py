"""Several labels at once: one unit per row; the labels are the last axis."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._reduction import masked, reduce
from lossax._types import Reduction

_MOST = 170.0  # exp(170) overflows in float32, its square root does not


def _truths(requirement: str, inside: Callable[[Any], Any], targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The targets, and a factor of 1 for each unit: NaN where a traced target is outside the domain."""
    targets = _check.domain(requirement, inside, targets=targets)
    wrong = jnp.any(jnp.isnan(targets), axis=-1)
    return targets, jnp.where(wrong, jnp.nan, jnp.ones((), targets.dtype))


def _masses(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
    """exp(x) from the largest x that counts, or from 0, and the weighted sum of them and 1; then the same from 0.

    The latter, as a square root and a sum, keep the digits of a small sum; the sum is infinite where it is too large.
    """
    counts, zero = weights > 0, jnp.zeros_like(x)
    top = jnp.max(jnp.where(counts, x, zero), axis=-1, keepdims=True, initial=0.0)
    top = lax.stop_gradient(top)
    mass = jnp.exp(jnp.where(x == top, zero, x - top))
    total = jnp.exp(-top) + jnp.sum(jnp.where(counts, weights * mass, zero), axis=-1, keepdims=True)
    root = jnp.exp(0.5 * jnp.minimum(x, _MOST))
    small = jnp.sum(jnp.where(counts, (weights * root) * root, zero), axis=-1, keepdims=True)
    return top, mass, total, root, jnp.where((top <= _MOST) & (small < 1e30), small, jnp.inf * jnp.ones_like(small))


@jax.custom_jvp
def _slopes(x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Derivatives of `_log1p_sum_exp` by x and by the weights; the latter are capped at the largest number."""
    _, mass, total, root, small = _masses(x, weights)
    fits = jnp.isfinite(small)
    inverse = 1.0 / (1.0 + jnp.where(fits, small, 0))
    ratio = jnp.where(fits & (x <= _MOST), (root * inverse) * root, mass / total)
    share = jnp.where(fits, (weights * root) * (root * inverse), weights * (mass / total))
    return jnp.where(weights > 0, share, 0), jnp.minimum(ratio, jnp.finfo(x.dtype).max)


@_slopes.defjvp
def _(primals, tangents):
    share, ratio = _slopes(*primals)
    change = tangents[0] - jnp.sum(share * tangents[0] + ratio * tangents[1], axis=-1, keepdims=True)
    return (share, ratio), (share * change + ratio * tangents[1], ratio * change)


@jax.custom_jvp
def _log1p_sum_exp(x: jax.Array, weights: jax.Array) -> jax.Array:
    """log(1 + sum(weights * exp(x))) of each row, with all its digits where the sum is small too."""
    top, _, total, _, small = _masses(x, weights)
    fits = jnp.isfinite(small)
    return jnp.where(fits, jnp.log1p(jnp.where(fits, small, 0)), top + jnp.log(total))[..., 0]


@_log1p_sum_exp.defjvp
def _(primals, tangents):
    by_x, by_weights = _slopes(*primals)
    return _log1p_sum_exp(*primals), jnp.sum(by_x * tangents[0] + by_weights * tangents[1], axis=-1)


def multi_label_softmax(
    logits: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Softmax cross-entropy for any number of true labels (ZLPR): true ones above 0, all others below.

    .. math:: \log\Big(1 + \sum_j (1 - t_j)\,e^{z_j}\Big) + \log\Big(1 + \sum_j t_j\,e^{-z_j}\Big)

    For many labels of which few are true: the worst mistakes of a row have the gradient, where the sum over labels of a
    binary cross-entropy (below) is made of the many easy negatives. The labels of a row are decided together, so the
    logits are scores to compare with 0 and no log-odds. Targets between 0 and 1, by smoothing or mixup, are the paper's
    soft version. A logit of -inf is a label that does not exist.

    Args:
      logits: Scores, float `[..., labels]`.
      targets: Whether each label is true, real `[..., labels]`, in [0, 1].
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ or a known target is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import losses
      >>> logits, targets = jnp.zeros((1, 4)), jnp.array([[1, 0, 0, 0]])
      >>> round(multi_label_softmax(logits, targets).item(), 4)  # log(1 + 3) + log(1 + 1)
      2.0794
      >>> each = losses.sigmoid_binary_cross_entropy(logits, targets, reduction="none")
      >>> round(each.sum(axis=-1).mean().item(), 4)  # the other choice: 4 log 2
      2.7726

    Reference:
      Su, Zhu, Murtadha, Pan, Bo and Liu, *ZLPR: a novel loss for multi-label classification*, 2022.
    """
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.same_shape(logits=logits, targets=targets)
    _check.units_of({"logits": logits})
    logits, targets = masked(where, logits, targets, event=1)
    targets, known = _truths("in [0, 1]", lambda t: (t >= 0) & (t <= 1), targets)
    loss = _log1p_sum_exp(logits, 1.0 - targets) + _log1p_sum_exp(-logits, targets)
    return reduce(known * loss, where, weights, reduction)


def _sides(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logits of the true and of the false labels; the others are where no pair is violated."""
    far = jnp.inf * jnp.ones_like(logits)
    true = jnp.where(targets == 1, jnp.maximum(logits, jnp.finfo(logits.dtype).min), far)
    return true, jnp.where(targets == 0, logits, -far)


def _within(high: jax.Array, low: jax.Array, margin: jax.Array, zero: jax.Array) -> jax.Array:
    """By how much each pair has too small a lead, or 0. By arithmetic alone: XLA fuses it into a sum, never stored."""
    return jnp.maximum(low - high + margin, zero)


@jax.custom_jvp
def _pair_hinge(logits: jax.Array, targets: jax.Array, margin: jax.Array) -> jax.Array:
    true, false = _sides(logits, targets)
    pairs = _within(true[..., :, None], false[..., None, :], margin, jnp.zeros_like(margin))
    return jnp.sum(jnp.sum(pairs, axis=-1), axis=-1)


@_pair_hinge.defjvp
def _(primals, tangents):
    logits, targets, margin = lax.stop_gradient(primals)
    # Barriers: what is the same in two sums is broadcast to pairs once for both, and that would be stored.
    operands = lax.optimization_barrier((*_sides(logits, targets), margin, jnp.zeros_like(margin)))
    true, false, *rest = operands
    down = jnp.sum(jnp.sign(_within(true[..., :, None], false[..., None, :], *rest)), axis=-1)
    true, false, *rest = lax.optimization_barrier(operands)
    up = jnp.sum(jnp.sign(_within(true[..., None, :], false[..., :, None], *rest)), axis=-1)
    by_margin = jnp.sum(down, axis=-1)
    return _pair_hinge(*primals), jnp.sum((up - down) * tangents[0], axis=-1) + by_margin * tangents[2]


def multi_label_hinge(
    logits: jax.Array,
    targets: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""A hinge for every pair of a true and a false label: each true one has to lead each false one by a margin.

    .. math:: \sum_{i:\ t_i = 1} \sum_{j:\ t_j = 0} \max(0,\ m + z_j - z_i)

    Ranks the labels of a row and sets no threshold between them; with one true label it is `weston_watkins_hinge`.
    `multi_label_softmax` has a threshold, and takes time for each label and not for each pair of them. torch's
    `multilabel_margin_loss` is this divided by the number of labels.

    Args:
      logits: Scores, float `[..., labels]`; -inf is a label that does not exist.
      targets: Whether each label is true, real `[..., labels]`, 0 or 1.
      margin: Lead that counts as right enough, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is neither 0 nor 1 or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> logits, targets = jnp.array([[2.0, 0.5, 1.5]]), jnp.array([[1, 1, 0]])
      >>> multi_label_hinge(logits, targets).item()  # (1 + 1.5 - 2) + (1 + 1.5 - 0.5)
      2.5

    Reference:
      Elisseeff and Weston, *A kernel method for multi-labelled classification*, 2001.
    """
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.same_shape(logits=logits, targets=targets)
    _check.units_of({"logits": logits})
    _check.positive(margin=margin)
    logits, targets, margin = masked(where, logits, targets, margin, event=1)
    targets, known = _truths("0 or 1", lambda t: (t == 0) | (t == 1), targets)
    return reduce(known * _pair_hinge(logits, targets, margin), where, weights, reduction)
