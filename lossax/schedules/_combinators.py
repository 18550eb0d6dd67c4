"""Combinators: schedules out of schedules. Lengths are counted in steps and add up."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._progress import elapsed, progress
from lossax._types import Hyperparameter, Schedule
from lossax.schedules._shapes import linear


def _value(schedule: Hyperparameter, step: ArrayLike) -> jax.Array:
    """What a schedule, or a number, is at steps `[...]`."""
    return _hyper.scalar(schedule(step) if callable(schedule) else schedule)


def _begun(step: ArrayLike, start: ArrayLike) -> jax.Array:
    """Whether a phase has begun."""
    return progress(step, 0, start) > 0


def join(*phases: tuple[Hyperparameter, ArrayLike | None]) -> Schedule:
    r"""One schedule after another; each sees its own steps, from 0.

    .. math:: v(t) = v_i(t - T_i) \quad\text{for}\quad T_i \le t < T_{i+1}, \qquad T_{i+1} = T_i + n_i

    A boundary belongs to the phase that begins there. After the end the last phase stays at its last value, or, with
    length `None`, goes on. Optax's `join_schedules` takes boundaries, the running sums of these lengths.

    Args:
      *phases: Pairs of a schedule (or a number) and its length in steps, nonnegative; the last length may be `None`.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if there is no phase, a known length is negative, or one before the last is `None`.

    Example:
      >>> schedule = join((linear(0.0, 1.0, 2), 2), (1.0, 3), (linear(1.0, 0.0, 2), 2))
      >>> [schedule(step).item() for step in (0, 1, 2, 4, 6, 9)]
      [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Reference:
      Goyal et al., *Accurate, large minibatch SGD: training ImageNet in 1 hour*, 2017.
    """
    if not phases:
        raise ValueError("join needs at least one phase: a pair of a schedule and its length")
    for place, (phase, length) in enumerate(phases):
        _check.number(phase=phase)
        if length is not None:
            _check.nonnegative(length=length)
        elif place + 1 < len(phases):
            raise ValueError(f"only the last phase may be endless, got length None for phase {place} of {len(phases)}")

    def schedule(step):
        begin, value = _hyper.scalar(0.0), jnp.zeros(jnp.shape(step), _hyper.default_float())
        for phase, length in phases:
            own = elapsed(step, begin)
            if length is not None:
                own = jnp.minimum(own, _hyper.scalar(length))
            value = jnp.where(_begun(elapsed(step), begin), _value(phase, own), value)
            begin = begin if length is None else begin + _hyper.scalar(length)
        return value

    return schedule


def scale(schedule: Hyperparameter, factor: Hyperparameter) -> Schedule:
    r"""A schedule times a number, or times another schedule.

    .. math:: v(t) = f(t)\,u(t)

    One run's schedule becomes a sweep's by `vmap` over `factor`; a layer's own rate is the common schedule scaled.

    Args:
      schedule: The schedule, or a number.
      factor: Number, or schedule, to multiply by.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known number is NaN or infinite.

    Example:
      >>> schedule = scale(linear(0.0, 1.0, 4), 3.0)
      >>> schedule(2).item()
      1.5

    Reference:
      Goyal et al., *Accurate, large minibatch SGD: training ImageNet in 1 hour*, 2017.
    """
    _check.number(schedule=schedule, factor=factor)

    def scaled(step):
        step = elapsed(step)
        return jnp.broadcast_to(_value(schedule, step) * _value(factor, step), jnp.shape(step))

    return scaled


def warmup(schedule: Hyperparameter, steps: ArrayLike, *, start: ArrayLike = 0.0) -> Schedule:
    r"""A straight line up to where a schedule begins, then that schedule from its beginning.

    .. math:: v(t) = s + (u(0) - s)\,t / n \;\text{ for } t < n, \qquad u(t - n) \;\text{ after}

    From a start of 0 the first update does nothing; `start=peak / steps` begins with the first step instead.

    Args:
      schedule: What follows: a schedule or a number.
      steps: Length of the ramp in steps, nonnegative.
      start: Value at step 0.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known number is NaN or infinite, or `steps` negative.

    Example:
      >>> schedule = warmup(linear(1.0, 0.0, 2), 4)
      >>> [schedule(step).item() for step in (0, 1, 4, 5)]
      [0.0, 0.25, 1.0, 0.5]

    Reference:
      Goyal et al., *Accurate, large minibatch SGD: training ImageNet in 1 hour*, 2017.
    """
    _check.number(schedule=schedule, start=start)
    _check.nonnegative(steps=steps)

    def ramp(step):
        return linear(start, _value(schedule, 0), steps)(step)

    return join((ramp, steps), (schedule, None))


def piecewise_constant(
    values: Sequence[ArrayLike] | jax.Array, boundaries: Sequence[ArrayLike] | jax.Array
) -> Schedule:
    r"""Constant between boundaries.

    .. math:: v(t) = v_i \quad\text{for}\quad b_{i-1} \le t < b_i

    A boundary belongs to the value that begins there, as in torch's `MultiStepLR` and Optax; Keras changes one step
    later. These are values: Optax's `piecewise_constant_schedule` takes factors that multiply up, its
    `{b_0: v_1 / v_0, b_1: v_2 / v_1}`.

    Args:
      values: The values in turn, float `[n + 1]`.
      boundaries: Steps at which the second and later values begin, ascending, `[n]`.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if there is not one value more than boundaries, one known is NaN or infinite, or boundaries descend.

    Example:
      >>> schedule = piecewise_constant([1.0, 0.5, 0.25], [3, 5])
      >>> [schedule(step).item() for step in (0, 2, 3, 5, 9)]
      [1.0, 1.0, 0.5, 0.25, 0.25]

    Reference:
      He, Zhang, Ren and Sun, *Deep residual learning for image recognition*, 2016.
    """
    values, boundaries = list(values), list(boundaries)
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"expected one value more than boundaries, got {len(values)} values, {len(boundaries)} boundaries"
        )
    for value in values:
        _check.number(values=value)
    for boundary in boundaries:
        _check.number(boundaries=boundary)
    known = [boundary for boundary in map(_check.concrete, boundaries) if boundary is not None]
    for before, after in pairwise(known):
        if after < before:
            raise ValueError(f"boundaries must ascend, got {before:g} before {after:g}")

    def schedule(step):
        result = jnp.broadcast_to(_hyper.scalar(values[0]), jnp.shape(step))
        for value, boundary in zip(values[1:], boundaries, strict=True):
            result = jnp.where(_begun(step, boundary), _hyper.scalar(value), result)
        return result

    return schedule
