"""Samples: distributions that are known by points and their weights. One unit is a pair of samples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lossax import _check
from lossax._numerics import absolute, divide, power
from lossax._reduction import masked, unit_weights
from lossax._tile import numbered, over_sets


def samples(where: Any, predictions: Any, targets: Any, axes: int) -> tuple[jax.Array, jax.Array]:
    """Check and mask: points are numbers (one axis) or vectors (two)."""
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    own, other = _check.spec(predictions)[0], _check.spec(targets)[0]
    shapes = f"predictions{list(own)} and targets{list(other)}"
    alike = own[:-axes] == other[:-axes] and own[len(own) - axes + 1 :] == other[len(other) - axes + 1 :]
    if min(len(own), len(other)) < axes or not alike:
        raise ValueError(f"expected shapes that differ in the number of points only, axis {-axes}, got {shapes}")
    if 0 in own[-axes:] or 0 in other[-axes:]:
        raise ValueError(f"each sample needs at least one point, got {shapes}")
    (predictions,) = masked(where, predictions, event=axes)
    (targets,) = masked(where, targets, event=axes)
    return predictions, targets.astype(predictions.dtype)


def weighted(where: Any, points: jax.Array, axes: int, **weights: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Points, 0 where their weight is; weights that sum to 1, or to 0 if all are; and the sum that they had."""
    ((name, given),) = weights.items()
    shape = points.shape[: points.ndim - axes + 1]
    if given is None:
        n = shape[-1]
        one = jnp.ones_like(points if axes == 1 else points[..., 0])  # sharded like the points
        return points, one / float(n), float(n) * one[..., 0]
    _check.real(**weights)
    _check.broadcasts_to(shape, **weights)
    (given,) = masked(where, unit_weights(shape, None, given, dtype=points.dtype), event=1, fill=1.0)
    given = _check.domain("nonnegative", lambda w: w >= 0, **{name: given})
    total = jnp.sum(given, axis=-1)
    nothing = (given == 0).reshape(given.shape + (1,) * (axes - 1))
    return jnp.where(nothing, 0, points), divide(given, total[..., None]), total


def in_order(points: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
    """Points in ascending order along the last axis, and what belongs to them.

    Gathered, since the derivative of a sort is not defined on explicit meshes.
    """
    _, origin = lax.sort((lax.stop_gradient(points), numbered(points)), num_keys=1)
    return tuple(jnp.take_along_axis(x, origin, axis=-1, mode="clip") for x in (points, *others))


def _cost(half: jax.Array, share: jax.Array, p: jax.Array) -> jax.Array:
    """share * |2 half|^p."""
    return power(absolute(half), p) * (share * jnp.power(2.0, p).astype(p.dtype))


def _transport(x: jax.Array, y: jax.Array, p: jax.Array) -> jax.Array:
    """Mean cost of the monotone plan between `[..., n]` and `[..., m]`: who meets whom depends on n and m alone."""
    n, m = x.shape[-1], y.shape[-1]
    (x,), (y,) = in_order(0.5 * x), in_order(0.5 * y)
    if n == m:
        return jnp.sum(_cost(x - y, jnp.asarray(1.0 / n, x.dtype), p), axis=-1)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # of the pieces, in units of 1 / (n m)
    share = np.diff(ends, prepend=0) / (n * m)
    share = jnp.asarray(share, x.dtype).reshape((1,) * (x.ndim - 1) + share.shape)
    return jnp.sum(_cost(_at(x, (ends - 1) // m) - _at(y, (ends - 1) // n), share, p), axis=-1)


def _at(x: jax.Array, index: np.ndarray) -> jax.Array:
    """Entries of the last axis, each as often as `index`, which is sorted and without holes, has it."""
    return jnp.repeat(x, np.bincount(index), axis=-1, total_repeat_length=len(index))


def plan(x: jax.Array, y: jax.Array, of_x: jax.Array, of_y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Who meets whom of points `[n]` and `[m]` with weights, in order: a piece between the steps of both quantiles.

    Returns:
      The points of both that meet in each piece, and its share, `[n + m]`.
    """

    def steps(points, weights):
        points, weights = in_order(points, weights)
        total = jnp.cumsum(weights)
        return points, divide(total, total[-1])

    (x, up_to_x), (y, up_to_y) = steps(x, of_x), steps(y, of_y)
    of_first = jnp.concatenate([jnp.ones_like(up_to_x, jnp.int32), jnp.zeros_like(up_to_y, jnp.int32)])
    ends, of_first = in_order(jnp.concatenate([up_to_x, up_to_y]), of_first)
    share = jnp.diff(ends, prepend=jnp.zeros_like(ends[:1]))

    def met(points, own):  # how many steps lie before the piece; pieces without length may be anywhere
        return points[jnp.minimum(jnp.cumsum(own) - own, len(points) - 1)]

    return met(x, of_first), met(y, 1 - of_first), share


def _weighted_transport(x: jax.Array, y: jax.Array, of_x: jax.Array, of_y: jax.Array, p: jax.Array) -> jax.Array:
    """The same for points `[n]` and `[m]` with weights."""
    x, y, share = plan(0.5 * x, 0.5 * y, of_x, of_y)
    return jnp.sum(_cost(x - y, share, p))


def wasserstein(
    where: Any, predictions: jax.Array, targets: jax.Array, of_predictions: Any, of_targets: Any, p: jax.Array
) -> jax.Array:
    """For numbers `[..., n]` and `[..., m]`; their weights may lack leading axes."""
    if of_predictions is None and of_targets is None:
        return _transport(predictions, targets, p)
    x, of_x, total = weighted(where, predictions, 1, prediction_weights=of_predictions)
    y, of_y, other = weighted(where, targets, 1, target_weights=of_targets)
    values = over_sets(lambda x, y, of_x, of_y: _weighted_transport(x, y, of_x, of_y, p), x.ndim - 1)(x, y, of_x, of_y)
    return of_something(values, total, other)


def of_something(values: jax.Array, total: jax.Array, other: jax.Array) -> jax.Array:
    """The values, 0 where one of the samples has no weight at all."""
    return jnp.where((total == 0) | (other == 0), 0, values)
