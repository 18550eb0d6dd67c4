"""Areas under curves beyond the contract: the quadratic form, hard labels, offsets, peers' metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import losses
from tests.oracles import auc as oracle
from tests.test_losses import exact
from tests.vocabulary import quick

SET_LOSSES = [losses.auc_squared_hinge, losses.auc_margin, losses.average_precision]


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


def cohort(seed=0, sets=(3,), n=40, share=0.3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(*sets, n)).astype(np.float32), rng.random((*sets, n)) < share


def quadratic_squared_hinge(logits, targets, margin=1.0):
    """`losses.auc_squared_hinge` of one set by its definition: all pairs at once, O(n^2) time and memory."""
    pairs = targets[:, None] & ~targets[None, :]
    excess = jnp.maximum(margin - logits[:, None] + logits[None, :], 0.0)
    return jnp.sum(jnp.where(pairs, excess**2, 0.0)) / jnp.sum(pairs).astype(logits.dtype)


@pytest.mark.parametrize("margin", [0.25, 1.0, 10.0])
def test_the_quadratic_form(margin):
    """Value and gradient to a few ulp, at any offset (what the logits lose by it is lost before)."""
    scores, targets = cohort()
    ours = quick(jax.vmap(jax.value_and_grad(functools.partial(losses.auc_squared_hinge, margin=margin))))
    pairs = quick(jax.vmap(jax.value_and_grad(functools.partial(quadratic_squared_hinge, margin=margin))))
    for offset in (0.0, 100.0, -1e4):
        logits = scores + np.float32(offset)
        values, gradient = ours(logits, targets)
        with jax.enable_x64(True):
            expected, slopes = pairs(logits.astype(np.float64), targets)
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, slopes, rtol=2e-6, atol=1e-7 * np.max(np.abs(slopes)))


def test_memory_does_not_grow_with_the_pairs():
    n = 4096
    logits, targets = cohort(1, (), n)
    for loss in SET_LOSSES:
        step = jax.jit(jax.value_and_grad(lambda z, loss=loss: loss(z, targets)))
        used = step.lower(logits).compile().memory_analysis()
        if used is not None:
            assert used.temp_size_in_bytes < 4 * n * n, loss.__name__


@pytest.mark.parametrize("loss", SET_LOSSES)
def test_hard_labels_are_exact(loss):
    logits, targets = cohort(2, (2,), 9, 0.4)
    values = once(loss, logits, targets, reduction="none")
    gradient = quick(jax.grad(lambda z: loss(z, targets, reduction="sum")))(logits)
    name = {"margin": 1} if loss is not losses.average_precision else {"temperature": 1}
    for value, slopes, z, t in zip(values, gradient, logits, targets, strict=True):
        full, marks = exact(z), exact(t.astype(np.float64))
        truth = getattr(oracle, loss.__name__)(full, marks, **name)
        np.testing.assert_allclose(value, float(truth), rtol=1e-6)
        for i, slope in enumerate(slopes):
            moved = full.copy()
            moved[i] += 1e-6
            ahead = getattr(oracle, loss.__name__)(moved, marks, **name)
            np.testing.assert_allclose(slope, float((ahead - truth) / 1e-6), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(values, once(loss, logits, targets.astype(np.float32), reduction="none"))


@pytest.mark.parametrize("loss", SET_LOSSES)
def test_one_class_is_no_set(loss):
    @quick
    def run(z, t):
        first = jax.value_and_grad(lambda z: loss(z, t))
        return loss(z, t, reduction="none"), jax.jvp(first, (z,), (jnp.ones_like(z),))

    alone = quick(loss)
    for only in (True, False):
        logits, targets = cohort(3)
        targets[1] = only
        values, ((mean, gradient), (_, second)) = run(logits, targets)
        assert values[1] == 0
        np.testing.assert_allclose(mean, np.mean(values[::2]), rtol=1e-6)
        assert not np.any(gradient[1])
        assert np.any(gradient[0])
        assert np.isfinite(second).all()
        assert alone(logits[1], targets[1]) == 0


@pytest.mark.parametrize("loss", SET_LOSSES)
def test_ties_and_offsets(loss):
    """Equal scores, also at 1e30, where a margin added to the logit would vanish."""
    targets = np.array([True, False, False, True])
    run = quick(jax.value_and_grad(lambda z: loss(z, targets)))
    zero, gradient_at_zero = run(np.zeros(4, np.float32))
    for level in (0.0, 1e8, -1e30):
        value, gradient = run(np.full(4, level, np.float32))
        assert value == zero > 0
        np.testing.assert_array_equal(gradient, gradient_at_zero)
        assert np.all(np.sign(gradient) == np.where(targets, -1, 1))


@pytest.mark.parametrize("loss", SET_LOSSES)
def test_numbers_that_overflow_are_no_nan(loss):
    big = np.finfo(np.float32).max
    rng = np.random.default_rng(4)
    logits = rng.choice(np.float32([0, 1, 1e30, -1e30, big, -big]), size=(50, 6))
    targets = rng.random((50, 6)) < 0.5
    value, gradient = quick(jax.vmap(jax.value_and_grad(loss)))(logits, targets)
    assert not np.isnan(value).any()
    assert (np.asarray(value) >= 0).all()
    assert np.isfinite(value).any()
    assert np.isfinite(gradient[np.isfinite(value)]).all()


def test_separated_classes_cost_nothing():
    logits, targets = np.float32([3, 2.5, 1, -80]), np.array([True, True, False, False])
    value, gradient = quick(jax.value_and_grad(lambda z: losses.auc_squared_hinge(z, targets)))(logits)
    assert value == 0
    assert not np.any(gradient)


def test_auc_margin_is_the_saddle_point():
    """Yuan et al.'s objective, minimal in a and b and maximal in alpha >= 0, over p (1 - p)."""
    logits, targets = cohort(5, (), 30)
    p = targets.mean()

    def objective(a, b, alpha, m=1.0):
        positive, negative = targets.astype(np.float32), 1 - targets.astype(np.float32)
        spread = (1 - p) * np.mean((logits - a) ** 2 * positive) + p * np.mean((logits - b) ** 2 * negative)
        lead = np.mean(p * logits * negative - (1 - p) * logits * positive)
        return spread + 2 * alpha * (p * (1 - p) * m + lead) - p * (1 - p) * alpha**2

    a, b = logits[targets].mean(), logits[~targets].mean()
    saddle = objective(a, b, max(0, 1 - a + b))
    np.testing.assert_allclose(p * (1 - p) * once(losses.auc_margin, logits, targets), saddle, rtol=1e-5)
    for away in (-0.1, 0.1):
        best = max(0, 1 - a + b)
        assert objective(a + away, b, best) > saddle > objective(a, b, best + away)
        assert objective(a, b + away, best) > saddle


def test_low_temperatures_are_the_metric():
    metrics = pytest.importorskip("sklearn.metrics")
    logits, targets = cohort(6, (5,), 60)
    values = once(losses.average_precision, logits, targets, temperature=1e-5, reduction="none")
    expected = [1 - metrics.average_precision_score(t, z) for z, t in zip(logits, targets, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_blocks_do_not_matter(monkeypatch):
    """Sets so large that rows come in several blocks, of which the last is not full."""
    from lossax.losses import _auc

    logits, targets = cohort(7, (2,), 70)
    f = lambda z: losses.average_precision(z, targets)  # noqa: E731
    whole = quick(jax.value_and_grad(f))(logits)
    split = _auc.lax.map
    monkeypatch.setattr(_auc.lax, "map", lambda g, xs, batch_size: split(g, xs, batch_size=32))
    blocks = quick(jax.value_and_grad(f))(logits)
    np.testing.assert_allclose(blocks[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(blocks[1], whole[1], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("loss", SET_LOSSES)
def test_bad_targets(loss):
    z = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="targets must be in"):
        loss(z, np.array([0, 1, 2]))
    assert np.isnan(quick(loss)(z, np.array([0, 1, 2])))
    assert np.isfinite(loss(z, np.array([0, 1, 2]), where=np.array([True, True, False])))


@pytest.mark.parametrize("loss", SET_LOSSES)
def test_training_improves_the_area(loss):
    """Logistic regression on rare positives: the loss ranks held-in data as well as it can be ranked."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(8)
    x = rng.normal(size=(300, 5)).astype(np.float32)
    direction = np.float32([1, -1, 0.5, 0, 2])
    targets = x @ direction + rng.normal(size=300) > 3.5
    step = quick(jax.grad(lambda w: loss(x @ w, targets)))
    w = np.zeros(5, np.float32)
    for _ in range(300):
        w = w - 0.3 * step(w)
    best = metrics.roc_auc_score(targets, x @ direction)
    assert metrics.roc_auc_score(targets, x @ w) > best - 0.02
