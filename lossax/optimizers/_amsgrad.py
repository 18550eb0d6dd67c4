"""AMSGrad."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AmsgradState(NamedTuple):
    """Number of updates, first and second moments and the largest second ones, masses of the former two."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    nu_max: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_amsgrad(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    bias_correction_max: bool = False,
) -> optax.GradientTransformation:
    r"""Direction of `amsgrad`, unscaled and ascending.

    .. math:: d = \hat m / \big(\sqrt{\max_{s \le t} \hat v_s + \epsilon_\text{root}} + \epsilon\big)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      bias_correction_mu: Whether the first moment is divided by its mass.
      bias_correction_nu: Whether the second moments are divided by theirs, and the largest is of these.
      bias_correction_max: Whether the largest is divided by the present mass instead.

    Returns:
      A transformation with state `AmsgradState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_amsgrad(b1=0.0, b2=0.0)
      >>> _, state = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> updates, _ = tx.update(jnp.array([2.0]), state)
      >>> updates.tolist()
      [0.5]

    Reference:
      Reddi, Kale and Kumar, *On the convergence of Adam and beyond*, 2018.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, eps_root=eps_root)

    def init(params: PyTree) -> AmsgradState:
        return AmsgradState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            nu_max=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay1, decay2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay1)
        nu = _tree.moment(updates, state.nu, decay2, order=2)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)
        before = nu_mass if bias_correction_nu and not bias_correction_max else 1.0
        largest = _tree.map(lambda old, v, mass: jnp.maximum(old, v / mass), state.nu_max, nu, scalars=(before,))

        def direction(_, m, v, of_m, of_v, eps, eps_root):
            return (m / of_m) / (_numerics.positive_sqrt(v / of_v + eps_root) + eps)

        masses = (mu_mass if bias_correction_mu else 1.0, nu_mass if bias_correction_max else 1.0)
        scalars = (*masses, _hyper.at(state.step, eps), _hyper.at(state.step, eps_root))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, largest, scalars=scalars), updates)
        mu = _tree.cast_like(mu, state.mu)
        return directions, AmsgradState(_tree.increment(state.step), mu, nu, largest, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def amsgrad(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    bias_correction_max: bool = False,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that never forgets its largest second moment: it converges where rare gradients matter most.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      \Delta = -\eta\, \hat m / \big(\sqrt{\max_{s \le t} \hat v_s + \epsilon_\text{root}} + \epsilon\big)

    In deep networks `adamw` is seldom worse, and one spike of the gradient shortens all steps after it here. The
    defaults are Optax's. torch (`Adam(amsgrad=True)`) and Keras are `bias_correction_max=True`, the paper is
    `bias_correction_mu=False, bias_correction_nu=False`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      bias_correction_mu: Whether the first moment is divided by its mass.
      bias_correction_nu: Whether the second moments are divided by theirs, and the largest is of these.
      bias_correction_max: Whether the largest is divided by the present mass instead.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = amsgrad(0.5, b1=0.0, b2=0.0)
      >>> _, state = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> updates, _ = tx.update(jnp.array([2.0]), state)
      >>> updates.tolist()
      [-0.25]

    Reference:
      Reddi, Kale and Kumar, *On the convergence of Adam and beyond*, 2018.
    """
    direction = scale_by_amsgrad(
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
        bias_correction_mu=bias_correction_mu,
        bias_correction_nu=bias_correction_nu,
        bias_correction_max=bias_correction_max,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
