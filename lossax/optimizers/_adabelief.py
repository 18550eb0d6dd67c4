"""AdaBelief."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AdabeliefState(NamedTuple):
    """Number of updates, first moment of the gradient, second moment of its surprise, and the mass of each."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_adabelief(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-16,
    eps_root: Hyperparameter = 1e-13,
    nesterov: bool = False,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `adabelief`, unscaled and ascending.

    .. math:: d = \hat m / (\sqrt{\hat s + \epsilon_\text{root}} + \epsilon)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the moment of the surprise keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      nesterov: Whether the first moment looks one step ahead.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `AdabeliefState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adabelief(b1=0.5)
      >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()  # half of the gradient is a surprise
      [2.0]

    Reference:
      Zhuang et al., *AdaBelief optimizer: adapting stepsizes by the belief in observed gradients*, 2020.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, eps_root=eps_root)

    def init(params: PyTree) -> AdabeliefState:
        return AdabeliefState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay1, decay2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
        before = jax.tree.map(_tree.widen, state.mu)
        # g minus the new moment, without the rounding of that.
        surprise = _tree.map(lambda g, m, keep: keep * (g - m), updates, before, scalars=(decay1,))
        mu, nu = _tree.moment(updates, before, decay1), _tree.moment(surprise, state.nu, decay2, order=2)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)

        def direction(g, m, v, mu_mass, next_mass, keep, take, nu_mass, eps, eps_root):
            m = keep * m / next_mass + take * g / mu_mass if nesterov else m / mu_mass
            return m / (_numerics.positive_sqrt(v / nu_mass + eps_root) + eps)

        scalars = (mu_mass, _tree.mass(mu_mass, decay1), decay1, 1.0 - decay1, nu_mass)
        scalars = (*scalars, _hyper.at(state.step, eps), _hyper.at(state.step, eps_root))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, nu, scalars=scalars), updates)
        mu = _tree.cast_like(mu, state.mu)
        return directions, AdabeliefState(_tree.increment(state.step), mu, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def adabelief(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-16,
    eps_root: Hyperparameter = 1e-13,
    nesterov: bool = False,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam by how much a gradient surprises instead of how large it is: long steps where gradients agree.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad s \leftarrow \beta_2 s + (1 - \beta_2) (g - m)^2, \quad
      \Delta = -\eta\, \hat m / (\sqrt{\hat s + \epsilon_\text{root}} + \epsilon)

    Between `sgd` and `adam` in images and generative adversarial networks; where a gradient hardly changes at all its
    steps are limited by `eps_root` alone. As everywhere in this library `eps_root` is added once. The paper and Optax
    add theirs to :math:`s` at every step, which amounts to `eps_root / (1 - b2)` here: the default is their 1e-16.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the moment of the surprise keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      nesterov: Whether the first moment looks one step ahead.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adabelief(0.25, b1=0.5)
      >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()  # half of the gradient is a surprise
      [-0.5]

    Reference:
      Zhuang et al., *AdaBelief optimizer: adapting stepsizes by the belief in observed gradients*, 2020.
    """
    direction = scale_by_adabelief(b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
