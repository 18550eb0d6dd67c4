"""Adagrad."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AdagradState(NamedTuple):
    """Number of updates, and the sum of all squared gradients on top of its initial value."""

    step: jax.Array
    nu: PyTree


def scale_by_adagrad(
    *,
    initial_accumulator_value: Hyperparameter = 0.1,
    eps: Hyperparameter = 1e-7,
    eps_in_sqrt: bool = True,
) -> optax.GradientTransformation:
    r"""Direction of `adagrad`, unscaled and ascending.

    .. math:: d = g / \sqrt{v + \epsilon} \quad\text{or}\quad d = g / (\sqrt v + \epsilon)

    Args:
      initial_accumulator_value: Sum before the first step, in units of the squared gradient; nonnegative.
      eps: Added under the root or to it, nonnegative.
      eps_in_sqrt: Whether `eps` stands under the root.

    Returns:
      A transformation with state `AdagradState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adagrad(initial_accumulator_value=16.0, eps=0.0)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> round(updates[0].item(), 6)
      0.6

    Reference:
      Duchi, Hazan and Singer, *Adaptive subgradient methods for online learning and stochastic optimization*, 2011.
    """
    _check.nonnegative(initial_accumulator_value=initial_accumulator_value, eps=eps)

    def init(params: PyTree) -> AdagradState:
        step = jnp.zeros((), jnp.int32)
        start = (_hyper.at(step, initial_accumulator_value),)
        return AdagradState(
            step, _tree.map(lambda v, start: v + start, _tree.zeros_like(params, real=True), scalars=start)
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        nu = _tree.map(lambda v, g: v + _tree.square(g), state.nu, updates)

        def direction(g, v, eps):
            return g / (_numerics.positive_sqrt(v + eps) if eps_in_sqrt else _numerics.positive_sqrt(v) + eps)

        directions = _tree.map(direction, updates, nu, scalars=(_hyper.at(state.step, eps),))
        return _tree.cast_like(directions, updates), AdagradState(_tree.increment(state.step), nu)

    return optax.GradientTransformation(init, update)


def adagrad(
    learning_rate: Hyperparameter,
    *,
    initial_accumulator_value: Hyperparameter = 0.1,
    eps: Hyperparameter = 1e-7,
    eps_in_sqrt: bool = True,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Rates that fall with all that a coordinate has seen: for sparse features and convex problems.

    .. math:: v \leftarrow v + g^2, \qquad \Delta = -\eta\, g / \sqrt{v + \epsilon}

    It never forgets, so in deep networks its steps fall too early: `rmsprop` and `adam` were made from it.

    The defaults are Optax's. torch is `initial_accumulator_value=0, eps=1e-10, eps_in_sqrt=False`, and its `lr_decay` a
    learning rate of `lambda t: lr / (1 + lr_decay * t)`.

    Args:
      learning_rate: Size of the first step where it starts from nothing, nonnegative.
      initial_accumulator_value: Sum before the first step, in units of the squared gradient; nonnegative.
      eps: Added under the root or to it, nonnegative.
      eps_in_sqrt: Whether `eps` stands under the root.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adagrad(0.5, initial_accumulator_value=0.0, eps=0.0)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-0.5]

    Reference:
      Duchi, Hazan and Singer, *Adaptive subgradient methods for online learning and stochastic optimization*, 2011.
    """
    direction = scale_by_adagrad(initial_accumulator_value=initial_accumulator_value, eps=eps, eps_in_sqrt=eps_in_sqrt)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
