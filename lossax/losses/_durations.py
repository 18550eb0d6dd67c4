"""Times to an event that may be censored: one unit per individual."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import scaled, with_slopes
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def discrete_hazard_nll(
    logits: jax.Array,
    labels: jax.Array,
    events: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of the interval in which an event came, from the hazard of each interval.

    .. math::
      \ell = -\delta \log h_y - (1 - \delta) \log(1 - h_y) - \sum_{j < y} \log(1 - h_j), \qquad h_j = \sigma(z_j)

    For survival in discrete time (logistic hazard, Nnet-survival): customers by month, patients by visit. Each interval
    lived through is a binary cross-entropy, so hazards may cross and need not be proportional, unlike those of
    `cox_partial_likelihood`. Who was censored in an interval counts as having survived it, as in pycox; give the
    interval before if the half of it that was seen is not to count, and mask who was censored in the very first one.

    Args:
      logits: Log odds of the event in each interval for who is still there, float `[..., intervals]`; -inf is never.
      labels: Interval of the event or of the censoring, from 0, integer `[...]`.
      events: Whether the event came, bool `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point, `labels` not integer or `events` not bool.
      ValueError: if shapes do not fit or a known label is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> even, labels = jnp.zeros((2, 3)), jnp.array([1, 2])
      >>> values = discrete_hazard_nll(even, labels, jnp.array([True, False]), reduction="none")
      >>> (values / jnp.log(2.0)).tolist()  # a coin for each interval: two, and three
      [2.0, 3.0]

    Reference:
      Gensheimer and Narasimhan, *A scalable discrete-time survival model for neural networks*, 2019.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.boolean(events=events)
    _check.units_of({"logits": logits}, labels=labels, events=events)
    (logits,), (labels,) = masked(where, logits, event=1), masked(where, labels)
    valid = _check.labels(labels, logits.shape[-1])
    intervals = lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    last = intervals == labels[..., None]
    come = last & jnp.asarray(events)[..., None]
    lived = (intervals < labels[..., None]) | (last & ~come)
    signed = jnp.where(come, -logits, logits)
    seen = jnp.where(come | lived, signed, 0)
    values = jnp.sum(jnp.where(come | lived, jax.nn.softplus(seen), 0), axis=-1)
    return reduce(jnp.where(valid, values, jnp.nan), where, weights, reduction)


def _standardized(predictions, times, scales):
    return (jnp.log(times) - predictions) / scales


def _weibull_slopes(predictions, times, scales, happened):
    z = _standardized(predictions, times, scales)
    hazard = jnp.exp(z)
    excess = jnp.where(happened > 0, jnp.expm1(z), hazard)  # cumulative hazard less the event itself
    by_scales = happened - scaled(excess, z)
    return -excess / scales, (happened + excess / scales) / times, by_scales / scales, jnp.zeros_like(z)


@with_slopes(_weibull_slopes)
def _weibull(predictions, times, scales, happened):
    z = _standardized(predictions, times, scales)
    return jnp.exp(z) + scaled(happened, jnp.log(scales) + jnp.log(times) - z)


def weibull_aft_nll(
    predictions: jax.Array,
    times: jax.Array,
    events: jax.Array,
    scales: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of times under Weibull's law, some of them censored: accelerated failure time.

    .. math::
      \ell = e^z + \delta\,(\log s + \log t - z), \qquad z = \frac{\log t - \hat y}{s}

    For times that scale with the features, where the time itself is wanted and not only who comes first
    (`cox_partial_likelihood`): the prediction is the logarithm of the time by which 63 percent had their event. A scale
    of 1 is the exponential law, smaller ones age, larger ones spare who lived long. The density is that of the time, as
    in R's `survreg`, lifelines' `WeibullAFTFitter` (`lambda_` is the exponential of the prediction, `rho_` one over the
    scale), SciPy's `weibull_min` and XGBoost's `survival:aft`; without log t, which no parameter changes, that of its
    logarithm.

    Args:
      predictions: Location of the logarithm of the time, float `[...]`.
      times: Time of the event or of the censoring, real `[...]`, positive.
      events: Whether the event came then, bool `[...]`; else it had not come yet.
      scales: Scales s of the logarithm of the time, float `[...]`, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `predictions` or `scales` are not floating point or `events` not bool.
      ValueError: if shapes differ or a known time or scale is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> zeros, times, ones = jnp.zeros(2), jnp.array([2.0, 3.0]), jnp.ones(2)
      >>> weibull_aft_nll(zeros, times, jnp.array([True, False]), ones, reduction="none").tolist()  # the times
      [2.0, 3.0]

    Reference:
      Kalbfleisch and Prentice, *The statistical analysis of failure time data*, 2002.
    """
    _check.floating(predictions=predictions, scales=scales)
    _check.real(times=times)
    _check.boolean(events=events)
    _check.same_shape(predictions=predictions, times=times, events=events, scales=scales)
    predictions, times, scales = masked(where, predictions, times, scales, fill=1.0)
    times = _check.domain("positive", lambda t: t > 0, times=times)
    scales = _check.domain("positive", lambda s: s > 0, scales=scales)
    values = _weibull(predictions, times, scales, jnp.asarray(events).astype(predictions.dtype))
    return reduce(values, where, weights, reduction)
