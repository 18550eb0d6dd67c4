"""Stochastic gradient descent, with or without momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class SgdState(NamedTuple):
    """Number of updates, and the trace of past gradients: `None` without momentum."""

    step: jax.Array
    trace: PyTree


def scale_by_sgd(
    *,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    dampening: Hyperparameter = 0.0,
) -> optax.GradientTransformation:
    r"""Direction of `sgd`, unscaled and ascending.

    .. math:: t \leftarrow \mu t + (1 - \tau) g, \qquad d = t \quad\text{or, Nesterov's,}\quad d = g + \mu t

    Args:
      momentum: Share of the trace that the next step keeps, in [0, 1); `None` has no trace: the gradient alone.
      nesterov: Whether the direction looks one step ahead along the trace.
      dampening: Share of the gradient that does not enter the trace, in [0, 1]; the first gradient enters whole.

    Returns:
      A transformation with state `SgdState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_sgd(momentum=0.5)
      >>> state = tx.init(jnp.array([1.0]))
      >>> updates, state = tx.update(jnp.array([3.0]), state)
      >>> updates, state = tx.update(jnp.array([1.0]), state)
      >>> updates.tolist()
      [2.5]

    Reference:
      Sutskever, Martens, Dahl and Hinton, *On the importance of initialization and momentum in deep learning*, 2013.
    """
    if momentum is not None:
        _check.decay(momentum=momentum)
    _check.fraction(dampening=dampening)

    def init(params: PyTree) -> SgdState:
        return SgdState(jnp.zeros((), jnp.int32), None if momentum is None else _tree.zeros_like(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        step = _tree.increment(state.step)
        if momentum is None:
            return updates, SgdState(step, None)
        keep = _hyper.at(state.step, momentum)
        take = jnp.where(state.step == 0, 1.0, 1.0 - _hyper.at(state.step, dampening))
        trace = _tree.map(lambda t, g, keep, take: keep * t + take * g, state.trace, updates, scalars=(keep, take))

        def direction(g, t, keep):
            return g + keep * t if nesterov else t

        directions = _tree.map(direction, updates, trace, scalars=(keep,))
        return _tree.cast_like(directions, updates), SgdState(step, trace)

    return optax.GradientTransformation(init, update)


def sgd(
    learning_rate: Hyperparameter,
    *,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    dampening: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Downhill along the gradient: with momentum 0.9 the standard of convolutional networks, and the least memory.

    .. math::
      t \leftarrow \mu t + (1 - \tau) g, \qquad
      \Delta = -\eta\, t \quad\text{or, Nesterov's,}\quad \Delta = -\eta\,(g + \mu t)

    The step follows the gradient's scale, so gradients of very unequal scales (transformers) want `adamw` instead. The
    trace is a sum: a momentum of 0.9 makes steps up to ten times as long. As in Optax and torch the rate stands outside
    the trace; `dampening` is torch's, which leaves the first gradient whole. torch's decay is not decoupled.

    Args:
      learning_rate: Factor on the direction, nonnegative.
      momentum: Share of the trace that the next step keeps, in [0, 1); `None` has no trace: the gradient alone.
      nesterov: Whether the direction looks one step ahead along the trace; nothing changes without momentum.
      dampening: Share of the gradient that does not enter the trace, in [0, 1]; nothing changes without momentum.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = sgd(0.5)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-1.5]

    Reference:
      Robbins and Monro, *A stochastic approximation method*, 1951.
    """
    direction = scale_by_sgd(momentum=momentum, nesterov=nesterov, dampening=dampening)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
