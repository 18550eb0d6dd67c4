"""Wrong labels beyond the contract: limits, what must add up, the faults of peers, and the memory of early learning."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import _tempered, activations, losses, objectives
from tests import vocabulary as v
from tests.test_losses import compare
from tests.vocabulary import quick

INTEGER = losses.softmax_cross_entropy_with_integer_labels


def rows(seed=0, units=(9,), classes=5, confident=0.0):
    rng = np.random.default_rng(seed)
    logits = (2.0 * rng.normal(size=(*units, classes))).astype(np.float32)
    labels = rng.integers(0, classes, size=units)
    if confident:
        logits[np.arange(len(logits)), labels] += np.linspace(0, confident, len(logits)).astype(np.float32)
    return logits, labels


# ---- what is what in a limit -----------------------------------------------------------------------------------------

HALF = (losses.reverse_cross_entropy, {"log_zero": -1.0})
LIMITS = {
    "gce, q = 0": ((losses.generalized_cross_entropy, {"q": 0.0}), (INTEGER, {})),
    "gce, q = 1": ((losses.generalized_cross_entropy, {"q": 1.0}), HALF),
    "taylor, order 1": ((losses.taylor_cross_entropy, {"order": 1}), HALF),
    "bi-tempered at 1": ((losses.bi_tempered_logistic, {"t1": 1.0, "t2": 1.0}), (INTEGER, {})),
    "forward, no noise": ((losses.forward_corrected, {"transition": np.eye(5)}), (INTEGER, {})),
    "backward, no noise": ((losses.backward_corrected, {"transition": np.eye(5)}), (INTEGER, {})),
    "bootstrapped, beta = 1": ((losses.bootstrapped, {"beta": 1.0}), (INTEGER, {})),
    "hard, beta = 1": ((losses.bootstrapped, {"beta": 1.0, "kind": "hard"}), (INTEGER, {})),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name):
    """To the last digits, of every unit and of confident rows too."""
    z, y = rows(1, (30,), confident=80.0)
    found = []
    for loss, options in LIMITS[name]:
        f = lambda z, reduction, loss=loss, options=options: loss(z, y, reduction=reduction, **options)  # noqa: E731
        found.append(quick(lambda z, f=f: (f(z, "none"), jax.grad(f)(z, "sum")))(z))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=4e-6, atol=1e-37)


def test_a_long_series_is_cross_entropy():
    z, y = rows(2)
    surprise = np.float64(quick(jax.vmap(INTEGER))(z, y))
    miss = -np.expm1(-surprise)
    left = surprise - np.float64(quick(partial(losses.taylor_cross_entropy, order=30, reduction="none"))(z, y))
    assert (left > -1e-6).all()
    assert (left <= miss**31 / (31 * (1 - miss)) + 1e-6).all()


def test_gce_is_smooth_at_zero():
    z, y = rows(3)
    f = lambda q: losses.generalized_cross_entropy(z, y, q=q)  # noqa: E731
    s = np.asarray(quick(jax.vmap(INTEGER))(z, y))
    run = quick(lambda q: (f(q), jax.grad(f)(q), jax.grad(jax.grad(f))(q)))
    for q in (1e-12, 1e-6, 1e-3):
        value, slope, bend = run(q)
        np.testing.assert_allclose(value, np.mean(s - q * s * s / 2), rtol=1e-5)
        np.testing.assert_allclose(slope, -np.mean(s * s) / 2, rtol=2e-2)
        assert np.isfinite(bend)


def test_truncated_gce():
    """Below the threshold a constant and no gradient; Keras' default q is 0.5, the paper's 0.7."""
    z, y = rows(4, (40,))
    p = np.exp(np.float64(z)) / np.exp(np.float64(z)).sum(-1, keepdims=True)
    own = p[np.arange(40), y]
    for q in (0.5, 0.7):
        ours = quick(partial(losses.generalized_cross_entropy, q=q, truncation=0.25, reduction="none"))(z, y)
        np.testing.assert_allclose(ours, (1 - np.maximum(own, 0.25) ** q) / q, rtol=2e-6)
    total = lambda z, k: losses.generalized_cross_entropy(z, y, truncation=k, reduction="sum")  # noqa: E731
    gradient = np.asarray(quick(jax.grad(total))(z, 0.25))
    assert not gradient[own < 0.25].any()
    assert gradient[own > 0.25].any(axis=-1).all()
    by_truncation = quick(jax.grad(lambda k: total(z, k)))
    np.testing.assert_allclose(by_truncation(0.25), -(own < 0.25).sum() * 0.25 ** (0.7 - 1), rtol=1e-5)
    assert by_truncation(0.0) == 0


# ---- what must add up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_normalized_losses_of_all_labels_sum_to_one(gamma):
    z, _ = rows(5, (20,))
    z[0] = [v.LARGEST, -v.LARGEST, 0, 1e30, -1e30]
    z[1] = [80, 0, 0, 0, 0]
    f = partial(losses.normalized_cross_entropy, gamma=gamma)
    run = quick(jax.vmap(jax.value_and_grad(f)))
    values, gradients = zip(*(run(z, np.full(20, y)) for y in range(5)), strict=True)
    np.testing.assert_allclose(sum(values), 1.0, rtol=2e-6)
    np.testing.assert_allclose(sum(gradients), 0.0, atol=2e-7)


def test_one_class_costs_nothing():
    z = np.array([[3.0, -np.inf]], np.float32)
    value, gradient = quick(jax.value_and_grad(losses.normalized_cross_entropy))(z, np.array([0]))
    assert value == 0
    assert np.isfinite(gradient).all()


FLIPS = np.array([[0.75, 0.25, 0.0], [0.125, 0.75, 0.125], [0.25, 0.125, 0.625]])


def test_backward_correction_is_unbiased():
    """The expectation over given labels is the cross-entropy of the true one; some of the terms are negative."""
    z, _ = rows(6, (8,), 3)
    corrected = quick(partial(losses.backward_corrected, transition=FLIPS, reduction="none"))
    each, units = [corrected(z, np.full(8, j)) for j in range(3)], quick(jax.vmap(INTEGER))
    for true in range(3):
        clean = units(z, np.full(8, true))
        np.testing.assert_allclose(np.tensordot(FLIPS[true], each, 1), clean, rtol=1e-5, atol=1e-6)
    assert min(x.min() for x in each) < 0


def test_forward_correction_is_a_mixture():
    z, y = rows(7, (8,), 3)
    p = np.exp(np.float64(z)) / np.exp(np.float64(z)).sum(-1, keepdims=True)
    ours = quick(partial(losses.forward_corrected, transition=FLIPS, reduction="none"))(z, y)
    np.testing.assert_allclose(ours, -np.log((p @ FLIPS)[np.arange(8), y]), rtol=1e-5)
    order = np.array([2, 0, 1])
    swapped = quick(partial(losses.forward_corrected, transition=np.eye(3)[order.argsort()].T))(z, order[y])
    np.testing.assert_allclose(swapped, quick(INTEGER)(z, y), rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.forward_corrected, losses.backward_corrected])
def test_a_transition_may_be_learned(loss):
    """Traced, swept and differentiated, here as rows of a softmax."""
    with jax.enable_x64(True):
        z, y = rows(8, (6,), 3)
        z = z.astype(np.float64)
        f = lambda w: loss(z, y, transition=jax.nn.softmax(w))  # noqa: E731
        value, swept = quick(f), quick(jax.vmap(f))
        w, steps = np.log(FLIPS + 0.05), 1e-5 * np.eye(9).reshape(9, 3, 3)
        numeric = (swept(w + steps) - swept(w - steps)).reshape(3, 3) / 2e-5
        np.testing.assert_allclose(quick(jax.grad(f))(w), numeric, atol=1e-9)
        np.testing.assert_allclose(swept(np.stack([w, 2.0 * w])), [value(w), value(2.0 * w)], rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.forward_corrected, losses.backward_corrected])
def test_missing_classes_of_a_transition(loss):
    """Classes that are mixed up among themselves alone do not miss the others."""
    transition = np.zeros((5, 5))
    transition[np.ix_([0, 2, 4], [0, 2, 4])] = FLIPS
    transition[np.ix_([1, 3], [1, 3])] = [[0.5, 0.5], [0.25, 0.75]]
    z, _ = rows(9, (6,))
    z[:, [1, 3]] = -np.inf
    y = np.array([0, 2, 4, 0, 2, 4])
    f = lambda z: loss(z, y, transition=transition)  # noqa: E731
    ones = np.where(np.isfinite(z), 1, 0).astype(np.float32)
    (value, gradient), (_, hvp) = quick(lambda z: jax.jvp(jax.value_and_grad(f), (z,), (ones,)))(z)
    expected = quick(jax.value_and_grad(lambda z: loss(z, y // 2, transition=FLIPS)))(z[:, [0, 2, 4]])
    np.testing.assert_allclose(value, expected[0], rtol=2e-6)
    np.testing.assert_allclose(gradient[:, [0, 2, 4]], expected[1], rtol=1e-5, atol=1e-7)
    assert np.isfinite(hvp).all()
    assert quick(partial(loss, transition=transition))(z[:1], np.array([1])) == np.inf


@pytest.mark.parametrize(
    ("transition", "message"),
    [
        (np.eye(4), r"transition must have shape \[3, 3\]"),
        (np.array([[1.5, -0.5, 0], [0, 1, 0], [0, 0, 1]]), r"transition must be in \[0, 1\]"),
        (np.array([[0.5, 0.5, 0.5], [0, 1, 0], [0, 0, 1]]), "transition must have rows that sum to 1, got 1.5"),
        (np.full((3, 3), 1 / 3), "transition must have an inverse"),
    ],
)
def test_transitions_are_checked(transition, message):
    z, y = rows(0, (4,), 3)
    with pytest.raises(ValueError, match=message):
        losses.backward_corrected(z, y, transition=transition)
    if "inverse" not in message:
        with pytest.raises(ValueError, match=message):
            losses.forward_corrected(z, y, transition=transition)


def test_bootstrapping():
    z, y = rows(10, (12,))
    p = np.exp(np.float64(z)) / np.exp(np.float64(z)).sum(-1, keepdims=True)
    own = -np.log(p[np.arange(12), y])
    soft = quick(jax.vmap(losses.bootstrapped))(z, y)
    np.testing.assert_allclose(soft, 0.95 * own - 0.05 * (p * np.log(p)).sum(-1), rtol=2e-6)
    hard = quick(partial(losses.bootstrapped, beta=0.8, kind="hard", reduction="none"))(z, y)
    np.testing.assert_allclose(hard, 0.8 * own - 0.2 * np.log(p.max(-1)), rtol=2e-6)
    with pytest.raises(ValueError, match="kind must be one of"):
        losses.bootstrapped(z, y, kind="Soft")


# ---- two temperatures ------------------------------------------------------------------------------------------------


def adversarial_rows():
    """Gaps on one scale and on many, ties, rows that are confident, flat, or both."""
    rng = np.random.default_rng(11)
    out = [np.zeros(12), np.r_[80.0, np.zeros(11)], np.r_[0.0, 0.0, np.full(10, -50.0)]]
    for scale in 10.0 ** np.arange(-3, 4):
        out += [scale * rng.normal(size=12), -scale * np.cumsum(2.0 ** -np.arange(12)), -(10 ** rng.uniform(-3, 3, 12))]
    return np.array(out, np.float32)


tempered = quick(lambda z, t: activations.tempered_softmax(z, temperature=t))


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.9, 1.0, 1.0 + 1e-6, 1.2, 1.5, 2.0, 3.0, 5.0])
def test_the_normaliser_is_found(t):
    """Every row sums to 1, and p is what solves the equation: all -log_t p differ from the logits by one number."""
    z = adversarial_rows()
    p = tempered(z, t)
    np.testing.assert_allclose(np.float64(p).sum(-1), 1.0, atol=5e-6)
    assert (p >= 0).all()
    with jax.enable_x64(True):
        p = np.asarray(tempered(z.astype(np.float64), t))
        np.testing.assert_allclose(p.sum(-1), 1.0, atol=1e-13)
        on = np.where((p > 1e-6) & (p < 1), p, np.nan)
        spread = (np.log(on) if t == 1 else (on ** (1 - t) - 1) / (1 - t)) - np.float64(z)
        known = np.isfinite(spread).any(axis=-1)
        spread, z = spread[known], z[known]
        close = np.nanmax(spread, axis=-1) - np.nanmin(spread, axis=-1)
        assert np.nanmax(close / np.maximum(1.0, np.abs(z).max(-1))) < 1e-8


def test_a_hundred_thousand_classes():
    z = np.zeros((1, 100_000), np.float32)
    z[0, 0] = 5.0
    for t in (1.2, 2.0):
        p = tempered(z, t)
        assert np.float64(p).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("t", "classes"), [(1.2, 1000), (1.5, 100)])
def test_five_fixed_point_steps_are_not_enough(t, classes):
    """The authors' normaliser, Z <- sum exp_t(-gap Z^(1 - t)) five times: with a long flat tail it is far from done."""
    gaps = np.r_[0.0, np.full(classes - 1, 12.0)]
    total = 1.0
    for _ in range(5):
        total = np.sum((1 + (t - 1) * gaps * total ** (1 - t)) ** (1 / (1 - t)))
    theirs = (total ** (t - 1) + (t - 1) * gaps) ** (1 / (1 - t))
    assert theirs.sum() > 1.05
    ours = tempered(-gaps.astype(np.float32)[None], t)
    assert np.float64(ours).sum() == pytest.approx(1.0, abs=2e-6)


def test_temperatures_with_a_name():
    z = np.array([[0.5, 0.25, -1.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    known = lambda t: quick(partial(activations.tempered_softmax, temperature=t))(z)  # noqa: E731
    dense = jax.nn.softmax(z)
    np.testing.assert_allclose(known(1.0), dense, rtol=1e-6)
    sparse = known(0.0)  # the projection onto the simplex
    np.testing.assert_allclose(sparse, [[0.625, 0.375, 0], [1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    swept = quick(jax.vmap(lambda t: activations.tempered_softmax(z, temperature=t)))(np.float32([0.0, 1.0]))
    np.testing.assert_allclose(swept, [sparse, dense], rtol=1e-6)
    none = tempered(np.array([[-np.inf, -np.inf], [0.0, -np.inf]], np.float32), 1.2)
    np.testing.assert_array_equal(none, [[0, 0], [1, 0]])
    assert tempered(z.astype(jnp.bfloat16), 1.2).dtype == jnp.float32


def test_derivatives_of_the_tempered_softmax():
    """By the logits and by the temperature, in both modes, and once more."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(12)
        z, w, d = (0.5 * rng.normal(size=(3, 4)) for _ in range(3))
        f = lambda z, t: jnp.sum(w * activations.tempered_softmax(z, temperature=t) ** 2)  # noqa: E731
        value, both = quick(f), quick(jax.grad(f, argnums=(0, 1)))
        second = quick(lambda z, t, dz, dt: jax.jvp(jax.grad(f, argnums=(0, 1)), (z, t), (dz, dt))[1])
        forward = quick(lambda z, t: jax.jvp(f, (z, t), (d, jnp.ones_like(t)))[1])
        h = 1e-5
        for t in np.array([0.5, 0.9, 1.0, 1.2, 2.0]):
            by_logits, by_t = both(z, t)
            slope = (value(z + h * d, t) - value(z - h * d, t)) / (2 * h)
            np.testing.assert_allclose(np.sum(by_logits * d), slope, atol=1e-8)
            np.testing.assert_allclose(by_t, (value(z, t + h) - value(z, t - h)) / (2 * h), atol=1e-8)
            np.testing.assert_allclose(forward(z, t), slope + by_t, atol=1e-8)
            for dz, dt in ((d, np.zeros_like(t)), (np.zeros_like(z), np.ones_like(t))):
                up, down = both(z + h * dz, t + h * dt), both(z - h * dz, t - h * dt)
                for a, b, c in zip(second(z, t, dz, dt), up, down, strict=True):
                    np.testing.assert_allclose(a, (b - c) / (2 * h), atol=1e-7)


def test_bi_tempered_with_smoothing_at_one():
    """Cross-entropy of the smoothed label less its entropy: a divergence."""
    z, y = rows(13)
    target = 0.9 * np.eye(5)[y] + 0.02
    entropy = -(target * np.log(target)).sum(-1).mean()
    ours = quick(partial(losses.bi_tempered_logistic, t1=1.0, t2=1.0, label_smoothing=0.1))(z, y)
    smoothed = quick(partial(INTEGER, label_smoothing=0.1))(z, y)
    assert ours == pytest.approx(float(smoothed) - entropy, rel=1e-5)


def test_bi_tempered_is_the_bregman_divergence():
    """Its value from probabilities, its gradients by differences, all over the temperatures."""
    with jax.enable_x64(True):
        z, y = rows(14, (6,), 4)
        z, d = np.float64(0.4) * z, np.random.default_rng(0).normal(size=z.shape)

        def f(z, hyper, reduction="mean"):
            t1, t2, smoothing = hyper
            return losses.bi_tempered_logistic(z, y, t1=t1, t2=t2, label_smoothing=smoothing, reduction=reduction)

        units, value = quick(lambda z, hyper: f(z, hyper, "none")), quick(f)
        both = quick(jax.grad(f, argnums=(0, 1)))
        second = quick(lambda z, hyper: jax.jvp(lambda z: jax.grad(f)(z, hyper), (z,), (d,))[1])
        softmax = quick(lambda t: activations.tempered_softmax(z, temperature=t))
        h = 1e-6
        for t1, t2, smoothing in itertools.product((0.25, 0.8, 1.0), (0.5, 1.0, 1.2, 2.0), (0.0, 0.25)):
            p, target = np.asarray(softmax(t2)), (1 - smoothing) * np.eye(4)[y] + smoothing / 4
            if t1 == 1 and (p == 0).any():  # infinite
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                log_t = (lambda x: np.log(x)) if t1 == 1 else lambda x, t1=t1: (x ** (1 - t1) - 1) / (1 - t1)
                cost = np.where(target > 0, target * (log_t(target) - log_t(p)), 0.0)
            expected = (cost - (target ** (2 - t1) - p ** (2 - t1)) / (2 - t1)).sum(-1)
            hyper = np.array([t1, t2, smoothing])
            np.testing.assert_allclose(units(z, hyper), expected, rtol=1e-9, atol=1e-12)
            by_logits, by_hyper = both(z, hyper)
            slope = (value(z + h * d, hyper) - value(z - h * d, hyper)) / (2 * h)
            np.testing.assert_allclose(np.sum(by_logits * d), slope, atol=1e-7)
            assert np.isfinite(by_hyper).all()
            for i in (0, 1):
                up, down = value(z, hyper + h * np.eye(3)[i]), value(z, hyper - h * np.eye(3)[i])
                np.testing.assert_allclose(by_hyper[i], (up - down) / (2 * h), atol=1e-7)
            if t2 >= 1:
                up, down = both(z + h * d, hyper)[0], both(z - h * d, hyper)[0]
                np.testing.assert_allclose(second(z, hyper), (up - down) / (2 * h), atol=1e-6)


def test_bi_tempered_is_bounded_and_finite():
    z = np.array(
        [[1e30, 0, 0], [-1e30, 0, 0], [v.LARGEST, -v.LARGEST, 0], [80, 0, 0], [-80, 0, 0], [0, 0, 0], [0, -np.inf, 1]],
        np.float32,
    )
    y, ones = np.zeros(7, int), np.where(np.isfinite(z), 1, 0).astype(np.float32)

    @quick
    def run(t1, t2):
        f = lambda z: losses.bi_tempered_logistic(z, y, t1=t1, t2=t2, reduction="none")  # noqa: E731
        gradient = jax.grad(lambda z: jnp.sum(f(z)))
        return f(z), gradient(z), jax.jvp(gradient, (z,), (ones,))[1]

    for t1, t2 in ((0.8, 1.2), (0.8, 0.5), (0.0, 2.0), (0.5, 1.0)):
        values, gradient, second = run(t1, t2)
        assert (values >= 0).all()
        assert (values <= 1 / (1 - t1) + 1e-6).all()
        assert np.isfinite(gradient).all()
        assert np.isfinite(second).all()


def test_confident_rows_of_two_temperatures_keep_their_digits():
    z, y = rows(15, (12,), confident=60.0)
    compare(losses.bi_tempered_logistic, [z, y], {"t1": 0.5, "t2": 1.5}, value_ulps=8, gradient_ulps=8)


def test_exponential_over_its_rate():
    """(exp(r x) - 1) / r and its slopes, to the last digits, from rate 0 on."""
    rates = np.array([0.0, 1e-30, -1e-12, 1e-4, -0.3, 0.7, -1.0, 2.0], np.float32)
    run = jax.jit(jax.vmap(jax.value_and_grad(_tempered.expm1_over)))
    for x in (0.0, 1e-20, 0.3, -0.9, 5.0, 30.0):
        values, slopes = run(rates, np.full_like(rates, x))
        for rate, value, slope in zip(rates, values, slopes, strict=True):
            with mpmath.workdps(200):
                r, s = mpmath.mpf(float(rate)), mpmath.mpf(float(np.float32(x)))
                h = mpmath.mpf(10) ** -60
                f = lambda r, s=s: mpmath.expm1(r * s) / r if r else s  # noqa: E731
                exact, by_rate = f(r), (f(r + h) - f(r - h)) / (2 * h)
            assert v.ulps(value, exact) <= 8 + 2 * abs(rate * x), (rate, x)
            assert by_rate < 1e-30 or v.ulps(slope, by_rate) <= 16 + 4 * abs(rate * x), (rate, x)


# ---- early learning --------------------------------------------------------------------------------------------------


def reference(state, logits, indices, *, weight=3.0, beta=0.7, floor=1e-4):
    """One step, from the formula."""
    state = np.array(state, np.float64)
    p = np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum(-1, keepdims=True)
    for i in set(indices.tolist()):
        state[i] = beta * state[i] + (1 - beta) * p[indices == i].mean(0)
    return weight * np.log(np.maximum(1 - (p * state[indices]).sum(-1), floor)), state


def test_early_learning_is_its_formula():
    init, update = objectives.early_learning(20, 5)
    update = quick(partial(update, reduction="none"))
    state, expected = init(), np.zeros((20, 5))
    for step in range(4):
        z, _ = rows(20 + step, (6,))
        indices = np.random.default_rng(step).integers(0, 20, 6)
        penalty, state = update(state, z, indices)
        value, expected = reference(expected, z, indices)
        np.testing.assert_allclose(penalty, value, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(state.targets, expected, atol=1e-6)
    assert state.step == 4


def test_early_learning_has_a_gradient_through_the_prediction_alone():
    init, update = objectives.early_learning(3, 4, weight=2.0)
    z, _ = rows(25, (3,), 4)
    step = quick(jax.value_and_grad(lambda z, s: update(s, z, np.arange(3), reduction="sum"), has_aux=True))
    (_, state), _ = step(z + 1.0, init())
    (_, new), gradient = step(z, state)
    p, targets = np.asarray(jax.nn.softmax(z)), np.asarray(new.targets)
    inside = np.sum(p * targets, axis=-1, keepdims=True)
    expected = -2.0 * p * (targets - inside) / (1 - inside)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_an_example_twice_in_a_batch_counts_once():
    init, update = objectives.early_learning(5, 3, beta=0.5)
    update = quick(update)
    z = np.log(np.float32([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0]]) + np.float32(1e-30))
    _, state = update(init(), z, np.array([2, 2, 4]))
    np.testing.assert_allclose(state.targets[2], [0.1875, 0.1875, 0.125], rtol=1e-6)
    np.testing.assert_allclose(state.targets[4], [0.5, 0.0, 0.0], atol=1e-6)
    assert not state.targets[np.array([0, 1, 3])].any()
    once = update(init(), np.repeat(z, 3, axis=0), np.repeat([2, 2, 4], 3))[1]
    np.testing.assert_allclose(once.targets, state.targets, atol=1e-6)
    weighted = update(init(), z, np.array([2, 2, 4]), weights=np.array([3.0, 1.0, 0.0]))[1]
    repeated = update(init(), np.repeat(z, [3, 1, 0], axis=0), np.array([2, 2, 2, 2]))[1]
    np.testing.assert_allclose(weighted.targets, repeated.targets, atol=1e-6)


def test_what_is_masked_is_not_remembered():
    init, update = objectives.early_learning(4, 3)
    z = np.array([[1.0, 0.0, 0.0], [np.nan] * 3, [np.inf] * 3], np.float32)
    where = np.array([True, False, False])
    masked = lambda z: update(init(), z, np.array([0, 1, -7]), where=where)  # noqa: E731
    (penalty, state), gradient = quick(jax.value_and_grad(masked, has_aux=True))(z)
    expected, alone = quick(update)(init(), z[:1], np.array([0]))
    np.testing.assert_allclose(penalty, expected, rtol=1e-6)
    np.testing.assert_array_equal(state.targets, alone.targets)
    assert np.isfinite(gradient).all()
    assert not gradient[1:].any()


def test_indices_out_of_range():
    init, update = objectives.early_learning(4, 3)
    z = np.zeros((3, 3), np.float32)
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=rf"indices must be in \[0, 4\), got {wrong}"):
            update(init(), z, np.array([0, wrong, 2]))
        penalty, state = quick(lambda i: update(init(), z, i, reduction="none"))(np.array([0, wrong, 2]))
        assert np.isnan(penalty[1])
        assert np.isfinite(penalty[::2]).all()
        assert not state.targets[np.array([1, 3])].any()
        assert np.isfinite(state.targets).all()
    with pytest.raises(ValueError, match=r"logits must be \[batch, 3\]"):
        update(init(), np.zeros((3, 4), np.float32), np.arange(3))
    with pytest.raises(TypeError, match="indices must be integer"):
        update(init(), z, np.zeros(3, np.float32))


def test_early_learning_in_a_scan_with_donation_and_schedules():
    init, update = objectives.early_learning(6, 3, weight=lambda step: jnp.float32(step), beta=jnp.float32(0.5))
    z, _ = rows(30, (5, 2), 3)
    indices = np.arange(10).reshape(5, 2) % 6

    def body(state, batch):
        penalty, state = update(state, *batch)
        return state, penalty

    run = jax.jit(lambda state: jax.lax.scan(body, state, (z, indices)), donate_argnums=0)
    final, penalties = run(init())
    assert jax.tree.map(lambda a: (a.shape, a.dtype), final) == jax.tree.map(lambda a: (a.shape, a.dtype), init())
    assert penalties[0] == 0, "the schedule is 0 at the first update"
    state, each = init(), quick(update)
    for i in range(5):
        penalty, state = each(state, z[i], indices[i])
        np.testing.assert_allclose(penalty, penalties[i], rtol=1e-6)
    np.testing.assert_allclose(final.targets, state.targets, rtol=1e-6)
    half, half_state = each(init(), z[0].astype(jnp.bfloat16), indices[0])
    assert half.dtype == half_state.targets.dtype == jnp.float32


def test_certainty_does_not_make_it_infinite():
    for floor in (0.0, 1e-4):
        init, update = objectives.early_learning(1, 2, beta=0.0, floor=floor)
        z = np.array([[1e30, 0.0]], np.float32)
        penalty = lambda z, pair=(init, update): pair[1](pair[0](), z, np.array([0]))[0]  # noqa: E731
        value, gradient = quick(jax.value_and_grad(penalty))(z)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert value == pytest.approx(3 * np.log(max(floor, np.finfo(np.float32).tiny)), rel=1e-5)


def test_early_learning_protects_a_wrong_label():
    """Once the model believes in another class, the penalty takes most of the wrong label's pull away."""
    init, update = objectives.early_learning(1, 3)
    state, step = init(), quick(update)
    for _ in range(20):
        _, state = step(state, np.array([[4.0, 0.0, 0.0]], np.float32), np.array([0]))
    z, wrong = np.float32([[4.0, 0.0, 0.0]]), np.array([1])
    pull = quick(jax.grad(INTEGER))(z, wrong)
    held = quick(jax.grad(lambda z: INTEGER(z, wrong) + update(state, z, np.array([0]))[0]))(z)
    assert pull[0, 0] > 0.9
    assert held[0, 0] < 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.0}, "beta must be in"),
        ({"weight": -1.0}, "weight must be nonneg"),
        ({"floor": 2.0}, "floor must be"),
    ],
)
def test_early_learning_checks_its_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        objectives.early_learning(3, 2, **options)
    with pytest.raises(TypeError, match="examples sets structure"):
        objectives.early_learning(jnp.array(3), 2)
