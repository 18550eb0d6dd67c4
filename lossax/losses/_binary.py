"""Binary classification: one unit per element, each a decision of its own (so multi-label too)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _fraction(targets: jax.Array) -> jax.Array:
    return _check.domain("in [0, 1]", lambda t: (t >= 0) & (t <= 1), targets=targets)


def _sign(signs: jax.Array) -> jax.Array:
    return _check.domain("-1 or +1", lambda y: (y == -1) | (y == 1), signs=signs)


def sigmoid_binary_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    pos_weight: ArrayLike = 1.0,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of yes or no, given log-odds: the loss of binary and multi-label classification.

    .. math:: -w\,y \log\sigma(z) - (1 - y) \log\sigma(-z), \qquad y = t\,(1 - \epsilon) + \epsilon / 2

    The choice for calibrated probabilities. All digits are kept when a decision is confident, however it falls. Given
    probabilities, use `binary_cross_entropy`, which cannot keep them.

    torch's `binary_cross_entropy_with_logits` and its `pos_weight` are the same; Keras' `BinaryCrossentropy` smooths
    in the same way and averages its last axis before weighting; Optax has neither weight nor smoothing.

    Args:
      logits: Log-odds of yes, float `[...]`.
      targets: Probability of yes, real or bool `[...]`, in [0, 1].
      pos_weight: Weight of the positive term, `[]` or broadcasting to the units (`[classes]`); nonnegative.
      label_smoothing: Share of each target that is replaced by 1/2, in [0, 1].
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1] or a hyperparameter outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = sigmoid_binary_cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0]))
      >>> round(loss.item(), 4)  # log 2
      0.6931

    Reference:
      Cox, *The regression analysis of binary sequences*, 1958; King and Zeng, *Logistic regression in rare events
      data*, 2001 (weight); Szegedy et al., *Rethinking the Inception architecture for computer vision*, 2016
      (smoothing).
    """
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.same_shape(logits=logits, targets=targets)
    _check.nonnegative(pos_weight=pos_weight)
    _check.fraction(label_smoothing=label_smoothing)
    logits, targets, pos_weight, label_smoothing = masked(where, logits, targets, pos_weight, label_smoothing)
    loss = _numerics.binary_cross_entropy(logits, _fraction(targets), pos_weight, label_smoothing)
    return reduce(loss, where, weights, reduction)


def sigmoid_focal(
    logits: jax.Array,
    targets: jax.Array,
    *,
    gamma: ArrayLike = 2.0,
    alpha: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Binary cross-entropy that turns away from what is already decided: for many easy negatives, as in detection.

    .. math:: \alpha_t\,(1 - p_t)^\gamma\,\mathrm{BCE}(z, t), \quad p_t = t\,p + (1 - t)(1 - p), \quad
        \alpha_t = \alpha\,t + (1 - \alpha)(1 - t), \quad p = \sigma(z)

    It does not calibrate, and mild imbalance alone is no reason for it. Detection divides the sum by the number of
    positives: `reduction="sum"`, then divide.

    The paper has `alpha=0.25`, like torchvision; Optax, MONAI and segmentation_models.pytorch weight neither side by
    default, and Keras' `BinaryFocalCrossentropy` ignores its 0.25 unless `apply_class_balancing=True`. On hard targets
    all are this loss. On soft ones torchvision, Keras and Optax are. With l the `sigmoid_binary_cross_entropy` of a
    unit, MONAI has :math:`\sigma((1 - 2t) z)^\gamma\, l`, segmentation_models.pytorch :math:`(1 - e^{-l})^\gamma\, l`,
    and :math:`|t - p|^\gamma\, l` is `quality_focal`. pytorch_optimizer's `FocalLoss` multiplies both sides by alpha;
    its `BCEFocalLoss` focuses and weights positives alone, which is `asymmetric` with `gamma_positive=gamma`,
    `gamma_negative=0`, `margin=0` and alpha as the weight of positives.

    Args:
      logits: Log-odds of yes, float `[...]`.
      targets: Probability of yes, real or bool `[...]`, in [0, 1].
      gamma: How fast the weight falls with confidence, nonnegative; 0 is `sigmoid_binary_cross_entropy`.
      alpha: Weight of positives, in [0, 1], against `1 - alpha` of negatives; `None` weights neither.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1] or a hyperparameter outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = sigmoid_focal(jnp.zeros(1), jnp.ones(1))
      >>> round(loss.item(), 4)  # (1/2)^2 log 2
      0.1733

    Reference:
      Lin et al., *Focal loss for dense object detection*, 2017.
    """
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.same_shape(logits=logits, targets=targets)
    _check.nonnegative(gamma=gamma)
    logits, targets, gamma = masked(where, logits, targets, gamma)
    targets = _fraction(targets)
    loss = _numerics.binary_focal(logits, targets, gamma)
    if alpha is not None:
        _check.fraction(alpha=alpha)
        _, alpha = masked(None, logits, alpha)
        loss = loss * (alpha * targets + (1.0 - alpha) * (1.0 - targets))
    return reduce(loss, where, weights, reduction)


def binary_cross_entropy(
    probabilities: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of yes or no, given probabilities.

    .. math:: -t \log p - (1 - t) \log(1 - p)

    For models that end in a probability. With logits at hand `sigmoid_binary_cross_entropy` is better: a probability
    near 1 has lost its digits before it gets here. Nothing is clipped; the logarithm alone is floored, at the smallest
    normal number of the dtype (about -87 in float32), so that an impossible event costs much and not infinitely much.
    torch floors it at -100, Keras clips probabilities at 1e-7.

    Args:
      probabilities: Probability of yes, float `[...]`, in [0, 1].
      targets: True probability of yes, real or bool `[...]`, in [0, 1].
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `probabilities` are not floating point.
      ValueError: if shapes differ or a known probability or target is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> loss = binary_cross_entropy(jnp.array([0.5, 1.0]), jnp.array([1.0, 1.0]), reduction="sum")
      >>> round(loss.item(), 4)  # log 2 + 0
      0.6931

    Reference:
      Good, *Rational decisions*, 1952.
    """
    _check.floating(probabilities=probabilities)
    _check.real(targets=targets)
    _check.same_shape(probabilities=probabilities, targets=targets)
    probabilities, targets = masked(where, probabilities, targets, fill=0.5)
    p = _check.domain("in [0, 1]", lambda p: (p >= 0) & (p <= 1), probabilities=probabilities)
    return reduce(_numerics.bernoulli_surprise(p, _fraction(targets)), where, weights, reduction)


def logistic(
    logits: jax.Array,
    signs: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Binary cross-entropy for labels -1 and +1, also called soft margin.

    .. math:: \log(1 + e^{-y z})

    `sigmoid_binary_cross_entropy` with `targets = (signs + 1) / 2`. torch's `soft_margin_loss` overflows from -88 on.

    Args:
      logits: Log-odds of +1, float `[...]`.
      signs: True classes, -1 or +1, real `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ or a known sign is neither -1 nor +1.

    Example:
      >>> import jax.numpy as jnp
      >>> round(logistic(jnp.zeros(2), jnp.array([-1, 1])).item(), 4)  # log 2
      0.6931

    Reference:
      Friedman, Hastie and Tibshirani, *Additive logistic regression: a statistical view of boosting*, 2000.
    """
    _check.floating(logits=logits)
    _check.real(signs=signs)
    _check.same_shape(logits=logits, signs=signs)
    logits, signs, one, none = masked(where, logits, signs, 1.0, 0.0, fill=1.0)
    loss = _numerics.binary_cross_entropy(_sign(signs) * logits, jnp.ones_like(logits), one, none)
    return reduce(loss, where, weights, reduction)


def hinge(
    logits: jax.Array,
    signs: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Linear until a decision is right by a margin, then nothing: the loss of the support vector machine.

    .. math:: \max(0, m - y z)

    For margins and not for probabilities. Labels are -1 and +1; 0 is refused, where Optax takes it for a label that
    costs 1 whatever the model says and Keras turns it into -1 if the whole batch is 0 and 1. torch's
    `hinge_embedding_loss` is another loss.

    Args:
      logits: Decision values, float `[...]`.
      signs: True classes, -1 or +1, real `[...]`.
      margin: Decision value that counts as right enough, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known sign is neither -1 nor +1 or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> hinge(jnp.array([0.5, 2.0]), jnp.array([1, -1]), reduction="none").tolist()
      [0.5, 3.0]

    Reference:
      Cortes and Vapnik, *Support-vector networks*, 1995.
    """
    _check.floating(logits=logits)
    _check.real(signs=signs)
    _check.same_shape(logits=logits, signs=signs)
    _check.positive(margin=margin)
    logits, signs, margin = masked(where, logits, signs, margin, fill=1.0)
    return reduce(_numerics.positive_part(margin - _sign(signs) * logits), where, weights, reduction)


def squared_hinge(
    logits: jax.Array,
    signs: jax.Array,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Quadratic until a decision is right by a margin, then nothing: the hinge without its kink.

    .. math:: \max(0, m - y z)^2

    Smoother to optimize than `hinge` and harder on outliers. scikit-learn's `LinearSVC` minimizes its sum by default;
    Keras' `SquaredHinge` is the same for labels -1 and +1. 0 is refused as a label.

    Args:
      logits: Decision values, float `[...]`.
      signs: True classes, -1 or +1, real `[...]`.
      margin: Decision value that counts as right enough, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known sign is neither -1 nor +1 or `margin` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> squared_hinge(jnp.array([0.5, 2.0]), jnp.array([1, -1]), reduction="none").tolist()
      [0.25, 9.0]

    Reference:
      Zhang, *Statistical behavior and consistency of classification methods based on convex risk minimization*, 2004.
    """
    _check.floating(logits=logits)
    _check.real(signs=signs)
    _check.same_shape(logits=logits, signs=signs)
    _check.positive(margin=margin)
    logits, signs, margin = masked(where, logits, signs, margin, fill=1.0)
    violation = _numerics.positive_part(margin - _sign(signs) * logits)
    return reduce(violation * violation, where, weights, reduction)


def perceptron(
    logits: jax.Array,
    signs: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Costs a mistake by its size and a right decision nothing: the hinge without a margin.

    .. math:: \max(0, -y z)

    A decision value of exactly 0 counts as a mistake, as in Rosenblatt's rule: its slope is -y, so that a model which
    starts from zeros learns (Optax has half of it). 0 is refused as a label. For a margin use `hinge`.

    Args:
      logits: Decision values, float `[...]`.
      signs: True classes, -1 or +1, real `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ or a known sign is neither -1 nor +1.

    Example:
      >>> import jax.numpy as jnp
      >>> perceptron(jnp.array([0.5, 2.0]), jnp.array([1, -1]), reduction="none").tolist()
      [0.0, 2.0]

    Reference:
      Rosenblatt, *The perceptron: a probabilistic model for information storage and organization in the brain*, 1958.
    """
    _check.floating(logits=logits)
    _check.real(signs=signs)
    _check.same_shape(logits=logits, signs=signs)
    logits, signs = masked(where, logits, signs, fill=1.0)
    mistake = -_sign(signs) * logits
    return reduce(jnp.where(mistake < 0, 0, mistake), where, weights, reduction)
