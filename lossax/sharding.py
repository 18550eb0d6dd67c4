"""Where an optimizer's state lives: beside the parameters, on whatever mesh they are."""

from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from lossax._types import PyTree


def _narrowed(sharding: Sharding, shape: tuple[int, ...], own: tuple[int, ...]) -> Sharding | None:
    """The sharding of what has the shape of a parameter, or has length one where it was reduced; `None` for others."""
    if own == shape:
        return sharding
    if not isinstance(sharding, NamedSharding) or len(own) != len(shape):
        return None
    if any(length not in (1, whole) for length, whole in zip(own, shape, strict=True)):
        return None
    axes = tuple(sharding.spec) + (None,) * (len(shape) - len(sharding.spec))
    kept = (axis if length == whole else None for axis, length, whole in zip(axes, own, shape, strict=True))
    return NamedSharding(sharding.mesh, PartitionSpec(*kept), memory_kind=sharding.memory_kind)


def _beside(path: tuple[Any, ...], own: tuple[int, ...], params: dict[tuple[Any, ...], Any]) -> Sharding | None:
    """The sharding of a leaf of state from that of the parameter whose path its own path ends in or passes through."""
    for length in range(len(path), -1, -1):
        for start in range(len(path) - length, -1, -1):
            param = params.get(path[start : start + length])
            found = None if param is None else _narrowed(param.sharding, tuple(param.shape), own)
            if found is not None:
                return found
    return None


def state_shardings(tx: optax.GradientTransformation, params: PyTree) -> PyTree:
    """Where each leaf of an optimizer's state should live: sharded like its parameter, and the rest replicated.

    Under an automatic mesh `jax.jit(tx.init)(params)` puts the whole state on one device: zeros do not depend on what
    they are shaped like. Say where it goes:

    `state = jax.jit(tx.init, out_shardings=state_shardings(tx, params))(params)`

    Steps then compile once, under automatic and explicit meshes. A leaf in the shape of its parameter has its sharding,
    and so has one that is reduced to length one along some axes (Adafactor's rows and columns) along the others.
    Nothing is allocated: parameters may be abstract. For parameters sharded over the data axis (FSDP) this shards the
    state as well; to shard the state alone (ZeRO-1) hand over abstract parameters with the shardings it should have.

    Args:
      tx: Any transformation of lossax or Optax, chains and wrappers included.
      params: Parameters as `tx.init` takes them: arrays, or `jax.ShapeDtypeStruct` with a sharding.

    Returns:
      A tree of shardings in the structure of the state.

    Raises:
      ValueError: if no parameter has a sharding.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax.optimizers import adam
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> params = {"w": jax.device_put(jnp.zeros((8, 2)), NamedSharding(mesh, PartitionSpec("data")))}
      >>> direction = state_shardings(adam(1e-3), params)[1]
      >>> direction.mu["w"].spec, direction.step.spec
      (P('data',), P())
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    arrays = {i: leaf for i, (_, leaf) in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")}

    def init(arrays):
        return tx.init(structure.unflatten([arrays.get(i, leaf) for i, (_, leaf) in enumerate(leaves)]))

    state = jax.eval_shape(init, arrays)
    placed = {leaves[i][0]: a for i, a in arrays.items() if isinstance(getattr(a, "sharding", None), Sharding)}
    if not placed:
        raise ValueError("params must be arrays, or jax.ShapeDtypeStruct with a sharding; none of them has one")
    shardings = [a.sharding for a in placed.values()]
    named = [s for s in shardings if isinstance(s, NamedSharding)]
    elsewhere = NamedSharding(named[0].mesh, PartitionSpec()) if named else shardings[0]

    def place(path, leaf):
        return _beside(path, np.shape(leaf), placed) or elsewhere

    return jax.tree_util.tree_map_with_path(place, state)
