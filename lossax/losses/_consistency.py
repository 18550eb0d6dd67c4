"""Losses on rows of logits that ask for agreement or for modesty rather than for a label alone."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._reduction import labelled, masked, reduce
from lossax._types import Reduction


def fixmatch(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    threshold: ArrayLike = 0.95,
    temperature: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy with the model's own answer to an easier view, where that answer is sure.

    .. math:: \mathbb 1\big[\max_k q_k \ge \tau\big]\, \Big({-\sum_k} \hat q_k \log p_k\Big), \qquad
        p = \mathrm{softmax}(z), \quad q = \mathrm{softmax}(z'), \quad \hat q = \mathrm{onehot}(\arg\max q)

    For unlabelled examples: `logits` of the strong augmentation, `teacher_logits` of the weak one, or of an average of
    the parameters. No gradient flows to the teacher. An example that is not sure costs 0 but stays in the mean, as in
    the paper; `threshold=0` is pseudo-labelling without a threshold. With `temperature` the targets are soft,
    `softmax(z' / temperature)`, as in UDA (0.4, threshold 0.8). Thresholds for each class that follow the model's
    progress are FlexMatch: `lossax.objectives.flexmatch`.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`.
      teacher_logits: Those of the easier view, float `[..., classes]`.
      threshold: Probability from which the teacher is believed, in [0, 1]; a scalar, or `[classes]` for each answer.
      temperature: Of soft targets, positive; `None` makes them hard.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ, `threshold` does not fit the classes or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.zeros((2, 2))
      >>> teacher = jnp.log(jnp.array([[0.99, 0.01], [0.6, 0.4]]))
      >>> [round(x, 4) for x in fixmatch(logits, teacher, reduction="none").tolist()]  # log 2, then not sure
      [0.6931, 0.0]

    Reference:
      Sohn et al., *FixMatch: simplifying semi-supervised learning with consistency and confidence*, 2020; Xie et al.,
      *Unsupervised data augmentation for consistency training*, 2020 (soft targets).
    """
    _check.floating(logits=logits, teacher_logits=teacher_logits)
    _check.same_shape(logits=logits, teacher_logits=teacher_logits)
    _check.units_of({"logits": logits})
    _check.fraction(threshold=threshold)
    logits, teacher = masked(where, logits, teacher_logits, event=1)
    teacher = jax.lax.stop_gradient(teacher)
    answer = jnp.argmax(teacher, axis=-1)
    confidence = jnp.max(_numerics.softmax_pair(teacher)[0], axis=-1)
    limit = jnp.asarray(threshold).astype(logits.dtype)
    if limit.ndim:
        if limit.shape != logits.shape[-1:]:
            raise ValueError(f"threshold must be a scalar or [{logits.shape[-1]}], got {list(limit.shape)}")
        limit = limit[answer]
    if temperature is None:
        loss = _numerics.label_surprise(logits, answer)
    else:
        _check.positive(temperature=temperature)
        _, temperature = masked(None, logits, temperature)
        loss = _numerics.cross_entropy(logits, _numerics.softmax_pair(teacher / temperature)[0])
    return reduce(jnp.where(confidence >= limit, loss, 0), where, weights, reduction)


@jax.custom_jvp
def _binary_kl(surprise: jax.Array, miss: jax.Array, alpha: jax.Array) -> jax.Array:
    """KL of (1 - a, a) to (p, 1 - p), where p = exp(-surprise) = 1 - miss; the derivative is along the surprise."""
    keep, excess = 1.0 - alpha, miss - alpha
    near = jnp.abs(excess) < 0.5 * jnp.minimum(alpha, keep)
    excess = jnp.where(near, excess, 0)
    terms = [_numerics.x_minus_log1p(_numerics.divide(x, t)) for x, t in ((excess, alpha), (-excess, keep))]
    close = alpha * terms[0] + keep * terms[1]
    far = keep * surprise + _numerics.xlogy(keep, keep) + _numerics.xlogy(alpha, alpha) - _numerics.xlogy(alpha, miss)
    return jnp.where(near, close, far)


@_binary_kl.defjvp
def _(primals, tangents):
    surprise, miss, alpha = primals
    by_surprise = _numerics.divide(miss - alpha, miss)
    tiny = jnp.finfo(miss.dtype).tiny
    by_alpha = _numerics.log_ratio(jnp.maximum(alpha, tiny), jnp.maximum(miss, tiny)) - jnp.log1p(-alpha) - surprise
    return _binary_kl(*primals), by_surprise * tangents[0] + by_alpha * tangents[2]


def label_relaxation(
    logits: jax.Array,
    labels: jax.Array,
    *,
    alpha: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy that stops pushing once the label has most of the probability: label smoothing without a target.

    .. math:: \begin{cases} 0 & p_y \ge 1 - \alpha \\
        (1 - \alpha) \log \frac{1 - \alpha}{p_y} + \alpha \log \frac{\alpha}{1 - p_y} & \text{else} \end{cases}

    The target is every distribution that gives the label at least :math:`1 - \alpha`; the loss is the divergence from
    the nearest of them. Smoothing (`label_smoothing=` of cross-entropy) pulls a confident row back, this leaves it
    alone. At `alpha=0` it is cross-entropy.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`.
      labels: True classes, integer `[...]`, in [0, classes).
      alpha: Probability that the other classes may have, in [0, 1].
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `alpha` is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))
      >>> [round(x, 4) for x in label_relaxation(logits, jnp.array([0, 0]), alpha=0.25, reduction="none").tolist()]
      [0.0, 0.1308]

    Reference:
      Lienen and Huellermeier, *From label smoothing to label relaxation*, 2021.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.fraction(alpha=alpha)
    logits, labels, known = labelled(where, logits, labels)
    _, alpha = masked(None, logits, alpha)
    surprise, miss = _numerics.label_surprise(logits, labels), _numerics.label_miss(logits, labels)
    loss = jnp.where(miss > alpha, _binary_kl(surprise, miss, alpha * jnp.ones_like(miss)), 0.0 * surprise)
    return reduce(known * loss, where, weights, reduction)


def confidence_penalty(
    logits: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative entropy of the predicted distribution: added to a loss, it keeps a model from being sure too early.

    .. math:: \sum_k p_k \log p_k, \qquad p = \mathrm{softmax}(z)

    The paper adds 0.1 of it to cross-entropy; in reinforcement learning it is the entropy bonus. From `-log(classes)`
    for a flat row to 0 for a certain one. Subtracted instead of added it is entropy minimisation.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if `logits` have no axis.

    Example:
      >>> import jax.numpy as jnp
      >>> round(confidence_penalty(jnp.zeros((1, 2))).item(), 4)  # -log 2
      -0.6931

    Reference:
      Pereyra et al., *Regularizing neural networks by penalizing confident output distributions*, 2017.
    """
    _check.floating(logits=logits)
    _check.units_of({"logits": logits})
    (logits,) = masked(where, logits, event=1)
    return reduce(-_numerics.entropy(logits), where, weights, reduction)
