"""Distances and cosines of two vectors as pairs (high, low): a margin taken off them leaves digits of what is near it.

Derivatives belong to the first of the two.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _double
from lossax._angles import direction
from lossax._numerics import divide

Pair = tuple[jax.Array, jax.Array]


def _ordinary(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The vectors over a power of two, which rounds nothing, so that no entry is above 1.5; that power, as an axis."""
    size = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True, initial=0.0)
    quarter = jnp.where(size > 1.0, 0.25, 1.0).astype(size.dtype)  # compilers multiply by 1 / power, which may vanish
    power = lax.reduce_precision(quarter * size, jnp.finfo(size.dtype).nexp, 0)
    return divide(quarter * vectors, power), divide(power, quarter)


def _dot(x: jax.Array, y: jax.Array) -> Pair:
    """Products of ordinary vectors, added up over the last axis: what is above a common place adds up exactly."""
    product, low = _double.multiply(x, y)
    place = lax.optimization_barrier(jnp.full((), 4.0 * max(x.shape[-1], 1), x.dtype))  # held: (a + b) - b is not a
    above = (place + product) - place
    return _double.add(jnp.sum(above, axis=-1), jnp.sum((product - above) + low, axis=-1))


def _root(square: Pair) -> Pair:
    high = jnp.sqrt(square[0])
    product, low = _double.multiply(high, high)
    return high, divide(0.5 * (((square[0] - product) - low) + square[1]), high)


def _over(a: Pair, b: Pair) -> Pair:
    """a / b, 0 where b is 0."""
    high = divide(a[0], b[0])
    product, low = _double.multiply(high, b[0])
    return _double.add(high, divide(((a[0] - product) - low) + (a[1] - high * b[1]), b[0]))


def _halved(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Half of each where they are so large that their difference may overflow, and what they were multiplied by."""
    size = jnp.maximum(jnp.max(jnp.abs(x), axis=-1, initial=0.0), jnp.max(jnp.abs(y), axis=-1, initial=0.0))
    half = lax.stop_gradient(jnp.where(size > 1.0, 0.5, 1.0).astype(x.dtype))
    return x * half[..., None], y * half[..., None], half


@jax.custom_jvp
@jax.jit  # one program, not a hundred calls outside of jit
def distance(x: jax.Array, y: jax.Array) -> Pair:
    """Euclidean distance over the last axis, no further than the largest number; its derivative at 0 is 0."""
    x, y, half = _halved(x, y)
    high, low = _double.add(x, -y)
    high, power = _ordinary(high)
    low = divide(low, power)
    square, rest = _dot(high, high)
    length, low = _root(_double.add(square, rest + 2.0 * jnp.sum(high * low, axis=-1)))
    largest, power = jnp.finfo(x.dtype).max, power[..., 0]
    length, low = length * power / half, low * power / half
    return jnp.minimum(length, largest), jnp.where(length < largest, low, 0)


@distance.defjvp
def _(primals, tangents):
    x, y, _ = _halved(*primals)
    pair = distance(*primals)
    return pair, (jnp.sum(direction(x - y) * (tangents[0] - tangents[1]), axis=-1), jnp.zeros_like(pair[1]))


def squared(a: Pair) -> Pair:
    """The square of a number."""
    high, low = _double.multiply(a[0], a[0])
    return high, low + 2.0 * a[0] * a[1]


def beyond(a: Pair, b: Pair, margin: jax.Array) -> jax.Array:
    """a - b + margin, with its digits where they cancel."""
    high, low = _double.add(a[0], -b[0])
    return (high + margin) + (low + (a[1] - b[1]))


def _lengths(x: jax.Array, y: jax.Array) -> tuple[Pair, Pair]:
    return _root(_dot(x, x)), _root(_dot(y, y))


@jax.custom_jvp
@jax.jit
def _turn(x: jax.Array, y: jax.Array) -> jax.Array:
    """The difference of the directions of two vectors, with its digits where they are near."""
    same = jnp.all(direction(x) == direction(y), axis=-1, keepdims=True)
    x, y = _ordinary(x)[0], _ordinary(y)[0]
    (a, a_low), (b, b_low) = ((high[..., None], low[..., None]) for high, low in _lengths(x, y))
    (long_x, x_low), (long_y, y_low) = _double.multiply(x, b), _double.multiply(y, a)
    across = (long_x - long_y) + ((x_low - y_low) + (x * b_low - y * a_low))
    return jnp.where(same, 0, divide(across, a * b))


@_turn.defjvp
def _(primals, tangents):
    _, moves = jax.jvp(lambda *v: (direction(v[0]), direction(v[1])), primals, tangents)
    return _turn(*primals), moves[0] - moves[1]


def _nothing(x: jax.Array, y: jax.Array) -> jax.Array:
    """Whether one of the vectors has length 0."""
    return jnp.all(direction(x) == 0, axis=-1) | jnp.all(direction(y) == 0, axis=-1)


@jax.custom_jvp
@jax.jit
def cosine_gap(x: jax.Array, y: jax.Array) -> jax.Array:
    """1 less the cosine over the last axis, with its digits where the vectors agree; 1 beside a vector of length 0."""
    return jnp.where(_nothing(x, y), 1.0, 0.5 * jnp.sum(jnp.square(_turn(x, y)), axis=-1))


@cosine_gap.defjvp
def _(primals, tangents):
    (u, v), moves = jax.jvp(lambda *v: (direction(v[0]), direction(v[1])), primals, tangents)
    # Only what is across the vectors counts: nothing long is left that would cancel, however they lie.
    side = jnp.where(jnp.sum(u * v, axis=-1, keepdims=True) < 0, -1.0, 1.0).astype(u.dtype)
    slope = jnp.sum(_turn(primals[0], side * primals[1]) * (side * moves[0] - moves[1]), axis=-1)
    return cosine_gap(*primals), jnp.where(_nothing(*primals), 0, slope)


@jax.custom_jvp
@jax.jit
def cosine(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The cosine over the last axis as a pair, and `cosine_gap`; 0 and 1, with derivative 0, beside one of length 0."""
    gap = cosine_gap(x, y)
    x, y = _ordinary(x)[0], _ordinary(y)[0]
    (a, a_low), (b, b_low) = _lengths(x, y)
    length, low = _double.multiply(a, b)
    high, low = _over(_dot(x, y), (length, low + (a * b_low + b * a_low)))
    return high, low, jnp.where(high < 0.9, (1.0 - high) - low, gap)


@cosine.defjvp
def _(primals, tangents):
    found = cosine(*primals)
    _, slope = jax.jvp(cosine_gap, primals, tangents)
    return found, (-slope, jnp.zeros_like(slope), slope)
