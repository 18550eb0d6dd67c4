"""Triplets of a labelled batch, all or mined ones. One unit per element, as the anchor of its triplets.

Distances are made a block of rows at a time: memory is that of a few blocks, whatever the batch.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _coupled, _double, _excess, _mining
from lossax._numerics import divide, positive_part, sqrt
from lossax._pairs import length
from lossax._reduction import reduce
from lossax._tile import by_rows, gathered, numbered, over_sets, taken, whole
from lossax._types import Reduction

Mining = Literal[
    "hard", "all", "semihard", "easy_positive", "easy_positive_semihard", "multi_similarity", "distance_weighted"
]


def _sum_of_hinges(distances, positive, negative, margin):
    """Sum over the pairs of a positive and a negative of a row of (d_p - d_n + margin)_+, and the weight of those > 0.

    From one sort: no triplet is ever looked at.
    """
    ahead, lost = _double.add(distances, jnp.broadcast_to(margin, distances.shape))
    first = positive > 0
    high, low = jnp.where(first, ahead, distances), jnp.where(first, lost, 0)
    index = numbered(high)
    keys = (*lax.stop_gradient((high, low)), (~first).astype(jnp.int32))
    *_, order = lax.sort((*keys, index), dimension=-1, num_keys=3)
    placed = (-high, -lax.stop_gradient(low), positive, negative)
    high, low, positive, negative = (jnp.take_along_axis(x, order, axis=-1) for x in placed)
    active = jnp.sum(positive * jnp.cumsum(negative, axis=-1), axis=-1)
    return _excess.excess(index == 0, high, low, positive, negative, 1), active


def _sum_of_softplus(distances, positive, negative, margin):
    """The same with softplus, of which every triplet is looked at."""

    def block(rows, shared):
        (d, w), (others, negative, margin) = rows, shared
        values = jax.nn.softplus(d[:, :, None] - others[None] + margin)
        return (), jnp.sum(w[:, :, None] * negative[None] * values, axis=(0, 2))

    shared = (distances, negative, margin)
    total = by_rows(block, (distances.T, positive.T), shared, width=16 * distances.size)[1]
    return total, jnp.sum(positive, axis=-1) * jnp.sum(negative, axis=-1)


def _next_negatives(distances, same, others):
    """The distance of the nearest negative that is farther than each positive, and whether there is one."""
    index = numbered(distances)
    keys = (lax.stop_gradient(distances), (~others).astype(jnp.int32))  # of one distance negatives come first
    *_, order = lax.sort((*keys, index), dimension=-1, num_keys=2)
    size = distances.shape[-1]
    place = jnp.where(jnp.take_along_axis(others, order, axis=-1), index, jnp.int32(size))
    place = lax.cummin(place, axis=1, reverse=True)
    found = jnp.take_along_axis(order, jnp.minimum(place, size - 1), axis=-1)
    back = jnp.argsort(order, axis=-1)
    found = jnp.take_along_axis(jnp.where(place < size, found, jnp.int32(-1)), back, axis=-1)
    return jnp.take_along_axis(distances, jnp.maximum(found, 0), axis=-1), same & (found >= 0)


def batch_triplet_margin(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    mining: Mining = "hard",
    squared: bool = False,
    soft: bool = False,
    active: bool = False,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Triplet margin loss of the triplets in a labelled batch, all of them or mined ones.

    .. math:: \ell_a = \frac{1}{|T_a|} \sum_{(p, n) \in T_a} \big(d(a, p) - d(a, n) + m\big)_+, \qquad
        y_p = y_a \ne y_n

    with the Euclidean distance d. A batch of a few elements each of several labels; an element without a positive or a
    negative has no loss and does not count. Its triplets, by `mining`:

    * `"hard"`: the farthest positive and the nearest negative. Strong, but may collapse all to one point at the start
      of training and overfits wrong labels.
    * `"all"`: every triplet. As training goes on most are 0: see `active`.
    * `"semihard"`: each positive with the nearest negative that is farther than it, if there is one (FaceNet).
    * `"easy_positive"`: the nearest positive and the nearest negative, for labels of several modes; or, by
      `"easy_positive_semihard"`, the nearest negative that is farther than that positive.
    * `"multi_similarity"`: every triplet of a positive farther than the nearest negative less 0.1 and a negative nearer
      than the farthest positive plus 0.1.
    * `"distance_weighted"`: every positive with a random negative, in expectation: negatives are weighted such that all
      distances from 0.5 to 1.4 are alike, for embeddings of length 1 (`activations.unit_vectors`).

    Distances are made from differences and have all their digits; of two equal embeddings the gradient is 0. The sum
    over triplets takes a sort of each row, no triplet is looked at one by one (with `soft` each is). Mining has no
    gradient. `targets.mined_triplets` gives mined triplets as indices.

    Args:
      embeddings: Float `[..., n, d]`.
      labels: What each belongs to, integer `[..., n]`; only equality counts.
      margin: Lead that is enough, in units of the distance.
      mining: Which triplets count.
      squared: Whether distances are squared.
      soft: Whether to use softplus in place of the positive part; Hermans et al. do with a margin of 0.
      active: Whether only triplets whose loss is not 0 count in the means.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all see all.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `embeddings` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> embeddings, labels = jnp.array([[0.0], [2.0], [2.5]]), jnp.array([0, 0, 1])
      >>> batch_triplet_margin(embeddings, labels, reduction="none").tolist()  # 2 - 2.5 + 1, 2 - 0.5 + 1
      [0.5, 2.5, 0.0]

    Reference:
      Hermans, Beyer and Leibe, *In defense of the triplet loss for person re-identification*, 2017; Schroff,
      Kalenichenko and Philbin, *FaceNet: a unified embedding for face recognition and clustering*, 2015 (semi-hard);
      Wu et al., *Sampling matters in deep embedding learning*, 2017 (distance-weighted); Wang et al.,
      *Multi-similarity loss with general pair weighting for deep metric learning*, 2019; Xuan, Stylianou and Pless,
      *Improved embeddings with easy positive triplet mining*, 2020.
    """
    _check.number(margin=margin)
    _check.choice(get_args(Mining), mining=mining)
    embeddings, kept, (margin,) = _coupled.labelled_elements(embeddings, labels, where, weights, margin)

    def excess(lead):
        return jax.nn.softplus(lead) if soft else positive_part(lead)

    if mining in get_args(_mining.One):
        small, _ = _coupled.sized(embeddings, axis_name)

        def of_set(x, small, labels, kept):
            *chosen, both = _mining.one_of_each(mining, small, labels, kept, axis_name, tile)
            every = whole(gathered(x, axis_name))
            near, far = (length(x - taken(every, index)) for index in chosen)
            values = excess((near * near - far * far if squared else near - far) + margin)
            return values, both & (values > 0) if active else both

        values, counted = over_sets(of_set, kept.ndim - 1)(embeddings, small, jnp.asarray(labels), kept)
        return reduce(values, counted & (kept > 0), weights, reduction, axis_name)

    def row(found, same, others, margin):
        if mining == "semihard":
            away, there = _next_negatives(found, same, others)
            values = jnp.where(there, excess(found - away + margin), 0)
            total, positive, some = jnp.sum(values, axis=-1), there & (values > 0), there
            number, live = (jnp.sum(x, axis=-1).astype(total.dtype) for x in (some, positive))
        else:
            distances = sqrt(found) if squared else found
            p, n = _mining.weights_of_pairs(mining, distances, same, others, embeddings.shape[-1])
            total, live = (_sum_of_softplus if soft else _sum_of_hinges)(found, p, n, margin)
            number = jnp.sum(p, axis=-1) * jnp.sum(n, axis=-1)
        number = live if active else number
        return divide(total, number), number > 0

    numbers = 4 if soft else 12
    options = {"numbers": numbers, "tile": tile, "axis_name": axis_name}
    kind = "squared_euclidean" if squared else "euclidean"
    return _coupled.by_labels(row, kind, embeddings, labels, margin, kept, weights, reduction, **options)
