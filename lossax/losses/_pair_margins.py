"""Two embeddings that belong together or do not: one unit per pair."""

import jax
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import positive_part, scaled
from lossax._reduction import masked, reduce
from lossax._types import Reduction
from lossax._vectors import cosine, distance


def _pairs(
    anchors: jax.Array, others: jax.Array, targets: jax.Array, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three after checks and the mask."""
    _check.floating(anchors=anchors, others=others)
    _check.real(targets=targets)
    _check.same_shape(anchors=anchors, others=others)
    _check.units_of({"anchors": anchors}, targets=targets)
    (anchors, others), (targets,) = masked(where, anchors, others, event=1), masked(where, targets)
    targets = _check.domain("in [0, 1]", lambda t: (t >= 0) & (t <= 1), targets=targets.astype(anchors.dtype))
    return anchors, others, targets


def contrastive(
    anchors: jax.Array,
    others: jax.Array,
    targets: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    positive_margin: ArrayLike = 0.0,
    squared: bool = True,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Pulls together pairs that belong together and pushes all others apart, up to a margin.

    .. math:: \frac t 2 (d - m_+)_+^2 + \frac{1 - t} 2 (m - d)_+^2
        \quad\text{or}\quad t\,(d - m_+)_+ + (1 - t)\,(m - d)_+, \qquad d = \lVert x - y \rVert_2

    For pairs whose label is all that is known: signatures, faces, duplicates. A pair beyond the margin has no pull, so
    pairs must be chosen well; a triplet compares two distances and needs no scale for them, and `info_nce` takes its
    negatives from the batch. Embeddings are of any length; with those of `activations.unit_vectors` distances end at 2.
    Two different embeddings in one place are at a kink and do not move.

    Where peers differ: TensorFlow Addons leaves the half out, so it is twice this, and calls distances
    predictions. PyTorch Metric Learning has hinges that are not `squared` (`pos_margin` is `positive_margin`,
    `neg_margin` the `margin`) and averages over pairs whose loss is not 0. Torch's `hinge_embedding_loss` of distances,
    with labels 1 and -1 for targets 1 and 0, is that with a mean over all pairs.

    Args:
      anchors: Embeddings x, float `[..., d]`.
      others: What each is compared with, y, float `[..., d]`.
      targets: Whether the two belong together, bool or real `[...]`, in [0, 1].
      margin: Distance m from which others have nothing to gain, in units of the embeddings; positive.
      positive_margin: Distance up to which a pair that belongs together is near enough, nonnegative.
      squared: Whether to take half the squares, as in the paper.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `anchors` or `others` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1], `margin` is not positive or `positive_margin`
        negative.

    Example:
      >>> import jax.numpy as jnp
      >>> anchors, others = jnp.zeros((2, 2)), jnp.array([[3.0, 4.0], [0.3, 0.4]])
      >>> loss = contrastive(anchors, others, jnp.array([True, False]), reduction="none")
      >>> loss.tolist()  # 5^2 / 2, (1 - 1/2)^2 / 2
      [12.5, 0.125]

    Reference:
      Hadsell, Chopra and LeCun, *Dimensionality reduction by learning an invariant mapping*, 2006.
    """
    _check.positive(margin=margin)
    _check.nonnegative(positive_margin=positive_margin)
    anchors, others, targets = _pairs(anchors, others, targets, where)
    _, margin, positive_margin = masked(None, targets, margin, positive_margin)
    high, low = distance(anchors, others)
    far, near = positive_part((high - positive_margin) + low), positive_part((margin - high) - low)
    if squared:
        far, near = 0.5 * far * far, 0.5 * near * near
    return reduce(scaled(targets, far) + scaled(1.0 - targets, near), where, weights, reduction)


def cosine_embedding(
    anchors: jax.Array,
    others: jax.Array,
    targets: jax.Array,
    *,
    margin: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Turns pairs that belong together into one direction, and all others away from each other up to a margin.

    .. math:: t\,(1 - \cos) + (1 - t)\,(\cos - m)_+, \qquad
        \cos = \frac{\langle x, y \rangle}{\lVert x \rVert\,\lVert y \rVert}

    `contrastive` where direction tells and length does not. For grades of similarity, and to compare pairs with each
    other, see `cosent`; for a cosine that is to be a number, `squared_error(activations.cosine_similarity(x, y), t)`.

    It is torch's `cosine_embedding_loss`, whose labels 1 and -1 are targets 1 and 0. There the cosine of short vectors
    is wrong (all of it at lengths of 1e-20), and 1 - cos of two that nearly agree is rounding.

    Args:
      anchors: Embeddings x, float `[..., d]`, of any length; one of length 0 has cosine 0 and no gradient.
      others: What each is compared with, y, float `[..., d]`.
      targets: Whether the two belong together, bool or real `[...]`, in [0, 1].
      margin: Cosine up to which others are far enough apart, in [-1, 1]; 0 to 0.5.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 2].

    Raises:
      TypeError: if `anchors` or `others` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1] or `margin` outside [-1, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> anchors, others = jnp.array([[3.0, 4.0], [3.0, 4.0]]), jnp.array([[10.0, 0.0], [10.0, 0.0]])
      >>> loss = cosine_embedding(anchors, others, jnp.array([True, False]), margin=0.5, reduction="none")
      >>> [round(x, 4) for x in loss.tolist()]  # 1 - 3/5, 3/5 - 1/2
      [0.4, 0.1]

    Reference:
      Chopra, Hadsell and LeCun, *Learning a similarity metric discriminatively, with application to face
      verification*, 2005 (pairs); torch, *CosineEmbeddingLoss*, 2016 (this form).
    """
    _check.within(-1.0, 1.0, margin=margin)
    anchors, others, targets = _pairs(anchors, others, targets, where)
    _, margin = masked(None, targets, margin)
    high, low, gap = cosine(anchors, others)
    near = positive_part((high - margin) + low)
    return reduce(targets * gap + (1.0 - targets) * near, where, weights, reduction)
