"""What a policy and its value function learn from: advantages and returns of rewarded steps, by one parallel scan."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._importance import difference, times
from lossax._reduction import masked
from lossax._sequences import existing, recursion


class Returns(NamedTuple):
    """By how much each step was better than expected, and what its value should be, float `[..., n]`, 0 at no step."""

    advantages: jax.Array
    returns: jax.Array


class _Steps(NamedTuple):
    values: jax.Array
    after: jax.Array  # the value of what comes after each step, 0 after an end
    errors: jax.Array  # reward and discounted value after, less the value
    discount: jax.Array
    follows: jax.Array  # whether the step after is of the same episode
    exist: jax.Array


def _flags(like: jax.Array, where: Any, **given: Any) -> jax.Array:
    """Flags of steps, False where there is no step."""
    ((_, flags),) = given.items()
    if flags is None:
        return jnp.zeros_like(like, bool)
    _check.boolean(**given)
    _check.same_shape(values=like, **given)
    return masked(where, jnp.asarray(flags))[0]


def _steps(
    rewards: Any, values: Any, discount: Any, terminations: Any, truncations: Any, next_values: Any, where: Any
) -> _Steps:
    """Steps after the mask: as if those that do not exist had been cut out."""
    _check.floating(values=values)
    _check.real(rewards=rewards)
    _check.units_of({"values": values})
    _check.same_shape(rewards=rewards, values=values)
    _check.fraction(discount=discount)
    shape = _check.spec(values)[0]
    known = None if next_values is None else _check.spec(next_values)[0]
    if known not in (None, shape, shape[:-1]):
        raise ValueError(f"next_values must be {list(shape)} or {list(shape[:-1])}, as values, got {list(known or ())}")
    if truncations is not None and known != shape:
        raise ValueError("where an episode is cut off, next_values must say what the state was worth: [..., n]")
    if next_values is not None:
        _check.floating(next_values=next_values)
    values, rewards, discount = (lax.stop_gradient(x) for x in masked(where, values, rewards, discount))
    exist = existing(values, 0, where=where)[1]
    ended, cut = _flags(values, where, terminations=terminations), _flags(values, where, truncations=truncations)
    if known == shape:
        after = masked(where, values, next_values)[1]
    else:
        last = jnp.zeros_like(jnp.sum(values, axis=-1))
        last = last if next_values is None else last + jnp.asarray(next_values).astype(values.dtype)
        passed = jnp.where(exist, jnp.zeros_like(values), jnp.ones_like(values))
        found = recursion(passed, values, last)  # the value of a step, or of the next that exists
        after = jnp.concatenate([found, last[..., None]], axis=-1)[..., 1:]
    after = jnp.where(ended | ~exist, 0, lax.stop_gradient(after))
    return _Steps(values, after, rewards + discount * after - values, discount, ~(ended | cut), exist)


def _scanned(steps: _Steps, errors: jax.Array, trace: jax.Array) -> jax.Array:
    """Errors of each step and of those that follow, which fade; those that do not exist pass on what they are told."""
    fade = jnp.where(steps.follows, steps.discount * trace, 0)
    return recursion(jnp.where(steps.exist, fade, 1), errors)


def _at_steps(steps: _Steps, *arrays: jax.Array) -> Returns:
    return Returns(*(jnp.where(steps.exist, x, 0) for x in arrays))


def gae(
    rewards: jax.Array,
    values: jax.Array,
    *,
    discount: ArrayLike = 0.99,
    trace: ArrayLike = 0.95,
    terminations: ArrayLike | None = None,
    truncations: ArrayLike | None = None,
    next_values: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Returns:
    r"""Generalized advantage estimates, and the lambda-returns that a value function learns from.

    .. math:: A_t = \delta_t + \gamma \lambda A_{t + 1}, \qquad \delta_t = r_t + \gamma V_{t + 1} - V_t, \qquad
        R_t = A_t + V_t

    Trace 0 is the error of one step (little variance, the bias of the value function), 1 what really came (returns of
    Monte Carlo). The returns are those of TD(lambda), rewards and a mean of the values and returns after them,
    :math:`R_t = r_t + \gamma ((1 - \lambda) V_{t + 1} + \lambda R_{t + 1})`. For tokens of a language model the
    discount is 1, the reward of a sequence lies on its last token, penalties of `losses.kl_estimate` on each, and
    nothing ends before the padding does. For `losses.policy_gradient` advantages are whitened as a rule: `whitened`.

    Rows may hold several episodes, one after the other. After a *termination* there is nothing more. At a *truncation*
    an episode was cut off: what it would still have been worth is `next_values` of that step, the value of the
    observation that a reset has hidden, not that of the next step in the row. Confusing the two teaches that time
    limits are deadly.

    A step that does not exist counts as if it had been cut out, wherever it is: padding, prompts, answers of a tool.
    The scan is parallel, its depth is the logarithm of n.

    Args:
      rewards: Reward after each step, real `[..., n]`.
      values: Value of the state before each step, float `[..., n]`.
      discount: Worth of a reward one step later, in [0, 1]; a number or `[..., n]`.
      trace: How far errors are passed back, lambda, in [0, 1]; a number or `[..., n]`.
      terminations: Whether the episode ended with each step, bool `[..., n]`.
      truncations: Whether it was cut off after each step, bool `[..., n]`.
      next_values: Value of the state after each step, float `[..., n]`; or of that after the last step, `[...]`, the
        others are `values` then; `None` is 0 there.
      where: Steps that exist, bool `[..., n]`.

    Returns:
      `Returns` of advantages and returns, without gradient.

    Raises:
      TypeError: if `values` are not floating point or flags not bool.
      ValueError: if shapes do not fit, a number is outside [0, 1], or `truncations` come without `next_values` of
        each step.

    Example:
      >>> import jax.numpy as jnp
      >>> rewards, values = jnp.array([0.0, 0.0, 1.0, 9.0]), jnp.array([0.5, 0.5, 0.5, 9.0])
      >>> where = jnp.array([True, True, True, False])
      >>> advantages, returns = gae(rewards, values, discount=1.0, trace=0.5, where=where)
      >>> advantages.tolist(), returns.tolist()  # the last error is 1 - 0.5
      ([0.125, 0.25, 0.5, 0.0], [0.625, 0.75, 1.0, 0.0])

    Reference:
      Schulman et al., *High-dimensional continuous control using generalized advantage estimation*, 2016; Pardo et al.,
      *Time limits in reinforcement learning*, 2018.
    """
    _check.fraction(trace=trace)
    steps = _steps(rewards, values, discount, terminations, truncations, next_values, where)
    _, trace = masked(where, steps.values, trace)
    advantages = _scanned(steps, steps.errors, lax.stop_gradient(trace))
    return _at_steps(steps, advantages, advantages + steps.values)


def vtrace(
    rewards: jax.Array,
    values: jax.Array,
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    *,
    discount: ArrayLike = 0.99,
    trace: ArrayLike = 1.0,
    clip_error: ArrayLike = 1.0,
    clip_trace: ArrayLike = 1.0,
    terminations: ArrayLike | None = None,
    truncations: ArrayLike | None = None,
    next_values: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Returns:
    r"""V-trace: advantages and returns of a policy from steps that an older one has taken.

    .. math:: R_t = V_t + \rho_t \delta_t + \gamma c_t (R_{t + 1} - V_{t + 1}), \qquad
        A_t = \rho_t \big(r_t + \gamma R_{t + 1} - V_t\big), \\
        \rho_t = \min(\bar\rho, r_t), \quad c_t = \lambda \min(\bar c, r_t), \qquad
        r_t = \frac{\pi(a_t)}{\pi_{\mathrm{old}}(a_t)}

    The bound of errors decides what is learned: at infinity the values of the policy itself, below it those of one
    between the two. That of traces only trades variance for speed. The ratio is in the advantages already: the loss is
    `losses.policy_gradient(log_probs, log_probs, advantages)`, without a ratio once more. On policy it is `gae` with
    the trace 1; with a smaller one its advantages look one step further than those of `gae`.

    Args:
      rewards: Reward after each step, real `[..., n]`.
      values: Value of the state before each step, float `[..., n]`.
      log_probs: Log-probability of the action of each step, float `[..., n]`.
      old_log_probs: That by the policy that took it, float `[..., n]`.
      discount: Worth of a reward one step later, in [0, 1]; a number or `[..., n]`.
      trace: How far errors are passed back, lambda, in [0, 1]; a number or `[..., n]`.
      clip_error: Bound of the ratio that multiplies errors, positive; inf is none.
      clip_trace: Bound of the ratio that multiplies traces, positive, at most `clip_error`.
      terminations: Whether the episode ended with each step, bool `[..., n]`.
      truncations: Whether it was cut off after each step, bool `[..., n]`.
      next_values: Value of the state after each step, float `[..., n]`; or of that after the last step, `[...]`, the
        others are `values` then; `None` is 0 there.
      where: Steps that exist, bool `[..., n]`.

    Returns:
      `Returns` of advantages and returns, without gradient.

    Raises:
      TypeError: if values or log-probabilities are not floating point or flags not bool.
      ValueError: if shapes do not fit, a number is outside its range, or `truncations` come without `next_values` of
        each step.

    Example:
      >>> import jax.numpy as jnp
      >>> rewards, values = jnp.array([0.0, 1.0]), jnp.array([0.0, 0.5])
      >>> old, new = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 1.0]))  # ratios 1/2 and 2
      >>> advantages, returns = vtrace(rewards, values, new, old, discount=1.0)
      >>> [round(x, 4) for x in returns.tolist()]  # 1/2 0.5 + 1/2 0.5 and 0.5 + 0.5
      [0.5, 1.0]
      >>> [round(x, 4) for x in advantages.tolist()]
      [0.5, 0.5]

    Reference:
      Espeholt et al., *IMPALA: scalable distributed deep-RL with importance weighted actor-learner architectures*,
      2018.
    """
    _check.fraction(trace=trace)
    _check.floating(log_probs=log_probs, old_log_probs=old_log_probs)
    _check.same_shape(values=values, log_probs=log_probs, old_log_probs=old_log_probs)
    _check.positive(clip_error=clip_error, clip_trace=clip_trace)
    steps = _steps(rewards, values, discount, terminations, truncations, next_values, where)
    given = masked(where, steps.values, log_probs, old_log_probs, trace, clip_error, clip_trace)
    new, old, trace, *bounds = (lax.stop_gradient(x) for x in given[1:])
    gap, rest = difference(new, old)

    def at_most(bound):
        high = gap >= jnp.log(bound)
        gap_inside = jnp.where(high, 0, gap)
        return jnp.where(high, bound, times(jnp.ones_like(gap), gap_inside, rest))

    weight, other = map(at_most, bounds)
    passed = _scanned(steps, weight * steps.errors, trace * other)
    # What the steps after it add; behind a step that does not exist stands what it was told.
    later = jnp.concatenate([passed[..., 1:], jnp.zeros_like(passed[..., :1])], axis=-1)
    later = jnp.where(steps.follows, steps.discount * later, 0)
    return _at_steps(steps, weight * (steps.errors + later), steps.values + passed)
