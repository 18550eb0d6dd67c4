"""What one preference is made of: log-ratios with their digits, scores of them, and the cost of an answer."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lossax import _check, _double, _numerics
from lossax._numerics import scaled, sigmoid_pair, with_slopes
from lossax._reduction import masked
from lossax._special import relative_expm1


def lengths(where: Any, log_probs: jax.Array, **tokens: Any) -> list[jax.Array]:
    """Numbers of tokens, in the dtype of the log-probabilities."""
    for name, given in tokens.items():
        if given is None:
            raise ValueError(f"expected both {' and '.join(tokens)}, got no {name}")
    _check.real(**tokens)
    _check.same_shape(log_probs=log_probs, **tokens)
    found = []
    for name, given in tokens.items():
        (given,) = masked(where, jnp.asarray(given).astype(log_probs.dtype), fill=1.0)
        found.append(_check.domain("positive", lambda n: n > 0, **{name: given}))
    return found


def _limited(x: jax.Array) -> jax.Array:
    """x, no further from 0 than the largest number: what overflows still has a sign."""
    largest = jnp.finfo(x.dtype).max
    return jnp.where(jnp.abs(x) > largest, jnp.sign(x) * largest, x)


def _exp(x: jax.Array) -> jax.Array:
    """exp(x), about the largest number where that overflows."""
    return jnp.exp(jnp.minimum(x, math.log(float(jnp.finfo(x.dtype).max)) - 0.5))


def difference(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """(a - b) - (c - d) with its digits where they cancel, in whatever order they do."""
    quarter = jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(b)), jnp.maximum(jnp.abs(c), jnp.abs(d))) > 1e37
    size = jnp.where(quarter, 0.25, 1.0).astype(a.dtype)  # none of the sums shall overflow if the whole does not
    first, low = _double.add(size * a, -(size * b))
    second, rest = _double.add(size * c, -(size * d))
    high, lower = _double.add(first, -second)
    return _limited((high + (lower + (low - rest))) / size)


@with_slopes(lambda x: (-sigmoid_pair(x)[1],))
def surprise(x: jax.Array) -> jax.Array:
    """-log sigmoid(x)."""
    return jnp.maximum(-x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _noisy_slopes(x: jax.Array, flip: jax.Array) -> tuple[jax.Array, ...]:
    p, q = sigmoid_pair(x)
    far = jnp.where(x < 0, (flip - 1.0) + p, flip - q)  # whichever of p and q is small
    return jnp.where(jnp.abs(x) < 1.0, 0.5 * jnp.tanh(0.5 * x) + (flip - 0.5), far), x


@with_slopes(_noisy_slopes)
def noisy_surprise(x: jax.Array, flip: jax.Array) -> jax.Array:
    """-log sigmoid(x) + flip * x, the mean of -log sigmoid(x) and -log sigmoid(-x) if `flip` is the second's share."""
    return scaled(jnp.where(x < 0, flip - 1.0, flip), x) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _bernoulli_kl_slopes(x: jax.Array, flip: jax.Array) -> tuple[jax.Array, ...]:
    p, q = sigmoid_pair(x)
    return scaled(p * q, x - (jnp.log1p(-flip) - jnp.log(flip))), p / (1.0 - flip) - q / flip


@with_slopes(_bernoulli_kl_slopes)
def bernoulli_kl(x: jax.Array, flip: jax.Array) -> jax.Array:
    """KL divergence of a yes with probability sigmoid(x) from one with probability 1 - flip."""
    p, q = sigmoid_pair(x)
    yes, no = -jnp.log1p(-flip) - surprise(x), -jnp.log(flip) - surprise(-x)
    return jnp.maximum(scaled(p, yes) + scaled(q, no), 0.0)


def _log_sigmoid_gap_slopes(a: jax.Array, b: jax.Array, gap: jax.Array) -> tuple[jax.Array, ...]:
    return sigmoid_pair(a)[1], -sigmoid_pair(b)[1], jnp.zeros_like(gap)


@with_slopes(_log_sigmoid_gap_slopes)
def log_sigmoid_gap(a: jax.Array, b: jax.Array, gap: jax.Array) -> jax.Array:
    """log sigmoid(a) - log sigmoid(b), where `gap` is a - b, with more digits than these have."""
    low = gap + (surprise(-b) - surprise(-a))
    return jnp.where(a < -b, low, surprise(b) - surprise(a))


def _power_gap(a: jax.Array, b: jax.Array, gap: jax.Array, alpha: jax.Array) -> jax.Array:
    x = _numerics.absolute(alpha * gap)
    near = x < 1.0
    share = relative_expm1(-jnp.where(near, x, 0))
    share = jnp.where(near, share, -jnp.expm1(-x) / jnp.where(near, 1, x))
    return _limited(scaled(gap, _exp(jnp.maximum(-alpha * a, -alpha * b)) * share))


@jax.custom_jvp
def power_gap(a: jax.Array, b: jax.Array, gap: jax.Array, alpha: jax.Array) -> jax.Array:
    """(exp(-alpha b) - exp(-alpha a)) / alpha, and a - b at an alpha of 0, where `gap` is a - b, with more digits.

    No factor but the larger exponential overflows; then the difference is the largest number, with its sign.
    """
    return _power_gap(a, b, gap, alpha)


def _power_gap_jvp(primals, tangents):
    a, b, gap, alpha = primals
    by_a, by_b = (_exp(-alpha * x) for x in (a, b))
    by_alpha = jax.jvp(lambda x: _power_gap(a, b, gap, x), (alpha,), (jnp.ones_like(alpha),))[1]
    value = power_gap(*primals)
    slopes = (by_a, -by_b, jnp.zeros_like(gap), by_alpha)
    return value, _numerics.tangent(value, *zip(slopes, tangents, strict=True))


power_gap.defjvp(_power_gap_jvp, symbolic_zeros=True)


def _odds_parts(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
    """expm1(x) and expm1(y) over the exponential of the larger of x and y; 1 - exp(-x) and 1 - exp(-y)."""
    top = jnp.maximum(x, y)
    near_x, near_y = -jnp.expm1(-x), -jnp.expm1(-y)
    return jnp.exp(x - top) * near_x, jnp.exp(y - top) * near_y, near_x, near_y


def _odds_surprise_slopes(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
    tiny = jnp.finfo(y.dtype).tiny
    both = (x < tiny) & (y < tiny)
    x, y = jnp.maximum(x, tiny), jnp.maximum(y, tiny)
    own, other, _, near_y = _odds_parts(x, y)
    total = own + other
    by_x, by_y = jnp.exp(x - jnp.maximum(x, y)) / total, -(own / total) / near_y
    return jnp.where(both, 0, by_x), jnp.where(both, 0, by_y)


@with_slopes(_odds_surprise_slopes)
def odds_surprise(x: jax.Array, y: jax.Array) -> jax.Array:
    """log(1 + expm1(x) / expm1(y)): -log sigmoid of the log odds ratio of probabilities exp(-x) and exp(-y).

    It has all its digits where odds are infinite; x and y are no smaller than the smallest normal number, and do not
    move where both are.
    """
    x, y = (jnp.maximum(z, jnp.finfo(z.dtype).tiny) for z in (x, y))
    own, other, near_x, near_y = _odds_parts(x, y)
    less = own < other
    one = jnp.ones_like(x)
    small = own / jnp.where(less, other, one)
    large = jnp.where(less, one, other / jnp.where(less, one, own))
    rest = (x - y) + jnp.log(jnp.where(less, one, near_x) / jnp.where(less, one, near_y))
    return jnp.where(less, jnp.log1p(small), jnp.log1p(large) + rest)
