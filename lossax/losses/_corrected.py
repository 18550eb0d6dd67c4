"""Classification with labels that are wrong at known rates: one unit per row; the classes are the last axis."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._reduction import labelled, reduce
from lossax._types import Reduction


def _transition(transition: Any, rows: jax.Array) -> jax.Array:
    """The probabilities of given labels, checked, in the dtype of the rows."""
    _check.real(transition=transition)
    _check.of_classes(rows.shape[-1], 2, transition=transition)
    _check.fraction(transition=transition)
    known = _check.concrete(transition)
    if known is not None:
        sums = known.astype(np.float64).sum(axis=1)
        if not (np.abs(sums - 1.0) <= 1e-2).all():
            raise ValueError(f"transition must have rows that sum to 1, got {sums[np.abs(sums - 1.0).argmax()]:g}")
    return jnp.asarray(transition).astype(rows.dtype)


def _of_label(table: jax.Array, labels: jax.Array, logits: jax.Array) -> jax.Array:
    """The row of a table that belongs to each label; a contraction, which shards where a gather would not."""
    return jnp.matmul(_numerics.one_hot(labels, logits).astype(table.dtype), table, precision="highest")


def _posterior(logits: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The joint log-probabilities but for a constant, less the largest, and that one; it may be infinite."""
    log_columns = jnp.log(jnp.where(columns > 0, columns, 1.0))
    reached = jnp.where((columns > 0) & ~jnp.isneginf(logits), logits, -jnp.inf)
    base = jnp.max(reached, axis=-1, keepdims=True)
    base = jax.lax.stop_gradient(jnp.where(jnp.isneginf(base), 0, base))
    return (reached - base) + log_columns, base


def _hit_and_miss(logits: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The probabilities, that of the given label, its complement, and whether it is far from vanishing."""
    p, _ = _numerics.softmax_pair(logits)
    hit = jnp.sum(p * columns, axis=-1, keepdims=True)
    seen = hit > 1e-25
    return p, jnp.where(seen, hit, 1.0), jnp.sum(p * (1.0 - columns), axis=-1, keepdims=True), seen


@jax.custom_jvp
def _mixed_surprise(logits: jax.Array, columns: jax.Array) -> jax.Array:
    """-log sum_j softmax(logits)_j columns_j of each row, all digits kept whether the sum is nearly 1 or nearly 0."""
    _, hit, miss, seen = _hit_and_miss(logits, columns)
    joint, base = _posterior(logits, columns)
    top, rest = _numerics.log_partition(joint)
    best, remainder = _numerics.log_partition(logits)
    far = (best - base[..., 0]) + ((remainder - rest) - top)
    far = jnp.where(jnp.isneginf(rest), jnp.inf, far)
    return jnp.where(seen[..., 0], jnp.log1p(miss / hit)[..., 0], far)


@_mixed_surprise.defjvp
def _(primals, tangents):
    logits, columns = primals
    p, hit, _, seen = _hit_and_miss(logits, columns)
    best = _numerics.one_hot(jnp.argmax(logits, axis=-1), logits)
    ahead = jnp.sum(jnp.where(best, columns, 0.0), axis=-1, keepdims=True) - columns  # exactly 0 at the best class
    near = p * (ahead - jnp.sum(p * ahead, axis=-1, keepdims=True)) / hit
    joint, base = _posterior(logits, columns)
    top, rest = _numerics.log_partition(joint)
    none = jnp.isneginf(rest)
    far = p - _numerics.softmax_pair(joint)[0]
    odds = (logits - base) - (top + jnp.where(none, 0.0, rest))[..., None]
    odds = jnp.exp(jnp.minimum(jnp.where(none[..., None], -jnp.inf, odds), 80.0))
    by_logits = jnp.sum(jnp.where(seen, near, far) * tangents[0], axis=-1)
    by_columns = jnp.sum(jnp.where(seen, p / hit, odds) * tangents[1], axis=-1)
    return _mixed_surprise(logits, columns), by_logits - by_columns


def forward_corrected(
    logits: jax.Array,
    labels: jax.Array,
    *,
    transition: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy of the given label under predictions that were first corrupted as the labels are.

    .. math:: -\log \sum_i p_i\, T_{iy}, \qquad T_{iy} = P(\text{given } y \mid \text{true } i)

    For class-conditional noise whose rates are known or estimated: minimised by the classifier of clean labels. Prefer
    it to `backward_corrected`, which is unbiased but may be negative and has a large variance. The transition may be
    traced, and learned. The identity gives cross-entropy.

    Args:
      logits: Unnormalised log-probabilities of the true classes, float `[..., classes]`; -inf is a class that does not
        exist.
      labels: Given classes, integer `[...]`, in [0, classes).
      transition: Probability of each given class (column) for each true class (row), real `[classes, classes]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class, or a known `transition` has entries outside
        [0, 1] or rows that do not sum to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> flips = jnp.array([[0.75, 0.25], [0.25, 0.75]])
      >>> loss = forward_corrected(jnp.zeros((1, 2)), jnp.array([0]), transition=flips)
      >>> round(loss.item(), 4)  # -log (0.5 * 0.75 + 0.5 * 0.25)
      0.6931

    Reference:
      Patrini et al., *Making deep neural networks robust to label noise: a loss correction approach*, 2017.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    logits, labels, known = labelled(where, logits, labels)
    columns = _of_label(jnp.transpose(_transition(transition, logits)), labels, logits)
    return reduce(known * _mixed_surprise(logits, columns), where, weights, reduction)


def backward_corrected(
    logits: jax.Array,
    labels: jax.Array,
    *,
    transition: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropies of all labels, combined so that their expectation is the cross-entropy of the true one.

    .. math:: -\sum_j (T^{-1})_{yj} \log p_j, \qquad T_{ij} = P(\text{given } j \mid \text{true } i)

    Unbiased for class-conditional noise, at a price: it may be negative, is unbounded below, and its variance grows
    with the inverse of the transition. `forward_corrected` has none of that and is the better default. The identity
    gives cross-entropy. A class that does not exist has no part in the sum, unless it is the label.

    Args:
      logits: Unnormalised log-probabilities of the true classes, float `[..., classes]`; -inf is a class that does not
        exist.
      labels: Given classes, integer `[...]`, in [0, classes).
      transition: Probability of each given class (column) for each true class (row), real `[classes, classes]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class, or a known `transition` has entries outside
        [0, 1], rows that do not sum to 1 or no inverse.

    Example:
      >>> import jax.numpy as jnp
      >>> flips = jnp.array([[0.75, 0.25], [0.25, 0.75]])  # the inverse has rows (1.5, -0.5) and (-0.5, 1.5)
      >>> loss = backward_corrected(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([1]), transition=flips)
      >>> round(loss.item(), 4)  # 0.5 log (1/4) - 1.5 log (3/4)
      -0.2616

    Reference:
      Patrini et al., *Making deep neural networks robust to label noise: a loss correction approach*, 2017.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    logits, labels, known = labelled(where, logits, labels)
    given = _transition(transition, logits)
    certain = _check.concrete(transition)
    if certain is not None and np.linalg.matrix_rank(certain.astype(np.float64)) < certain.shape[0]:
        raise ValueError("transition must have an inverse, got a singular matrix")
    inverse = jnp.linalg.inv(given)
    rest = jnp.eye(given.shape[0], dtype=given.dtype) - jnp.matmul(given, inverse, precision="highest")
    inverse = inverse + jnp.matmul(inverse, rest, precision="highest")
    absent = jnp.isneginf(logits) & ~_numerics.one_hot(labels, logits)
    rows = jnp.where(absent, 0, _of_label(inverse, labels, logits))
    part = _numerics.cross_entropy(logits, rows / 64.0)  # terms of both signs may overflow where their sum does not
    return reduce(known * (64.0 * part), where, weights, reduction)
