"""Log-probabilities of tokens become those of sequences."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import divide, scaled
from lossax._reduction import masked, unit_weights


class SequenceLogProbs(NamedTuple):
    """Log-probability of each sequence, the sum over its tokens, and how many these are; float `[...]`."""

    sums: jax.Array
    lengths: jax.Array

    @property
    def means(self) -> jax.Array:
        """The mean over tokens, float `[...]`; 0 for a sequence without any."""
        return divide(self.sums, self.lengths)


def sequence_log_probs(
    log_probs: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> SequenceLogProbs:
    r"""Log-probability of each sequence from those of its tokens, and its length: what preference losses take.

    .. math:: \log \pi(y \mid x) = \sum_t \log \pi(y_t \mid y_{<t}, x)

    `where` keeps the tokens of the answer: no prompt, no padding. Sums are what `losses.dpo` and most others are about;
    those that compare means (`losses.simpo`, `losses.orpo`) take sums and lengths, and `.means` are for losses that may
    be used with either. Per-token log-probabilities come from `activations.linear_log_probs` without any logits, or are
    `-losses.softmax_cross_entropy_with_integer_labels(logits, labels, where=where, reduction="none")`.

    Length-desensitised DPO counts what a sequence has beyond the length m of the shorter one of its pair less, which is
    `weights=jnp.where(jnp.cumsum(where, -1) <= m[:, None], 1.0, alpha)`, for policy and reference.

    Args:
      log_probs: Log-probability of each token, float `[..., n]`.
      where: Tokens that count, bool `[..., n]`; what others hold, be it NaN, reaches nothing.
      weights: Weight of each token, float `[..., n]`, in sums and lengths.

    Returns:
      A `SequenceLogProbs` of sums and lengths, both `[...]`, float32 for 16-bit log-probabilities.

    Raises:
      TypeError: if `log_probs` are not floating point, `where` is not bool or `weights` not real.
      ValueError: if `where` or `weights` do not broadcast to the tokens.

    Example:
      >>> import jax.numpy as jnp
      >>> log_probs = jnp.array([[-1.0, -2.0, -4.0], [-1.0, jnp.nan, jnp.nan]])
      >>> where = jnp.array([[True, True, True], [True, False, False]])
      >>> sums, lengths = sequence_log_probs(log_probs, where=where)
      >>> sums.tolist(), lengths.tolist()
      ([-7.0, -1.0], [3.0, 1.0])
      >>> sequence_log_probs(log_probs, where=where, weights=jnp.array([1.0, 1.0, 0.25])).sums.tolist()
      [-4.0, -1.0]

    Reference:
      Rafailov et al., *Direct preference optimization: your language model is secretly a reward model*, 2023; Liu et
      al., *Length desensitization in direct preference optimization*, 2024 (weights).
    """
    _check.floating(log_probs=log_probs)
    _check.units_of({"log_probs": log_probs})
    (log_probs,) = masked(where, log_probs)
    kept = unit_weights(log_probs.shape, where, weights, dtype=log_probs.dtype)
    return SequenceLogProbs(jnp.sum(scaled(kept, log_probs), axis=-1), jnp.sum(kept, axis=-1))
