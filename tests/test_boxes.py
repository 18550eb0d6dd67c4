"""Losses of boxes and their converters: hand numbers, degenerate and huge boxes, peers."""
# pyright: reportArgumentType=false
# NumPy arrays and Python numbers are data too.

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import losses, optimizers, schedules, targets
from tests import vocabulary as v
from tests.oracles import boxes as oracle
from tests.test_losses import compare
from tests.vocabulary import quick

NAMES = ("box_iou", "box_giou", "box_diou", "box_ciou")
each_loss = pytest.mark.parametrize("loss", [getattr(losses, name) for name in NAMES], ids=NAMES)

UNIT = (0.0, 0.0, 1.0, 1.0)
POINT = (0.5, 0.5, 0.5, 0.5)
FLAT = (0.0, 0.5, 1.0, 0.5)  # no height
TALL = (0.5, 0.0, 0.5, 1.0)  # no width
BIG = v.LARGEST
PAIRS = [
    (UNIT, UNIT),
    (UNIT, (0.0, 0.0, 1.0, 1.0 + 2.0**-20)),
    (UNIT, (0.25, 0.25, 0.75, 0.75)),
    (UNIT, (1.0, 0.0, 2.0, 1.0)),  # touching along a side
    (UNIT, (1.0, 1.0, 2.0, 2.0)),  # and at a corner
    (UNIT, (3.0, 0.0, 4.0, 1.0)),
    (UNIT, (-9.0, 5.0, -8.0, 7.0)),
    ((0.0, 0.4, 1.0, 0.6), (0.4, 0.0, 0.6, 1.0)),  # a cross
    (POINT, POINT),
    (POINT, UNIT),
    (UNIT, POINT),
    (POINT, (2.0, 2.0, 2.0, 2.0)),
    (FLAT, FLAT),
    (FLAT, (0.5, 0.5, 2.0, 0.5)),
    (FLAT, (0.0, 0.75, 1.0, 0.75)),
    (FLAT, TALL),
    (FLAT, UNIT),
    ((0.0, 0.0, 1e-30, 1e-30), (0.0, 0.0, 1e-30, 3e-30)),
    ((0.0, 0.0, 1e-12, 1e-12), (0.0, 0.0, 1.0, 1.0)),
    ((0.0, 0.0, 1e30, 1e30), (0.0, 0.0, 1e30, 2e30)),
    ((-1e10, -1e10, 1e10, 1e10), UNIT),
    ((-BIG, -BIG, BIG, BIG), (-BIG, 0.0, 0.0, BIG)),
    ((1e20, 0.0, 2e20, 1e-20), (1.5e20, 0.0, 2.5e20, 1e-20)),
    ((1.0, 0.0, 0.0, 1.0), UNIT),  # inverted predictions
    ((1.0, 1.0, 0.0, 0.0), UNIT),
    ((5.0, 0.0, 4.0, 1.0), UNIT),
]


@each_loss
def test_hostile_boxes(loss):
    predictions, truth = (np.array([pair[i] for pair in PAIRS], np.float32) for i in (0, 1))
    compare(loss, [predictions, truth], {}, value_ulps=16, gradient_ulps=32)


@each_loss
def test_every_gradient_is_finite(loss):
    predictions, truth = (np.array([pair[i] for pair in PAIRS], np.float32) for i in (0, 1))
    values, gradients = quick(jax.vmap(jax.value_and_grad(loss, (0, 1))))(predictions, truth)
    assert np.isfinite(values).all()
    assert all(np.isfinite(g).all() for g in gradients)
    ordinary = [i for i, (p, t) in enumerate(PAIRS) if max(np.abs([*p, *t])) < 1e3 and not 0 < p[2] < 1e-8]
    second = quick(jax.vmap(jax.hessian(loss)))(predictions[ordinary], truth[ordinary])
    assert np.isfinite(second).all()


@each_loss
def test_nearly_equal_boxes_keep_their_digits(loss):
    """1 - IoU is 6e-8 of 1 here: as a difference from 1 nothing would be left of it."""
    rng = np.random.default_rng(5)
    truth = oracle._draw(rng, (24,)).astype(np.float32)
    moved = truth.copy()
    moved[np.arange(24), np.arange(24) % 4] = np.nextafter(moved[np.arange(24), np.arange(24) % 4], np.float32(9))
    if loss is losses.box_ciou:  # alpha is a ratio of two such differences
        return
    compare(loss, [moved, truth], {}, value_ulps=16, gradient_ulps=16)
    assert np.all(quick(jax.vmap(loss))(moved, truth) > 0)


HAND = [
    ("box_iou", (0.0, 0.0, 2.0, 2.0), (1.0, 1.0, 3.0, 3.0), 1 - 1 / 7),
    ("box_giou", (0.0, 0.0, 2.0, 2.0), (1.0, 1.0, 3.0, 3.0), 1 - 1 / 7 + 2 / 9),
    ("box_diou", (0.0, 0.0, 2.0, 2.0), (1.0, 1.0, 3.0, 3.0), 1 - 1 / 7 + 2 / 18),
    ("box_ciou", (0.0, 0.0, 2.0, 2.0), (1.0, 1.0, 3.0, 3.0), 1 - 1 / 7 + 2 / 18),
    ("box_iou", POINT, POINT, 0.0),
    ("box_iou", FLAT, FLAT, 0.0),
    ("box_iou", FLAT, (0.0, 0.5, 2.0, 0.5), 0.5),
    ("box_iou", FLAT, TALL, 1.0),
    ("box_giou", POINT, (2.0, 2.0, 2.0, 2.0), 2.0),
    ("box_diou", POINT, (2.0, 2.0, 2.0, 2.0), 2.0),
    ("box_ciou", FLAT, TALL, 1.0 + 1.0 / 2.0),  # v = 1, alpha = 1 / 2, the same centre
    ("box_iou", (1.0, 0.0, 0.0, 1.0), UNIT, 1.0),
    ("box_giou", (1.0, 0.0, 0.0, 1.0), UNIT, 1.0),
]


@pytest.mark.parametrize(("name", "prediction", "truth", "expected"), HAND)
def test_by_hand(name, prediction, truth, expected):
    found = quick(getattr(losses, name))(np.float32(prediction), np.float32(truth))
    np.testing.assert_allclose(found, expected, rtol=3e-7)


@each_loss
def test_size_and_place_do_not_matter(loss):
    rng = np.random.default_rng(6)
    boxes = [oracle._draw(rng, (40,)).astype(np.float32) for _ in range(2)]
    run = quick(jax.vmap(loss))
    expected = run(*boxes)
    for factor in (2.0**-90, 2.0**-20, 2.0**40, 2.0**120):
        np.testing.assert_array_equal(run(*(b * np.float32(factor) for b in boxes)), expected)
    mirrored = [-b[:, [2, 1, 0, 3]] * np.float32([1, -1, 1, -1]) for b in boxes]
    np.testing.assert_allclose(run(*mirrored), expected, rtol=1e-6)
    np.testing.assert_allclose(run(*boxes[::-1]), expected, rtol=1e-6)


@each_loss
def test_bounds(loss):
    rng = np.random.default_rng(7)
    boxes = [oracle._draw(rng, (4000,)).astype(np.float16) for _ in range(2)]
    boxes[1][:1000] = boxes[0][:1000]
    values = quick(jax.vmap(loss))(*boxes)
    assert values.dtype == jnp.float32
    assert np.all(values >= 0)
    assert np.all(values <= {"box_iou": 1, "box_ciou": 3}.get(loss.__name__, 2))
    assert not np.any(values[:1000])


def test_16_bit_areas_do_not_overflow():
    """1000 x 1000 is beyond float16."""
    boxes = np.array([[0, 0, 1000, 1000], [0, 0, 1000, 2000]], np.float16)
    value, gradient = quick(jax.value_and_grad(losses.box_iou))(boxes[0], boxes[1])
    assert value == 0.5
    assert gradient.dtype == jnp.float16
    np.testing.assert_allclose(gradient, [1.25e-4, 1.25e-4, -1.25e-4, -5e-4], rtol=1e-3)


def test_boxes_apart_are_drawn_together():
    """By each loss but IoU."""
    truth = np.float32([2.0, 3.0, 5.0, 4.0])
    start = np.float32([-1.0, 0.0, 0.0, 1.0])
    optimizer = optimizers.adam(schedules.cosine(0.05, 0.0, 1500))

    def drawn(loss):
        def step(carry, _):
            box, state = carry
            updates, state = optimizer.update(jax.grad(loss)(box, truth), state, box)
            return (box + updates, state), None

        (final, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=1500)
        return loss(final, truth)

    for loss in (losses.box_giou, losses.box_diou, losses.box_ciou):
        assert quick(lambda loss=loss: drawn(loss))() < 0.02
    assert not np.any(quick(jax.grad(losses.box_iou))(start, truth))


def test_inverted_and_misshapen_boxes():
    inverted = np.array([[0.0, 0.0, 1.0, 1.0], [3.0, 0.0, 2.0, 1.0]], np.float32)
    for name in NAMES:
        loss = getattr(losses, name)
        with pytest.raises(ValueError, match="targets must be x1, y1, x2, y2 with x1 <= x2"):
            loss(inverted, inverted)
        units = quick(jax.vmap(loss))(inverted, inverted)
        assert np.isfinite(units[0])
        assert np.isnan(units[1])
        assert np.isfinite(loss(inverted, inverted[:1].repeat(2, 0)))
        assert np.isfinite(loss(inverted, inverted, where=np.array([True, False])))
        with pytest.raises(ValueError, match=r"boxes are \[..., 4\], got predictions\[2, 3\]"):
            loss(inverted[:, :3], inverted[:, :3])


def test_weights_are_of_boxes_in_the_recipe_of_smooth_l1():
    rng = np.random.default_rng(8)
    boxes = [oracle._draw(rng, (5,)).astype(np.float32) for _ in range(2)]
    weights = np.arange(5.0, dtype=np.float32)
    ours = quick(lambda *a: losses.smooth_l1(*a, beta=1 / 9, weights=weights[:, None], reduction="sum"))(*boxes)
    error = np.abs(boxes[0] - boxes[1])
    units = np.where(error < 1 / 9, 4.5 * error**2, error - 1 / 18)
    np.testing.assert_allclose(ours, np.sum(weights[:, None] * units), rtol=1e-5)


PEERS = {
    "generalized_box_iou_loss": "box_giou",
    "distance_box_iou_loss": "box_diou",
    "complete_box_iou_loss": "box_ciou",
}


@pytest.mark.parametrize("peer", PEERS)
def test_torchvision(peer):
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(9)
    boxes = [oracle._draw(rng, (30,)).astype(np.float32) for _ in range(2)]
    first, second = (torch.tensor(b, requires_grad=True) for b in boxes)
    theirs = getattr(ops, peer)(first, second, reduction="sum")
    theirs.backward()
    total = lambda p: getattr(losses, PEERS[peer])(p, boxes[1], reduction="sum")  # noqa: E731
    ours, gradient = quick(jax.value_and_grad(total))(boxes[0])
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, first.grad.numpy(), rtol=1e-4, atol=1e-5)


# ---- converters ------------------------------------------------------------------------------------------------------


def test_converters_are_each_others_inverse():
    rng = np.random.default_rng(10)
    corners = oracle._draw(rng, (3, 7)).astype(np.float32)
    there = targets.xyxy_to_cxcywh(corners)
    np.testing.assert_allclose(there[..., 2:], corners[..., 2:] - corners[..., :2])
    np.testing.assert_allclose(targets.cxcywh_to_xyxy(there), corners, rtol=1e-5, atol=1e-6)
    whole = np.array([-BIG, 0.0, BIG, 1.0], np.float32)
    assert targets.xyxy_to_cxcywh(whole)[0] == 0
    half = targets.cxcywh_to_xyxy(jnp.array([1000.5, 0.0, 1.0, 1.0], jnp.bfloat16))
    assert half.dtype == jnp.float32
    for wrong, error in ((np.ones((2, 3), np.float32), ValueError), (np.ones(4, np.int32), TypeError)):
        for convert in (targets.xyxy_to_cxcywh, targets.cxcywh_to_xyxy):
            with pytest.raises(error, match="boxes"):
                convert(wrong)
