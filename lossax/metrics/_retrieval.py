"""How well embeddings find what belongs to them: one unit per element that searches."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _coupled
from lossax._angles import direction
from lossax._numerics import integers
from lossax._pairs import squared_distances
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import by_rows, over_sets
from lossax._types import Reduction

_Similarity = Literal["cosine", "dot", "euclidean"]


def _scores(rows: jax.Array, columns: jax.Array, similarity: _Similarity) -> jax.Array:
    """What orders the columns for each row, the nearest first."""
    if similarity == "dot":
        return jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)
    squares = squared_distances(rows, columns)  # of directions too: a product has no digits left for what is near
    if similarity == "cosine":  # what has no direction is at a right angle to everything
        nothing = jnp.all(rows == 0, axis=-1)[:, None] | jnp.all(columns == 0, axis=-1)[None, :]
        squares = jnp.where(nothing, 2.0, squares)
    return -squares


def retrieval(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    metric: Callable[..., jax.Array],
    gallery: jax.Array | None = None,
    gallery_labels: jax.Array | None = None,
    gallery_where: ArrayLike | None = None,
    similarity: Literal["cosine", "dot", "euclidean"] = "cosine",
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Any metric of lists, of search by embeddings: each element orders the others, relevant are those of its label.

    .. math:: M_i = M\big((s_{ij})_{j \ne i},\ (1[y_j = y_i])_{j \ne i}\big)

    The nearest-neighbour search by which metric learning is judged, in its words:

    - MAP@R: `metric=metrics.average_precision_at_r`. The one to compare models by: it sees the order of all that
      should come first, where recall at 1 is often satisfied by one lucky neighbour.
    - Recall@k, whether any of the k nearest is right: `metric=functools.partial(metrics.hit_rate, topn=k)`.
    - Precision@k, MAP: `metrics.precision` likewise, `metrics.average_precision`; R-precision: `metrics.r_precision`.

    Elements of which nobody else has the label are no units: they are found by others and do not count in the mean.
    What is equally near has no order, and metrics of this module are means over all orders; a collapsed embedding gets
    what chance would. Search is exact, of n^2 pairs; memory is that of a few blocks of rows.

    Args:
      embeddings: Float `[..., n, d]`.
      labels: What each belongs to, integer `[..., n]`; only equality counts.
      metric: A function of scores and relevances `[rows, m]`, `where` and `reduction`, as those of this module.
      gallery: What is searched instead of the other elements, float `[..., m, d]`.
      gallery_labels: What each of these belongs to, integer `[..., m]`.
      gallery_where: Which of these exist, bool `[..., m]`.
      similarity: `"cosine"`, `"dot"`, or `"euclidean"` for the nearest first.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`, 0 for what is no unit; NaN for an embedding that is.

    Raises:
      TypeError: if embeddings are not floating point, labels not integer, `metric` no function or `tile` no int.
      ValueError: if shapes do not fit, `similarity` is unknown, or a gallery lacks labels or they a gallery.

    Example:
      >>> import functools
      >>> import jax.numpy as jnp
      >>> from lossax import metrics
      >>> x, labels = jnp.array([[0.0], [1.0], [3.0], [7.0]]), jnp.array([0, 0, 1, 1])
      >>> first = functools.partial(metrics.hit_rate, topn=1)
      >>> retrieval(x, labels, metric=first, similarity="euclidean", reduction="none").tolist()  # 3 is nearer to 1
      [1.0, 1.0, 0.0, 1.0]
      >>> found = retrieval(x, labels, metric=metrics.average_precision, similarity="euclidean")
      >>> round(found.item(), 4)  # (3 + 1/3) / 4
      0.8333

    Reference:
      Musgrave, Belongie and Lim, *A metric learning reality check*, 2020; Jegou, Douze and Schmid, *Product
      quantization for nearest neighbor search*, 2011 (recall).
    """
    _check.choice(get_args(_Similarity), similarity=similarity)
    _check.choice(("mean", "sum", "none"), reduction=reduction)
    if tile is not None:
        _check.count(tile=tile)
    if not callable(metric):
        raise TypeError(f"metric must be a function of scores and relevances, got {metric!r}")
    points, kept, _ = _coupled.labelled_elements(embeddings, labels, where, weights)
    (own,) = integers(labels)
    n, found, there = kept.shape[-1], own, kept
    if gallery is not None and gallery_labels is not None:
        _check.floating(gallery=gallery)
        _check.integer(gallery_labels=gallery_labels)
        _check.units_of({"gallery": gallery}, gallery_labels=gallery_labels)
        ours, theirs = points.shape, _check.spec(gallery)[0]
        if theirs[:-2] != ours[:-2] or theirs[-1:] != ours[-1:]:
            raise ValueError(f"expected a gallery [..., m, d] of embeddings{list(ours)}, got gallery{list(theirs)}")
        (more,) = masked(gallery_where, gallery, event=1)
        points = jnp.concatenate([points, more.astype(points.dtype)], axis=-2)
        own, found = integers(labels, gallery_labels)
        there = unit_weights(theirs[:-1], gallery_where, dtype=points.dtype)
    elif not (gallery is gallery_labels is gallery_where is None):
        raise ValueError("a gallery needs both gallery and gallery_labels")
    if 0 in kept.shape or 0 in there.shape:
        return reduce(jnp.zeros_like(kept), None, weights, reduction)
    points = lax.stop_gradient(points)
    points = direction(points) if similarity == "cosine" else _coupled.sized(points, None)[0]

    def block(rows, columns):
        same, others = _coupled.alike(rows, columns)
        scores = _scores(rows.embeddings, columns.embeddings, similarity)
        values = metric(scores, same.astype(jnp.int32), where=same | others, reduction="none")
        values = jnp.where(jnp.any(jnp.isnan(rows.embeddings), axis=-1), jnp.nan, values)
        return (values, jnp.any(same, axis=-1)), ()

    def of_set(points, own, kept, found, there):
        rows = _coupled.elements(points[:n], kept, None, own)
        columns = rows
        if gallery is not None:
            columns = _coupled.elements(points[n:], there, None, found)
            columns = columns._replace(places=columns.places + n)  # they are nobody's own
        return by_rows(block, rows, columns, width=8 * len(columns.places), tile=tile)[0]

    values, counted = over_sets(of_set, kept.ndim - 1)(points, own, kept, found, there)
    return reduce(values, counted & (kept > 0), weights, reduction)
