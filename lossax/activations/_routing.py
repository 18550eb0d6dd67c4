"""What the logits of a router decide."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._reduction import masked, unit_weights


def expert_loads(
    logits: jax.Array,
    *,
    k: int = 1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""How many tokens choose each expert, where each token goes to the k experts with the largest logits.

    .. math:: n_e = \sum_i w_i\, 1[e \in \operatorname{top}_k(z_i)]

    To watch the balance of a mixture of experts, and for `losses.load_balance` over more tokens than a device holds:
    loads of parts add up. It has no gradient. Of equal logits the first are chosen, as by `jax.lax.top_k`.

    Args:
      logits: Logits of the router, float `[..., n, experts]`; an expert at -inf is never chosen.
      k: Number of experts for each token.
      where: Tokens to keep, bool `[..., n]`.
      weights: Weight of each token, float `[..., n]`.

    Returns:
      Float `[..., experts]`; float32 for 16-bit logits.

    Raises:
      TypeError: if `logits` are not floating point or `k` is no Python int.
      ValueError: if `k` is not in [1, experts] or something does not broadcast to `[..., n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[3.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
      >>> expert_loads(logits, k=2).tolist()
      [1.0, 2.0, 1.0]

    Reference:
      Shazeer et al., *Outrageously large neural networks: the sparsely-gated mixture-of-experts layer*, 2017.
    """
    _check.floating(logits=logits)
    _check.units_of({"logits": logits}, axes=2)
    _check.count(k=k)
    experts = _check.spec(logits)[0][-1]
    if k > experts:
        raise ValueError(f"k must be at most the number of experts, got {k} of {experts}")
    (logits,) = masked(where, lax.stop_gradient(jnp.asarray(logits)), event=1)
    kept = unit_weights(logits.shape[:-1], where, weights, dtype=logits.dtype)
    _, chosen = lax.top_k(logits, k)
    expert = lax.broadcasted_iota(chosen.dtype, logits.shape, logits.ndim - 1)
    hit = jnp.any(chosen[..., None, :] == expert[..., None], axis=-1) & ~jnp.isneginf(logits)
    return jnp.sum(jnp.where(hit, kept[..., None], 0), axis=-2)
