"""Exact Euclidean distances of masks: border weights, and the targets of the losses of surfaces."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper


def _along(seeds: jax.Array, axis: int) -> jax.Array:
    """Distance of each pixel to the next seed of its own line, in pixels; infinite without one."""
    size = seeds.shape[axis]
    index = lax.broadcasted_iota(_hyper.default_float(), seeds.shape, axis)
    behind = lax.cummax(jnp.where(seeds, index, -jnp.inf), axis)
    ahead = lax.cummin(jnp.where(seeds, index, jnp.inf), axis, reverse=True)
    return jnp.minimum(index - behind, ahead - index) if size else index


def _parabolas(squares: jax.Array, step: jax.Array, axis: int) -> jax.Array:
    """min over j of squares[j] + (step (i - j))^2 along an axis.

    Offset by offset, both ways at once, until none can be better: as many passes over the array as the largest
    distance has pixels.
    """
    size = squares.shape[axis]
    widths = [(size, size, 0) if a == axis else (0, 0, 0) for a in range(squares.ndim)]
    padded = lax.pad(squares, jnp.asarray(jnp.inf, squares.dtype), widths)

    def cost(offset):
        return jnp.square(step * offset.astype(squares.dtype))

    def unfinished(state):
        offset, best = state
        return (offset < size) & (cost(offset) < jnp.max(best, initial=0.0))

    def widen(state):
        offset, best = state
        behind = lax.dynamic_slice_in_dim(padded, size - offset, size, axis)
        ahead = lax.dynamic_slice_in_dim(padded, size + offset, size, axis)
        return offset + 1, jnp.minimum(best, jnp.minimum(behind, ahead) + cost(offset))

    return lax.while_loop(unfinished, widen, (jnp.int32(1), squares))[1]


def distance_transform(
    mask: jax.Array,
    *,
    axes: tuple[int, ...],
    spacing: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Exact Euclidean distance of each pixel of a mask to the nearest pixel outside it.

    .. math:: d_i = \min_{j :\, m_j = 0} \lVert x_i - x_j \rVert

    As scipy's `distance_transform_edt`, and jittable: for masks that change while training runs. Masks of a data set
    are better transformed once, on the host. A mask that fills its set has nothing to be far from: it has 0 everywhere,
    where scipy returns distances to a pixel that does not exist.

    Axis by axis: a scan along the first, then min-plus with a parabola along each other one, offset by offset. That
    takes as many passes over the array as the largest distance has pixels, and memory for a few arrays like `mask`,
    never for pairs of pixels. Under `vmap` all lanes wait for the largest distance among them.

    Args:
      mask: Pixels of the object, bool `[..., *spatial, ...]`.
      axes: Axes of `mask` that are space; each remaining entry is a set of its own.
      spacing: Size of a pixel, positive: a number, or one for each of `axes`. Without derivative.
      where: Pixels that exist, bool, broadcast to `mask`: the others are neither in nor outside and have 0.

    Returns:
      Float in the shape of `mask`: 0 outside the mask, at least a pixel inside.

    Raises:
      TypeError: if `mask` or `where` is not bool or `axes` no tuple of ints.
      ValueError: if `axes` are not among those of `mask`, or `spacing` does not fit them or is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> mask = jnp.array([[True, True, True], [True, True, False]])
      >>> (distance_transform(mask, axes=(0, 1)) ** 2).round(4).tolist()
      [[5.0, 2.0, 1.0], [4.0, 1.0, 0.0]]

    Reference:
      Felzenszwalb and Huttenlocher, *Distance transforms of sampled functions*, 2012.
    """
    _check.boolean(mask=mask)
    axes = _check.axes(axes, mask=mask)
    _check.positive(spacing=spacing)
    _check.broadcasts_to((len(axes),), spacing=spacing)
    mask = jnp.asarray(mask)
    kept = jnp.ones_like(mask)
    if where is not None:
        _check.boolean(where=where)
        _check.broadcasts_to(mask.shape, where=where)
        where = jnp.asarray(where)
        kept = jnp.broadcast_to(where.reshape((1,) * (mask.ndim - where.ndim) + where.shape), mask.shape)
    steps = lax.stop_gradient(jnp.broadcast_to(jnp.asarray(spacing, _hyper.default_float()), (len(axes),)))
    seeds = kept & ~mask
    seeds = seeds | ~jnp.any(seeds, axis=axes, keepdims=True)
    squares = jnp.square(steps[0] * _along(seeds, axes[0]))
    for step, axis in zip(steps[1:], axes[1:], strict=True):
        squares = _parabolas(squares, step, axis)
    return jnp.where(kept & mask, jnp.sqrt(squares), 0)


def signed_distance(
    mask: jax.Array,
    *,
    axes: tuple[int, ...],
    spacing: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Distance of each pixel to the other side of a mask: positive outside, negative inside.

    .. math:: \phi_i = \min_{j :\, m_j = 1} \lVert x_i - x_j \rVert - \min_{j :\, m_j = 0} \lVert x_i - x_j \rVert

    What `losses.boundary` takes. A set whose mask is empty or full has no boundary: 0 everywhere. The pixels on
    both sides of the boundary have +1 and -1; Kervadec's code has 0 inside instead of -1, which is
    `signed_distance(mask, ...) + mask.astype(float)`.

    Args:
      mask: Pixels of the object, bool `[..., *spatial, ...]`.
      axes: Axes of `mask` that are space; each remaining entry is a set of its own.
      spacing: Size of a pixel, positive: a number, or one for each of `axes`. Without derivative.
      where: Pixels that exist, bool, broadcast to `mask`: the others are neither in nor outside and have 0.

    Returns:
      Float in the shape of `mask`.

    Raises:
      TypeError: if `mask` or `where` is not bool or `axes` no tuple of ints.
      ValueError: if `axes` are not among those of `mask`, or `spacing` does not fit them or is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> signed_distance(jnp.array([False, False, True, True, True]), axes=(0,)).tolist()
      [2.0, 1.0, -1.0, -2.0, -3.0]

    Reference:
      Kervadec et al., *Boundary loss for highly unbalanced segmentation*, 2019.
    """
    _check.boolean(mask=mask)
    inside = distance_transform(mask, axes=axes, spacing=spacing, where=where)
    return distance_transform(~jnp.asarray(mask), axes=axes, spacing=spacing, where=where) - inside
