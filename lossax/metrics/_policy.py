"""How far a policy has moved from the one that sampled."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _devices, _importance
from lossax._importance import difference
from lossax._numerics import divide
from lossax._reduction import masked, reduce, unit_weights


def policy_statistics(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    *,
    ratio: Literal["token", "sequence", "trajectory"] = "token",
    clip_low: ArrayLike = 0.2,
    clip_high: ArrayLike = 0.2,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> dict[str, jax.Array]:
    r"""What to watch while `losses.policy_gradient` is trained: ratios, what is clipped, KL, effective sample size.

    .. math:: \mathrm{ESS} = \frac{(\sum w r)^2}{\sum w\, \sum w r^2}, \qquad
        \mathrm{KL}(\pi_{\mathrm{old}}, \pi) \approx \frac{\sum w\, (r - 1 - \log r)}{\sum w}, \qquad
        r = \frac{\pi(y)}{\pi_{\mathrm{old}}(y)}

    A few percent of tokens clipped and a KL of some 1e-3 are usual. A ratio far from 1 at the first update on fresh
    tokens is a mismatch of sampler and trainer, see `targets.importance_weights`.

    Args:
      log_probs: Log-probability of each token, float `[..., n]`.
      old_log_probs: Those of the policy that is behind the ratio, float `[..., n]`.
      advantages: By how much better a token, or its sequence, was than expected, float `[..., n]` or `[...]`.
      ratio: What a ratio is of: a `"token"`, the geometric mean of a `"sequence"`, or their product, `"trajectory"`.
      clip_low: By how much the ratio may fall below 1, in [0, 1].
      clip_high: By how much it may rise above 1, nonnegative.
      axis_name: Mesh axis over which the sequences are spread, inside `jax.shard_map`.
      where: Tokens to keep, bool `[..., n]`.
      weights: Weight of each token, float `[..., n]`.

    Returns:
      Scalars, means over tokens, by name: `"ratio_mean"`, `"ratio_max"`; `"clipped_low"` and `"clipped_high"`, the
      shares of tokens that have no gradient because the ratio is below (of a negative advantage) or above (of a
      positive one); `"kl"`; `"effective_sample_size"`, as a share of the tokens; `"entropy"`, the mean surprise, which
      estimates it if the policy itself has sampled. All 0 if nothing is kept.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit, a choice is unknown or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> old, new = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))  # ratios 1/2, 3/2
      >>> found = policy_statistics(new, old, jnp.array([-1.0, -1.0]))
      >>> {name: round(x.item(), 3) for name, x in found.items() if name.startswith(("ratio", "clip"))}
      {'ratio_mean': 1.0, 'ratio_max': 1.5, 'clipped_low': 0.5, 'clipped_high': 0.0}
      >>> round(found["effective_sample_size"].item(), 3)  # 2^2 / (2 (1/4 + 9/4))
      0.8
    """
    _check.floating(log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages)
    _check.units_of({"log_probs": log_probs})
    _check.same_shape(log_probs=log_probs, old_log_probs=old_log_probs)
    _check.choice(get_args(_importance.Level), ratio=ratio)
    _check.fraction(clip_low=clip_low)
    _check.nonnegative(clip_high=clip_high)
    advantages = _importance.of_tokens(log_probs, advantages)
    given = masked(where, log_probs, old_log_probs, advantages, clip_low, clip_high)
    new, old, gain, low, high = (lax.stop_gradient(x) for x in given)
    kept = unit_weights(new.shape, where, weights, dtype=new.dtype)
    gap, rest = _importance.of_level(ratio, *difference(new, old), kept)

    def mean(values):
        return reduce(values, kept > 0, kept, "mean", axis_name)

    def total(values):
        return _devices.total(jnp.sum(values), axis_name)

    # In units of the largest ratio, whose square would overflow.
    top = _devices.largest(jnp.max(jnp.where(kept > 0, gap, -jnp.inf), initial=-jnp.inf), axis_name)
    some = ~jnp.isneginf(top)
    top = jnp.where(some, top, 0)
    share = jnp.exp(gap - top)
    size = divide(total(kept * share) ** 2, total(kept) * total(kept * share * share))
    ratios = jnp.exp(gap) * (1.0 + rest)
    return {
        "ratio_mean": mean(ratios),
        "ratio_max": jnp.where(some, jnp.exp(top), 0),
        "clipped_low": mean(((gain < 0) & (gap <= jnp.log1p(-low))).astype(gap.dtype)),
        "clipped_high": mean(((gain > 0) & (gap >= jnp.log1p(high))).astype(gap.dtype)),
        "kl": mean(_importance.excess(gap)),
        "effective_sample_size": size,
        "entropy": mean(-new),
    }
