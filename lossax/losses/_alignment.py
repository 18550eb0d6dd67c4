"""Dependence between two sets of features of the same examples: one unit per set, whose elements see each other."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import divide, positive_part, sqrt
from lossax._pairs import each_pair, kernel_gap, median_distance
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import over_sets, whole
from lossax._types import Reduction

Kernel = Literal["linear", "rbf"]


def _sets(where: Any, predictions: Any, targets: Any, weights: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check and mask: features `[..., n, d]` and `[..., n, e]`, 0 where nothing is kept, and weights `[..., n]`."""
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    own, other = _check.spec(predictions)[0], _check.spec(targets)[0]
    if min(len(own), len(other)) < 2 or own[:-1] != other[:-1]:
        raise ValueError(f"expected shapes equal but for features, got predictions{list(own)}, targets{list(other)}")
    (predictions, targets), (where, weights) = whole((predictions, targets), 2), whole((where, weights), 1)
    (predictions,), (targets,) = masked(where, predictions, event=1), masked(where, targets, event=1)
    kept = unit_weights(own[:-1], where, weights, dtype=predictions.dtype)
    nothing = (kept == 0)[..., None]
    predictions = jnp.where(nothing, 0, predictions)
    targets = jnp.where(nothing, 0, targets.astype(predictions.dtype))
    return predictions, targets, kept


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _centred_points(points: jax.Array, shares: jax.Array) -> jax.Array:
    return points - jnp.sum(shares[:, None] * points, axis=0, keepdims=True)


def _centred(gram: jax.Array, shares: jax.Array) -> jax.Array:
    rows = jnp.sum(gram * shares[None, :], axis=1)
    return gram - rows[:, None] - rows[None, :] + jnp.sum(shares * rows)


def _gram(kernel: str, points: jax.Array, weights: jax.Array, bandwidth: jax.Array, relative: bool) -> jax.Array:
    """Kernel matrix up to a constant, which no centred one sees: k - 1 of the Gaussian has more digits than k."""
    if kernel == "linear":
        return _product(points, points.T)
    scale = bandwidth * median_distance(points, weights) if relative else bandwidth
    return -each_pair(kernel_gap("rbf", scale), points, points)


def _biased(x: jax.Array, y: jax.Array, shares: jax.Array) -> jax.Array:
    """Of matrices."""
    return jnp.sum(shares[:, None] * shares[None, :] * _centred(x, shares) * _centred(y, shares))


def _biased_linear(x: jax.Array, y: jax.Array, shares: jax.Array) -> jax.Array:
    """Of centred features, by their cross-covariance."""
    return jnp.sum(jnp.square(_product((shares[:, None] * x).T, y)))


def _unbiased_sum(pairs: jax.Array, rows: jax.Array, x: jax.Array, y: jax.Array, size: jax.Array) -> jax.Array:
    """From sums over different elements: of products, of products of row sums, and of both matrices; 0 for n < 4."""
    enough = size > 3.0
    n = jnp.where(enough, size, 4.0)
    total = pairs + x * y / ((n - 1.0) * (n - 2.0)) - 2.0 / (n - 2.0) * rows
    return jnp.where(enough, total / (n * (n - 3.0)), 0)


def _unbiased(x: jax.Array, y: jax.Array, weights: jax.Array) -> jax.Array:
    """Of matrices; a weight of w is w elements, of which each is paired with the w - 1 others."""
    own_x, own_y = jnp.diagonal(x), jnp.diagonal(y)
    pairs = jnp.sum(weights[:, None] * weights[None, :] * x * y) - jnp.sum(weights * own_x * own_y)
    rows_x = jnp.sum(x * weights[None, :], axis=1) - own_x
    rows_y = jnp.sum(y * weights[None, :], axis=1) - own_y
    sums = (jnp.sum(weights * rows_x), jnp.sum(weights * rows_y))
    return _unbiased_sum(pairs, jnp.sum(weights * rows_x * rows_y), *sums, jnp.sum(weights))


def _unbiased_linear(x: jax.Array, y: jax.Array, weights: jax.Array) -> jax.Array:
    """Of centred features, whose rows of products sum to 0."""
    size_x, size_y = jnp.sum(jnp.square(x), axis=1), jnp.sum(jnp.square(y), axis=1)
    both = jnp.sum(weights * size_x * size_y)
    pairs = jnp.sum(jnp.square(_product((weights[:, None] * x).T, y))) - both
    return _unbiased_sum(pairs, both, jnp.sum(weights * size_x), jnp.sum(weights * size_y), jnp.sum(weights))


def _dependence(
    x: jax.Array,
    y: jax.Array,
    weights: jax.Array,
    bandwidth: jax.Array,
    kernel: str,
    relative: bool,
    unbiased: bool,
    normalised: bool,
) -> jax.Array:
    """HSIC of one set, or CKA."""
    total = jnp.sum(weights)
    shares = divide(weights, total)
    if kernel == "linear":
        x, y = _centred_points(x, shares), _centred_points(y, shares)
        x, y = (jnp.where((weights == 0)[:, None], 0, a) for a in (x, y))
        if normalised:  # the scale does not matter, but its fourth power might overflow
            x, y = (divide(a, lax.stop_gradient(jnp.max(jnp.abs(a)))) for a in (x, y))
    if kernel == "linear" and x.shape[1] * y.shape[1] <= x.shape[0] ** 2:
        f = _unbiased_linear if unbiased else _biased_linear
    else:
        f = _unbiased if unbiased else _biased
        x, y = (_gram(kernel, a, weights, bandwidth, relative) for a in (x, y))
    by = weights if unbiased else shares
    value = f(x, y, by)
    if normalised:
        return divide(value, sqrt(positive_part(f(x, x, by))) * sqrt(positive_part(f(y, y, by))))
    many = total > 1.0
    return value if unbiased else value * jnp.where(many, jnp.square(total / jnp.where(many, total - 1.0, 1.0)), 0.0)


def _values(where: Any, predictions: Any, targets: Any, weights: Any, bandwidth: Any, **static: Any) -> Any:
    """HSIC or CKA of each set, and which sets keep anything."""
    _check.choice(("linear", "rbf"), kernel=static["kernel"])
    _check.positive(bandwidth=bandwidth)
    predictions, targets, kept = _sets(where, predictions, targets, weights)
    _, bandwidth = masked(None, predictions, bandwidth)
    if 0 in predictions.shape[-2:] or not targets.shape[-1]:
        return jnp.sum(kept, axis=-1), jnp.zeros(kept.shape[:-1], bool)

    def unit(x, y, weights):
        return _dependence(x, y, weights, bandwidth, **static)

    return over_sets(unit, kept.ndim - 1)(predictions, targets, kept), jnp.sum(kept, axis=-1) > 0


def hsic(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    kernel: Kernel = "rbf",
    bandwidth: ArrayLike = 1.0,
    relative: bool = True,
    unbiased: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Hilbert-Schmidt independence criterion: how much features and something else depend on each other.

    .. math:: \frac{1}{(n - 1)^2} \mathrm{tr}(K H L H), \qquad H = I - \tfrac 1n 1 1^\top

    0 for independent variables if the kernel is Gaussian, and so a penalty for what features must not tell, such as a
    protected attribute; the linear kernel sees correlation only, by d e products instead of n^2. Its size depends on
    the kernels: `cka` does not. Bandwidths are multiples of the median distance, or, with `relative=False`, distances.

    Args:
      predictions: Features, float `[..., n, d]`.
      targets: What they are compared with, real `[..., n, e]`.
      kernel: `"linear"`, or `"rbf"`, the Gaussian exp(-distance^2 / 2 sigma^2).
      bandwidth: Bandwidth sigma of the Gaussian for both, positive.
      relative: Whether it is in units of each one's median distance, through which there is no gradient.
      unbiased: Whether pairs of an element with itself are left out, which may make the result negative.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative unless `unbiased`, 0 for one element (three, if
      `unbiased`).

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes do not fit, `kernel` is unknown or `bandwidth` not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[0.0], [2.0], [4.0]]), jnp.array([[1.0], [1.0], [4.0]])
      >>> hsic(x, y, kernel="linear").item()  # their covariance 3, squared
      9.0

    Reference:
      Gretton et al., *Measuring statistical dependence with Hilbert-Schmidt norms*, 2005; Song et al., *Feature
      selection via dependence maximization*, 2012 (unbiased).
    """
    static = {"kernel": kernel, "relative": relative, "unbiased": unbiased, "normalised": False}
    values, kept = _values(where, predictions, targets, weights, bandwidth, **static)
    return reduce(values, kept, None, reduction)


def cka(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    kernel: Kernel = "linear",
    bandwidth: ArrayLike = 1.0,
    relative: bool = True,
    unbiased: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One less the centred kernel alignment of two representations of the same examples.

    .. math:: 1 - \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}}

    For distilling features into a network of another width: neither rotations nor the scale of either matter. With few
    examples and many features it is near 0 for anything; then take `unbiased`. The similarity itself is 1 less this.
    Features that do not vary are similar to nothing.

    Args:
      predictions: Features, float `[..., n, d]`.
      targets: Features to be like, real `[..., n, e]`.
      kernel: `"linear"`, or `"rbf"`, the Gaussian exp(-distance^2 / 2 sigma^2).
      bandwidth: Bandwidth sigma of the Gaussian for both, positive.
      relative: Whether it is in units of each one's median distance, through which there is no gradient.
      unbiased: Whether pairs of an element with itself are left out, which takes away the bias of few examples.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1] unless `unbiased`.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes do not fit, `kernel` is unknown or `bandwidth` not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[0.0], [2.0], [4.0]]), jnp.array([[1.0], [1.0], [4.0]])
      >>> round(cka(x, y).item(), 4)  # 1 - 3^2 / (4 * 3), the squared correlation
      0.25

    Reference:
      Kornblith et al., *Similarity of neural network representations revisited*, 2019; Davari et al., *Reliability of
      CKA as a similarity measure in deep learning*, 2023.
    """
    static = {"kernel": kernel, "relative": relative, "unbiased": unbiased, "normalised": True}
    values, kept = _values(where, predictions, targets, weights, bandwidth, **static)
    return reduce(1.0 - values if unbiased else positive_part(1.0 - values), kept, None, reduction)
