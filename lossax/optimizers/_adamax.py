"""Adamax."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AdamaxState(NamedTuple):
    """Number of updates, first moment of the gradient, its fading maximum, and the mass of the former."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array


def scale_by_adamax(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `adamax`, unscaled and ascending.

    .. math:: d = \hat m / v

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the maximum that is left after a step, in [0, 1).
      eps: Added to the size of the gradient, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `AdamaxState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adamax(b1=0.0, b2=0.5)
      >>> _, state = tx.update(jnp.array([8.0]), tx.init(jnp.array([1.0])))
      >>> updates, _ = tx.update(jnp.array([2.0]), state)
      >>> updates.tolist()
      [0.5]

    Reference:
      Kingma and Ba, *Adam: a method for stochastic optimization*, 2015.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps)

    def init(params: PyTree) -> AdamaxState:
        return AdamaxState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay = _hyper.at(state.step, b1)
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay)
        mu_mass = _tree.mass(state.mu_mass, decay)

        def largest(v, g, fade, eps):
            return jnp.maximum(v - fade * v, _tree.absolute(g) + eps)  # b2 * v would gather the rounding of b2

        scalars = (1.0 - _hyper.at(state.step, b2), _hyper.at(state.step, eps))
        nu = _tree.map(largest, state.nu, updates, scalars=scalars)

        def direction(_, m, v, mass):
            return (m / mass) / jnp.maximum(v, jnp.finfo(v.dtype).tiny)

        directions = _tree.map(direction, updates, mu, nu, scalars=(mu_mass,))
        mu = _tree.cast_like(mu, state.mu)
        return _tree.cast_like(directions, updates), AdamaxState(_tree.increment(state.step), mu, nu, mu_mass)

    return optax.GradientTransformation(init, update)


def adamax(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam by the largest recent gradient instead of a root mean square: no step exceeds the rate by much.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \max(\beta_2 v,\, |g| + \epsilon), \quad
      \Delta = -\eta\, \hat m / v

    For gradients that are mostly zero, as of embeddings. The paper's rate is 2e-3. With decay this is Optax's
    `adamaxw`, whose default decay is 1e-4.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the maximum that is left after a step, in [0, 1).
      eps: Added to the size of the gradient, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adamax(0.5, b1=0.0, b2=0.5)
      >>> _, state = tx.update(jnp.array([8.0]), tx.init(jnp.array([1.0])))
      >>> updates, _ = tx.update(jnp.array([2.0]), state)
      >>> updates.tolist()
      [-0.25]

    Reference:
      Kingma and Ba, *Adam: a method for stochastic optimization*, 2015.
    """
    direction = scale_by_adamax(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
