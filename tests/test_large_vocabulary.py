"""Losses over many classes beyond the contract: peers, limits, what the corrections are for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import losses, targets
from tests.vocabulary import quick

CLASSES = 20


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


def problem(seed=0, units=9, d=4, classes=CLASSES):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(units, d)).astype(np.float32)
    weights = rng.normal(size=(d, classes)).astype(np.float32)
    return hidden @ weights, rng.integers(0, classes, units)


def gather(logits, labels):
    return jnp.take_along_axis(logits, labels[..., None], axis=-1)


def test_every_class_as_a_sample_is_the_full_softmax():
    """With the label itself among the samples, and removed as an accidental hit."""
    logits, labels = problem()
    full = once(losses.softmax_cross_entropy_with_integer_labels, logits, labels, reduction="none")
    hits = np.arange(CLASSES) == labels[:, None]
    sampled = once(losses.sampled_softmax, gather(logits, labels)[:, 0], logits, hits=hits, reduction="none")
    np.testing.assert_allclose(sampled, full, rtol=1e-6)
    removed = np.where(hits, -np.inf, logits)
    np.testing.assert_array_equal(
        once(losses.sampled_softmax, gather(logits, labels)[:, 0], removed, reduction="none"), sampled
    )
    gradient = quick(jax.grad(lambda s: losses.sampled_softmax(gather(logits, labels)[:, 0], s, hits=hits)))(logits)
    assert not np.any(gradient[hits])


@pytest.mark.parametrize("skewed", [False, True])
def test_the_correction_removes_the_bias(skewed):
    """With log q the gradient of a large sample is that of the full softmax; without, only if q is uniform."""
    logits, labels = problem(1, units=1)
    rng = np.random.default_rng(2)
    q = np.exp(-0.3 * np.arange(CLASSES)) if skewed else np.ones(CLASSES)
    q = (q / q.sum()).astype(np.float32)
    samples = rng.choice(CLASSES, size=20000, p=q / np.float64(q).sum())
    others = samples[samples != labels[0]]  # the sample of the rest, with its own q
    expected = 1 / np.float32((1 - q[labels[0]]) * len(samples) / len(others))

    def loss(z, corrected):
        log_q = np.log(q * len(samples) * expected)
        options = {"true_log_q": 0.0, "sampled_log_q": log_q[others]} if corrected else {}
        return losses.sampled_softmax(z[0, labels[0]][None], z[0, others][None], **options)

    full = quick(jax.grad(lambda z: losses.softmax_cross_entropy_with_integer_labels(z, labels)))(logits)
    corrected = quick(jax.grad(lambda z: loss(z, True)))(logits)
    np.testing.assert_allclose(corrected, full, atol=0.05)
    if skewed:
        assert np.max(np.abs(quick(jax.grad(lambda z: loss(z, False)))(logits) - full)) > 0.1


def test_a_common_factor_of_q_cancels():
    logits, labels = problem(3)
    true = gather(logits, labels)[:, 0]
    plain = once(losses.sampled_softmax, true, logits[:, :5], reduction="none")
    shifted = once(losses.sampled_softmax, true, logits[:, :5], true_log_q=-7.0, sampled_log_q=-7.0, reduction="none")
    np.testing.assert_allclose(shifted, plain, rtol=1e-6)


def test_a_correction_counts_next_to_large_logits():
    """1e30 - log q is 1e30 in float32: the difference of the logits comes first."""
    t, s = np.float32(1e30), np.full(3, 1e30, np.float32)
    loss = once(losses.sampled_softmax, t, s, true_log_q=np.log(0.5), sampled_log_q=np.log(0.25))
    np.testing.assert_allclose(loss, np.log1p(3 * 2), rtol=1e-6)


def test_confident_rows_keep_their_digits():
    for options in ({}, {"true_log_q": -1.0, "sampled_log_q": -1.0}):
        value = once(losses.sampled_softmax, np.float32(20), np.float32([0, 0]), **options)
        np.testing.assert_allclose(value, 4.122307e-9, rtol=2e-6)


def test_noise_contrastive_estimation_normalises():
    """At the log-probabilities of the data the expected gradient vanishes; at shifted ones it does not."""
    p, q = np.float32([0.5, 0.25, 0.125, 0.125]), np.float32([0.25] * 4)
    k = 3

    def expected(z):
        rows = jnp.broadcast_to(z, (4, 4))
        data = losses.noise_contrastive(
            z, jnp.full((4, k), -jnp.inf), true_log_q=np.log(q), sampled_log_q=0.0, weights=p, reduction="sum"
        )
        noise = losses.noise_contrastive(
            jnp.full(4, 1e9), jnp.broadcast_to(rows[0][:, None], (4, k)), true_log_q=0.0,
            sampled_log_q=np.log(q)[:, None], weights=q, reduction="sum",
        )  # fmt: skip
        return data + noise

    slope = quick(jax.grad(expected))
    np.testing.assert_allclose(slope(np.log(p)), 0, atol=1e-7)
    assert np.max(np.abs(slope(np.log(p) + 1))) > 0.05


def test_negative_sampling_is_noise_contrastive_with_k_q_of_one():
    logits, labels = problem(4)
    true, k = gather(logits, labels)[:, 0], 6
    ours = once(losses.negative_sampling, true, logits[:, :k], reduction="none")
    other = once(
        losses.noise_contrastive, true, logits[:, :k], true_log_q=-np.log(k), sampled_log_q=-np.log(k), reduction="none"
    )
    np.testing.assert_allclose(ours, other, rtol=1e-6)
    expected = np.log1p(np.exp(-true)) + np.log1p(np.exp(logits[:, :k])).sum(-1)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_hits_leave_no_trace():
    logits, labels = problem(5)
    true, hits = gather(logits, labels)[:, 0], np.arange(6) == 2
    some = np.delete(logits[:, :6], 2, axis=1)
    np.testing.assert_array_equal(
        once(losses.negative_sampling, true, logits[:, :6], hits=hits), once(losses.negative_sampling, true, some)
    )
    np.testing.assert_allclose(
        once(losses.sampled_softmax, true, logits[:, :6], hits=hits),
        once(losses.sampled_softmax, true, some),
        rtol=1e-6,
    )
    spoiled = np.where(hits, np.inf, logits[:, :6])
    for loss in (losses.sampled_softmax, losses.negative_sampling):
        value, gradient = quick(jax.value_and_grad(lambda s, f=loss: f(true, s, hits=hits)))(spoiled)
        np.testing.assert_allclose(value, once(loss, true, some), rtol=1e-6)
        assert np.isfinite(gradient).all()
    with pytest.raises(TypeError, match="hits must be bool"):
        losses.negative_sampling(true, some, hits=np.ones(5))


@pytest.mark.parametrize("cutoffs", [[2, 6], [5], [1, 2, 12]])
def test_adaptive_softmax_of_torch(cutoffs):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(8, CLASSES, cutoffs, div_value=2.0)
    rng = np.random.default_rng(6)
    hidden, labels = rng.normal(size=(CLASSES, 8)).astype(np.float32), np.arange(CLASSES)
    leaf = torch.tensor(hidden, requires_grad=True)
    theirs = module(leaf, torch.tensor(labels))
    theirs.loss.backward()
    matrix = lambda layer: layer.weight.detach().numpy().T  # noqa: E731
    head, tails = matrix(module.head), tuple((matrix(tail[0]), matrix(tail[1])) for tail in module.tail)
    f = lambda h, head, tails, **o: losses.adaptive_softmax(h, labels, head=head, tails=tails, **o)  # noqa: E731
    value, gradients = quick(jax.value_and_grad(f, argnums=(0, 1, 2)))(hidden, head, tails)
    np.testing.assert_allclose(value, theirs.loss.item(), rtol=1e-6)
    np.testing.assert_allclose(gradients[0], leaf.grad.numpy(), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(gradients[1], module.head.weight.grad.numpy().T, rtol=1e-4, atol=1e-7)
    for ours, tail in zip(gradients[2], module.tail, strict=True):
        for gradient, layer in zip(ours, tail, strict=True):
            np.testing.assert_allclose(gradient, layer.weight.grad.numpy().T, rtol=1e-4, atol=1e-7)
    every = quick(functools.partial(f, reduction="none"))(np.repeat(hidden[:1], CLASSES, 0), head, tails)
    np.testing.assert_allclose(np.exp(-every).sum(), 1, rtol=1e-6)


def test_adaptive_softmax_says_what_does_not_fit():
    hidden, labels = np.ones((2, 3), np.float32), np.array([0, 1])
    head, tail = np.ones((3, 2), np.float32), (np.ones((3, 1), np.float32), np.ones((1, 4), np.float32))
    f = lambda **o: losses.adaptive_softmax(hidden, labels, **({"head": head, "tails": (tail,)} | o))  # noqa: E731
    with pytest.raises(ValueError, match=r"head must be \[3, \.\.\.\]"):
        f(head=np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"tails\[0\]\[1\] must be \[1, \.\.\.\]"):
        f(tails=((tail[0], head),))
    with pytest.raises(ValueError, match="fewer columns"):
        f(tails=(tail,) * 3)
    with pytest.raises(ValueError, match="labels must be in \\[0, 5\\)"):
        losses.adaptive_softmax(hidden, labels + 4, head=head, tails=(tail,))


def test_the_log_uniform_sampler():
    q = np.exp(targets.log_uniform_log_q(np.arange(1000), classes=1000))
    np.testing.assert_allclose(q.sum(), 1, rtol=1e-6)
    draws = jnp.exp(jax.random.uniform(jax.random.key(0), (100_000,)) * jnp.log(1001.0)).astype(int) - 1
    assert draws.min() == 0
    assert draws.max() <= 999
    shares = np.bincount(draws, minlength=1000) / len(draws)
    np.testing.assert_allclose(shares[:5], q[:5], rtol=0.05)
    tail = targets.log_uniform_log_q(np.array([10**9 - 1]), classes=10**9)
    np.testing.assert_allclose(tail, -9 * np.log(10) - np.log(np.log(1e9)), rtol=1e-6)
    with pytest.raises(ValueError, match="labels must be in"):
        targets.log_uniform_log_q(np.array([5]), classes=5)
    assert np.isnan(quick(lambda x: targets.log_uniform_log_q(x, classes=5))(np.array([5])))[0]
