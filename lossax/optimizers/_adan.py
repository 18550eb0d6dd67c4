"""Adan: adaptive Nesterov momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AdanState(NamedTuple):
    """Number of updates, averages of gradient and change, second moment, last gradient, and the masses of the three."""

    step: jax.Array
    mu: PyTree
    mu_change: PyTree
    nu: PyTree
    gradient: PyTree
    mu_mass: jax.Array
    change_mass: jax.Array
    nu_mass: jax.Array


def scale_by_adan(
    *,
    b1: Hyperparameter = 0.98,
    b2: Hyperparameter = 0.92,
    b3: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 1e-8,
    extrapolation: Hyperparameter | None = None,
) -> optax.GradientTransformation:
    r"""Direction of `adan`, unscaled and ascending.

    .. math:: d = (\hat m + \gamma \hat c) / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    Args:
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the average change of the gradient keeps, in [0, 1).
      b3: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      extrapolation: Factor on changes of the gradient, nonnegative; `None` is `b2`.

    Returns:
      A transformation with state `AdanState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adan(b1=0.0, b2=0.5, b3=0.0, eps=1.0, eps_root=0.0)
      >>> _, state = tx.update(jnp.array([1.0]), tx.init(jnp.array([1.0])))
      >>> updates, _ = tx.update(jnp.array([3.0]), state)
      >>> round(updates[0].item(), 6)  # (3 + 0.5 * 1 / 0.75) / (3 + 0.5 * 2 + 1)
      0.733333

    Reference:
      Xie, Zhou, Li, Lin and Yan, *Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models*, 2022.
    """
    _check.decay(b1=b1, b2=b2, b3=b3)
    _check.nonnegative(eps=eps, eps_root=eps_root)
    if extrapolation is not None:
        _check.nonnegative(extrapolation=extrapolation)

    def init(params: PyTree) -> AdanState:
        return AdanState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params),
            mu_change=_tree.zeros_like(params),
            nu=_tree.zeros_like(params, real=True),
            gradient=_tree.zeros_like(params),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            change_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay1, decay2, decay3 = (_hyper.at(state.step, value) for value in (b1, b2, b3))
        ahead = decay2 if extrapolation is None else _hyper.at(state.step, extrapolation)
        first = state.step == 0
        change = _tree.map(lambda g, last: jnp.where(first, 0, g - last), updates, state.gradient)
        seen = _tree.map(lambda g, c, ahead: g + ahead * c, updates, change, scalars=(ahead,))
        mu = _tree.approach(updates, state.mu, 1.0 - decay1)
        mu_change = _tree.moment(change, state.mu_change, decay2)
        nu = _tree.moment(seen, state.nu, decay3, order=2)
        mu_mass = _tree.approach_one(state.mu_mass, 1.0 - decay1)
        masses = (mu_mass, _tree.mass(state.change_mass, decay2), _tree.mass(state.nu_mass, decay3))

        def direction(_, m, c, v, mu_mass, change_mass, nu_mass, ahead, eps, eps_root):
            root = _numerics.positive_sqrt(v / nu_mass + eps_root) + eps
            return (m / mu_mass + ahead * (c / change_mass)) / root

        scalars = (*masses, ahead, _hyper.at(state.step, eps), _hyper.at(state.step, eps_root))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, mu_change, nu, scalars=scalars), updates)
        last = _tree.cast_like(_tree.map(lambda _, g: g, state.gradient, updates), state.gradient)
        return directions, AdanState(_tree.increment(state.step), mu, mu_change, nu, last, *masses)

    return optax.GradientTransformation(init, update)


def adan(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.98,
    b2: Hyperparameter = 0.92,
    b3: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 1e-8,
    extrapolation: Hyperparameter | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Nesterov's look ahead by the change of the gradient: good at rates several times those of `adamw`.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad c \leftarrow \beta_2 c + (1 - \beta_2) (g - g'), \quad
      v \leftarrow \beta_3 v + (1 - \beta_3) \big(g + \gamma (g - g')\big)^2

    .. math:: \Delta = -\eta\, (\hat m + \gamma \hat c) / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    where :math:`g'` is the gradient before, and :math:`\gamma = \beta_2`. For vision transformers and convolutional
    networks; it keeps four numbers for each parameter. The paper calls :math:`1 - \beta` what is :math:`\beta` here and
    in its code, and multiplies changes by :math:`\beta_2`; Optax takes that formula with the other
    :math:`\beta_2`, so changes hardly count there: `extrapolation=1 - b2`. The paper divides by
    :math:`1 + \eta\lambda` where decay here takes off :math:`\eta\lambda w`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the average change of the gradient keeps, in [0, 1).
      b3: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      extrapolation: Factor on changes of the gradient, nonnegative; `None` is `b2`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adan(0.5, eps=1.0, eps_root=0.0)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-0.375]

    Reference:
      Xie, Zhou, Li, Lin and Yan, *Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models*, 2022.
    """
    direction = scale_by_adan(b1=b1, b2=b2, b3=b3, eps=eps, eps_root=eps_root, extrapolation=extrapolation)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
