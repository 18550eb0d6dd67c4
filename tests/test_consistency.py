"""Mixing and consistency: what mixing means, whom pseudo-labels follow, where virtual adversaries are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import losses, objectives, targets
from tests import vocabulary as v

KEY = jax.random.key(0)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("transform", [targets.mixup, targets.cutmix], ids=["mixup", "cutmix"])
def test_shares_are_what_was_kept(transform, per_sample):
    """An image of its own number everywhere: the mean of the mixture says who is in it, and how much."""
    number = jnp.arange(8, dtype=jnp.float32)
    images = jnp.broadcast_to(number[:, None, None, None], (8, 6, 5, 2))
    run = jax.jit(lambda alpha: transform(KEY, images, alpha=alpha, per_sample=per_sample))
    for alpha in (0.0, 1e-3, 0.2, 1.0, 50.0):
        mixed, partners, shares = run(alpha)
        assert mixed.shape == images.shape
        assert sorted(partners.tolist()) == list(range(8))
        assert (shares >= 0).all() and (shares <= 1).all()  # noqa: PT018
        assert per_sample or len(set(shares.tolist())) == 1
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), targets.mix(number, partners, shares), rtol=1e-5, atol=1e-6)
        if alpha == 0:
            np.testing.assert_array_equal(mixed, images)


def test_cutmix_cuts_one_box():
    images = jnp.stack([jnp.zeros((9, 7, 1)), jnp.ones((9, 7, 1))])
    for seed in range(20):
        mixed, partners, shares = targets.cutmix(jax.random.key(seed), images)
        other = np.asarray(mixed[0, ..., 0] != images[0, ..., 0])
        if partners[0] == 0:
            continue
        rows, columns = other.any(1), other.any(0)
        assert other.sum() == rows.sum() * columns.sum(), "a full box"
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == 1
        np.testing.assert_allclose(shares, 1 - other.mean(), rtol=1e-6)


def test_cutmix_of_other_ranks_and_errors():
    for shape, axes in (((3, 8, 2), (-2,)), ((3, 4, 5, 6, 1), (1, 2, 3))):
        mixed, _, _ = targets.cutmix(KEY, jnp.ones(shape), axes=axes)
        np.testing.assert_array_equal(mixed, jnp.ones(shape))
    with pytest.raises(ValueError, match="batch"):
        targets.cutmix(KEY, jnp.ones((2, 3, 3, 1)), axes=(0, 1))
    with pytest.raises(ValueError, match="axes"):
        targets.cutmix(KEY, jnp.ones((2, 3)), axes=(-3, -2))
    with pytest.raises(ValueError, match="alpha must be nonnegative"):
        targets.mixup(KEY, jnp.ones((2, 3)), alpha=-1.0)
    with pytest.raises(TypeError, match="inputs must be floating"):
        targets.mixup(KEY, jnp.ones((2, 3), jnp.uint8))
    with pytest.raises(ValueError, match="partners"):
        targets.mix(jnp.ones(3), jnp.array([0, 1]), jnp.ones(2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixing_in_16_bits_rounds_once(dtype):
    x = jax.random.normal(KEY, (8, 16)).astype(dtype)
    mixed, partners, shares = targets.mixup(KEY, x, alpha=1.0)
    assert mixed.dtype == x.dtype
    assert shares.dtype == jnp.float32
    wide = targets.mix(x.astype(jnp.float32), partners, shares)
    np.testing.assert_array_equal(mixed, wide.astype(dtype))


def test_mixing_targets_is_mixing_losses_for_cross_entropy():
    logits, labels = jax.random.normal(KEY, (8, 4)), jnp.arange(8) % 4
    _, partners, shares = targets.mixup(KEY, jnp.ones((8, 1)), alpha=1.0, per_sample=True)
    soft = targets.mix(jax.nn.one_hot(labels, 4), partners, shares)
    of_targets = losses.softmax_cross_entropy(logits, soft, reduction="none")
    own = losses.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="none")
    other = losses.softmax_cross_entropy_with_integer_labels(logits, labels[partners], reduction="none")
    np.testing.assert_allclose(of_targets, shares * own + (1 - shares) * other, rtol=2e-6)


def test_mixing_sweeps_over_alpha():
    shares = jax.vmap(lambda a: targets.mixup(KEY, jnp.ones((4, 1)), alpha=a, per_sample=True).shares)(
        jnp.array([0.0, 0.2, 1.0])
    )
    assert shares.shape == (3, 4)
    assert (shares[0] == 1).all()
    assert np.isfinite(shares).all()


def test_fixmatch_follows_whom_it_should():
    logits = jax.random.normal(KEY, (6, 3))
    teacher = 4.0 * jax.random.normal(jax.random.key(1), (6, 3))
    p = jax.nn.softmax(teacher)
    sure = (p.max(-1) >= 0.9).astype(jnp.float32)
    hard = losses.softmax_cross_entropy_with_integer_labels(logits, teacher.argmax(-1), reduction="none")
    np.testing.assert_allclose(losses.fixmatch(logits, teacher, threshold=0.9), jnp.mean(sure * hard), rtol=1e-6)
    soft = losses.softmax_cross_entropy(logits, jax.nn.softmax(teacher / 0.4), reduction="none")
    np.testing.assert_allclose(
        losses.fixmatch(logits, teacher, threshold=0.9, temperature=0.4), jnp.mean(sure * soft), rtol=1e-6
    )
    assert not np.any(jax.grad(lambda t: losses.fixmatch(logits, t, temperature=0.4, threshold=0.0))(teacher))
    limits = jnp.array([0.5, 1.0, 0.7])
    each = losses.fixmatch(logits, teacher, threshold=limits, reduction="none")
    np.testing.assert_array_equal(each > 0, p.max(-1) >= limits[teacher.argmax(-1)])
    with pytest.raises(ValueError, match=r"threshold must be a scalar or \[3\]"):
        losses.fixmatch(logits, teacher, threshold=jnp.ones(2))
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.fixmatch(logits, teacher, temperature=0.0)


def test_label_relaxation_is_cross_entropy_at_zero():
    logits, labels = jax.random.normal(KEY, (16, 5)), jnp.arange(16) % 5
    for argument in (0.0, jnp.float32(0.0)):
        relaxed = losses.label_relaxation(logits, labels, alpha=argument, reduction="none")
        plain = losses.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="none")
        np.testing.assert_allclose(relaxed, plain, rtol=1e-6)


def test_confidence_penalty_is_flat_where_the_row_is():
    np.testing.assert_array_equal(jax.grad(losses.confidence_penalty)(jnp.full((2, 7), 3.3)), 0.0)


def test_flexmatch_counts_as_the_paper_does():
    rng = np.random.default_rng(0)
    init, update = objectives.flexmatch(10, 3, threshold=0.8)
    state, last = init(), np.full(10, -1)
    step = jax.jit(update, donate_argnums=0)
    for _ in range(8):
        logits = (3 * rng.normal(size=(4, 3))).astype(np.float32)
        indices, keep = rng.permutation(10)[:4], rng.random(4) < 0.8
        counts = np.array([(last == c).sum() for c in range(3)], float)
        beta = counts / max(counts.max(), (last == -1).sum())
        thresholds, state = step(state, logits, indices, keep)
        np.testing.assert_allclose(thresholds, 0.8 * beta / (2 - beta), rtol=1e-6)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        for i, row, kept in zip(indices, p, keep, strict=True):
            if kept and row.max() > 0.8:
                last[i] = row.argmax()
        np.testing.assert_array_equal(state.answers, last)
    with pytest.raises(ValueError, match=r"indices must be in \[0, 10\)"):
        update(state, logits, np.array([0, 1, 2, 10]))
    with pytest.raises(ValueError, match=r"teacher_logits must be \[batch, 3\]"):
        update(state, logits[:, :2], indices)
    for wrong in (10, -1):
        _, after = jax.jit(update)(state, 100 * np.eye(3, dtype=np.float32), np.full(3, wrong))
        np.testing.assert_array_equal(after.answers, last)
    (_, after), _ = jax.lax.scan(
        lambda c, x: (update(c[1], x, jnp.arange(4)), None), (jnp.zeros(3), state), logits[None]
    )
    assert after.answers.dtype == jnp.int32


def test_virtual_adversary_is_the_worst_direction():
    """A linear model: H is known, and many iterations find its first eigenvector."""
    weights = jax.random.normal(KEY, (5, 3))
    x = jax.random.normal(jax.random.key(1), (1, 5))
    loss = objectives.virtual_adversarial(lambda x: x @ weights, x, KEY, epsilon=0.1, iterations=60)
    p = np.asarray(jax.nn.softmax(x @ weights))[0]
    matrix = np.asarray(weights)
    fisher = matrix @ (np.diag(p) - np.outer(p, p)) @ matrix.T
    worst = np.linalg.eigh(fisher)[1][:, -1]
    moved = [(np.asarray(x)[0] + s * 0.1 * worst) @ matrix for s in (-1.0, 1.0)]
    both = [p @ np.log(p) - p @ (z - np.log(np.exp(z).sum())) for z in moved]
    assert min(abs(loss - b) / b for b in both) < 1e-4


def test_virtual_adversarial_small_steps_masks_and_gradients():
    weights = jax.random.normal(KEY, (5, 3))
    x = jax.random.normal(jax.random.key(1), (4, 5))

    def loss(weights, epsilon, x=x, **options):
        return objectives.virtual_adversarial(lambda x: x @ weights, x, KEY, epsilon=epsilon, **options)

    run, slope = v.quick(loss), v.quick(jax.grad(loss))
    small, smaller = run(weights, 1e-2), run(weights, 1e-4)
    np.testing.assert_allclose(small / smaller, 1e4, rtol=0.02)  # quadratic: no digits are lost on the way to 0
    assert np.isfinite(slope(weights, 0.1)).all()
    assert not np.any(slope(jnp.zeros((5, 3)), 0.1))
    keep = jnp.array([True, False, True, False])
    spoiled = jnp.where(keep[:, None], x, jnp.nan)
    np.testing.assert_allclose(run(weights, 0.1, x=spoiled, where=keep), run(weights, 0.1, where=keep), rtol=1e-6)
    assert run(weights, 0.1, where=False) == 0
    assert np.isfinite(v.quick(jax.vmap(lambda e: loss(weights, e)))(jnp.array([0.0, 0.1]))).all()
    with pytest.raises(ValueError, match=r"apply must return logits \[4, classes\]"):
        objectives.virtual_adversarial(lambda x: x.sum(), x, KEY, epsilon=0.1)
    with pytest.raises(TypeError, match="iterations"):
        loss(weights, 0.1, iterations=1.5)


def test_flooding_floats():
    value, slope = jax.value_and_grad(objectives.flooding)(jnp.float32(0.5), level=jnp.float32(0.5))
    assert (value, slope) == (0.5, 0.0)
    assert objectives.flooding(jnp.bfloat16(0.25), level=0.5).dtype == jnp.float32
