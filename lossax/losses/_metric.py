"""Metric learning in labelled batches: of one label near, of two apart. One unit per element.

Similarities and distances are made a block of rows at a time: memory is that of a few blocks, whatever the batch.
"""

from typing import get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _coupled, _mining
from lossax._coupled import labelled_elements
from lossax._numerics import divide, log_partition, positive_part, sqrt
from lossax._pairs import squared_distances
from lossax._tile import by_rows, gathered, spread_like
from lossax._types import Reduction


def _log_sum(logits: jax.Array, among: jax.Array) -> jax.Array:
    """Log of the sum of exponentials of those of a row; -inf of none."""
    top, rest = log_partition(jnp.where(among, logits, -jnp.inf))
    return top + rest


def _kept_finite(x: jax.Array, exists: jax.Array) -> jax.Array:
    return jnp.where(exists, x, 0)


def batch_contrastive(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    positive_margin: ArrayLike = 0.0,
    margin: ArrayLike = 1.0,
    squared: bool = True,
    mining: _mining.Mining = "all",
    balanced: bool = True,
    active: bool = False,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Contrastive margin loss of the pairs in a labelled batch: of one label within a distance, of two beyond another.

    .. math:: \ell_a = \operatorname{mean}_{p: y_p = y_a} \tfrac12 (d(a, p) - m_+)_+^2
        + \operatorname{mean}_{n: y_n \ne y_a} \tfrac12 (m - d(a, n))_+^2

    with the Euclidean distance d. Unlike a triplet it fixes what near means, so distances can be compared with a
    threshold; the margin must suit the length of the embeddings. An element without others does not count.

    Hadsell's loss of one pair is `contrastive`. The margin loss of Wu et al. with a learned boundary beta is
    `positive_margin=beta - 0.2, margin=beta + 0.2, squared=False, balanced=False, active=True,
    mining="distance_weighted"`, beta 1.2 at the start, for embeddings of length 1. PyTorch Metric Learning's
    `ContrastiveLoss` is `squared=False, active=True` with means over the batch in place of those of each element.

    Args:
      embeddings: Float `[..., n, d]`.
      labels: What each belongs to, integer `[..., n]`; only equality counts.
      positive_margin: Distance within which pairs of one label have no loss.
      margin: Distance beyond which pairs of two labels have no loss.
      squared: Whether to take half the squares, as in the paper.
      mining: Which pairs count: `"all"`, `"hard"` (farthest positive, nearest negative), `"easy_positive"` (nearest
        ones), `"multi_similarity"` or `"distance_weighted"`, as in `batch_triplet_margin`; one random negative for each
        positive in the last.
      balanced: Whether pairs of one label and pairs of two have a mean each, and not one together.
      active: Whether only pairs whose loss is not 0 count in the means.
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
      >>> batch_contrastive(embeddings, labels, reduction="none").tolist()  # 2^2/2 + 0, 2^2/2 + 0.5^2/2, 0.5^2/2/2
      [2.0, 2.125, 0.0625]

    Reference:
      Hadsell, Chopra and LeCun, *Dimensionality reduction by learning an invariant mapping*, 2006; Wu et al., *Sampling
      matters in deep embedding learning*, 2017.
    """
    _check.number(positive_margin=positive_margin, margin=margin)
    _check.choice(get_args(_mining.Mining), mining=mining)
    embeddings, kept, margins = labelled_elements(embeddings, labels, where, weights, positive_margin, margin)

    def row(distances, same, others, margins):
        inner, outer = margins
        chosen = _mining.weights_of_pairs(mining, distances, same, others, embeddings.shape[-1])
        totals, numbers = [], []
        for weight, lack in zip(chosen, (distances - inner, outer - distances), strict=True):
            lack = positive_part(lack)
            totals.append(jnp.sum(weight * (0.5 * lack * lack if squared else lack), axis=-1))
            numbers.append(jnp.sum(jnp.where(lack > 0, weight, 0.0) if active else weight, axis=-1))
        together = numbers[0] + numbers[1]
        if balanced:
            return divide(totals[0], numbers[0]) + divide(totals[1], numbers[1]), together > 0
        return divide(totals[0] + totals[1], together), together > 0

    options = {"numbers": 4, "tile": tile, "axis_name": axis_name}
    return _coupled.by_labels(row, "euclidean", embeddings, labels, margins, kept, weights, reduction, **options)


def lifted_structure(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    generalized: bool = False,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Lifted structure loss: each pair of one label against all negatives of both of its ends, softly the nearest.

    .. math:: \ell_a = \frac{1}{|P_a|} \sum_{p \in P_a} \tfrac12 \Big(d(a, p)
        + \log\big(\textstyle\sum_{n: y_n \ne y_a} e^{m - d(a, n)} + e^{m - d(p, n)}\big)\Big)_+^2

    or, generalized, with one soft farthest positive for each element:

    .. math:: \ell_a = \Big(\log \textstyle\sum_{p \in P_a} e^{d(a, p)}
        + \log \sum_{n: y_n \ne y_a} e^{m - d(a, n)}\Big)_+

    Uses every pair of a batch where triplets use three elements. The mean over pairs of the paper is that over elements
    here, the same where all have as many positives. An element without a positive or a negative has no loss and does
    not count.

    Args:
      embeddings: Float `[..., n, d]`.
      labels: What each belongs to, integer `[..., n]`; only equality counts.
      margin: Distance m by which negatives should be away.
      generalized: Whether to use the form of Hermans et al.
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
      >>> embeddings, labels = jnp.array([[0.0], [2.0], [3.0]]), jnp.array([0, 0, 1])
      >>> loss = lifted_structure(embeddings, labels, generalized=True, reduction="none")
      >>> [round(x, 4) for x in loss.tolist()]  # 2 + (1 - 3), 2 + (1 - 1), no positive
      [0.0, 2.0, 0.0]

    Reference:
      Oh Song et al., *Deep metric learning via lifted structured feature embedding*, 2016; Hermans, Beyer and Leibe,
      *In defense of the triplet loss for person re-identification*, 2017 (generalized).
    """
    _check.number(margin=margin)
    embeddings, kept, (margin,) = labelled_elements(embeddings, labels, where, weights, margin)
    options = {"numbers": 4, "tile": tile, "axis_name": axis_name}

    if generalized:

        def row(distances, same, others, margin):
            near, far = _log_sum(distances, same), _log_sum(margin - distances, others)
            both = jnp.any(same, axis=-1) & jnp.any(others, axis=-1)
            value = positive_part(_kept_finite(near, both) + _kept_finite(far, both))
            return _kept_finite(value, both), both

        return _coupled.by_labels(row, "euclidean", embeddings, labels, margin, kept, weights, reduction, **options)

    small, unit = _coupled.sized(embeddings, axis_name)

    def parts(rows, shared):
        columns, unit, margin = shared
        distances = unit * sqrt(squared_distances(rows.embeddings, columns.embeddings))
        return distances, *_coupled.alike(rows, columns), margin

    def rivals(rows, shared):
        distances, _, others, margin = parts(rows, shared)
        return _log_sum(margin - distances, others), ()

    def pairs(rows, shared):
        (rows, own), (everything, theirs) = rows, shared
        distances, same, others, _ = parts(rows, everything)
        same = same & jnp.any(others, axis=-1)[:, None]
        own, theirs = (_kept_finite(x, ~jnp.isneginf(x)) for x in (own, theirs))
        value = positive_part(_kept_finite(distances + jnp.logaddexp(own[:, None], theirs[None, :]), same))
        count = jnp.sum(same, axis=-1)
        return 0.5 * divide(jnp.sum(value * value, axis=-1), count.astype(value.dtype)), count > 0

    def of_set(x, labels, kept):
        rows = _coupled.elements(x, kept, axis_name, labels)
        shared = (_coupled.everyone(rows, axis_name), unit, margin)
        width = options["numbers"] * len(shared[0].places)
        own, _ = by_rows(rivals, rows, shared, width=width, tile=tile)
        return (rows, spread_like(own, rows.places)), (shared, gathered(own, axis_name)), width

    return _coupled.reduced(pairs, of_set, (small, jnp.asarray(labels)), axis_name, tile, kept, weights, reduction)


def circle(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    margin: ArrayLike = 0.4,
    scale: ArrayLike = 80.0,
    detached: bool = True,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Circle loss: every positive more similar than every negative, those farthest from where they should be first.

    .. math:: \ell_a = \log\Big(1 + \sum_p e^{-\gamma (1 + m - s_p)_+ (s_p - 1 + m)}
        \sum_n e^{\gamma (s_n + m)_+ (s_n - m)}\Big)

    of cosines s. Each similarity has a weight of its own, so one that is good already is left alone; the boundary is a
    circle around s_p = 1, s_n = 0. An element without a positive or a negative has no loss and does not count.

    The paper uses `margin=0.25, scale=256` for faces and 0.4 and 80 for retrieval. It does not differentiate the
    weights, the positive parts; Keras's `Circle` does, which is `detached=False`.

    Args:
      embeddings: Float `[..., n, d]`, of any length.
      labels: What each belongs to, integer `[..., n]`; only equality counts.
      margin: Relaxation m: positives should be above 1 - m, negatives below m.
      scale: Factor gamma, an inverse temperature, positive.
      detached: Whether weights have no derivative.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all see all.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `embeddings` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit or `scale` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> embeddings, labels = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0, 1])
      >>> loss = circle(embeddings, labels, margin=0.5, scale=4.0, reduction="none")
      >>> [round(x, 4) for x in loss.tolist()]  # log(1 + exp(-4 * 0.5 * 0.5) exp(4 * 0.5 * -0.5))
      [0.1269, 0.1269, 0.0]

    Reference:
      Sun et al., *Circle loss: a unified perspective of pair similarity optimization*, 2020.
    """
    _check.number(margin=margin)
    _check.positive(scale=scale)
    embeddings, kept, hyper = labelled_elements(embeddings, labels, where, weights, margin, scale)

    def row(cosines, same, others, hyper):
        margin, scale = hyper
        up, down = positive_part((1.0 + margin) - cosines), positive_part(cosines + margin)
        if detached:
            up, down = lax.stop_gradient((up, down))
        positive = _log_sum(-scale * up * (cosines - (1.0 - margin)), same)
        negative = _log_sum(scale * down * (cosines - margin), others)
        both = jnp.any(same, axis=-1) & jnp.any(others, axis=-1)
        value = jax.nn.softplus(_kept_finite(positive, both) + _kept_finite(negative, both))
        return _kept_finite(value, both), both

    options = {"numbers": 2, "tile": tile, "axis_name": axis_name}
    return _coupled.by_labels(row, "cosine", embeddings, labels, hyper, kept, weights, reduction, **options)


def multi_similarity(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    alpha: ArrayLike = 2.0,
    beta: ArrayLike = 50.0,
    base: ArrayLike = 0.5,
    epsilon: ArrayLike | None = 0.1,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Multi-similarity loss: pairs weighted by their similarity and by how it compares with that of the others.

    .. math:: \ell_a = \frac 1 \alpha \log\Big(1 + \sum_p e^{-\alpha (s_p - \lambda)}\Big)
        + \frac 1 \beta \log\Big(1 + \sum_n e^{\beta (s_n - \lambda)}\Big)

    of cosines s. Of the pairs, only those count that are hard beside the others: positives less similar than the most
    similar negative plus epsilon, negatives more similar than the least similar positive less epsilon. An element
    without a positive or a negative has then no pair at all, and does not count in the mean.

    PyTorch Metric Learning's `MultiSimilarityLoss` alone is `epsilon=None`, and with its miner the default.

    Args:
      embeddings: Float `[..., n, d]`, of any length.
      labels: What each belongs to, integer `[..., n]`; only equality counts.
      alpha: Inverse temperature of positives, positive.
      beta: Inverse temperature of negatives, positive.
      base: Similarity lambda from which both are counted.
      epsilon: Slack of the mining, in units of cosines; None keeps all pairs.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all see all.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `embeddings` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit or `alpha` or `beta` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> embeddings, labels = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0])
      >>> loss = multi_similarity(embeddings, labels, alpha=1.0, base=0.0, epsilon=None)
      >>> round(loss.item(), 4)  # log(1 + exp(0))
      0.6931

    Reference:
      Wang et al., *Multi-similarity loss with general pair weighting for deep metric learning*, 2019.
    """
    _check.positive(alpha=alpha, beta=beta)
    _check.number(base=base)
    slack = 0.0 if epsilon is None else epsilon
    _check.number(epsilon=slack)
    embeddings, kept, hyper = labelled_elements(embeddings, labels, where, weights, alpha, beta, base, slack)

    def row(cosines, same, others, hyper):
        alpha, beta, base, slack = hyper
        if epsilon is not None:
            fixed = lax.stop_gradient(cosines)
            most = jnp.max(jnp.where(others, fixed, -jnp.inf), axis=-1, keepdims=True)
            least = jnp.min(jnp.where(same, fixed, jnp.inf), axis=-1, keepdims=True)
            some = jnp.any(same, axis=-1) & jnp.any(others, axis=-1)
            same, others = same & (fixed < most + slack), others & (fixed > least - slack)
        else:
            some = jnp.any(same | others, axis=-1)
        value = jnp.zeros_like(cosines[:, 0])
        for inverse, sign, among in ((alpha, -1.0, same), (beta, 1.0, others)):
            found, total = jnp.any(among, axis=-1), _log_sum(sign * inverse * (cosines - base), among)
            value = value + _kept_finite(jax.nn.softplus(_kept_finite(total, found)), found) / inverse
        return value, some

    options = {"numbers": 2, "tile": tile, "axis_name": axis_name}
    return _coupled.by_labels(row, "cosine", embeddings, labels, hyper, kept, weights, reduction, **options)
