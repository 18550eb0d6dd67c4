"""Proper scores, quantiles that cannot cross, and numbers as histograms: what their docstrings claim."""
# pyright: reportArgumentType=false
# NumPy arrays and Python numbers are data too.

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import activations, losses, targets
from tests import vocabulary as v
from tests.vocabulary import quick

LARGEST = v.LARGEST
RNG = np.random.default_rng(11)
MEANS, TRUE = RNG.normal(size=(2, 30)).astype(np.float32)
SPREAD = np.exp(RNG.normal(size=30)).astype(np.float32)
MEMBERS = RNG.normal(size=(30, 6)).astype(np.float32)
VECTORS, POINTS = RNG.normal(size=(9, 5, 3)).astype(np.float32), RNG.normal(size=(9, 3)).astype(np.float32)
LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.9, 0.95])


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


def f32(*numbers):
    return np.array(numbers, np.float32)


def agree(ours, theirs, rtol=3e-6):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-7)


def wide(x):
    """In float64, for peers that compute in what they are given."""
    return np.asarray(x, np.float64)


# ---- peers, under the conventions that the docstrings claim ----------------------------------------------------------

SCORINGRULES = [
    ("crps_gaussian", (MEANS, TRUE, SPREAD), {}, lambda s, m, y, x: s.crps_normal(y, m, x)),
    ("crps_logistic", (MEANS, TRUE, SPREAD), {}, lambda s, m, y, x: s.crps_logistic(y, m, x)),
    (
        "interval_score",
        (MEANS - SPREAD, MEANS + SPREAD, TRUE),
        {"alpha": 0.1},
        lambda s, lo, hi, y: s.interval_score(y, lo, hi, 0.1),
    ),
    ("crps_ensemble", (MEMBERS, TRUE), {}, lambda s, x, y: s.crps_ensemble(y, x, estimator="nrg")),
    ("crps_ensemble", (MEMBERS, TRUE), {"fairness": 1.0}, lambda s, x, y: s.crps_ensemble(y, x, estimator="fair")),
    ("energy_score", (VECTORS, POINTS), {}, lambda s, x, y: s.es_ensemble(y, x, estimator="nrg")),
    ("energy_score", (VECTORS, POINTS), {"fairness": 1.0}, lambda s, x, y: s.es_ensemble(y, x, estimator="fair")),
    ("multi_quantile", (MEMBERS, TRUE), {"levels": LEVELS}, lambda s, x, y: 0.5 * s.crps_quantile(y, x, LEVELS)),
]


@pytest.mark.parametrize(("name", "arrays", "hyper", "peer"), SCORINGRULES)
def test_scoringrules(name, arrays, hyper, peer):
    scoringrules = pytest.importorskip("scoringrules")
    agree(once(getattr(losses, name), *arrays, **hyper, reduction="none"), peer(scoringrules, *map(wide, arrays)))


def test_multi_quantile_is_the_mean_of_quantiles_and_of_sklearns_pinball():
    metrics = pytest.importorskip("sklearn.metrics")
    ours = once(losses.multi_quantile, MEMBERS, TRUE, levels=LEVELS)
    pinball = quick(lambda q, t: losses.quantile(q, TRUE, level=t))
    agree(ours, np.mean([pinball(q, t) for q, t in zip(MEMBERS.T, LEVELS, strict=True)]))
    agree(ours, np.mean([metrics.mean_pinball_loss(TRUE, q, alpha=t) for q, t in zip(MEMBERS.T, LEVELS, strict=True)]))


def test_a_peer_has_no_gradient_where_members_meet_and_we_have():
    scoringrules = pytest.importorskip("scoringrules")
    together = np.repeat(POINTS[:2, None], 4, axis=1)
    peer = quick(jax.grad(lambda x: scoringrules.es_ensemble(POINTS[:2], x, backend="jax").sum()))(together)
    assert np.isnan(peer).all()
    assert not quick(jax.grad(losses.energy_score))(together, POINTS[:2]).any()


# ---- the closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crps_gaussian", "crps_logistic"])
def test_crps_of_a_distribution_is_the_integral_that_defines_it(name):
    inside = {"crps_gaussian": mpmath.ncdf, "crps_logistic": lambda z: 1 / (1 + mpmath.exp(-z))}[name]
    loss = quick(getattr(losses, name))
    for mean, target, scale in ((0.0, 0.0, 1.0), (1.0, -1.5, 0.5), (2.0, 2.25, 4.0)):
        below = mpmath.quad(lambda x, m=mean, s=scale: inside((x - m) / s) ** 2, [-200, mean, target])
        above = mpmath.quad(lambda x, m=mean, s=scale: (1 - inside((x - m) / s)) ** 2, [target, mean, 200])
        agree(loss(f32(mean), f32(target), f32(scale)), float(below + above))


@pytest.mark.parametrize("name", ["crps_gaussian", "crps_logistic"])
def test_crps_is_the_absolute_error_of_a_forecast_without_spread(name):
    loss = getattr(losses, name)
    arrays = (f32(1.0, -1e30, 3.0), f32(0.0, 1e30, 3.0), np.full(3, v.TINY, np.float32))
    agree(once(loss, *arrays, reduction="none")[:2], f32(1.0, 2e30))
    total = functools.partial(loss, reduction="sum")
    slopes = quick(jax.grad(total, argnums=(0, 1, 2)))(*arrays)
    np.testing.assert_array_equal(slopes[0], f32(1.0, -1.0, 0.0))
    np.testing.assert_array_equal(slopes[1], -slopes[0])
    for outer in (jax.jacfwd, jax.jacrev):
        for inner in (jax.jacfwd, jax.jacrev):
            second = quick(outer(inner(total, (0, 1, 2)), (0, 1, 2)))(*arrays)
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(second))


@pytest.mark.parametrize(
    ("name", "slope_by_scale"),
    [
        ("crps_gaussian", lambda z: 2 * mpmath.npdf(z) - 1 / mpmath.sqrt(mpmath.pi)),
        ("crps_logistic", lambda z: 2 * mpmath.log1p(mpmath.exp(-z)) + 2 * z / (1 + mpmath.exp(z)) - 1),
    ],
)
def test_crps_slope_by_the_scale_where_it_vanishes(name, slope_by_scale):
    """Between too small and too large a scale: exact to the rounding of what is subtracted, which is 1."""
    root = float(mpmath.findroot(slope_by_scale, 1.0))
    slope_at = jax.jit(jax.grad(getattr(losses, name), argnums=2))
    for z in f32(root, 1.001 * root, 0.9 * root):
        slope = slope_at(z, 0.0, 1.0)
        assert abs(float(slope) - float(slope_by_scale(mpmath.mpf(float(z))))) < 1.5e-7


# ---- intervals -------------------------------------------------------------------------------------------------------


def test_interval_score_is_two_quantiles_and_never_negative():
    low, high = MEANS, TRUE  # crossed half of the time
    score = once(losses.interval_score, low, high, SPREAD, alpha=0.2, reduction="none")
    pair = [once(losses.quantile, q, SPREAD, level=t, reduction="none") for q, t in ((low, 0.1), (high, 0.9))]
    agree(score, 10.0 * (pair[0] + pair[1]))
    assert (score >= 0).all()
    slopes = quick(jax.grad(functools.partial(losses.interval_score, alpha=0.2), argnums=(0, 1, 2)))
    assert slopes(1.0, 1.0, 1.0) == (0.0, 0.0, 0.0)


def test_interval_score_of_everything_there_is():
    assert once(losses.interval_score, -LARGEST, LARGEST, 0.0, alpha=0.1) == np.inf  # is twice the largest number
    agree(once(losses.interval_score, -0.5 * LARGEST, 0.25 * LARGEST, 0.0, alpha=0.1), 0.75 * LARGEST)


# ---- ensembles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fairness", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("m", [1, 2, 7])
def test_crps_ensemble_is_the_double_sum(fairness, m):
    x, y = wide(MEMBERS[:, :1] if m == 1 else RNG.normal(size=(30, m)).astype(np.float32)), wide(TRUE)
    pairs = np.abs(x[:, :, None] - x[:, None, :]).sum((1, 2)) / 2
    weight = (1 - fairness) / m**2 + (fairness / (m * (m - 1)) if m > 1 else 0.0)
    expected = np.abs(x - y[:, None]).mean(1) - weight * pairs
    ours = once(losses.crps_ensemble, x.astype(np.float32), TRUE, fairness=fairness, reduction="none")
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=1e-6)
    assert (ours >= 0).all()


def test_almost_fair_is_the_sum_of_the_paper():
    """Lang et al. (2024), eq. 4: a mean over pairs of |x - y| + |x' - y| - (1 - epsilon) |x - x'|."""
    alpha, m = 0.95, MEMBERS.shape[1]
    x, y = wide(MEMBERS), wide(TRUE)[:, None, None]
    terms = np.abs(x[:, :, None] - y) + np.abs(x[:, None] - y)
    terms = (terms - (1 - (1 - alpha) / m) * np.abs(x[:, :, None] - x[:, None])) * (1 - np.eye(m))
    expected = terms.sum((1, 2)) / (2 * m * (m - 1))
    agree(once(losses.crps_ensemble, MEMBERS, TRUE, fairness=alpha, reduction="none"), expected)


@pytest.mark.parametrize("name", ["crps_ensemble", "energy_score"])
def test_the_fair_score_does_not_depend_on_the_number_of_members(name):
    """Its mean over all parts of an ensemble is that of the whole; the standard score is larger for the parts."""
    loss, whole, truth = getattr(losses, name), VECTORS, POINTS
    if name == "crps_ensemble":
        whole, truth = MEMBERS[:, :5], TRUE
    parts = [whole[:, list(part)] for part in itertools.combinations(range(5), 3)]
    fair, standard = quick(functools.partial(loss, fairness=1.0)), quick(loss)
    agree(np.mean([fair(p, truth) for p in parts]), fair(whole, truth))
    assert np.mean([standard(p, truth) for p in parts]) > standard(whole, truth) + 0.01


def test_crps_ensemble_at_ties():
    """Equal members share the slope, symmetric about the target, and one at the target is not pulled to it."""
    slope = quick(jax.grad(losses.crps_ensemble))
    np.testing.assert_array_equal(slope(f32(3.0, 3.0, 3.0), 3.0), f32(0.0, 0.0, 0.0))
    np.testing.assert_allclose(slope(f32(5.0, 5.0, 5.0), 3.0), f32(1, 1, 1) / 3)
    mirrored = slope(f32(1.0, 3.0, 5.0, 1.0, 5.0), 3.0)
    np.testing.assert_allclose(mirrored, -mirrored[jnp.array([2, 1, 0, 4, 3])])
    assert mirrored[1] == 0
    # the mean of the derivatives from both sides
    apart = [slope(f32(1.0, 1.0 + e, 4.0), 3.0) for e in (-0.125, 0.125)]
    np.testing.assert_allclose(slope(f32(1.0, 1.0, 4.0), 3.0)[1], 0.5 * (apart[0][1] + apart[1][1]), rtol=1e-6)
    assert quick(jax.grad(losses.crps_ensemble, argnums=1))(f32(1.0, 3.0, 5.0), 3.0) == 0
    flat = quick(jax.hessian(losses.crps_ensemble))(f32(1.0, 1.0, 4.0), 1.0)
    assert not flat.any()


def test_crps_ensemble_does_not_cancel_far_from_zero():
    """The difference of the two means has lost all digits here; what is integrated has all of them."""
    x, y = f32(1e6, 1e6 + 0.0625, 1e6 + 0.25), np.float32(1e6 + 0.125)
    exact = once(losses.crps_ensemble, f32(0.0, 0.0625, 0.25), f32(0.125)[0])
    np.testing.assert_allclose(once(losses.crps_ensemble, x, y), exact, rtol=1e-6)
    halfway = once(losses.crps_ensemble, f32(0.1, 0.3), f32(0.2)[0], fairness=1.0)
    assert halfway == 0


def test_crps_ensemble_overflows_only_where_it_does():
    x = f32(-LARGEST, LARGEST)
    agree(once(losses.crps_ensemble, x, 0.0), 0.5 * LARGEST)
    assert once(losses.crps_ensemble, x, 0.0, fairness=1.0) == 0
    np.testing.assert_allclose(quick(jax.grad(losses.crps_ensemble))(x, 0.0), f32(-0.25, 0.25))


def test_crps_ensemble_is_sorted_not_paired():
    m = 1 << 16
    run = jax.jit(jax.value_and_grad(losses.crps_ensemble))
    memory: Any = run.lower(jnp.zeros(m), 0.0).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 4 * m
    even = (np.arange(m, dtype=np.float32) + 0.5) / m
    value, slope = run(np.random.default_rng(0).permutation(even), np.float32(0.5))
    np.testing.assert_allclose(value, 1 / 12, rtol=1e-5)  # of the uniform distribution, at its median
    assert abs(slope.sum()) < 1e-6


def test_the_energy_score_of_numbers_is_their_crps():
    for fairness in (0.0, 0.95, 1.0):
        crps = once(losses.crps_ensemble, MEMBERS, TRUE, fairness=fairness, reduction="none")
        energy = once(losses.energy_score, MEMBERS[..., None], TRUE[:, None], fairness=fairness, reduction="none")
        np.testing.assert_allclose(energy, crps, rtol=2e-6, atol=1e-6)
    one = once(losses.energy_score, VECTORS[:, :1], POINTS, fairness=1.0, reduction="none")
    agree(one, np.linalg.norm(VECTORS[:, 0] - POINTS, axis=-1))


def test_the_energy_score_holds_no_pairs():
    m, d = 256, 64
    loss = lambda x, y: losses.energy_score(x, y)  # noqa: E731
    shapes = (jax.ShapeDtypeStruct((m, d), jnp.float32), jax.ShapeDtypeStruct((d,), jnp.float32))
    for f in (loss, jax.grad(loss), lambda x, y: jax.jvp(jax.grad(loss), (x, y), (x, y))[1]):
        memory: Any = jax.jit(f).lower(*shapes).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 16 * 4 * m * d


@pytest.mark.parametrize("fairness", [0.0, 0.95, 1.0])
def test_energy_score_where_points_meet(fairness):
    x = np.repeat(VECTORS[:1], 3, axis=0)
    x[0, 1], x[1, 2] = x[0, 0], POINTS[1]  # two members at one place, a member at the target
    x[2] = POINTS[2]
    run = lambda x, y: losses.energy_score(x, y, fairness=fairness, reduction="sum")  # noqa: E731
    by_members, by_target = quick(jax.grad(run, argnums=(0, 1)))(x, POINTS[:3])
    np.testing.assert_allclose(by_members[0, 0], by_members[0, 1], rtol=1e-6)
    assert not by_members[2].any()
    assert not by_target[2].any()
    for outer in (jax.jacfwd, jax.jacrev):
        assert np.isfinite(quick(outer(jax.grad(run)))(x, POINTS[:3])).all()


def test_energy_score_between_two_members_is_not_negative():
    """The target on the way from one to the other: the fair score is 0, and rounding must not make it less."""
    ends = RNG.normal(size=(200, 2, 4)).astype(np.float32)
    share = RNG.uniform(size=(200, 1)).astype(np.float32)
    between = share * ends[:, 0] + (1 - share) * ends[:, 1]
    score = once(losses.energy_score, ends, between, fairness=1.0, reduction="none")
    assert (score >= 0).all()
    assert score.max() < 1e-6


def test_energy_score_at_any_size():
    run = quick(jax.value_and_grad(losses.energy_score))
    expected, expected_slope = run(VECTORS, POINTS)
    for size in np.float32([1e-30, 1e-20, 1.0, 1e18, 1e37]):
        value, slope = run(size * VECTORS, size * POINTS)
        np.testing.assert_allclose(value / size, expected, rtol=2e-6)
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-5, atol=1e-7)


# ---- beta-NLL --------------------------------------------------------------------------------------------------------

FORMS = {
    "gaussian_nll": lambda m, y, x, **k: losses.gaussian_nll(m, y, x, **k),
    "gaussian_nll_with_log_variances": lambda m, y, x, **k: losses.gaussian_nll_with_log_variances(
        m, y, jnp.log(x), **k
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_beta_nll(name):
    loss = FORMS[name]
    for full in (False, True):
        units = jax.vmap(jax.value_and_grad(functools.partial(loss, full=full), argnums=(0, 1, 2)))
        plain, slopes = quick(units)(MEANS, TRUE, SPREAD)
        for beta in (0.25, 0.5, 1.0):
            weight = SPREAD ** np.float32(beta)
            of_beta = jax.value_and_grad(functools.partial(loss, full=full, beta=beta), argnums=(0, 1, 2))
            weighed, gradients = quick(jax.vmap(of_beta))(MEANS, TRUE, SPREAD)
            np.testing.assert_allclose(weighed, weight * plain, rtol=1e-5, atol=1e-6)
            for a, b in zip(slopes, gradients, strict=True):
                np.testing.assert_allclose(b, weight * a, rtol=1e-5, atol=1e-6)
    mean = quick(jax.grad(functools.partial(loss, beta=1.0)))(MEANS, TRUE, SPREAD)
    np.testing.assert_allclose(mean, 0.5 * quick(jax.grad(losses.squared_error))(MEANS, TRUE), rtol=1e-5)


@pytest.mark.parametrize("name", ["gaussian_nll", "gaussian_nll_with_log_variances"])
def test_beta_nll_of_nothing_is_the_program_without_it(name):
    loss = getattr(losses, name)
    plain, zero = (jax.make_jaxpr(lambda *a, k=k: loss(*a, **k))(MEANS, TRUE, SPREAD) for k in ({}, {"beta": 0}))
    assert str(plain) == str(zero)
    assert "pow" not in str(plain)
    traced = quick(lambda b: loss(MEANS, TRUE, SPREAD, beta=b))(0.0)
    np.testing.assert_allclose(traced, once(loss, MEANS, TRUE, SPREAD), rtol=2e-6)


def test_beta_nll_stays_finite_where_the_likelihood_does_not():
    """An error of 1e12 at a variance of 1e-30: the squared error of it all is 1e24."""
    loss = functools.partial(losses.gaussian_nll, eps=0.0, beta=1.0)
    value, slopes = quick(jax.value_and_grad(loss, argnums=(0, 2)))(1e12, 0.0, 1e-30)
    np.testing.assert_allclose(slopes[0], 1e12, rtol=1e-5)
    np.testing.assert_allclose(value, 0.5e24, rtol=1e-5)
    assert once(losses.gaussian_nll, 1e12, 0.0, 1e-30, eps=0.0) == np.inf
    loss = functools.partial(losses.gaussian_nll_with_log_variances, beta=1.0)
    value, slope = quick(jax.value_and_grad(loss))(1.0, 0.0, -200.0)
    np.testing.assert_allclose((value, slope), (0.5, 1.0))


# ---- quantiles that cannot cross -------------------------------------------------------------------------------------


def test_quantiles_do_not_cross():
    raw = (RNG.normal(size=(50, 99)) * RNG.choice([1e-3, 1.0, 30.0, 1e4], size=(50, 1))).astype(np.float32)
    raw[:, 0] *= 1000.0  # where gaps are lost in the rounding, too
    for run in (activations.monotone_quantiles, jax.jit(activations.monotone_quantiles)):
        assert (np.diff(run(raw), axis=-1) >= 0).all()


def test_quantiles_are_sums_of_softplus():
    raw = RNG.normal(size=(4, 7))
    gaps = np.log1p(np.exp(raw[:, 1:]))
    expected = raw[:, :1] + np.concatenate([np.zeros((4, 1)), np.cumsum(gaps, axis=1)], axis=1)
    agree(once(activations.monotone_quantiles, raw.astype(np.float32)), expected)
    half = once(activations.monotone_quantiles, jnp.asarray(raw, jnp.bfloat16))
    assert half.dtype == jnp.float32
    with jax.enable_x64(True):
        f = lambda x: activations.monotone_quantiles(x)[-1]  # noqa: E731
        slope = quick(jax.grad(f))(jnp.asarray(raw[0]))
        np.testing.assert_allclose(slope[1:], 1 / (1 + np.exp(-raw[0, 1:])), rtol=1e-12)
        assert slope[0] == 1
        hessian = quick(jax.hessian(f))(jnp.asarray(raw[0]))
        p = 1 / (1 + np.exp(-raw[0, 1:]))
        np.testing.assert_allclose(np.diag(hessian)[1:], p * (1 - p), rtol=1e-10)


def test_quantiles_of_any_output():
    run = quick(lambda x: (activations.monotone_quantiles(x), jax.jacrev(activations.monotone_quantiles)(x)))
    for raw in (-LARGEST, -200.0, 0.0, 200.0, 1e37):
        value, slopes = run(np.full(3, raw, np.float32))
        assert np.isfinite(value).all()
        assert np.isfinite(slopes.sum(axis=0)).all()


# ---- numbers as histograms -------------------------------------------------------------------------------------------

CENTERS = np.array([-7.0, -2.0, -0.5, 0.0, 0.25, 3.0, 9.0], np.float32)
EDGES = np.linspace(-4.0, 4.0, 17, dtype=np.float32)


def exact_masses(target, edges, sigma):
    """The definition in arbitrary precision."""
    with mpmath.workdps(60):
        z = [(mpmath.mpf(float(e)) - mpmath.mpf(float(target))) / mpmath.mpf(float(sigma)) for e in edges]
        tail = [mpmath.ncdf(-abs(x)) for x in z]  # of the nearer side, so that nothing cancels
        parts = []
        for (a, p), (b, q) in itertools.pairwise(zip(z, tail, strict=True)):
            parts.append(q - p if b <= 0 else p - q if a >= 0 else 1 - p - q)
        return [p / sum(parts) for p in parts]


def test_two_hot_gives_its_mean_back():
    numbers = np.concatenate([RNG.uniform(-7, 9, size=50).astype(np.float32), CENTERS])
    spread = targets.two_hot(numbers, centers=CENTERS)
    assert spread.shape == (57, 7)
    assert (spread >= 0).all()
    assert ((spread > 0).sum(-1) <= 2).all()
    np.testing.assert_allclose(spread.sum(-1), 1.0, rtol=2e-7)
    np.testing.assert_array_equal(spread[50:], np.eye(7))
    np.testing.assert_allclose(spread @ CENTERS, numbers, rtol=1e-6, atol=2e-6)
    decoded = once(activations.histogram_mean, jnp.log(spread), centers=CENTERS)
    np.testing.assert_allclose(decoded, numbers, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize(
    "encode",
    [
        lambda x: targets.two_hot(x, centers=CENTERS),
        lambda x: targets.hl_gauss(x, edges=EDGES),
        lambda x: targets.hl_gauss(x, edges=EDGES, sigma=0.01),
    ],
)
def test_histograms_of_what_is_outside_and_of_every_dtype(encode):
    run = quick(encode)
    ends = run(np.float32([-LARGEST, -np.inf, -50.0, 50.0, np.inf, LARGEST]))
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])
    np.testing.assert_array_equal(ends[3], ends[5])
    assert ends[0, 0] == ends[0].max()
    assert ends[5, -1] == ends[5].max()
    assert np.isnan(run(np.float32(np.nan))).all()
    for dtype in (jnp.bfloat16, jnp.float16, jnp.int32):
        assert jax.eval_shape(encode, jnp.ones(3, dtype)).dtype == jnp.float32
    numbers = RNG.normal(size=(2, 5)).astype(np.float32)
    expected = encode(numbers)
    np.testing.assert_allclose(run(numbers), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(quick(jax.vmap(encode))(numbers), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sigma", [0.05, 0.375, 1.0, 5.0, 100.0, 1e6])
def test_hl_gauss_keeps_its_digits_in_tails_and_in_narrow_bins(sigma):
    spread = quick(functools.partial(targets.hl_gauss, edges=EDGES, sigma=sigma))
    for target in (-4.0, -0.3, 0.0, 0.25, 3.9, 4.0):
        ours = np.asarray(spread(np.float32(target)))
        for own, exact in zip(ours, exact_masses(target, EDGES, sigma), strict=True):
            own = mpmath.mpf(float(own))  # in a tail at z^2 / 2 = -log mass, the rounding of z counts as often
            assert abs(own - exact) <= 2e-6 * exact * (1 + abs(mpmath.log(exact))) + 1e-37, (target, own, exact)
        assert abs(float(ours.sum()) - 1) < 3e-7


def test_hl_gauss_by_differences_of_one_error_function_loses_the_tail():
    cdf = jax.scipy.special.erf((EDGES - np.float32(0.0)) / np.float32(np.sqrt(2.0) * 0.6))
    assert np.diff(cdf)[-1] == 0
    ours = once(targets.hl_gauss, np.float32(0.0), edges=EDGES, sigma=0.6)
    assert ours[-1] > 0


def test_hl_gauss_takes_the_ratio_of_the_paper():
    agree(once(targets.hl_gauss, TRUE, edges=EDGES), once(targets.hl_gauss, TRUE, edges=EDGES, sigma=0.75 * 0.5))
    middles = 0.5 * (EDGES[1:] + EDGES[:-1])
    inside = np.linspace(-2.5, 2.5, 21, dtype=np.float32)
    np.testing.assert_allclose(once(targets.hl_gauss, inside, edges=EDGES) @ middles, inside, atol=2e-3)
    slopes = quick(jax.vmap(jax.grad(lambda s: targets.hl_gauss(0.3, edges=EDGES, sigma=s)[3])))(
        f32(1e-3, 0.3, 2.0, 1e5)
    )
    assert np.isfinite(slopes).all()


def test_the_mean_of_a_histogram_of_both_signs_is_zero_at_the_start():
    low = once(activations.symexp, jnp.linspace(-20.0, 0.0, 128))
    centers = jnp.concatenate([low, -low[-2::-1]])
    logits = np.zeros((3, 255), np.float32)
    assert not once(activations.histogram_mean, logits, centers=centers).any()
    slope = quick(jax.grad(lambda x: activations.histogram_mean(x, centers=CENTERS)))(np.zeros(7, np.float32))
    np.testing.assert_allclose(slope, (CENTERS - CENTERS.mean()) / 7, atol=1e-6)


def test_bins_that_do_not_exist():
    logits = f32(0.0, -np.inf, 1.0, -np.inf, LARGEST, -LARGEST, 0.0)
    value, slope = quick(jax.value_and_grad(lambda x: activations.histogram_mean(x, centers=CENTERS)))(logits)
    np.testing.assert_allclose(value, CENTERS[4])
    assert np.isfinite(slope).all()


def test_symlog_and_symexp():
    numbers = f32(-1e30, -5.0, -1e-20, 0.0, 1e-8, 0.5, 80.0, LARGEST)
    logs = targets.symlog(numbers)
    np.testing.assert_allclose(logs, np.sign(wide(numbers)) * np.log1p(np.abs(wide(numbers))), rtol=3e-7)
    np.testing.assert_allclose(once(activations.symexp, logs)[1:7], numbers[1:7], rtol=1e-6)
    assert targets.symlog(np.int32(0)).dtype == jnp.float32
    for f in (targets.symlog, activations.symexp):
        assert quick(jax.grad(f))(0.0) == 1
        assert np.isfinite(quick(jax.vmap(jax.grad(jax.grad(f))))(f32(-3.0, 0.0, 3.0))).all()


# ---- wrong calls -----------------------------------------------------------------------------------------------------

WRONG = [
    (lambda: losses.crps_gaussian(0.0, 0.0, 0.0), ValueError, "scales must be positive, got 0"),
    (lambda: losses.crps_ensemble(np.zeros((2, 3)), np.zeros(3)), ValueError, r"targets\[3\], predictions\[2, 3\]"),
    (lambda: losses.crps_ensemble(np.zeros((2, 0)), np.zeros(2)), ValueError, "at least one member"),
    (
        lambda: losses.crps_ensemble(np.zeros(2), 0.0, fairness=1.5),
        ValueError,
        r"fairness must be in \[0, 1\], got 1.5",
    ),
    (lambda: losses.energy_score(np.zeros((4, 3)), np.zeros(4)), ValueError, r"targets\[4\], predictions\[4, 3\]"),
    (lambda: losses.energy_score(np.zeros((0, 3)), np.zeros(3)), ValueError, "at least one member"),
    (lambda: losses.multi_quantile(np.zeros(3), 0.0, levels=[0.1, 0.9]), ValueError, r"levels\[2\], predictions\[3\]"),
    (lambda: losses.multi_quantile(np.zeros(1), 0.0, levels=[90.0]), ValueError, r"levels must be in \[0, 1\], got 90"),
    (lambda: losses.interval_score(0.0, 1.0, 0.0, alpha=0.0), ValueError, "alpha must be positive, got 0"),
    (lambda: losses.gaussian_nll(0.0, 0.0, 1.0, beta=2.0), ValueError, r"beta must be in \[0, 1\], got 2"),
    (lambda: activations.monotone_quantiles(np.zeros((2, 0), np.float32)), ValueError, "at least one level"),
    (lambda: activations.histogram_mean(np.zeros(3), centers=np.arange(4.0)), ValueError, r"centers\[4\], logits\[3\]"),
    (lambda: targets.two_hot(0.0, centers=[0.0, 2.0, 1.0]), ValueError, "centers must increase"),
    (lambda: targets.hl_gauss(0.0, edges=[1.0]), ValueError, r"edges must have one axis .* got shape \[1\]"),
    (lambda: targets.hl_gauss(0.0, edges=[0.0, 1.0], sigma=-1.0), ValueError, "sigma must be positive, got -1"),
    (lambda: targets.two_hot(1j, centers=[0.0, 1.0]), TypeError, "targets must be real"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
