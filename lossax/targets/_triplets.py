"""Triplets of a labelled batch as indices: one for each element, in arrays of static shape."""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _coupled, _mining
from lossax._reduction import masked
from lossax._tile import over_sets


class Triplets(NamedTuple):
    """The positive and the negative of each element, as indices `[..., n]`, and which elements have both."""

    positives: jax.Array
    negatives: jax.Array
    where: jax.Array


def mined_triplets(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    mining: _mining.One = "hard",
    where: ArrayLike | None = None,
    tile: int | None = None,
) -> Triplets:
    """For each element of a labelled batch another of its label and one of another label, chosen by distance.

    To mine by one embedding and train another, or for a loss of triplets of your own; `losses.batch_triplet_margin`
    mines by itself. Distances are Euclidean. There is no gradient; indices of elements that lack one of the two are of
    any element, leave them out by `where`.

    Args:
      embeddings: Float `[..., n, d]`.
      labels: What each belongs to, integer `[..., n]`; only equality counts.
      mining: `"hard"`: the farthest positive and the nearest negative; `"easy_positive"`: the nearest of each;
        `"easy_positive_semihard"`: the nearest positive and the nearest negative that is farther than it.
      where: Elements that exist, bool `[..., n]`.
      tile: Rows of the matrix of distances held at once; by size if None.

    Returns:
      Indices `[..., n]` along n, int32, and where both exist, bool `[..., n]`.

    Raises:
      TypeError: if `embeddings` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> x, labels = jnp.array([[0.0], [2.0], [2.5], [3.0]]), jnp.array([0, 0, 1, 0])
      >>> triplets = mined_triplets(x, labels)
      >>> triplets.positives.tolist(), triplets.negatives[:2].tolist(), triplets.where.tolist()
      ([3, 0, 0, 0], [2, 2], [True, True, False, True])

    Reference:
      Hermans, Beyer and Leibe, *In defense of the triplet loss for person re-identification*, 2017; Xuan, Stylianou and
      Pless, *Improved embeddings with easy positive triplet mining*, 2020.
    """
    _check.floating(embeddings=embeddings)
    _check.integer(labels=labels)
    _check.units_of({"embeddings": embeddings}, labels=labels)
    _check.choice(get_args(_mining.One), mining=mining)
    (embeddings,) = masked(where, embeddings, event=1)
    kept = _coupled.kept_elements({"embeddings": embeddings}, where, None)
    embeddings, _ = _coupled.sized(embeddings, None)
    of_set = over_sets(lambda x, y, kept: _mining.one_of_each(mining, x, y, kept, None, tile), kept.ndim - 1)
    positives, negatives, both = of_set(embeddings, jnp.asarray(labels), kept)
    return Triplets(positives, negatives, both & (kept > 0))
