"""Pairs of points: distances with all their digits, and sums over all pairs that never hold `[n, m, d]`."""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from lossax._numerics import divide, over_largest, sqrt, with_slopes
from lossax._tile import by_rows, spread_like, whole


@jax.custom_jvp
def length(vectors: jax.Array) -> jax.Array:
    """Euclidean norm over the last axis, where the squares would overflow or vanish too; its derivative at 0 is 0."""
    scaled, size = over_largest(vectors)
    squares = jnp.sum(jnp.square(scaled), axis=-1)
    return size[..., 0] * sqrt(squares)


@length.defjvp
def _(primals, tangents):
    norm = length(primals[0])
    return norm, jnp.sum(divide(primals[0], norm[..., None]) * tangents[0], axis=-1)


_STEP = 16
"""Coordinates or points in one step of a loop over them: XLA on CPU makes one pass over the matrix for all of them."""


def _steps(x: jax.Array) -> jax.Array:
    """Rows `[n, d]` as `[steps, step, d]`, with rows of zeros behind."""
    step = max(min(_STEP, len(x)), 1)
    steps = -(-len(x) // step)
    return jnp.pad(x, [(0, steps * step - len(x)), (0, 0)]).reshape(steps, step, x.shape[1])


@jax.custom_jvp
def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """Of each of `[n, d]` to each of `[m, d]`: `[n, m]`, by differences, since products lose what is near.

    Neither it nor its gradient holds more than a few matrices. It takes about four times a matrix product on a CPU.
    """

    def add(total, coordinates):
        for u, v in zip(*coordinates, strict=True):
            total = total + jnp.square(u[:, None] - v[None, :])
        return total, None

    # Made from both, so that its type says how it lies on devices.
    start = 0.0 * (jnp.sum(x[:, :1], axis=1)[:, None] - jnp.sum(y[:, :1], axis=1)[None, :])
    return lax.scan(add, start, (_steps(x.T), _steps(y.T)))[0]


def _along(x: jax.Array, y: jax.Array, dx: jax.Array) -> jax.Array:
    """Products (x_i - y_j) dx_i as `[m, n]`, of a few y at a time: so is its transpose, sums of differences by j."""

    @partial(jax.checkpoint, prevent_cse=False)
    def products(x, dx, some):
        return jnp.stack([jnp.sum((x - v[None, :]) * dx, axis=-1) for v in some])

    _, found = lax.scan(lambda _, some: (None, products(x, dx, some)), None, _steps(whole(y)))
    return found.reshape(-1, len(x))[: len(y)]


@squared_distances.defjvp
def _(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    by_x = _along(x, y, dx).T
    return squared_distances(x, y), 2.0 * (by_x + spread_like(_along(y, x, dy), by_x))


def each_pair(f: Callable[[jax.Array], jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """`f` of the difference `[..., d]` of each pair, `[n, m]`, of points `[n, d]` and `[m, d]`."""
    return by_rows(lambda rows, y: (f(rows[:, None, :] - y[None, :, :]), ()), x, y, width=y.size)[0]


def mean_of_pairs(
    f: Callable[[jax.Array], jax.Array], x: jax.Array, y: jax.Array, of_x: jax.Array, of_y: jax.Array
) -> jax.Array:
    """Sum of `f` of the difference of each pair, by the weights of both, of points `[n, d]` and `[m, d]`."""

    def block(rows, columns):
        (points, of_points), (y, of_y) = rows, columns
        values = f(points[:, None, :] - y[None, :, :])
        return of_points * jnp.sum(values * of_y[None, :], axis=-1), ()

    return jnp.sum(by_rows(block, (x, of_x), (y, of_y), width=y.size)[0])


def median_distance(points: jax.Array, weights: jax.Array) -> jax.Array:
    """The lower median of the distances between different points `[n, d]`, 1 if that is 0; no derivative.

    A weight of w stands for w points at one place.
    """
    points, weights = lax.stop_gradient((points, weights))
    distances = each_pair(length, points, points)
    same = jnp.eye(len(weights), dtype=bool)
    others = jnp.where(same, jnp.maximum(weights[None, :] - 1.0, 0.0), jnp.broadcast_to(weights[None, :], same.shape))
    ordered, counts = lax.sort((distances.ravel(), (weights[:, None] * others).ravel()), num_keys=1)
    below = jnp.cumsum(counts)
    at = jnp.argmax((below >= 0.5 * below[-1]) & (counts > 0))
    median = ordered[at]
    return jnp.where((median > 0) & (below[-1] > 0), median, 1)


@with_slopes(lambda u: (jnp.exp(-u),))
def _gaussian(u: jax.Array) -> jax.Array:
    return -jnp.expm1(-u)


@with_slopes(lambda u: (jnp.square(1.0 / (1.0 + u)),))
def _inverse_multiquadric(u: jax.Array) -> jax.Array:
    return jnp.where(u < 1.0, u / (1.0 + jnp.minimum(u, 1.0)), 1.0 - 1.0 / (1.0 + u))


KERNELS = ("rbf", "imq", "laplacian")


def kernel_gap(kernel: str, bandwidths: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """1 - k of a difference `[..., d]`, exact where k is close to 1: mean over the bandwidths, `[]` or `[k]`."""

    def gap(difference, bandwidth):
        v = difference / bandwidth
        if kernel == "laplacian":
            return _gaussian(length(v))
        u = 0.5 * jnp.sum(v * v, axis=-1)
        return _gaussian(u) if kernel == "rbf" else _inverse_multiquadric(u)

    def mean(difference):
        each = [gap(difference, bandwidth) for bandwidth in bandwidths.ravel()]
        return reduce(jnp.add, each) / float(len(each))

    return mean
