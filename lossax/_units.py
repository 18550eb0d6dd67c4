"""Units: the parts of a leaf that are measured each by itself, such as the incoming weights of one neuron.

One convention for all that works by units. `unit_axes` are the axes that tell the units of a leaf apart: -1 for
kernels `(..., in, out)` of Flax, Haiku and Keras; 0 for weights `(out, in, ...)` of torch and Equinox; `(0, -1)` for
kernels `(layers, in, out)` stacked for a scan; `()` makes the leaf one unit. Where leaves differ it is a function of
the path and the leaf that returns one of these, or `None` to leave the leaf alone.
"""

import math
from dataclasses import dataclass

import jax
import numpy as np

from lossax import _check, _tree
from lossax._types import PyTree, UnitAxes


@dataclass(frozen=True)
class Units:
    """The axes that tell the units of a leaf apart, those inside a unit, the number of units and the size of one.

    A leaf of a tree of its own, so that it may stand beside a leaf in `_tree.map`.
    """

    axes: tuple[int, ...]
    within: tuple[int, ...]
    count: int
    size: int


def check(unit_axes: UnitAxes) -> None:
    """Raises unless it is an axis, a tuple of axes or a function."""
    axes = unit_axes if isinstance(unit_axes, tuple) else (unit_axes,)
    if not callable(unit_axes) and not all(isinstance(a, int | np.integer) and not isinstance(a, bool) for a in axes):
        raise TypeError(f"unit_axes must be an axis, a tuple of axes or a function of path and leaf, got {unit_axes!r}")


def resolve(unit_axes: UnitAxes, tree: PyTree, vectors: tuple[int, ...] | None = ()) -> PyTree:
    """`Units` at every number of `tree`; `None` at what is left alone.

    Axes given as such are those of matrices and larger arrays: a vector has `vectors`, unless a function says
    otherwise, and a scalar is one unit if vectors are not left alone.
    """

    def units_of(path, leaf):
        if not _tree.is_number(leaf):
            return None
        shape, _ = _check.spec(leaf)
        if callable(unit_axes):
            found = unit_axes(_tree.path_string(path), leaf)
        elif vectors is None or len(shape) > 1:
            found = unit_axes if len(shape) > 1 else None
        else:
            found = vectors[: len(shape)]
        if found is None:
            return None
        check(found)
        found = found if isinstance(found, tuple) else (found,)
        axes = tuple(sorted(_check.axes(found, **{f"leaf {_tree.path_string(path)}": leaf}))) if found else ()
        within = tuple(axis for axis in range(len(shape)) if axis not in axes)
        return Units(axes, within, math.prod(shape[a] for a in axes), math.prod(shape[a] for a in within))

    return jax.tree_util.tree_map_with_path(units_of, tree, is_leaf=lambda x: x is None)
