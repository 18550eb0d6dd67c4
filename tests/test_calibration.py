"""Calibration: fits beside scipy and scikit-learn, measures beside loops, conformal sets beside what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import calibration, losses
from tests.vocabulary import quick

optimize = pytest.importorskip("scipy.optimize")
RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(400, 5))).astype(np.float32)
SOFTENED = np.exp(LOGITS.astype(float) / 2.5)
LABELS = np.array([RNG.choice(5, p=p / p.sum()) for p in SOFTENED])
SCORES = (2 * RNG.normal(size=300)).astype(np.float32)
EVENTS = RNG.random(300) < 1 / (1 + np.exp(-(0.6 * SCORES + 0.4)))
KEEP = RNG.random(400) < 0.6


def surprise(z, y):
    top = z.max(-1, keepdims=True)
    return np.log(np.exp(z - top).sum(-1)) + (top[:, 0] - z[np.arange(len(y)), y])


# ---- fits ------------------------------------------------------------------------------------------------------------


fit_temperature = quick(calibration.fit_temperature)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e6])
@pytest.mark.parametrize("where", [None, KEEP])
def test_temperature_is_the_likeliest(where, scale):
    z, y = LOGITS.astype(float), LABELS
    if where is not None:
        z, y = z[where], y[where]
    best = optimize.minimize_scalar(lambda t: surprise(z / t, y).mean(), bounds=(0.5, 10), method="bounded")
    spoiled = LOGITS if where is None else np.where(where[:, None], LOGITS, np.nan)
    fitted = fit_temperature(np.float32(scale) * spoiled, LABELS, where=where)
    np.testing.assert_allclose(fitted.temperature / scale, best.x, rtol=2e-4)
    error = quick(lambda z: calibration.calibration_error(jax.nn.softmax(z), LABELS))
    assert error(fitted(np.float32(scale) * LOGITS)) < 0.4 * error(LOGITS)


def test_temperature_at_its_ends():
    right = fit_temperature(LOGITS, LOGITS.argmax(-1))
    assert 0 < right.temperature < 0.1
    useless = fit_temperature(LOGITS, LOGITS.argmin(-1))
    assert 100 < useless.temperature < np.inf
    assert np.isfinite(fit_temperature(np.zeros((4, 3), np.float32), np.zeros(4, int)).temperature)
    missing = np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-np.inf)
    expected = fit_temperature(LOGITS, LABELS).temperature
    np.testing.assert_allclose(fit_temperature(missing, LABELS).temperature, expected, rtol=1e-5)
    weighted = fit_temperature(LOGITS, LABELS, weights=np.float32(KEEP))
    masked = fit_temperature(LOGITS, LABELS, where=KEEP)
    np.testing.assert_allclose(weighted.temperature, masked.temperature, rtol=1e-5)
    many = quick(jax.vmap(calibration.fit_temperature))(LOGITS.reshape(4, 100, 5), LABELS.reshape(4, 100))
    each = [fit_temperature(LOGITS[i : i + 100], LABELS[i : i + 100]).temperature for i in range(0, 400, 100)]
    np.testing.assert_allclose(many.temperature, each, rtol=1e-5)
    assert fit_temperature(LOGITS.astype(jnp.bfloat16), LABELS).temperature.dtype == jnp.float32
    assert np.isnan(fit_temperature(LOGITS, LABELS + 1).temperature)
    with pytest.raises(ValueError, match="labels must be in"):
        calibration.fit_temperature(LOGITS, LABELS + 1)


def test_platt_is_scikit_learns():
    sklearn = pytest.importorskip("sklearn.calibration")
    a, b = sklearn._sigmoid_calibration(SCORES.astype(float), EVENTS.astype(float))
    fit = quick(calibration.fit_platt)
    for scale in (1.0, 1e-3, 1e3):
        fitted = fit(np.float32(scale) * SCORES, EVENTS)
        np.testing.assert_allclose([fitted.scale * scale, fitted.shift], [-a, -b], rtol=2e-3)


def test_platt_without_overlap_is_finite():
    fit = quick(calibration.fit_platt)
    fitted = fit(SCORES, SCORES > 0)
    assert np.isfinite(fitted.scale)
    assert fitted.scale > 1
    one_class = fit(SCORES, np.ones(300, bool))
    assert np.isfinite(one_class(SCORES)).all()


fit_beta = quick(lambda z, y: calibration.fit_beta(z, y, prior=0.0))


@pytest.mark.parametrize(("slope", "bend"), [(0.6, 0.0), (1.5, 1.2), (-0.8, 0.0), (1.0, -3.0)])
def test_beta_is_the_best_of_its_family(slope, bend):
    z = SCORES.astype(float)
    truth = slope * z + bend * np.maximum(z, 0)
    y = np.random.default_rng(1).random(300) < 1 / (1 + np.exp(-truth))
    low, high = -np.logaddexp(0, -z), np.logaddexp(0, z)

    def loss(x):
        logit = x[0] * low + x[1] * high + x[2]
        return np.mean(np.logaddexp(0, logit) - y * logit)

    best = optimize.minimize(loss, [1.0, 1.0, 0.0], bounds=[(0, None), (0, None), (None, None)], tol=1e-12)
    fitted = fit_beta(SCORES, y)
    assert fitted.a >= 0
    assert fitted.b >= 0
    np.testing.assert_allclose(loss(np.array(fitted, float)), best.fun, rtol=1e-5)


def test_vector_is_the_best_of_its_family():
    z = LOGITS.astype(float) * np.array([1.0, 2.0, 0.5, 1.0, 1.0]) + np.array([0.0, 0.0, 1.0, -1.0, 0.0])
    best = optimize.minimize(lambda x: surprise(z * x[:5] + x[5:], LABELS).mean(), np.r_[np.ones(5), np.zeros(5)])
    fitted = quick(calibration.fit_vector)(z.astype(np.float32), LABELS)
    own = surprise(np.asarray(fitted(z.astype(np.float32)), float), LABELS).mean()
    np.testing.assert_allclose(own, best.fun, rtol=1e-5)
    held = quick(lambda z, y: calibration.fit_vector(z, y, l2=1e6))(z.astype(np.float32), LABELS)
    np.testing.assert_allclose(held.scales, 1, atol=1e-4)


fit_isotonic = quick(calibration.fit_isotonic)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("distinct", [300, 12, 1])
def test_isotonic_is_scikit_learns(distinct, weighted):
    sklearn = pytest.importorskip("sklearn.isotonic")
    rng = np.random.default_rng(distinct)
    x = rng.permutation(np.linspace(-2, 2, distinct).astype(np.float32))[rng.integers(0, distinct, 300)]
    y = (rng.random(300) < 1 / (1 + np.exp(-2 * x))).astype(np.float32)
    weights = rng.integers(0, 4, 300).astype(np.float32) if weighted else None
    peer = sklearn.IsotonicRegression(out_of_bounds="clip").fit(x, y, weights)
    at = np.linspace(-3, 3, 50).astype(np.float32)
    curve = fit_isotonic(x, y, weights=weights)
    np.testing.assert_allclose(curve(at), peer.predict(at), atol=2e-6)
    keep = rng.random(300) < 0.5
    spoiled = fit_isotonic(np.where(keep, x, np.nan), np.where(keep, y, np.nan), where=keep)
    peer = sklearn.IsotonicRegression(out_of_bounds="clip").fit(x[keep], y[keep])
    np.testing.assert_allclose(spoiled(at), peer.predict(at), atol=2e-6)


def test_isotonic_edges():
    none, steps = np.zeros(0, np.float32), np.arange(4, dtype=np.float32)
    curve = calibration.fit_isotonic(none, none)
    assert curve(np.ones(2, np.float32)).tolist() == [0, 0]
    assert np.isfinite(quick(lambda x, y: calibration.fit_isotonic(x, y, where=False)(x))(SCORES, EVENTS)).all()
    np.testing.assert_allclose(quick(lambda x, y: calibration.fit_isotonic(x, y)(x))(steps, steps[::-1]), 1.5)
    curves = quick(jax.vmap(calibration.fit_isotonic))(SCORES.reshape(3, 100), EVENTS.reshape(3, 100))
    np.testing.assert_allclose(curves.values[1], fit_isotonic(SCORES[100:200], EVENTS[100:200]).values)
    with pytest.raises(ValueError, match=r"scores must be \[n\]"):
        calibration.fit_isotonic(jnp.ones((2, 2)), jnp.ones((2, 2)))


# ---- measures --------------------------------------------------------------------------------------------------------


def gaps(p, y, bins, mass, weights):
    """Share, mean probability and frequency of each bin, by a loop over closed-on-the-right bins."""
    if mass:
        order = np.argsort(p, kind="stable")
        parts = np.array_split(order, bins)
    else:
        parts = [np.flatnonzero((p > b / bins) & (p <= (b + 1) / bins) | (b == 0) & (p == 0)) for b in range(bins)]
    for part in parts:
        if len(part) and weights[part].sum():
            w = weights[part] / weights[part].sum()
            yield weights[part].sum() / weights.sum(), (w * p[part]).sum(), (w * y[part]).sum()


@pytest.mark.parametrize("of", ["answer", "classes"])
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("binning", ["width", "mass"])
def test_calibration_error_is_that_of_a_loop(binning, norm, of):
    p = np.asarray(jax.nn.softmax(LOGITS))
    weights = np.ones(400) if binning == "mass" else np.arange(400) % 3 + 0.0
    columns = [(p.max(1), p.argmax(1) == LABELS)] if of == "answer" else [(p[:, k], k == LABELS) for k in range(5)]
    found = []
    for column, hit in columns:
        share, said, came = np.array([*gaps(column.astype(float), hit, 10, binning == "mass", weights)]).T
        gap = abs(said - came)
        found.append({"l1": (share * gap).sum(), "l2": np.sqrt((share * gap**2).sum()), "max": gap.max()}[norm])
    run = quick(
        lambda p: calibration.calibration_error(p, LABELS, bins=10, binning=binning, norm=norm, of=of, weights=weights)
    )
    np.testing.assert_allclose(run(p), np.mean(found), rtol=1e-5, atol=1e-7)


def test_bins_are_closed_on_the_right_and_ties_stay_together():
    def weight(p, y, **options):
        return quick(lambda p, y: calibration.reliability(p, y, **options).weight)(np.float32(p), np.float32(y))

    p = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    np.testing.assert_allclose(weight(p, p, bins=5), np.array([2, 1, 1, 1, 1]) / 6, rtol=1e-6)
    tied = weight([0.3] * 10, np.ones(10), bins=4, binning="mass")
    np.testing.assert_allclose(sorted(tied.tolist()), [0, 0, 0, 1], atol=1e-6)
    masked = weight([np.nan, 0.5], np.ones(2), where=np.array([False, True]), bins=2)
    np.testing.assert_allclose(masked, [1, 0])
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\]"):
        calibration.reliability(np.float32([1.5]), np.ones(1, np.float32))


def test_nothing_kept_is_zero():
    p = jax.nn.softmax(LOGITS)
    assert calibration.calibration_error(p, LABELS, where=False) == 0
    assert not any(calibration.brier(p[:, 0], LABELS == 0, where=False))
    assert calibration.conformal_quantile(SCORES, where=False) == np.inf


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_brier_parts_add_up(binning):
    p = jax.nn.sigmoid(SCORES)
    weights = RNG.random(300).astype(np.float32)
    score = quick(lambda p: calibration.brier(p, EVENTS, binning=binning, weights=weights))(p)
    total = score.reliability - score.resolution + score.uncertainty + score.within
    np.testing.assert_allclose(total, score.brier, rtol=1e-5)
    sklearn = pytest.importorskip("sklearn.metrics")
    np.testing.assert_allclose(score.brier, sklearn.brier_score_loss(EVENTS, p, sample_weight=weights), rtol=1e-5)


def test_soft_error_becomes_the_hard_one():
    for of_hard, of_soft in (({"norm": "l2"}, {}), ({}, {"norm": "l1"})):
        hard = lambda z, o=of_hard: calibration.calibration_error(jax.nn.softmax(z), LABELS, **o)  # noqa: E731
        soft = lambda z, o=of_soft: losses.soft_calibration_error(z, LABELS, temperature=1e-6, **o)  # noqa: E731
        np.testing.assert_allclose(quick(soft)(LOGITS), quick(hard)(LOGITS), rtol=0.02)


def test_training_losses_calibrate():
    """One temperature under each loss alone ends near the fitted one."""
    fitted = fit_temperature(LOGITS, LABELS).temperature
    temperatures = np.linspace(1.0, 6.0, 51, dtype=np.float32)
    for loss in (losses.mmce, losses.soft_calibration_error):
        values = quick(jax.vmap(lambda t, loss=loss: loss(LOGITS / t, LABELS)))(temperatures)
        assert abs(temperatures[np.argmin(values)] - fitted) < 0.6, loss


# ---- conformal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 9, 10, 99])
def test_conformal_quantile_is_the_right_rank(n):
    scores = np.random.default_rng(n).permutation(n).astype(np.float32)
    padded, keep = np.float32(np.r_[scores, np.nan, -1]), np.r_[np.ones(n, bool), False, False]
    traced = quick(lambda s, c: calibration.conformal_quantile(s, coverage=c))
    for coverage in (0.0, 0.1, 0.5, 0.9, 0.99, 1.0):
        rank = int(np.ceil(round((n + 1) * coverage, 9)))
        expected = np.inf if rank > n else max(rank, 1) - 1
        assert calibration.conformal_quantile(scores, coverage=coverage) == expected
        assert traced(scores, coverage) == expected
        assert calibration.conformal_quantile(padded, coverage=coverage, where=keep) == expected


def test_conformal_sets_cover():
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(6), size=4000).astype(np.float32)
    labels = np.array([rng.choice(6, p=q / q.sum()) for q in np.sqrt(p).astype(float)])  # the model is overconfident
    uniforms = rng.random(4000).astype(np.float32)
    for u in (None, uniforms):
        first, second = (None, None) if u is None else (u[:2000], u[2000:])
        scores = calibration.adaptive_scores(p[:2000], labels[:2000], uniforms=first)
        limit = calibration.conformal_quantile(scores, coverage=0.8)
        sets = np.asarray(calibration.adaptive_sets(p[2000:], limit, uniforms=second))
        covered = sets[np.arange(2000), labels[2000:]].mean()
        assert covered > 0.8 - 0.038, "three standard errors of the difference of two halves"
        assert u is None or covered < 0.8 + 0.038
        own = calibration.adaptive_scores(p[2000:], labels[2000:], uniforms=second) <= limit
        np.testing.assert_array_equal(sets[np.arange(2000), labels[2000:]], own)


def test_adaptive_scores_are_those_of_a_loop():
    p = RNG.dirichlet(np.ones(5), size=20).astype(np.float32)
    labels, u = RNG.integers(0, 5, 20), RNG.random(20).astype(np.float32)
    expected = [q[q > q[y]].sum() + v * q[y] for q, y, v in zip(p, labels, u, strict=True)]
    found = quick(lambda p, y, u: calibration.adaptive_scores(p, y, uniforms=u))(p, labels, u)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_conformalized_quantiles_cover():
    rng = np.random.default_rng(3)
    x = rng.random(4000).astype(np.float32)
    y = (x + (0.1 + x) * rng.normal(size=4000)).astype(np.float32)
    lower, upper = x - 0.5 * (0.1 + x), x + 0.5 * (0.1 + x)  # too narrow
    q = calibration.conformal_quantile(calibration.quantile_scores(lower[:2000], upper[:2000], y[:2000]), coverage=0.9)
    covered = np.mean((y[2000:] >= lower[2000:] - q) & (y[2000:] <= upper[2000:] + q))
    assert abs(covered - 0.9) < 0.02
