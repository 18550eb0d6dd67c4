"""The weight of a KL penalty, steered towards a target."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper, _tree
from lossax._types import Hyperparameter, Stateful


class KlControlState(NamedTuple):
    """Number of updates, and the weight, float32."""

    step: jax.Array
    weight: jax.Array


def kl_control(
    weight: ArrayLike = 0.2,
    *,
    target: Hyperparameter = 6.0,
    gain: Hyperparameter = 0.1,
    bound: Hyperparameter = 0.2,
) -> Stateful:
    r"""The weight of a KL penalty that keeps the divergence of a policy from its reference near a target.

    .. math:: \beta \leftarrow \beta \Big(1 + K \operatorname{clip}\Big(\frac{d}{d^*} - 1,\ -b,\ b\Big)\Big)

    For penalties on rewards or beside `losses.policy_gradient`, where a fixed weight is too weak at one time and too
    strong at another. TRL's gain is the size of the batch over a horizon of 10000.

    `update(state, kl)` takes the divergence that was measured, such as `losses.kl_estimate`, and returns the weight to
    use from now on and the new state; the first weight is `init().weight`. A divergence that is NaN changes nothing.

    Args:
      weight: Of the penalty at first, positive.
      target: Divergence to keep, d*, positive, in the unit of what is measured (of sequences, 6 nats in the paper).
      gain: How strongly the weight answers, K, nonnegative.
      bound: Largest relative error that counts, b, positive.

    Returns:
      A pair of `init()` and `update`; its state is a `KlControlState`.

    Raises:
      ValueError: if a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> init, update = kl_control(0.5, target=4.0)
      >>> weight, state = update(init(), jnp.array(8.0))
      >>> round(weight.item(), 4)  # 0.5 (1 + 0.1 0.2)
      0.51

    Reference:
      Ziegler et al., *Fine-tuning language models from human preferences*, 2019.
    """
    _check.positive(weight=weight, target=target, bound=bound)
    _check.nonnegative(gain=gain)

    def init() -> KlControlState:
        return KlControlState(jnp.zeros((), jnp.int32), jnp.asarray(weight, jnp.float32))

    def update(state: KlControlState, kl: ArrayLike) -> tuple[jax.Array, KlControlState]:
        _check.real(kl=kl)
        aim, strength, most = (jnp.asarray(_hyper.at(state.step, x), jnp.float32) for x in (target, gain, bound))
        error = jnp.clip(jax.lax.stop_gradient(jnp.asarray(kl)).astype(jnp.float32) / aim - 1.0, -most, most)
        error = jnp.where(jnp.isnan(error), 0, error)
        new = state.weight * (1.0 + strength * error)
        return new, KlControlState(_tree.increment(state.step), new)

    return Stateful(init, update)
