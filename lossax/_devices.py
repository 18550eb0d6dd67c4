"""Sums over a batch that may lie on several devices: inside `shard_map`, over the named axis of its mesh."""

import jax
import jax.numpy as jnp
from jax import lax


def total(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The sum over devices, or the array itself."""
    return x if axis_name is None else lax.psum(x, axis_name)


def largest(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The largest over devices, without derivative."""
    x = lax.stop_gradient(x)
    return x if axis_name is None else lax.pmax(x, axis_name)


def shared(x: jax.Array, axis_name: str | None) -> jax.Array:
    """What is the same on all devices, in a type that says so: a loop may have forgotten it."""
    return x if axis_name is None else lax.pmean(x, axis_name)


def moments(
    x: jax.Array, weights: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Total weight, mean, the numbers less the mean, and the sum of their weighted squares, of `[n, ...]` along n."""
    weights = weights.reshape(weights.shape + (1,) * (x.ndim - weights.ndim))
    weight = total(jnp.sum(weights, axis=0), axis_name)
    some = jnp.where(weight > 0, weight, 1)
    mean = total(jnp.sum(weights * x, axis=0), axis_name) / some
    centred = x - mean[None]
    squares = total(jnp.sum(weights * jnp.square(centred), axis=0), axis_name)
    return weight, mean, centred, squares
