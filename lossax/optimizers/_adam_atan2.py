"""Adam-atan2: Adam without eps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AdamAtan2State(NamedTuple):
    """Number of updates, first and second moments of the gradient, and the mass of each (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def _angle_slopes(y: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
    length = _numerics.hypot(y, x)
    return tuple(_numerics.divide(_numerics.divide(s, length), length) for s in (x, -y))


@_numerics.with_slopes(_angle_slopes)
def _angle(y: jax.Array, x: jax.Array) -> jax.Array:
    """The angle of (x, y), 0 at the origin and its derivatives too (`jnp.arctan2` has NaN there)."""
    return jnp.arctan2(y, x)


def scale_by_adam_atan2(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    a: Hyperparameter = 1.27,
    b: Hyperparameter = 1.0,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `adam_atan2`, unscaled and ascending.

    .. math:: d = a\, \mathrm{atan2}(\hat m,\, b \sqrt{\hat v})

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      a: Factor on the angle, positive.
      b: Factor on the root, positive: the larger, the nearer to Adam.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `AdamAtan2State`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adam_atan2(a=4.0 / jnp.pi)
      >>> updates, _ = tx.update(jnp.array([3.0, -1e-12]), tx.init(jnp.ones(2)))
      >>> [round(u.item(), 5) for u in updates]
      [1.0, -1.0]

    Reference:
      Everett et al., *Scaling exponents across parameterizations and optimizers*, 2024.
    """
    _check.decay(b1=b1, b2=b2)
    _check.positive(a=a, b=b)

    def init(params: PyTree) -> AdamAtan2State:
        return AdamAtan2State(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        take1, take2 = 1.0 - _hyper.at(state.step, b1), 1.0 - _hyper.at(state.step, b2)
        mu = _tree.approach(updates, jax.tree.map(_tree.widen, state.mu), take1)
        nu = _tree.approach(updates, state.nu, take2, order=2)
        mu_mass, nu_mass = (_tree.approach_one(m, t) for m, t in ((state.mu_mass, take1), (state.nu_mass, take2)))

        def direction(_, m, v, mu_mass, nu_mass, a, b):
            m, root = m / mu_mass, b * _numerics.sqrt(v / nu_mass)
            if jnp.iscomplexobj(m):  # turns with the gradient
                size = _tree.absolute(m)
                return m * (a * _numerics.divide(_angle(size, root), size))
            return a * _angle(m, root)

        scalars = (mu_mass, nu_mass, _hyper.at(state.step, a), _hyper.at(state.step, b))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, nu, scalars=scalars), updates)
        mu = _tree.cast_like(mu, state.mu)
        return directions, AdamAtan2State(_tree.increment(state.step), mu, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def adam_atan2(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    a: Hyperparameter = 1.27,
    b: Hyperparameter = 1.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam without `eps`: steps are the same whatever the scale of the loss, and at most `a * pi / 2` rates long.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      \Delta = -\eta\, a\, \mathrm{atan2}(\hat m,\, b \sqrt{\hat v})

    A drop-in for `adam` where gradients become smaller than its `eps`, as in wide models. With the default
    :math:`a \approx 4 / \pi` the first step is one learning rate long, as in `adam`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      a: Factor on the angle, positive.
      b: Factor on the root, positive: the larger, the nearer to Adam.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adam_atan2(0.5, a=4.0 / jnp.pi)
      >>> updates, _ = tx.update(jnp.array([3.0, -1e-12]), tx.init(jnp.ones(2)))
      >>> [round(u.item(), 5) for u in updates]
      [-0.5, 0.5]

    Reference:
      Everett et al., *Scaling exponents across parameterizations and optimizers*, 2024.
    """
    direction = scale_by_adam_atan2(b1=b1, b2=b2, a=a, b=b, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
