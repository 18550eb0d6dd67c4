"""CTC: peers under the conventions that the docstring claims, padding, what cannot be read, and long sequences."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import activations, losses
from tests.test_losses import compare
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
BATCH, FRAMES, LABELS, CLASSES = 6, 14, 4, 6
LOGITS: Any = np.float32(2.0 * RNG.normal(size=(BATCH, FRAMES, CLASSES)))
TEXTS: Any = RNG.integers(1, CLASSES, size=(BATCH, LABELS))
TEXTS[1] = 3  # repeated, so that blanks must come between
FRAME_COUNTS = np.array([14, 9, 14, 8, 4, 11])
LABEL_COUNTS = np.array([4, 4, 3, 2, 1, 0])
FRAME_WHERE = np.arange(FRAMES) < FRAME_COUNTS[:, None]
LABEL_WHERE = np.arange(LABELS) < LABEL_COUNTS[:, None]


step = quick(jax.value_and_grad(losses.ctc))


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


@quick
def _padded(logits, texts, frames, labels):
    def total(logits):
        units = losses.ctc(logits, texts, frame_where=frames, label_where=labels, reduction="none")
        return jnp.sum(jnp.where(jnp.isfinite(units), units, 0.0)), units

    (_, units), gradients = jax.value_and_grad(total, has_aux=True)(logits)
    return units, gradients


def padded(logits, texts=TEXTS, frames=FRAME_WHERE, labels=LABEL_WHERE):
    """Losses and the gradients of each."""
    return _padded(logits, texts, frames, labels)


def torch_ctc(logits, texts, frames, labels, **options):
    """Losses and gradient, in float64."""
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(np.float64(logits), requires_grad=True)
    rows = torch.log_softmax(leaf, -1).transpose(0, 1)
    lengths = [torch.tensor(np.asarray(x)) for x in (frames, labels)]
    value = torch.nn.functional.ctc_loss(rows, torch.tensor(np.asarray(texts)), *lengths, **options)
    value.sum().backward()
    return value.detach().numpy(), leaf.grad.numpy()


# ---- peers -----------------------------------------------------------------------------------------------------------


def test_torch_agrees():
    units, gradients = padded(LOGITS)
    expected, slopes = torch_ctc(LOGITS, TEXTS, FRAME_COUNTS, LABEL_COUNTS, reduction="none")
    np.testing.assert_allclose(units, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients, slopes, atol=1e-6)


def test_reductions_and_blank_of_torch():
    lengths, last = np.maximum(LABEL_COUNTS, 1), CLASSES - 1
    fixed = {"frame_where": FRAME_WHERE, "label_where": LABEL_WHERE}
    mean = once(losses.ctc, LOGITS, TEXTS, **fixed, weights=1.0 / lengths, reduction="sum") / BATCH
    expected, _ = torch_ctc(LOGITS, TEXTS, FRAME_COUNTS, LABEL_COUNTS)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    moved = once(losses.ctc, np.roll(LOGITS, -1, axis=-1), TEXTS - 1, blank=last, **fixed, reduction="none")
    np.testing.assert_allclose(moved, padded(LOGITS)[0], rtol=1e-6)


def test_optax_agrees():
    optax = pytest.importorskip("optax")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        pads = np.float32(~FRAME_WHERE), TEXTS, np.float32(~LABEL_WHERE)
        f = quick(lambda z: jax.vjp(lambda z: optax.losses.ctc_loss(z, *pads), z))
        expected, pull = f(LOGITS)
        (slopes,) = pull(jnp.ones(BATCH))
    units, gradients = padded(LOGITS)
    np.testing.assert_allclose(units, expected, rtol=1e-5)
    np.testing.assert_allclose(gradients, slopes, atol=1e-5)


@pytest.mark.parametrize("sure", [0.0, 12.0], ids=["unsure", "sure"])
def test_long_sequences_keep_their_digits(sure):
    """4000 frames and 100 labels, each probability a product of thousands; torch in float32 is off by 1e-3."""
    texts = np.tile(np.arange(1, 5), (1, 25))
    symbols = np.zeros((1, 4000), int)
    symbols[:, 10:3010] = np.repeat(texts, 30, axis=1)
    logits = np.float32(RNG.normal(size=(1, 4000, 5)) + sure * (symbols[..., None] == np.arange(5)))
    value, gradient = step(logits, texts)
    expected, slopes = torch_ctc(logits, texts, [4000], [100], reduction="none")
    np.testing.assert_allclose(value, expected[0], rtol=2e-5 if sure else 1e-6)
    np.testing.assert_allclose(gradient, slopes, atol=1e-5)


# ---- what cannot be read ---------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_infinite_without_a_gradient():
    """Promise L9: torch's gradient is NaN, and Optax calls it 100 thousand."""
    optax = pytest.importorskip("optax")
    frames, logits = FRAME_WHERE.copy(), LOGITS.copy()
    frames[1] = np.arange(FRAMES) < 6  # 3 _ 3 _ 3 _ 3 takes seven
    logits[0, :, TEXTS[0, 1]] = -np.inf
    frames[3] = False
    units, gradients = padded(logits, frames=frames)
    lost = np.array([0, 1, 3])
    assert np.isposinf(units[lost]).all()
    assert not np.any(gradients[lost])
    rest = np.array([2, 4, 5])
    expected = padded(LOGITS)
    np.testing.assert_allclose(units[rest], expected[0][rest], rtol=1e-6)
    np.testing.assert_allclose(gradients[rest], expected[1][rest], atol=1e-7)
    _, slopes = torch_ctc(LOGITS[1:2], TEXTS[1:2], [6], [4], reduction="none")
    assert np.isnan(slopes).any()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert optax.losses.ctc_loss(LOGITS[1:2, :6], np.zeros((1, 6)), TEXTS[1:2], np.zeros((1, 4)))[0] < 2e5
    hessian_product = jax.jvp(lambda z: padded(z, frames=frames)[1], (logits,), (np.isfinite(logits) * np.float32(1),))
    assert np.isfinite(hessian_product[1]).all()


def test_zero_infinity_of_torch():
    frames = FRAME_WHERE.copy()
    frames[1] = np.arange(FRAMES) < 6
    counts = frames.sum(axis=1)
    expected, slopes = torch_ctc(LOGITS, TEXTS, counts, LABEL_COUNTS, reduction="none", zero_infinity=True)
    units, gradients = padded(LOGITS, frames=frames)
    np.testing.assert_allclose(np.where(np.isinf(units), 0.0, units), expected, rtol=1e-6)
    np.testing.assert_allclose(gradients, slopes, atol=1e-6)


# ---- padding ---------------------------------------------------------------------------------------------------------


def test_padding_may_hold_anything():
    logits = np.where(FRAME_WHERE[..., None], LOGITS, np.nan)
    texts = np.where(LABEL_WHERE, TEXTS, -100)
    expected, actual = padded(LOGITS), padded(logits, texts)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.any(actual[1][~FRAME_WHERE])
    product = jax.jvp(lambda z: padded(z, texts)[1], (logits,), (np.ones_like(logits),))[1]
    assert np.isfinite(product).all()


def test_frames_and_labels_between_may_be_left_out():
    frames, labels = RNG.random((BATCH, FRAMES)) < 0.7, RNG.random((BATCH, LABELS)) < 0.6
    logits = np.where(frames[..., None], LOGITS, np.inf)
    units, gradients = padded(logits, TEXTS, frames, labels)
    packed, texts = np.zeros_like(LOGITS), np.ones_like(TEXTS)
    for i in range(BATCH):
        packed[i, : frames[i].sum()] = LOGITS[i, frames[i]]
        texts[i, : labels[i].sum()] = TEXTS[i, labels[i]]
    counts = [np.arange(n) < keep.sum(axis=1)[:, None] for n, keep in ((FRAMES, frames), (LABELS, labels))]
    expected, slopes = padded(packed, texts, *counts)
    np.testing.assert_allclose(units, expected, rtol=1e-6)
    for i in range(BATCH):
        np.testing.assert_allclose(gradients[i, frames[i]], slopes[i, : frames[i].sum()], atol=1e-7)


FEW = np.array(
    [(0, 0, 0.0), (0, 1, np.inf), (1, 0, np.log(3)), (1, 1, np.log(3)), (1, 2, np.inf), (3, 0, 3 * np.log(3))]
)


def test_few_frames_and_no_labels():
    frames, labels = np.arange(3) < FEW[:, :1], np.arange(2) < FEW[:, 1:2]
    logits = np.where(frames[..., None], np.zeros((6, 3, 3), np.float32), np.float32(np.nan))
    units, gradients = padded(logits, np.where(labels, 1, -1), frames, labels)
    np.testing.assert_allclose(units, FEW[:, 2], rtol=1e-6)
    assert np.isfinite(gradients).all()
    for frames, labels, expected in FEW[[0, 3, 5]]:
        value, gradient = step(jnp.zeros((int(frames), 3)), jnp.ones(int(labels), int))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert np.isfinite(gradient).all()


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_sure_readings_keep_their_digits():
    """Promises L1 and L6: what is left of 1 is added up and not subtracted; Optax is negative at times (#1771)."""
    optax = pytest.importorskip("optax")
    texts = RNG.integers(1, 5, size=(48, 2))
    texts[:8] = 2
    symbols = np.stack([[0, a, 0, b] if i < 24 else [a, a, 0, b] for i, (a, b) in enumerate(texts)])
    logits = np.float32(RNG.normal(size=(48, 4, 5)))
    logits += np.float32(np.linspace(0, 80, 48))[:, None, None] * (symbols[..., None] == np.arange(5))
    logits[::3, 0, 0] = logits[::3, 0, symbols[::3, 0]].max(axis=-1)  # a blank or a label: both will do, or not
    compare(losses.ctc, [logits, texts], {}, value_ulps=16, gradient_ulps=16)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert (optax.losses.ctc_loss(logits, np.zeros((48, 4)), texts, np.zeros((48, 2))) < 0).any()


def test_long_sure_sequences_are_exact():
    """A probability of being misread of 1e-9, in float32 and float64; a few unsure frames between the labels."""
    texts = np.tile(np.arange(1, 5), (2, 5))
    symbols = np.repeat(np.pad(texts, ((0, 0), (0, 5))), 8, axis=1)
    logits = np.float32(RNG.normal(size=(2, 200, 5)) + 25.0 * (symbols[..., None] == np.arange(5)))
    logits[:, 7::8, 0] = logits[:, 7::8].max(axis=-1)
    value, gradient = step(logits, texts)
    with jax.enable_x64(True):
        expected, slopes = step(jnp.asarray(logits, jnp.float64), texts)
    assert 1e-12 < value < 1e-6
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes, atol=1e-5 * np.abs(slopes).max())


def test_logits_of_any_size():
    """The best symbol of each frame is free; what reads as the labels pays for one frame, or for none."""
    each = quick(jax.vmap(jax.value_and_grad(losses.ctc)))
    for size in (1e4, 1e30, float(np.finfo(np.float32).max)):
        logits = np.zeros((2, 4, 3), np.float32)
        logits[0, [0, 1, 2, 3], [1, 1, 0, 2]] = size
        logits[1, [0, 1, 2, 3], [1, 0, 0, 0]] = size
        value, gradient = each(logits, np.array([[1, 2], [1, 2]]))
        np.testing.assert_allclose(value, [0.0, size - np.log(3.0)], rtol=1e-6)
        np.testing.assert_allclose(gradient[0], 0.0, atol=1e-30)
        np.testing.assert_allclose(gradient[1, 1:], np.tile([1 / 3, 0, -1 / 3], (3, 1)), atol=1e-6)


def test_half_precision_logits_of_many_frames():
    logits, texts = jnp.asarray(RNG.normal(size=(2, 1000, 30)), jnp.bfloat16), RNG.integers(1, 30, size=(2, 50))
    value, gradient = step(logits, texts)
    expected, slopes = step(logits.astype(jnp.float32), texts)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(gradient, slopes.astype(jnp.bfloat16))


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"labels": TEXTS * 0}, ValueError, r"labels must be in \[0, 6\) and not the blank 0, got 0"),
        ({"labels": TEXTS[:, 0]}, ValueError, r"got logits\[6, 14, 6\], labels\[6\]"),
        ({"blank": 6}, ValueError, r"blank must be in \[0, 6\), got 6"),
        ({"blank": 0.0}, TypeError, "blank sets structure"),
        ({"frame_where": np.ones(FRAMES)}, TypeError, "frame_where must be bool"),
        ({"label_where": np.ones((BATCH, 3), bool)}, ValueError, "label_where"),
    ],
)
def test_wrong_calls(change, error, match):
    arguments = {"logits": LOGITS, "labels": TEXTS} | change
    with pytest.raises(error, match=match):
        losses.ctc(**arguments)


def test_a_traced_blank_among_the_labels_is_nan():
    texts = TEXTS.copy()
    texts[2, 1] = 0
    units, _ = padded(LOGITS, texts)
    assert np.isnan(units[2])
    assert np.isfinite(np.delete(units, 2)).all()


# ---- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [0, 2])
def test_best_path(blank):
    logits = np.float32(RNG.normal(size=(5, 40, 3)))
    keep = RNG.random((5, 40)) < 0.8
    keep[0] = False
    keep[1] = True
    labels, where = quick(lambda z, w: activations.ctc_best_path(z, blank=blank, frame_where=w))(
        np.where(keep[..., None], logits, np.nan), keep
    )
    for i in range(5):
        symbols = logits[i, keep[i]].argmax(axis=-1)
        expected = [k for k, _ in itertools.groupby(symbols) if k != blank]
        assert labels[i, where[i]].tolist() == expected
        assert where[i].sum() == len(expected)
        assert (labels[i, len(expected) :] == -1).all()


def test_the_best_path_of_what_was_learned_reads_as_the_labels():
    logits, texts, run = jnp.zeros((1, 10, 4)), jnp.array([[1, 1, 3]]), quick(jax.grad(losses.ctc))
    for _ in range(60):
        logits = logits - 5.0 * run(logits, texts)
    labels, where = once(activations.ctc_best_path, logits)
    assert labels[where].tolist() == [1, 1, 3]
