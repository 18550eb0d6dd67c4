"""Second moments of matrices kept as a row and a column."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lossax import _numerics, _tree


class FactoredMoment(NamedTuple):
    """Means of a second moment over its columns and over its rows, with axes of length one where it averaged."""

    row: jax.Array
    column: jax.Array


def axes(shape: tuple[int, ...], factored: str, least: int) -> tuple[int, int] | None:
    """The axes of the rows and the columns that the second moment is factored into, `None` to keep it whole."""
    if factored == "none" or len(shape) < 2:
        return None
    by_size = sorted(range(len(shape)), key=lambda axis: shape[axis])
    row, column = sorted(by_size[-2:]) if factored == "largest" else (len(shape) - 2, len(shape) - 1)
    return (row, column) if min(shape[row], shape[column]) >= least else None


def zeros(leaf: Any, axes: tuple[int, int] | None) -> Any:
    """The moment of a leaf before the first step."""
    if axes is None:
        return _tree.zeros_like(leaf, real=True)
    # Zeros like a sum have its sharding: that of the axes that are left.
    dtype = _tree.wide_dtype(leaf, real=True)
    row, column = (jnp.zeros_like(jnp.sum(leaf, axis, keepdims=True), dtype) for axis in axes[::-1])
    return FactoredMoment(row, column)


def averaged(moment: Any, square: jax.Array, share: jax.Array, axes: tuple[int, int] | None) -> Any:
    """The moment with `share` of a new square."""
    if axes is None:
        return _tree.towards(moment, square, share)
    # By name: Flax NNX keeps the two as a mapping between steps.
    parts = zip((moment.row, moment.column), axes[::-1], strict=True)
    return FactoredMoment(*(_tree.towards(old, jnp.mean(square, axis, keepdims=True), share) for old, axis in parts))


def root(moment: Any, axes: tuple[int, int] | None) -> jax.Array:
    """The root of the moment at every element; infinite if one square was."""
    if axes is None:
        return _numerics.sqrt(moment)
    mean = _numerics.sqrt(jnp.mean(moment.row, axes[0], keepdims=True))
    by = _numerics.divide(_numerics.sqrt(moment.row), mean) * _numerics.sqrt(moment.column)
    return jnp.where(jnp.isinf(mean), jnp.inf, by)


def normalized(g: jax.Array, moment: Any, floor: jax.Array, axes: tuple[int, int] | None) -> jax.Array:
    """The gradient divided by the root of its moment, to whose squares `floor` was added."""
    by = root(moment, axes)
    u = _numerics.divide(g, by)
    # A step function while the gradient has always been 0: its slope of 1 / sqrt(floor) overflows in two steps.
    return jnp.where(by <= 1.5 * _numerics.sqrt(floor), jax.lax.stop_gradient(u), u)
