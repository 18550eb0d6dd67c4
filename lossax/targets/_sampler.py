"""Weights for tokens that were drawn by something that is not quite the policy."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _importance
from lossax._importance import difference, times
from lossax._reduction import masked
from lossax._sequences import existing


def importance_weights(
    log_probs: jax.Array,
    sampler_log_probs: jax.Array,
    *,
    ratio: Literal["token", "sequence", "trajectory"] = "token",
    cap: ArrayLike = 2.0,
    floor: ArrayLike = 0.0,
    beyond: Literal["bound", "zero"] = "bound",
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Importance weights for a sampler that differs from the model that is trained, bounded.

    .. math:: w_t = \min\Big(\frac{\pi(y_t)}{\mu(y_t)},\ C\Big)

    An inference engine with other kernels or fewer bits draws from another distribution than the trainer thinks, which
    lets training drift and collapse. Multiply advantages by these weights: `losses.policy_gradient` of them is what TRL
    and others do. `log_probs` are those that the trainer gives to the tokens when they come in, the `old_log_probs` of
    the loss.

    * TIS: `cap=2.0`; TRL's `"token_truncate"` has 3.0, `"sequence_truncate"` is `ratio="trajectory"`.
    * MIS: `beyond="zero"`, what is out of bounds does not count; `ratio="trajectory"`, `cap=3.0` is TRL's default
      `"sequence_mask"`, `ratio="sequence"` the geometric mean, whose bounds do not depend on the length.
    * IcePop: `floor=0.5`, `cap=5.0`, `beyond="zero"`.

    Args:
      log_probs: Log-probability of each token by the model, float `[..., n]`.
      sampler_log_probs: That which the sampler reports, float `[..., n]`.
      ratio: What a ratio is of: a `"token"`, the geometric mean of a `"sequence"`, or their product, `"trajectory"`.
      cap: Largest weight, positive.
      floor: Smallest weight, nonnegative.
      beyond: What becomes of a ratio beyond these bounds: the bound, or zero.
      where: Tokens that exist, bool `[..., n]`.

    Returns:
      Float `[..., n]`, 0 where there is no token, without gradient.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ, a choice is unknown or a number is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> model, sampler = jnp.log(jnp.array([0.5, 0.5, 0.5])), jnp.log(jnp.array([0.5, 0.25, 0.1]))
      >>> [round(x, 4) for x in importance_weights(model, sampler, cap=2.5).tolist()]
      [1.0, 2.0, 2.5]
      >>> [round(x, 4) for x in importance_weights(model, sampler, cap=2.5, beyond="zero").tolist()]
      [1.0, 2.0, 0.0]

    Reference:
      Yao et al., *Your efficient RL framework secretly brings you off-policy RL training*, 2025 (TIS); Liu et al.,
      *When speed kills stability: demystifying RL collapse from the training-inference mismatch*, 2025 (MIS).
    """
    _check.floating(log_probs=log_probs, sampler_log_probs=sampler_log_probs)
    _check.same_shape(log_probs=log_probs, sampler_log_probs=sampler_log_probs)
    _check.units_of({"log_probs": log_probs})
    _check.choice(get_args(_importance.Level), ratio=ratio)
    _check.choice(("bound", "zero"), beyond=beyond)
    _check.positive(cap=cap)
    _check.nonnegative(floor=floor)
    new, old, cap, floor = (lax.stop_gradient(x) for x in masked(where, log_probs, sampler_log_probs, cap, floor))
    exist = existing(new, 0, where=where)[1]
    gap, rest = _importance.of_level(ratio, *difference(new, old), exist.astype(new.dtype))
    low, high = gap < jnp.log(floor), gap > jnp.log(cap)
    nothing = jnp.zeros_like(gap)
    weights = times(jnp.ones_like(gap), jnp.where(low | high, nothing, gap), rest)
    bound = jnp.where(low, floor, cap) if beyond == "bound" else nothing
    return jnp.where(exist, jnp.where(low | high, bound, weights), nothing)
