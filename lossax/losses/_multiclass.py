"""One class out of several: one unit per row; the classes are the last axis."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper, _numerics
from lossax._heads import label_loss, squared_log_partition
from lossax._reduction import labelled, masked, reduce, unit_weights
from lossax._types import Reduction


def _nonnegative(targets: jax.Array) -> jax.Array:
    """A factor of 1 for each unit: NaN where a traced target is negative. By the row, which XLA fuses."""
    lowest = jax.lax.stop_gradient(jnp.min(targets, axis=-1, initial=0.0))
    known = _check.domain("nonnegative", lambda t: t >= 0, targets=lowest)
    return jnp.where(jnp.isnan(known), known, 1)


def _of_classes(class_weights: Any, rows: jax.Array) -> jax.Array:
    """The weights of the classes in the dtype and rank of the rows."""
    _check.real(class_weights=class_weights)
    shape, _ = _check.spec(class_weights)
    if shape != rows.shape[-1:]:
        raise ValueError(f"class_weights must be [{rows.shape[-1]}], one for each class, got {list(shape)}")
    return jnp.asarray(class_weights).astype(rows.dtype).reshape((1,) * (rows.ndim - 1) + shape)


def _weigh(class_weights: Any, rows: jax.Array, labels: jax.Array, where: Any, weights: Any) -> Any:
    """The weight of each unit times that of its label's class."""
    if class_weights is None:
        return weights
    of_label = jnp.sum(_of_classes(class_weights, rows) * _numerics.one_hot(labels, rows).astype(rows.dtype), axis=-1)
    return unit_weights(labels.shape, where, weights, dtype=rows.dtype) * of_label


def softmax_cross_entropy_with_integer_labels(
    logits: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: ArrayLike = 0.0,
    soft_cap: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of the true class: the loss of classification and of language models.

    .. math:: (1 - \epsilon)\,(L - z_y) + \frac{\epsilon}{K} \sum_{j} (L - z_j) + \lambda L^2, \qquad
        L = \log \textstyle\sum_j e^{z_j}, \quad z = c \tanh(x / c)

    All digits are kept when a row is confident. A logit of -inf is a class that does not exist: it has no probability
    and, with the sum over the K that do, no part in the smoothing. Labels to be ignored are masked:
    `where=labels != -100`. Terms whose argument is the Python number 0 are left out of the program.

    Defaults are those of Optax. The mean is over total weight, with `class_weights` a part of it, as in torch's
    `cross_entropy` with integer labels; torch lets the smoothing term have the weights of all classes, here it has that
    of the label. Liger's `lse_square_scale` and PaLM's auxiliary loss (1e-4) are `z_loss`.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`.
      labels: True classes, integer `[...]`, in [0, classes).
      label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1].
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1.
      z_loss: Weight of the squared log-partition, nonnegative.
      soft_cap: Bound that logits are bent towards before all else, positive; `None` leaves them.
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
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> round(softmax_cross_entropy_with_integer_labels(logits, jnp.array([1])).item(), 4)  # log 4
      1.3863

    Reference:
      Bridle, *Probabilistic interpretation of feedforward classification network outputs*, 1990; Szegedy et al.,
      *Rethinking the Inception architecture for computer vision*, 2016 (smoothing); Chowdhery et al., *PaLM: scaling
      language modeling with pathways*, 2022 (z-loss); Gemma Team, *Gemma 2*, 2024 (cap).
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.fraction(label_smoothing=label_smoothing)
    _check.nonnegative(z_loss=z_loss)
    logits, labels, known = labelled(where, logits, labels)
    _, smoothing, squared = masked(None, logits, label_smoothing, z_loss)
    cap = None
    if soft_cap is not None:
        _check.positive(soft_cap=soft_cap)
        _, cap = masked(None, logits, soft_cap)
    smoothing = None if _hyper.is_zero(label_smoothing) else smoothing
    squared = None if _hyper.is_zero(z_loss) else squared
    loss = known * label_loss(logits, labels, smoothing, None, squared, cap)
    return reduce(loss, where, _weigh(class_weights, logits, labels, where, weights), reduction)


def softmax_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: ArrayLike = 0.0,
    soft_cap: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy with a distribution: soft labels, mixup, the outputs of another model.

    .. math:: -\sum_j w_j\,t'_j \log \mathrm{softmax}(z)_j + \lambda L^2, \qquad
        t' = (1 - \epsilon)\,t + \epsilon / K, \quad L = \log \textstyle\sum_j e^{z_j}, \quad z = c \tanh(x / c)

    With integer labels `softmax_cross_entropy_with_integer_labels` is faster. One-hot rows keep all their digits too. A
    logit of -inf against a target of exactly 0 is a class that does not exist (Optax, torch and Keras give NaN).
    Targets need not sum to 1.

    Defaults are those of Optax. `class_weights` belong to the terms of the sum and not to the units, as in torch's
    `cross_entropy` with probabilities: a mean is not divided by them.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`.
      targets: True probabilities, real `[..., classes]`, nonnegative.
      label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1].
      class_weights: Weight of each class in the sum, real `[classes]`; `None` is 1.
      z_loss: Weight of the squared log-partition, nonnegative.
      soft_cap: Bound that logits are bent towards before all else, positive; `None` leaves them.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is negative or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> loss = softmax_cross_entropy(logits, jnp.array([[0.5, 0.5, 0.0]]))
      >>> round(loss.item(), 4)  # (log 2 + log 4) / 2
      1.0397

    Reference:
      Bridle, *Probabilistic interpretation of feedforward classification network outputs*, 1990; Szegedy et al.,
      *Rethinking the Inception architecture for computer vision*, 2016 (smoothing).
    """
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.same_shape(logits=logits, targets=targets)
    _check.units_of({"logits": logits})
    _check.fraction(label_smoothing=label_smoothing)
    _check.nonnegative(z_loss=z_loss)
    logits, targets = masked(where, logits, targets, event=1)
    _, smoothing, squared = masked(None, logits, label_smoothing, z_loss)
    known = _nonnegative(targets)
    if soft_cap is not None:
        _check.positive(soft_cap=soft_cap)
        logits = _numerics.soft_cap(*masked(None, logits, soft_cap))
    if not _hyper.is_zero(label_smoothing):
        spread = jnp.sum(targets, axis=-1, keepdims=True) * _numerics.uniform(logits)
        targets = (1.0 - smoothing) * targets + smoothing * spread
    if class_weights is not None:
        targets = targets * _of_classes(class_weights, logits)
    loss = known * _numerics.cross_entropy(logits, targets)
    if not _hyper.is_zero(z_loss):
        loss = loss + squared_log_partition(logits, squared)
    return reduce(loss, where, weights, reduction)


def softmax_focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: ArrayLike = 2.0,
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy that turns away from rows that are already right: for many easy examples.

    .. math:: -(1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(z)

    Where several classes may hold at once use `sigmoid_focal`. `class_weights` are a part of the unit's weight, so the
    mean is divided by them; Keras' `CategoricalFocalCrossentropy` has 0.25 for every class and does not divide, MONAI's
    `alpha` is the weight of every class but the first, which has 1 - alpha. segmentation_models.pytorch's multiclass
    `FocalLoss` is `sigmoid_focal` of one-hot labels, another loss. The paper and the peers have `gamma=2`.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      labels: True classes, integer `[...]`, in [0, classes).
      gamma: How fast the weight falls with confidence, nonnegative; 0 is cross-entropy.
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `gamma` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> round(softmax_focal(jnp.zeros((1, 2)), jnp.array([0])).item(), 4)  # (1/2)^2 log 2
      0.1733

    Reference:
      Lin et al., *Focal loss for dense object detection*, 2017.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.nonnegative(gamma=gamma)
    logits, labels, known = labelled(where, logits, labels)
    _, gamma = masked(None, logits, gamma)
    surprise, miss = _numerics.label_surprise(logits, labels), _numerics.label_miss(logits, labels)
    loss = known * _numerics.focal_surprise(surprise, miss, gamma)
    return reduce(loss, where, _weigh(class_weights, logits, labels, where, weights), reduction)


def poly1(
    logits: jax.Array,
    labels: jax.Array,
    *,
    epsilon: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy with the first term of its series in 1 - p made heavier, or lighter.

    .. math:: -\log p_y + \epsilon\,(1 - p_y), \qquad p = \mathrm{softmax}(z)

    A cheap change to try once cross-entropy works: above 0 it pushes confident rows further, below 0 less. The paper
    tunes `epsilon` by task and so should you; 1 is also rax' default, Optax' `poly_loss_cross_entropy` has 2.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      labels: True classes, integer `[...]`, in [0, classes).
      epsilon: What is added to the coefficient 1 of the first term, -1 or more; 0 is cross-entropy.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `epsilon` is under -1.

    Example:
      >>> import jax.numpy as jnp
      >>> round(poly1(jnp.zeros((1, 2)), jnp.array([0])).item(), 4)  # log 2 + 1/2
      1.1931

    Reference:
      Leng et al., *PolyLoss: a polynomial expansion perspective of classification loss functions*, 2022.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.at_least(-1.0, epsilon=epsilon)
    logits, labels, known = labelled(where, logits, labels)
    _, epsilon = masked(None, logits, epsilon)
    surprise, miss = _numerics.label_surprise(logits, labels), _numerics.label_miss(logits, labels)
    loss = (1.0 + epsilon) * miss + _numerics.surprise_excess(surprise)  # no signs: nothing cancels near -1
    return reduce(known * loss, where, weights, reduction)


def cross_entropy(
    probabilities: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy between distributions, given as probabilities.

    .. math:: -\sum_j t_j \log p_j

    For models that end in probabilities. With logits at hand `softmax_cross_entropy` is better: a probability near 1
    has lost its digits before it gets here. Probabilities are neither clipped nor normalised (Keras does both); the
    logarithm alone is floored, at the smallest normal number of the dtype (about -87 in float32). 0 log 0 is 0.

    Args:
      probabilities: Estimated probabilities, float `[..., classes]`, in [0, 1].
      targets: True probabilities, real `[..., classes]`, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `probabilities` are not floating point.
      ValueError: if shapes differ, a known probability is outside [0, 1] or a known target negative.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = cross_entropy(jnp.array([0.5, 0.25, 0.25]), jnp.array([0.5, 0.5, 0.0]))
      >>> round(loss.item(), 4)  # (log 2 + log 4) / 2
      1.0397

    Reference:
      Good, *Rational decisions*, 1952.
    """
    _check.floating(probabilities=probabilities)
    _check.real(targets=targets)
    _check.same_shape(probabilities=probabilities, targets=targets)
    _check.units_of({"probabilities": probabilities})
    probabilities, targets = masked(where, probabilities, targets, event=1, fill=0.5)
    p = _check.domain("in [0, 1]", lambda p: (p >= 0) & (p <= 1), probabilities=probabilities)
    loss = _nonnegative(targets) * jnp.sum(_numerics.weighted_surprise(p, targets), axis=-1)
    return reduce(loss, where, weights, reduction)


def cross_entropy_with_integer_labels(
    probabilities: jax.Array,
    labels: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of the true class, given probabilities.

    .. math:: -\log p_y

    For models that end in probabilities. With logits at hand `softmax_cross_entropy_with_integer_labels` is better: a
    probability near 1 has lost its digits before it gets here. Nothing is clipped or normalised (Keras does both);
    the logarithm alone is floored, at the smallest normal number of the dtype (about -87 in float32).

    Args:
      probabilities: Estimated probabilities, float `[..., classes]`, in [0, 1].
      labels: True classes, integer `[...]`, in [0, classes).
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `probabilities` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a known probability is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> loss = cross_entropy_with_integer_labels(jnp.array([0.5, 0.25, 0.25]), jnp.array(1))
      >>> round(loss.item(), 4)  # log 4
      1.3863

    Reference:
      Good, *Rational decisions*, 1952.
    """
    _check.floating(probabilities=probabilities)
    _check.integer(labels=labels)
    _check.units_of({"probabilities": probabilities}, labels=labels)
    probabilities, labels, known = labelled(where, probabilities, labels)
    p = _check.domain("in [0, 1]", lambda p: (p >= 0) & (p <= 1), probabilities=probabilities)
    chosen = jnp.take_along_axis(p, labels[..., None], axis=-1, mode="clip")[..., 0]
    return reduce(_numerics.weighted_surprise(chosen, known), where, weights, reduction)


def multiclass_hinge(
    logits: jax.Array,
    labels: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Linear until the true class leads its best rival by a margin: the support vector machine of Crammer and Singer.

    .. math:: \max\big(0,\ m + \max_{j \ne y} z_j - z_y\big)

    For margins and not for probabilities. Optax' `multiclass_hinge_loss` is the same. Keras' `CategoricalHinge` takes
    the best rival to be 0 at least, which is another loss once logits are negative. Rivals that tie share the slope.

    Args:
      logits: Decision values, float `[..., classes]`; -inf is a class that does not exist.
      labels: True classes, integer `[...]`, in [0, classes).
      margin: Lead that counts as right enough, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> multiclass_hinge(jnp.array([[-2.0, -5.0, -4.0]]), jnp.array([1])).item()  # 1 - 2 + 5
      4.0

    Reference:
      Crammer and Singer, *On the algorithmic implementation of multiclass kernel-based vector machines*, 2001.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.positive(margin=margin)
    logits, labels, known = labelled(where, logits, labels)
    _, margin = masked(None, logits, margin)
    lead = _numerics.best_rival(logits, labels)
    return reduce(known * _numerics.positive_part(margin + lead), where, weights, reduction)


def weston_watkins_hinge(
    logits: jax.Array,
    labels: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    squared: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""A hinge against every rival, summed: the support vector machine of Weston and Watkins.

    .. math:: \sum_{j \ne y} \max(0,\ m + z_j - z_y)^q, \qquad q \in \{1, 2\}

    Every rival within the margin pushes, where in `multiclass_hinge` the best alone does. torch's `multi_margin_loss`
    is this divided by the number of classes, with `p=2` for `squared`.

    Args:
      logits: Decision values, float `[..., classes]`; -inf is a class that does not exist.
      labels: True classes, integer `[...]`, in [0, classes).
      margin: Lead that counts as right enough, positive.
      squared: Whether to square the terms, which removes their kink.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> weston_watkins_hinge(jnp.array([[-2.0, -5.0, -4.0]]), jnp.array([1])).item()  # 4 + 2
      6.0

    Reference:
      Weston and Watkins, *Support vector machines for multi-class pattern recognition*, 1999.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.positive(margin=margin)
    logits, labels, known = labelled(where, logits, labels)
    _, margin = masked(None, logits, margin)
    violation = _numerics.positive_part(margin + _numerics.each_rival(logits, labels))
    return reduce(known * jnp.sum(violation * violation if squared else violation, axis=-1), where, weights, reduction)


def multiclass_perceptron(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Costs a mistake by the lead of the best rival and a right decision nothing.

    .. math:: \max\big(0,\ \max_{j \ne y} z_j - z_y\big)

    `multiclass_hinge` without a margin. A tie counts as a mistake, so that a model which starts from zeros learns;
    rivals that tie share the slope.

    Args:
      logits: Decision values, float `[..., classes]`; -inf is a class that does not exist.
      labels: True classes, integer `[...]`, in [0, classes).
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit or a known label names no class.

    Example:
      >>> import jax.numpy as jnp
      >>> multiclass_perceptron(jnp.array([[-2.0, -5.0, -4.0]]), jnp.array([1])).item()
      3.0

    Reference:
      Collins, *Discriminative training methods for hidden Markov models*, 2002.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    logits, labels, known = labelled(where, logits, labels)
    lead = _numerics.best_rival(logits, labels)
    return reduce(known * jnp.where(lead < 0, 0, lead), where, weights, reduction)
