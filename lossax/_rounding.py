"""Rounding of wide numbers to 16 bits: the numbers stay wide, and no compiler leaves the rounding out.

XLA may drop a conversion to 16 bits and back, which is what keeps a sum exact or spoils it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _tile


@jax.custom_jvp
def _through(x: jax.Array, rounded: jax.Array) -> jax.Array:
    """The rounded number, with the derivative of the one that was rounded."""
    del x
    return rounded


@_through.defjvp
def _(primals, tangents):
    return _through(*primals), tangents[0]


def is_narrow(leaf: Any) -> bool:
    """Whether a leaf is floating point of 16 bits."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize == 2


def nearest(x: jax.Array, dtype: Any) -> jax.Array:
    """The nearest number that `dtype` has, of float32, in float32."""
    to, own = jnp.finfo(dtype), jnp.finfo(x.dtype)
    rounded = lax.reduce_precision(x, to.nexp, to.nmant)
    if to.nexp < own.nexp:  # that takes the smallest numbers, which are whole multiples of one, for 0
        least = float(to.smallest_subnormal)
        rounded = jnp.where(jnp.abs(x) < float(to.tiny), jnp.round(x / least) * least, rounded)
    return _through(x, lax.stop_gradient(rounded))


def seeds(key: jax.Array, count: int) -> jax.Array:
    """What `uniform` makes numbers of, for so many arrays: one draw, which compiles far sooner than one for each."""
    return jax.random.bits(key, (count, 2), jnp.uint32)


def stochastic(x: jax.Array, dtype: Any, seed: jax.Array) -> jax.Array:
    """One of the two numbers of `dtype` around float32 ones, the nearer the likelier: right in the mean; in float32."""
    to = jnp.finfo(dtype)
    exact = lax.stop_gradient(x)
    exponents = lax.bitcast_convert_type(exact, jnp.int32) & jnp.int32(0x7F800000)
    least = max(float(to.tiny), float(jnp.finfo(x.dtype).tiny) * 2.0**to.nmant)
    step = jnp.maximum(lax.bitcast_convert_type(exponents, x.dtype), least) * 2.0**-to.nmant
    places = jnp.abs(exact) / step
    whole = jnp.floor(places)
    up = uniform(seed, x) < places - whole
    rounded = jnp.minimum((whole + up.astype(x.dtype)) * step, float(to.max))
    return _through(x, jnp.where(jnp.isfinite(exact), jnp.sign(exact) * rounded, exact))


def uniform(seed: jax.Array, like: jax.Array) -> jax.Array:
    """Numbers between 0 and 1 in the shape of an array, and spread over devices as that is.

    A hash of places that fuses with what it is for: drawn in the usual way they would cost more than the step.
    """
    place, stride = seed[0], 1
    for axis in range(like.ndim - 1, -1, -1):
        along = jnp.arange(like.shape[axis], dtype=jnp.uint32) * jnp.uint32(stride % 2**32)
        along = along.reshape([-1 if a == axis else 1 for a in range(like.ndim)])
        place, stride = place + along if place.ndim else along + place, stride * like.shape[axis]
    place = _tile.spread_like(jnp.broadcast_to(place, like.shape), like)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        place = (place ^ (place >> shift)) * jnp.uint32(factor)
        place = place ^ seed[1]
    return ((place >> 16).astype(like.dtype) + 0.5) * 2.0**-16
