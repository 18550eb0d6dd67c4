"""Yogi."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class YogiState(NamedTuple):
    """Number of updates, first and second moments of the gradient, and the mass of each (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_yogi(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-3,
    eps_root: Hyperparameter = 0.0,
    initial_accumulator_value: Hyperparameter = 1e-6,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `yogi`, unscaled and ascending.

    .. math:: d = \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: One minus the share of a squared gradient that the second moment moves by, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      initial_accumulator_value: Second moment before the first step, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `YogiState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_yogi(eps=1.0, initial_accumulator_value=0.0)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [0.75]

    Reference:
      Zaheer, Reddi, Sachan, Kale and Kumar, *Adaptive methods for nonconvex optimization*, 2018.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, eps_root=eps_root, initial_accumulator_value=initial_accumulator_value)

    def init(params: PyTree) -> YogiState:
        step = jnp.zeros((), jnp.int32)
        start = (_hyper.at(step, initial_accumulator_value),)
        return YogiState(
            step=step,
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.map(lambda v, start: v + start, _tree.zeros_like(params, real=True), scalars=start),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay1, decay2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay1)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)

        def towards(v, g, take):
            square = _tree.square(g)
            return v + take * jnp.sign(square - jnp.minimum(v, jnp.finfo(v.dtype).max)) * square

        nu = _tree.map(towards, state.nu, updates, scalars=(1.0 - decay2,))

        def direction(_, m, v, mu_mass, nu_mass, eps, eps_root):
            return (m / mu_mass) / (_numerics.positive_sqrt(v / nu_mass + eps_root) + eps)

        scalars = (mu_mass, nu_mass, _hyper.at(state.step, eps), _hyper.at(state.step, eps_root))
        directions = _tree.map(direction, updates, mu, nu, scalars=scalars)
        mu = _tree.cast_like(mu, state.mu)
        return _tree.cast_like(directions, updates), YogiState(_tree.increment(state.step), mu, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def yogi(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-3,
    eps_root: Hyperparameter = 0.0,
    initial_accumulator_value: Hyperparameter = 1e-6,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam whose second moment forgets slowly: after a large gradient, small ones do not bring long steps back soon.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
      v \leftarrow v - (1 - \beta_2)\, \mathrm{sign}(v - g^2)\, g^2, \quad
      \Delta = -\eta\, \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    For sparse or heavy-tailed gradients, and the usual server step of federated learning. The paper's rate is 1e-2.
    The defaults are Optax's, which also starts the *first* moment from `initial_accumulator_value`: there a coordinate
    without gradient moves.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: One minus the share of a squared gradient that the second moment moves by, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      initial_accumulator_value: Second moment before the first step, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = yogi(0.5, eps=1.0, initial_accumulator_value=0.0)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-0.375]

    Reference:
      Zaheer, Reddi, Sachan, Kale and Kumar, *Adaptive methods for nonconvex optimization*, 2018.
    """
    direction = scale_by_yogi(
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        initial_accumulator_value=initial_accumulator_value,
        mu_dtype=mu_dtype,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
