"""Distance over gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class DogState(NamedTuple):
    """Number of updates, the first parameters, the largest distance from them, and the norm of all gradients so far.

    Distance and norm are numbers, or trees of one number for each leaf.
    """

    step: jax.Array
    start: PyTree
    distance: PyTree
    total: PyTree


def scale_by_dog(
    *,
    reps_rel: Hyperparameter = 1e-6,
    eps: Hyperparameter = 1e-8,
    layerwise: bool = False,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Direction of `dog`, ascending, with a length that needs no rate.

    .. math:: u = \frac{\max_{s \le t} \lVert w_s - w_0 \rVert}{\sqrt{\epsilon + \sum_{s \le t} \lVert g_s \rVert^2}}
      \,(g + \lambda w)

    Args:
      reps_rel: First distance relative to 1 + the norm of the parameters, positive: far too small.
      eps: Added to the sum of squares, nonnegative.
      layerwise: Whether each leaf has a distance and a sum of its own.
      weight_decay: Decay as a part of the direction, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      A transformation with state `DogState`; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_dog(reps_rel=0.5, eps=0.0)
      >>> params = jnp.array([3.0])
      >>> updates, _ = tx.update(jnp.array([7.0]), tx.init(params), params)
      >>> updates.tolist()  # 0.5 (1 + 3) / 7 * 7
      [2.0]

    Reference:
      Ivgi, Hinder and Carmon, *DoG is SGD's best friend: a parameter-free dynamic step size schedule*, 2023.
    """
    _check.positive(reps_rel=reps_rel)
    _check.nonnegative(eps=eps, weight_decay=weight_decay)

    def lengths(tree: PyTree) -> PyTree:
        """The norm of all numbers, or of each leaf."""
        if not layerwise:
            return jnp.asarray(_tree.norm(tree), _hyper.default_float())
        number = lambda leaf: _tree.norm(leaf) if _tree.is_number(leaf) else None  # noqa: E731
        return jax.tree.map(number, tree, is_leaf=lambda x: x is None)

    def each(f, *trees, scalars=()):
        """`f` of the number of all, or of those of each leaf."""
        if layerwise:
            return _tree.map(f, *trees, scalars=scalars)
        return f(*trees, *(_hyper.scalar(x) for x in scalars))

    def init(params: PyTree) -> DogState:
        step = jnp.zeros((), jnp.int32)
        # Fresh buffers: the state must not share any with the parameters, or both could not be donated.
        start = _tree.map(lambda _, p: jnp.array(p, copy=True), _tree.zeros_like(params), params)
        size = lengths(params)
        distance = each(lambda size, share: share * (1.0 + size), size, scalars=(_hyper.at(step, reps_rel),))
        return DogState(step, start, distance, jax.tree.map(jnp.zeros_like, distance))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        _tree.require_params(params, "it measures how far they went")
        like = updates
        least = _numerics.sqrt(_hyper.scalar(_hyper.at(state.step, eps)))
        # Of distances the squares are safe, and the power of two that `norm` divides by would take another pass.
        squares = _tree.map(lambda old, p: jnp.sum(_tree.square(p - old)), state.start, params)
        if not layerwise:
            squares = sum((x.astype(least.dtype) for x in _tree.numbers(squares)), jnp.zeros_like(least))
        way = each(_numerics.sqrt, squares)
        distance = each(jnp.maximum, state.distance, way)
        total = each(_numerics.hypot, state.total, lengths(updates))
        shares = each(
            lambda r, size, least: _numerics.divide(r, _numerics.hypot(size, least)), distance, total, scalars=(least,)
        )
        if not _hyper.is_zero(weight_decay):

            def decay(g, p, keep, shrink):
                return jnp.where(keep, g + _tree.parts(lambda x: shrink * x, p), g)

            masks = _tree.resolve_mask(weight_decay_mask, params)
            updates = _tree.map(decay, updates, params, masks, scalars=(_hyper.at(state.step, weight_decay),))
        if layerwise:
            directions = _tree.map(lambda g, share: _tree.parts(lambda x: share * x, g), updates, shares)
        else:
            directions = _tree.map(lambda g, share: _tree.parts(lambda x: share * x, g), updates, scalars=(shares,))
        return _tree.cast_like(directions, like), DogState(_tree.increment(state.step), state.start, distance, total)

    return optax.GradientTransformation(init, update)


def dog(
    learning_rate: Hyperparameter = 1.0,
    *,
    reps_rel: Hyperparameter = 1e-6,
    eps: Hyperparameter = 1e-8,
    layerwise: bool = False,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD that finds its learning rate: how far it went, over the gradients on the way.

    .. math::
      \Delta = -\eta\, \frac{r_t}{\sqrt{\epsilon + \sum_{s \le t} \lVert g_s \rVert^2}}\,(g + \lambda w), \qquad
      r_t = \max_{s \le t} \lVert w_s - w_0 \rVert

    where the first distance is `reps_rel` :math:`(1 + \lVert w_0 \rVert)`. For fine-tuning; leave `learning_rate` at 1.
    It is meant to be averaged: `average_parameters(dog())`. With batch normalization take `reps_rel=1e-4`. LDoG is
    `layerwise=True`, a distance for each leaf, and does better on transformers. The distance is of all parameters (of
    each leaf): average gradients over devices before.

    Optax has no layers, puts decay into the gradient that is summed, and squares: gradients of 1e20 stop it for ever.

    Args:
      learning_rate: Factor on the steps, nonnegative: 1, or a schedule.
      reps_rel: First distance relative to 1 + the norm of the parameters, positive: far too small.
      eps: Added to the sum of squares, nonnegative.
      layerwise: Whether each leaf has a distance and a sum of its own.
      weight_decay: Decay in units of the rate in effect, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = dog(reps_rel=0.5, eps=0.0)
      >>> params = jnp.array([3.0])
      >>> updates, _ = tx.update(jnp.array([7.0]), tx.init(params), params)
      >>> updates.tolist()  # 0.5 (1 + 3) / 7 * 7
      [-2.0]

    Reference:
      Ivgi, Hinder and Carmon, *DoG is SGD's best friend: a parameter-free dynamic step size schedule*, 2023.
    """
    direction = scale_by_dog(
        reps_rel=reps_rel,
        eps=eps,
        layerwise=layerwise,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
    )
    return assemble(direction, learning_rate)
