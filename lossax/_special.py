"""Special functions with their digits: where lgamma, digamma and trigamma of close arguments are subtracted.

All of it is about the rest R(x) = log Gamma(x) - x log x + x, a convex function that is what the gamma function has
beyond the entropy x log x - x. It is taken apart by R(x) = R(x + 1) + s(x) with s(x) = (x + 1) log(1 + 1/x) - 1 up to
x + 8, where a short series holds: sums of positive terms, so nothing cancels.
"""

import jax
import jax.numpy as jnp

from lossax._numerics import log_ratio, with_slopes, x_minus_log1p

_STEPS = 8
# Bernoulli(2 k) / (2 k (2 k - 1)): the series in 1 / x, 1 / x^3, ... of log Gamma.
_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def relative_expm1(x: jax.Array) -> jax.Array:
    """expm1(x) / x for |x| <= 1, with all its derivatives."""
    total = jnp.ones_like(x)
    for k in range(19, 1, -1):
        total = 1.0 + x / float(k) * total
    return total


def exp_excess(x: jax.Array) -> jax.Array:
    """exp(x) - 1 - x, never negative."""
    small = jnp.abs(x) < 1.0
    y = jnp.where(small, x, 0)
    total = jnp.ones_like(x)
    for k in range(20, 2, -1):
        total = 1.0 + y / float(k) * total
    return jnp.where(small, 0.5 * y * y * total, jnp.expm1(x) - x)


def log_excess(a: jax.Array, b: jax.Array, gap: jax.Array | None = None) -> jax.Array:
    """x - log(1 + x) with x = (b - a) / a, for a, b > 0: how far b / a is above 1 + log(b / a).

    `gap` stands in for b - a where that is known with more digits.
    """
    x = (b - a if gap is None else gap) / a
    near = (x >= -0.5) & (x <= 1.0)
    return jnp.where(near, x_minus_log1p(jnp.where(near, x, 0)), x - log_ratio(b, a))


def _turn(a: jax.Array, b: jax.Array, gap: jax.Array) -> tuple[jax.Array, ...]:
    """w with 1 - w = (1 + 1/b) / (1 + 1/a), where it is close to 0, and -log(1 - w) - w there."""
    w = gap / (b * (a + 1.0))
    near = (w <= 0.5) & (w >= -1.0)
    w = jnp.where(near, w, 0)
    return near, w, x_minus_log1p(-w)


def _step(a: jax.Array, b: jax.Array, gap: jax.Array) -> jax.Array:
    """s(b) - s(a) - s'(a) (b - a), where the last factor is `gap`."""
    near, _, excess = _turn(a, b, gap)
    inside = gap / a * (gap / (b * (a + 1.0))) - (b + 1.0) * excess
    outside = (b + 1.0) * (jnp.log1p(1.0 / b) - jnp.log1p(1.0 / a)) + gap / a
    return jnp.where(near, inside, outside)


def _step_slope(a: jax.Array, b: jax.Array) -> jax.Array:
    """s'(b) - s'(a)."""
    near, _, excess = _turn(a, b, b - a)
    inside = (b - a) / a / (b * (a + 1.0)) - excess
    outside = (jnp.log1p(1.0 / b) - jnp.log1p(1.0 / a)) + (b - a) / a / b
    return jnp.where(near, inside, outside)


def gamma_curvature(x: jax.Array) -> jax.Array:
    """R''(x) = trigamma(x) - 1 / x for x > 0."""
    total = jnp.zeros_like(x)
    for k in range(_STEPS):
        y = x + float(k)
        total = total + 1.0 / y / (y * (y + 1.0))
    u = 1.0 / (x + float(_STEPS))
    series = jnp.zeros_like(x)
    for m, c in zip(range(2 * len(_SERIES) - 1, 0, -2), _SERIES[::-1], strict=True):
        series = m * (m + 1.0) * c + u * u * series
    return total + u * u * (0.5 + u * series)


def _gamma_slope_slopes(a: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    return -gamma_curvature(a), gamma_curvature(b)


@with_slopes(_gamma_slope_slopes)
def gamma_slope_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """R'(b) - R'(a), where R'(x) = digamma(x) - log x, for a, b > 0."""
    total = jnp.zeros_like(a)
    for k in range(_STEPS):
        total = total + _step_slope(a + float(k), b + float(k))
    difference = b - a
    a, b = a + float(_STEPS), b + float(_STEPS)
    u, v = 1.0 / a, 1.0 / b
    # -1 / (2 x) and -m c / x^(m + 1) in turn, each 1 / a^n - 1 / b^n = (1 / a - 1 / b) (sum of a^-i b^-(n - 1 - i)).
    series = 0.5 * jnp.ones_like(a)
    powers = jnp.ones_like(a)
    ends = u
    for n in range(2, 2 * len(_SERIES) + 1):
        powers = v * powers + ends
        ends = ends * u
        if n % 2 == 0:
            series = series + (n - 1.0) * _SERIES[n // 2 - 1] * powers
    return total + difference / a / b * series


def _gamma_bregman_slopes(a: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    return -gamma_curvature(a) * (b - a), gamma_slope_difference(a, b)


@with_slopes(_gamma_bregman_slopes)
def gamma_bregman(a: jax.Array, b: jax.Array) -> jax.Array:
    """R(b) - R(a) - R'(a) (b - a) for a, b > 0: how far R is above its tangent, never negative."""
    return gamma_bregman_by_gap(a, b, b - a)


def _gamma_bregman_above_slopes(base: jax.Array, rise: jax.Array) -> tuple[jax.Array, ...]:
    top = base + rise
    bend = gamma_curvature(top) * rise
    return gamma_slope_difference(top, base) + bend, bend


@with_slopes(_gamma_bregman_above_slopes)
def gamma_bregman_above(base: jax.Array, rise: jax.Array) -> jax.Array:
    """`gamma_bregman(base + rise, base)`, with the digits of a rise that is small beside the base."""
    return gamma_bregman_by_gap(base + rise, base, -rise)


def gamma_bregman_by_gap(a: jax.Array, b: jax.Array, difference: jax.Array) -> jax.Array:
    """`gamma_bregman`, given b - a too, which may have digits that a and b have not; autodiff loses them."""
    total = jnp.zeros_like(a)
    for k in range(_STEPS):
        total = total + _step(a + float(k), b + float(k), difference)
    a, b = a + float(_STEPS), b + float(_STEPS)
    total = total + 0.5 * log_excess(a, b, difference)
    # c / x^m in turn: (b - a)^2 / (a^2 b) times the sum over k < m of u^(m - 1 - k) (u^k + u^(k - 1) v + ... + v^k).
    u, v = 1.0 / a, 1.0 / b
    series = jnp.zeros_like(a)
    inner, outer, ends = jnp.ones_like(a), jnp.ones_like(a), jnp.ones_like(a)
    for m in range(1, 2 * len(_SERIES)):
        if m > 1:
            ends = ends * u
            inner = v * inner + ends
            outer = u * outer + inner
        if m % 2:
            series = series + _SERIES[m // 2] * outer
    return total + difference * u * (difference * u * v) * series


def half_step(x: jax.Array) -> jax.Array:
    """log Gamma(x) - log Gamma(x + 1/2) + log(x) / 2 for x > 0, which is about 1 / (8 x)."""
    total = 0.5 * jnp.log1p(0.25 / x / (x + 1.0))
    for k in range(1, _STEPS):
        total = total + 0.5 * jnp.log1p(0.25 / (x + float(k)) / (x + (k + 1.0)))
    y = 1.0 / (x + float(_STEPS))
    series = jnp.zeros_like(x)
    for c in (5461 / 425984, -691 / 180224, 31 / 18432, -17 / 14336, 1 / 640, -1 / 192, 1 / 8):
        series = c + y * y * series
    return total + y * series
