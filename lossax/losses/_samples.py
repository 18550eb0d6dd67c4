"""Distances between distributions that are known by samples: one unit per pair of samples."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import divide, positive_part
from lossax._pairs import KERNELS, kernel_gap, length, mean_of_pairs, median_distance
from lossax._reduction import masked, reduce, unit_weights
from lossax._sampled import in_order, of_something, samples, wasserstein, weighted
from lossax._tile import over_sets
from lossax._types import Reduction


def _cast(directions: jax.Array, points: jax.Array, **weights: Any) -> tuple[jax.Array, jax.Array | None]:
    """Points `[..., n, d]` as numbers `[..., k, n]`, and their weights `[..., 1, n]`; those of weight 0 stay behind."""
    (given,) = weights.values()
    if given is not None:
        _check.real(**weights)
        _check.broadcasts_to(points.shape[:-1], **weights)
        given = unit_weights(points.shape[:-1], None, given, dtype=points.dtype)
        points = jnp.where((given == 0)[..., None], 0, points)
        given = jnp.expand_dims(given, -2)
    return jnp.einsum("kd,...nd->...kn", directions, points, precision=lax.Precision.HIGHEST), given


def sliced_wasserstein(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    directions: ArrayLike,
    p: ArrayLike = 2.0,
    prediction_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Mean over directions of the Wasserstein distance, to the power p, between what two samples cast on them.

    .. math:: \frac 1k \sum_i W_p^p\big(\langle \theta_i, x \rangle,\ \langle \theta_i, y \rangle\big)

    Optimal transport between points of any dimension at the price of k sorts, in place of the O(n m) of
    `sinkhorn_divergence`. Directions are drawn by the caller, anew for every step of training, and brought to length 1
    here. POT's `sliced_wasserstein_distance` is the root of order p of this.

    Args:
      predictions: Sample of the estimate, float `[..., n, d]`, in any order.
      targets: Sample of the truth, real `[..., m, d]`, in any order.
      directions: Directions of any length, real `[k, d]`.
      p: Power of the distance, 1 or more.
      prediction_weights: Weight of each prediction, float `[..., n]`; one of weight 0 does not exist, be it NaN.
      target_weights: Weight of each target, float `[..., m]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, 0 for samples without weight.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes do not fit, a sample is empty, `p` is under 1 or a known weight is negative.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x, y = jnp.zeros((1, 2)), jnp.array([[3.0, 5.0]])
      >>> sliced_wasserstein(x, y, directions=jnp.eye(2)).item()  # (3^2 + 5^2) / 2
      17.0
      >>> directions = jax.random.normal(jax.random.key(0), (64, 2))
      >>> estimate = sliced_wasserstein(x, y, directions=directions)

    Reference:
      Rabin et al., *Wasserstein barycenter and its application to texture mixing*, 2012; Bonneel et al., *Sliced and
      Radon Wasserstein barycenters of measures*, 2015.
    """
    _check.at_least(1.0, p=p)
    _check.real(directions=directions)
    predictions, targets = samples(where, predictions, targets, 2)
    shape, d = _check.spec(directions)[0], predictions.shape[-1]
    if len(shape) != 2 or shape[1] != d or not shape[0]:
        raise ValueError(f"directions must be [k, {d}], got {list(shape)}")
    directions = jnp.asarray(directions).astype(predictions.dtype)
    directions = divide(directions, length(directions)[:, None])
    _, p = masked(None, predictions, p)
    x, of_x = _cast(directions, predictions, prediction_weights=prediction_weights)
    y, of_y = _cast(directions, targets, target_weights=target_weights)
    over = None if where is None else jnp.expand_dims(jnp.asarray(where), -1)
    values = wasserstein(over, x, y, of_x, of_y, p)
    return reduce(jnp.mean(values, axis=-1), where, weights, reduction)


@jax.custom_jvp
def _spread(z: jax.Array, s: jax.Array, total: jax.Array) -> jax.Array:
    r"""Sum of s_i s_j |z_i - z_j| for points `[n]`, as 2 \int H (total - H) with H the sum of s up to a point.

    `total` is that of s: 1, or a 0 that rounding does not disturb. Halves, because gaps may overflow.
    """
    ordered, steps = lax.sort((0.5 * z, s), num_keys=1)
    heights = jnp.cumsum(steps)[:-1]
    return 4.0 * jnp.sum(jnp.diff(ordered) * (heights * (total - heights)))


@_spread.defjvp
def _(primals, tangents):
    (z, s, total), (dz, ds, _) = primals, tangents
    n = z.shape[0]
    place = jnp.arange(n, dtype=jnp.int32) + jnp.zeros_like(z, jnp.int32)
    ordered, steps, origin = in_order(z, s, place)
    heights = jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps)])
    # Half way between the two sides where points tie.
    edge, changes = jnp.ones((1,), bool) | (place[:1] < 0), ordered[1:] != ordered[:-1]
    first = lax.cummax(jnp.where(jnp.concatenate([edge, changes]), place, 0))
    last = lax.cummin(jnp.where(jnp.concatenate([changes, edge]), place, n - 1), reverse=True)
    slopes = 2.0 * steps * (heights[first] + heights[last + 1] - total)
    # By a weight: twice the distance to all others, which is linear between points.
    ahead = jnp.diff(ordered, prepend=ordered[:1]) * (2.0 * heights[:-1] - total)
    by_s = 2.0 * (jnp.sum(steps * (ordered - ordered[0])) + jnp.cumsum(ahead))
    dz, ds = dz[origin], ds[origin]
    return _spread(*primals), jnp.sum(slopes * dz) + jnp.sum(by_s * ds)


def _all_but_itself(size: jax.Array) -> jax.Array:
    """n / (n - 1), which makes a mean over all pairs one over pairs of different points; 0 for less than two."""
    many = size > 1.0
    return jnp.where(many, size / jnp.where(many, size - 1.0, 1.0), 0.0)


def _two_samples(
    f: Callable[..., jax.Array],
    x: jax.Array,
    y: jax.Array,
    of_x: jax.Array,
    of_y: jax.Array,
    sizes: tuple[jax.Array, jax.Array],
    unbiased: bool,
) -> jax.Array:
    """2 E f(x, y) - E f(x, x') - E f(y, y') of points `[n, d]` and `[m, d]`, for f with f(x, x) = 0."""
    own, other = mean_of_pairs(f, x, x, of_x, of_x), mean_of_pairs(f, y, y, of_y, of_y)
    if unbiased:
        own, other = own * _all_but_itself(sizes[0]), other * _all_but_itself(sizes[1])
    value = 2.0 * mean_of_pairs(f, x, y, of_x, of_y) - own - other
    return value if unbiased else positive_part(value)


def _energy_of_numbers(x, y, of_x, of_y, sizes, unbiased):
    """The same for f = |x - y| and points `[n]` and `[m]`, without a cancellation of means."""
    zero, one = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    value = -_spread(jnp.concatenate([x, y]), jnp.concatenate([of_x, -of_y]), zero)
    if not unbiased:
        return value
    for points, weights, size in ((x, of_x, sizes[0]), (y, of_y, sizes[1])):
        value = value - (_all_but_itself(size) - 1.0) * _spread(points, weights, one)
    return value


def energy_distance(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    unbiased: bool = False,
    prediction_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Energy distance, squared: how much further points of two samples are from each other than from their own.

    .. math:: 2\,\mathrm E \|x - y\| - \mathrm E \|x - x'\| - \mathrm E \|y - y'\|

    A two-sample distance without a bandwidth to choose, 0 only between equal distributions; for one target per sample
    it is the CRPS, doubled, and a constant. Numbers (d = 1) are sorted, in O((n + m) log(n + m)) and with all digits
    where samples are close; vectors take O(n m d), in blocks that are never held together. SciPy's `energy_distance`
    is the root of this.

    Args:
      predictions: Sample of the estimate, float `[..., n, d]`, in any order.
      targets: Sample of the truth, real `[..., m, d]`, in any order.
      unbiased: Whether a point's distance to itself is left out of the means, which may make the result negative.
      prediction_weights: Weight of each prediction, float `[..., n]`; one of weight 0 does not exist, be it NaN.
      target_weights: Weight of each target, float `[..., m]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative unless `unbiased`, 0 for samples without weight.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes do not fit, a sample is empty or a known weight is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[3.0], [5.0]])
      >>> energy_distance(x, y).item(), energy_distance(x, y, unbiased=True).item()  # 6 - 1 - 1, 6 - 2 - 2
      (4.0, 2.0)

    Reference:
      Székely and Rizzo, *Energy statistics: a class of statistics based on distances*, 2013.
    """
    predictions, targets = samples(where, predictions, targets, 2)
    x, of_x, total = weighted(where, predictions, 2, prediction_weights=prediction_weights)
    y, of_y, other = weighted(where, targets, 2, target_weights=target_weights)

    def unit(x, y, of_x, of_y, *sizes):
        if x.shape[-1] == 1:
            return _energy_of_numbers(x[:, 0], y[:, 0], of_x, of_y, sizes, unbiased)
        return 2.0 * _two_samples(length, 0.5 * x, 0.5 * y, of_x, of_y, sizes, unbiased)

    values = over_sets(unit, x.ndim - 2)(x, y, of_x, of_y, total, other)
    return reduce(of_something(values, total, other), where, weights, reduction)


def mmd(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    kernel: Literal["rbf", "imq", "laplacian"] = "rbf",
    bandwidths: ArrayLike = 1.0,
    relative: bool = True,
    unbiased: bool = False,
    prediction_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Maximum mean discrepancy, squared: the distance between two samples' means in the space of a kernel.

    .. math:: \mathrm E\,k(x, x') + \mathrm E\,k(y, y') - 2\,\mathrm E\,k(x, y)

    For domain adaptation, generative models and tests. Kernels are :math:`e^{-u}` (`"rbf"`) and :math:`1 / (1 + u)`
    (`"imq"`, with heavy tails), :math:`u = \|x - y\|^2 / 2\sigma^2`, and :math:`e^{-\|x - y\| / \sigma}`
    (`"laplacian"`), in the mean over all bandwidths. These are multiples of the median distance of the pooled points,
    without a gradient through it, or, with `relative=False`, distances: the median takes memory for all (n + m)^2
    distances, the rest O(n m d) time in blocks. Mixtures in use, such as `bandwidths=[0.25, 0.5, 1.0, 2.0, 4.0]`, often
    sum the kernels: multiply by their number. The kernel of Wasserstein autoencoders, C / (C + squared distance) with
    C = 2 d, is `"imq"` with the root of d as a bandwidth that is not relative.

    Args:
      predictions: Sample of the estimate, float `[..., n, d]`, in any order.
      targets: Sample of the truth, real `[..., m, d]`, in any order.
      kernel: `"rbf"`, `"imq"` or `"laplacian"`.
      bandwidths: Bandwidths sigma, positive, a number or `[k]`, of which the kernel is the mean.
      relative: Whether bandwidths are in units of the median distance (the lower of two) between pooled points.
      unbiased: Whether pairs of a point with itself are left out of the means, which may make the result negative.
      prediction_weights: Weight of each prediction, float `[..., n]`; one of weight 0 does not exist, be it NaN.
      target_weights: Weight of each target, float `[..., m]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 2] unless `unbiased`, 0 for samples without weight.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes do not fit, a sample is empty, `kernel` is unknown, a bandwidth is not positive or a known
        weight is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[0.0]]), jnp.array([[2.0]])
      >>> mmd(x, y, kernel="imq", bandwidths=1.0, relative=False).item()  # 2 - 2 / (1 + 2^2 / 2)
      1.3333332538604736

    Reference:
      Gretton et al., *A kernel two-sample test*, 2012; Li, Swersky and Zemel, *Generative moment matching networks*,
      2015; Tolstikhin et al., *Wasserstein auto-encoders*, 2018.
    """
    _check.choice(KERNELS, kernel=kernel)
    _check.positive(bandwidths=bandwidths)
    if len(_check.spec(bandwidths)[0]) > 1 or not math.prod(_check.spec(bandwidths)[0]):
        raise ValueError(f"bandwidths must be a number or [k], got {list(_check.spec(bandwidths)[0])}")
    predictions, targets = samples(where, predictions, targets, 2)
    bandwidths = jnp.asarray(bandwidths).astype(predictions.dtype)
    x, of_x, total = weighted(where, predictions, 2, prediction_weights=prediction_weights)
    y, of_y, other = weighted(where, targets, 2, target_weights=target_weights)

    def unit(x, y, of_x, of_y, *sizes):
        scale = bandwidths
        if relative:
            pooled = jnp.concatenate([of_x * sizes[0], of_y * sizes[1]])
            scale = bandwidths * median_distance(jnp.concatenate([x, y]), pooled)
        return _two_samples(kernel_gap(kernel, scale), x, y, of_x, of_y, sizes, unbiased)

    values = over_sets(unit, x.ndim - 2)(x, y, of_x, of_y, total, other)
    return reduce(of_something(values, total, other), where, weights, reduction)


def _covariance(points: jax.Array, weights: jax.Array, size: jax.Array) -> jax.Array:
    """That of points `[..., n, d]`, with n - 1 as denominator; 0 for less than two."""
    centred = points - jnp.sum(weights[..., None] * points, axis=-2, keepdims=True)
    weighted = weights[..., None] * centred
    spread = jnp.einsum("...ni,...nj->...ij", weighted, centred, precision=lax.Precision.HIGHEST)
    return spread * _all_but_itself(size)[..., None, None]


def correlation_alignment(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    prediction_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared difference between the covariances of two samples: deep CORAL, for features of two domains.

    .. math:: \frac{1}{4 d^2} \left\|C_x - C_y\right\|_F^2

    The cheapest alignment of domains: it sees second moments only, not even the means, where `mmd` and
    `energy_distance` see all. Covariances have n - 1 as denominator.

    Args:
      predictions: Features of one domain, float `[..., n, d]`.
      targets: Features of the other, real `[..., m, d]`.
      prediction_weights: Weight of each prediction, float `[..., n]`; one of weight 0 does not exist, be it NaN.
      target_weights: Weight of each target, float `[..., m]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, 0 for samples without weight.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes do not fit, a sample is empty or a known weight is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[0.0], [4.0]])
      >>> correlation_alignment(x, y).item()  # (2 - 8)^2 / 4
      9.0

    Reference:
      Sun and Saenko, *Deep CORAL: correlation alignment for deep domain adaptation*, 2016.
    """
    predictions, targets = samples(where, predictions, targets, 2)
    x, of_x, total = weighted(where, predictions, 2, prediction_weights=prediction_weights)
    y, of_y, other = weighted(where, targets, 2, target_weights=target_weights)
    gap = (_covariance(x, of_x, total) - _covariance(y, of_y, other)) / (2.0 * x.shape[-1])
    values = jnp.sum(jnp.square(gap), axis=(-2, -1))
    return reduce(of_something(values, total, other), where, weights, reduction)
