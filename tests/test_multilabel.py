"""Several labels at once: peers, recipes, soft targets and hostile numbers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import losses
from tests import vocabulary as v
from tests.test_losses import compare
from tests.vocabulary import quick

RNG = np.random.default_rng(0)
LOGITS = np.float32(2.0 * RNG.normal(size=(24, 5)))
TARGETS = np.float32(RNG.random((24, 5)) < 0.4)


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


def test_soft_targets_are_exact():
    compare(losses.multi_label_softmax, [LOGITS, np.float32(RNG.random((24, 5)))], {}, value_ulps=8, gradient_ulps=8)


def test_hostile_targets_are_exact():
    """A target of 1e-30 against a logit of -80 is an ordinary number, and so is its gradient."""
    logits = RNG.choice(np.float32([x for x in v.LOGITS if abs(x) <= 100]), size=(96, 5))
    targets = RNG.choice(np.float32(v.UNIT), size=(96, 5))
    compare(losses.multi_label_softmax, [logits, targets], {}, value_ulps=32, gradient_ulps=64)


def test_right_rows_keep_their_digits():
    """log(1 + x) of a sum below 1e-7 is 0 in float32."""
    gaps = np.linspace(0.0, 80.0, 24, dtype=np.float32)[:, None]
    logits = np.where(TARGETS == 1, gaps, -gaps) + 0.1 * LOGITS
    compare(losses.multi_label_softmax, [np.float32(logits), TARGETS], {}, value_ulps=8, gradient_ulps=8)


def test_one_label_is_softmax_against_zero():
    """With a class of score 0 the first term is its surprise, the second that of the others."""
    extended = np.concatenate([LOGITS, np.zeros((24, 1), np.float32)], axis=1)
    first = once(losses.softmax_cross_entropy_with_integer_labels, extended, np.full(24, 5))
    np.testing.assert_allclose(once(losses.multi_label_softmax, LOGITS, np.zeros((24, 5))), first, rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.multi_label_softmax, losses.multi_label_hinge])
def test_a_label_that_does_not_exist_is_as_dropped(loss):
    logits, targets = LOGITS.copy(), TARGETS.copy()
    logits[:, [1, 3]], targets[:, [1, 3]] = -np.inf, 0.0
    kept = [0, 2, 4]
    value, gradient = quick(jax.value_and_grad(loss))(logits, targets)
    expected, small = quick(jax.value_and_grad(loss))(logits[:, kept], targets[:, kept])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, kept], small, rtol=1e-5, atol=1e-8)
    assert not np.any(gradient[:, [1, 3]])


def test_targets_may_be_bools_and_integers():
    for loss in (losses.multi_label_softmax, losses.multi_label_hinge):
        expected = loss(LOGITS, TARGETS)
        assert loss(LOGITS, TARGETS == 1) == expected
        assert loss(LOGITS, TARGETS.astype(np.int32)) == expected


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [(losses.multi_label_softmax, 1.5), (losses.multi_label_hinge, 0.5), (losses.multi_label_hinge, 2)],
)
def test_targets_outside_the_domain_are_loud(loss, wrong):
    targets = TARGETS.copy()
    targets[3, 2] = wrong
    with pytest.raises(ValueError, match=f"targets must be .*got {wrong:g}"):
        loss(LOGITS, targets)
    units = quick(lambda t: loss(LOGITS, t, reduction="none"))(targets)
    assert np.isnan(units[3])
    assert np.isfinite(np.delete(units, 3)).all()


def test_the_hinge_is_that_of_torch():
    torch = pytest.importorskip("torch")
    padded = np.full((24, 5), -1)
    for row, truth in zip(padded, TARGETS, strict=True):
        row[: int(truth.sum())] = np.flatnonzero(truth)
    z = torch.tensor(LOGITS, requires_grad=True)
    expected = torch.nn.functional.multilabel_margin_loss(z, torch.tensor(padded))
    expected.backward()
    value, gradient = quick(jax.value_and_grad(lambda z: losses.multi_label_hinge(z, TARGETS) / 5))(LOGITS)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, z.grad, rtol=1e-6, atol=1e-9)


def test_the_hinge_of_one_label_is_that_of_weston_and_watkins():
    labels = RNG.integers(0, 5, size=24)
    expected = once(losses.weston_watkins_hinge, LOGITS, labels, margin=0.7, reduction="none")
    actual = once(losses.multi_label_hinge, LOGITS, np.eye(5)[labels], margin=0.7, reduction="none")
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_every_pair_by_hand():
    found = once(losses.multi_label_hinge, LOGITS[:4], TARGETS[:4], margin=2.0, reduction="none")
    for z, t, ours in zip(LOGITS, TARGETS, found, strict=False):
        pairs = itertools.product(np.flatnonzero(t), np.flatnonzero(t == 0))
        expected = sum(max(0.0, 2.0 + float(z[j]) - float(z[i])) for i, j in pairs)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_no_pair_is_ever_stored():
    """4096 labels have 16 million pairs a row."""
    z, t = jnp.zeros((2, 4096)), jnp.zeros((2, 4096)).at[:, :7].set(1.0)
    step = jax.jit(jax.value_and_grad(losses.multi_label_hinge)).lower(z, t).compile()
    analysis = step.memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 4e6
    assert step(z, t)[0] == 7 * 4089
