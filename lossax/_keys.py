"""Keys of random draws, kept in states as plain numbers, which every checkpoint can hold."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _tree
from lossax._types import PyTree


def typed(key: ArrayLike) -> jax.Array:
    """A typed key from a seed, a raw key or a typed one."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(jnp.asarray(key)) if jnp.ndim(key) else jax.random.key(key)


def data(key: ArrayLike) -> jax.Array:
    """Fresh numbers of a key, for a state."""
    return jnp.array(jax.random.key_data(typed(key)), copy=True)


def split(data: jax.Array, key: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The next numbers for the state, and a typed key to draw with; `key` says of what kind."""
    fresh, draw = jax.random.split(jax.random.wrap_key_data(data, impl=jax.random.key_impl(typed(key))))
    return jax.random.key_data(fresh), draw


def map(f: Callable[..., jax.Array], key: jax.Array, tree: PyTree, scalars: tuple = ()) -> PyTree:
    """`f(leaf, key, *scalars)` at every number of `tree`, computed wide, each with a key of its own."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
    keys = jax.random.split(key, max(len(leaves), 1))
    one = lambda leaf, k: _tree.map(lambda x, *s: f(x, k, *s), leaf, scalars=scalars)  # noqa: E731
    return structure.unflatten([one(leaf, k) for leaf, k in zip(leaves, keys, strict=False)])
