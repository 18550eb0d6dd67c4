"""Mixtures of experts: the tokens of a batch or a sequence share the experts; one unit per set of tokens."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import divide, one_hot, softmax_pair
from lossax._reduction import masked, reduce, unit_weights
from lossax._types import Reduction
from lossax.activations import expert_loads


def load_balance(
    logits: jax.Array,
    *,
    k: int = 1,
    loads: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Spreads tokens over the experts of a mixture: the share of each times its mean probability.

    .. math:: E \sum_{e = 1}^E f_e P_e, \qquad
        f_e = \frac 1{k n} \sum_i 1[e \in \operatorname{top}_k(z_i)], \quad
        P_e = \frac 1n \sum_i \mathrm{softmax}(z_i)_e

    Added to the loss of a model with routed experts, with a weight of 1e-2 (Switch) to 1e-3, beside `router_z`. It is 1
    in balance, whatever E and k, and E where one expert gets everything. Shares f have no gradient: experts that get
    more than theirs lose probability. It is that of Switch, and for larger k of DeepSeek and Megatron; Mixtral's
    in Hugging Face Transformers is k times this.

    Which tokens share matters. A set is one unit: `[batch, n, experts]` balances every sequence by itself
    (DeepSeek's), `logits.reshape(-1, experts)` the batch. Small sets force what a specialist should not do (Qiu et
    al.): under automatic sharding a batch is whole whatever its devices, but inside `jax.shard_map`, and over
    micro-batches, hand over the loads of all of them, added up. As these are constants, the mean of the losses of the
    parts, by their numbers of tokens, then is that of the whole.

    Args:
      logits: Logits of the router, float `[..., n, experts]`; -inf is an expert that is never chosen.
      k: Number of experts that each token goes to, those with the largest logits.
      loads: How many tokens go to each expert, real `[..., experts]`, nonnegative, in any unit; by these logits,
        `activations.expert_loads`, if `None`.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, E].

    Raises:
      TypeError: if `logits` are not floating point or `k` is no Python int.
      ValueError: if `k` is not in [1, experts] or `loads` do not fit.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.25]]))
      >>> round(load_balance(logits).item(), 4)  # 2 (3/4 5/8 + 1/4 3/8)
      1.125

      Over two devices:

      >>> from lossax.activations import expert_loads
      >>> def part(logits):
      ...     loads = jax.lax.psum(expert_loads(logits), "data")
      ...     return load_balance(logits, loads=loads)
      >>> parts = jax.vmap(part, axis_name="data")(logits.reshape(2, 2, 2))
      >>> [round(x, 4) for x in parts.tolist()], round(parts.mean().item(), 4)
      ([1.25, 1.0], 1.125)

    Reference:
      Fedus, Zoph and Shazeer, *Switch transformers: scaling to trillion parameter models with simple and efficient
      sparsity*, 2021; Qiu et al., *Demons in the detail: on implementing load balancing loss for training specialized
      mixture-of-expert models*, 2025.
    """
    _check.floating(logits=logits)
    _check.units_of({"logits": logits}, axes=2)
    (logits,) = masked(where, logits, event=1)
    kept = unit_weights(logits.shape[:-1], where, weights, dtype=logits.dtype)
    own = expert_loads(logits, k=k, weights=kept)
    if loads is None:
        loads = own
    else:
        _check.real(loads=loads)
        _check.broadcasts_to(own.shape, loads=loads)
        loads = _check.domain("nonnegative", lambda n: n >= 0, loads=masked(None, own, loads)[1])
    loads = lax.stop_gradient(jnp.broadcast_to(loads, own.shape))
    shares = divide(loads, jnp.sum(loads, axis=-1, keepdims=True))[..., None, :]
    # Counted from the share of the likeliest expert, the rest keep their digits where a token is nearly sure.
    best = one_hot(jnp.argmax(logits, axis=-1), logits)
    own_share = jnp.sum(jnp.where(best, shares, 0), axis=-1)
    probabilities, _ = softmax_pair(logits)
    each = own_share + jnp.sum(probabilities * (shares - own_share[..., None]), axis=-1)
    number = jnp.sum(kept, axis=-1)
    values = logits.shape[-1] * divide(jnp.sum(kept * each, axis=-1), number)
    return reduce(values, number > 0, None, reduction)
