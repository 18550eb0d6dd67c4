"""Ordered classes told apart by thresholds: one unit per item."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _double, _numerics
from lossax._numerics import exp_difference, positive_part, sigmoid_pair
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _ranked(where: Any, labels: jax.Array, classes: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Labels after the mask, and a factor of 1 for each unit: NaN where a traced label names no class."""
    (labels,) = masked(where, labels)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    return labels, jnp.where(_check.labels(labels, classes), jnp.ones((), dtype), jnp.nan)


def _of_thresholds(count: int, rank: int, dtype: Any, **arrays: Any) -> jax.Array:
    """The array, which has one entry for each threshold, in the dtype and rank of the rows."""
    ((name, array),) = arrays.items()
    _check.real(**arrays)
    shape, _ = _check.spec(array)
    if shape != (count,):
        raise ValueError(f"{name} must be [{count}], one for each threshold, got {list(shape)}")
    return jnp.asarray(array).astype(dtype).reshape((1,) * (rank - 1) + shape)


def _passed(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Place of each threshold, and whether the label is above it."""
    places = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    return places, labels[..., None] > places


def _binary(logits: jax.Array, above: jax.Array) -> jax.Array:
    """Cross-entropy of each yes or no."""
    one = jnp.ones((), logits.dtype)
    return _numerics.binary_cross_entropy(logits, above.astype(logits.dtype), one, 0.0 * one)


def coral(
    logits: jax.Array,
    labels: jax.Array,
    *,
    threshold_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One binary cross-entropy for each threshold between ordered classes: whether the label is above it.

    .. math:: -\sum_k \lambda_k \big([y > k] \log \sigma(z_k) + [y \le k] \log \sigma(-z_k)\big), \qquad
        k = 0, \dots, K - 2

    For grades, ages, stages of a disease. The estimates are ranked where the thresholds share one score and differ in
    a bias, `logits = scores[..., None] + biases`, which is CORAL; with free logits the loss is that of Niu et al., and
    neighbouring answers may contradict each other, as they cannot in `corn`. Decode with
    `activations.ordinal_probabilities` or `ordinal_labels`. The same numbers as `coral_pytorch.losses.coral_loss`,
    whose `importance_weights` are `threshold_weights`.

    Args:
      logits: Log-odds of being above each threshold, float `[..., classes - 1]`.
      labels: True classes in their order, integer `[...]`, in [0, classes).
      threshold_weights: Weight of each threshold, real `[classes - 1]`; `None` is 1.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative for nonnegative weights.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit or a known label names no class.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[3.0, 1.0]]))  # above the first at 3 to 1, above the second at 1 to 1
      >>> round(coral(logits, jnp.array([1])).item(), 4)  # -log(3/4) - log(1/2)
      0.9808

    Reference:
      Cao, Mirjalili and Raschka, *Rank consistent ordinal regression for neural networks with application to age
      estimation*, 2020; Niu et al., *Ordinal regression with multiple output CNN for age estimation*, 2016.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    (logits,) = masked(where, logits, event=1)
    labels, known = _ranked(where, labels, logits.shape[-1] + 1, logits.dtype)
    _, above = _passed(logits, labels)
    terms = _binary(logits, above)
    if threshold_weights is not None:
        terms = terms * _of_thresholds(logits.shape[-1], logits.ndim, logits.dtype, threshold_weights=threshold_weights)
    return reduce(known * jnp.sum(terms, axis=-1), where, weights, reduction)


def corn(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of climbing the classes one by one, each step a conditional yes or no.

    .. math:: -\sum_{k < y} \log \sigma(z_k) - [y < K - 1] \log \sigma(-z_y), \qquad
        \sigma(z_k) = P(Y > k \mid Y \ge k)

    Ordered classes with free logits: whatever they are, the probabilities of being above each threshold fall, where
    those of `coral` need a shared score for that. Steps that the label never came to are not asked about. Decode with
    `activations.ordinal_probabilities(form="conditional")`. It is the continuation-ratio model, and the discrete-time
    hazard model of survival analysis without censoring.

    The value of a unit is -log P(Y = y), and the mean is over units. `coral_pytorch.losses.corn_loss` divides the same
    sum by the number of steps asked about: `reduction="sum"`, over the sum of `minimum(labels + 1, classes - 1)`.

    Args:
      logits: Log-odds of going on from each class but the last, float `[..., classes - 1]`.
      labels: True classes in their order, integer `[...]`, in [0, classes).
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit or a known label names no class.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[3.0, 1.0]]))  # P = 1/4, 3/4 * 1/2, 3/4 * 1/2
      >>> round(corn(logits, jnp.array([2])).item(), 4)  # -log(3/8)
      0.9808

    Reference:
      Shi, Cao and Raschka, *Deep neural networks for rank-consistent ordinal regression based on conditional
      probabilities*, 2021.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    (logits,) = masked(where, logits, event=1)
    labels, known = _ranked(where, labels, logits.shape[-1] + 1, logits.dtype)
    places, above = _passed(logits, labels)
    asked = places <= labels[..., None]
    terms = jnp.where(asked, _binary(logits, above), 0)
    return reduce(known * jnp.sum(terms, axis=-1), where, weights, reduction)


def _softplus_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """log(1 + exp(a - b))."""
    return positive_part(a - b) + jnp.log1p(exp_difference(jnp.minimum(a, b), jnp.maximum(a, b)))


def _minus_log1mexp(gap: jax.Array) -> jax.Array:
    """-log(1 - exp(-gap)) for a positive gap."""
    small = gap < 0.6931471805599453
    near = -jnp.log(-jnp.expm1(-jnp.where(small, gap, 1)))
    return jnp.where(small, near, -jnp.log1p(-jnp.exp(-jnp.where(small, 1, gap))))


@jax.custom_jvp
def _interval_surprise(x: jax.Array, low: jax.Array, high: jax.Array, first: jax.Array, last: jax.Array) -> jax.Array:
    """-log(sigmoid(high - x) - sigmoid(low - x)) as a sum without signs; `first` has no low and `last` no high."""
    zero = jnp.zeros_like(x)
    gap = jnp.where(first | last, 1, high - low)
    inner = jnp.where(first | last, zero, _minus_log1mexp(gap))
    above = jnp.where(last, zero, _softplus_difference(x, high))
    return above + jnp.where(first, zero, _softplus_difference(low, x)) + inner


@_interval_surprise.defjvp
def _(primals, tangents):
    x, low, high, first, last = primals
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    (u, u_low), (v, v_low) = _double.add(x, -high), _double.add(low, -x)
    above, below = jnp.where(last, zero, sigmoid_pair(u)[0]), jnp.where(first, zero, sigmoid_pair(v)[0])
    # The difference of the two, where they are close: between its thresholds the slope passes through 0.
    lead, rest = _double.add(u, -v)
    lead = lead + (rest + (u_low - v_low))
    share = sigmoid_pair(jnp.maximum(u, v))[0] * sigmoid_pair(jnp.minimum(u, v))[1]
    inner = share * (jnp.tanh(0.5 * lead) * (1.0 + jnp.exp(-jnp.abs(lead))))
    by_x = jnp.where(first | last, above - below, inner)
    gap = jnp.where(first | last, one, high - low)
    squeeze = jnp.where(first | last, zero, jnp.exp(-gap) / -jnp.expm1(-gap))
    slopes = by_x * tangents[0] + (below + squeeze) * tangents[1] - (above + squeeze) * tangents[2]
    return _interval_surprise(*primals), slopes


def proportional_odds(
    predictions: jax.Array,
    labels: jax.Array,
    *,
    thresholds: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of an ordered class: a score that falls between two thresholds, with logistic noise.

    .. math:: -\log\big(\sigma(t_y - x) - \sigma(t_{y - 1} - x)\big), \qquad t_{-1} = -\infty,\ t_{K - 1} = \infty

    The ordered logit of statistics, whose single score reads as severity or quality and whose thresholds say where one
    class ends; all digits are kept where the class is certain, hopeless or narrow. With `coral` the same model is
    trained by another loss. The thresholds are parameters to learn, and gradients reach them; a vector that increases
    whatever is learned is `jnp.cumsum(jnp.concatenate([first, jax.nn.softplus(rest)]))`. Decode with
    `activations.ordinal_probabilities(predictions[..., None] - thresholds)`. The same numbers as
    `statsmodels`' `OrderedModel(distr="logit")`, whose coefficients and thresholds have these signs.

    Args:
      predictions: Scores x, float `[...]`; higher is a higher class.
      labels: True classes in their order, integer `[...]`, in [0, classes).
      thresholds: Score at which each class ends, but the last, float `[classes - 1]`, increasing.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative. NaN at a class whose traced thresholds are in the wrong order.

    Raises:
      TypeError: if `predictions` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or known thresholds do not increase.

    Example:
      >>> import jax.numpy as jnp
      >>> thresholds = jnp.log(jnp.array([1.0, 3.0]))  # P = 1/2, 3/4 - 1/2, 1/4
      >>> round(proportional_odds(jnp.array([0.0]), jnp.array([1]), thresholds=thresholds).item(), 4)  # log 4
      1.3863

    Reference:
      McCullagh, *Regression models for ordinal data*, 1980.
    """
    _check.floating(predictions=predictions)
    _check.integer(labels=labels)
    _check.same_shape(predictions=predictions, labels=labels)
    _check.increasing(1, thresholds=thresholds)
    (x,) = masked(where, predictions)
    classes = _check.spec(thresholds)[0][0] + 1
    labels, known = _ranked(where, labels, classes, x.dtype)
    ends = _of_thresholds(classes - 1, x.ndim + 1, x.dtype, thresholds=thresholds)
    places = jax.lax.broadcasted_iota(labels.dtype, (*x.shape, classes - 1), x.ndim)
    of_label = labels[..., None]
    low = jnp.sum(jnp.where(places == of_label - 1, ends, 0), axis=-1)
    high = jnp.sum(jnp.where(places == of_label, ends, 0), axis=-1)
    loss = _interval_surprise(x, low, high, labels == 0, labels == classes - 1)
    return reduce(known * loss, where, weights, reduction)
