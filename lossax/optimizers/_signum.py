"""Signum and signSGD."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class SignumState(NamedTuple):
    """Number of updates, and the first moment of the gradient."""

    step: jax.Array
    mu: PyTree


def scale_by_signum(*, beta: Hyperparameter = 0.9, mu_dtype: Any = None) -> optax.GradientTransformation:
    r"""Direction of `signum`, unscaled and ascending.

    .. math:: d = \mathrm{sign}(m), \qquad m \leftarrow \beta m + (1 - \beta) g

    Args:
      beta: Share of the past that the moment keeps, in [0, 1).
      mu_dtype: Dtype of the moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `SignumState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_signum()
      >>> updates, _ = tx.update(jnp.array([3.0, 0.0, -1e-9]), tx.init(jnp.ones(3)))
      >>> updates.tolist()
      [1.0, 0.0, -1.0]

    Reference:
      Bernstein et al., *signSGD: compressed optimisation for non-convex problems*, 2018.
    """
    _check.decay(beta=beta)

    def init(params: PyTree) -> SignumState:
        return SignumState(jnp.zeros((), jnp.int32), _tree.zeros_like(params, dtype=mu_dtype))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), _hyper.at(state.step, beta))
        directions = _tree.cast_like(_tree.map(lambda _, m: jnp.sign(m), updates, mu), updates)
        return directions, SignumState(_tree.increment(state.step), _tree.cast_like(mu, state.mu))

    return optax.GradientTransformation(init, update)


def signum(
    learning_rate: Hyperparameter,
    *,
    beta: Hyperparameter = 0.9,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps of exactly one learning rate in every coordinate, by the sign of the average gradient.

    .. math:: m \leftarrow \beta m + (1 - \beta) g, \qquad \Delta = -\eta\, \mathrm{sign}(m)

    `lion` weighs the newest gradient more and is as cheap. Without momentum it is `sign_sgd`. The defaults are Optax's,
    where `mu_dtype` is `accumulator_dtype`.

    Args:
      learning_rate: Size of a step, nonnegative.
      beta: Share of the past that the moment keeps, in [0, 1).
      mu_dtype: Dtype of the moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = signum(0.5)
      >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(jnp.ones(2)))
      >>> updates.tolist()
      [-0.5, -0.0]

    Reference:
      Bernstein et al., *signSGD: compressed optimisation for non-convex problems*, 2018.
    """
    return assemble(scale_by_signum(beta=beta, mu_dtype=mu_dtype), learning_rate, weight_decay, weight_decay_mask)


def scale_by_sign_sgd() -> optax.GradientTransformation:
    r"""Direction of `sign_sgd`, unscaled and ascending.

    .. math:: d = \mathrm{sign}(g)

    Returns:
      A transformation without state.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_sign_sgd()
      >>> updates, _ = tx.update(jnp.array([3.0, 0.0, -1e-9]), tx.init(jnp.ones(3)))
      >>> updates.tolist()
      [1.0, 0.0, -1.0]

    Reference:
      Bernstein et al., *signSGD: compressed optimisation for non-convex problems*, 2018.
    """
    return optax.stateless(lambda updates, _: _tree.cast_like(_tree.map(jnp.sign, updates), updates))


def sign_sgd(
    learning_rate: Hyperparameter,
    *,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps of exactly one learning rate in every coordinate, by the sign of the gradient, with nothing to remember.

    .. math:: \Delta = -\eta\, \mathrm{sign}(g)

    For gradients of large batches, or sent as single bits. Otherwise `signum` or `lion`, which average first. The sign
    of a complex number has its direction.

    Args:
      learning_rate: Size of a step, nonnegative.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = sign_sgd(0.5)
      >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(jnp.ones(2)))
      >>> updates.tolist()
      [-0.5, -0.0]

    Reference:
      Bernstein et al., *signSGD: compressed optimisation for non-convex problems*, 2018.
    """
    return assemble(scale_by_sign_sgd(), learning_rate, weight_decay, weight_decay_mask)
