"""The transducer: the textbook recursion in float64, padding, what cannot be read, sure sequences, FastEmit, memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lossax import losses
from tests.test_losses import compare
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
BATCH, FRAMES, LABELS, CLASSES = 5, 9, 4, 6
LOGITS: Any = np.float32(2.0 * RNG.normal(size=(BATCH, FRAMES, LABELS + 1, CLASSES)))
TEXTS: Any = RNG.integers(1, CLASSES, size=(BATCH, LABELS))
FRAME_WHERE = np.arange(FRAMES) < np.array([9, 6, 9, 1, 3])[:, None]
LABEL_WHERE = np.arange(LABELS) < np.array([4, 4, 2, 3, 0])[:, None]
NODES = FRAME_WHERE[..., None] & np.pad(LABEL_WHERE, ((0, 0), (1, 0)), constant_values=True)[:, None]


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(partial(f, **options))(*arrays)


@quick
def _padded(logits, texts, frames, labels):
    def total(logits):
        units = losses.transducer(logits, texts, frame_where=frames, label_where=labels, reduction="none")
        return jnp.sum(jnp.where(jnp.isfinite(units), units, 0.0)), units

    (_, units), gradients = jax.value_and_grad(total, has_aux=True)(logits)
    return units, gradients


def padded(logits, texts=TEXTS, frames=FRAME_WHERE, labels=LABEL_WHERE):
    """Losses and the gradients of each."""
    return _padded(logits, texts, frames, labels)


def textbook(logits, text, frames, labels):
    """Loss and gradient of one sequence by the recursions of Graves, node by node, in float64."""
    z = np.float64(logits)
    rows = np.exp(z - z.max(axis=-1, keepdims=True))
    rows /= rows.sum(axis=-1, keepdims=True)
    frames, labels = int(frames), int(labels)
    ahead, rest = np.zeros((frames + 1, labels + 1)), np.zeros((frames + 1, labels + 2))
    ahead[0, 0] = rest[frames, labels] = 1.0
    for t in range(frames):
        for u in range(labels + 1):
            ahead[t + 1, u] += ahead[t, u] * rows[t, u, 0]
            if u < labels:
                ahead[t, u + 1] += ahead[t, u] * rows[t, u, text[u]]
    gradient = np.zeros_like(z)
    for t in reversed(range(frames)):
        for u in reversed(range(labels + 1)):
            stay, go = rows[t, u, 0] * rest[t + 1, u], rows[t, u, text[u]] * rest[t, u + 1] if u < labels else 0.0
            rest[t, u] = stay + go
            gradient[t, u] = rest[t, u] * rows[t, u]
            gradient[t, u, 0] -= stay
            if u < labels:
                gradient[t, u, text[u]] -= go
            gradient[t, u] *= ahead[t, u]
    return -np.log(rest[0, 0]), gradient / rest[0, 0]


def test_the_recursions_of_the_paper():
    units, gradients = padded(LOGITS)
    for i in range(BATCH):
        expected, slopes = textbook(LOGITS[i], TEXTS[i], FRAME_WHERE[i].sum(), LABEL_WHERE[i].sum())
        np.testing.assert_allclose(units[i], expected, rtol=1e-6)
        np.testing.assert_allclose(gradients[i], slopes, atol=1e-6)


def test_padding_may_hold_anything():
    logits = np.where(NODES[..., None], LOGITS, np.nan)
    texts = np.where(LABEL_WHERE, TEXTS, -100)
    expected, actual = padded(LOGITS), padded(logits, texts)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.any(actual[1][~NODES])
    product = jax.jvp(lambda z: padded(z, texts)[1], (logits,), (np.ones_like(logits),))[1]
    assert np.isfinite(product).all()


def test_frames_between_may_be_left_out():
    frames = RNG.random((BATCH, FRAMES)) < 0.7
    units, gradients = padded(np.where(frames[..., None, None], LOGITS, np.inf), frames=frames)
    packed = np.zeros_like(LOGITS)
    for i in range(BATCH):
        packed[i, : frames[i].sum()] = LOGITS[i, frames[i]]
    expected, slopes = padded(packed, frames=np.arange(FRAMES) < frames.sum(axis=1)[:, None])
    np.testing.assert_allclose(units, expected, rtol=1e-6)
    for i in range(BATCH):
        np.testing.assert_allclose(gradients[i, frames[i]], slopes[i, : frames[i].sum()], atol=1e-7)


def test_what_cannot_be_read_is_infinite_without_a_gradient():
    logits, frames = LOGITS.copy(), FRAME_WHERE.copy()
    logits[0, :, 1, TEXTS[0, 1]] = -np.inf  # no second label
    logits[1, 5, 4, 0] = -np.inf  # no end
    frames[2:] = False  # labels, labels and none
    units, gradients = padded(logits, frames=frames)
    np.testing.assert_array_equal(np.isposinf(units), [True, True, True, True, False])
    assert units[4] == 0
    assert not np.any(gradients)
    assert np.isfinite(padded(np.where(np.isfinite(logits), logits, 0.0))[1]).all()


def test_classes_that_do_not_exist():
    logits = LOGITS.copy()
    logits[..., 5] = -np.inf
    texts = np.minimum(TEXTS, 4)
    units, gradients = padded(logits, texts)
    expected, slopes = padded(LOGITS[..., :5], texts)
    np.testing.assert_allclose(units, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients[..., :5], slopes, atol=1e-7)
    assert not np.any(gradients[..., 5])


def test_sure_sequences_keep_their_digits():
    """What is left of 1 is added up and not subtracted, in the value and in the gradient."""
    texts = RNG.integers(1, 5, size=(24, 2))
    symbols = np.stack([[[a, b, 0], [0, 0, 0]] if i % 2 else [[0, 0, 0], [a, b, 0]] for i, (a, b) in enumerate(texts)])
    logits = np.float32(RNG.normal(size=(24, 2, 3, 5)))
    logits += np.float32(np.linspace(0, 80, 24))[:, None, None, None] * (symbols[..., None] == np.arange(5))
    logits[::3, 0, 0, 0] = logits[::3, 0, 0].max(axis=-1)  # a blank or a label: both will do, or not
    compare(losses.transducer, [logits, texts], {}, value_ulps=16, gradient_ulps=16)


@pytest.mark.parametrize("size", [1e4, 1e30, float(np.finfo(np.float32).max)])
def test_logits_of_any_size(size):
    logits = np.zeros((1, 2, 2, 3), np.float32)
    logits[..., 0] = size
    value, gradient = quick(jax.value_and_grad(losses.transducer))(logits, np.array([[1]]))
    np.testing.assert_allclose(value, size - np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, :, 0, :2], [[0.5, -0.5], [0.5, -0.5]], atol=1e-6)


def test_the_blank_may_be_any_class():
    moved = once(losses.transducer, np.roll(LOGITS, -1, axis=-1), TEXTS - 1, blank=CLASSES - 1, reduction="none")
    np.testing.assert_allclose(moved, once(losses.transducer, LOGITS, TEXTS, reduction="none"), rtol=1e-6)


# ---- log-probabilities of the arcs -----------------------------------------------------------------------------------


def arcs(logits, texts):
    rows = jax.nn.log_softmax(logits)
    label = jnp.take_along_axis(rows[..., :-1, :], jnp.asarray(texts)[:, None, :, None], axis=-1)
    return rows[..., 0], label[..., 0]


def with_arcs(logits, lam=0.0, labels=LABEL_WHERE):
    blank, label = arcs(logits, TEXTS)
    label = (1 + lam) * label - lam * lax.stop_gradient(label)
    return losses.transducer_with_log_probs(blank, label, frame_where=FRAME_WHERE, label_where=labels, reduction="sum")


def test_arcs_are_enough():
    value, gradient = quick(jax.value_and_grad(with_arcs))(LOGITS)
    units, gradients = padded(LOGITS)
    np.testing.assert_allclose(value, units.sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, gradients, atol=1e-6)


def test_fast_emit_scales_the_gradient_of_labels():
    """The value stays; the gradient by the probabilities of labels is 1 + lambda times what it was."""
    plain, fast = (quick(jax.value_and_grad(partial(with_arcs, lam=lam)))(LOGITS) for lam in (0.0, 0.25))
    np.testing.assert_allclose(fast[0], plain[0], rtol=1e-6)
    rows = jax.nn.softmax(LOGITS)
    labels = np.take_along_axis(rows[..., :-1, :], TEXTS[:, None, :, None], axis=-1)[..., 0]
    more = np.asarray(fast[1] - plain[1])  # 0.25 times the share of a label's arc, times the softmax less the label
    own = (np.arange(CLASSES) == TEXTS[:, None, :, None]) - np.asarray(rows)[..., :-1, :]
    shares = -np.take_along_axis(more[..., :-1, :], TEXTS[:, None, :, None], axis=-1)[..., 0] / (0.25 * (1 - labels))
    np.testing.assert_allclose(more[..., :-1, :], -0.25 * shares[..., None] * own, atol=1e-5)
    np.testing.assert_allclose(shares.sum(axis=1), LABEL_WHERE, atol=1e-4)  # each label is emitted once


def test_long_sequences_keep_their_digits():
    """2500 steps, against float64; sums of logarithms of this size have 3 digits after the point."""
    blank, label = (np.float32(-np.abs(RNG.normal(size=(1, 2000, n))) - 1.0) for n in (501, 500))
    step = quick(jax.value_and_grad(losses.transducer_with_log_probs, argnums=(0, 1)))
    value, gradients = step(blank, label)
    with jax.enable_x64(True):
        expected, slopes = step(jnp.asarray(blank, jnp.float64), jnp.asarray(label, jnp.float64))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient, slope, atol=1e-5)


def test_memory_is_the_gradient_and_no_more():
    logits = np.zeros((2, 40, 11, 256), np.float32)
    texts = np.ones((2, 10), int)
    compiled = jax.jit(jax.value_and_grad(losses.transducer)).lower(logits, texts).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1.3 * logits.nbytes


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"labels": TEXTS * 0}, ValueError, r"labels must be in \[0, 6\) and not the blank 0, got 0"),
        ({"labels": TEXTS[:, 1:]}, ValueError, r"got logits\[5, 9, 5, 6\], labels\[5, 3\]"),
        ({"blank": -1}, ValueError, r"blank must be in \[0, 6\), got -1"),
        ({"label_where": ~LABEL_WHERE}, ValueError, "label_where must keep the first labels"),
        ({"frame_where": np.ones((4, FRAMES), bool)}, ValueError, "frame_where"),
    ],
)
def test_wrong_calls(change, error, match):
    arguments = {"logits": LOGITS, "labels": TEXTS} | change
    with pytest.raises(error, match=match):
        losses.transducer(**arguments)


def test_traced_nonsense_is_nan():
    texts, labels = TEXTS.copy(), LABEL_WHERE.copy()
    texts[0, 1] = 0
    labels[1, 1] = False
    units, _ = padded(LOGITS, texts, labels=labels)
    np.testing.assert_array_equal(np.isnan(units), [True, True, False, False, False])
    with pytest.raises(ValueError, match="label_log_probs"):
        losses.transducer_with_log_probs(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4), np.float32))
