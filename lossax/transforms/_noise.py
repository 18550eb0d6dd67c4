"""Chance: noise added to gradients, entries dropped from them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lossax import _check, _hyper, _keys, _numerics, _tile, _tree
from lossax._types import Hyperparameter, PyTree


class AddNoiseState(NamedTuple):
    """Number of updates, and the key's data."""

    step: jax.Array
    key: jax.Array


class GradientDropoutState(NamedTuple):
    """Number of updates, and the key's data."""

    step: jax.Array
    key: jax.Array


def add_noise(
    eta: Hyperparameter = 0.01, gamma: Hyperparameter = 0.55, *, key: ArrayLike
) -> optax.GradientTransformation:
    r"""Adds Gaussian noise that dies down.

    .. math:: u \leftarrow u + \xi, \qquad \xi \sim \mathcal N\big(0,\; \eta / (1 + t)^\gamma\big)

    It helps deep plain networks over saddles and out of poor starts. Complex entries get noise of this variance, half
    of it in each part. The paper tries `eta` of 0.01, 0.3 and 1.

    Args:
      eta: Variance at the first update, nonnegative.
      gamma: Power of time that it falls with, nonnegative.
      key: Of the random draws: a seed, a typed or a raw key. Runs that are compared need keys of their own.

    Returns:
      A transformation with state `AddNoiseState`.

    Raises:
      ValueError: if a known hyperparameter is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = add_noise(0.25, key=0)
      >>> updates, _ = tx.update(jnp.zeros(10_000), tx.init(None))
      >>> round(updates.std().item(), 1)
      0.5

    Reference:
      Neelakantan et al., *Adding gradient noise improves learning for very deep networks*, 2015.
    """
    _check.nonnegative(eta=eta, gamma=gamma)

    def init(params: PyTree) -> AddNoiseState:
        del params
        return AddNoiseState(jnp.zeros((), jnp.int32), _keys.data(key))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        fresh, draw = _keys.split(state.key, key)
        time = jnp.log1p(state.step.astype(_hyper.default_float()))
        fall = jnp.exp(-0.5 * _hyper.at(state.step, gamma) * time)

        def noisy(u, key, eta, fall):
            draws = _tile.spread_like(jax.random.normal(key, u.shape, u.dtype), u)  # complex: variance one in all
            return u + _tree.parts(lambda x: (_numerics.sqrt(eta) * fall) * x, draws)

        added = _keys.map(noisy, draw, updates, scalars=(_hyper.at(state.step, eta), fall))
        return _tree.cast_like(added, updates), AddNoiseState(_tree.increment(state.step), fresh)

    return optax.GradientTransformation(init, update)


def gradient_dropout(rate: Hyperparameter = 0.1, *, key: ArrayLike) -> optax.GradientTransformation:
    r"""Drops entries at random and scales up the others, so that the mean stays.

    .. math:: u \leftarrow \frac{b}{1 - p}\, u, \qquad b \sim \operatorname{Bernoulli}(1 - p)

    Against overfitting where gradient steps are few and steep: meta-learning, fine-tuning on little data. Before the
    optimizer.

    Args:
      rate: Probability that an entry is dropped, in [0, 1).
      key: Of the random draws: a seed, a typed or a raw key. Runs that are compared need keys of their own.

    Returns:
      A transformation with state `GradientDropoutState`.

    Raises:
      ValueError: if a known `rate` is not in [0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> tx = gradient_dropout(0.5, key=0)
      >>> updates, _ = tx.update(jnp.ones(10_000), tx.init(None))
      >>> sorted(set(updates.tolist())), round(updates.mean().item(), 1)
      ([0.0, 2.0], 1.0)

    Reference:
      Tseng et al., *Regularizing meta-learning via gradient dropout*, 2020.
    """
    _check.decay(rate=rate)

    def init(params: PyTree) -> GradientDropoutState:
        del params
        return GradientDropoutState(jnp.zeros((), jnp.int32), _keys.data(key))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        fresh, draw = _keys.split(state.key, key)

        def drop(u, key, rate):
            kept = _tile.spread_like(jax.random.uniform(key, u.shape, rate.dtype), u) >= rate
            return jnp.where(kept, u / (1.0 - rate), 0)

        dropped = _keys.map(drop, draw, updates, scalars=(_hyper.at(state.step, rate),))
        return _tree.cast_like(dropped, updates), GradientDropoutState(_tree.increment(state.step), fresh)

    return optax.GradientTransformation(init, update)
