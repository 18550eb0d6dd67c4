"""Gradients of mean zero in every unit, and which units there are."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _tree, _units
from lossax._types import PyTree, UnitAxes


def centralize(unit_axes: UnitAxes = -1) -> optax.GradientTransformation:
    r"""Takes the mean off the gradient of each unit.

    .. math:: g_i \leftarrow g_i - \operatorname{mean}(g_i)

    A unit is what feeds one output: `unit_axes=-1` for Flax, Haiku and Keras kernels `(..., in, out)`, 0 for torch and
    Equinox weights `(out, in, ...)`; `describe_units` shows what a rule does. Optax always takes the mean over all axes
    but the first, as is right for torch: on Flax kernels that is the mean over outputs, another method. Vectors and
    scalars are left alone, and so are units of one entry, which are nothing but their mean. Before the optimizer.

    Args:
      unit_axes: Axes that tell units apart, or a function of path and leaf that returns them or `None` to leave the
        leaf alone.

    Returns:
      A transformation without state.

    Raises:
      TypeError: if `unit_axes` is no axis, tuple or function.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = centralize()
      >>> updates, _ = tx.update(jnp.array([[1.0, 5.0], [3.0, 5.0]]), tx.init(None))
      >>> updates.tolist()
      [[-1.0, 0.0], [1.0, 0.0]]

    Reference:
      Yong, Huang, Hua and Zhang, *Gradient centralization: a new optimization technique for deep neural networks*,
      2020.
    """
    _units.check(unit_axes)

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params

        def center(u, units):
            if units.size <= 1:
                return u
            return u - jnp.sum(u / units.size, axis=units.within, keepdims=True)

        units = _units.resolve(unit_axes, updates, vectors=None)
        return _tree.cast_like(_tree.map(center, updates, units), updates), state

    return optax.GradientTransformation(init, update)


def describe_units(params: PyTree, unit_axes: UnitAxes = -1) -> str:
    """What a rule for units makes of each leaf, to be printed.

    Args:
      params: Parameters, or their shapes.
      unit_axes: Axes that tell units apart, or a function of path and leaf, as transformations take it.

    Returns:
      One line for each number among the leaves.

    Raises:
      TypeError: if `unit_axes` is no axis, tuple or function.
      ValueError: if a leaf does not have these axes.

    Example:
      >>> import jax.numpy as jnp
      >>> print(describe_units({"kernel": jnp.zeros((3, 3, 8, 16)), "bias": jnp.zeros(16)}))
      bias [16]: 1 units of 16, axes ()
      kernel [3, 3, 8, 16]: 16 units of 72, axes (3,)
      >>> print(describe_units({"kernel": jnp.zeros((8, 16))}, lambda path, leaf: None if "kernel" in path else -1))
      kernel [8, 16]: left alone
    """
    _units.check(unit_axes)
    leaves = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: x is None)[0]
    units = jax.tree.leaves(_units.resolve(unit_axes, params), is_leaf=lambda x: x is None)
    lines = []
    for (path, leaf), unit in zip(leaves, units, strict=True):
        if not _tree.is_number(leaf):
            continue
        what = f"{unit.count} units of {unit.size}, axes {unit.axes}" if unit else "left alone"
        lines.append(f"{_tree.path_string(path)} {list(_check.spec(leaf)[0])}: {what}".lstrip())
    return "\n".join(lines)
