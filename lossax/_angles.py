"""Directions, and cosines of angles that a margin has moved.

The latter are pairs (high, low): a scale of 64 makes the last digit felt.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lossax import _check, _double
from lossax._numerics import divide, over_largest, positive_part, sqrt

Beyond = Literal["smooth", "linear", "clip"]
_Pair = tuple[jax.Array, jax.Array]


def _length(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The vectors divided by their largest entry, and their Euclidean norm over the last axis, kept as an axis."""
    scaled, size = over_largest(vectors)
    return scaled, sqrt(jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)) * size


@jax.custom_jvp
def direction(vectors: jax.Array) -> jax.Array:
    """The vectors over the last axis at length 1; one of length 0 stays, with derivative 0."""
    scaled, _ = _length(vectors)
    return divide(scaled, _length(scaled)[1])


@direction.defjvp
def _(primals, tangents):
    unit, length = direction(primals[0]), _length(primals[0])[1]
    across = tangents[0] - unit * jnp.sum(unit * tangents[0], axis=-1, keepdims=True)
    return unit, divide(across, length)


def in_range(**cosines: jax.Array) -> jax.Array:
    """A factor of 1 for each row, NaN where a traced one holds what is no cosine; raises where a known one does.

    Rounding is forgiven, and -inf is a class that does not exist. By the row, which XLA fuses.
    """
    ((name, rows),) = cosines.items()
    size = jnp.max(jnp.abs(jnp.where(rows == -jnp.inf, 0.0, rows)), axis=-1, initial=0.0)
    size = _check.domain("in [-1, 1]", lambda c: c <= 1.01, **{name: lax.stop_gradient(size)})
    return jnp.where(jnp.isnan(size), size, 1.0)


def _constants(dtype: np.dtype) -> tuple[_Pair, ...]:
    """pi, pi / 2, 1, -1/3!, 1/5! as pairs; held, since XLA would add up constants: (1 + x) - 1 = x, which is not so."""
    # The second number is what the value lacks as a double, the third what the first rounds off.
    exact = ((np.pi, 1.2246467991473532e-16), (np.pi / 2, 6.123233995736766e-17))
    exact += ((1.0, 0.0), (-1 / 6, -9.25185853854297e-18), (1 / 120, 1.1564823173178714e-19))
    high = [np.asarray(x, dtype) for x, _ in exact]
    low = [np.asarray(x - float(h) + rest, dtype) for (x, rest), h in zip(exact, high, strict=True)]
    return tuple(lax.optimization_barrier(list(zip(map(jnp.asarray, high), map(jnp.asarray, low), strict=True))))


def _plus(a: _Pair, b: _Pair) -> _Pair:
    high, low = _double.add(a[0], b[0])
    return high, low + (a[1] + b[1])


def _times(a: _Pair, b: _Pair) -> _Pair:
    """For ordinary numbers, which neither overflow nor vanish."""
    (a1, a2), (b1, b2) = _double.halves(a[0]), _double.halves(b[0])
    lead = a1 * b1  # exact: no compiler can make another number of it
    rest = a1 * b2 + (a2 * b1 + a2 * b2) + (a[0] * b[1] + a[1] * b[0])
    high = lead + rest
    return high, rest - (high - lead)


def _minus(a: _Pair) -> _Pair:
    return -a[0], -a[1]


def _where(condition: jax.Array, a: _Pair, b: _Pair) -> _Pair:
    return jnp.where(condition, a[0], b[0]), jnp.where(condition, a[1], b[1])


def _root(a: _Pair) -> _Pair:
    high = jnp.sqrt(a[0])
    square, low = _times((high, jnp.zeros_like(high)), (high, jnp.zeros_like(high)))
    return high, divide(0.5 * (((a[0] - square) - low) + a[1]), high)


def _sine(x: _Pair, series: tuple[_Pair, ...]) -> _Pair:
    """Of a pair in [-pi/2, pi/2]."""
    square = _times(x, x)
    tail = jnp.zeros_like(x[0])
    for k in range(13 if x[0].dtype == jnp.float32 else 27, 5, -2):  # of -x^2/7! + x^4/9! - ...
        tail = (tail * square[0] + 1.0) * (-1.0 / (k * (k - 1)))
    total = (tail / 120.0, jnp.zeros_like(tail))
    for coefficient in series[::-1]:
        total = _plus(_times(total, square), coefficient)
    return _times(total, x)


def _angle(cosines: jax.Array, half_pi: _Pair, series: tuple[_Pair, ...]) -> _Pair:
    """The angle in [0, pi] as a pair: a rounded one and what its sine lacks, or that of a right angle less it."""
    one, nothing = series[0], jnp.zeros_like(cosines)
    size = jnp.minimum(jnp.abs(cosines), one[0])
    sine = _root(_times(_plus(one, (-size, nothing)), _plus(one, (size, nothing))))
    acute = jnp.arctan2(sine[0], size)
    middle = size < 0.7
    of = _where(middle, _plus(half_pi, (-acute, nothing)), (acute, nothing))
    target, slope = _where(middle, (size, nothing), sine), jnp.where(middle, -sine[0], size)
    guess = _sine(of, series)
    rest = ((target[0] - guess[0]) + (target[1] - guess[1])) / slope
    obtuse = _plus(_plus(half_pi, half_pi), (-acute, -rest))
    return _where(cosines < 0, obtuse, (acute, rest))


@partial(jax.custom_jvp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)  # one program, not hundreds of calls outside of jit
def _turned(cosines: jax.Array, factor: jax.Array, margin: jax.Array, clip: bool) -> tuple[jax.Array, ...]:
    """Cosine of factor * angle + margin as a pair; that and the sine of the same less its whole turns by pi; the angle.

    The last number is 0 where the sum is clipped, 1 elsewhere.
    """
    pi, half_pi, *series = _constants(cosines.dtype)
    angle = _angle(cosines, half_pi, tuple(series))
    nothing = jnp.zeros_like(cosines)
    moved = _plus(_times((factor, nothing), angle), (margin, nothing))
    before, past = moved[0] < 0, moved[0] > pi[0]
    turns, alive = nothing, jnp.ones_like(cosines)
    if clip:
        moved = _where(before, (nothing, nothing), _where(past, pi, moved))
        alive = jnp.where(before | past, nothing, alive)
    else:
        turns = jnp.floor(moved[0] / pi[0] - 1e-6)  # at pi itself both pieces are good
        turns = jnp.where(before, turns, jnp.maximum(turns, nothing))
        moved = _plus(moved, _minus(_times((turns, nothing), pi)))
    cosine, low = _sine(_plus(half_pi, _minus(moved)), tuple(series))
    sine = jnp.sin(moved[0]) + moved[1] * jnp.cos(moved[0])
    high, rest = _double.add(-2.0 * turns, cosine)
    # Held, or else it is all done again for every class.
    return tuple(lax.optimization_barrier((*_double.add(high, low + rest), cosine, sine, angle[0], alive)))


@_turned.defjvp
def _(clip, primals, tangents):
    (cosines, factor, _), (dcosines, dfactor, dmargin) = primals, tangents
    found = _, _, cosine, sine, angle, alive = _turned(*primals, clip)
    root = sqrt(positive_part((1.0 - cosines) * (1.0 + cosines)))
    dangle = divide(-dcosines, root)
    turn = alive * (factor * dangle + angle * dfactor + dmargin)
    nothing = jnp.zeros_like(turn)
    # At an angle of 0 or pi, where the slope by the cosine has no bound, what is even in the angle is left of it.
    even = positive_part(alive * jnp.sign(cosines) * jnp.square(factor) * cosine)
    fall = sine * turn
    slope = jnp.where(root == 0, even * dcosines, nothing) - fall
    return found, (slope, nothing, -fall, cosine * turn, dangle, nothing)


def moved_cosine(
    cosines: jax.Array, factor: jax.Array, margin: jax.Array, beyond: Beyond
) -> tuple[jax.Array, jax.Array]:
    """The cosine of factor * angle + margin as a pair (high, low), falling with the angle beyond pi too.

    Its slope at a cosine of exactly 1 or -1 has no bound; there it is what is left of it for a margin of 0.

    Args:
      cosines: Float `[...]` in [-1, 1].
      factor: Nonnegative, `[...]`.
      margin: In radians, `[...]`.
      beyond: Where the sum is outside [0, pi]: `"smooth"` goes on without a kink, (-1)^k cos - 2 k in the k-th half
        turn; `"linear"` is cos(angle) - margin sin(margin) past pi; `"clip"` is constant.
    """
    high, low, _, _, angle, _ = _turned(cosines, factor, margin, beyond == "clip")
    if beyond == "linear":
        past = factor * angle + margin > np.pi
        high = jnp.where(past, cosines - margin * jnp.sin(margin), high)
        low = jnp.where(past, 0, low)
    return high, low
