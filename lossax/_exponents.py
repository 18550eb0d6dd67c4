"""Nonnegative numbers of any size: a pair (mantissa, exponent) is mantissa * 16^exponent.

For products of many probabilities, which leave the range of floats within a hundred factors. Sums of logarithms have
the range but lose a digit where they are tens, two where they are hundreds; pairs keep every digit, and adding them
takes no exponential. Exponents are whole numbers held as floats, without derivative. A sixteenth power is what fits:
the exponent of a probability of exp(-x) is a float for every float x. Zero is any mantissa with the lowest exponent.

Mantissas move away from 1 as pairs are multiplied and added, and are brought back every few steps: see `scan`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[jax.Array, jax.Array]

STEPS = 8
"""After how many steps of `scan` mantissas are brought back; the number of steps is a multiple of it."""

SURE = math.log(2.0)
"""Below this, a surprise is computed from the probability of all that would be another outcome."""

_LOG16 = math.log(16.0)
_COARSE = 2.7734375  # of log 16, with so few bits that its product with a whole number is exact


def lowest(dtype: jax.typing.DTypeLike) -> float:
    """The exponent of zero."""
    return float(jnp.finfo(dtype).min)


def one(where: jax.Array, dtype: jax.typing.DTypeLike) -> Pair:
    """One where true, zero elsewhere."""
    mantissa = jnp.ones_like(where, dtype)
    return mantissa, jnp.where(where, 0, lowest(dtype) * mantissa)


def where(keep: jax.Array, pair: Pair) -> Pair:
    """The pair where kept, zero elsewhere."""
    return pair[0], jnp.where(keep, pair[1], jnp.full_like(pair[1], lowest(pair[1].dtype)))


def exp(x: jax.Array, low: jax.Array) -> Pair:
    """Exp(x + low), where `low` is what was rounded off from x, with a mantissa from 1/4 to 4; x may be -inf."""
    exists = ~jnp.isneginf(x)
    x = jnp.where(exists, x, 0)
    exponent = lax.stop_gradient(jnp.round(x * (1.0 / _LOG16)))
    rest = (x - exponent * _COARSE) - exponent * (_LOG16 - _COARSE)
    rest = jnp.clip(rest, -2.0, 2.0)  # beyond 1e7 the digits of x end before the point
    return where(exists, (jnp.exp(rest + jnp.where(exists, low, 0)), exponent))


def log(pair: Pair) -> jax.Array:
    """Its natural logarithm, -inf of zero."""
    mantissa, exponent = pair
    size = jnp.maximum(jnp.log(mantissa) + _LOG16 * exponent, lowest(mantissa.dtype))
    return jnp.where(is_zero(pair), -jnp.inf * jnp.ones_like(size), size)


def is_zero(pair: Pair) -> jax.Array:
    """Whether it is zero, or a product with zero."""
    return pair[1] < 0.5 * lowest(pair[1].dtype)


def times(a: Pair, b: Pair) -> Pair:
    """Product."""
    return a[0] * b[0], jnp.maximum(a[1] + b[1], lowest(a[1].dtype))


def _bits(dtype: jax.typing.DTypeLike) -> tuple[jax.typing.DTypeLike, int, int]:
    """Integers as wide as the floats, the place of the exponent in them, and what it is counted from."""
    info = jnp.finfo(dtype)
    return jnp.dtype(f"int{info.bits}"), info.nmant, info.maxexp - 1


def _power(exponent: jax.Array) -> jax.Array:
    """16^exponent for whole numbers up to 31, 0 far below."""
    integer, place, bias = _bits(exponent.dtype)
    field = jnp.maximum(4.0 * exponent + bias, 0.0).astype(integer)
    return lax.bitcast_convert_type(field << place, exponent.dtype)


def normal(pair: Pair) -> Pair:
    """The same number with a mantissa from 2^-32 to 2^33 (in float32).

    No closer to 1 than need be: what stays in the mantissa is not lost beside an exponent of 1e30.
    """
    mantissa, exponent = pair
    integer, place, bias = _bits(mantissa.dtype)
    quarter = (bias + 1) // 4
    power = (lax.bitcast_convert_type(lax.stop_gradient(mantissa), integer) >> (place + 2)) - quarter
    power = jnp.where(jnp.abs(power) < quarter // 4, 0, jnp.maximum(power, 1 - quarter))
    inverse = lax.bitcast_convert_type((bias - 4 * power) << place, mantissa.dtype)
    return mantissa * inverse, exponent + power.astype(exponent.dtype)


def add(*pairs: Pair) -> Pair:
    """Sum."""
    top = pairs[0][1]
    for _, exponent in pairs[1:]:
        top = jnp.maximum(top, exponent)
    mantissas = [mantissa * _power(exponent - top) for mantissa, exponent in pairs]
    return sum(mantissas[1:], mantissas[0]), top


def total(pair: Pair) -> Pair:
    """The sum over the last axis."""
    mantissa, exponent = normal(pair)
    top = jnp.max(exponent, axis=-1, keepdims=True, initial=lowest(exponent.dtype))
    return jnp.sum(mantissa * _power(exponent - top), axis=-1), top[..., 0]


def steps_of(x: Any, fill: Any) -> Any:
    """Arrays `[steps, ...]` with more steps that hold `fill`, up to a multiple of `STEPS`."""

    def more(x, fill):
        edges = [(0, -len(x) % STEPS, 0)] + [(0, 0, 0)] * (x.ndim - 1)
        return lax.pad(x, jnp.asarray(fill, x.dtype), edges)

    return jax.tree.map(more, x, fill)


def scan(
    step: Callable[[tuple[Pair, ...], Any], tuple[tuple[Pair, ...], Any]],
    state: tuple[Pair, ...],
    xs: Any,
    *,
    reverse: bool = False,
) -> tuple[tuple[Pair, ...], Any]:
    """`lax.scan` over a state of pairs that each step adds, two or three, and multiplies by what `exp` made.

    Eight steps take a mantissa from 2^33 to 2^62 at most and from 2^-32 to 2^-48 at least.
    """

    def several(state, xs):
        return lax.scan(step, tuple(normal(pair) for pair in state), xs, reverse=reverse)

    xs = jax.tree.map(lambda x: x.reshape(len(x) // STEPS, STEPS, *x.shape[1:]), xs)
    state, ys = lax.scan(several, state, xs, reverse=reverse)
    return state, jax.tree.map(lambda y: y.reshape(len(y) * STEPS, *y.shape[2:]), ys)


def share(part: Pair, rest: Pair, whole: Pair) -> jax.Array:
    """Part * rest / whole, which is no more than 1, as a float; 0 if the whole is 0."""
    mantissa, exponent = part[0] / whole[0], part[1] - jnp.where(is_zero(whole), 0, whole[1])
    # Counted from the whole: exponents of 1e8 are rounded.
    return jnp.minimum(number(times(normal((mantissa, exponent)), rest)), 1.0)


def number(pair: Pair) -> jax.Array:
    """The pair as a float, for what is below 2^90; 0 below the smallest."""
    mantissa, exponent = normal(pair)
    return mantissa * _power(exponent)


def surprise_from(miss: jax.Array, surprise: jax.Array) -> jax.Array:
    """The surprise, which is -log(1 - miss), from the miss, and so with its digits, where that is below 1/2."""
    sure = surprise < SURE
    return jnp.where(sure, -jnp.log1p(-jnp.where(sure, miss, 0)), surprise)
