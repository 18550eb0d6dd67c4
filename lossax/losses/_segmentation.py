"""Overlap of class maps: one unit per set and class, where a set is what `axes` take together (one image by default).

The predictions are channel-last, of any spatial rank: `axes=(-3, -2)` are images, `(-4, -3, -2)` volumes, `(-2,)`
signals, `(0, 1, 2)` a batch of images as one set.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _maps, _numerics
from lossax._maps import Absent, Activation, share
from lossax._numerics import divide, positive_part, with_slopes
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import whole
from lossax._types import Reduction


def _floored(x: jax.Array) -> jax.Array:
    """x, but no smaller than the smallest normal number."""
    return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


def _log_share_slopes(part, rest):
    whole = part + rest
    return divide(jnp.ones_like(part), whole), divide(divide(-part, whole), _floored(rest))


@with_slopes(_log_share_slopes)
def _log_share(part, rest):
    """Log((part + rest) / rest); a rest below the smallest normal number is taken for it."""
    rest = _floored(rest)
    near = part < rest
    close = jnp.log1p(divide(jnp.where(near, part, 0), rest))
    return jnp.where(near, close, jnp.log(part + rest) - jnp.log(rest))


def _counts(
    predictions: Any, targets: Any, axes: Any, activation: Any, form: str, absent: Any, where: Any, weights: Any
) -> tuple[jax.Array, ...]:
    """Masses of each set and class: found, too much, missed, true; and whether the unit counts."""
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.choice(("count", "skip"), absent=absent)
    axes = _check.axes(axes, 1, predictions=predictions)
    predictions, t = masked(where, predictions, targets, event=1)
    t = _maps.fraction(targets=t)
    p, q = _maps.probabilities(predictions, activation)
    kept = unit_weights(p.shape[:-1], where, weights, dtype=p.dtype)[..., None]
    if form == "product":
        hit, over, under = p * t, p * (1.0 - t), q * t
    else:
        error = _maps.error(p, q, t)
        if form == "square":
            hit = p * t
            over = under = 0.5 * jnp.square(error)
        else:
            hit, over, under = jnp.where(error > 0, p, t), positive_part(-error), positive_part(error)
    hit, over, under, mass = (jnp.sum(kept * x, axis=axes) for x in (hit, over, under, t))
    counts = jnp.broadcast_to(jnp.sum(kept, axis=axes) > 0, mass.shape)
    return hit, over, under, mass, counts & (mass != 0) if absent == "skip" else counts


def _form(soft_labels: bool, squared: bool = False) -> str:
    """How the overlap of p and t is counted; with squares in the denominator the product is right for soft labels."""
    return "square" if squared else "minimum" if soft_labels else "product"


def _overlap(hit, wrong, smooth_numerator, smooth_denominator, log: bool = False) -> jax.Array:
    """1 - (hit + smooth) / (hit + wrong + smooth), or minus the logarithm of that share."""
    _check.nonnegative(smooth_numerator=smooth_numerator, smooth_denominator=smooth_denominator)
    hit, above, below = masked(None, hit, smooth_numerator, smooth_denominator)
    return (_log_share if log else share)(wrong + (below - above), hit + above)


def dice(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    soft_labels: bool = True,
    squared: bool = False,
    log: bool = False,
    smooth_numerator: ArrayLike = 1e-5,
    smooth_denominator: ArrayLike = 1e-5,
    absent: Absent = "count",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus the Dice coefficient (F1) of each class: segmentation where the background outnumbers the object.

    .. math:: 1 - \frac{2 I + s_n}{P + T + s_d}, \qquad
        I = \tfrac12 \textstyle\sum (p + t - |p - t|), \quad P = \sum p, \quad T = \sum t

    Sums run over the pixels of a set, by default those of one image; the mean is over images and classes. On hard
    targets :math:`I = \sum p\,t`. On soft ones the loss of that product is not smallest at p = t, so it has to be asked
    for (`soft_labels=False`). Dice does not calibrate: add a cross-entropy through `objectives.weighted_sum`. In an
    image without the class there is no overlap to gain; `absent` says whether it counts.

    Everybody's "Dice loss" is another one. Milletari et al. have `squared=True` and no smoothing. MONAI's `DiceLoss` is
    the default with `soft_labels=False` (as on hard targets), its `batch=True` is `axes=(0, 1, 2)`.
    segmentation_models.pytorch has those axes, no smoothing and `log_loss` for `log`; it counts an absent class as 0,
    which is a mean over all classes of `absent="skip", reduction="none"`. Optax' `dice_loss` has `soft_labels=False`,
    its `smooth` is half of both of these (the default 1.0 is 2.0 here) and its class weights are a factor without
    normalisation. Keras' `Dice` sums over classes too: `generalized_dice(weighting="uniform")`.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      targets: True share of each class, real or bool `[..., *spatial, classes]`, in [0, 1].
      axes: Axes of `predictions` whose pixels are one set, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"` (one class for each pixel), `"sigmoid"`
        (classes may overlap) or `"none"` (they are probabilities).
      soft_labels: Whether the overlap is the one that is largest at soft targets, or the product.
      squared: Whether the denominator sums squares, and the overlap is the product.
      log: Whether the loss is minus the logarithm of the coefficient.
      smooth_numerator: Number added to the numerator, in pixels; nonnegative.
      smooth_denominator: Number added to the denominator, in pixels; nonnegative.
      absent: Whether classes without target `"count"`, or the mean has to `"skip"` them.
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1, a 0 leaves the background out.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; in [0, 1] unless `log`. The n elements are the pixels
      `[..., *spatial]`: `where` leaves them out, `weights` may be a border map.

    Raises:
      TypeError: if `predictions` are not floating point or `axes` no tuple of ints.
      ValueError: if shapes differ, a known value is outside [0, 1], or an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[[0.5], [1.0]]])  # 1 x 2 pixels, one class
      >>> loss = dice(p, jnp.array([[[1.0], [0.0]]]), activation="none")
      >>> round(loss.item(), 4)  # 1 - 2 * 0.5 / (1.5 + 1)
      0.6

    Reference:
      Milletari, Navab and Ahmadi, *V-Net: fully convolutional neural networks for volumetric medical image
      segmentation*, 2016; Wang et al., *Dice semimetric losses*, 2023 (soft labels); Wong et al., *3D segmentation with
      exponential logarithmic loss for highly unbalanced object sizes*, 2018 (logarithm).
    """
    form = _form(soft_labels, squared)
    hit, over, under, _, counts = _counts(predictions, targets, axes, activation, form, absent, where, weights)
    loss = _overlap(2.0 * hit, over + under, smooth_numerator, smooth_denominator, log)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)


def jaccard(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    soft_labels: bool = True,
    squared: bool = False,
    log: bool = False,
    smooth_numerator: ArrayLike = 1e-5,
    smooth_denominator: ArrayLike = 1e-5,
    absent: Absent = "count",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus the Jaccard index (intersection over union, IoU) of each class.

    .. math:: 1 - \frac{I + s_n}{P + T - I + s_d}, \qquad
        I = \tfrac12 \textstyle\sum (p + t - |p - t|), \quad P = \sum p, \quad T = \sum t

    It orders predictions as `dice` does and is never smaller: a Dice loss of d is 2 d / (1 + d) here. Choose it where
    the IoU is what will be reported; `lovasz_softmax` is nearer to the index of the decisions themselves. Sets, overlap
    of soft targets and absent classes are those of `dice`.

    MONAI's `DiceLoss(jaccard=True)` has twice the smoothing. segmentation_models.pytorch's `JaccardLoss` has
    `axes=(0, 1, 2)`, no smoothing and `log_loss` for `log`. `squared=True` is the Tanimoto loss.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      targets: True share of each class, real or bool `[..., *spatial, classes]`, in [0, 1].
      axes: Axes of `predictions` whose pixels are one set, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"` (one class for each pixel), `"sigmoid"`
        (classes may overlap) or `"none"` (they are probabilities).
      soft_labels: Whether the overlap is the one that is largest at soft targets, or the product.
      squared: Whether `P` and `T` sum squares, and the overlap is the product.
      log: Whether the loss is minus the logarithm of the index.
      smooth_numerator: Number added to the numerator, in pixels; nonnegative.
      smooth_denominator: Number added to the denominator, in pixels; nonnegative.
      absent: Whether classes without target `"count"`, or the mean has to `"skip"` them.
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1, a 0 leaves the background out.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; in [0, 1] unless `log`. The n elements are the pixels
      `[..., *spatial]`.

    Raises:
      TypeError: if `predictions` are not floating point or `axes` no tuple of ints.
      ValueError: if shapes differ, a known value is outside [0, 1], or an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[[0.5], [1.0]]])  # 1 x 2 pixels, one class
      >>> loss = jaccard(p, jnp.array([[[1.0], [0.0]]]), activation="none")
      >>> round(loss.item(), 4)  # 1 - 0.5 / (1.5 + 1 - 0.5)
      0.75

    Reference:
      Rahman and Wang, *Optimizing intersection-over-union in deep neural networks for image segmentation*, 2016; Wang
      et al., *Jaccard metric losses*, 2023 (soft labels).
    """
    form = _form(soft_labels, squared)
    hit, over, under, _, counts = _counts(predictions, targets, axes, activation, form, absent, where, weights)
    loss = _overlap(hit, over + under, smooth_numerator, smooth_denominator, log)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)


def tversky(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike = 0.3,
    beta: ArrayLike = 0.7,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    soft_labels: bool = True,
    smooth_numerator: ArrayLike = 1e-5,
    smooth_denominator: ArrayLike = 1e-5,
    absent: Absent = "count",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus the Tversky index of each class: an overlap in which misses may cost more than false alarms.

    .. math:: 1 - \frac{I + s_n}{I + \alpha\,(P - I) + \beta\,(T - I) + s_d}, \qquad
        I = \tfrac12 \textstyle\sum (p + t - |p - t|), \quad P = \sum p, \quad T = \sum t

    Choose it where small objects are missed: beta above alpha gains recall for precision. 1/2 and 1/2 are `dice` (with
    twice the smoothing), 1 and 1 are `jaccard`. Sets, overlap of soft targets and absent classes are those of `dice`.

    The defaults are the paper's. `alpha` weighs false positives as in MONAI, segmentation_models.pytorch, Keras and
    Optax (`dice_loss`), whose defaults are 1/2 and 1/2; some repositories swap them.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      targets: True share of each class, real or bool `[..., *spatial, classes]`, in [0, 1].
      alpha: Weight of what is found too much (false positives), nonnegative.
      beta: Weight of what is missed (false negatives), nonnegative.
      axes: Axes of `predictions` whose pixels are one set, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"` (one class for each pixel), `"sigmoid"`
        (classes may overlap) or `"none"` (they are probabilities).
      soft_labels: Whether the overlap is the one that is largest at soft targets, or the product.
      smooth_numerator: Number added to the numerator, in pixels; nonnegative.
      smooth_denominator: Number added to the denominator, in pixels; nonnegative.
      absent: Whether classes without target `"count"`, or the mean has to `"skip"` them.
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1, a 0 leaves the background out.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; in [0, 1]. The n elements are the pixels
      `[..., *spatial]`.

    Raises:
      TypeError: if `predictions` are not floating point or `axes` no tuple of ints.
      ValueError: if shapes differ, a known value is outside [0, 1], or an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[[0.5], [1.0]]])  # 1 x 2 pixels, one class: 0.5 found, 1 too much, 0.5 missed
      >>> loss = tversky(p, jnp.array([[[1.0], [0.0]]]), activation="none")
      >>> round(loss.item(), 4)  # 1 - 0.5 / (0.5 + 0.3 + 0.35)
      0.5652

    Reference:
      Salehi, Erdogmus and Gholipour, *Tversky loss function for image segmentation using 3D fully convolutional deep
      networks*, 2017.
    """
    form = _form(soft_labels)
    hit, over, under, _, counts = _counts(predictions, targets, axes, activation, form, absent, where, weights)
    loss = _overlap(hit, _wrong(hit, over, under, alpha, beta), smooth_numerator, smooth_denominator)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)


def _wrong(hit, over, under, alpha, beta) -> jax.Array:
    """What is found too much and what is missed, weighed."""
    _check.nonnegative(alpha=alpha, beta=beta)
    _, alpha, beta = masked(None, hit, alpha, beta)
    return alpha * over + beta * under


def focal_tversky(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike = 0.3,
    beta: ArrayLike = 0.7,
    gamma: ArrayLike = 4.0 / 3.0,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    soft_labels: bool = True,
    smooth_numerator: ArrayLike = 1e-5,
    smooth_denominator: ArrayLike = 1e-5,
    absent: Absent = "count",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""A root of the Tversky loss of each class: what is nearly right keeps a gradient to be finished with.

    .. math:: \Big(1 - \frac{I + s_n}{I + \alpha\,(P - I) + \beta\,(T - I) + s_d}\Big)^{1 / \gamma}

    With gamma above 1 the slope grows as the overlap becomes perfect (without bound; at exactly 1 it is 0 here, not
    infinite), which finishes small objects; below 1 it turns to the classes that are far off. At 1 it is `tversky`,
    where the symbols are explained.

    The exponent and its default are the paper's, which has alpha and beta the other way round (its index weighs misses
    by alpha = 0.7). pytorch_optimizer takes the power gamma of each class: give `1 / gamma`. The power that
    segmentation_models.pytorch takes is that of the mean over classes: `tversky(...) ** gamma`.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      targets: True share of each class, real or bool `[..., *spatial, classes]`, in [0, 1].
      alpha: Weight of what is found too much (false positives), nonnegative.
      beta: Weight of what is missed (false negatives), nonnegative.
      gamma: Root that is taken, positive.
      axes: Axes of `predictions` whose pixels are one set, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"` (one class for each pixel), `"sigmoid"`
        (classes may overlap) or `"none"` (they are probabilities).
      soft_labels: Whether the overlap is the one that is largest at soft targets, or the product.
      smooth_numerator: Number added to the numerator, in pixels; nonnegative.
      smooth_denominator: Number added to the denominator, in pixels; nonnegative.
      absent: Whether classes without target `"count"`, or the mean has to `"skip"` them.
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1, a 0 leaves the background out.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; in [0, 1]. The n elements are the pixels
      `[..., *spatial]`.

    Raises:
      TypeError: if `predictions` are not floating point or `axes` no tuple of ints.
      ValueError: if shapes differ, a known value is outside [0, 1], or an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[[0.5], [1.0]]])  # 1 x 2 pixels, one class
      >>> loss = focal_tversky(p, jnp.array([[[1.0], [0.0]]]), activation="none", alpha=1.0, beta=1.0, gamma=2.0)
      >>> round(loss.item(), 4)  # sqrt(0.75)
      0.866

    Reference:
      Abraham and Khan, *A novel focal Tversky loss function with improved attention U-Net for lesion segmentation*,
      2019.
    """
    _check.positive(gamma=gamma)
    form = _form(soft_labels)
    hit, over, under, _, counts = _counts(predictions, targets, axes, activation, form, absent, where, weights)
    loss = _overlap(hit, _wrong(hit, over, under, alpha, beta), smooth_numerator, smooth_denominator)
    loss, gamma = masked(None, loss, gamma)
    loss = _numerics.power(positive_part(loss), 1.0 / gamma)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)


def generalized_dice(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    weighting: Literal["square", "simple", "uniform"] = "square",
    soft_labels: bool = True,
    smooth_numerator: ArrayLike = 0.0,
    smooth_denominator: ArrayLike = 0.0,
    absent: Absent = "count",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One Dice for all classes, each weighed by how rare it is in the set: small and large organs in one number.

    .. math:: 1 - \frac{2 \sum_c w_c I_c + s_n}{\sum_c w_c (P_c + T_c) + s_d}, \qquad
        w_c = T_c^{-2}, \; T_c^{-1} \text{ or } 1

    One unit per set, not per class: the ratio is that of the sums, as in Sudre et al. Choose `dice` where classes of a
    few pixels are noise: here they rule. A class without target has no such weight; it counts with the largest of the
    others, as in MONAI and NiftyNet, so that false alarms cost, or is left out (`absent="skip"`). The overlap
    of soft targets is that of `dice`.

    MONAI's `GeneralizedDiceLoss` has 1e-5 for both smoothings, which is not small where w is 1e-8. Optax'
    `multiclass_generalized_dice_loss` is something else: a mean of the Dice losses of the classes with weights w that
    sum to their number. Keras' `Dice` is `weighting="uniform"` with `axes` of the whole batch.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      targets: True share of each class, real or bool `[..., *spatial, classes]`, in [0, 1].
      axes: Axes of `predictions` whose pixels are one set, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"` (one class for each pixel), `"sigmoid"`
        (classes may overlap) or `"none"` (they are probabilities).
      weighting: Weight of a class by its size: `"square"` (1 / T^2), `"simple"` (1 / T) or `"uniform"` (1).
      soft_labels: Whether the overlap is the one that is largest at soft targets, or the product.
      smooth_numerator: Number added to the numerator, nonnegative.
      smooth_denominator: Number added to the denominator, nonnegative.
      absent: Whether classes without target `"count"`, with the largest weight of the others, or are to be left out
        (`"skip"`).
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` without `axes` for `"none"`; in [0, 1]. The n elements are the pixels `[..., *spatial]`.

    Raises:
      TypeError: if `predictions` are not floating point or `axes` no tuple of ints.
      ValueError: if shapes differ, a known value is outside [0, 1], or an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> t = jnp.array([[[1, 0], [1, 0], [0, 1]]])  # 1 x 3 pixels, classes of 2 and 1
      >>> p = jnp.array([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])  # the rare one is missed: weights 1/4 and 1
      >>> loss = generalized_dice(p, t, activation="none")
      >>> round(loss.item(), 4)  # 1 - 2 * (2/4 + 0) / (5/4 + 1)
      0.5556

    Reference:
      Sudre et al., *Generalised Dice overlap as a deep learning loss function for highly unbalanced segmentations*,
      2017; Crum, Camara and Hill, *Generalized overlap measures for evaluation and validation in medical image
      analysis*, 2006.
    """
    _check.choice(("square", "simple", "uniform"), weighting=weighting)
    form = _form(soft_labels)
    hit, over, under, mass, counts = _counts(predictions, targets, axes, activation, form, absent, where, weights)
    _check.nonnegative(smooth_numerator=smooth_numerator, smooth_denominator=smooth_denominator)
    power = {"square": 2, "simple": 1, "uniform": 0}[weighting]
    present = mass != 0
    # Weights relative to the rarest class, which cancel but for the smoothing: 1 / T^2 itself may overflow.
    rarest = jnp.min(jnp.where(present, mass, jnp.inf), axis=-1, keepdims=True)
    rarest = lax.stop_gradient(jnp.where(jnp.isfinite(rarest), rarest, 1))
    weight = (rarest / jnp.where(present, mass, rarest)) ** power
    largest = jnp.max(jnp.where(present, weight, 0), axis=-1, keepdims=True)
    largest = jnp.where(largest > 0, largest, 1)
    weight = jnp.where(present, weight, largest)
    weight = jnp.where(counts, weight, 0)
    hit, wrong = jnp.sum(2.0 * weight * hit, axis=-1), jnp.sum(weight * (over + under), axis=-1)
    hit, above, below = masked(None, hit, smooth_numerator, smooth_denominator)
    scale = rarest[..., 0] ** power
    loss = share(wrong + scale * (below - above), hit + scale * above)
    return reduce(loss, jnp.any(counts, axis=-1), None, reduction)


def _extension(errors: jax.Array, order: jax.Array, truth: jax.Array, kept: jax.Array) -> jax.Array:
    """The Lovász extension of the Jaccard loss at errors >= 0 `[..., n]`, of which `truth` are those of the object.

    Each error weighs what the index loses when it is added to the larger ones; as a quotient, since the difference of
    two indices near 1 has lost its digits in images of a few thousand pixels. `order` falls where the errors rise, also
    where they are rounded to the same number.
    """
    errors, order, truth, kept = whole((errors, order, truth, kept), 1)
    rank = jnp.argsort(lax.stop_gradient(jnp.where(kept > 0, order, jnp.inf)), axis=-1)
    errors, truth, kept = (jnp.take_along_axis(x, rank, axis=-1) for x in (errors, truth, kept))
    zero = jnp.zeros_like(kept)
    inside, outside = jnp.where(truth, kept, zero), jnp.where(truth, zero, kept)
    last = errors.ndim - 1
    left = lax.cumsum(inside, last, reverse=True)
    union = left[..., :1] + lax.cumsum(outside, last)
    before = jnp.concatenate([left[..., :1], union[..., :-1]], axis=-1)
    left = jnp.concatenate([left[..., 1:], jnp.zeros_like(left[..., :1])], axis=-1)
    gain = divide(inside, union) + divide(left, before, fallback=1.0) * divide(outside, union)
    return jnp.sum(errors * gain, axis=-1)


def _lovasz(errors, order, truth, kept, axes: tuple[int, ...], absent: Absent) -> tuple[jax.Array, jax.Array]:
    """The extension for each set and class, and whether the unit counts: one that is NaN does."""
    kept = jnp.broadcast_to(kept[..., None], errors.shape)
    errors, order, truth, kept = (_maps.pool(x, axes) for x in (errors, order, truth, kept))
    loss = _extension(errors, order, truth, kept)
    return loss, jnp.any((kept > 0) & truth if absent == "skip" else kept > 0, axis=-1) | jnp.isnan(loss)


def lovasz_hinge(
    logits: jax.Array,
    signs: jax.Array,
    *,
    axes: tuple[int, ...] = (-3, -2),
    absent: Absent = "count",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Lovász hinge: the convex surrogate of one minus the IoU of yes or no for each class.

    .. math:: \sum_i m_{\pi_i} \big(J_i - J_{i - 1}\big), \qquad m = \max(0, 1 - y z), \quad
        m_{\pi_1} \ge m_{\pi_2} \ge \dots, \quad
        J_i = 1 - \frac{|\{y = 1\} \setminus \{\pi_1 \dots \pi_i\}|}{|\{y = 1\} \cup \{\pi_1 \dots \pi_i\}|}

    J is the Jaccard loss when the i largest errors are errors. Choose it to raise the IoU of a network that a
    cross-entropy has trained; from scratch it is slow to start. One sort per set, O(n log n).

    Equal errors share no gradient: the earlier pixel counts as the larger, which is one of the subgradients. A class
    without a pixel in the set has its largest hinge as loss, as in Berman's code, or none (`absent="skip"`). The
    slopes of that code are differences of J, in float32 a percent off in 64 x 64 pixels and of any sign in 1024 x 1024;
    here they are quotients. Its `per_image=False` is `axes=(0, 1, 2)`. A single mask is a map of one class,
    `logits[..., None]`.

    Args:
      logits: Scores of each class, float `[..., *spatial, classes]`; classes may overlap.
      signs: True sides, real `[..., *spatial, classes]`, +1 in the object and -1 outside: `2 * mask - 1`.
      axes: Axes of `logits` whose pixels are one set, never the last.
      absent: Whether classes without a pixel `"count"`, or the mean has to `"skip"` them.
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; nonnegative. The n elements are the pixels
      `[..., *spatial]`.

    Raises:
      TypeError: if `logits` are not floating point or `axes` no tuple of ints.
      ValueError: if shapes differ, a known sign is neither -1 nor +1, or an argument is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> z = jnp.array([[[1.0], [-1.0], [0.0]]])  # 1 x 3 pixels, one class: hinges 0, 2 and 1
      >>> loss = lovasz_hinge(z, jnp.array([[[1], [1], [-1]]]))
      >>> round(loss.item(), 4)  # 2 * 1/2 + 1 * (2/3 - 1/2)
      1.1667

    Reference:
      Yu and Blaschko, *Learning submodular losses with the Lovász hinge*, 2015; Berman, Rannen Triki and Blaschko, *The
      Lovász-Softmax loss*, 2018.
    """
    _check.floating(logits=logits)
    _check.real(signs=signs)
    _check.same_shape(logits=logits, signs=signs)
    _check.choice(("count", "skip"), absent=absent)
    axes = _check.axes(axes, 1, logits=logits)
    z, y = masked(where, logits, signs, event=1, fill=1.0)
    y = _check.domain("-1 or +1", lambda y: (y == -1) | (y == 1), signs=y)
    kept = unit_weights(z.shape[:-1], where, weights, dtype=z.dtype)
    loss, counts = _lovasz(positive_part(1.0 - y * z), y * z, y > 0, kept, axes, absent)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)


def lovasz_softmax(
    predictions: jax.Array,
    labels: jax.Array,
    *,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    absent: Absent = "skip",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Lovász-Softmax: the IoU of the decisions of each class, made piecewise linear in the probabilities.

    .. math:: \sum_i e_{\pi_i} \big(J_i - J_{i - 1}\big), \qquad e = |1[y = c] - p_c|, \quad
        e_{\pi_1} \ge e_{\pi_2} \ge \dots, \quad
        J_i = 1 - \frac{|\{y = c\} \setminus \{\pi_1 \dots \pi_i\}|}{|\{y = c\} \cup \{\pi_1 \dots \pi_i\}|}

    J is the Jaccard loss of class c when the i largest errors are errors. Choose it to raise the mean IoU of a network
    that a cross-entropy has trained, or beside one (`objectives.weighted_sum`). One sort per set and class, O(n log n).
    Labels to be ignored are masked: `where=labels != 255`.

    Equal errors share no gradient: the earlier pixel counts as the larger, which is one of the subgradients. Berman's
    code has `axes=(0, 1, 2)`, or (-3, -2) with `per_image=True`, where it averages classes before images: average
    `"none"` so. Its `classes="all"` is `absent="count"`: an absent class costs its largest probability. Its
    slopes are differences of J, which in float32 are a percent off in 64 x 64 pixels; here they are quotients.
    segmentation_models.pytorch applies a softmax to probabilities too: here they are `activation="none"`.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      labels: True classes, integer `[..., *spatial]`, in [0, classes).
      axes: Axes of `predictions` whose pixels are one set, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"`, `"sigmoid"` or `"none"` (they are).
      absent: Whether the mean has to `"skip"` classes without a pixel, or they `"count"`.
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; in [0, 1]. The n elements are the pixels
      `[..., *spatial]`.

    Raises:
      TypeError: if `predictions` are not floating point, `labels` not integer or `axes` no tuple of ints.
      ValueError: if shapes do not fit, a known label names no class, or an argument is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[[0.75, 0.25], [0.5, 0.5]]])  # 1 x 2 pixels; both classes have the errors 0.25 and 0.5
      >>> loss = lovasz_softmax(p, jnp.array([[0, 1]]), activation="none")
      >>> round(loss.item(), 4)  # class 0: 0.5 * 1/2 + 0.25 * 1/2; class 1: 0.5 * 1 + 0.25 * 0
      0.4375

    Reference:
      Berman, Rannen Triki and Blaschko, *The Lovász-Softmax loss: a tractable surrogate for the optimization of the
      intersection-over-union measure in neural networks*, 2018.
    """
    _check.floating(predictions=predictions)
    _check.integer(labels=labels)
    _check.units_of({"predictions": predictions}, labels=labels)
    _check.choice(("count", "skip"), absent=absent)
    axes = _check.axes(axes, 1, predictions=predictions)
    (predictions,), (labels,) = masked(where, predictions, event=1), masked(where, labels)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    known = jnp.where(_check.labels(labels, predictions.shape[-1]), jnp.ones((), predictions.dtype), jnp.nan)
    p, q = _maps.probabilities(predictions, activation)
    truth = _numerics.one_hot(labels, p)
    kept = unit_weights(labels.shape, where, weights, dtype=p.dtype)
    miss, right = jnp.where(truth, q, p), jnp.where(truth, p, q)
    loss, counts = _lovasz(known[..., None] * miss, -miss / jnp.abs(right), truth, kept, axes, absent)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)
