"""How far strings of symbols are from the true ones: one unit per string."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._numerics import integers
from lossax._reduction import reduce
from lossax._sequences import existing
from lossax._types import Reduction


@jax.jit  # the loop is compiled once, not at every call outside of jit
def _edits(predictions: jax.Array, read: jax.Array, labels: jax.Array, keep: jax.Array) -> jax.Array:
    """The distances, int32 `[...]`, of symbols `[..., n]` and `[..., m]`, those of which `read` and `keep` exist.

    A row holds the distances of the predictions so far from the first 0, 1, ... m labels, each less the number of these
    labels. Then to insert a label costs nothing, and a row is the running minimum of what comes from the row above.
    """
    cost = keep.astype(jnp.int32)

    def step(row, symbol):
        symbol, exists = symbol
        hit = keep & (symbol[..., None] == labels)
        replaced = row[..., :-1] + (1 - hit.astype(jnp.int32)) - cost
        below = jnp.concatenate([row[..., :1] + 1, jnp.minimum(row[..., 1:] + 1, replaced)], axis=-1)
        return jnp.where(exists[..., None], lax.cummin(below, axis=row.ndim - 1), row), None

    start = jnp.zeros_like(jnp.concatenate([jnp.sum(cost, axis=-1, keepdims=True), cost], axis=-1))  # sharded likewise
    row, _ = lax.scan(step, start, (jnp.moveaxis(predictions, -1, 0), jnp.moveaxis(read, -1, 0)))
    return row[..., -1] + jnp.sum(cost, axis=-1)


def edit_distance(
    predictions: jax.Array,
    labels: jax.Array,
    *,
    prediction_where: ArrayLike | None = None,
    label_where: ArrayLike | None = None,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Levenshtein's distance: the fewest symbols to replace, insert and delete that make the labels of what was read.

    .. math:: d_{ij} = \min\big(d_{i-1, j} + 1,\ d_{i, j-1} + 1,\ d_{i-1, j-1} + 1[\hat y_i \ne y_j]\big),
        \qquad d_{i0} = i,\ d_{0j} = j

    For what reads: speech, handwriting, `activations.ctc_best_path`, whose labels and mask go in here. With
    `normalize=True` it is the error rate of each string, of characters (CER) or words (WER) depending on what the
    symbols are. What papers report is the rate of the corpus, all edits over all labels:
    `edit_distance(..., reduction="sum") / jnp.sum(label_where)`, as jiwer's `wer`; the mean of the rates makes more of
    short strings. The rate may be above 1; that of a string without labels is the number of symbols read, where
    TensorFlow's `edit_distance` has infinity. The share of strings with any error is the mean of the distances above 0.

    Args:
      predictions: Symbols that were read, integer `[..., n]`.
      labels: True labels, integer `[..., m]`.
      prediction_where: Predictions that exist, bool `[..., n]`; others, at the ends or between, are left out.
      label_where: Labels that exist, bool `[..., m]`; others, at the ends or between, are left out.
      normalize: Whether to divide by the number of labels.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, whole numbers unless normalized.

    Raises:
      TypeError: if `predictions` or `labels` are not integer or masks not bool.
      ValueError: if shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> read, labels = jnp.array([[1, 2, 3], [7, 8, 8]]), jnp.array([[1, 3, 3, 0], [7, 8, 0, 0]])
      >>> exist = jnp.array([[True, True, True, False], [True, True, False, False]])
      >>> edit_distance(read, labels, label_where=exist, reduction="none").tolist()  # 2 for 3; one 8 too many
      [1.0, 1.0]
      >>> edits = edit_distance(read, labels, label_where=exist, reduction="sum")
      >>> edits.item() / exist.sum().item()  # of the corpus, 2 of 5
      0.4
      >>> round(edit_distance(read, labels, label_where=exist, normalize=True).item(), 4)  # (1/3 + 1/2) / 2
      0.4167

    Reference:
      Levenshtein, *Binary codes capable of correcting deletions, insertions, and reversals*, 1966; Wagner and Fischer,
      *The string-to-string correction problem*, 1974.
    """
    _check.integer(predictions=predictions, labels=labels)
    shape, own = _check.spec(predictions)[0], _check.spec(labels)[0]
    if not shape or not own or shape[:-1] != own[:-1]:
        expected = "expected predictions [..., n] and labels [..., m]"
        raise ValueError(f"{expected}, got predictions{list(shape)}, labels{list(own)}")
    predictions, labels = integers(predictions, labels)
    predictions, read = existing(predictions, 0, prediction_where=prediction_where)
    labels, keep = existing(labels, 0, label_where=label_where)
    distances = _edits(predictions, read, labels, keep).astype(_hyper.default_float())
    if normalize:
        distances = distances / jnp.maximum(jnp.sum(keep, axis=-1).astype(distances.dtype), 1.0)
    return reduce(distances, where, weights, reduction)
