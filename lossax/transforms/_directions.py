"""Gradients turned: off the weights, towards what is slow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._types import Hyperparameter, PyTree


class GrokfastState(NamedTuple):
    """Number of updates, and average of the gradients."""

    step: jax.Array
    average: PyTree


def orthogonal_gradient() -> optax.GradientTransformation:
    r"""Takes off each gradient what lies along its weights, and keeps its length: OrthoGrad.

    .. math:: g_\perp = g - \frac{\langle w, g \rangle}{\lVert w \rVert^2} w, \qquad
      g \leftarrow \frac{\lVert g \rVert}{\lVert g_\perp \rVert} g_\perp

    So a network that fits all its data cannot lower the loss by growing its weights, which stops learning before it
    generalises (grokking). Each leaf by itself; before the optimizer. Weights that are 0 and leaves of one entry, which
    have no other direction, are left alone. Where the gradient lies along the weights but for rounding the update is 0;
    the authors' program blows the rounding up to the gradient's length.

    Returns:
      A transformation without state; `update` needs `params`.

    Raises:
      ValueError: if `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> params = jnp.array([2.0, 0.0])
      >>> updates, _ = orthogonal_gradient().update(jnp.array([3.0, 4.0]), optax.EmptyState(), params)
      >>> updates.tolist()
      [0.0, 5.0]

    Reference:
      Prieto, Barsbey, Mediano and Birdal, *Grokking at the edge of numerical stability*, 2025.
    """

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def turn(g, w):
        if g.size == 1:
            return g
        unit_w, length_w = _tree.scaled_norm(w)
        unit, length = _tree.scaled_norm(g)
        along = _numerics.divide(_tree.parts(lambda x: _tree.over_unit(x, unit_w), w), length_w)
        plain = _numerics.divide(_tree.parts(lambda x: _tree.over_unit(x, unit), g), length)
        rest = plain - jnp.sum(jnp.conj(along) * plain) * along
        size = _numerics.sqrt(jnp.sum(_tree.square(rest)))
        something = size > 16.0 * jnp.finfo(size.dtype).eps
        rest = _numerics.divide(rest, jnp.where(something, size, 0))
        return jnp.where(length_w > 0, unit * (length * rest), g)

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        _tree.require_params(params, "gradients are turned off them")
        return _tree.cast_like(_tree.map(turn, updates, params), updates), state

    return optax.GradientTransformation(init, update)


def grokfast(decay: Hyperparameter = 0.98, *, amplification: Hyperparameter = 2.0) -> optax.GradientTransformation:
    r"""Amplifies the slow part of the gradients.

    .. math:: \bar g \leftarrow \alpha \bar g + (1 - \alpha) g, \qquad g \leftarrow g + \lambda \bar g

    What generalises comes slowly: on tasks that are learnt long after they are memorised (grokking) it saves most of
    the time. Before the optimizer, and with more weight decay than usual. The average begins as the first gradient.

    Args:
      decay: Share of the past that the average keeps, in [0, 1).
      amplification: What the average is multiplied by, nonnegative; 0 turns it off.

    Returns:
      A transformation with state `GrokfastState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = grokfast(0.5)
      >>> first, state = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))
      >>> second, _ = tx.update(jnp.array([3.0]), state)  # the average is 2
      >>> first.item(), second.item()
      (3.0, 7.0)

    Reference:
      Lee, Kang, Kim and Lee, *Grokfast: accelerated grokking by amplifying slow gradients*, 2024.
    """
    _check.decay(decay=decay)
    _check.nonnegative(amplification=amplification)

    def init(params: PyTree) -> GrokfastState:
        return GrokfastState(jnp.zeros((), jnp.int32), _tree.zeros_like(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        keep = jnp.asarray(_hyper.at(state.step, decay), _hyper.default_float())
        average = _tree.moment(updates, state.average, jnp.where(state.step > 0, keep, 0))
        add = lambda g, mean, amount: g + _tree.parts(lambda x: amount * x, mean)  # noqa: E731
        amplified = _tree.map(add, updates, average, scalars=(_hyper.at(state.step, amplification),))
        return _tree.cast_like(amplified, updates), GrokfastState(_tree.increment(state.step), average)

    return optax.GradientTransformation(init, update)
