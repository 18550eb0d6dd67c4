"""Sums and products that keep half as many digits again: a number as a pair (high, low), for what would cancel.

Every function returns such a pair; derivatives belong to the first of the two.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _numerics


@jax.custom_jvp
def add(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a + b rounded, and the error of that; 0 where the sum is infinite.

    Neither may be a product that is rounded: where compilers fuse the two operations they need not do so twice alike.
    """
    high = a + b
    part = high - a
    low = (a - (high - part)) + (b - part)
    return high, jnp.where(jnp.isfinite(high), low, 0)


@add.defjvp
def _(primals, tangents):
    pair = add(*primals)
    return pair, (tangents[0] + tangents[1], jnp.zeros_like(pair[1]))


def _one(x: jax.Array) -> jax.Array:
    """1, but not as a constant: XLA adds up constants, (1 + x) - 1 = x, which is not so."""
    return lax.optimization_barrier(jnp.ones((), x.dtype))


def halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x as a sum of two numbers of half the digits, whose products are exact."""
    info = jnp.finfo(x.dtype)
    first = lax.reduce_precision(x, info.nexp, (info.nmant - 1) // 2)
    return first, x - first


@jax.custom_jvp
def multiply(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a * b rounded, and most of the error of that; 0 where the product is huge or nearly vanishes."""
    (a1, a2), (b1, b2) = halves(a), halves(b)
    lead = a1 * b1  # exact: no compiler can make another number of it
    rest = a1 * b2 + (a2 * b1 + a2 * b2)
    high = lead + rest
    low = rest - (high - lead)
    plain = a * b
    largest = jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(b)), jnp.abs(plain))
    safe = (largest < 1e30) & (jnp.abs(plain) > 1e-25)
    return jnp.where(safe, high, plain), jnp.where(safe, low, 0)


@multiply.defjvp
def _(primals, tangents):
    (a, b), (da, db) = primals, tangents
    pair = multiply(a, b)
    return pair, (a * db + b * da, jnp.zeros_like(pair[1]))


def _exp_of_minus(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(-x) for float32 0 <= x <= 50."""
    n = jnp.round(x * 1.4426950408889634)
    # n log 2 - x: the first product is exact, the choice keeps the second from being fused.
    r, r_low = add(n * 0.693359375 - x, jnp.where(n == 0, 0.0, n * -2.1219444005469057e-4))
    square, square_low = multiply(r, r)
    tail = jnp.zeros_like(r)
    for k in range(10, 2, -1):
        tail = (1.0 + tail) * r / float(k)
    first, low = add(_one(r), r)
    first, lower = add(first, 0.5 * square)
    low = low + (lower + (0.5 * square_low + 0.5 * square * tail)) + r_low * first
    first, low = add(first, low)
    scale = lax.bitcast_convert_type((127 - n.astype(jnp.int32)) << 23, jnp.float32)
    return first * scale, low * scale


@jax.custom_jvp
def sigmoid(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The logistic function, in float32 to about 10 digits (in float64 the second number is 0)."""
    p, _ = _numerics.sigmoid_pair(x)
    if x.dtype != jnp.float32:
        return p, jnp.zeros_like(p)
    odds, odds_low = _exp_of_minus(jnp.minimum(jnp.abs(x), 50.0))
    total, total_low = add(_one(odds), odds)
    large = 1.0 / total
    product, product_low = multiply(large, total)
    large_low = ((1.0 - product) - product_low - large * (total_low + odds_low)) * large
    small, small_low = multiply(odds, large)
    small_low = small_low + odds * large_low + odds_low * large
    near = jnp.abs(x) < 50.0
    high = jnp.where(near, jnp.where(x < 0, small, large), p)
    return high, jnp.where(near, jnp.where(x < 0, small_low, large_low), 0)


@sigmoid.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    p, q = _numerics.sigmoid_pair(x)
    return sigmoid(x), (p * q * dx, jnp.zeros_like(p))


def log1p(x: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(1 + x + low) for x > -1, in float32 to about 9 digits after the point (in float64 as it comes)."""
    plain = jnp.log1p(x)
    if x.dtype != jnp.float32:
        return plain, low / (1.0 + x)
    near = jnp.abs(x) < 1e30
    n = jnp.where(near, jnp.round(plain * 1.4426950408889634), 0.0)
    scale = lax.bitcast_convert_type((127 - n.astype(jnp.int32)) << 23, jnp.float32)
    total, rest = add(_one(x), x)
    mantissa, rest = total * scale, (rest + low) * scale
    fraction = jnp.where(n == 0, plain, jnp.log1p(mantissa - 1.0))
    high, lower = add(n * 0.693359375, fraction)  # the product is exact
    high, lower = add(high, lower + (n * -2.1219444005469057e-4 + rest / mantissa))
    return jnp.where(near, high, plain), jnp.where(near, lower, 0.0)
