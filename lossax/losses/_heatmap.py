"""Regression of heat maps, whose targets are in [0, 1]: one unit per pixel."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import absolute, power, with_slopes
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _log1p_power_slopes(x, exponent):
    bent = power(x, exponent)
    by_exponent = bent / (1.0 + bent) * jnp.log(jnp.where(x > 0, x, 1))
    return exponent * power(x, exponent - 1.0) / (1.0 + bent), by_exponent


@with_slopes(_log1p_power_slopes)
def _log1p_power(x, exponent):
    """log(1 + x ** exponent), whose derivative does not vanish with the power."""
    return jnp.log1p(power(x, exponent))


def adaptive_wing(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    omega: ArrayLike = 14.0,
    theta: ArrayLike = 0.5,
    epsilon: ArrayLike = 1.0,
    alpha: ArrayLike = 2.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""`wing` for heat maps: sharp on the peak, where the target is 1, and about quadratic on the background.

    .. math::
      \ell = \omega \log\left(1 + (m / \epsilon)^p\right) + A\, (|e| - m), \qquad
      e = \hat y - y, \quad m = \min(|e|, \theta), \quad p = \alpha - y, \quad
      A = \frac{\omega\, p}{\theta}\, \frac{(\theta / \epsilon)^p}{1 + (\theta / \epsilon)^p}

    For landmarks as heat maps, with one Gaussian bump each. On the peak the exponent p is just above 1 and the last few
    percent still pull; on the background, nearly all of the map, errors near 0 do not. The paper weighs pixels on and
    around the bumps by 11 and all others by 1; those are `weights`.

    Args:
      predictions: Estimates, float `[...]`.
      targets: Heights of the heat map, float `[...]` in [0, 1].
      omega: Factor of the logarithmic part; positive.
      theta: Error at which the loss turns linear; positive.
      epsilon: Error at which the logarithmic part bends; positive.
      alpha: Exponent where the target is 0; at least 2, so that on the peak, where it is less by 1, no slope is
        infinite.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1], `alpha` is below 2, or one of the others is not
        positive.

    Example:
      >>> import jax.numpy as jnp
      >>> near = adaptive_wing(jnp.array([0.25]), jnp.zeros(1), omega=1.0, epsilon=0.25)
      >>> round(near.item(), 4)  # log 2
      0.6931

    Reference:
      Wang, Bo and Fuxin, *Adaptive wing loss for robust face alignment via heatmap regression*, 2019.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(omega=omega, theta=theta, epsilon=epsilon)
    _check.at_least(2.0, alpha=alpha)
    predictions, targets, omega, theta, epsilon, alpha = masked(
        where, predictions, targets, omega, theta, epsilon, alpha, fill=1.0
    )
    targets = _check.domain("in [0, 1]", lambda y: (y >= 0) & (y <= 1), targets=targets)
    error, exponent = absolute(predictions - targets), alpha - targets
    inside = error < theta
    near = jnp.where(inside, error, theta)
    beyond = jnp.where(inside, 0, error - theta)
    bent = power(theta / epsilon, exponent)
    slope = omega * exponent / theta * (bent / (1.0 + bent))
    return reduce(omega * _log1p_power(near / epsilon, exponent) + slope * beyond, where, weights, reduction)
