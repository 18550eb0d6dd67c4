"""Shape of class maps: losses of outlines and centre lines, one unit per image and class.

The predictions are channel-last, of any spatial rank: `axes` are those of space, (-3, -2) for images.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _maps, _numerics
from lossax._maps import Activation, share
from lossax._numerics import divide, positive_part
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import whole
from lossax._types import Reduction
from lossax.targets import distance_transform


def _mean(values: jax.Array, kept: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The mean over the pixels of each set, and whether it keeps any."""
    total = jnp.sum(kept, axis=axes, keepdims=True)
    mean = jnp.sum(divide(kept, total) * values, axis=axes)
    return mean, jnp.broadcast_to(jnp.squeeze(total, axes) > 0, mean.shape)


def _whole(axes: tuple[int, ...], predictions: Any, targets: Any, where: Any, weights: Any) -> Any:
    """The arrays, whole on each device along space."""
    size = len(_check.spec(predictions)[0]) - min(axes)
    return *whole((predictions, targets), size), *whole((where, weights), size - 1)


def boundary(
    predictions: jax.Array,
    distances: jax.Array,
    *,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Mean of the probability times the signed distance to the true outline: wrong by how far, not only by how much.

    .. math:: \frac1n \sum_i p_i\,\phi_i

    It is linear, so it pulls where an overlap has no gradient left (small objects found in the wrong place), but it has
    no scale of its own: use it beside `dice`, `generalized_dice` or a cross-entropy (`objectives.weighted_sum`), with a
    weight that rises during training. The distances, negative inside the object, are those of
    `targets.signed_distance` and best computed once for each target.

    Kervadec's code averages over all pixels and the chosen classes, which is this with `class_weights` of 0 for the
    background, and has 0 for the innermost row of pixels instead of -1: add the mask to the distances.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      distances: Signed distance to the outline of each class, real `[..., *spatial, classes]`.
      axes: Axes of `predictions` whose pixels are one set, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"`, `"sigmoid"` or `"none"` (they are).
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; negative when the object is found. The n elements are
      the pixels `[..., *spatial]`.

    Raises:
      TypeError: if `predictions` are not floating point or `axes` no tuple of ints.
      ValueError: if shapes differ or an argument is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax.targets import signed_distance
      >>> mask = jnp.array([[[True], [False], [False]]])  # 1 x 3 pixels, one class: distances -1, 1, 2
      >>> p = jnp.array([[[1.0], [0.5], [0.5]]])
      >>> loss = boundary(p, signed_distance(mask, axes=(0, 1)), activation="none")
      >>> round(loss.item(), 4)  # (-1 + 0.5 + 1) / 3
      0.1667

    Reference:
      Kervadec et al., *Boundary loss for highly unbalanced segmentation*, 2019.
    """
    _check.floating(predictions=predictions)
    _check.real(distances=distances)
    _check.same_shape(predictions=predictions, distances=distances)
    axes = _check.axes(axes, 1, predictions=predictions)
    predictions, distances = masked(where, predictions, distances, event=1)
    p, _ = _maps.probabilities(predictions, activation)
    kept = unit_weights(p.shape[:-1], where, weights, dtype=p.dtype)[..., None]
    loss, counts = _mean(p * distances, kept, axes)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)


def hausdorff(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike = 2.0,
    spacing: ArrayLike = 1.0,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared error weighed by the distance to both outlines: a smooth stand-in for the Hausdorff distance.

    .. math:: \frac1n \sum_i (p_i - t_i)^2 \big(d_{p, i}^\alpha + d_{t, i}^\alpha\big)

    d is the distance of a pixel to the other side of the outline of the mask above 1/2, of the prediction and of the
    target; the masks have no gradient. Choose it where the worst error matters (radiotherapy, surgery), after an
    overlap has found the object: alone it starts badly. A mask that is empty or full has no outline: its distances are
    0, so an object that is missed altogether is seen through the outline of the target only.

    Two exact distance transforms of `predictions` and two of `targets` in every step: `targets.distance_transform` says
    what they cost. The definition and default are the paper's and those of MONAI's `HausdorffDTLoss`.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      targets: True share of each class, real or bool `[..., *spatial, classes]`, in [0, 1].
      alpha: How much worse farther errors are, nonnegative.
      spacing: Size of a pixel, positive: a number, or one for each of `axes`. Without derivative.
      axes: Axes of `predictions` that are space, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"`, `"sigmoid"` or `"none"` (they are).
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; nonnegative. The n elements are the pixels
      `[..., *spatial]`; no distance is measured to one that `where` leaves out.

    Raises:
      TypeError: if `predictions` are not floating point or `axes` no tuple of ints.
      ValueError: if shapes differ, a known value is outside [0, 1], or an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> p = jnp.array([[[1.0], [0.25], [0.5]]])  # 1 x 3 pixels, one class
      >>> t = jnp.array([[[1.0], [0.0], [0.0]]])  # both masks are the first pixel: distances 1, 1 and 2
      >>> loss = hausdorff(p, t, activation="none")
      >>> round(loss.item(), 4)  # (0.0625 * 2 + 0.25 * 8) / 3
      0.7083

    Reference:
      Karimi and Salcudean, *Reducing the Hausdorff distance in medical image segmentation with convolutional neural
      networks*, 2019.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.nonnegative(alpha=alpha)
    axes = _check.axes(axes, 1, predictions=predictions)
    predictions, targets, where, weights = _whole(axes, predictions, targets, where, weights)
    predictions, t = masked(where, predictions, targets, event=1)
    _, alpha = masked(None, predictions, alpha)
    t = _maps.fraction(targets=t)
    p, q = _maps.probabilities(predictions, activation)
    exists = (unit_weights(p.shape[:-1], where) > 0)[..., None]

    def field(mask):
        inside = distance_transform(mask, axes=axes, spacing=spacing, where=exists)
        outside = distance_transform(~mask, axes=axes, spacing=spacing, where=exists)
        return _numerics.power((inside + outside).astype(p.dtype), alpha)

    kept = unit_weights(p.shape[:-1], where, weights, dtype=p.dtype)[..., None]
    loss, counts = _mean(jnp.square(_maps.error(p, q, t)) * (field(p > 0.5) + field(t > 0.5)), kept, axes)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)


def _neighbours(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The pixels before and after each one; at the ends the pixel itself, which no minimum or maximum notices."""
    size = x.shape[axis]
    take = lambda start, stop: lax.slice_in_dim(x, start, stop, axis=axis)  # noqa: E731
    before = jnp.concatenate([take(0, 1), take(0, size - 1)], axis=axis)
    after = jnp.concatenate([take(1, size), take(size - 1, size)], axis=axis)
    return before, after


def _skeleton(x: jax.Array, exists: jax.Array, axes: tuple[int, ...], iterations: int) -> jax.Array:
    """What erosions of growing size leave of a map in [0, 1] and openings do not give back."""

    def erode(x):
        x = jnp.where(exists, x, 1)
        least = x
        for axis in axes:
            before, after = _neighbours(x, axis)
            least = jnp.minimum(least, jnp.minimum(before, after))
        return least

    def dilate(x):
        x = jnp.where(exists, x, 0)
        for axis in axes:
            before, after = _neighbours(x, axis)
            x = jnp.maximum(x, jnp.maximum(before, after))
        return x

    def add(state, _):
        x, skeleton = state
        smaller = erode(x)
        return (smaller, skeleton + (1.0 - skeleton) * positive_part(x - dilate(smaller))), None

    # A loop, not its steps in a row: those XLA would fuse into one kernel that computes each pixel over and over.
    return lax.scan(add, (x, jnp.zeros_like(x)), length=iterations + 1)[0][1]


def soft_cldice(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    iterations: int = 3,
    smooth: ArrayLike = 1.0,
    axes: tuple[int, ...] = (-3, -2),
    activation: Activation = "softmax",
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus the centre-line Dice: tubes (vessels, roads, neurons) that must not be broken.

    .. math:: 1 - \frac{2 a b}{a + b}, \qquad
        a = \frac{\sum S_p\,t + s}{\sum S_p + s}, \quad b = \frac{\sum S_t\,p + s}{\sum S_t + s}

    S is a soft skeleton by minima and maxima over neighbours: a is the share of the predicted centre line that lies in
    the target, b that of the true one that is found. A centre line says nothing of width, so add `dice`
    (`objectives.weighted_sum`, half and half in the paper). Where pixels are equal, minima and maxima share the
    gradient among two at a time.

    The paper's code and MONAI's `SoftclDiceLoss` leave the first class out, which is a `class_weights` of 0, and sum
    over all other axes at once, classes and batch, where here each image and class is a unit.

    Args:
      predictions: Logits or probabilities of each pixel, float `[..., *spatial, classes]`.
      targets: True share of each class, real or bool `[..., *spatial, classes]`, in [0, 1].
      iterations: Number of erosions: at least the radius of the widest tube, in pixels.
      smooth: Number added above and below, in pixels; positive.
      axes: Axes of `predictions` that are space, never the last.
      activation: What makes probabilities of `predictions`: `"softmax"`, `"sigmoid"` or `"none"` (they are).
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., classes]` without `axes` for `"none"`; in [0, 1]. The n elements are the pixels
      `[..., *spatial]`; one that `where` leaves out is nobody's neighbour.

    Raises:
      TypeError: if `predictions` are not floating point, `iterations` no Python int or `axes` no tuple of ints.
      ValueError: if shapes differ, a known value is outside [0, 1], or an argument outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> t = jnp.zeros((3, 4, 1)).at[1].set(1.0)  # a line of 4 pixels, which is its own centre line
      >>> p = t.at[1, 2:].set(0.0)  # half of it: a = 1, b = (2 + 1) / (4 + 1)
      >>> loss = soft_cldice(p, t, activation="none")
      >>> round(loss.item(), 4)  # 1 - 2 * 0.6 / 1.6
      0.25

    Reference:
      Shit et al., *clDice: a novel topology-preserving loss function for tubular structure segmentation*, 2021.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.count(iterations=iterations)
    _check.positive(smooth=smooth)
    axes = _check.axes(axes, 1, predictions=predictions)
    predictions, targets, where, weights = _whole(axes, predictions, targets, where, weights)
    predictions, t = masked(where, predictions, targets, event=1)
    t = _maps.fraction(targets=t)
    p, q = _maps.probabilities(predictions, activation)
    exists = (unit_weights(p.shape[:-1], where) > 0)[..., None]
    kept = unit_weights(p.shape[:-1], where, weights, dtype=p.dtype)[..., None]
    found, true = (kept * _skeleton(x, exists, axes, iterations) for x in (p, t))
    sums = [jnp.sum(x, axis=axes) for x in (found * t, found * (1.0 - t), true * p, true * q)]
    _, smooth = masked(None, sums[0], smooth)
    loss = _harmonic_miss(sums[0] + smooth, sums[1], sums[2] + smooth, sums[3])
    counts = jnp.broadcast_to(jnp.sum(kept, axis=axes) > 0, loss.shape)
    return reduce(loss, counts, _maps.class_weights_of(class_weights, loss), reduction)


def _harmonic_miss(inside: jax.Array, outside: jax.Array, hit: jax.Array, missed: jax.Array) -> jax.Array:
    """1 - the harmonic mean of inside / (inside + outside) and hit / (hit + missed), without the subtraction."""
    a, b = share(inside, outside), share(hit, missed)
    return (a * share(missed, hit) + b * share(outside, inside)) / (a + b)
