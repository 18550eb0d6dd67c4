"""Shapes: one phase, from a start to an end. Each is a function of `progress` alone."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._progress import progress
from lossax._types import Schedule


def cosine(start: ArrayLike, end: ArrayLike, steps: ArrayLike) -> Schedule:
    r"""Half a cosine from `start` to `end`: flat at both ends, steepest in the middle.

    .. math:: v(t) = e + (s - e)\,\tfrac12\,(1 + \cos \pi p), \qquad p = t / \mathit{steps} \in [0, 1]

    Args:
      start: Value at step 0.
      end: Value from step `steps` on.
      steps: Length in steps, nonnegative.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN, or `steps` negative.

    Example:
      >>> schedule = cosine(2.0, 1.0, 4)
      >>> [round(schedule(step).item(), 4) for step in (0, 2, 4, 9)]
      [2.0, 1.5, 1.0, 1.0]

    Reference:
      Loshchilov and Hutter, *SGDR: stochastic gradient descent with warm restarts*, 2017.
    """
    _check.number(start=start, end=end)
    _check.nonnegative(steps=steps)

    def schedule(step):
        first, last = _hyper.scalar(start), _hyper.scalar(end)
        return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress(step, steps)))

    return schedule
