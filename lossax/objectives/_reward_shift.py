"""The middle of the implicit rewards, which parts liked from disliked answers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper, _tree
from lossax._devices import moments
from lossax._numerics import divide
from lossax._reduction import masked, unit_weights
from lossax._types import Hyperparameter, Stateful


class RewardShiftState(NamedTuple):
    """Number of updates, and weight and weighted sum of the rewards that are remembered, float32."""

    step: jax.Array
    weight: jax.Array
    total: jax.Array


def reward_shift(*, decay: Hyperparameter = 1.0, axis_name: str | None = None) -> Stateful:
    r"""Running mean of implicit rewards: the shift of binary classifier optimisation (BCO).

    .. math:: \delta = \frac{\sum_t \lambda^{T - t} \sum_i r_{ti}}{\sum_t \lambda^{T - t} n_t}

    With the shift in the middle of both kinds the classifier is close to DPO. The mean is over all rewards so far,
    those at hand included, as in TRL's `BCOTrainer`; a `decay` under 1 forgets, which suits rewards that grow. In the
    paper it is the mean of the means of both kinds: pass `weights` that balance them.

    `update(state, rewards, *, where=None, weights=None)` takes implicit rewards, beta times log-ratios, float `[...]`,
    of liked and disliked answers alike. It returns the shift, a float without a gradient, and the new state. Then

    - for single answers `losses.sigmoid_binary_cross_entropy(rewards - shift, desirable)`, to which `weights` may match
      the prompts of one side with those of the other;
    - for pairs `losses.dpo(..., objective="bco")` with `shift / beta` added to both log-probabilities of the reference.

    Args:
      decay: Share of the past that is kept at an update, in [0, 1]; it may be a schedule of the number of updates.
      axis_name: Mesh axis over which the units are spread, inside `jax.shard_map`: the mean is that of all devices.

    Returns:
      A pair of `init()` and `update`; its state is `RewardShiftState`.

    Raises:
      TypeError: in `update`, if `rewards` are not floating point.
      ValueError: if `decay` is outside its range; in `update`, if `where` or `weights` do not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> init, update = reward_shift()
      >>> shift, state = update(init(), jnp.array([2.0, 0.0]))
      >>> shift.item()
      1.0
      >>> shift, state = update(state, jnp.array([4.0, 2.0]))
      >>> shift.item()  # (2 + 0 + 4 + 2) / 4
      2.0

    Reference:
      Jung et al., *Binary classifier optimization for large language model alignment*, 2024.
    """
    _check.fraction(decay=decay)

    def init() -> RewardShiftState:
        return RewardShiftState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def update(
        state: RewardShiftState,
        rewards: jax.Array,
        *,
        where: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> tuple[jax.Array, RewardShiftState]:
        _check.floating(rewards=rewards)
        rewards, keep = masked(where, rewards, _hyper.at(state.step, decay))
        rewards = lax.stop_gradient(rewards)
        kept = lax.stop_gradient(unit_weights(rewards.shape, where, weights, dtype=rewards.dtype))
        weight, mean, *_ = moments(rewards.reshape(-1), kept.reshape(-1), axis_name)
        total = keep * state.total.astype(rewards.dtype) + weight * mean
        weight = keep * state.weight.astype(rewards.dtype) + weight
        shift = divide(total, weight)
        total, weight = (lax.stop_gradient(x).astype(jnp.float32) for x in (total, weight))
        return lax.stop_gradient(shift), RewardShiftState(_tree.increment(state.step), weight, total)

    return Stateful(init, update)
