"""Stable scalars: exact where the textbook formula cancels, finite where it divides 0 by 0.

Everything takes and returns floating arrays of one dtype and is differentiable twice.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec


def wide_dtype(dtype: Any) -> Any:
    """The dtype that one is computed in: floats of 16 bits and fewer become float32, all else stays."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.dtype("float32") if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4 else dtype


def positive_part(x: jax.Array) -> jax.Array:
    """max(x, 0), with derivative 0 at 0 (`jnp.maximum` has 1/2 there)."""
    return jnp.where(x <= 0, 0, x)


@jax.custom_jvp
def sqrt(x: jax.Array) -> jax.Array:
    """Square root, with derivative 0 at 0 instead of infinity."""
    nothing = x == 0  # no root of 0: inside a loop JAX may differentiate these lines and not what is below
    return jnp.where(nothing, 0, jnp.sqrt(jnp.where(nothing, 1, x)))


@sqrt.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    root = sqrt(x)
    return root, divide(0.5 * dx, root)


def positive_sqrt(x: jax.Array) -> jax.Array:
    """Square root of what is not negative, at least that of the smallest normal number: it may be divided by.

    Where it is held up its derivative is 0.
    """
    return jnp.sqrt(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def integers(*arrays: Any) -> tuple[jax.Array, ...]:
    """The arrays in one dtype, which has 32 bits or more, for comparison."""
    found = [jnp.asarray(x) for x in arrays]
    dtype = jnp.int64 if any(x.dtype.itemsize > 4 for x in found) else jnp.int32
    return tuple(x.astype(dtype) for x in found)


def divide(numerator: jax.Array, denominator: jax.Array, fallback: float = 0.0) -> jax.Array:
    """numerator / denominator, and `fallback` with zero derivative where the denominator is 0."""
    safe = denominator != 0
    # The selection last: of two quotients in a row XLA makes one, and the product of their denominators may vanish.
    return jnp.where(safe, numerator / jnp.where(safe, denominator, 1), fallback)


@jax.custom_jvp
def scaled(weight: jax.Array, x: jax.Array) -> jax.Array:
    """weight * x, where a weight of exactly 0 removes even an infinite x (0 log 0 = 0)."""
    return jnp.where(weight == 0, 0, weight * x)


@scaled.defjvp
def _(primals, tangents):
    (weight, x), (dweight, dx) = primals, tangents
    finite = jnp.where(jnp.isfinite(x), x, 0)
    return scaled(weight, x), scaled(weight, dx) + finite * dweight


def xlogy(x: jax.Array, y: jax.Array) -> jax.Array:
    """x log y, and 0 where x is 0, whatever y; its derivative by y is x / y, and 0 where x is 0."""
    nothing = x == 0
    return scaled(x, jnp.log(jnp.where(nothing & (y == 0), 1, y)))


def with_slopes(slopes: Callable[..., tuple[jax.Array, ...]]) -> Callable[[Callable[..., jax.Array]], Any]:
    """Decorator of an elementwise function: `slopes(*args)` are its partial derivatives.

    For formulas whose own derivative cancels, or overflows on the way, where the true one is an ordinary number.
    """

    def decorate(f):
        wrapped = jax.custom_jvp(f)

        def jvp(primals, tangents):
            terms = (slope * dx for slope, dx in zip(slopes(*primals), tangents, strict=True))
            return wrapped(*primals), reduce(jnp.add, terms)

        wrapped.defjvp(jvp)
        return wrapped

    return decorate


@with_slopes(lambda x: (jnp.sign(x),))
def absolute(x: jax.Array) -> jax.Array:
    """|x|, with derivative 0 at 0 (`jnp.abs` has 1 there)."""
    return jnp.abs(x)


def _hypot_slopes(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
    length = hypot(x, y)
    return divide(x, length), divide(y, length)


@with_slopes(_hypot_slopes)
def hypot(x: jax.Array, y: jax.Array) -> jax.Array:
    """sqrt(x^2 + y^2) where the squares would overflow or vanish too; its derivative at 0 is 0."""
    x, y = jnp.abs(x), jnp.abs(y)
    longer, shorter = jnp.maximum(x, y), jnp.minimum(x, jnp.minimum(y, jnp.finfo(y.dtype).max))
    return longer * jnp.sqrt(1.0 + jnp.square(divide(shorter, longer)))


@with_slopes(lambda x: (jnp.tanh(x),))
def log_cosh(x: jax.Array) -> jax.Array:
    """log cosh x, which is x^2 / 2 at 0 and |x| - log 2 far away, with all digits at both ends."""
    x = jnp.abs(x)
    small = x < 2.0
    sinh = jnp.sinh(0.5 * jnp.where(small, x, 0))
    near = jnp.log1p(sinh * (2.0 * sinh))
    return jnp.where(small, near, x + jnp.log1p(jnp.exp(-2.0 * x)) - 0.6931471805599453)


def log_ratio(a: jax.Array, b: jax.Array, log_b: jax.Array | None = None) -> jax.Array:
    """log(a / b) for a, b > 0, exact where they are nearly equal and where a / b would overflow.

    `log_b` stands in for log b where b itself has vanished.
    """
    near = (a <= 2.0 * b) & (b <= 2.0 * a)
    ratio = a / jnp.where(b > 0, b, 1)
    inside = (b > 0) & (ratio > 1e-30) & (ratio < 1e30)
    one = jnp.ones_like(ratio)
    excess = jnp.where(near & inside, (a - b) / jnp.where(inside, b, one), 0.0 * one)
    r = excess / (2.0 + excess)
    close = 2.0 * r * (1.0 + r * r * atanh_tail(r * r))
    far = jnp.log(a) - (jnp.log(b) if log_b is None else log_b)
    return jnp.where(inside, jnp.where(near, close, jnp.log(jnp.where(inside, ratio, one))), far)


def atanh_tail(square: jax.Array) -> jax.Array:
    """(atanh(r) / r - 1) / r^2 = 1/3 + r^2/5 + r^4/7 + ... as a function of r^2 <= 1/9, or 1/4 in float32."""
    total = jnp.full_like(square, 1.0 / 35.0)
    for k in range(33, 1, -2):
        total = 1.0 / k + square * total
    return total


def x_minus_log1p(x: jax.Array) -> jax.Array:
    """x - log(1 + x) for -1/2 <= x <= 1, where the two nearly cancel."""
    r = x / (2.0 + x)
    return r * (x - 2.0 * r * r * atanh_tail(r * r))


def stirling_rest(x: jax.Array) -> jax.Array:
    """log Gamma(x + 1) - (x log x - x + log(2 pi x) / 2) for x >= 1, which is about 1 / (12 x), with all its digits."""
    total = jnp.zeros_like(x)
    for k in range(8):  # up to x + 8, where the series holds: each step is (y + 1/2) log(1 + 1/y) - 1
        r = 1.0 / (2.0 * x + (2.0 * k + 1.0))
        total = total + r * r * atanh_tail(r * r)
    y = 1.0 / (x + 8.0)
    series = jnp.zeros_like(x)
    for c in (1 / 156, -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12):
        series = c + y * y * series
    return total + y * series


def log_factorial(x: jax.Array) -> jax.Array:
    """log Gamma(x + 1) for 0 <= x <= 1, exact around its zeros at both ends, where `lax.lgamma` loses 4 ulp of 1."""
    low = x < 0.5
    x = jnp.where(low, x, x - 1.0)
    total = jnp.zeros_like(x)
    for c in _ZETA[::-1]:
        total = c + x * total
    return x * (0.42278433509846713 + x * total) - jnp.where(low, jnp.log1p(x), 0)


# (-1)^k (zeta(k) - 1) / k from k = 2: the series of log Gamma(2 + x).
_ZETA = (
    0.3224670334241132,
    -0.0673523010531981,
    0.020580808427784546,
    -0.007385551028673986,
    0.0028905103307415234,
    -0.001192753911703261,
    0.0005096695247430425,
    -0.00022315475845357939,
    9.945751278180853e-05,
    -4.492623673813314e-05,
    2.050721277567069e-05,
    -9.439488275268397e-06,
    4.374866789907488e-06,
    -2.039215753801366e-06,
    9.55141213040742e-07,
    -4.492469198764566e-07,
    2.1207184805554665e-07,
    -1.0043224823968099e-07,
    4.7698101693639804e-08,
    -2.2711094608943164e-08,
    1.0838659214896955e-08,
    -5.183475041970047e-09,
    2.4836745438024785e-09,
)


def digamma_rest(x: jax.Array) -> jax.Array:
    """digamma(x + 1) - log(x + 1/2) for x >= 0, which is about 1 / (24 x^2), with all its digits."""
    total = jnp.zeros_like(x)
    for k in range(1, 9):  # each step is log((y + 1/2) / (y - 1/2)) - 1 / y
        r = 0.5 / (x + float(k))
        total = total + 2.0 * r * (r * r * atanh_tail(r * r))
    y = 1.0 / (x + 8.5)
    series = jnp.zeros_like(x)
    for c in (8191 / 98304, -1414477 / 67092480, 511 / 67584, -127 / 30720, 31 / 8064, -7 / 960, 1 / 24):
        series = c + y * y * series
    return total + y * y * series


def exp_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """exp(a - b) for b finite, with the rounding error of a - b put back: at a gap of 80 it is worth 32 ulp."""
    lowest = float(jnp.finfo(a.dtype).min)  # stands for -inf: arithmetic alone, so that a sum over it fuses
    kept = jnp.maximum(a, lowest)
    gap = jnp.maximum(kept - b, lowest)
    back = gap - kept
    return jnp.exp(gap + (a - kept)) * (1.0 + ((kept - (gap - back)) - (b + back)))


def _top(logits: jax.Array) -> jax.Array:
    """The largest logit of each row, kept as an axis, 0 for a row of -inf: an offset, without derivative."""
    top = jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf)
    return lax.stop_gradient(jnp.where(jnp.isneginf(top), 0, top))


def _classes(logits: jax.Array, dtype: Any) -> jax.Array:
    """The index of each class, with as many axes as the logits: a held row, in a loop XLA would hold one for each."""
    over = jax.typeof(logits).sharding.spec[-1]
    spec = None if over is None else PartitionSpec(over)
    index = lax.broadcasted_iota(dtype, logits.shape[-1:], 0, out_sharding=spec)
    return lax.optimization_barrier(index).reshape((1,) * (logits.ndim - 1) + index.shape)


def one_hot(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Where a class is the label of its row, bool in the shape of `logits`; a comparison that fuses, never stored."""
    return _classes(logits, labels.dtype) == labels[..., None]


def rivals(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The logits with -inf at the label of each row.

    Arithmetic on a held row of indices: XLA on CPU fuses it into a sum, which it does not do with a comparison.
    """
    away = jnp.abs(_classes(logits, logits.dtype) - labels[..., None].astype(logits.dtype))
    return jnp.minimum(logits, (away - 0.5) * jnp.inf)


def _own(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The logit of the label of each row, kept as an axis."""
    if jax.typeof(logits).sharding.spec[-1] is None:
        return jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="clip")
    return jnp.sum(jnp.where(one_hot(labels, logits), logits, 0), axis=-1, keepdims=True)


def best_rival(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How far the best of the other classes is above the label of each row; -inf if there is no other."""
    best = jnp.max(rivals(logits, labels), axis=-1)
    chosen = _own(logits, labels)[..., 0]
    return jnp.where(jnp.isneginf(best), best, best - chosen)


def each_rival(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How far each class is above the label of its row: -inf for the label itself and for classes that do not exist."""
    others = rivals(logits, labels)
    chosen = _own(logits, labels)
    return jnp.where(jnp.isneginf(others), others, others - chosen)


def _odds(logits: jax.Array, labels: jax.Array):
    """Unnormalised probability of each rival and their sum, the label's gap to the best of them and exp(-|gap|).

    Counted from the best rival: its gap to the label is rounded once a row, those that matter in the sum are small.
    """
    logits, chosen = lax.optimization_barrier((logits, _own(logits, labels)))  # rivals may take the place of logits
    others = rivals(logits, labels)
    best = jnp.max(others, axis=-1, keepdims=True)
    alone = jnp.where(jnp.isneginf(chosen), 0, chosen)
    best = lax.stop_gradient(jnp.where(jnp.isneginf(best), alone, best))
    mass = jnp.exp(others - best)
    wrong = best > chosen
    share = exp_difference(jnp.where(wrong, chosen, best), jnp.where(wrong, best, chosen))
    return mass, jnp.sum(mass, axis=-1, keepdims=True), best - chosen, wrong, share


def _inverse_total(others: jax.Array, wrong: jax.Array, share: jax.Array) -> jax.Array:
    """What turns the masses of `_odds` into probabilities."""
    return divide(jnp.where(wrong, 1, share), jnp.where(wrong, others + share, 1.0 + others * share))


def _surprise(others: jax.Array, gap: jax.Array, wrong: jax.Array, share: jax.Array) -> jax.Array:
    """-log of the label's probability, of the sums of `_odds`."""
    odds = jnp.where(wrong, jnp.maximum(others - 1.0, 0.0) + share, others * share)
    return (jnp.maximum(gap, 0.0) + jnp.log1p(odds))[..., 0]


@jax.custom_jvp
def label_surprise(logits: jax.Array, labels: jax.Array) -> jax.Array:
    r"""-log softmax(logits)[label] of each row, with all its digits also when the row is confident.

    The label is left out of the partition sum, so that nothing is added to 1 and taken off again; with m the best of
    the other classes:

    .. math:: \log\mathrm{1p}\big(e^{m - z_y}\textstyle\sum_{j \ne y} e^{z_j - m}\big)

    Args:
      logits: Float `[..., classes]`; -inf is a class that does not exist.
      labels: Integer `[...]` in range.

    Returns:
      Float `[...]`, never negative.
    """
    return _surprise(*_odds(logits, labels)[1:])


@label_surprise.defjvp
def _(primals, tangents):
    surprise, slope = _surprise_and_slope(*primals)
    return surprise, jnp.sum(slope * tangents[0], axis=-1)


def _slope(logits: jax.Array, labels: jax.Array, *odds: jax.Array) -> jax.Array:
    """Of the surprise by each logit, from what `_odds` returns."""
    mass, others, _, wrong, share = odds
    inverse = _inverse_total(others, wrong, share)
    return jnp.where(one_hot(labels, logits), -(others * inverse), mass * inverse)


@jax.custom_jvp
def _surprise_and_slope(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both from the same sums; the derivative of the former is the latter, not that of its formula, which has kinks."""
    odds = _odds(logits, labels)
    return _surprise(*odds[1:]), _slope(logits, labels, *odds)


@_surprise_and_slope.defjvp
def _(primals, tangents):
    (logits, labels), (dlogits, _) = primals, tangents
    surprise, slope = _surprise_and_slope(logits, labels)
    dslope = jax.jvp(lambda z: _slope(z, labels, *_odds(z, labels)), (logits,), (dlogits,))[1]
    return (surprise, slope), (jnp.sum(slope * dlogits, axis=-1), dslope)


@jax.custom_jvp
def label_miss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 - softmax(logits)[label] of each row, with all its digits also when the row is confident."""
    _, others, _, wrong, share = _odds(logits, labels)
    miss = others * _inverse_total(others, wrong, share)
    return jnp.where(wrong & (others == 0), 1, miss)[..., 0]


@label_miss.defjvp
def _(primals, tangents):
    logits, labels = primals
    surprise, dsurprise = jax.jvp(lambda x: label_surprise(x, labels), (logits,), (tangents[0],))
    return label_miss(logits, labels), jnp.exp(-surprise) * dsurprise


def _excess(logits: jax.Array):
    """Offset, which classes are below it, the odds against one class at the top, and the probability of each."""
    top = _top(logits)
    base = top - 40.0  # instead of the top, so that no term is subnormal where the sum is not
    mass = exp_difference(logits, base)
    scale = exp_difference(base, top)
    below = logits < top
    rest = scale * jnp.sum(jnp.where(below, mass, 0), axis=-1, keepdims=True)
    ties = jnp.sum(~below, axis=-1, keepdims=True).astype(rest.dtype)
    rest = rest + jnp.maximum(ties - 1.0, 0.0)
    return top, below, rest, mass * (scale / (1.0 + rest))


@jax.custom_jvp
def softmax_pair(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The probability of each class and of all the others, both with all their digits."""
    _, below, rest, p = _excess(logits)
    return p, jnp.where(below, 1.0 - p, rest / (1.0 + rest))


@softmax_pair.defjvp
def _(primals, tangents):
    (logits,), (dlogits,) = primals, tangents
    p, q = softmax_pair(logits)
    dp = p * (dlogits - jnp.sum(p * dlogits, axis=-1, keepdims=True))
    return (p, q), (dp, -dp)


@jax.custom_jvp
def log_partition(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log sum exp of each row as a pair (offset, remainder >= 0), so that differences to logits keep their digits.

    A row without classes has (0, -inf), without derivative.
    """
    top = _top(logits)
    mass = jnp.sum(jnp.exp(logits - top), axis=-1)
    some = mass > 0  # no log of 0: inside a loop JAX may differentiate this line and not what is below
    return top[..., 0], jnp.where(some, jnp.log(jnp.where(some, mass, 1)), -jnp.inf)


@log_partition.defjvp
def _(primals, tangents):
    top, remainder = log_partition(primals[0])
    mass = jnp.exp(primals[0] - top[..., None])
    p = divide(mass, jnp.sum(mass, axis=-1, keepdims=True))
    return (top, remainder), (jnp.zeros_like(top), jnp.sum(p * tangents[0], axis=-1))


def softmax(logits: jax.Array) -> jax.Array:
    """The probability of each class with all its digits, but not those of 1 less it; 0 of classes that do not exist."""
    top, remainder = log_partition(logits)
    return exp_difference(logits, top[..., None]) * jnp.exp(-jnp.maximum(remainder, 0.0))[..., None]


@jax.custom_jvp
def surprises(logits: jax.Array) -> jax.Array:
    """-log softmax of each class that exists, 0 of the others."""
    top, _, rest, _ = _excess(logits)
    gap = top - logits
    return jnp.where(jnp.isfinite(gap), gap + jnp.log1p(rest), 0)


@surprises.defjvp
def _(primals, tangents):
    (logits,), (dlogits,) = primals, tangents
    p, _ = softmax_pair(logits)
    slope = jnp.sum(p * dlogits, axis=-1, keepdims=True) - dlogits
    return surprises(logits), jnp.where(jnp.isneginf(logits), 0, slope)


@jax.custom_jvp
def entropy(logits: jax.Array) -> jax.Array:
    """-sum p log p of each row, with all digits of a confident one; a flat row has a gradient of exactly 0."""
    p, _ = softmax_pair(logits)
    return jnp.sum(p * surprises(logits), axis=-1)


@entropy.defjvp
def _(primals, tangents):
    (logits,), (dlogits,) = primals, tangents
    p, _ = softmax_pair(logits)
    below = _top(logits) - logits
    mean = jnp.sum(scaled(p, below), axis=-1, keepdims=True)
    return entropy(logits), jnp.sum(scaled(p, below - mean) * dlogits, axis=-1)


def tangent(value: jax.Array, *terms: tuple[jax.Array, Any], axis: tuple[int, ...] = ()) -> jax.Array:
    """Sum of slope * tangent over the arguments that are differentiated."""
    parts = [slope * tangent for slope, tangent in terms if not isinstance(tangent, SymbolicZero)]
    return jnp.sum(sum(parts[1:], parts[0]), axis=axis) if parts else jnp.zeros_like(value)


@jax.custom_jvp
def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-sum(targets * log softmax(logits)) of each row, exact for one-hot rows too; 0 log 0 = 0.

    Args:
      logits: Float `[..., classes]`; -inf is a class that does not exist.
      targets: Float `[..., classes]`, nonnegative.

    Returns:
      Float `[...]`, never negative.
    """
    top, _, rest, _ = _excess(logits)
    gap = scaled(2.0 * targets, 0.5 * top - 0.5 * logits)  # halves: the gap may overflow where its share does not
    return jnp.sum(gap, axis=-1) + jnp.sum(targets, axis=-1) * jnp.log1p(rest[..., 0])


def _cross_entropy_jvp(primals, tangents):
    logits, targets = primals
    p, q = softmax_pair(logits)
    total = jnp.sum(targets, axis=-1, keepdims=True)
    slope = jnp.where(q < 0.5, (total - targets) - total * q, total * p - targets)
    value = cross_entropy(logits, targets)
    return value, tangent(value, (slope, tangents[0]), (surprises(logits), tangents[1]), axis=(-1,))


cross_entropy.defjvp(_cross_entropy_jvp, symbolic_zeros=True)


@jax.custom_jvp
def mean_surprise(logits: jax.Array) -> jax.Array:
    """Cross-entropy of each row with the uniform distribution over the classes that exist."""
    top, remainder = log_partition(logits)
    share = uniform(logits)
    return jnp.sum(scaled(2.0 * share, 0.5 * top[..., None] - 0.5 * logits), axis=-1) + jnp.maximum(remainder, 0.0)


@mean_surprise.defjvp
def _(primals, tangents):
    (logits,), (dlogits,) = primals, tangents
    mass = jnp.exp(logits - _top(logits))
    slope = divide(mass, jnp.sum(mass, axis=-1, keepdims=True)) - uniform(logits)
    return mean_surprise(logits), jnp.sum(slope * dlogits, axis=-1)


def uniform(logits: jax.Array) -> jax.Array:
    """The uniform distribution over the classes that exist."""
    exists = (~jnp.isneginf(logits)).astype(logits.dtype)
    return exists / jnp.maximum(jnp.sum(exists, axis=-1, keepdims=True), 1.0)


def _floored(x: jax.Array) -> jax.Array:
    """x, but no smaller than the smallest normal number."""
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


@jax.custom_jvp
def surprise_excess(surprise: jax.Array) -> jax.Array:
    """By how much s = -log p is above 1 - p = 1 - exp(-s)."""
    series = jnp.zeros_like(surprise)
    for n in range(10, 1, -1):
        series = (1.0 - series) * surprise / n
    return jnp.where(surprise < 0.5, surprise * series, surprise + jnp.expm1(-surprise))


@surprise_excess.defjvp
def _(primals, tangents):
    return surprise_excess(primals[0]), -jnp.expm1(-primals[0]) * tangents[0]


@jax.custom_jvp
def power(base: jax.Array, exponent: jax.Array) -> jax.Array:
    """Base ** exponent for base >= 0, where 0 ** 0 = 1; the derivative is 0 at 0 even where it grows without bound."""
    return base**exponent


@power.defjvp
def _(primals, tangents):
    base, exponent = primals
    value = power(base, exponent)
    safe = base >= jnp.finfo(base.dtype).tiny
    base = jnp.where(safe, base, 1)
    kept = jnp.where(safe, value, 0)
    return value, exponent * (kept / base) * tangents[0] + kept * jnp.log(base) * tangents[1]


def over_largest(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Vectors `[..., d]` over their largest entry, and that, `[..., 1]`, without derivative; 0 for 0."""
    size = lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True, initial=0.0))
    quarter = jnp.where(size > 1.0, 0.25, 1.0).astype(size.dtype)  # compilers multiply by 1 / size, which may vanish
    return divide(quarter * vectors, quarter * size), size


def _shares_of_largest(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Absolute entries over the largest, exactly 1 for that: powers of them may be of any degree."""
    ratio, size = over_largest(vectors)
    ratio = absolute(ratio)
    return jnp.where((jnp.abs(vectors) == size) & (size > 0), 1, ratio), size


@jax.custom_jvp
def norm(vectors: jax.Array, degree: jax.Array) -> jax.Array:
    """(sum |x|^degree)^(1 / degree) over the last axis, where the powers would overflow or vanish too; degree >= 1.

    Its derivative at 0 is 0; that by a coordinate is that of the largest ones at a degree of inf, in equal parts.
    """
    ratio, size = _shares_of_largest(vectors)
    total = jnp.sum(power(ratio, degree), axis=-1)
    return size[..., 0] * power(total, 1.0 / degree)


@norm.defjvp
def _(primals, tangents):
    (vectors, degree), (dvectors, ddegree) = primals, tangents
    ratio, _ = _shares_of_largest(vectors)
    powers = power(ratio, degree)
    total = jnp.sum(powers, axis=-1)
    some = total > 0
    total = jnp.where(some, total, 1)
    slopes = jnp.sign(vectors) * power(ratio, degree - 1.0) * power(total, 1.0 / degree - 1.0)[..., None]
    entropy = jnp.sum(xlogy(powers, ratio), axis=-1) / total - jnp.log(total) / degree
    length = norm(*primals)
    return length, jnp.sum(slopes * dvectors, axis=-1) + length * entropy / degree * ddegree


@jax.custom_jvp
def quotient(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Numerator / denominator for a positive denominator, whose derivative never squares it: a square may be 0."""
    return numerator / denominator


@quotient.defjvp
def _(primals, tangents):
    value = quotient(*primals)
    return value, quotient(tangents[0], primals[1]) - value * quotient(tangents[1], primals[1])


def _per(surprise: jax.Array, miss: jax.Array) -> jax.Array:
    """Surprise / miss, at least 1 and finite; 1 where nothing is missed."""
    ratio = jnp.minimum(quotient(surprise, _floored(miss)), jnp.finfo(miss.dtype).max)
    return jnp.where(miss < jnp.finfo(miss.dtype).tiny, 1, ratio)


@jax.custom_jvp
def focal_surprise(surprise: jax.Array, miss: jax.Array, gamma: jax.Array) -> jax.Array:
    """Miss ** gamma * surprise, where miss = 1 - exp(-surprise) is given too because it has more digits.

    The derivative is that along the surprise, which is finite for every gamma >= 0.
    """
    return power(miss, gamma) * surprise


@focal_surprise.defjvp
def _(primals, tangents):
    surprise, miss, gamma = primals
    weight = power(miss, gamma)
    value = weight * surprise
    slope = (weight * gamma) * scaled(jnp.exp(-surprise), _per(surprise, miss)) + weight
    by_gamma = scaled(jnp.log(_floored(miss)), value)
    return focal_surprise(*primals), slope * tangents[0] + by_gamma * tangents[2]


@jax.custom_jvp
def sigmoid_pair(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sigmoid(x) and sigmoid(-x), both with all their digits."""
    odds = jnp.exp(-jnp.abs(x))
    large, small = 1.0 / (1.0 + odds), odds / (1.0 + odds)
    return jnp.where(x < 0, small, large), jnp.where(x < 0, large, small)


@sigmoid_pair.defjvp
def _(primals, tangents):
    p, q = sigmoid_pair(primals[0])
    slope = p * q * tangents[0]
    return (p, q), (slope, -slope)


@jax.custom_jvp
def binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, pos_weight: jax.Array, label_smoothing: jax.Array
) -> jax.Array:
    """-w y log sigmoid(x) - (1 - y) log sigmoid(-x), smoothed targets y = t (1 - e) + e / 2, as a sum without signs."""
    yes, no = _sides(targets, pos_weight, label_smoothing)
    linear = scaled(jnp.where(logits < 0, yes, no), jnp.abs(logits))
    return linear + (yes + no) * jnp.log1p(jnp.exp(-jnp.abs(logits)))


def _sides(targets: jax.Array, pos_weight: jax.Array, label_smoothing: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weights of the positive and of the negative term."""
    keep, share = 1.0 - label_smoothing, 0.5 * label_smoothing
    return pos_weight * (targets * keep + share), (1.0 - targets) * keep + share


def _less(logits: jax.Array, p: jax.Array, q: jax.Array, yes: jax.Array, no: jax.Array) -> jax.Array:
    """What is left of no * p - yes * q, where the smaller of p and q cancels, or what they differ by from 1/2."""
    total = yes + no
    far = jnp.where(logits < 0, total * p - yes, no - total * q)
    return jnp.where(jnp.abs(logits) < 1.0, 0.5 * (total * jnp.tanh(0.5 * logits) + (no - yes)), far)


def _binary_cross_entropy_jvp(primals, tangents):
    logits, targets, pos_weight, label_smoothing = primals
    yes, no = _sides(targets, pos_weight, label_smoothing)
    p, q = sigmoid_pair(logits)
    surprise = jax.nn.softplus(-logits)
    slope = _less(logits, p, q, yes, no)
    by_target = scaled(pos_weight - 1.0, surprise) - logits
    by_weight = (targets * (1.0 - label_smoothing) + 0.5 * label_smoothing) * surprise
    slopes = (slope, (1.0 - label_smoothing) * by_target, by_weight, (0.5 - targets) * by_target)
    value = binary_cross_entropy(*primals)
    return value, tangent(value, *zip(slopes, tangents, strict=True))


binary_cross_entropy.defjvp(_binary_cross_entropy_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _binary_miss(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """1 - p_t, where p_t = t p + (1 - t) (1 - p)."""
    p, q = sigmoid_pair(logits)
    return targets * q + (1.0 - targets) * p


@_binary_miss.defjvp
def _(primals, tangents):
    logits, targets = primals
    p, q = sigmoid_pair(logits)
    slope = (1.0 - 2.0 * targets) * (p * q) * tangents[0] - jnp.tanh(0.5 * logits) * tangents[1]
    return _binary_miss(logits, targets), slope


@jax.custom_jvp
def binary_focal(logits: jax.Array, targets: jax.Array, gamma: jax.Array) -> jax.Array:
    """(1 - p_t) ** gamma times the binary cross-entropy; finite derivatives for every gamma >= 0 and every logit."""
    one = jnp.ones((), logits.dtype)
    root = power(_binary_miss(logits, targets), 0.5 * gamma)  # twice: its square may be 0 where the product is not
    return root * (root * binary_cross_entropy(logits, targets, one, 0.0 * one))


def _binary_focal_jvp(primals, tangents):
    logits, targets, gamma = primals
    p, q = sigmoid_pair(logits)
    miss = _binary_miss(logits, targets)
    one = jnp.ones((), logits.dtype)
    surprise = binary_cross_entropy(logits, targets, one, 0.0 * one)
    root, per = power(miss, 0.5 * gamma), _per(surprise, miss)
    bent = (root * gamma) * ((1.0 - 2.0 * targets) * (per * (p * q)))
    slope = root * (bent + root * _less(logits, p, q, targets, 1.0 - targets))
    half = 0.5 * gamma * (root * (per * jnp.tanh(0.5 * logits))) + scaled(root, 0.5 * logits)
    by_target = -2.0 * root * half
    by_gamma = scaled(jnp.log(_floored(miss)), root * (root * surprise))
    value = binary_focal(*primals)
    return value, tangent(value, *zip((slope, by_target, by_gamma), tangents, strict=True))


binary_focal.defjvp(_binary_focal_jvp, symbolic_zeros=True)


@jax.custom_jvp
def weighted_surprise(p: jax.Array, weight: jax.Array) -> jax.Array:
    """-weight * log p; below the smallest normal number the logarithm and its slope are those that it has there."""
    return weight * -jnp.log(_floored(p))


@weighted_surprise.defjvp
def _(primals, tangents):
    p, weight = primals
    slope = quotient(-weight, _floored(p))
    return weighted_surprise(p, weight), slope * tangents[0] - jnp.log(_floored(p)) * tangents[1]


@jax.custom_jvp
def soft_cap(x: jax.Array, cap: jax.Array) -> jax.Array:
    """Bends x to cap * tanh(x / cap), where -inf stays -inf."""
    return jnp.where(jnp.isneginf(x), x, cap * jnp.tanh(x / cap))


@soft_cap.defjvp
def _(primals, tangents):
    x, cap = primals
    x = jnp.where(jnp.isneginf(x), 0, x)
    p, q = sigmoid_pair(2.0 * (x / cap))
    slope = 4.0 * p * q
    by_cap = jnp.tanh(x / cap) - scaled(slope, x / cap)
    present = ~jnp.isneginf(primals[0])
    tangent = slope * tangents[0] + by_cap * tangents[1]
    return soft_cap(*primals), jnp.where(present, tangent, 0)


@jax.custom_jvp
def bernoulli_surprise(p: jax.Array, targets: jax.Array) -> jax.Array:
    """-t log p - (1 - t) log(1 - p), with logarithms floored as in `weighted_surprise`."""
    return targets * -jnp.log(_floored(p)) + (1.0 - targets) * -_floored_log1m(p)


def _floored_log1m(p: jax.Array) -> jax.Array:
    """log(1 - p), floored."""
    small = p < 0.5
    return jnp.where(small, jnp.log1p(-jnp.where(small, p, 0)), jnp.log(_floored(1.0 - p)))


@bernoulli_surprise.defjvp
def _(primals, tangents):
    p, targets = primals
    yes, no = _floored(p), _floored(1.0 - p)
    certain = quotient(1.0 - targets, no) - quotient(targets, yes)
    slope = jnp.where((targets == 0) | (targets == 1), certain, quotient(p - targets, yes * no))
    middle = jnp.abs(p - 0.5) < 0.25
    near = jnp.where(middle, p, 0.5 * jnp.ones_like(p))
    by_target = jnp.where(middle, jnp.log1p((1.0 - 2.0 * near) / near), _floored_log1m(p) - jnp.log(yes))
    return bernoulli_surprise(p, targets), slope * tangents[0] + by_target * tangents[1]
