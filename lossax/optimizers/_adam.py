"""Adam and AdamW."""

from typing import Any, NamedTuple

import jax
import optax

from lossax import _check, _moments
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AdamState(NamedTuple):
    """Number of updates, first and second moments of the gradient, and the mass of each (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_adam(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `adam`, unscaled and ascending.

    .. math:: d = \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `AdamState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adam()
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [1.0]

    Reference:
      Kingma and Ba, *Adam: a method for stochastic optimization*, 2015.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, eps_root=eps_root)

    def init(params: PyTree) -> AdamState:
        return AdamState(*_moments.start(params, mu_dtype))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        directions, moments = _moments.adam(updates, state, b1, b2, eps, eps_root)
        return directions, AdamState(*moments)

    return optax.GradientTransformation(init, update)


def adam(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps of about one learning rate in every coordinate, whatever the gradient's scale.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      \Delta = -\eta\, \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    where the hat divides by the same average taken of ones, :math:`1 - \beta^t` for a constant :math:`\beta`.

    Args:
      learning_rate: Size of a step, nonnegative; 1e-3 is the paper's.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative; `adamw` is this function with another default.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adam(0.5)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-0.5]

    Reference:
      Kingma and Ba, *Adam: a method for stochastic optimization*, 2015.
    """
    direction = scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)


def adamw(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 1e-4,
    weight_decay_mask: Mask | None = None,
    independent: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with decay that does not pass through the moments: the default for transformers and most else.

    .. math:: \Delta = -\eta\,\big(\hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon) + \lambda w\big)

    The default decay is Optax's; torch has 1e-2, and language models commonly `b2=0.95, weight_decay=0.1`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.
      independent: Decay by `weight_decay` alone instead of `learning_rate * weight_decay`.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adamw(0.5, weight_decay=0.5)
      >>> params = jnp.array([1.0])
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.75]

    Reference:
      Loshchilov and Hutter, *Decoupled weight decay regularization*, 2019.
    """
    direction = scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask, independent=independent)
