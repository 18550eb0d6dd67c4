"""Steps that are made on a condition: the work of one branch is all that is done."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lossax import _tree
from lossax._types import PyTree


def only_if(
    condition: jax.Array, step: Callable[[], tuple[PyTree, PyTree]], updates: PyTree, state: PyTree
) -> tuple[PyTree, PyTree]:
    """Updates and state as `step()` makes them, or updates of 0 and `state` as it is.

    The step's state returns in the dtypes of `state`, whatever gradients it was made of. What is no number among the
    updates stays out of the branches, which return arrays only.
    """

    def go():
        moved, new = step()
        numbers = jax.tree.map(lambda u: u if _tree.is_number(u) else None, moved, is_leaf=lambda x: x is None)
        return numbers, jax.tree.map(lambda a, b: a if a.dtype == b.dtype else a.astype(b.dtype), new, state)

    moved, _ = jax.eval_shape(go)

    def stay():
        zeros = lambda u, move: None if move is None else jnp.zeros_like(u, dtype=move.dtype)  # noqa: E731
        return jax.tree.map(zeros, updates, moved, is_leaf=lambda x: x is None), state

    moved, new = jax.lax.cond(condition, go, stay)
    return jax.tree.map(lambda u, m: u if m is None else m, updates, moved, is_leaf=lambda x: x is None), new
