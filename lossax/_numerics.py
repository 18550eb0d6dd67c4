"""Stable scalars: exact where the textbook formula cancels, finite where it divides 0 by 0.

Everything takes and returns floating arrays of one dtype and is differentiable twice.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def wide_dtype(dtype: Any) -> Any:
    """The dtype that one is computed in: floats of 16 bits and fewer become float32, all else stays."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.dtype("float32") if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4 else dtype


def absolute(x: jax.Array) -> jax.Array:
    """|x|, with derivative 0 at 0 (`jnp.abs` has 1 there)."""
    return x * jnp.sign(x)


@jax.custom_jvp
def sqrt(x: jax.Array) -> jax.Array:
    """Square root, with derivative 0 at 0 instead of infinity."""
    return jnp.sqrt(x)


@sqrt.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    root = sqrt(x)
    return root, divide(0.5 * dx, root)


def divide(numerator: jax.Array, denominator: jax.Array, fallback: float = 0.0) -> jax.Array:
    """numerator / denominator, and `fallback` with zero derivative where the denominator is 0."""
    safe = denominator != 0
    quotient = numerator / jnp.where(safe, denominator, jnp.ones_like(denominator))
    return jnp.where(safe, quotient, jnp.asarray(fallback, quotient.dtype))


@jax.custom_jvp
def scaled(weight: jax.Array, x: jax.Array) -> jax.Array:
    """weight * x, where a weight of exactly 0 removes even an infinite x (0 log 0 = 0)."""
    return jnp.where(weight == 0, jnp.zeros_like(x), weight * x)


@scaled.defjvp
def _(primals, tangents):
    (weight, x), (dweight, dx) = primals, tangents
    finite = jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x))
    return scaled(weight, x), scaled(weight, dx) + finite * dweight


def xlogy(x: jax.Array, y: jax.Array) -> jax.Array:
    """x log y, and 0 where x is 0, whatever y; its derivative by y is x / y, and 0 where x is 0."""
    nothing = x == 0
    return scaled(x, jnp.log(jnp.where(nothing & (y == 0), jnp.ones_like(y), y)))


def log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - exp(-x)) for x > 0, accurate at both ends (Maechler, 2012)."""
    small = x < 0.6931472
    near = jnp.log(-jnp.expm1(-jnp.where(small, x, jnp.ones_like(x))))
    far = jnp.log1p(-jnp.exp(-jnp.where(small, jnp.ones_like(x), x)))
    return jnp.where(small, near, far)


def exp_difference(a: jax.Array, b: jax.Array) -> jax.Array:
    """exp(a - b) for b finite, with the rounding error of a - b put back: at a gap of 80 it is worth 32 ulp."""
    lowest = 0.5 * float(jnp.finfo(a.dtype).min)  # stands for -inf: arithmetic alone, so that a sum over it fuses
    a = jnp.maximum(a, lowest)
    gap = jnp.maximum(a - b, lowest)
    back = gap - a
    return jnp.exp(gap) * (1.0 + ((a - (gap - back)) - (b + back)))


def _top(logits: jax.Array) -> jax.Array:
    """The largest logit of each row, kept as an axis, 0 for a row of -inf: an offset, without derivative."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    return lax.stop_gradient(jnp.where(jnp.isneginf(top), jnp.zeros_like(top), top))


def one_hot(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Where a class is the label of its row, bool in the shape of `logits`; a comparison that fuses, never stored."""
    classes = lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    return classes == labels[..., None]


def _odds(logits: jax.Array, labels: jax.Array):
    """Unnormalised probability of each class, of all but the label, and (label's logit - top)."""
    top = _top(logits)
    mass = exp_difference(logits, top)
    # Arithmetic on a held row of indices: XLA on CPU fuses it into the sum, which it does not do with a comparison.
    classes = lax.optimization_barrier(jnp.arange(logits.shape[-1], dtype=logits.dtype))
    classes = classes.reshape((1,) * (logits.ndim - 1) + classes.shape)
    not_label = jnp.minimum(jnp.abs(classes - labels[..., None].astype(logits.dtype)), 1.0)
    others = jnp.sum(mass * not_label, axis=-1)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="clip") - top
    return mass, others, chosen[..., 0]


@jax.custom_jvp
def label_surprise(logits: jax.Array, labels: jax.Array) -> jax.Array:
    r"""-log softmax(logits)[label] of each row, with all its digits also when the row is confident.

    The label is left out of the partition sum, so that nothing is added to 1 and taken off again:

    .. math:: (m - z_y) + \log\mathrm{1p}\big(\textstyle\sum_{j \ne y} e^{z_j - m} + \mathrm{expm1}(z_y - m)\big)

    Every function of the label's probability follows from it without loss: 1 - p = -expm1(-surprise).

    Args:
      logits: Float `[..., classes]`; -inf is a class that does not exist.
      labels: Integer `[...]` in range.

    Returns:
      Float `[...]`, never negative.
    """
    _, others, chosen = _odds(logits, labels)
    return jnp.log1p(jnp.maximum(others + jnp.expm1(chosen), 0.0)) - chosen


@label_surprise.defjvp
def _(primals, tangents):
    logits, labels = primals
    mass, others, chosen = _odds(logits, labels)
    total = (others + jnp.exp(chosen))[..., None]
    slope = divide(jnp.where(one_hot(labels, logits), -others[..., None], mass), total)
    return label_surprise(logits, labels), jnp.sum(slope * tangents[0], axis=-1)


def _excess(logits: jax.Array):
    """Offset, which classes are below it, unnormalised probabilities, and their sum less one class at the top."""
    top = _top(logits)
    mass = exp_difference(logits, top)
    below = logits < top
    rest = jnp.sum(jnp.where(below, mass, jnp.zeros_like(mass)), axis=-1, keepdims=True)
    ties = jnp.sum(~below, axis=-1, keepdims=True).astype(rest.dtype)
    return top, below, mass, rest + jnp.maximum(ties - 1.0, 0.0)


@jax.custom_jvp
def softmax_pair(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The probability of each class and of all the others, both with all their digits."""
    _, below, mass, rest = _excess(logits)
    p = mass / (1.0 + rest)
    return p, jnp.where(below, 1.0 - p, rest / (1.0 + rest))


@softmax_pair.defjvp
def _(primals, tangents):
    (logits,), (dlogits,) = primals, tangents
    p, q = softmax_pair(logits)
    dp = p * (dlogits - jnp.sum(p * dlogits, axis=-1, keepdims=True))
    return (p, q), (dp, -dp)


def log_partition(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log sum exp of each row as a pair (offset, remainder >= 0), so that differences to logits keep their digits."""
    top = _top(logits)
    return top[..., 0], jnp.log(jnp.sum(jnp.exp(logits - top), axis=-1))


@jax.custom_jvp
def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-sum(targets * log softmax(logits)) of each row, exact for one-hot rows too; 0 log 0 = 0.

    Args:
      logits: Float `[..., classes]`; -inf is a class that does not exist.
      targets: Float `[..., classes]`, nonnegative.

    Returns:
      Float `[...]`, never negative.
    """
    top, _, _, rest = _excess(logits)
    return jnp.sum(scaled(targets, top - logits), axis=-1) + jnp.sum(targets, axis=-1) * jnp.log1p(rest[..., 0])


@cross_entropy.defjvp
def _(primals, tangents):
    (logits, targets), (dlogits, dtargets) = primals, tangents
    top, _, _, rest = _excess(logits)
    p, q = softmax_pair(logits)
    total = jnp.sum(targets, axis=-1, keepdims=True)
    slope = jnp.where(q < 0.5, (total - targets) - total * q, total * p - targets)
    gap = top - logits
    surprise = jnp.where(jnp.isfinite(gap), gap + jnp.log1p(rest), jnp.zeros_like(gap))
    return cross_entropy(logits, targets), jnp.sum(slope * dlogits + surprise * dtargets, axis=-1)
