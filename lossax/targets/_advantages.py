"""How much better than its like an answer was: rewards as advantages."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _devices
from lossax._numerics import divide, sqrt
from lossax._reduction import masked
from lossax._sequences import existing


def _deviations(
    x: jax.Array, keep: jax.Array, ddof: int, axis_name: str | None, axis: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Less their mean, the standard deviation and the number of those kept, along an axis or all; equals give exact 0.

    Counted from the largest and in units of the range, so that squares neither overflow nor vanish.
    """

    def total(array):
        return _devices.total(jnp.sum(array, axis=axis, keepdims=axis is not None), axis_name)

    top = _devices.largest(jnp.max(jnp.where(keep, x, -jnp.inf), axis=axis, keepdims=axis is not None), axis_name)
    top = jnp.where(jnp.isfinite(top), top, 0)
    x = jnp.where(keep, x - top, 0)
    number = total(keep.astype(x.dtype))
    x = jnp.where(keep, x - divide(total(x), number), 0)
    size = _devices.largest(jnp.max(jnp.abs(x), axis=axis, keepdims=axis is not None), axis_name)
    squares = total(jnp.square(divide(x, size + jnp.zeros_like(x))))
    freedom = number - float(ddof)
    variance = jnp.where(freedom > 0, divide(squares, freedom), 0)
    return x, size * sqrt(variance), number


def group_advantages(
    rewards: jax.Array,
    *,
    baseline: Literal["mean", "leave_one_out"] = "mean",
    scale: Literal["group", "batch", "none"] = "group",
    ddof: int = 1,
    epsilon: ArrayLike = 1e-4,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Rewards of several answers to one prompt as advantages: each less what the group got on average.

    .. math:: A_i = \frac{r_i - \bar r}{\operatorname{std}(r) + \epsilon}

    The baseline of GRPO and its kin, in place of a value function. Names:

    * GRPO: as it is, which is TRL's `scale_rewards="group"` and epsilon too (the paper has none).
    * Dr. GRPO: `scale="none"`; dividing favours prompts that are nearly always or never solved.
    * Lite PPO: `scale="batch"`, the deviation of all rewards there are.
    * RLOO: `baseline="leave_one_out"`, `scale="none"`: the mean of the others, which makes the estimate unbiased; it is
      the difference to the mean times G / (G - 1).
    * REINFORCE++: `scale="none"`, then `whitened` over the batch. GDPO: each of several rewards by itself, the sum of
      these, then `whitened`.

    A reward that is not finite (an answer that could not be scored) is as if it were not there, and has the advantage
    0, as do groups of one answer and groups whose rewards are all alike, exactly. DAPO samples other prompts in place
    of these: they are where `advantages` are 0 all along the group. Groups of different sizes come with `where`; from
    flat arrays, `padded_lists` makes rows.

    Args:
      rewards: Rewards of the answers to each prompt, float `[..., G]`.
      baseline: What is taken off: the mean, or the mean of the others.
      scale: By the standard deviation of what to divide.
      ddof: Taken off the number in the variance: 1 as in torch and TRL, or 0.
      epsilon: Added to the standard deviation, nonnegative.
      axis_name: Mesh axis over which the groups are spread, inside `jax.shard_map`: for `"batch"`.
      where: Answers that there are, bool `[..., G]`.

    Returns:
      Float `[..., G]`, without gradient.

    Raises:
      TypeError: if `rewards` are not floating point or `ddof` is no int.
      ValueError: if `rewards` have no axis, a choice is unknown or a number is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> rewards = jnp.array([[1.0, 0.0, 1.0, 2.0], [3.0, 3.0, jnp.nan, 3.0]])
      >>> group_advantages(rewards, scale="none").tolist()
      [[0.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
      >>> advantages = group_advantages(rewards)  # the deviation is sqrt(2/3)
      >>> [round(x, 3) for x in advantages[0].tolist()]
      [0.0, -1.225, 0.0, 1.225]
      >>> others = group_advantages(rewards, baseline="leave_one_out", scale="none")
      >>> [round(x, 3) for x in others[0].tolist()]  # 0 - 4/3, 2 - 2/3
      [0.0, -1.333, 0.0, 1.333]

    Reference:
      Shao et al., *DeepSeekMath: pushing the limits of mathematical reasoning in open language models*, 2024; Kool, van
      Hoof and Welling, *Buy 4 REINFORCE samples, get a baseline for free!*, 2019 (leave one out); Liu et al.,
      *Understanding R1-Zero-like training*, 2025; Liu et al., *Tricks or traps? A deep dive into RL for LLM
      reasoning*, 2025 (batch).
    """
    _check.floating(rewards=rewards)
    _check.units_of({"rewards": rewards})
    _check.choice(("mean", "leave_one_out"), baseline=baseline)
    _check.choice(("group", "batch", "none"), scale=scale)
    _check.nonnegative(epsilon=epsilon)
    _check.count(0, ddof=ddof)
    rewards, keep = existing(jnp.asarray(rewards), 0, where=where)
    _, epsilon = masked(None, rewards, epsilon)
    rewards = lax.stop_gradient(rewards)
    keep = keep & jnp.isfinite(rewards)
    if 0 in rewards.shape:
        return rewards
    advantages, deviation, number = _deviations(rewards, keep, ddof, None, -1)
    if baseline == "leave_one_out":
        advantages = advantages * divide(number, number - 1.0)
    if scale == "none":
        return advantages
    if scale == "batch":
        deviation = _deviations(rewards, keep, ddof, axis_name, None)[1]
    return jnp.where(deviation > 0, divide(advantages, deviation + epsilon + jnp.zeros_like(advantages)), 0.0)


def whitened(
    values: jax.Array,
    *,
    center: bool = True,
    ddof: int = 1,
    epsilon: ArrayLike = 1e-8,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Advantages or rewards of a whole batch, less their mean and over their standard deviation.

    .. math:: \frac{x - \bar x}{\operatorname{std}(x) + \epsilon}

    PPO does so with the advantages of a batch. Rewards are often only divided, `center=False`: the mean stays. Numbers
    that are all alike give 0 (or stay), one alone too. It is `masked_whiten` of TRL, whose epsilon is in the variance.

    Args:
      values: Advantages or rewards, float `[...]`; all axes together.
      center: Whether to take off the mean, or put it back after the division.
      ddof: Taken off the number in the variance: 1 as in torch and TRL, or 0 as in NumPy.
      epsilon: Added to the standard deviation, nonnegative.
      axis_name: Mesh axis over which they are spread, inside `jax.shard_map`.
      where: Which there are, bool `[...]`.

    Returns:
      Float `[...]`, 0 at what there is not, without gradient.

    Raises:
      TypeError: if `values` are not floating point or `ddof` is no int.
      ValueError: if a number is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> x, where = jnp.array([1.0, 2.0, 3.0, jnp.nan]), jnp.array([True, True, True, False])
      >>> whitened(x, where=where).tolist(), whitened(x, center=False, where=where).tolist()
      ([-1.0, 0.0, 1.0, 0.0], [1.0, 2.0, 3.0, 0.0])
    """
    _check.floating(values=values)
    _check.nonnegative(epsilon=epsilon)
    _check.count(0, ddof=ddof)
    values, keep = existing(jnp.asarray(values), 0, where=where)
    _, epsilon = masked(None, values, epsilon)
    values = lax.stop_gradient(values)
    if 0 in values.shape:
        return values
    out, deviation, _ = _deviations(values, keep, ddof, axis_name, None)
    out = jnp.where(deviation > 0, divide(out, deviation + epsilon + jnp.zeros_like(out)), 0)
    if center:
        return out
    mean = jnp.where(keep, values, 0)
    number = _devices.total(jnp.sum(keep.astype(values.dtype)), axis_name)
    mean = divide(_devices.total(jnp.sum(mean), axis_name), number)
    return jnp.where(keep, out + mean, 0)


def overlong_penalty(lengths: jax.Array, *, limit: ArrayLike, buffer: ArrayLike) -> jax.Array:
    r"""What is added to the reward of an answer that is nearly too long, or is: from 0 down to -1.

    .. math:: \operatorname{clip}\Big(\frac{L - b - |y|}{b},\ -1,\ 0\Big)

    A soft line in place of a hard one: an answer that was cut off is not wrong because of that alone. DAPO has a limit
    of 20480 tokens and a buffer of 4096.

    Args:
      lengths: Number of tokens of each answer, real `[...]`.
      limit: Length L at which the penalty is whole, positive.
      buffer: Over how many tokens before that it grows, b, positive.

    Returns:
      Float `[...]`, in [-1, 0].

    Raises:
      TypeError: if `lengths` are not real numbers.
      ValueError: if a number is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> overlong_penalty(jnp.array([10, 80, 90, 100, 120]), limit=100, buffer=20).tolist()
      [0.0, 0.0, -0.5, -1.0, -1.0]

    Reference:
      Yu et al., *DAPO: an open-source LLM reinforcement learning system at scale*, 2025.
    """
    _check.real(lengths=lengths)
    _check.positive(limit=limit, buffer=buffer)
    lengths = jnp.asarray(lengths)
    dtype = lengths.dtype if jnp.issubdtype(lengths.dtype, jnp.floating) else jnp.float32
    _, lengths, limit, buffer = masked(None, jnp.zeros(lengths.shape, dtype), lengths, limit, buffer)
    return jnp.clip((limit - buffer - lengths) / buffer, -1.0, 0.0)
