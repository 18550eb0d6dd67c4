"""The one way a schedule looks at the step."""

import jax
import jax.numpy as jnp

from lossax import _hyper


def progress(step: jax.typing.ArrayLike, steps: jax.typing.ArrayLike, start: jax.typing.ArrayLike = 0) -> jax.Array:
    """How much of a phase is over: 0 until `start`, 1 from `start + steps` on, linear between.

    A phase of no steps is over as soon as it starts.

    Args:
      step: Number of updates made before this one, integer or float `[...]`.
      steps: Length of the phase in steps, zero or more; may be traced.
      start: Step at which the phase begins; may be traced.

    Returns:
      Float `[...]` in [0, 1], of the default float dtype.

    Example:
      >>> progress(3, 4).item(), progress(9, 4).item(), progress(0, 0).item()
      (0.75, 1.0, 1.0)
    """
    steps = _hyper.scalar(steps)
    passed = _hyper.scalar(step) - _hyper.scalar(start)
    inside = passed / jnp.where(steps > 0, steps, 1)
    return jnp.where(steps > 0, jnp.clip(inside, 0.0, 1.0), (passed >= 0).astype(steps.dtype))


def elapsed(step: jax.typing.ArrayLike, start: jax.typing.ArrayLike = 0) -> jax.Array:
    """How many steps of an endless phase are over: 0 until `start`, then one more each step.

    Args:
      step: Number of updates made before this one, integer or float `[...]`.
      start: Step at which the phase begins; may be traced.

    Returns:
      Float `[...]`, zero or more, of the default float dtype.

    Example:
      >>> elapsed(7, 4).item(), elapsed(1, 4).item()
      (3.0, 0.0)
    """
    return jnp.maximum(_hyper.scalar(step) - _hyper.scalar(start), 0.0)
