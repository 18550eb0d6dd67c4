"""Imbalance and long tails beyond the contract: what the losses are to each other and to what peers call the same."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import lossax
from lossax import _double, losses, targets
from tests import vocabulary as v
from tests.test_losses import compare
from tests.vocabulary import quick

INTEGER = losses.softmax_cross_entropy_with_integer_labels
COUNTS = np.array([1000.0, 300.0, 40.0, 7.0, 1.0])


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


def rows(seed=0, units=(7,), classes=5):
    rng = np.random.default_rng(seed)
    return (2.0 * rng.normal(size=(*units, classes))).astype(np.float32), rng.integers(0, classes, size=units)


def decisions(seed=0, n=64):
    rng = np.random.default_rng(seed)
    return (3.0 * rng.normal(size=n)).astype(np.float32), rng.integers(0, 2, n).astype(np.float32)


# ---- focal: every convention by its name -----------------------------------------------------------------------------


def test_the_number_of_each_convention_of_soft_focal():
    """y = 0.3, z = 2. Four losses go by the name of focal; each is reproduced as its docstring says."""
    z, t, gamma = np.float32(2.0), np.float32(0.3), 2.0
    plain = once(losses.sigmoid_binary_cross_entropy, z, t)
    found = {
        "torchvision, Keras, Optax": once(losses.sigmoid_focal, z, t, gamma=gamma),
        "segmentation_models.pytorch": (1.0 - jnp.exp(-plain)) ** gamma * plain,
        "MONAI": jax.nn.sigmoid(z * (1.0 - 2.0 * t)) ** gamma * plain,
        "quality focal": once(losses.quality_focal, z, t, beta=gamma),
    }
    expected = dict(zip(found, (0.650, 0.936, 0.727, 0.515), strict=True))
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=5e-4), name


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_conventions_agree_on_hard_targets(target):
    z = np.linspace(-4, 4, 9, dtype=np.float32)
    t = np.full_like(z, target)
    ours = once(losses.sigmoid_focal, z, t, reduction="none")
    plain = once(losses.sigmoid_binary_cross_entropy, z, t, reduction="none")
    np.testing.assert_allclose((1.0 - np.exp(-plain)) ** 2.0 * plain, ours, rtol=1e-4)
    np.testing.assert_allclose(jax.nn.sigmoid(z * (1.0 - 2.0 * t)) ** 2.0 * plain, ours, rtol=1e-5)
    np.testing.assert_allclose(once(losses.quality_focal, z, t, reduction="none"), ours, rtol=2e-6)


def test_focal_of_the_detection_papers_is_divided_by_positives():
    z, t = decisions(1)
    p = 1.0 / (1.0 + np.exp(-np.float64(z)))
    each = np.where(t == 1, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p))
    ours = once(losses.sigmoid_focal, z, t, alpha=0.25, reduction="sum") / t.sum()
    assert ours == pytest.approx(each.sum() / t.sum(), rel=1e-5)


def test_the_focal_loss_that_focuses_positives_alone():
    """pytorch_optimizer's BCEFocalLoss: negatives unmodulated and without 1 - alpha."""
    z, t = decisions(13)
    p = 1.0 / (1.0 + np.exp(-np.float64(z)))
    each = np.where(t == 1, -0.25 * (1 - p) ** 2 * np.log(p), -np.log(1 - p))
    options = {"gamma_positive": 2.0, "gamma_negative": 0.0, "margin": 0.0, "weights": np.where(t == 1, 0.25, 1.0)}
    np.testing.assert_allclose(once(losses.asymmetric, z, t, reduction="none", **options), each, rtol=1e-5)


def test_softmax_focal_of_the_peers():
    """Keras has alpha on every class and divides by units; MONAI gives class 0 the weight 1 - alpha of a negative."""
    z, y = rows(2, (40,))
    p = np.exp(np.float64(z)) / np.exp(np.float64(z)).sum(-1, keepdims=True)
    own = p[np.arange(40), y]
    each = -((1 - own) ** 2) * np.log(own)
    assert 0.25 * once(losses.softmax_focal, z, y) == pytest.approx(0.25 * each.mean(), rel=1e-5)
    alpha = np.array([0.75, 0.25, 0.25, 0.25, 0.25])
    ours = once(losses.softmax_focal, z, y, class_weights=alpha, reduction="sum") / 40
    assert ours == pytest.approx((alpha[y] * each).mean(), rel=1e-5)
    one_vs_rest = once(losses.sigmoid_focal, z, np.eye(5, dtype=np.float32)[y])
    assert abs(one_vs_rest - once(losses.softmax_focal, z, y)) > 0.1, "the third loss of that name is another"


# ---- asymmetric, quality, varifocal ----------------------------------------------------------------------------------


def test_asymmetric_without_asymmetry_is_focal():
    z, t = decisions()
    f = lambda z, g: losses.asymmetric(z, t, gamma_positive=g, gamma_negative=g, margin=0.0)  # noqa: E731
    f, g = (quick(jax.value_and_grad(f)) for f in (f, lambda z, g: losses.sigmoid_focal(z, t, gamma=g)))
    for gamma in (0.0, 0.5, 2.0, 4.0):
        for a, b in zip(f(z, gamma), g(z, gamma), strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-6, atol=1e-9)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("positive", [0.0, 1.0])
def test_asymmetric_against_the_definition_in_torch(stop, positive):
    torch = pytest.importorskip("torch")
    z, t = decisions(3)
    x, y = torch.tensor(z, dtype=torch.float64, requires_grad=True), torch.tensor(t, dtype=torch.float64)
    p = torch.sigmoid(x)
    shifted = torch.clamp(p - 0.05, min=0)
    easy, hard = (1 - p) ** positive, shifted**4
    if stop:
        easy, hard = easy.detach(), hard.detach()
    total = -(y * easy * torch.log(p) + (1 - y) * hard * torch.log(1 - shifted)).sum()
    total.backward()
    ours = quick(
        jax.value_and_grad(
            lambda z: losses.asymmetric(z, t, gamma_positive=positive, stop_gradient=stop, reduction="sum")
        )
    )(z)
    np.testing.assert_allclose(ours[0], total.item(), rtol=1e-6)
    np.testing.assert_allclose(ours[1], x.grad.numpy(), rtol=1e-5, atol=1e-8)


def test_asymmetric_is_finite_at_every_logit():
    z = np.array([0.0, 1e-8, 80.0, -80.0, 200.0, -200.0, 1e30, -1e30, v.LARGEST / 4, -v.LARGEST / 4], np.float32)

    @quick
    def run(z, t, gamma, margin):
        f = functools.partial(losses.asymmetric, gamma_negative=gamma, margin=margin, reduction="sum")
        return jax.jvp(lambda z: jax.value_and_grad(f, argnums=(0, 1))(z, t), (z,), (jnp.ones_like(z),))

    for margin, gamma, target in itertools.product((0.0, 1e-30, 0.05, 0.5), (0.0, 0.5, 4.0), (0.0, 0.3, 1.0)):
        (value, gradients), (_, second) = run(z, np.full_like(z, target), gamma, margin)
        assert np.isfinite(value), (margin, gamma, target)
        assert all(np.isfinite(g).all() for g in (*gradients, second[0])), (margin, gamma, target)


def test_negatives_below_the_margin_cost_nothing():
    z = np.float32(-3.0)  # p = 0.047
    value, gradient = quick(jax.value_and_grad(lambda z: losses.asymmetric(z, 0.0)))(z)
    assert value == gradient == 0


def test_the_logistic_function_in_two_numbers():
    """Ten digits in float32, where p is about to cancel with a target."""
    x = np.concatenate([np.linspace(-49, 49, 197), np.random.default_rng(0).normal(size=200)]).astype(np.float32)
    for f in (_double.sigmoid, jax.jit(_double.sigmoid)):
        high, low = f(x)
        for a, b, c in zip(np.asarray(high), np.asarray(low), x, strict=True):
            exact = 1 / (1 + mpmath.exp(-mpmath.mpf(float(c))))
            assert abs(mpmath.mpf(float(a)) + mpmath.mpf(float(b)) - exact) < 3e-9 * exact


def test_quality_focal_near_its_target():
    """The square of a distance of 1e-3 keeps its digits, though p and t have but four different ones."""
    t = np.linspace(0.05, 0.95, 19).astype(np.float32)
    z = (np.log(t / (1 - t)) + 1e-3 * np.where(np.arange(19) % 2, 1, -1)).astype(np.float32)
    compare(losses.quality_focal, [z, t], {}, value_ulps=64, gradient_ulps=64)


def test_varifocal_is_weighted_cross_entropy_of_positives():
    z, _ = decisions(4)
    q = np.random.default_rng(4).uniform(0.1, 1.0, z.size).astype(np.float32)
    ours = once(losses.varifocal, z, q, reduction="none")
    np.testing.assert_allclose(ours, q * once(losses.sigmoid_binary_cross_entropy, z, q, reduction="none"), rtol=1e-6)
    ours = once(losses.varifocal, z, np.zeros_like(z), gamma=3.0, reduction="none")
    p = 1.0 / (1.0 + np.exp(-np.float64(z)))
    np.testing.assert_allclose(ours, -0.75 * p**3 * np.log(1 - p), rtol=2e-6)


@pytest.mark.parametrize("loss", [losses.asymmetric, losses.quality_focal, losses.varifocal])
def test_targets_are_probabilities(loss):
    with pytest.raises(ValueError, match="targets must be in"):
        loss(np.zeros(2, np.float32), np.array([0.5, 1.5], np.float32))
    units = quick(lambda z, t: loss(z, t, reduction="none"))(jnp.zeros(2), jnp.array([0.5, -0.5]))
    assert np.isfinite(units[0])
    assert np.isnan(units[1])


# ---- distribution focal ----------------------------------------------------------------------------------------------


def test_distribution_focal_is_cross_entropy_with_two_bins():
    z, _ = rows(5, (9,), 6)
    y = np.array([0.0, 0.25, 1.0, 1.5, 2.75, 3.0, 4.5, 4.9375, 5.0], np.float32)
    hot = np.maximum(0, 1 - np.abs(np.arange(6)[None] - y[:, None])).astype(np.float32)
    f, g = (lambda z: losses.distribution_focal(z, y)), (lambda z: losses.softmax_cross_entropy(z, hot))
    for a, b in zip(quick(jax.value_and_grad(f))(z), quick(jax.value_and_grad(g))(z), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_distribution_focal_of_a_number_between_is_its_mean():
    """Minimised where the mean of the bins is the target."""
    p = jnp.array([[0.0, 0.25, 0.75, 0.0]])
    z = jnp.log(p)
    gradient = quick(jax.grad(lambda z: losses.distribution_focal(z, jnp.array([1.75]))))(jnp.where(p > 0, z, -80.0))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)


def test_distribution_focal_has_bounds():
    z = np.zeros((2, 4), np.float32)
    for wrong in (-0.01, 3.01):
        with pytest.raises(ValueError, match=r"targets must be in \[0, 3\]"):
            losses.distribution_focal(z, np.array([1.0, wrong], np.float32))
        units = quick(lambda z, y: losses.distribution_focal(z, y, reduction="none"))(z, jnp.array([1.0, wrong]))
        assert np.isfinite(units[0])
        assert np.isnan(units[1])
    assert once(losses.distribution_focal, np.zeros((1, 1), np.float32), np.zeros(1, np.float32)) == 0


# ---- logit adjustment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_logit_adjustment_in_torch(tau):
    torch = pytest.importorskip("torch")
    z, y = rows(6, (50,))
    x = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    prior = torch.tensor(COUNTS / COUNTS.sum())
    peer = torch.nn.functional.cross_entropy(x + tau * prior.log(), torch.tensor(y))
    peer.backward()
    value, gradient = quick(jax.value_and_grad(lambda z: losses.logit_adjusted(z, y, class_counts=COUNTS, tau=tau)))(z)
    np.testing.assert_allclose(value, peer.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-5, atol=1e-9)


def test_balanced_softmax_is_logit_adjustment():
    z, y = rows(7, (20,))
    weighted = COUNTS * np.exp(np.float64(z))
    balanced = -np.log(weighted[np.arange(20), y] / weighted.sum(-1))
    np.testing.assert_allclose(
        once(losses.logit_adjusted, z, y, class_counts=COUNTS, reduction="none"), balanced, rtol=1e-5
    )
    priors = once(losses.logit_adjusted, z, y, class_counts=COUNTS / COUNTS.sum())
    np.testing.assert_allclose(priors, once(losses.logit_adjusted, z, y, class_counts=COUNTS), rtol=1e-6)


def test_equal_counts_are_cross_entropy():
    z, y = rows(8, (30,))
    z[np.arange(30), y] += np.linspace(0, 80, 30)
    expected = quick(jax.value_and_grad(INTEGER))(z, y)
    for f in (
        lambda z: losses.logit_adjusted(z, y, class_counts=np.full(5, 7)),
        lambda z: losses.logit_adjusted(z, y, class_counts=COUNTS, tau=0.0),
        lambda z: losses.ldam(z, y, class_counts=COUNTS, max_margin=0.0, scale=1.0),
    ):
        for a, b in zip(quick(jax.value_and_grad(f))(z), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-30)


def test_a_class_of_count_zero():
    """Logit adjustment takes it for a class that does not exist; LDAM gives it the largest margin."""
    z, y = rows(9, (6,))
    counts = np.array([10, 0, 5, 1, 2])
    y = np.where(y == 1, 0, y)
    gone = z.copy()
    gone[:, 1] = -np.inf
    ours, gradient = quick(jax.value_and_grad(lambda z: losses.logit_adjusted(z, y, class_counts=counts)))(z)
    np.testing.assert_allclose(ours, once(losses.logit_adjusted, gone, y, class_counts=[10, 1, 5, 1, 2]), rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert not gradient[:, 1].any()
    assert once(losses.logit_adjusted, z[:1], np.array([1]), class_counts=counts) == np.inf
    assert np.isfinite(once(losses.logit_adjusted, z[:1], np.array([1]), class_counts=counts, tau=0.0))
    margin = quick(lambda y: losses.ldam(np.zeros((1, 5), np.float32), y[None], class_counts=counts))
    margin = [margin(np.array(label)) for label in range(5)]
    assert margin[1] == margin[3] > margin[4]
    gradient = quick(jax.grad(lambda n: losses.ldam(z, y, class_counts=n)))(jnp.asarray(counts, jnp.float32))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [losses.ldam, losses.logit_adjusted])
def test_missing_classes(loss):
    z, _ = rows(10, (6,))
    y, left = np.array([0, 2, 4, 0, 2, 4]), [0, 2, 4]
    z[:, [1, 3]] = -np.inf
    counts = np.array([100.0, 50.0, 20.0, 10.0, 2.0], np.float32)
    f = lambda z: loss(z, y, class_counts=counts)  # noqa: E731
    value, gradient = quick(jax.value_and_grad(f))(z)
    expected = quick(jax.value_and_grad(lambda z: loss(z, y // 2, class_counts=counts[left])))(z[:, left])
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient[:, left], expected[1], rtol=1e-5, atol=1e-7)
    assert not gradient[:, [1, 3]].any()
    ones = np.where(np.isfinite(z), 1, 0).astype(np.float32)
    assert np.isfinite(quick(lambda z: jax.jvp(jax.grad(f), (z,), (ones,))[1])(z)).all()
    assert once(loss, z[:1], np.array([1]), class_counts=counts) == np.inf


@pytest.mark.parametrize("loss", [losses.ldam, losses.logit_adjusted])
def test_counts_are_checked(loss):
    z, y = rows()
    with pytest.raises(ValueError, match=r"class_counts must have shape \[5\]"):
        loss(z, y, class_counts=np.ones(4))
    with pytest.raises(ValueError, match="class_counts must be nonnegative"):
        loss(z, y, class_counts=np.array([1, 2, 3, 4, -5]))


# ---- LDAM and class-balanced weights ---------------------------------------------------------------------------------


def test_ldam_in_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(11)
    z, y = rng.uniform(-1, 1, (50, 5)).astype(np.float32), rng.integers(0, 5, 50)
    margins = COUNTS**-0.25 * (0.5 / (COUNTS**-0.25).max())
    x = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    moved = 30 * (x - torch.tensor(np.eye(5)[y] * margins))
    peer = torch.nn.functional.cross_entropy(moved, torch.tensor(y), weight=torch.tensor(1 / COUNTS))
    peer.backward()
    weights = (1 / COUNTS)[y]
    value, gradient = quick(jax.value_and_grad(lambda z: losses.ldam(z, y, class_counts=COUNTS, weights=weights)))(z)
    np.testing.assert_allclose(value, peer.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-8)


COUNTED = np.array([1.0, 2.0, 17.0, 5e3, 1e6, 1e9])
balanced_weights = quick(lambda b: targets.class_balanced_weights(COUNTED.astype(np.float32), beta=b))
balanced_slope = quick(jax.grad(lambda b: targets.class_balanced_weights(COUNTED.astype(np.float32), beta=b)[0]))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.99, 0.9999, 0.999999999, 1.0])
def test_class_balanced_weights_to_the_last_digit(beta):
    """(1 - beta) / (1 - beta^n) as it stands is 0 / 0 at 1 and loses all digits near it."""
    with mpmath.workdps(60):
        b = mpmath.mpf(beta)
        exact = [1 / mpmath.mpf(n) if b == 1 else (1 - b) / (1 - b**n) for n in COUNTED]
        exact = [float(w * len(COUNTED) / mpmath.fsum(exact)) for w in exact]
    ours = once(targets.class_balanced_weights, COUNTED.astype(np.float32), beta=beta)
    np.testing.assert_allclose(ours, exact, rtol=2e-6)
    assert ours.dtype == jnp.float32
    traced = balanced_weights(beta)
    assert np.isfinite(traced).all()
    if beta in (0.0, 0.5, 1.0):
        np.testing.assert_allclose(traced, exact, rtol=2e-6)
    assert np.isfinite(balanced_slope(beta))


def test_classes_that_do_not_occur_have_no_weight():
    weights = targets.class_balanced_weights(np.array([10, 0, 1000]))
    assert weights[1] == 0
    assert weights.sum() == pytest.approx(2.0)
    assert not targets.class_balanced_weights(np.zeros(3)).any()
    gradient = quick(jax.grad(lambda n: targets.class_balanced_weights(n)[0]))(jnp.array([10.0, 0.0, 1000.0]))
    assert np.isfinite(gradient).all()
    with pytest.raises(ValueError, match=r"class_counts must be \[classes\]"):
        targets.class_balanced_weights(3.0)
    with pytest.raises(ValueError, match="beta must be in"):
        targets.class_balanced_weights(np.ones(3), beta=1.5)


def test_deferred_reweighting_is_a_schedule_in_a_scan():
    """LDAM with DRW: one compiled loop over all steps, in which the weights set in."""
    counts = np.array([90.0, 9.0, 1.0], np.float32)
    z, y = rows(12, (16,), 3)

    def step(params, count):
        weights = targets.class_balanced_weights(counts, beta=jnp.where(count < 5, 0.0, 0.999))
        loss = lambda p: losses.ldam(jnp.tanh(z + p), y, class_counts=counts, weights=weights[y])  # noqa: E731
        value, gradient = jax.value_and_grad(loss)(params)
        return params - 0.01 * gradient, (value, weights)

    _, (values, weights) = quick(lambda p: jax.lax.scan(step, p, jnp.arange(10)))(jnp.zeros((1, 3)))
    assert np.isfinite(values).all()
    np.testing.assert_allclose(weights[:5], 1.0, rtol=1e-6)
    np.testing.assert_allclose(weights[9], targets.class_balanced_weights(counts, beta=0.999), rtol=1e-4)
    soft = lambda s: targets.class_balanced_weights(counts, beta=lossax.progress(s, 10))  # noqa: E731
    np.testing.assert_allclose(quick(jax.vmap(soft))(jnp.arange(11))[10], 3 / counts / (1 / counts).sum(), rtol=1e-5)
