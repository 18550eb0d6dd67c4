"""Two distributions over the same classes, and how far apart they are: what all divergences are made of.

Each is a sum over the classes of a function of two masses and of their ratio. The ratio is where digits are lost when
the distributions are close, so it is worked out once, in `_pair`, and every divergence is written in terms of it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lossax import _numerics
from lossax._numerics import divide, log_ratio, scaled, x_minus_log1p


class Pair(NamedTuple):
    """Estimate q and truth t of each class, how far apart they are, and the logarithm of their ratio."""

    q: jax.Array
    t: jax.Array
    gap: jax.Array  # t - q
    log: jax.Array  # log(t / q), and 0 where both are 0
    from_q: jax.Array  # the same, of a softmax less what it is at the largest q: all that a slope by log q knows of
    from_t: jax.Array  # or at the largest t
    by_log: bool  # whether slopes are those by log q and log t, or by q and t

    def swapped(self) -> "Pair":
        return Pair(self.t, self.q, -self.gap, -self.log, -self.from_t, -self.from_q, self.by_log)

    def times(self, mass: jax.Array, slope: jax.Array) -> jax.Array:
        """The slope by a mass, whichever way slopes are meant."""
        return scaled(mass, slope) if self.by_log else slope

    def over(self, mass: jax.Array, product: jax.Array) -> jax.Array:
        """`times`, given the product of mass and slope."""
        return product if self.by_log else divide(product, mass)


Values = tuple[jax.Array, jax.Array, jax.Array]  # of a row, and slopes of its classes by q and by t


def _log(q: jax.Array, t: jax.Array) -> jax.Array:
    """log(t / q), and 0 where both are 0."""
    both = (q > 0) & (t > 0)
    one = jnp.ones_like(q)
    edge = jnp.where(q > 0, -jnp.inf * one, jnp.where(t > 0, jnp.inf * one, 0))
    log = jnp.where(both, log_ratio(jnp.where(both, t, one), jnp.where(both, q, one)), edge)
    return jnp.where(jnp.isnan(q + t), jnp.nan, log)


def _gap(q: jax.Array, t: jax.Array, log: jax.Array) -> jax.Array:
    """t - q with the digits of the ratio."""
    small = jnp.abs(log) < 1.0
    rise = jnp.expm1(jnp.where(small, -jnp.abs(log), 0))
    return jnp.where(small, jnp.where(log > 0, -t * rise, q * rise), t - q)


def _surprises(logits: jax.Array) -> jax.Array:
    """-log softmax, infinite for classes that do not exist and finite for all others."""
    surprise = _numerics.surprises(logits)
    p, _ = _numerics.softmax_pair(logits)
    largest = jnp.full_like(surprise, jnp.finfo(surprise.dtype).max)
    surprise = jnp.where((p == 0) & (surprise == 0), largest, surprise)  # a gap that has overflowed
    return jnp.where(jnp.isneginf(logits), jnp.inf * jnp.ones_like(surprise), surprise)


def _centred(q: jax.Array, x: jax.Array) -> jax.Array:
    return x - jnp.sum(q * x, axis=-1, keepdims=True)


def _at_largest(mass: jax.Array, x: jax.Array) -> jax.Array:
    """What x is where the mass is largest, as an axis."""
    largest = _numerics.one_hot(jnp.argmax(mass, axis=-1), mass)
    return jnp.sum(jnp.where(largest, x, 0), axis=-1, keepdims=True)


@jax.custom_jvp
def _of_logits(z: jax.Array, s: jax.Array) -> tuple[jax.Array, ...]:
    """The pair of softmax(z) and softmax(s).

    Where the rows are close, the ratio is that of their difference d, as d - log sum q exp(d): the same whatever is
    added to d, so d is centred, with the rounding error of the difference put back after that.
    """
    (q, _), (t, _) = _numerics.softmax_pair(z), _numerics.softmax_pair(s)
    zero = jnp.zeros_like(q)
    d = s - z
    known = jnp.isfinite(d)
    back = d + z
    rest = (s - back) + ((back - d) - z)
    rest = jnp.where(jnp.isfinite(rest), rest, zero)
    d = _centred(q, _centred(q, jnp.where(known, d, zero)) + rest)

    def log_from(mass):
        """Less that at the largest mass: of differences of both rows, or of classes, which are the smaller ones."""
        own, other, apart = (x - _at_largest(mass, x) for x in (z, s, d))
        by_rows = jnp.abs(d) + jnp.abs(_at_largest(mass, d)) <= jnp.abs(own) + jnp.abs(other)
        found = jnp.where(known & by_rows, apart, other - own)
        return jnp.where(jnp.isfinite(found), found, log)

    gone = jnp.isneginf(s)
    close = jnp.all(gone | (known & (d < 60.0)), axis=-1, keepdims=True)
    small = jnp.where(gone | ~close, zero, d)
    near = small - jnp.log1p(jnp.sum(q * jnp.where(gone, -1.0 + zero, jnp.expm1(small)), axis=-1, keepdims=True))
    surprise, other = _surprises(z), _surprises(s)
    same = surprise == other
    far = jnp.where(same, zero, surprise - jnp.where(same, zero, other))
    log = jnp.where(close & ~gone, near, far)
    return q, t, _gap(q, t, log), log, log_from(q), log_from(t)


@_of_logits.defjvp
def _(primals, tangents):
    pair = _of_logits(*primals)
    return pair, _share_tangents(pair, *tangents)


def _share_tangents(pair: tuple[jax.Array, ...], dz: jax.Array, ds: jax.Array) -> tuple[jax.Array, ...]:
    """Tangents of normalised masses, from those of their logarithms before they were normalised."""
    q, t, _, log, *_ = pair
    dz, ds = _centred(q, dz), _centred(t, ds)
    dq, dt = q * dz, t * ds
    dlog = jnp.where(jnp.isfinite(log), ds - dz, 0)
    return dq, dt, dt - dq, dlog, dlog, dlog


@jax.custom_jvp
def _of_masses(q: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
    """The pair of q / sum q and t / sum t, without a rounding of either that would hide how close they are."""
    total, other = jnp.sum(q, axis=-1, keepdims=True), jnp.sum(t, axis=-1, keepdims=True)
    excess = divide(jnp.sum(t - q, axis=-1, keepdims=True), total)
    near = jnp.abs(excess) < 0.5
    shift = jnp.where(near, jnp.log1p(jnp.where(near, excess, 0)), _log(total, other))
    log = _log(q, t)
    log = jnp.where(jnp.isfinite(log) & jnp.isfinite(shift) & (q > 0), log - shift, log)
    q, t = divide(q, total), divide(t, other)
    return q, t, _gap(q, t, log), log, log, log


@_of_masses.defjvp
def _(primals, tangents):
    pair = _of_masses(*primals)
    return pair, _share_tangents(pair, *(divide(dx, x) for x, dx in zip(primals, tangents, strict=True)))


def _pair(kind: str, q: jax.Array, t: jax.Array) -> Pair:
    """Of probabilities as they are, of masses (which are normalised), or of logits."""
    if kind == "probabilities":
        log = _log(q, t)
        return Pair(q, t, t - q, log, log, log, by_log=False)
    return Pair(*(_of_logits if kind == "logits" else _of_masses)(q, t), by_log=True)


def known(slope: jax.Array) -> jax.Array:
    """A slope that is infinite counts as 0."""
    return jnp.where(jnp.isfinite(slope), slope, 0)


def _others(x: jax.Array) -> jax.Array:
    """The sum over all other classes, of each class; exact where one is larger than all others."""
    top = _numerics.one_hot(jnp.argmax(jnp.abs(x), axis=-1), x)
    below = jnp.sum(jnp.where(top, 0, x), axis=-1, keepdims=True)
    largest = jnp.sum(jnp.where(top, x, 0), axis=-1, keepdims=True)
    return jnp.where(top, below, largest + (below - x))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def divergence(
    terms: Callable[..., Values], kind: str, predictions: jax.Array, targets: jax.Array, *hyper: jax.Array
) -> jax.Array:
    """The value of each row: one derivative for all divergences and kinds, from slopes that do not cancel."""
    return terms(_pair(kind, predictions, targets), *hyper)[0]


def _divergence_jvp(terms, kind, primals, tangents):
    rows, hyper = primals[:2], primals[2:]
    pair = _pair(kind, *rows)
    value, *slopes = terms(pair, *hyper)
    tangent = jnp.zeros_like(value)
    for row, mass, slope, change in zip(rows, pair[:2], map(known, slopes), tangents[:2], strict=True):
        if isinstance(change, SymbolicZero):
            continue
        if kind != "probabilities":  # slope - mass * its sum, without a cancellation where one mass is nearly 1
            slope = slope * _others(mass) - mass * _others(slope)
        if kind == "masses":
            slope = known(divide(slope, row))
        tangent = tangent + jnp.sum(slope * change, axis=-1)
    for i, change in enumerate(tangents[2:]):
        if not isinstance(change, SymbolicZero):
            units = tuple(jnp.ones_like(x) if i == j else jnp.zeros_like(x) for j, x in enumerate(hyper))
            tangent = tangent + known(jax.jvp(lambda *h: terms(pair, *h)[0], hyper, units)[1]) * change
    return value, tangent


divergence.defjvp(_divergence_jvp, symbolic_zeros=True)


def kl(pair: Pair) -> Values:
    """Sum of t log(t / q) - t + q, none of which is negative."""
    q, t, gap, log, *_ = pair
    x = divide(-gap, t)
    near = (t > 0) & (x >= -0.5) & (x <= 1.0)
    close = t * x_minus_log1p(jnp.where(near, x, 0))
    terms = jnp.where(near, close, scaled(t, log) - gap)
    return jnp.sum(terms, axis=-1), pair.over(q, -gap), pair.times(t, pair.from_t)


def reverse_kl(pair: Pair) -> Values:
    value, by_t, by_q = kl(pair.swapped())
    return value, by_q, by_t


def _to_mixture(mass: jax.Array, excess: jax.Array, far: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The term of KL(mass || mixture), and log(mass / mixture), which is `far` where it is not small.

    The mixture is mass + excess.
    """
    x = divide(excess, mass)
    near = (mass > 0) & (x >= -0.5) & (x <= 1.0)
    x = jnp.where(near, x, 0)
    some = mass >= jnp.finfo(mass.dtype).tiny  # below it a processor may take a mass for 0 here and not there
    value = jnp.where(near, mass * x_minus_log1p(x), jnp.where(some, scaled(mass, far), 0) + excess)
    return value, jnp.where(near, -jnp.log1p(x), far)


def mixed(pair: Pair, share: jax.Array, rest: jax.Array, of_t: jax.Array, of_q: jax.Array) -> Values:
    """of_t KL(t || m) + of_q KL(q || m), where m = share t + rest q; by a share of 0 or 1, m is one of the two."""
    q, t, gap, log, *_, by_log = pair
    mixture = share * t + rest * q
    # One may have vanished beside a logarithm that has not.
    value_t, log_t = _to_mixture(t, -rest * gap, jnp.where(share == 0, log, _log(mixture, t)))
    value_q, log_q = _to_mixture(q, share * gap, jnp.where(rest == 0, -log, _log(mixture, q)))
    value = jnp.sum(scaled(of_t, value_t) + scaled(of_q, value_q), axis=-1)
    left = of_q * share - of_t * rest  # 0 where both are weighed as they are mixed

    def slope(own, other, log, log_from, own_share, other_share, weight, left):
        """weight log(own / m) + own_share left (other - own) / m, times own if by its logarithm."""
        if not by_log:
            return scaled(weight, log) + scaled(own_share * left, divide(other - own, mixture))
        # Less what it is at the largest mass, as if by hand: of a softmax that is the same, and cancels nowhere.
        largest = _at_largest(own, own)
        near = jnp.abs(log_from) < 1.0
        rise = jnp.expm1(jnp.where(near, log_from, 0))
        expected = divide(_at_largest(own, other), largest) * own
        excess = jnp.where(near, -expected * rise, expected - other)
        step = other_share * divide(excess, mixture)
        inside = step > -0.5
        log = jnp.where(inside, jnp.log1p(jnp.where(inside, step, 0.0)), log - _at_largest(own, log))
        log = jnp.where(own_share == 0, -log_from, log)
        part = jnp.where(other_share == 0, 1, divide(own, mixture))
        by_part = divide(part * excess, divide(_at_largest(own, mixture), largest))
        return scaled(own, scaled(weight, log)) - scaled(own_share * left, by_part)

    by_q = slope(q, t, log_q, pair.from_q, rest, share, of_q, left)
    return value, by_q, slope(t, q, log_t, -pair.from_t, share, rest, of_t, -left)


def total_variation(pair: Pair) -> Values:
    q, t, gap, *_, by_log = pair
    side = 0.5 * jnp.sign(gap)
    # Of a softmax less that of the largest mass, which is the same and cancels nowhere.
    of_q, of_t = (side - _at_largest(mass, side) if by_log else side for mass in (q, t))
    return 0.5 * jnp.sum(jnp.abs(gap), axis=-1), pair.times(q, -of_q), pair.times(t, of_t)
