"""Triplets: an anchor, what belongs to it and what does not. One unit per triplet."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _vectors
from lossax._numerics import norm, positive_part
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def triplet_margin(
    anchors: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    norm_degree: ArrayLike = 2.0,
    squared: bool = False,
    swap: bool = False,
    soft: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Triplet margin loss: what belongs to an anchor shall be nearer to it, by a margin, than what does not.

    .. math:: \big(d(a, p) - d(a, n) + m\big)_+, \qquad d(x, y) = \lVert x - y \rVert_p

    For embeddings whose distance is to mean something, where examples come in triplets. Of a labelled batch
    `batch_triplet_margin` makes all triplets, or the hard ones; most random ones are soon without a loss.

    FaceNet is `squared` with a margin of 0.2, of embeddings of length 1 (`activations.unit_vectors`); the soft margin
    of Hermans et al. is `soft` with a margin of 0. Distances are exact for every degree, and of two equal vectors the
    gradient is 0; Optax's `triplet_margin_loss` sums signed differences for odd degrees, torch's adds 1e-6 to every
    difference.

    Args:
      anchors: Embeddings a, float `[..., d]`.
      positives: What belongs to each, p, float `[..., d]`.
      negatives: What does not, n, float `[..., d]`.
      margin: Lead that is enough, in units of the distance.
      norm_degree: Degree p of the norm, 1 or more.
      squared: Whether distances are squared.
      swap: Whether the negative is compared with the positive as well, and the shorter distance counts.
      soft: Whether to use softplus in place of the positive part.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ or `norm_degree` is below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> a, p, n = jnp.array([0.0, 0.0]), jnp.array([3.0, 4.0]), jnp.array([0.0, 5.5])
      >>> triplet_margin(a, p, n).item()  # 5 - 5.5 + 1
      0.5

    Reference:
      Schroff, Kalenichenko and Philbin, *FaceNet: a unified embedding for face recognition and clustering*, 2015;
      Balntas et al., *Learning local feature descriptors with triplets and shallow convolutional neural networks*,
      2016 (swap); Hermans, Beyer and Leibe, *In defense of the triplet loss for person re-identification*, 2017.
    """
    _check.floating(anchors=anchors, positives=positives, negatives=negatives)
    _check.same_shape(anchors=anchors, positives=positives, negatives=negatives)
    _check.units_of({"anchors": anchors})
    _check.number(margin=margin)
    _check.at_least(1.0, norm_degree=norm_degree)
    anchors, positives, negatives = masked(where, anchors, positives, negatives, event=1)
    euclidean = isinstance(norm_degree, int | float) and norm_degree == 2
    _, margin, norm_degree = masked(None, anchors, margin, norm_degree)

    def apart(x: jax.Array, y: jax.Array) -> _vectors.Pair:
        if euclidean:
            found = _vectors.distance(x, y)
        else:
            length = norm(x - y, norm_degree)
            found = length, jnp.zeros_like(length)
        return _vectors.squared(found) if squared else found

    near, far = apart(anchors, positives), apart(anchors, negatives)
    if swap:
        other = apart(positives, negatives)
        nearer = other[0] < far[0]
        far = jnp.where(nearer, other[0], far[0]), jnp.where(nearer, other[1], far[1])
    lead = _vectors.beyond(near, far, margin)
    return reduce(jax.nn.softplus(lead) if soft else positive_part(lead), where, weights, reduction)
