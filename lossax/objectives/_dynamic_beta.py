"""A beta that follows how far apart the answers of a batch are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper, _tree
from lossax._devices import moments, total
from lossax._numerics import divide
from lossax._reduction import masked, unit_weights
from lossax._types import Hyperparameter, Stateful


class DynamicBetaState(NamedTuple):
    """Number of updates, and running mean and standard deviation of the gaps, float32."""

    step: jax.Array
    mean: jax.Array
    std: jax.Array


class DynamicBeta(NamedTuple):
    """What `losses.dpo` takes as `beta`, a float, and as `weights`, float `[...]`; without a gradient."""

    beta: jax.Array
    weights: jax.Array


def dynamic_beta(
    *,
    beta: Hyperparameter = 0.1,
    alpha: Hyperparameter = 0.6,
    decay: Hyperparameter = 0.9,
    smallest: Hyperparameter = 1e-3,
    axis_name: str | None = None,
) -> Stateful:
    r"""beta-DPO: easy batches are held at the reference, hard ones are learned from; and outliers weigh less.

    .. math:: \beta = \beta_0\,\Big(1 + \alpha\,\Big(\frac{\sum_i w_i M_i}{\sum_i w_i} - M_0\Big)\Big), \qquad
        w_i = \exp\Big(-\frac{(M_i - M_0)^2}{2 \sigma^2}\Big)

    :math:`M_i` is by how much the policy has come to prefer the better answer of a pair, :math:`M_0` and
    :math:`\sigma` are its running mean and deviation, the batch at hand included. They start at 0, where a policy is
    that starts as its reference.

    `update(state, gaps, *, where=None)` takes the differences of log-ratios :math:`M_i`, float `[...]`, and returns a
    `DynamicBeta` and the new state. Then `losses.dpo(..., beta=found.beta, weights=found.weights)`. The official code
    draws 4 of 5 pairs with probabilities as the weights, without replacement, and takes the mean over those:
    `jax.random.choice(key, n, (4 * n // 5,), replace=False, p=found.weights / found.weights.sum())`.

    Args:
      beta: :math:`\beta_0`, positive; all hyperparameters may be schedules of the number of updates.
      alpha: How strongly beta follows, nonnegative.
      decay: Share of the past that mean and deviation keep, in [0, 1).
      smallest: What beta is never below, positive.
      axis_name: Mesh axis over which the units are spread, inside `jax.shard_map`: the batch is that of all devices.

    Returns:
      A pair of `init()` and `update`; its state is `DynamicBetaState`.

    Raises:
      TypeError: in `update`, if `gaps` are not floating point.
      ValueError: if a hyperparameter is outside its range; in `update`, if `where` does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> init, update = dynamic_beta(beta=1.0, alpha=0.5, decay=0.5)
      >>> found, state = update(init(), jnp.array([1.0, 2.0, 3.0]))
      >>> state.mean.item(), state.std.item()  # half of 2 and 1
      (1.0, 0.5)
      >>> [round(x, 4) for x in found.weights.tolist()]  # 1, exp(-2), exp(-8)
      [1.0, 0.1353, 0.0003]
      >>> round(found.beta.item(), 4)  # 1 + 0.5 (0.1353 + 2 * 0.0003) / 1.1357
      1.0599

    Reference:
      Wu et al., *beta-DPO: direct preference optimization with dynamic beta*, 2024.
    """
    _check.positive(beta=beta, smallest=smallest)
    _check.nonnegative(alpha=alpha)
    _check.decay(decay=decay)

    def init() -> DynamicBetaState:
        return DynamicBetaState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def update(
        state: DynamicBetaState, gaps: jax.Array, *, where: ArrayLike | None = None
    ) -> tuple[DynamicBeta, DynamicBetaState]:
        _check.floating(gaps=gaps)
        gaps, *numbers = masked(where, gaps, *(_hyper.at(state.step, x) for x in (beta, alpha, decay, smallest)))
        base, rate, keep, least = numbers
        gaps = lax.stop_gradient(gaps)
        kept = unit_weights(gaps.shape, where, dtype=gaps.dtype)
        weight, mean, _, squares = moments(gaps.reshape(-1), kept.reshape(-1), axis_name)
        std = jnp.sqrt(squares / jnp.maximum(weight - 1.0, 1.0))

        def renewed(old: jax.Array, new: jax.Array) -> jax.Array:
            old = old.astype(new.dtype)
            return jnp.where(weight > 0, keep * old + (1.0 - keep) * new, old)

        mean, std = renewed(state.mean, mean), renewed(state.std, std)
        away = gaps - mean
        weights = kept * jnp.exp(-0.5 * jnp.square(divide(away, std)))
        lead = divide(total(jnp.sum(weights * away), axis_name), total(jnp.sum(weights), axis_name))
        found = DynamicBeta(jnp.maximum(base * (1.0 + rate * lead), least), weights)
        mean, std = (x.astype(jnp.float32) for x in (mean, std))
        return lax.stop_gradient(found), lax.stop_gradient(DynamicBetaState(_tree.increment(state.step), mean, std))

    return Stateful(init, update)
