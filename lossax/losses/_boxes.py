"""Boxes by how much they overlap: one unit per pair of boxes.

A box is (x1, y1, x2, y2), the corners with the smallest and the largest coordinates, in any unit; `lossax.targets` has
the converters from centre and size.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _double
from lossax._numerics import divide, hypot, positive_part, quotient, with_slopes
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _ordered(boxes: Any) -> Any:
    """Whether each coordinate belongs to an axis along which the box is not inverted."""
    return (boxes[..., :2] <= boxes[..., 2:])[..., [0, 1, 0, 1]]


def _corners(where: Any, predictions: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
    """Half the corners of checked and masked boxes, [..., 2] each: the lower and the upper of both.

    Halves, so that no difference overflows. An inverted side of a prediction becomes one of no length at its middle.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.boxes(predictions=predictions)
    predictions, targets = masked(where, predictions, targets, event=1)
    targets = _check.domain("x1, y1, x2, y2 with x1 <= x2 and y1 <= y2", _ordered, targets=targets)
    low, high = 0.5 * predictions[..., :2], 0.5 * predictions[..., 2:]
    inverted, middle = high < low, 0.5 * low + 0.5 * high
    low, high = jnp.where(inverted, middle, low), jnp.where(inverted, middle, high)
    return low, high, 0.5 * targets[..., :2], 0.5 * targets[..., 2:]


def _parts(low, high, other_low, other_high):
    """The hull of two intervals in parts, as fractions of it: common, of the first, of the second, and the gap.

    Sums and products of these lose no digits where the boxes are nearly equal, and do not overflow where areas do. Two
    equal points have all in common.
    """
    common = positive_part(jnp.minimum(high, other_high) - jnp.maximum(low, other_low))
    overlap, zero = common > 0, jnp.zeros_like(common)
    above, below = high - other_high, low - other_low
    first = jnp.where(overlap, jnp.maximum(above, 0.0) + jnp.maximum(-below, 0.0), high - low)
    second = jnp.where(overlap, jnp.maximum(-above, 0.0) + jnp.maximum(below, 0.0), other_high - other_low)
    gap = jnp.where(overlap, zero, jnp.maximum(low, other_low) - jnp.minimum(high, other_high))
    hull = lax.stop_gradient(_hull(low, high, other_low, other_high))
    return divide(common, hull, 1.0), divide(first, hull), divide(second, hull), divide(gap, hull)


def _hull(low, high, other_low, other_high):
    return jnp.maximum(high, other_high) - jnp.minimum(low, other_low)


def _share_slopes(rest, common):
    total = rest + common
    some = total > 0
    total = jnp.where(some, total, 1)
    return quotient(quotient(common, total), total), -quotient(quotient(rest, total), total)


@with_slopes(_share_slopes)
def _share(rest, common):
    """rest / (rest + common), and 1 where there is nothing."""
    return divide(rest, rest + common, 1.0)


def _areas(parts):
    """Common area, area in exactly one of the boxes, and area of the hull in neither."""
    (x, y), (px, py), (tx, ty), (gx, gy) = ((part[..., 0], part[..., 1]) for part in parts)
    single = px * (y + py) + x * py + tx * (y + ty) + x * ty
    empty = (x + px + tx) * gy + px * ty + tx * py + gx * (y + py + ty + gy)
    return x * y, single, empty


def _distance(low, high, other_low, other_high):
    """Squared distance of the centres over the squared diagonal of the hull."""
    hull = _hull(low, high, other_low, other_high)
    longest = lax.stop_gradient(jnp.maximum(hull, jnp.flip(hull, axis=-1)))
    first, first_rest = _double.add(low, -other_low)
    second, second_rest = _double.add(high, -other_high)  # the sum may cancel down to what was rounded off
    apart = divide((0.5 * first + 0.5 * second) + 0.5 * (first_rest + second_rest), longest)
    return divide(jnp.sum(jnp.square(apart), axis=-1), jnp.sum(jnp.square(divide(hull, longest)), axis=-1))


def _angle_slopes(width, height):
    length = hypot(width, height)
    return divide(divide(height, length), length), -divide(divide(width, length), length)


@with_slopes(_angle_slopes)
def _angle(width, height):
    """arctan(width / height), with derivative 0 for a point."""
    return jnp.arctan2(width, height)


def _aspect(low, high, other_low, other_high):
    """v: the squared difference of the angles of the diagonals, 1 for a right one; 0 where a box is a point."""
    sides, other = high - low, other_high - other_low
    known = jnp.any(sides > 0, axis=-1) & jnp.any(other > 0, axis=-1)
    difference = _angle(other[..., 0], other[..., 1]) - _angle(sides[..., 0], sides[..., 1])
    return jnp.where(known, jnp.square(2.0 / math.pi * difference), 0)


def box_iou(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One minus intersection over union: how far two boxes are from being the same, whatever their size.

    .. math:: \ell = 1 - \mathrm{IoU}, \qquad \mathrm{IoU} = \frac{|P \cap T|}{|P \cup T|}

    Boxes that do not overlap have loss 1 and no gradient: for training from scratch take `box_giou` or `box_diou`.
    Areas are taken as fractions of the box that holds both, so coordinates may have any size, and nothing needs the
    `eps` of torchvision. A side of a prediction with x2 < x1 counts as one of no length at its middle, and gets no
    gradient that would turn it round: predict sizes as logarithms. A box without area overlaps nothing but its like:
    where two have no length along an axis and stand at the same place of it, that axis does not count.

    Smooth L1 of boxes is `smooth_l1` with `beta=1/9` on the four numbers of a box, with a weight for each box: see the
    example.

    Args:
      predictions: Boxes (x1, y1, x2, y2), float `[..., 4]`.
      targets: True boxes, real `[..., 4]`, with x1 <= x2 and y1 <= y2.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, the last axis is not of 4, or a known target is inverted.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import losses
      >>> predictions, targets = jnp.array([[0.0, 0.0, 2.0, 3.0]]), jnp.array([[0.0, 0.0, 2.0, 4.0]])
      >>> box_iou(predictions, targets).item()  # 1 - 6 / 8
      0.25
      >>> weights = jnp.array([1.0])  # of boxes
      >>> smooth = losses.smooth_l1(predictions, targets, beta=1 / 9, weights=weights[..., None], reduction="sum")
      >>> round(smooth.item(), 4)  # 1 - 1 / 18
      0.9444

    Reference:
      Yu, Jiang, Wang, Cao and Huang, *UnitBox: an advanced object detection network*, 2016 (its logarithm).
    """
    common, single, _ = _areas(_parts(*_corners(where, predictions, targets)))
    return reduce(_share(single, common), where, weights, reduction)


def box_giou(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""`box_iou` plus the share of the hull that neither box covers, so that boxes apart are drawn together.

    .. math:: \ell = 1 - \mathrm{IoU} + \frac{|C| - |P \cup T|}{|C|}

    C is the smallest box that holds both. The gradient of boxes apart first makes the prediction grow until it meets
    the target; `box_diou` moves it instead. Degenerate, inverted and huge boxes are treated as in `box_iou`; the same
    numbers as torchvision's `generalized_box_iou_loss` up to its `eps` of 1e-7.

    Args:
      predictions: Boxes (x1, y1, x2, y2), float `[..., 4]`.
      targets: True boxes, real `[..., 4]`, with x1 <= x2 and y1 <= y2.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 2].

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, the last axis is not of 4, or a known target is inverted.

    Example:
      >>> import jax.numpy as jnp
      >>> box_giou(jnp.array([[0.0, 0.0, 1.0, 1.0]]), jnp.array([[3.0, 0.0, 4.0, 1.0]])).item()  # 1 + 2 / 4
      1.5

    Reference:
      Rezatofighi, Tsoi, Gwak, Sadeghian, Reid and Savarese, *Generalized intersection over union*, 2019.
    """
    common, single, empty = _areas(_parts(*_corners(where, predictions, targets)))
    return reduce(_share(single, common) + _share(empty, common + single), where, weights, reduction)


def box_diou(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""`box_iou` plus the squared distance of the centres, which draws them together directly.

    .. math:: \ell = 1 - \mathrm{IoU} + \frac{\rho^2}{d^2}

    :math:`\rho` is the distance of the centres, d the diagonal of the smallest box that holds both. It has a gradient
    also where one box lies within the other, where `box_giou` is `box_iou`. Degenerate, inverted and huge boxes are
    treated as in `box_iou`; the same numbers as torchvision's `distance_box_iou_loss` up to its `eps` of 1e-7.

    Args:
      predictions: Boxes (x1, y1, x2, y2), float `[..., 4]`.
      targets: True boxes, real `[..., 4]`, with x1 <= x2 and y1 <= y2.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 2].

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, the last axis is not of 4, or a known target is inverted.

    Example:
      >>> import jax.numpy as jnp
      >>> box_diou(jnp.array([[0.0, 0.0, 1.0, 2.0]]), jnp.array([[1.0, 0.0, 2.0, 2.0]])).item()  # 1 + 1 / 8
      1.125

    Reference:
      Zheng, Wang, Liu, Li, Ye and Ren, *Distance-IoU loss: faster and better learning for bounding box regression*,
      2020.
    """
    corners = _corners(where, predictions, targets)
    common, single, _ = _areas(_parts(*corners))
    return reduce(_share(single, common) + _distance(*corners), where, weights, reduction)


def box_ciou(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""`box_diou` plus a penalty for the wrong aspect ratio.

    .. math::
      \ell = 1 - \mathrm{IoU} + \frac{\rho^2}{d^2} + \alpha v, \qquad
      v = \frac4{\pi^2} \left(\arctan\frac{w_T}{h_T} - \arctan\frac{w_P}{h_P}\right)^2, \quad
      \alpha = \frac{v}{1 - \mathrm{IoU} + v}

    :math:`\alpha` counts as a constant in the gradient, as in the paper, whose authors later also set it to 0 for an
    IoU below 1/2. The gradient is exact: the paper's code leaves out the factor :math:`1 / (w^2 + h^2)`, which is large
    for small boxes. A point has no aspect ratio, and v is 0. Degenerate, inverted and huge boxes are treated as in
    `box_iou`; the same numbers as torchvision's `complete_box_iou_loss` up to its `eps` of 1e-7.

    Args:
      predictions: Boxes (x1, y1, x2, y2), float `[..., 4]`.
      targets: True boxes, real `[..., 4]`, with x1 <= x2 and y1 <= y2.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 3].

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, the last axis is not of 4, or a known target is inverted.

    Example:
      >>> import jax.numpy as jnp
      >>> flat, tall = jnp.array([[0.0, 1.0, 3.0, 2.0]]), jnp.array([[1.0, 0.0, 2.0, 3.0]])
      >>> v = (4 / jnp.pi**2) * (jnp.arctan(3.0) - jnp.arctan(1 / 3)) ** 2
      >>> jnp.allclose(box_ciou(flat, tall), 4 / 5 + v**2 / (4 / 5 + v)).item()
      True

    Reference:
      Zheng, Wang, Liu, Li, Ye and Ren, *Distance-IoU loss: faster and better learning for bounding box regression*,
      2020.
    """
    corners = _corners(where, predictions, targets)
    common, single, _ = _areas(_parts(*corners))
    apart, v = _share(single, common), _aspect(*corners)
    alpha = lax.stop_gradient(divide(v, apart + v))
    return reduce(apart + _distance(*corners) + alpha * v, where, weights, reduction)
