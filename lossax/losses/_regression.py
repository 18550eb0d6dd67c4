"""Regression: one unit per element of the predictions."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import absolute
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def huber(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Quadratic near zero, linear in the tails: squared error that outliers cannot dominate.

    .. math:: \ell(e) = m\,(|e| - m / 2), \qquad m = \min(|e|, \delta)

    `smooth_l1` is this divided by its `beta`; at 1 they are the same.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      delta: Error at which the loss turns linear, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `delta` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> huber(jnp.array([0.0, 3.0]), jnp.zeros(2)).item()
      1.25

    Reference:
      Huber, *Robust estimation of a location parameter*, 1964.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(delta=delta)
    predictions, targets, delta = masked(where, predictions, targets, delta)
    error = absolute(predictions - targets)
    near = jnp.minimum(error, delta)
    return reduce(near * (error - 0.5 * near), where, weights, reduction)
