"""Embeddings that should fill the sphere instead of collapsing: one unit per batch, whose elements repel each other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._devices import largest, total
from lossax._numerics import divide, log_partition, positive_part
from lossax._pairs import length
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import by_rows, gathered, over_sets, places, taken, whole
from lossax._types import Reduction


def _points(where: Any, embeddings: Any, weights: Any) -> tuple[jax.Array, jax.Array]:
    """Check and mask: points `[..., n, d]`, 0 where nothing is kept, and weights `[..., n]`."""
    _check.floating(embeddings=embeddings)
    _check.units_of({"embeddings": embeddings}, axes=2)
    (embeddings,) = masked(where, embeddings, event=1)
    kept = unit_weights(embeddings.shape[:-1], where, weights, dtype=embeddings.dtype)
    return jnp.where((kept == 0)[..., None], 0.0, embeddings), kept


def _of_each_set(f: Callable[..., jax.Array], points: jax.Array, kept: jax.Array) -> jax.Array:
    """`f` of each set, 0 for sets without anything."""
    return over_sets(f, kept.ndim - 1)(points, kept) if points.size else jnp.zeros(kept.shape[:-1], points.dtype)


def uniformity(
    embeddings: jax.Array,
    *,
    t: ArrayLike = 2.0,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Logarithm of the mean Gaussian potential of all pairs: the lower, the more evenly points lie on the sphere.

    .. math:: \log \frac{\sum_{i \ne j} w_i w_j\, e^{-t \lVert x_i - x_j \rVert^2}}{\sum_{i \ne j} w_i w_j}

    With `alignment` a contrastive loss in two parts that can be weighed, and a measure of a representation that was
    trained in another way. Embeddings are of length 1, from `activations.unit_vectors`; distances come from inner
    products, hence with the digits that those leave. Even points on a sphere of many dimensions reach -2 t. A
    weight is that of an element, not its repetition, which would lie at distance 0 from itself.

    Args:
      embeddings: Points of length 1, float `[..., n, d]`.
      t: Sharpness of the potential, positive.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all repel all.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; zero or negative, 0 for one element alone.

    Raises:
      TypeError: if `embeddings` are not floating point.
      ValueError: if `embeddings` have less than two axes or `t` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> uniformity(jnp.array([[1.0, 0.0], [-1.0, 0.0]])).item()  # one pair: -2 * 2^2
      -8.0

    Reference:
      Wang and Isola, *Understanding contrastive representation learning through alignment and uniformity on the
      hypersphere*, 2020.
    """
    _check.positive(t=t)
    embeddings, kept = _points(where, embeddings, weights)
    _, t = masked(None, embeddings, t)

    def of_set(x, w):
        some, weight = w > 0, total(jnp.sum(w), axis_name)
        mean = divide(total(jnp.sum(w[:, None] * x, axis=0), axis_name), weight)
        x = jnp.where(
            some[:, None], x - lax.stop_gradient(mean)[None], 0.0
        )  # which leaves more digits to the distances
        log_w = jnp.where(some, jnp.log(jnp.where(some, w, 1.0)), -jnp.inf)
        squares = jnp.sum(jnp.square(x), axis=-1)

        def block(rows, shared):
            (x, squares, place), (y, others, log_weights, index, t) = rows, shared
            products = jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
            apart = positive_part(squares[:, None] + others[None, :] - 2.0 * products)
            itself = place[:, None] == index[None, :]
            return log_partition(jnp.where(itself, -jnp.inf, log_weights[None, :] - t * apart)), ()

        index = places(len(w), axis_name)
        everyone = (*(gathered(y, axis_name) for y in (x, squares, log_w, index)), t)
        (top, rest), _ = by_rows(block, (x, squares, index), everyone, width=3 * everyone[1].size, tile=tile)
        each = jnp.where(some & ~jnp.isneginf(rest), log_w + top + rest, -jnp.inf)
        top = largest(jnp.max(each), axis_name)
        top = jnp.where(jnp.isneginf(top), 0.0, top)
        mass, pairs, number = (total(jnp.sum(y), axis_name) for y in (jnp.exp(each - top), w * (weight - w), some))
        several = number > 1
        value = top + jnp.log(jnp.where(several, mass, 1.0)) - jnp.log(jnp.where(several, pairs, 1.0))
        return jnp.where(several, jnp.minimum(value, 0.0), 0.0)

    values = _of_each_set(of_set, embeddings, kept)
    return reduce(values, total(jnp.sum(kept, axis=-1), axis_name) > 0, None, reduction)


def koleo(
    embeddings: jax.Array,
    *,
    epsilon: ArrayLike = 1e-8,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Minus the log distance to the nearest other point: an estimate of the entropy, that keeps points apart.

    .. math:: -\frac{1}{\sum_i w_i} \sum_i w_i \log\big(\min_{j \ne i} \lVert x_i - x_j \rVert + \epsilon\big)

    An addition of weight 0.1 to DINO in DINOv2, on embeddings of length 1 from `activations.unit_vectors`. It acts on
    nearest neighbours alone: each pushes the one that is nearest to it. Equal points have the value of epsilon
    and, since no direction leads away, no gradient. Neighbours are found by differences, in blocks, without a
    gradient; the distance is then that of n pairs. A weight is that of an element's term, not its repetition; one of 0
    is nobody's neighbour.

    Args:
      embeddings: Points, as a rule of length 1, float `[..., n, d]`.
      epsilon: What is added to distances, nonnegative; with 0 equal points have an infinite loss.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all repel all.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; 0 for one element alone.

    Raises:
      TypeError: if `embeddings` are not floating point.
      ValueError: if `embeddings` have less than two axes or `epsilon` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[0.0, 0.0], [0.0, 0.5], [0.0, 4.5]])  # distances 1/2, 1/2 and 4
      >>> round(koleo(x).item(), 4)  # (log 2 + log 2 - log 4) / 3
      0.0

    Reference:
      Sablayrolles et al., *Spreading vectors for similarity search*, 2019; Oquab et al., *DINOv2: learning robust
      visual features without supervision*, 2023.
    """
    _check.nonnegative(epsilon=epsilon)
    embeddings, kept = _points(where, embeddings, weights)
    _, epsilon = masked(None, embeddings, epsilon)

    def of_set(x, w):
        some = w > 0

        def block(rows, shared):
            (x, place), (y, some, index) = rows, shared
            squares = jnp.sum(jnp.square(x[:, None, :] - y[None, :, :]), axis=-1)
            other = some[None, :] & (place[:, None] != index[None, :])
            return jnp.argmin(jnp.where(other, squares, jnp.inf), axis=-1), ()

        fixed = divide(lax.stop_gradient(x), largest(jnp.max(jnp.abs(x)), axis_name))
        index = places(len(w), axis_name)
        everyone = tuple(gathered(y, axis_name) for y in (fixed, some, index))
        nearest, _ = by_rows(block, (fixed, index), everyone, width=everyone[0].size, tile=tile)
        apart = length(x - taken(whole(gathered(x, axis_name)), nearest)) + epsilon
        counted = some & (total(jnp.sum(some), axis_name) > 1)
        terms = jnp.where(counted, -jnp.log(jnp.where(counted, apart, 1.0)), 0.0)
        return total(jnp.sum(divide(w, total(jnp.sum(w), axis_name)) * terms), axis_name)

    values = _of_each_set(of_set, embeddings, kept)
    return reduce(values, total(jnp.sum(kept, axis=-1), axis_name) > 0, None, reduction)
