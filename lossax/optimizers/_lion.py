"""Lion."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class LionState(NamedTuple):
    """Number of updates, and the first moment of the gradient."""

    step: jax.Array
    mu: PyTree


def scale_by_lion(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.99,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `lion`, unscaled and ascending.

    .. math:: d = \mathrm{sign}(\beta_1 m + (1 - \beta_1) g), \qquad m \leftarrow \beta_2 m + (1 - \beta_2) g

    Args:
      b1: Share of the past in the direction, in [0, 1).
      b2: Share of the past that the moment keeps, in [0, 1).
      mu_dtype: Dtype of the moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `LionState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_lion()
      >>> updates, _ = tx.update(jnp.array([3.0, 0.0, -1e-9]), tx.init(jnp.ones(3)))
      >>> updates.tolist()
      [1.0, 0.0, -1.0]

    Reference:
      Chen et al., *Symbolic discovery of optimization algorithms*, 2023.
    """
    _check.decay(b1=b1, b2=b2)

    def init(params: PyTree) -> LionState:
        return LionState(jnp.zeros((), jnp.int32), _tree.zeros_like(params, dtype=mu_dtype))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        share = _hyper.at(state.step, b1)

        def direction(g, m, keep, take):
            return jnp.sign(keep * m + take * g)  # of a complex number z: z / |z|

        directions = _tree.map(direction, updates, state.mu, scalars=(share, 1.0 - share))
        mu = _tree.moment(updates, state.mu, _hyper.at(state.step, b2))
        return _tree.cast_like(directions, updates), LionState(_tree.increment(state.step), mu)

    return optax.GradientTransformation(init, update)


def lion(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.99,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 1e-3,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps of exactly one learning rate in every coordinate, by sign: half the memory of `adamw`, for large batches.

    .. math::
      \Delta = -\eta\,\big(\mathrm{sign}(\beta_1 m + (1 - \beta_1) g) + \lambda w\big), \qquad
      m \leftarrow \beta_2 m + (1 - \beta_2) g

    Where the combination is exactly 0 only the decay moves. The authors take a learning rate 3 to 10 times smaller than
    AdamW's, and a decay as many times larger. The defaults are Optax's.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past in the direction, in [0, 1).
      b2: Share of the past that the moment keeps, in [0, 1).
      mu_dtype: Dtype of the moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = lion(0.5, weight_decay=0.5)
      >>> params = jnp.array([1.0, 1.0])
      >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.75, -0.25]

    Reference:
      Chen et al., *Symbolic discovery of optimization algorithms*, 2023.
    """
    direction = scale_by_lion(b1=b1, b2=b2, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
