"""Distance over weighted gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class DowgState(NamedTuple):
    """Number of updates, the first parameters, the largest distance from them, and the norm of weighted gradients."""

    step: jax.Array
    start: PyTree
    distance: jax.Array
    total: jax.Array


def scale_by_dowg(
    *,
    initial_distance: Hyperparameter = 1e-2,
    eps: Hyperparameter = 1e-4,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Direction of `dowg`, ascending, with a length that needs no rate.

    .. math:: u = \frac{r_t^2}{\epsilon + \sqrt{\sum_{s \le t} r_s^2 \lVert g_s \rVert^2}}\,(g + \lambda w), \qquad
      r_t = \max_{s \le t} \lVert w_s - w_0 \rVert

    Args:
      initial_distance: First distance, positive: too small.
      eps: Added to the root, nonnegative.
      weight_decay: Decay as a part of the direction, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      A transformation with state `DowgState`; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_dowg(initial_distance=0.5, eps=0.0)
      >>> params = jnp.array([3.0])
      >>> updates, _ = tx.update(jnp.array([7.0]), tx.init(params), params)
      >>> updates.tolist()  # 0.5^2 / (0.5 * 7) * 7
      [0.5]

    Reference:
      Khaled, Mishchenko and Jin, *DoWG unleashed: an efficient universal parameter-free gradient descent method*, 2023.
    """
    _check.positive(initial_distance=initial_distance)
    _check.nonnegative(eps=eps, weight_decay=weight_decay)

    def init(params: PyTree) -> DowgState:
        step = jnp.zeros((), jnp.int32)
        # Fresh buffers: the state must not share any with the parameters, or both could not be donated.
        start = _tree.map(lambda _, p: jnp.array(p, copy=True), _tree.zeros_like(params), params)
        distance = jnp.array(_hyper.at(step, initial_distance), _hyper.default_float(), copy=True)
        return DowgState(step, start, distance, jnp.zeros_like(distance))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        _tree.require_params(params, "it measures how far they went")
        dtype, like = state.distance.dtype, updates
        # Of distances the squares are safe, and the power of two that `norm` divides by would take another pass.
        squares = _tree.numbers(_tree.map(lambda old, p: jnp.sum(_tree.square(p - old)), state.start, params))
        way = _numerics.sqrt(sum((x.astype(dtype) for x in squares), jnp.zeros((), dtype)))
        distance = jnp.maximum(state.distance, way)
        # Norms, where the paper has squares: those of 1e20 would be infinite.
        total = _numerics.hypot(state.total, distance * _tree.norm(updates).astype(dtype))
        least = _hyper.scalar(_hyper.at(state.step, eps))
        share = distance * _numerics.divide(distance, total + least)
        if not _hyper.is_zero(weight_decay):

            def decay(g, p, keep, shrink):
                return jnp.where(keep, g + _tree.parts(lambda x: shrink * x, p), g)

            masks = _tree.resolve_mask(weight_decay_mask, params)
            updates = _tree.map(decay, updates, params, masks, scalars=(_hyper.at(state.step, weight_decay),))
        directions = _tree.map(lambda g, share: _tree.parts(lambda x: share * x, g), updates, scalars=(share,))
        return _tree.cast_like(directions, like), DowgState(_tree.increment(state.step), state.start, distance, total)

    return optax.GradientTransformation(init, update)


def dowg(
    learning_rate: Hyperparameter = 1.0,
    *,
    initial_distance: Hyperparameter = 1e-2,
    eps: Hyperparameter = 1e-4,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent that finds its learning rate, with late gradients counting more than in `dog`: longer steps.

    .. math:: \Delta = -\eta\, \frac{r_t^2}{\epsilon + \sqrt{\sum_{s \le t} r_s^2 \lVert g_s \rVert^2}}\,
      (g + \lambda w), \qquad r_t = \max_{s \le t} \lVert w_s - w_0 \rVert

    For large batches; leave `learning_rate` at 1. The distance is of all parameters: average gradients over devices
    before. Optax's `init_estim_sq_dist` is the square of `initial_distance`, and its decay is in the gradients that are
    summed.

    Args:
      learning_rate: Factor on the steps, nonnegative: 1, or a schedule.
      initial_distance: First distance, positive: too small.
      eps: Added to the root, nonnegative.
      weight_decay: Decay in units of the rate in effect, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = dowg(initial_distance=0.5, eps=0.0)
      >>> params = jnp.array([3.0])
      >>> updates, _ = tx.update(jnp.array([7.0]), tx.init(params), params)
      >>> updates.tolist()  # 0.5^2 / (0.5 * 7) * 7
      [-0.5]

    Reference:
      Khaled, Mishchenko and Jin, *DoWG unleashed: an efficient universal parameter-free gradient descent method*, 2023.
    """
    direction = scale_by_dowg(
        initial_distance=initial_distance, eps=eps, weight_decay=weight_decay, weight_decay_mask=weight_decay_mask
    )
    return assemble(direction, learning_rate)
