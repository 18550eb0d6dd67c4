"""Adam-mini: one second moment for each unit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree, _units
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree, UnitAxes


class AdamMiniState(NamedTuple):
    """Number of updates, first moment, mean second moment of each unit (other axes of length one), their masses."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_adam_mini(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    unit_axes: UnitAxes = (-1,),
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `adam_mini`, unscaled and ascending.

    .. math:: d = \hat m / (\sqrt{\hat v_\text{unit}} + \epsilon)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moments keep, in [0, 1).
      eps: Added to the root, nonnegative.
      unit_axes: Axes that tell the units of a matrix apart, or a function of path and leaf that returns them, or `None`
        for a moment of every element; unless it is a function a vector is one unit.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `AdamMiniState`.

    Raises:
      TypeError: if `unit_axes` are no integers.
      ValueError: if a known hyperparameter is out of range, or an axis is none of a leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adam_mini(eps=0.0)
      >>> updates, state = tx.update(jnp.array([[1.0, 6.0], [7.0, 8.0]]), tx.init(jnp.ones((2, 2))))
      >>> [[round(x.item(), 4) for x in row] for row in updates]  # over 5, and over the root of 50
      [[0.2, 0.8485], [1.4, 1.1314]]
      >>> state.nu.shape
      (1, 2)

    Reference:
      Zhang et al., *Adam-mini: use fewer learning rates to gain more*, 2024.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps)
    _units.check(unit_axes)

    def init(params: PyTree) -> AdamMiniState:
        def zeros(leaf, unit):
            if unit is None:
                return _tree.zeros_like(leaf, real=True)
            # Zeros like a sum have its sharding: that of the axes that are left.
            return jnp.zeros_like(
                jnp.sum(jnp.asarray(leaf), unit.within, keepdims=True), _tree.wide_dtype(leaf, real=True)
            )

        units = _units.resolve(unit_axes, params)
        return AdamMiniState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=jax.tree.map(zeros, params, units, is_leaf=lambda x: x is None),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        take1, take2 = 1.0 - _hyper.at(state.step, b1), 1.0 - _hyper.at(state.step, b2)
        units = _units.resolve(unit_axes, updates)

        def mean_square(g, unit):
            if unit is None:
                return _tree.square(_tree.widen(g)) if _tree.is_number(g) else None
            return jnp.sum(_tree.square(_tree.widen(g)), unit.within, keepdims=True) / max(unit.size, 1)

        squares = jax.tree.map(mean_square, updates, units, is_leaf=lambda x: x is None)
        mu = _tree.approach(updates, jax.tree.map(_tree.widen, state.mu), take1)
        nu = _tree.map(_tree.towards, state.nu, squares, scalars=(take2,))
        mu_mass, nu_mass = (_tree.approach_one(m, t) for m, t in ((state.mu_mass, take1), (state.nu_mass, take2)))

        def direction(_, m, v, mu_mass, nu_mass, eps):
            return (m / mu_mass) / (_numerics.positive_sqrt(v / nu_mass) + eps)

        scalars = (mu_mass, nu_mass, _hyper.at(state.step, eps))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, nu, scalars=scalars), updates)
        mu = _tree.cast_like(mu, state.mu)
        return directions, AdamMiniState(_tree.increment(state.step), mu, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def adam_mini(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    unit_axes: UnitAxes = (-1,),
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with half its memory: the weights of a unit, such as those into a neuron, share one second moment.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
      v_\text{unit} \leftarrow \beta_2 v_\text{unit} + (1 - \beta_2)\, \overline{g^2}^{\,\text{unit}}, \quad
      \Delta = -\eta\, \hat m / (\sqrt{\hat v_\text{unit}} + \epsilon)

    For large models, at the rate and decay of `adamw`. The default is one unit for each output of kernels
    `(..., in, out)`, as of Flax, Haiku and Keras, and one for each vector; 0 is for weights `(out, in)`, and `()` makes
    every leaf one unit. Embeddings, where this is unstable, want one for each token, and query and key one for each
    head, by a function: `lambda path, leaf: 0 if "embed" in path else -1 if leaf.ndim > 1 else ()`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moments keep, in [0, 1).
      eps: Added to the root, nonnegative.
      unit_axes: Axes that tell the units of a matrix apart, or a function of path and leaf that returns them, or `None`
        for a moment of every element; unless it is a function a vector is one unit.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      TypeError: if `unit_axes` are no integers.
      ValueError: if a known hyperparameter is out of range, or an axis is none of a leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adam_mini(0.5, eps=0.0, unit_axes=())
      >>> updates, _ = tx.update(jnp.array([[1.0, 7.0]]), tx.init(jnp.ones((1, 2))))
      >>> [round(u.item(), 4) for u in updates[0]]  # over 5
      [-0.1, -0.7]

    Reference:
      Zhang et al., *Adam-mini: use fewer learning rates to gain more*, 2024.
    """
    direction = scale_by_adam_mini(b1=b1, b2=b2, eps=eps, unit_axes=unit_axes, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
