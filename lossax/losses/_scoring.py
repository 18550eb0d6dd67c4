"""Proper scores of forecasts in closed form, distributions and intervals: one unit per target."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import absolute, quotient, with_slopes
from lossax._reduction import masked, reduce
from lossax._types import Reduction

_INVERSE_ROOT_PI = 1.0 / math.sqrt(math.pi)


def _standardized(half, scales):
    """Error over scale, and whether it is near: beyond 40 scales every density here is 0, and so are its derivatives.

    Far away the ratio is not formed: it may overflow, and infinity times 0 is no derivative.
    """
    near = jnp.abs(half) < 20.0 * scales
    ratio = quotient(jnp.where(near, half, 0), jnp.where(near, scales, 1))
    return near, 2.0 * ratio


def _crps_gaussian_slopes(half, scales):
    near, z = _standardized(half, scales)
    # 2 phi(z) - 1 / sqrt(pi), which is 0 at z^2 = log 2.
    density = _INVERSE_ROOT_PI * jnp.expm1(0.5 * (math.log(2.0) - z * z))
    by_error = jnp.where(near, lax.erf(math.sqrt(0.5) * z), jnp.sign(half))
    return 2.0 * by_error, jnp.where(near, density, jnp.full_like(density, -_INVERSE_ROOT_PI))


@with_slopes(_crps_gaussian_slopes)
def _crps_gaussian(half, scales):
    by_half, by_scale = _crps_gaussian_slopes(half, scales)  # the score is homogeneous: error and scale times slopes
    return half * by_half + scales * by_scale


def _crps_logistic_slopes(half, scales):
    near, z = _standardized(half, scales)
    size = absolute(z)
    odds = jnp.exp(-size)
    by_scale = 2.0 * jnp.log1p(odds) + 2.0 * size * (odds / (1.0 + odds)) - 1.0
    by_error = jnp.where(near, jnp.tanh(0.5 * z), jnp.sign(half))
    return 2.0 * by_error, jnp.where(near, by_scale, -jnp.ones_like(by_scale))


@with_slopes(_crps_logistic_slopes)
def _crps_logistic(half, scales):
    by_half, by_scale = _crps_logistic_slopes(half, scales)
    return half * by_half + scales * by_scale


def crps_gaussian(
    predictions: jax.Array,
    targets: jax.Array,
    scales: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Continuous ranked probability score of a normal forecast: absolute error that knows how sure it is.

    .. math:: \ell = \sigma \left(z\,(2\Phi(z) - 1) + 2\varphi(z) - \pi^{-1/2}\right), \qquad z = (y - \hat y) / \sigma

    In units of the targets, and the absolute error where `scales` vanish. Outliers pull on mean and scale with bounded
    force, where in `gaussian_nll` they pull with their square: the choice where the normal shape is in doubt, as in
    post-processing of weather forecasts. Takes the standard deviation, not the variance.

    Args:
      predictions: Means, float `[...]`.
      targets: True values, real `[...]`.
      scales: Standard deviations, float `[...]`, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` or `scales` are not floating point.
      ValueError: if shapes differ or a known scale is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> score = crps_gaussian(jnp.array([1.0]), jnp.array([1.0]), jnp.array([2.0]))
      >>> round(score.item(), 4)  # 2 (sqrt(2) - 1) / sqrt(pi)
      0.4674

    Reference:
      Gneiting, Raftery, Westveld and Goldman, *Calibrated probabilistic forecasting using ensemble model output
      statistics and minimum CRPS estimation*, 2005.
    """
    _check.floating(predictions=predictions, scales=scales)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets, scales=scales)
    predictions, targets, scales = masked(where, predictions, targets, scales, fill=1.0)
    scales = _check.domain("positive", lambda s: s > 0, scales=scales)
    return reduce(_crps_gaussian(0.5 * predictions - 0.5 * targets, scales), where, weights, reduction)


def crps_logistic(
    predictions: jax.Array,
    targets: jax.Array,
    scales: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Continuous ranked probability score of a logistic forecast: `crps_gaussian` with heavier tails.

    .. math:: \ell = s \left(z - 2 \log F(z) - 1\right), \qquad z = (y - \hat y) / s, \quad F(z) = 1 / (1 + e^{-z})

    For errors with more outliers than a normal distribution allows. The scale is not the standard deviation, which is
    `pi / sqrt(3)` times as large.

    Args:
      predictions: Means, float `[...]`.
      targets: True values, real `[...]`.
      scales: Scales of the logistic distribution, float `[...]`, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` or `scales` are not floating point.
      ValueError: if shapes differ or a known scale is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> score = crps_logistic(jnp.array([1.0]), jnp.array([1.0]), jnp.array([2.0]))
      >>> round(score.item(), 4)  # 2 (2 log 2 - 1)
      0.7726

    Reference:
      Taillardat, Mestre, Zamo and Naveau, *Calibrated ensemble forecasts using quantile regression forests and ensemble
      model output statistics*, 2016.
    """
    _check.floating(predictions=predictions, scales=scales)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets, scales=scales)
    predictions, targets, scales = masked(where, predictions, targets, scales, fill=1.0)
    scales = _check.domain("positive", lambda s: s > 0, scales=scales)
    return reduce(_crps_logistic(0.5 * predictions - 0.5 * targets, scales), where, weights, reduction)


def interval_score(
    lower: jax.Array,
    upper: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Winkler score of a prediction interval: its width, and a fine for the targets that it misses.

    .. math:: \ell = (u - l) + \frac 2\alpha \max(l - y, 0) + \frac 2\alpha \max(y - u, 0)

    Its best constant interval reaches from the quantile `alpha / 2` to the quantile `1 - alpha / 2` of the targets. It
    is `2 / alpha` times the sum of `quantile` at these two levels, and is computed like that: never negative, even
    where the bounds have crossed, and without gradient from a bound that equals the target. For a whole fan of
    quantiles use `multi_quantile`.

    Args:
      lower: Lower bounds, float `[...]`.
      upper: Upper bounds, float `[...]`.
      targets: True values, real `[...]`.
      alpha: Share of the targets to miss, in (0, 1]: 0.1 for intervals with a coverage of 90%.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `lower` or `upper` are not floating point.
      ValueError: if shapes differ or `alpha` is outside (0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> lower, upper, targets = jnp.zeros(2), jnp.full(2, 3.0), jnp.array([1.0, 4.0])
      >>> interval_score(lower, upper, targets, alpha=0.5, reduction="none").tolist()
      [3.0, 7.0]

    Reference:
      Winkler, *A decision-theoretic approach to interval estimation*, 1972; Gneiting and Raftery, *Strictly proper
      scoring rules, prediction, and estimation*, 2007.
    """
    _check.floating(lower=lower, upper=upper)
    _check.real(targets=targets)
    _check.same_shape(lower=lower, upper=upper, targets=targets)
    _check.fraction(alpha=alpha)
    _check.positive(alpha=alpha)
    # 2 / alpha - 1 before it is rounded to the dtype of the bounds.
    lower, upper, targets, fine = masked(where, lower, upper, targets, 2.0 / alpha - 1.0)
    below, above = 0.5 * targets - 0.5 * lower, 0.5 * upper - 0.5 * targets
    inside = jnp.ones_like(fine)
    values = jnp.where(below < 0, fine, inside) * absolute(below) + jnp.where(above < 0, fine, inside) * absolute(above)
    return reduce(2.0 * values, where, weights, reduction)
