"""Recipes: whole runs by name. Each is one `join`; the lengths of the phases add up to the length of the run."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._progress import elapsed, progress
from lossax._types import Schedule
from lossax.schedules._combinators import join
from lossax.schedules._shapes import _half_cosine, _whole, cosine, linear, one_minus_sqrt

_SHAPES = {"cosine": cosine, "linear": linear, "one_minus_sqrt": one_minus_sqrt}


def warmup_cosine(
    peak_value: ArrayLike,
    *,
    warmup_steps: ArrayLike,
    decay_steps: ArrayLike,
    start_value: ArrayLike = 0.0,
    end_value: ArrayLike = 0.0,
) -> Schedule:
    r"""Up in a line, down in half a cosine: the default for most work.

    .. math:: v = \text{linear}(s, \mathit{peak}, n_w) \;\text{then}\; \text{cosine}(\mathit{peak}, e, n_d)

    The run is `warmup_steps + decay_steps` long. In Optax's `warmup_cosine_decay_schedule` the argument `decay_steps`
    is that sum; and its peak cannot be swept by `vmap`.

    Args:
      peak_value: Value at step `warmup_steps`.
      warmup_steps: Length of the way up in steps, nonnegative.
      decay_steps: Length of the way down in steps, nonnegative.
      start_value: Value at step 0.
      end_value: Value from step `warmup_steps + decay_steps` on.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or a length negative.

    Example:
      >>> schedule = warmup_cosine(1.0, warmup_steps=4, decay_steps=8)
      >>> [round(schedule(step).item(), 4) for step in (0, 1, 4, 8, 12)]
      [0.0, 0.25, 1.0, 0.5, 0.0]

    Reference:
      Loshchilov and Hutter, *SGDR: stochastic gradient descent with warm restarts*, 2017.
    """
    _check.number(peak_value=peak_value, start_value=start_value, end_value=end_value)
    _check.nonnegative(warmup_steps=warmup_steps, decay_steps=decay_steps)
    return join(
        (linear(start_value, peak_value, warmup_steps), warmup_steps),
        (cosine(peak_value, end_value, decay_steps), decay_steps),
    )


def warmup_linear(
    peak_value: ArrayLike,
    *,
    warmup_steps: ArrayLike,
    decay_steps: ArrayLike,
    start_value: ArrayLike = 0.0,
    end_value: ArrayLike = 0.0,
) -> Schedule:
    r"""Up in a line, down in a line: hard to beat when the length of the run is known.

    .. math:: v = \text{linear}(s, \mathit{peak}, n_w) \;\text{then}\; \text{linear}(\mathit{peak}, e, n_d)

    Args:
      peak_value: Value at step `warmup_steps`.
      warmup_steps: Length of the way up in steps, nonnegative.
      decay_steps: Length of the way down in steps, nonnegative.
      start_value: Value at step 0.
      end_value: Value from step `warmup_steps + decay_steps` on.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or a length negative.

    Example:
      >>> schedule = warmup_linear(1.0, warmup_steps=4, decay_steps=8)
      >>> [schedule(step).item() for step in (0, 1, 4, 10, 12)]
      [0.0, 0.25, 1.0, 0.25, 0.0]

    Reference:
      Devlin, Chang, Lee and Toutanova, *BERT: pre-training of deep bidirectional transformers for language
      understanding*, 2019.
    """
    _check.number(peak_value=peak_value, start_value=start_value, end_value=end_value)
    _check.nonnegative(warmup_steps=warmup_steps, decay_steps=decay_steps)
    return join(
        (linear(start_value, peak_value, warmup_steps), warmup_steps),
        (linear(peak_value, end_value, decay_steps), decay_steps),
    )


def warmup_stable_decay(
    peak_value: ArrayLike,
    *,
    warmup_steps: ArrayLike,
    stable_steps: ArrayLike,
    decay_steps: ArrayLike,
    start_value: ArrayLike = 0.0,
    end_value: ArrayLike = 0.0,
    shape: Literal["one_minus_sqrt", "linear", "cosine"] = "one_minus_sqrt",
) -> Schedule:
    r"""Up, along, and down at the very end: a run that can be prolonged from any checkpoint of its middle.

    .. math::
      v = \text{linear}(s, \mathit{peak}, n_w) \;\text{then}\; \mathit{peak} \;\text{for } n_s \text{ steps, then}\;
      \text{shape}(\mathit{peak}, e, n_d)

    A decay of a tenth to a fifth of the run is enough.

    Args:
      peak_value: Value of the middle phase.
      warmup_steps: Length of the way up in steps, nonnegative.
      stable_steps: Length of the middle phase in steps, nonnegative.
      decay_steps: Length of the way down in steps, nonnegative.
      start_value: Value at step 0.
      end_value: Value after the last phase.
      shape: How it decays: `"one_minus_sqrt"`, `"linear"` or `"cosine"`.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, a length negative, or `shape` unknown.

    Example:
      >>> schedule = warmup_stable_decay(1.0, warmup_steps=2, stable_steps=6, decay_steps=4)
      >>> [schedule(step).item() for step in (0, 1, 2, 8, 9, 12)]
      [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]

    Reference:
      Hu et al., *MiniCPM: unveiling the potential of small language models with scalable training strategies*, 2024.
    """
    _check.choice(("one_minus_sqrt", "linear", "cosine"), shape=shape)
    _check.number(peak_value=peak_value, start_value=start_value, end_value=end_value)
    _check.nonnegative(warmup_steps=warmup_steps, stable_steps=stable_steps, decay_steps=decay_steps)
    return join(
        (linear(start_value, peak_value, warmup_steps), warmup_steps),
        (peak_value, stable_steps),
        (_SHAPES[shape](peak_value, end_value, decay_steps), decay_steps),
    )


def one_cycle(
    peak_value: ArrayLike,
    *,
    warmup_steps: ArrayLike,
    decay_steps: ArrayLike,
    final_steps: ArrayLike | None = None,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
    shape: Literal["cosine", "linear"] = "cosine",
) -> Schedule:
    r"""One long rise to a rate that would be too high for ever, and one fall to almost nothing.

    .. math::
      v = \text{shape}(s, \mathit{peak}, n_w) \;\text{then}\; \text{shape}(\mathit{peak}, e, n_d), \qquad
      s = \mathit{peak} / \mathit{div}, \quad e = s / \mathit{final}

    With `final_steps` the fall ends at the start value and a third phase leads from there to the end.

    For a run of :math:`T` steps that peaks at the share :math:`\rho`: torch's `OneCycleLR` is
    `warmup_steps=rho * T - 1, decay_steps=T - rho * T` (it counts both ends); Optax's `cosine_onecycle_schedule` is
    `warmup_steps=int(rho * T)` and the rest; its `linear_onecycle_schedule` has three phases. Momentum cycles the other
    way: `one_cycle(0.85, div_factor=0.85 / 0.95, final_div_factor=1.0, ...)` goes from 0.95 to 0.85 and back.

    Args:
      peak_value: Value at step `warmup_steps`.
      warmup_steps: Length of the rise in steps, nonnegative.
      decay_steps: Length of the fall in steps, nonnegative.
      final_steps: Length of a third phase in steps, nonnegative; `None` for two phases.
      div_factor: Peak over start, positive.
      final_div_factor: Start over end, positive.
      shape: Of every phase: `"cosine"` or `"linear"`.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, a length negative, a factor not positive, or `shape` unknown.

    Example:
      >>> schedule = one_cycle(1.0, warmup_steps=2, decay_steps=8, div_factor=4.0, shape="linear")
      >>> [round(schedule(step).item(), 3) for step in (0, 1, 2, 6, 10)]
      [0.25, 0.625, 1.0, 0.5, 0.0]

    Reference:
      Smith and Topin, *Super-convergence: very fast training of neural networks using large learning rates*, 2018.
    """
    _check.choice(("cosine", "linear"), shape=shape)
    _check.number(peak_value=peak_value)
    _check.nonnegative(warmup_steps=warmup_steps, decay_steps=decay_steps)
    _check.positive(div_factor=div_factor, final_div_factor=final_div_factor)
    phase = _SHAPES[shape]
    start_value = _hyper.scalar(peak_value) / _hyper.scalar(div_factor)
    end_value = start_value / _hyper.scalar(final_div_factor)
    rise = (phase(start_value, peak_value, warmup_steps), warmup_steps)
    if final_steps is None:
        return join(rise, (phase(peak_value, end_value, decay_steps), decay_steps))
    _check.nonnegative(final_steps=final_steps)
    return join(
        rise,
        (phase(peak_value, start_value, decay_steps), decay_steps),
        (phase(start_value, end_value, final_steps), final_steps),
    )


def _power(base: jax.Array, exponent: jax.Array) -> jax.Array:
    """base^exponent for whole exponents under 128 by squaring: exact whenever the result is, which `pow` is not."""
    result, square = jnp.ones_like(exponent), base
    for bit in range(7):
        odd = jnp.mod(jnp.floor(exponent * 0.5**bit), 2.0) > 0
        result = jnp.where(odd, result * square, result)
        square = jnp.minimum(square * square, 1e15)  # what is larger is never used: no run is that long
    return result


def cosine_restarts(
    peak_value: ArrayLike,
    *,
    cycle_steps: ArrayLike,
    growth: ArrayLike = 1.0,
    peak_decay: ArrayLike = 1.0,
    end_value: ArrayLike = 0.0,
) -> Schedule:
    r"""Half a cosine down, again and again: every end of a cycle is a model worth keeping.

    .. math::
      v(t) = \text{cosine}(\mathit{peak}\; d^{\,i}, e, n g^i)(t - T_i), \qquad
      T_i = n\,(1 + g + \dots + g^{i-1}) \le t < T_{i+1}

    With whole arguments this is torch's `CosineAnnealingWarmRestarts(T_0, T_mult, eta_min)`. For a warm-up put `warmup`
    around it; Optax's `sgdr_schedule` is a `join` of `warmup_cosine`.

    Args:
      peak_value: Value at the start of the first cycle.
      cycle_steps: Length of the first cycle in steps, positive.
      growth: Length of a cycle over that of the one before it, at least 1.
      peak_decay: Peak of a cycle over that of the one before it, positive.
      end_value: Value that every cycle falls to.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, `growth` below 1, or another ratio or length not positive.

    Example:
      >>> schedule = cosine_restarts(1.0, cycle_steps=2, growth=2, peak_decay=0.5)
      >>> [round(schedule(step).item(), 4) for step in (0, 1, 2, 4, 6)]
      [1.0, 0.5, 0.5, 0.25, 0.25]

    Reference:
      Loshchilov and Hutter, *SGDR: stochastic gradient descent with warm restarts*, 2017.
    """
    _check.number(peak_value=peak_value, growth=growth, peak_decay=peak_decay, end_value=end_value)
    _check.positive(cycle_steps=cycle_steps, peak_decay=peak_decay)
    growth = _check.domain("at least 1", lambda growth: growth >= 1, growth=growth)

    def schedule(step):
        length, ratio = _hyper.scalar(cycle_steps), _hyper.scalar(growth)
        passed = elapsed(step)
        even = ratio == 1.0
        more = jnp.where(even, 1, ratio - 1.0)  # stands for ratio - 1, never 0
        rate = jnp.log1p(more)

        def begin(cycle):
            slow = jnp.expm1(jnp.minimum(cycle * rate, 80.0)) / more
            fast = (_power(1.0 + more, cycle) - 1.0) / more
            return length * jnp.where(even, cycle, jnp.where(more < 0.25, slow, fast))

        # Logarithms guess the cycle; comparing with its ends makes it exact.
        guess = jnp.floor(jnp.log1p(more * passed / length) / rate)
        cycle = jax.lax.stop_gradient(jnp.where(even, _whole(passed, length), guess))
        cycle = cycle + (passed >= begin(cycle + 1.0)).astype(cycle.dtype)
        cycle = cycle - ((passed < begin(cycle)) & (cycle > 0)).astype(cycle.dtype)
        first, after = begin(cycle), begin(cycle + 1.0)
        peak = _hyper.scalar(peak_value) * jnp.power(_hyper.scalar(peak_decay), cycle)
        return _half_cosine(peak, end_value, progress(passed, after - first, first))

    return schedule


def noam(model_dim: ArrayLike, *, warmup_steps: ArrayLike, factor: ArrayLike = 1.0) -> Schedule:
    r"""Warm-up, then the inverse root of the steps: the schedule of the first transformers.

    .. math:: v(t) = \mathit{factor}\; d^{-1/2} \min\big((t + 1)^{-1/2}, (t + 1)\, n^{-3/2}\big)

    The paper's `step_num` is 1 at the first update; the peak, `factor / sqrt(d * n)`, is at step `n - 1`. To name the
    peak itself use `warmup(inverse_sqrt(peak, n), n)`.

    Args:
      model_dim: Width of the model, positive.
      warmup_steps: Length of the way up in steps, positive.
      factor: Factor of everything.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is NaN or infinite, or `model_dim` or `warmup_steps` not positive.

    Example:
      >>> schedule = noam(4, warmup_steps=4)
      >>> [schedule(step).item() for step in (0, 1, 3, 15)]
      [0.0625, 0.125, 0.25, 0.125]

    Reference:
      Vaswani et al., *Attention is all you need*, 2017.
    """
    _check.number(factor=factor)
    _check.positive(model_dim=model_dim, warmup_steps=warmup_steps)

    def schedule(step):
        done, length = elapsed(step) + 1.0, _hyper.scalar(warmup_steps)
        peak = _hyper.scalar(factor) / jnp.sqrt(_hyper.scalar(model_dim) * jnp.maximum(done, length))
        return peak * progress(done, length)

    return schedule
