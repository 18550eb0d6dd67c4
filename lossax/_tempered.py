"""Exponential, logarithm and softmax of another temperature: exp_t(x) = (1 + (1 - t) x)_+^(1 / (1 - t)), exp at t = 1.

A temperature above 1 gives a softmax with heavy tails, one below 1 a softmax that reaches 0. All is written in the rate
k = t - 1 and in -log p, so that nothing happens at k = 0.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _double, _numerics
from lossax._numerics import divide, with_slopes


def _series(y: jax.Array, first: float, ratio) -> jax.Array:
    """Sum of c_n y^n with c_0 = first and c_n = c_(n-1) * ratio(n), for |y| <= 1, to the last digit of float64."""
    total = jnp.zeros_like(y)
    for n in range(19, 0, -1):
        total = (1.0 + total) * y * ratio(n)
    return first * (1.0 + total)


def _branches(y: jax.Array, rate: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Whether y is small, y where it is and 0 elsewhere, y where it is not, and its rate there (1 elsewhere)."""
    small = jnp.abs(y) < 1.0
    zero = jnp.zeros_like(y)
    return small, jnp.where(small, y, zero), jnp.where(small, zero, y), jnp.where(small, zero + 1.0, rate)


def _expm1_over_slopes(rate: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
    y = rate * x
    small, near, far, rate = _branches(y, rate)
    inner = x * (x * _series(near, 0.5, lambda n: (n + 1) / (n * (n + 2))))
    outer = (_numerics.scaled(jnp.exp(far), far - 1.0) + 1.0) / rate / rate
    return jnp.where(small, inner, outer), jnp.exp(y)


@with_slopes(_expm1_over_slopes)
def expm1_over(rate: jax.Array, x: jax.Array) -> jax.Array:
    """(exp(rate * x) - 1) / rate, which is x at rate 0."""
    small, near, far, rate = _branches(rate * x, rate)
    return jnp.where(small, x * divide(jnp.expm1(near), near, 1.0), jnp.expm1(far) / rate)


def _log1p_over(rate: jax.Array, x: jax.Array) -> jax.Array:
    """log(1 + rate * x) / rate for x >= 0, which is x at rate 0; infinite where the logarithm has no value."""
    infinite = jnp.isposinf(x)
    x = jnp.where(infinite, 0, x)
    y = rate * x
    small, near, far, rate = _branches(y, rate)
    outside = infinite | (y <= -1.0)
    far = jnp.where(outside, 0, far)
    value = jnp.where(small, x * divide(jnp.log1p(near), near, 1.0), jnp.log1p(far) / rate)
    return jnp.where(outside, jnp.inf, value)


def _newton(more: jax.Array, u: jax.Array, excess: jax.Array, rate: jax.Array) -> jax.Array:
    """The next u, given by how much -log p of each class is above u and the log of the sum of exp(-more)."""
    on = jnp.isfinite(more)
    escort = jnp.where(on, jnp.exp(-(1.0 + rate) * jnp.where(on, more, 0.0)), 0.0)
    slope = jnp.sum(escort, axis=-1, keepdims=True) * jnp.exp(-(1.0 + rate) * excess)
    return u + _log1p_over(rate, jnp.exp(-rate * u) * divide(expm1_over(-rate, excess - u), slope))


def _solve(gaps: jax.Array, rate: jax.Array) -> jax.Array:
    """-log p of the best class, u.

    With p_j = (c + k g_j)^(-1/k), the norm N(c) = (sum p)^(-k) is concave in c for k > 0 and convex for k < 0, so that
    Newton's method on N(c) = 1, from c = 1, never oversteps; it is exact at once where all classes but one are far off,
    where all are equal and at k = 0. Over rows of up to a million classes and every rate from -1 to 4 it took at most 8
    steps to settle in float64. Here c = exp(k u).
    """
    best = gaps == 0
    ties = jnp.maximum(jnp.sum(best, axis=-1, keepdims=True).astype(gaps.dtype) - 1.0, 0.0)

    def step(_, u):
        more = _log1p_over(rate, gaps * jnp.exp(-rate * u))
        rest = jnp.sum(jnp.where(best, 0.0, jnp.exp(-more)), axis=-1, keepdims=True) + ties
        return _newton(more, u, jnp.log1p(rest), rate)

    return lax.fori_loop(0, 12, step, jnp.zeros_like(ties))


def _precise(rate: jax.Array, x: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`_log1p_over(rate, x + low)` as a pair."""
    infinite = jnp.isposinf(x)
    x, low = jnp.where(infinite, 0.0, x), jnp.where(infinite, 0.0, low)
    y, lower = _double.multiply(jnp.broadcast_to(rate, x.shape), x)
    outside = infinite | (y <= -1.0)
    small = jnp.abs(y) < 0.5
    near, far = jnp.where(small, y, 0.0), jnp.where(small | outside, 1.0, y)
    bend = divide(_numerics.x_minus_log1p(near), near)
    less, less_low = _double.multiply(x, bend)
    high_near, low_near = _double.add(x, -less)
    slope = 1.0 / (1.0 + near)
    low_near = (low_near - less_low) + (low * slope + divide(lower, near) * x * (slope - (1.0 - bend)))
    log, log_low = _double.log1p(far, jnp.where(small | outside, 0.0, lower + rate * low))
    over = jnp.where(small, 1.0, rate)
    high_far = log / over
    back, back_low = _double.multiply(high_far, over)
    low_far = ((log - back) + (log_low - back_low)) / over
    high = jnp.where(outside, jnp.inf, jnp.where(small, high_near, high_far))
    return high, jnp.where(outside, 0.0, jnp.where(small, low_near, low_far))


def _last_step(gaps: jax.Array, low: jax.Array, rate: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-log p as a pair, from the -log p of the best class, which is itself renewed from the others once more."""
    finite = jnp.where(jnp.isfinite(gaps), gaps, 0.0)
    less, lower = _double.multiply(finite, jnp.broadcast_to(jnp.expm1(-rate * u), finite.shape))
    x, lowest = _double.add(finite, less)
    lower = (lower + lowest) + low * jnp.exp(-rate * u)
    more, rest = _precise(rate, jnp.where(jnp.isfinite(gaps), x, jnp.inf), lower)
    best = gaps == 0
    ties = jnp.maximum(jnp.sum(best, axis=-1, keepdims=True).astype(gaps.dtype) - 1.0, 0.0)
    mass = jnp.exp(-more) * (1.0 - rest)
    excess = jnp.log1p(jnp.sum(jnp.where(best, 0.0, mass), axis=-1, keepdims=True) + ties)
    moved = _newton(more, u, excess, rate)
    high, last = _double.add(more, moved)
    on = jnp.isfinite(more)
    shift = (moved - u) * (jnp.exp(-rate * jnp.where(on, more, 0.0)) - 1.0)  # by how much `more` moves with u
    return high, jnp.where(on, rest + last + shift, 0.0)


@jax.custom_jvp
def surprises(logits: jax.Array, temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-log p of each class, p the tempered softmax, as a pair; infinite where p is 0.

    The derivative is that of the implicit equation sum p = 1, so nothing is differentiated through the iterations:
    the escort distribution p^t / sum p^t is all that it needs. It belongs to the first number of the pair.

    Args:
      logits: Float `[..., classes]`; -inf is a class that does not exist.
      temperature: 0 or more, `[]` or `[..., 1]`; 1 is softmax.

    Returns:
      Float `[..., classes]`, never negative, with all digits also where p is nearly 1, and what rounding has left off.
    """
    top = jnp.max(logits, axis=-1, keepdims=True)
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    gaps, low = _double.add(top, -jnp.where(jnp.isneginf(logits), top, logits))
    gaps = jnp.where(jnp.isneginf(logits), jnp.inf, gaps)
    rate = temperature - 1.0
    return _last_step(gaps, low, rate, _solve(gaps, rate))


@surprises.defjvp
def _(primals, tangents):
    (logits, temperature), (dlogits, dtemperature) = primals, tangents
    value, low = surprises(logits, temperature)
    rate = temperature - 1.0
    on = jnp.isfinite(value)
    s = jnp.where(on, value, 0.0)
    p, bend = jnp.where(on, jnp.exp(-s) * (1.0 - low), 0.0), jnp.where(on, jnp.exp(-rate * s), 0.0)
    total = jnp.sum(p * bend, axis=-1, keepdims=True)
    escort = divide(p * bend, total)
    # Counted from the best class, whose own slope is then a sum of what is left, not 1 less nearly 1.
    first = _numerics.one_hot(jnp.argmax(logits, axis=-1), logits)
    moved = jnp.where(first, 0.0, dlogits - jnp.sum(jnp.where(first, dlogits, 0.0), axis=-1, keepdims=True))
    by_logits = bend * (jnp.sum(escort * moved, axis=-1, keepdims=True) - moved)
    # At a fixed normaliser -log p changes by -s^2 (exp(-v) - 1 + v) / v^2 with the rate, v = rate * s.
    s = jnp.minimum(s, 1e18)  # its square is finite
    small, near, far, over = _branches(rate * s, rate)
    inner = s * _series(near, 0.5, lambda n: -1.0 / (n + 2))
    push = s * jnp.where(small, inner, divide(jnp.expm1(-far) + far, far) / over)
    by_rate = bend * divide(jnp.sum(p * push, axis=-1, keepdims=True), total) - push
    return (value, low), (by_logits + jnp.where(on, by_rate, 0.0) * dtemperature, jnp.zeros_like(low))
