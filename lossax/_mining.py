"""Which pairs of a labelled batch a loss is made of: miners as weights of static shape, one block of rows at a time."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossax._coupled import Elements, alike, elements, everyone
from lossax._pairs import squared_distances
from lossax._tile import by_rows, numbered

Mining = Literal["all", "hard", "easy_positive", "multi_similarity", "distance_weighted"]
One = Literal["hard", "easy_positive", "easy_positive_semihard"]
"""One triplet for each anchor."""

_NEAR, _FAR = 0.5, 1.4  # of distance-weighted mining
_SLACK = 0.1  # of multi-similarity mining


def _only(chosen: jax.Array, among: jax.Array) -> jax.Array:
    """Which entry of each row is the chosen one, if there is any."""
    return among & (numbered(among) == chosen[:, None])


def farthest(distances: jax.Array, among: jax.Array) -> jax.Array:
    """Which of a row it is, the first if there are several."""
    return jnp.argmax(jnp.where(among, distances, -jnp.inf), axis=-1).astype(jnp.int32)


def nearest(distances: jax.Array, among: jax.Array) -> jax.Array:
    """Which of a row it is, the first if there are several."""
    return jnp.argmin(jnp.where(among, distances, jnp.inf), axis=-1).astype(jnp.int32)


def _rarity(distances: jax.Array, others: jax.Array, dimensions: int) -> jax.Array:
    """Weights of sum 1 by which random points of the sphere would be at all distances alike."""
    d = jnp.clip(distances, _NEAR, _FAR)
    there = others & (distances < _FAR)
    log = -(dimensions - 2.0) * jnp.log(d) - 0.5 * (dimensions - 3.0) * jnp.log1p(-0.25 * d * d)
    top = jnp.max(jnp.where(there, log, -jnp.inf), axis=-1, keepdims=True, initial=float(jnp.finfo(log.dtype).min))
    mass = jnp.where(there, jnp.exp(log - top), 0)
    total = jnp.sum(mass, axis=-1, keepdims=True)
    return mass / jnp.where(total > 0, total, 1)


def weights_of_pairs(
    mining: str, distances: jax.Array, same: jax.Array, others: jax.Array, dimensions: int
) -> tuple[jax.Array, jax.Array]:
    """The weight of each pair of a block of rows as one of a label, and as one of two; without derivative."""
    distances = lax.stop_gradient(distances)
    if mining == "hard":
        same, others = _only(farthest(distances, same), same), _only(nearest(distances, others), others)
    elif mining == "easy_positive":
        same, others = _only(nearest(distances, same), same), _only(nearest(distances, others), others)
    elif mining == "multi_similarity":
        far = jnp.max(jnp.where(same, distances, -jnp.inf), axis=-1, keepdims=True)
        near = jnp.min(jnp.where(others, distances, jnp.inf), axis=-1, keepdims=True)
        same, others = same & (distances > near - _SLACK), others & (distances < far + _SLACK)
    if mining == "distance_weighted":
        weights = same.astype(distances.dtype)
        return weights, jnp.sum(weights, axis=-1, keepdims=True) * _rarity(distances, others, dimensions)
    return same.astype(distances.dtype), others.astype(distances.dtype)


def one_of_each(
    mining: str, embeddings: jax.Array, labels: jax.Array, kept: jax.Array, axis_name: str | None, tile: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The positive and the negative of each element of `[n, d]`, counted over all devices, and whether it has both."""

    def block(rows: Elements, columns: Elements) -> Any:
        squares = squared_distances(rows.embeddings, columns.embeddings)
        same, others = alike(rows, columns)
        positive = (farthest if mining == "hard" else nearest)(squares, same)
        if mining == "easy_positive_semihard":
            own = jnp.take_along_axis(squares, positive[:, None], axis=-1, mode="clip")
            others = others & (squares > own)
        return (positive, nearest(squares, others), jnp.any(same, axis=-1) & jnp.any(others, axis=-1)), ()

    if not kept.shape[0]:
        nobody = jnp.zeros((0,), jnp.int32)
        return nobody, nobody, nobody > 0
    rows = elements(lax.stop_gradient(embeddings), kept, axis_name, labels)
    return by_rows(block, rows, everyone(rows, axis_name), width=kept.shape[0], tile=tile)[0]
