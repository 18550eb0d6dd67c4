"""How far a policy has gone from its reference, by answers that were not meant for the prompt."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._preferences import difference
from lossax._reduction import masked, reduce


def kl_reference_point(
    log_probs: jax.Array,
    reference_log_probs: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    r"""The reference point of `losses.kto`: a KL divergence, estimated from answers to other prompts.

    .. math:: z_0 = \max\Big(0,\ \operatorname{mean}_i \log \frac{\pi(y_i' \mid x_i)}
        {\pi_{\mathrm{ref}}(y_i' \mid x_i)}\Big)

    :math:`y'` is an answer to another prompt: that of the neighbour in the batch, `jnp.roll(answers, 1, axis=0)`, or
    where a batch may hold one prompt alone, any other one of the data. It has no gradient, and over devices it is the
    mean of all, where TRL takes the mean of their means.

    Args:
      log_probs: Log-probability of the mismatched answers, sums over their tokens, float `[...]`.
      reference_log_probs: Log-probability of them by the reference policy, float `[...]`.
      where: Answers to keep, bool `[...]`.
      weights: Weight of each answer, float `[...]`.
      axis_name: Mesh axis over which the answers are spread, inside `jax.shard_map`; each device gets the whole mean.

    Returns:
      A scalar, nonnegative; 0 if nothing is kept.

    Raises:
      TypeError: if log-probabilities are not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> kl_reference_point(jnp.array([-2.0, -3.0]), jnp.array([-5.0, -2.0])).item()  # (3 - 1) / 2
      1.0

    Reference:
      Ethayarajh et al., *KTO: model alignment as prospect theoretic optimization*, 2024.
    """
    _check.floating(log_probs=log_probs, reference_log_probs=reference_log_probs)
    _check.same_shape(log_probs=log_probs, reference_log_probs=reference_log_probs)
    log_probs, reference_log_probs = masked(where, log_probs, reference_log_probs)
    zero = jnp.zeros((), log_probs.dtype)
    ratio = difference(log_probs, reference_log_probs, zero, zero)
    return lax.stop_gradient(jnp.maximum(reduce(ratio, where, weights, "mean", axis_name), 0.0))
