"""Shapes: one phase, from a start to an end. Each looks at the step through `progress` or `elapsed` alone."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper, _numerics
from lossax._progress import elapsed, progress
from lossax._types import Schedule


def _between(start: ArrayLike, end: ArrayLike, left: jax.Array, done: jax.Array) -> jax.Array:
    """Start * left + end * done, where left + done = 1: exact at both ends, and no digit of a small value is lost."""
    return _hyper.scalar(start) * left + _hyper.scalar(end) * done


def _half_cosine(start: ArrayLike, end: ArrayLike, p: jax.Array) -> jax.Array:
    """`cosine` as a function of progress."""
    quarter = 0.5 * jnp.pi
    return _between(start, end, jnp.square(jnp.sin(quarter * (1.0 - p))), jnp.square(jnp.sin(quarter * p)))


def _whole(passed: jax.Array, steps: jax.Array) -> jax.Array:
    """How many times `steps` went into `passed`, exact at the multiples however a device divides."""
    times = jnp.floor(passed / steps)
    times = times + (passed >= (times + 1.0) * steps).astype(times.dtype)
    return times - (passed < times * steps).astype(times.dtype)


def constant(value: ArrayLike) -> Schedule:
    r"""One value for ever.

    .. math:: v(t) = c

    A number serves as well wherever a hyperparameter is asked for; this is the same as a schedule, to be joined or
    scaled.

    Args:
      value: The value at every step.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite.

    Example:
      >>> constant(0.5)(7).item()
      0.5

    Reference:
      Bottou, Curtis and Nocedal, *Optimization methods for large-scale machine learning*, 2018.
    """
    _check.number(value=value)

    def schedule(step):
        return jnp.broadcast_to(_hyper.scalar(value), jnp.shape(step))

    return schedule


def linear(start: ArrayLike, end: ArrayLike, steps: ArrayLike) -> Schedule:
    r"""A straight line from `start` to `end`: the plain way to warm up, and to cool down to zero.

    .. math:: v(t) = s\,(1 - p) + e\,p, \qquad p = t / \mathit{steps} \in [0, 1]

    Args:
      start: Value at step 0.
      end: Value from step `steps` on.
      steps: Length in steps, nonnegative.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or `steps` negative.

    Example:
      >>> schedule = linear(0.0, 1.0, 4)
      >>> [schedule(step).item() for step in (0, 1, 4, 9)]
      [0.0, 0.25, 1.0, 1.0]

    Reference:
      Defazio, Cutkosky, Mehta and Mishchenko, *Optimal linear decay learning rate schedules and further refinements*,
      2023.
    """
    _check.number(start=start, end=end)
    _check.nonnegative(steps=steps)

    def schedule(step):
        p = progress(step, steps)
        return _between(start, end, 1.0 - p, p)

    return schedule


def polynomial(start: ArrayLike, end: ArrayLike, steps: ArrayLike, *, power: ArrayLike) -> Schedule:
    r"""A power of what is left: straight at 1, ever longer near `end` above 1, ever shorter below.

    .. math:: v(t) = e + (s - e)\,(1 - p)^{\mathit{power}}, \qquad p = t / \mathit{steps} \in [0, 1]

    The "poly" schedule of segmentation has power 0.9. torch's `PolynomialLR` is this with `end=0`.

    Args:
      start: Value at step 0.
      end: Value from step `steps` on.
      steps: Length in steps, nonnegative.
      power: Exponent, positive.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, `steps` negative, or `power` not positive.

    Example:
      >>> schedule = polynomial(1.0, 0.0, 4, power=2)
      >>> [schedule(step).item() for step in (0, 2, 4, 9)]
      [1.0, 0.25, 0.0, 0.0]

    Reference:
      Chen, Papandreou, Kokkinos, Murphy and Yuille, *DeepLab: semantic image segmentation with deep convolutional nets,
      atrous convolution, and fully connected CRFs*, 2018.
    """
    _check.number(start=start, end=end)
    _check.nonnegative(steps=steps)
    _check.positive(power=power)

    def schedule(step):
        p = progress(step, steps)
        running = p < 1.0
        # A power below 1 has an infinite slope at the end: there the base is any other number.
        left = jnp.power(jnp.where(running, 1.0 - p, 1), _hyper.scalar(power))
        left = jnp.where(running, left, 0)
        return _between(start, end, left, 1.0 - left)

    return schedule


def cosine(start: ArrayLike, end: ArrayLike, steps: ArrayLike) -> Schedule:
    r"""Half a cosine from `start` to `end`: flat at both ends, steepest in the middle.

    .. math:: v(t) = e + (s - e)\,\tfrac12\,(1 + \cos \pi p), \qquad p = t / \mathit{steps} \in [0, 1]

    Optax's `cosine_decay_schedule` names the end by its share of the start, `alpha = end / start`, and so cannot start
    at 0.

    Args:
      start: Value at step 0.
      end: Value from step `steps` on.
      steps: Length in steps, nonnegative.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or `steps` negative.

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
        return _half_cosine(start, end, progress(step, steps))

    return schedule


def one_minus_sqrt(start: ArrayLike, end: ArrayLike, steps: ArrayLike) -> Schedule:
    r"""Falls at once and levels out: the cooldown that closes a long constant phase best.

    .. math:: v(t) = e + (s - e)\,(1 - \sqrt p), \qquad p = t / \mathit{steps} \in [0, 1]

    Args:
      start: Value at step 0.
      end: Value from step `steps` on.
      steps: Length in steps, nonnegative.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or `steps` negative.

    Example:
      >>> schedule = one_minus_sqrt(1.0, 0.0, 4)
      >>> [schedule(step).item() for step in (0, 1, 4, 9)]
      [1.0, 0.5, 0.0, 0.0]

    Reference:
      Haegele, Bakouch, Kosson, Ben Allal, von Werra and Jaggi, *Scaling laws and compute-optimal training beyond fixed
      training durations*, 2024.
    """
    _check.number(start=start, end=end)
    _check.nonnegative(steps=steps)

    def schedule(step):
        done = _numerics.sqrt(progress(step, steps))
        return _between(start, end, 1.0 - done, done)

    return schedule


def exponential(
    start: ArrayLike,
    rate: ArrayLike,
    steps: ArrayLike,
    *,
    end: ArrayLike | None = None,
    staircase: bool = False,
) -> Schedule:
    r"""The same factor every `steps` steps, without end: decay below 1, a learning-rate range test above.

    .. math:: v(t) = s\,\mathit{rate}^{\,t / \mathit{steps}}

    torch's `ExponentialLR(gamma)` is this with `steps=1`.

    Args:
      start: Value at step 0.
      rate: Factor per `steps` steps, positive.
      steps: Steps that the factor takes, positive.
      end: Value at which it stops, on the way down or up; `None` goes on for ever.
      staircase: Whether the value changes at multiples of `steps` alone (`step_decay`).

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or `rate` or `steps` not positive.

    Example:
      >>> schedule = exponential(1.0, 0.25, 2, end=0.1)
      >>> [round(schedule(step).item(), 4) for step in (0, 1, 2, 9)]
      [1.0, 0.5, 0.25, 0.1]

    Reference:
      Li and Arora, *An exponential learning rate schedule for deep learning*, 2020.
    """
    _check.number(start=start, rate=rate)
    _check.positive(rate=rate, steps=steps)
    if end is not None:
        _check.number(end=end)

    def schedule(step):
        first, factor, length = _hyper.scalar(start), _hyper.scalar(rate), _hyper.scalar(steps)
        passed = elapsed(step)
        value = first * jnp.power(factor, _whole(passed, length) if staircase else passed / length)
        if end is None:
            return value
        last = _hyper.scalar(end)
        return jnp.where(first * factor < first, jnp.maximum(value, last), jnp.minimum(value, last))

    return schedule


def step_decay(start: ArrayLike, factor: ArrayLike, every: ArrayLike) -> Schedule:
    r"""Constant, and multiplied by `factor` every so many steps: the classic of convolutional networks.

    .. math:: v(t) = s\,\mathit{factor}^{\lfloor t / \mathit{every} \rfloor}

    torch's `StepLR(step_size, gamma)` is this with `every=step_size, factor=gamma`. For uneven lengths see
    `piecewise_constant`.

    Args:
      start: Value at step 0.
      factor: Factor at each drop, positive; 0.1 is the custom.
      every: Steps between drops, positive.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or `factor` or `every` not positive.

    Example:
      >>> schedule = step_decay(1.0, 0.5, 3)
      >>> [schedule(step).item() for step in (0, 2, 3, 6)]
      [1.0, 1.0, 0.5, 0.25]

    Reference:
      He, Zhang, Ren and Sun, *Deep residual learning for image recognition*, 2016.
    """
    _check.number(start=start, factor=factor)
    _check.positive(factor=factor, every=every)
    return exponential(start, factor, every, staircase=True)


def inverse_sqrt(start: ArrayLike, timescale: ArrayLike) -> Schedule:
    r"""Falls with the root of the steps, without end: for runs whose length is not known.

    .. math:: v(t) = s\,\sqrt{\tau / (\tau + t)}

    With the warm-up's length as timescale, `warmup(inverse_sqrt(peak, n), n)` is proportional to `noam`. T5's
    :math:`1 / \sqrt{\max(t, k)}` is `join((constant(c), k), (inverse_sqrt(c, k), None))` with :math:`c = 1 / \sqrt k`.

    Args:
      start: Value at step 0.
      timescale: Steps after which the value has fallen to `start` divided by the root of 2, positive.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or `timescale` not positive.

    Example:
      >>> schedule = inverse_sqrt(1.0, 2)
      >>> [schedule(step).item() for step in (0, 6, 30)]
      [1.0, 0.5, 0.25]

    Reference:
      Zhai, Kolesnikov, Houlsby and Beyer, *Scaling vision transformers*, 2022.
    """
    _check.number(start=start, timescale=timescale)
    _check.positive(timescale=timescale)

    def schedule(step):
        scale = _hyper.scalar(timescale)
        return _hyper.scalar(start) * jnp.sqrt(scale / (scale + elapsed(step)))

    return schedule
