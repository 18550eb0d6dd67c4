"""Policy gradients on sampled tokens, what keeps a policy near another one, and the loss of its value function."""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _importance
from lossax._importance import difference, excess, of_tokens, times
from lossax._numerics import divide, scaled, sigmoid_pair, with_slopes
from lossax._reduction import masked, reduce, unit_weights
from lossax._types import Reduction

_Ratio = Literal["token", "sequence", "sequence_token", "geometric", "trajectory"]
_Clipping = Literal["objective", "weight", "gate"]
_Aggregation = Literal["token", "sequence", "constant"]


def _aggregated(
    values: jax.Array,
    aggregation: _Aggregation,
    length: ArrayLike | None,
    axis_name: str | None,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
) -> jax.Array:
    """`reduce`, with tokens weighted such that all of them, or all sequences, count alike."""
    _check.choice(get_args(_Aggregation), aggregation=aggregation)
    if aggregation == "token":
        return reduce(values, where, weights, reduction, axis_name)
    kept = unit_weights(values.shape, where, weights, dtype=values.dtype)
    if aggregation == "sequence":
        share = divide(kept, jnp.sum(kept, axis=-1, keepdims=True))
        return reduce(values, where, share, reduction, axis_name)
    if length is None:
        length = float(max(values.shape[-1], 1))
    _check.positive(length=length)
    share = kept / masked(None, values, length)[1]
    if reduction != "mean":
        return reduce(values, where, share, reduction, axis_name)
    sequences = math.prod(values.shape[:-1]) * (1 if axis_name is None else lax.axis_size(axis_name))
    return reduce(values, where, share / max(sequences, 1), "sum", axis_name)


def _within(gap: jax.Array, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where a ratio is inside its bounds, NaN too, and the bound that holds where it is not."""
    below, above = gap <= jnp.log(lax.stop_gradient(low)), gap >= jnp.log(lax.stop_gradient(high))
    return ~(below | above), jnp.where(below, low, high)


def _finite(gap: jax.Array) -> jax.Array:
    """0 where the policy has ruled a token out: whatever it is multiplied by has vanished."""
    return jnp.where(jnp.isinf(gap), 0, gap)


def policy_gradient(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    *,
    ratio: Literal["token", "sequence", "sequence_token", "geometric", "trajectory"] = "token",
    clipping: Literal["objective", "weight", "gate"] = "objective",
    clip_low: ArrayLike = 0.2,
    clip_high: ArrayLike = 0.2,
    ceiling: ArrayLike | None = None,
    temperature_positive: ArrayLike = 1.0,
    temperature_negative: ArrayLike = 1.05,
    aggregation: Literal["token", "sequence", "constant"] = "token",
    length: ArrayLike | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Policy gradient on tokens that an older policy has sampled: PPO, GRPO and all that differ from them by a line.

    .. math:: -\min\big(r_t A_t,\ \operatorname{clip}(r_t, 1 - \epsilon_l, 1 + \epsilon_h) A_t\big), \qquad
        r_t = \frac{\pi(y_t)}{\pi_{\mathrm{old}}(y_t)}

    Three choices that do not depend on each other. What a *ratio* is of:

    * `"token"`: each token.
    * `"sequence"`: the geometric mean of a sequence, by the weights of its tokens, the same at each of them.
    * `"sequence_token"`: that in value, while a token has the gradient of its own log-probability alone.
    * `"geometric"`: as `"sequence"`, but tokens are clipped one by one before the mean.
    * `"trajectory"`: the product over a sequence, without bias and of large variance.

    What *clipping* bounds:

    * `"objective"`: the gain, as above. A token that has gone too far the way it should go has no gradient.
    * `"weight"`: the ratio as a constant factor of :math:`-A_t \log \pi(y_t)`, on both sides, whatever the sign of A.
      Every token keeps a gradient.
    * `"gate"`: nothing; :math:`\frac 4 \tau \sigma(\tau (r_t - 1))` takes the place of the ratio, its gradient fades.

    What *aggregation* makes alike: each `"token"`, each `"sequence"` by the mean of its tokens, or, by a `"constant"`,
    tokens again, with their sum over the number of sequences times `length` for a mean. Long sequences with a bad
    outcome are let off lightly by `"sequence"`. Methods by name:

    * REINFORCE: `clipping="weight"` and `log_probs` as the old ones too.
    * PPO: as it is. Dual clip: `ceiling=3.0`. Two-sided GRPO: `ceiling=delta`.
    * GRPO: `aggregation="sequence"`; the paper adds 0.04 of `kl_estimate` of the same aggregation.
    * Dr. GRPO: `aggregation="constant"`, `length` the longest that may be; advantages with `scale="none"`.
    * DAPO: `clip_high=0.28` and `axis_name`. BNPO is the same without `axis_name`.
    * GSPO: `ratio="sequence"` (GSPO-token: `"sequence_token"`), `clip_low=3e-4`, `clip_high=4e-4`,
      `aggregation="sequence"`. LUSPO: `aggregation="constant"`, `length=1`.
    * CISPO: `clipping="weight"`, `clip_low=1.0`, `clip_high=4.0`, one less than `epsilon_high` of TRL.
    * GMPO: `ratio="geometric"`, `clip_low=0.33`, `clip_high=0.49` (ratios from exp(-0.4) to exp(0.4)),
      `aggregation="sequence"`.
    * SAPO: `clipping="gate"`, `aggregation="sequence"`.
    * RLOO: `ratio="trajectory"`, `aggregation="sequence"`, advantages with `baseline="leave_one_out"`.

    TRL and Liger have them as `loss_type` and `importance_sampling_level`, up to this: in a mean over sequences one
    with nothing kept does not count here, there it counts as 0. On policy, where there are no old log-probabilities,
    pass `log_probs` twice: the gradient is by the first alone, old ones and advantages are constants.

    A mismatch between sampler and trainer is a factor of advantages: `advantages * targets.importance_weights(...)`.
    Whatever comes from the sampler is aligned with `targets.next_tokens`: a token stands where it was predicted.
    Advantages come from `targets.group_advantages` or `targets.gae`, log-probabilities for instance from
    `activations.linear_log_probs`; an entropy bonus is `confidence_penalty`; `metrics.policy_statistics` says how far
    the policy has moved. Over micro-batches add up sums, and what they are a mean over: `unit_weights` for `"token"`,
    otherwise the number of sequences.

    What is clipped has no gradient and is finite, whatever the ratio. Where a ratio above exp(88) is not clipped
    (negative advantages without `ceiling`), the loss is truly that large, infinity in float32.

    Args:
      log_probs: Log-probability of each token, float `[..., n]`; n tokens of a sequence.
      old_log_probs: Those of the policy that is behind the ratio, float `[..., n]`.
      advantages: By how much better a token, or its sequence, was than expected, float `[..., n]` or `[...]`.
      ratio: What a ratio is of.
      clipping: What the bounds bound.
      clip_low: By how much the ratio may fall below 1, in [0, 1]; 1 is no bound.
      clip_high: By how much it may rise above 1, nonnegative; inf is no bound.
      ceiling: Bound of the ratio where the advantage is negative, above `1 + clip_high`; `None` is none. Of the
        objective alone.
      temperature_positive: How fast the gate closes where the advantage is positive, positive.
      temperature_negative: How fast it does elsewhere, positive.
      aggregation: What counts alike in the mean.
      length: Of a sequence, for the constant, positive; `None` is n.
      axis_name: Mesh axis over which the sequences are spread, inside `jax.shard_map`: the mean is over all of them.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`; its gradient matters, not its sign.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit, a choice is unknown or a hyperparameter is outside its range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> old, advantages = jnp.log(jnp.array([[0.5, 0.5, 0.5]])), jnp.array([[1.0, 1.0, -1.0]])
      >>> new = jnp.log(jnp.array([[0.55, 0.75, 0.75]]))  # ratios 1.1, 1.5, 1.5
      >>> f = lambda x: policy_gradient(x, old, advantages, reduction="none")
      >>> [round(x, 4) for x in f(new)[0].tolist()]
      [-1.1, -1.2, 1.5]
      >>> slope = jax.grad(lambda x: f(x).sum())(new)
      >>> [round(x, 4) for x in slope[0].tolist()]  # the second is clipped
      [-1.1, 0.0, 1.5]

    Reference:
      Williams, *Simple statistical gradient-following algorithms for connectionist reinforcement learning*, 1992;
      Schulman et al., *Proximal policy optimization algorithms*, 2017; Ye et al., *Mastering complex control in MOBA
      games with deep reinforcement learning*, 2020 (dual clip); Shao et al., *DeepSeekMath*, 2024 (GRPO); Ahmadian et
      al., *Back to basics: revisiting REINFORCE style optimization*, 2024 (RLOO); Liu et al., *Understanding
      R1-Zero-like training*, 2025 (Dr. GRPO); Yu et al., *DAPO: an open-source LLM reinforcement learning system at
      scale*, 2025; Zheng et al., *Group sequence policy optimization*, 2025; MiniMax, *MiniMax-M1*, 2025 (CISPO); Zhao
      et al., *Geometric-mean policy optimization*, 2025; Gao et al., *Soft adaptive policy optimization*, 2025.
    """
    _check.floating(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    _check.units_of({"log_probs": log_probs})
    _check.same_shape(log_probs=log_probs, old_log_probs=old_log_probs)
    _check.choice(get_args(_Ratio), ratio=ratio)
    _check.choice(get_args(_Clipping), clipping=clipping)
    _check.fraction(clip_low=clip_low)
    _check.nonnegative(clip_high=clip_high)
    _check.positive(temperature_positive=temperature_positive, temperature_negative=temperature_negative)
    if ratio == "geometric" and clipping != "objective":
        raise ValueError(f"a geometric ratio is clipped token by token: clipping must be 'objective', got {clipping!r}")
    if ceiling is None:
        ceiling = math.inf
    _check.positive(ceiling=ceiling)
    numbers = (clip_low, clip_high, ceiling, temperature_positive, temperature_negative)
    log_probs, old, gain, *numbers = masked(where, log_probs, old_log_probs, of_tokens(log_probs, advantages), *numbers)
    least, most, ceiling, *temperatures = numbers
    old, gain = lax.stop_gradient((old, gain))
    kept = unit_weights(log_probs.shape, where, weights, dtype=log_probs.dtype)

    low, high = (jnp.zeros_like(gain) + x for x in (1.0 - least, 1.0 + most))
    if clipping == "objective":
        low, high = jnp.where(gain < 0, low, 0), jnp.where(gain > 0, high, ceiling)
    gap, rest = difference(log_probs, old)
    if ratio == "geometric":
        inside, bound = _within(gap, low, high)
        gap = jnp.where(inside, gap, jnp.log(jnp.where(inside, 1, bound)))
        rest = jnp.where(inside, rest, 0)
        low, high = jnp.zeros_like(low), jnp.full_like(high, jnp.inf)
    level = "sequence" if ratio == "sequence_token" or ratio == "geometric" else ratio
    own = _finite(gap) - lax.stop_gradient(_finite(gap))
    gap, rest = _importance.of_level(level, gap, rest, kept)
    if ratio == "sequence_token":
        gap = lax.stop_gradient(gap) + own

    if clipping == "gate":
        tau = jnp.where(gain > 0, *temperatures)
        # Beyond exp(80) the gate has closed, and its slope is 0.
        moved = times(jnp.ones_like(gap), jnp.minimum(gap, 80.0), rest) - 1.0
        values = gain * (4.0 / tau) * sigmoid_pair(tau * moved)[0]
    else:
        inside, bound = _within(gap, low, high)
        inside = inside & (gain != 0)
        free = times(gain, jnp.where(inside, gap, 0), rest)
        values = jnp.where(inside, free, scaled(gain, bound))
        if clipping == "weight":
            values = scaled(lax.stop_gradient(values), log_probs)
    return _aggregated(-values, aggregation, length, axis_name, where, weights, reduction)


def _corrected_slopes(log_probs: jax.Array, reference: jax.Array, old: jax.Array) -> tuple[jax.Array, ...]:
    gap, ratio, one = _finite(reference - log_probs), difference(log_probs, old), jnp.ones_like(old)
    by_policy, by_reference = times(-gap, *ratio), times(one, *difference(reference, old)) - times(one, *ratio)
    return by_policy, by_reference, -_corrected(log_probs, reference, old)


@with_slopes(_corrected_slopes)
def _corrected(log_probs: jax.Array, reference: jax.Array, old: jax.Array) -> jax.Array:
    """The third estimate times the ratio, multiplied out where both may be out of range and their product is not."""
    gap, _ = difference(reference, log_probs)
    far, nothing = gap > 30.0, jnp.zeros_like(gap)
    ratio = difference(log_probs, old)
    apart = times(jnp.ones_like(gap), *difference(reference, old)) - times(1.0 + _finite(gap), *ratio)
    return jnp.where(far, apart, times(excess(jnp.where(far, nothing, gap)), *ratio))


def kl_estimate(
    log_probs: jax.Array,
    reference_log_probs: jax.Array,
    *,
    estimator: Literal["k1", "k2", "k3"] = "k3",
    old_log_probs: ArrayLike | None = None,
    aggregation: Literal["token", "sequence", "constant"] = "token",
    length: ArrayLike | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""KL divergence of a policy from a reference, from the tokens that it has sampled.

    .. math:: k_1 = -\log s, \quad k_2 = \tfrac 1 2 (\log s)^2, \quad k_3 = s - 1 - \log s, \qquad
        s = \frac{\pi_{\mathrm{ref}}(y)}{\pi(y)}

    Added to `policy_gradient`, with the same aggregation, or taken off rewards. An estimate is one thing, its gradient
    another. Of tokens that the policy itself has sampled:

    * `"k1"`: mean right, of either sign and large variance near 0; far from the reference the one to report. Its
      gradient is 0 on average: no use as a loss.
    * `"k2"`: mean biased. The gradient on average is that of KL(policy, reference): the one to use as a loss.
    * `"k3"`: mean right, small variance near 0, huge far from it. The gradient on average is that of KL(reference,
      policy), a different divergence that agrees near 0. GRPO's, and the default of TRL, Liger and verl.

    Of tokens from an older policy all of that is off. With `old_log_probs` the estimate is multiplied by the ratio
    :math:`\pi(y) / \pi_{\mathrm{old}}(y)`, which has a gradient: value and gradient of `"k1"` and `"k3"` are then those
    of KL(policy, reference), on policy too, where `log_probs` are passed twice (TRL: `use_bias_correction_kl`).

    `"k3"` grows as s does, and is infinity in float32 where the reference makes a token more than exp(88) times as
    likely. Other libraries clamp there, which hides it and has no gradient; use `"k2"`.

    Args:
      log_probs: Log-probability of each token, float `[...]`.
      reference_log_probs: Those of the reference, float `[...]`.
      estimator: `"k1"`, `"k2"` or `"k3"`.
      old_log_probs: Those of the policy that has sampled, float `[...]`, constants; `None` is no ratio.
      aggregation: `"token"`, `"sequence"` or `"constant"`, as in `policy_gradient`; the last axis is a sequence.
      length: Of a sequence, for the constant, positive; `None` is that of the axis.
      axis_name: Mesh axis over which the sequences are spread, inside `jax.shard_map`: the mean is over all of them.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; `"k2"` and `"k3"` are nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ, or a choice is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> policy, reference = jnp.log(jnp.array([0.5])), jnp.log(jnp.array([0.25]))
      >>> [round(kl_estimate(policy, reference, estimator=k).item(), 4) for k in ("k1", "k2", "k3")]  # log 2
      [0.6931, 0.2402, 0.1931]

    Reference:
      Schulman, *Approximating KL divergence*, 2020; Tang and Munos, *On a few pitfalls in KL divergence gradient
      estimation for RL*, 2025; DeepSeek-AI, *DeepSeek-V3.2*, 2025 (with the ratio).
    """
    _check.floating(log_probs=log_probs, reference_log_probs=reference_log_probs)
    _check.same_shape(log_probs=log_probs, reference_log_probs=reference_log_probs)
    _check.choice(("k1", "k2", "k3"), estimator=estimator)
    _check.choice(get_args(_Aggregation), aggregation=aggregation)
    if aggregation != "token":
        _check.units_of({"log_probs": log_probs})
    log_probs, reference = masked(where, log_probs, reference_log_probs)
    gap, rest = difference(reference, log_probs)
    old = None
    if old_log_probs is not None:
        _check.floating(old_log_probs=old_log_probs)
        _check.same_shape(log_probs=log_probs, old_log_probs=old_log_probs)
        old = lax.stop_gradient(masked(where, log_probs, old_log_probs)[1])
    if estimator == "k3" and old is not None:
        values = _corrected(log_probs, reference, old)
    elif estimator == "k3":
        values = excess(gap) * jnp.where(gap > 1.0, 1.0 + lax.stop_gradient(rest), 1.0)
    else:
        values = -gap if estimator == "k1" else 0.5 * jnp.square(gap)
        values = values if old is None else times(values, *difference(log_probs, old))
    return _aggregated(values, aggregation, length, axis_name, where, weights, reduction)


def clipped_value(
    values: jax.Array,
    old_values: jax.Array,
    returns: jax.Array,
    *,
    clip: ArrayLike = 0.2,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Half the squared error of a value function that shall not move far in one update.

    .. math:: \tfrac 1 2 \max\big((v - R)^2,\ (v_c - R)^2\big), \qquad
        v_c = v_{\mathrm{old}} + \operatorname{clip}(v - v_{\mathrm{old}}, -\epsilon, \epsilon)

    The value loss of PPO as its code has it; where it has moved that far towards the returns it has no gradient. Of
    doubtful use (Andrychowicz et al., *What matters in on-policy reinforcement learning*, 2021): `0.5 *
    squared_error(values, returns)` or `huber` often do as well. Weighted by 0.5 (baselines) or 0.1 (TRL) beside
    `policy_gradient`. The bound is in units of the returns.

    Args:
      values: Values, float `[...]`.
      old_values: Those before the update, float `[...]`.
      returns: What they should be, such as from `targets.gae`, float `[...]`.
      clip: How far a value may move, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ or `clip` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> values, returns = jnp.array([1.0, 0.1]), jnp.array([2.0, 2.0])
      >>> loss = clipped_value(values, jnp.zeros(2), returns, reduction="none")
      >>> [round(x, 4) for x in loss.tolist()]  # (0.2 - 2)^2 / 2, (0.1 - 2)^2 / 2
      [1.62, 1.805]

    Reference:
      Schulman et al., *Proximal policy optimization algorithms*, 2017; Engstrom et al., *Implementation matters in deep
      policy gradients*, 2020.
    """
    _check.floating(values=values, old_values=old_values, returns=returns)
    _check.same_shape(values=values, old_values=old_values, returns=returns)
    _check.positive(clip=clip)
    values, old, returns, clip = masked(where, values, old_values, returns, clip)
    error, step = values - returns, values - old
    held = (old - returns) + jnp.sign(step) * clip
    further = (jnp.abs(step) > clip) & (jnp.abs(held) > jnp.abs(error))
    return reduce(0.5 * jnp.square(jnp.where(further, held, error)), where, weights, reduction)
