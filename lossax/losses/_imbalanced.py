"""Classes of very different frequency, and targets between two bins: one unit per row, classes on the last axis."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _double, _numerics
from lossax._reduction import labelled, masked, reduce
from lossax._types import Reduction


def _counts(class_counts: Any, rows: jax.Array) -> jax.Array:
    """The counts, checked, in the dtype of the rows."""
    _check.real(class_counts=class_counts)
    _check.of_classes(rows.shape[-1], class_counts=class_counts)
    _check.nonnegative(class_counts=class_counts)
    return jnp.asarray(class_counts).astype(rows.dtype)


def _at(logits: jax.Array, labels: jax.Array, values: jax.Array) -> jax.Array:
    """The value that belongs to each label, with an axis for the classes; `values` are `[classes]` or rows."""
    own = _numerics.one_hot(labels, logits)
    return jnp.sum(jnp.where(own, values, 0), axis=-1, keepdims=True)


def _best_rival(scores: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The index of the best of the other classes that exist."""
    gone = _numerics.one_hot(labels, logits) | jnp.isneginf(logits)
    return jnp.argmax(jnp.where(gone, -jnp.inf, scores), axis=-1)


def _above(logits: jax.Array, pivot: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How far each class is above another, as a pair; what does not exist is left out by `_surprise`."""
    logits = jnp.where(jnp.isneginf(logits), 0.0, logits)
    return _double.add(logits, jax.lax.stop_gradient(-_at(logits, pivot, logits)))


def _odds(high: jax.Array, low: jax.Array, own: jax.Array, exists: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The value of `_surprise`, and its derivative by each entry of `high`."""
    rivals = jnp.where(own | ~exists, -jnp.inf, high + low)
    best = jnp.max(rivals, axis=-1, keepdims=True)
    best = jnp.where(jnp.isneginf(best), 0.0, best)
    mass = jnp.exp(rivals - best)
    total = jnp.sum(mass, axis=-1, keepdims=True)
    # What the label is above them, as a pair: that alone is large and matters. No exp(a) exp(b): XLA would add them.
    gap, rest = _double.add(jnp.sum(jnp.where(own, high, 0.0), axis=-1, keepdims=True), -best)
    rest = jnp.clip(rest + jnp.sum(jnp.where(own, low, 0.0), axis=-1, keepdims=True), -0.5, 0.5)
    wrong = gap < 0
    share = jnp.exp(-jnp.abs(gap)) * (1.0 + jnp.where(wrong, rest, -rest))
    whole = jnp.where(wrong, total + share, 1.0 + total * share)
    value = jnp.where(wrong, (jnp.log(whole) - rest) - gap, jnp.log1p(jnp.where(wrong, 0.0, total * share)))
    p = jnp.where(wrong, mass, mass * share) / whole
    value = jnp.where(total > 0, value, 0.0)
    missing = jnp.any(own & ~exists, axis=-1, keepdims=True)
    slope = jnp.where(own, -jnp.sum(p, axis=-1, keepdims=True), p)
    return jnp.where(missing, jnp.inf, value)[..., 0], jnp.where(missing, 0.0, slope)


@jax.custom_jvp
def _surprise(high: jax.Array, low: jax.Array, own: jax.Array, exists: jax.Array) -> jax.Array:
    """-log softmax(high + low) of each row's own class; the numbers are counted from about the best of the others.

    Only the label's may then be large, and of that the second number keeps the digits that the first has lost.
    """
    return _odds(high, low, own, exists)[0]


@_surprise.defjvp
def _(primals, tangents):
    slope = _odds(*primals)[1]
    return _surprise(*primals), jnp.sum(slope * tangents[0], axis=-1)


def ldam(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_counts: ArrayLike,
    max_margin: ArrayLike = 0.5,
    scale: ArrayLike = 30.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy with a margin that is larger the rarer the class (label-distribution-aware margin).

    .. math:: -\log \mathrm{softmax}\big(s\,(z - \Delta_y e_y)\big)_y, \qquad
        \Delta_j = \Delta_{\max} \Big(\frac{\min_k n_k}{n_j}\Big)^{1/4}

    For long tails. The logits are cosines: rows of the last layer and its input have length 1, else the margin means
    nothing. The paper trains without weights first and with those of `targets.class_balanced_weights` late (deferred
    re-weighting: a schedule, shown there): `weights=class_weights[labels]`. Defaults are those of the official code.

    Args:
      logits: Cosines of features and class vectors, float `[..., classes]`; -inf is a class that does not exist.
      labels: True classes, integer `[...]`, in [0, classes).
      class_counts: How often each class occurs in the training set, or numbers proportional to that, real `[classes]`,
        nonnegative; a class of count 0 has the largest margin.
      max_margin: Margin of the rarest class that occurs, in units of the logits; nonnegative.
      scale: What the logits are multiplied by after the margin, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> counts = jnp.array([160.0, 10.0])  # margins 0.25 and 0.5
      >>> loss = ldam(jnp.array([[0.25, 0.0]]), jnp.array([0]), class_counts=counts)
      >>> round(loss.item(), 4)  # log 2
      0.6931

    Reference:
      Cao et al., *Learning imbalanced datasets with label-distribution-aware margin loss*, 2019.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.nonnegative(max_margin=max_margin)
    _check.positive(scale=scale)
    logits, labels, known = labelled(where, logits, labels)
    _, max_margin, scale = masked(None, logits, max_margin, scale)
    counts = _counts(class_counts, logits)
    rarest = jnp.min(jnp.where(counts > 0, counts, jnp.inf), initial=jnp.inf)
    share = jnp.where(counts > rarest, rarest / jnp.where(counts > 0, counts, 1.0), 1.0)
    margins = max_margin * jnp.sqrt(jnp.sqrt(share))
    margin = _at(logits, labels, margins.reshape((1,) * (logits.ndim - 1) + (-1,)))
    own = _numerics.one_hot(labels, logits)
    above, low = _above(logits, _best_rival(logits, logits, labels))
    above, lower = _double.add(above, jnp.where(own, -margin, 0.0))
    above, lowest = _double.multiply(jnp.broadcast_to(scale, above.shape), above)
    loss = _surprise(above, lowest + scale * (low + lower), own, ~jnp.isneginf(logits))
    return reduce(known * loss, where, weights, reduction)


def logit_adjusted(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_counts: ArrayLike,
    tau: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy of logits that learn what is left when the frequency of the classes is known: balanced softmax.

    .. math:: -\log \mathrm{softmax}(z + \tau \log \pi)_y, \qquad \pi_j = n_j / \textstyle\sum_k n_k

    The first thing to try when every class counts the same in the end: at `tau=1` the logits themselves, without
    adjustment, decide with the least balanced error, which is balanced softmax (Ren et al.). A model that was trained
    with plain cross-entropy is adjusted afterwards by `logits - tau * jnp.log(priors)` instead.

    Args:
      logits: Unnormalised log-probabilities under equal frequencies, float `[..., classes]`; -inf is a class that does
        not exist.
      labels: True classes, integer `[...]`, in [0, classes).
      class_counts: How often each class occurs in the training set, or priors, or any numbers proportional to that,
        real `[classes]`, nonnegative; a class of count 0 does not exist.
      tau: Strength of the adjustment, nonnegative; 0 is cross-entropy.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = logit_adjusted(jnp.zeros((1, 2)), jnp.array([0]), class_counts=jnp.array([10, 30]))
      >>> round(loss.item(), 4)  # -log (10 / 40)
      1.3863

    Reference:
      Menon et al., *Long-tail learning via logit adjustment*, 2021; Ren et al., *Balanced meta-softmax for long-tailed
      visual recognition*, 2020.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.nonnegative(tau=tau)
    logits, labels, known = labelled(where, logits, labels)
    _, tau = masked(None, logits, tau)
    counts = _counts(class_counts, logits)
    seen = counts > 0
    share = jnp.where(seen, counts, 1.0) / jnp.max(counts, initial=jnp.finfo(counts.dtype).tiny)
    log_share = jnp.where(seen, jnp.log(share), 0.0).reshape((1,) * (logits.ndim - 1) + (-1,))
    missing = (~seen).reshape(log_share.shape) & (tau > 0)
    logits = jnp.where(missing, -jnp.inf, logits)
    pivot = _best_rival(logits + tau * log_share, logits, labels)
    offset, low = _double.add(log_share, jax.lax.stop_gradient(-_at(logits, pivot, log_share)))
    offset, lower = _double.multiply(jnp.broadcast_to(tau, offset.shape), offset)
    above, lowest = _above(logits, pivot)
    above, last = _double.add(above, offset)
    own, exists = _numerics.one_hot(labels, logits), ~jnp.isneginf(logits)
    loss = _surprise(above, (tau * low + lower) + (lowest + last), own, exists)
    return reduce(known * loss, where, weights, reduction)


@jax.custom_jvp
def _quarter_surprise(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """A quarter of -log softmax of each label, which may itself overflow."""
    surprise = _numerics.label_surprise(logits, labels)
    return jnp.where(surprise < 1e30, 0.25 * surprise, _numerics.label_surprise(0.25 * logits, labels))


@_quarter_surprise.defjvp
def _(primals, tangents):
    logits, labels = primals
    _, tangent = jax.jvp(lambda z: _numerics.label_surprise(z, labels), (logits,), (tangents[0],))
    return _quarter_surprise(logits, labels), 0.25 * tangent


def distribution_focal(
    logits: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy with the two bins on either side of a number: a distribution of box edges instead of one guess.

    .. math:: -(i + 1 - y) \log p_i - (y - i) \log p_{i+1}, \qquad i = \lfloor y \rfloor, \quad p = \mathrm{softmax}(z)

    The edge is then the mean, :math:`\sum_j j\,p_j`, in bins. GFL has 17 bins (its `reg_max` of 16, plus one) and adds
    a quarter of this to `quality_focal` and a box loss, each edge weighted by the quality. Where the bins stand for
    other numbers than 0, 1, 2, ..., scale the targets.

    Args:
      logits: Unnormalised log-probabilities of the bins, float `[..., bins]`.
      targets: True places in units of bins, real `[...]`, in [0, bins - 1].
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes do not fit or a known target is outside [0, bins - 1].

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> round(distribution_focal(logits, jnp.array([0.5])).item(), 4)  # (log 2 + log 4) / 2
      1.0397

    Reference:
      Li et al., *Generalized focal loss: learning qualified and distributed bounding boxes for dense object detection*,
      2020.
    """
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.units_of({"logits": logits}, targets=targets)
    (logits,) = masked(where, logits, event=1)
    targets = jnp.asarray(targets).astype(logits.dtype)
    (targets,) = masked(where, targets)
    last = logits.shape[-1] - 1
    targets = _check.domain(f"in [0, {last}]", lambda y: (y >= 0) & (y <= last), targets=targets)
    left = jax.lax.stop_gradient(jnp.clip(jnp.floor(targets), 0.0, max(last - 1.0, 0.0)))
    right = targets - left
    past = right > 0.5
    nearer = (left + jnp.where(past, 1.0, 0.0)).astype(jnp.int32)
    other = (left + jnp.where(past, 0.0, 1.0)).astype(jnp.int32)
    # The surprise of the nearer bin, and for the rest the gap to the other, exact however small that is; in quarters.
    gap = 0.5 * _at(logits, nearer, logits) - 0.5 * _at(logits, other, logits)
    rest = _numerics.scaled(0.5 * jnp.where(past, 1.0 - right, right), gap[..., 0])
    return reduce(4.0 * (_quarter_surprise(logits, nearer) + rest), where, weights, reduction)
