"""Rprop: resilient propagation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class RpropState(NamedTuple):
    """Number of updates, the size of the next step in units of the rate, and the sign of the last."""

    step: jax.Array
    size: PyTree
    sign: PyTree


def scale_by_rprop(
    *,
    eta_minus: Hyperparameter = 0.5,
    eta_plus: Hyperparameter = 1.2,
    min_relative_step: Hyperparameter = 1e-4,
    max_relative_step: Hyperparameter = 5e3,
) -> optax.GradientTransformation:
    r"""Direction of `rprop`, unscaled and ascending.

    .. math:: d = s\, \mathrm{sign}(g), \quad \text{or}\; 0 \;\text{where the sign has changed}

    Args:
      eta_minus: Factor on the size of a step where the sign has changed, in [0, 1].
      eta_plus: Factor on the size of a step where the sign has stayed, positive.
      min_relative_step: Least size of a step in units of the rate, nonnegative.
      max_relative_step: Largest size of a step in units of the rate, positive.

    Returns:
      A transformation with state `RpropState`.

    Raises:
      TypeError: if parameters are complex.
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_rprop(eta_plus=1.5)
      >>> updates, state = tx.update(jnp.array([3.0, 3.0]), tx.init(jnp.ones(2)))
      >>> updates.tolist()
      [1.0, 1.0]
      >>> tx.update(jnp.array([2.0, -4.0]), state)[0].tolist()
      [1.5, 0.0]

    Reference:
      Riedmiller and Braun, *A direct adaptive method for faster backpropagation learning: the RPROP algorithm*, 1993.
    """
    _check.fraction(eta_minus=eta_minus)
    _check.positive(eta_plus=eta_plus, max_relative_step=max_relative_step)
    _check.nonnegative(min_relative_step=min_relative_step)

    def init(params: PyTree) -> RpropState:
        for number in _tree.numbers(params):
            if jnp.iscomplexobj(number):
                raise TypeError(f"rprop goes by signs and needs real parameters, got {number.dtype}: complex")
        ones = _tree.map(lambda x: x + 1.0, _tree.zeros_like(params))
        return RpropState(jnp.zeros((), jnp.int32), ones, _tree.zeros_like(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params

        def resized(size, g, before, shrink, grow, least, most):
            turn = jnp.sign(g) * before
            sized = jnp.clip(jnp.where(turn > 0, grow, shrink) * size, least, most)
            return jnp.where(turn == 0, size, sized)

        own = (eta_minus, eta_plus, min_relative_step, max_relative_step)
        scalars = tuple(_hyper.at(state.step, value) for value in own)
        size = _tree.map(resized, state.size, updates, state.sign, scalars=scalars)

        def signed(before, g):
            sign = jnp.sign(g)
            return jnp.where(sign * before < 0, 0, sign)

        sign = _tree.map(signed, state.sign, updates)
        directions = _tree.map(lambda _, size, sign: size * sign, updates, size, sign)
        return _tree.cast_like(directions, updates), RpropState(_tree.increment(state.step), size, sign)

    return optax.GradientTransformation(init, update)


def rprop(
    learning_rate: Hyperparameter,
    *,
    eta_minus: Hyperparameter = 0.5,
    eta_plus: Hyperparameter = 1.2,
    min_relative_step: Hyperparameter = 1e-4,
    max_relative_step: Hyperparameter = 5e3,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""A step size for every coordinate, longer while the sign of its gradient stays: for full batches.

    .. math::
      s \leftarrow \mathrm{clip}(\eta_\pm s,\, \mathit{least},\, \mathit{most}), \qquad
      \Delta = -\eta\, s\, \mathrm{sign}(g), \quad \text{or}\; 0 \;\text{where the sign has changed}

    with :math:`\eta_+` where the sign has stayed and :math:`\eta_-` where it has changed; after a change the size waits
    one step. Of little use with mini-batches, whose signs change by chance.

    The rate multiplies sizes that start from one, so it may be a schedule. In torch it is the first size, and the
    bounds are not relative to it: `min_relative_step=1e-6 / rate, max_relative_step=50.0 / rate`, which are the
    defaults here for its rate of 0.01. Optax is one step late: it moves by the sign of the gradient before.

    Args:
      learning_rate: Size of the first step, nonnegative.
      eta_minus: Factor on the size of a step where the sign has changed, in [0, 1].
      eta_plus: Factor on the size of a step where the sign has stayed, positive.
      min_relative_step: Least size of a step in units of the rate, nonnegative.
      max_relative_step: Largest size of a step in units of the rate, positive.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      TypeError: if parameters are complex.
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = rprop(0.5, eta_plus=1.5)
      >>> updates, state = tx.update(jnp.array([3.0, 3.0]), tx.init(jnp.ones(2)))
      >>> tx.update(jnp.array([2.0, -4.0]), state)[0].tolist()
      [-0.75, -0.0]

    Reference:
      Riedmiller and Braun, *A direct adaptive method for faster backpropagation learning: the RPROP algorithm*, 1993.
    """
    direction = scale_by_rprop(
        eta_minus=eta_minus,
        eta_plus=eta_plus,
        min_relative_step=min_relative_step,
        max_relative_step=max_relative_step,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
