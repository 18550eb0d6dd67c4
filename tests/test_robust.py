"""Robust regression: what the docstrings claim about peers, limits and hostile numbers."""
# pyright: reportArgumentType=false
# NumPy arrays and Python numbers are data too.

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import losses
from lossax.losses._robust import _barron, _log_partition
from tests import vocabulary as v
from tests.oracles import robust as oracle
from tests.vocabulary import quick

RNG = np.random.default_rng(11)
ERRORS = np.sort(np.concatenate([RNG.normal(size=30) * 3, [0.0, 1e-6, 40.0, -500.0]])).astype(np.float32)
NONE = np.zeros_like(ERRORS)


def units(name, errors=ERRORS, **hyper):
    loss = getattr(losses, name)
    return quick(lambda errors: loss(errors, jnp.zeros_like(errors), reduction="none", **hyper))(errors)


def agree(ours, theirs, rtol=2e-6):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-12)


# ---- one loss by another, and by peers -------------------------------------------------------------------------------

ROOT = 2.0**0.5
SAME = [
    ("barron", {"alpha": 2.0, "scale": 1.5}, "squared_error", {}, 0.5 / 1.5**2),
    ("barron", {"alpha": 1.0, "scale": 1.5}, "pseudo_huber", {"delta": 1.5}, 1 / 1.5**2),
    ("barron", {"alpha": 0.0, "scale": 1.5}, "cauchy", {"c": 1.5 * ROOT}, 1 / 1.5**2),
    ("barron", {"alpha": -2.0, "scale": 1.5}, "geman_mcclure", {"c": 3.0}, 1 / 1.5**2),
    ("barron", {"alpha": -np.inf, "scale": 1.5}, "welsch", {"c": 1.5 * ROOT}, 1 / 1.5**2),
    ("cauchy", {}, "barron", {"alpha": 0.0, "scale": 2.385 / ROOT}, 2.385**2 / 2),
    ("geman_mcclure", {"c": 1.5}, "barron", {"alpha": -2, "scale": 0.75}, 1.5**2 / 4),
    ("welsch", {}, "barron", {"alpha": -np.inf, "scale": 2.985 / ROOT}, 2.985**2 / 2),
    ("pseudo_huber", {"delta": 0.5}, "charbonnier", {"epsilon": 0.5}, 0.5),
]


@pytest.mark.parametrize(("name", "hyper", "other", "other_hyper", "factor"), SAME)
def test_one_is_the_other(name, hyper, other, other_hyper, factor):
    ours, theirs = units(name, **hyper), factor * np.asarray(units(other, **other_hyper), np.float64)
    agree(ours, theirs - (0.25 if other == "charbonnier" else 0.0), 3e-6 if other != "charbonnier" else 1e-4)


@pytest.mark.parametrize(("name", "peer", "hyper"), [("cauchy", "cauchy", "c"), ("pseudo_huber", "soft_l1", "delta")])
def test_scipy_least_squares_has_the_same_cost(name, peer, hyper):
    optimize = pytest.importorskip("scipy.optimize")
    fit = optimize.least_squares(lambda x: ERRORS + 0 * x, [0.0], loss=peer, f_scale=1.7, max_nfev=1)
    agree(np.sum(np.asarray(units(name, **{hyper: 1.7}), np.float64)), fit.cost)


DENSITIES = [
    (2.0, lambda s, e, c: s.norm.logpdf(e, scale=c)),
    (0.0, lambda s, e, c: s.cauchy.logpdf(e, scale=c * ROOT)),
    (1.0, lambda s, e, c: s.genhyperbolic.logpdf(e, p=1, a=1, b=0, scale=c)),
]


@pytest.mark.parametrize(("alpha", "density"), DENSITIES)
def test_adaptive_barron_is_a_likelihood_of_scipy(alpha, density):
    stats = pytest.importorskip("scipy.stats")
    with np.errstate(all="ignore"):
        exact = -density(stats, ERRORS.astype(np.float64), 1.5)
    agree(units("adaptive_barron", alpha=alpha, scale=1.5), exact, 4e-6)


def test_the_defaults_are_those_of_95_percent_efficiency():
    """(E psi')^2 / E psi^2 of a standard normal error is 0.95."""
    e = np.linspace(-12, 12, 200_001, dtype=np.float64)
    density = np.exp(-0.5 * e * e) / np.sqrt(2 * np.pi) * (e[1] - e[0])
    with jax.enable_x64(True):
        for name in ("cauchy", "welsch", "tukey"):
            total = lambda x, name=name: getattr(losses, name)(x, 0 * x, reduction="sum")  # noqa: E731
            pull = np.asarray(quick(jax.grad(total))(e))
            slope = np.gradient(pull, e)
            assert abs(np.sum(slope * density) ** 2 / np.sum(pull**2 * density) - 0.95) < 2e-3, name


def test_libra_constants_of_balanced_l1():
    """The pull is alpha log(b |e| + 1), gamma at the turn, and the value has no jump there."""
    e = np.array([0.25, 1 - 2.0**-24, 1.0, 3.0], np.float32)
    pull = quick(jax.grad(lambda x: losses.balanced_l1(x, 0 * x, reduction="sum")))(e)
    b = np.expm1(3.0)
    agree(pull, [0.5 * np.log(b * 0.25 + 1), 1.5, 1.5, 1.5])
    values = units("balanced_l1", e)
    assert abs(values[1] - values[2]) < 4e-7


def test_sharp_and_smooth_ends_of_tukey():
    gradient = quick(jax.grad(lambda x: losses.tukey(x, 0 * x, c=2.0, reduction="sum")))
    agree(gradient(np.array([0.0, 2.0, 2.5, 1e30, 1.0], np.float32)), [0.0, 0.0, 0.0, 0.0, 0.5625])
    agree(units("tukey", np.array([2.0, 1e30], np.float32), c=2.0), [2 / 3, 2 / 3])


# ---- Barron's loss: every alpha --------------------------------------------------------------------------------------

ALPHAS = [-np.inf, -1e30, -1e5, -70.0, -10.0, -2.0, -1.0, -0.1, -1e-4, -1e-8, 0.0, 1e-20, 1e-4, 0.1, 0.5, 0.9, 1.0]
ALPHAS += [1.1, 1.5, 1.9, 1.999, 2 - 2.0**-23, 2.0, 2 + 2.0**-22, 2.01, 2.5, 3.0, 4.0, 7.0, 66.5, 1e4, 1e30, np.inf]
SIZES = [0.0, 1e-30, 1e-12, 1e-5, 0.01, 0.3, 0.9, 1.0, 1.7, 2.3, 3.5, 5.0, 8.0, 13.0, 30.0, 1e4, 1e9, 1e11, 1e20, 1e30]


def exact_slope_by_alpha(e, alpha, c):
    """Of the definition, by a central difference in many digits; at 2, where it is infinite, that of its neighbour."""
    if mpmath.isinf(alpha):
        return mpmath.mpf(0)
    if alpha == 2:
        alpha -= mpmath.mpf(2) ** -23
    step = mpmath.mpf(10) ** -30 * max(abs(alpha), mpmath.mpf(10) ** -15)
    return (oracle._barron(e, alpha + step, c) - oracle._barron(e, alpha - step, c)) / (2 * step)


@pytest.mark.parametrize("scale", [1.0, 0.3, 7.0])
def test_barron_and_its_gradients_at_every_alpha(scale):
    grid = [np.float32(x).ravel() for x in np.meshgrid(SIZES, ALPHAS)]
    errors, alphas, scales = grid[0], grid[1], np.full_like(grid[0], scale)

    def total(e, alpha, c):
        return losses.barron(e, jnp.zeros_like(e), alpha=alpha, scale=c, reduction="sum")

    run = lambda e, a, c: losses.barron(e, jnp.zeros_like(e), alpha=a, scale=c, reduction="none")  # noqa: E731
    gradients_of = jax.grad(total, argnums=(0, 1, 2))
    values, gradients = jax.jit(lambda *a: (run(*a), gradients_of(*a)))(errors, alphas, scales)
    values, gradients = np.asarray(values), list(map(np.asarray, gradients))
    assert np.all(values >= 0)
    seen = 0
    for i, (e, alpha, c) in enumerate(zip(errors, alphas, scales, strict=True)):
        with mpmath.workdps(140):
            e, alpha, c = (mpmath.mpf(float(x)) for x in (e, alpha, c))
            if alpha > 2 and mpmath.log(e + 1) * max(alpha, 10) > 60 and alpha * mpmath.log((e / c) ** 2 + 1) > 88:
                continue  # beyond float32
            value = oracle._barron(e, alpha, c)
            step = mpmath.mpf(10) ** -60 * max(e, mpmath.mpf(10) ** -30)
            slope = (oracle._barron(e + step, alpha, c) - oracle._barron(e - step, alpha, c)) / (2 * step)
            by_alpha = exact_slope_by_alpha(e, alpha, c)
            by_scale = -e / c * slope
            pull = abs(slope) * e / value if value else mpmath.mpf(2)
        # How often the rounding of the error comes back in the result, where the exponent is large.
        worse = 1 + float(pull) / 2 + float(min((e / c) ** 2, 60))
        for name, ours, exact in (
            ("value", values[i], value),
            ("by error", gradients[0][i], slope),
            ("by alpha", gradients[1][i], by_alpha),
            ("by scale", gradients[2][i], by_scale),
        ):
            if 1e-28 < abs(exact) < 1e37:
                seen += 1
                off = v.ulps(ours, exact)
                assert off <= 12 * min(worse, 12), (name, float(e), float(alpha), float(ours), float(exact), off)
            elif abs(exact) <= 1e-28:
                assert abs(ours) <= 2e-28
            assert not np.isnan(ours)
    assert seen > 1000


def test_barron_is_smooth_in_alpha():
    """No step and no bend at 0, at 2 and where one formula takes over from another."""
    errors = np.array([0.05, 0.5, 2.0, 6.0, 30.0], np.float32)
    points = np.array([-1e-3, 0.0, 1e-3, 1.0, 1.9, 2.2, 2.0], np.float32)
    around = points[:, None] + np.linspace(-1e-4, 1e-4, 41).astype(np.float32)
    alphas = np.broadcast_to(around, (5, *around.shape))
    error = np.broadcast_to(errors[:, None, None], alphas.shape)
    run = lambda a: losses.barron(error, jnp.zeros_like(error), alpha=a, reduction="none")  # noqa: E731
    values, slopes = jax.jit(lambda a: jax.jvp(run, (a,), (jnp.ones_like(a),)))(alphas)
    assert np.all(np.diff(values) >= -3e-7 * values[..., :1]), "the loss grows with alpha"
    assert np.all(slopes > 0)
    assert np.all(np.ptp(slopes[:, :-1], axis=-1) < 5e-3 * np.max(slopes[:, :-1], axis=-1))


def test_barron_takes_what_trains():
    """Arrays of alpha and scale, infinite or not, in one call; second derivatives finite, at a perfect fit too."""
    alpha = np.tile(np.float32([-np.inf, -2.0, 0.0, 1.0, 2.0, 3.0, np.inf]), 4)
    error = np.repeat(np.float32([0.0, 1e-4, 0.5, 3.0]), 7)

    def first(error, alpha, scale):
        total = lambda *a: losses.barron(a[0], jnp.zeros_like(a[0]), alpha=a[1], scale=a[2], reduction="sum")  # noqa: E731
        return jax.grad(total, (0, 1, 2))(error, alpha, scale)

    args = (error, alpha, np.full_like(error, 2.0))
    ones = tuple(map(np.ones_like, args))
    second = quick(lambda *a: jax.vjp(first, *a)[1](ones))(*args)
    assert all(np.isfinite(x).all() for x in second)
    curvature = quick(lambda e: jax.jvp(lambda e: first(e, *args[1:])[0], (e,), (ones[0],))[1])(error)
    np.testing.assert_allclose(curvature[:7], 0.25, rtol=1e-6)


def test_alpha_costs_nothing_where_it_is_not_trained():
    error = jnp.ones(8)
    run = lambda e, a: losses.barron(e, jnp.zeros_like(e), alpha=a)  # noqa: E731
    few = jax.jit(jax.grad(run)).lower(error, 1.0).as_text().count("stablehlo.exponential")
    many = jax.jit(jax.grad(run, (0, 1))).lower(error, 1.0).as_text().count("stablehlo.exponential")
    assert few < many - 4


# ---- the partition function ------------------------------------------------------------------------------------------

SHAPES = [0.0, 1e-6, 1e-3, 0.02, 0.1, 0.3, 0.7, 0.999, 1.0, 1.001, 1.4, 1.8, 1.97, 1.999, 1.99999, 2.0]


def exact_log_partition(alpha):
    return float(oracle._log_partition(mpmath.mpf(float(alpha))))


def test_log_partition():
    alphas = np.array(SHAPES)
    single = jax.jit(jax.vmap(_log_partition))(np.float32(alphas))
    with jax.enable_x64(True):
        double = np.asarray(jax.jit(jax.vmap(_log_partition))(alphas))
    for alpha, ours, wide in zip(SHAPES, single, double, strict=True):
        assert v.ulps(ours, exact_log_partition(np.float32(alpha))) <= 3, alpha
        assert abs(float(wide) - exact_log_partition(alpha)) < 4e-10, alpha


def test_log_partition_slope():
    """Minus the mean derivative of the loss, E[d rho / d alpha], by the same quadrature as the value."""
    alphas = np.float32([1e-3, 0.02, 0.1, 0.3, 0.7, 0.999, 1.001, 1.4, 1.8, 1.97, 1.999])
    slopes = jax.vmap(jax.grad(_log_partition))
    single = jax.jit(slopes)(alphas)
    with jax.enable_x64(True):
        double = np.asarray(jax.jit(slopes)(alphas.astype(np.float64)))
    for alpha, ours, wide in zip(alphas, single, double, strict=True):
        a = mpmath.mpf(float(alpha))
        with mpmath.workdps(30):
            step = mpmath.mpf(10) ** -10
            right, left = (mpmath.log(oracle._partition(a + s)) for s in (step, -step))
            exact = float((right - left) / (2 * step))
        assert abs(float(wide) - exact) < 3e-8, alpha
        assert v.ulps(ours, exact) <= 24, alpha


def test_densities_of_adaptive_barron_sum_to_one():
    """With the library's own numbers, by the trapezoidal rule in log |e|; and so do not the derivatives."""
    with jax.enable_x64(True):
        y = np.linspace(-30.0, 40.0, 20_001)
        e = np.exp(y)

        def mass(alpha, scale):
            density = jnp.exp(-losses.adaptive_barron(e, 0 * e, alpha=alpha, scale=scale, reduction="none"))
            return 2 * jnp.sum(density * e) * (y[1] - y[0])

        run = quick(jax.value_and_grad(mass, argnums=(0, 1)))
        for alpha in (0.05, 0.5, 1.0, 1.5, 1.95):
            total, slopes = run(alpha, 0.7)
            assert abs(total - 1) < 1e-8
            np.testing.assert_allclose(slopes, 0.0, atol=2e-8)


def test_adaptive_barron_finds_the_tails_of_the_data():
    """Trained alpha is small for Cauchy errors, about 2 for normal ones."""
    rng = np.random.default_rng(3)

    @quick
    def fit(data):
        def loss(p):
            alpha, scale = 2 * jax.nn.sigmoid(p[0]), jnp.exp(p[1])
            return losses.adaptive_barron(data, jnp.zeros_like(data), alpha=alpha, scale=scale)

        def step(p, _):
            return p - 0.5 * jax.grad(loss)(p), None

        p, _ = jax.lax.scan(step, jnp.zeros(2), None, length=400)
        return 2 * jax.nn.sigmoid(p[0]), jnp.exp(p[1])

    heavy, _ = fit(rng.standard_cauchy(2000).astype(np.float32))
    light, scale = fit(rng.normal(size=2000).astype(np.float32))
    assert heavy < 0.2
    assert light > 1.6
    assert 0.75 < scale < 1.1


def test_alpha_outside_the_adaptive_range():
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 2\], got 2.5"):
        losses.adaptive_barron(ERRORS, NONE, alpha=2.5, scale=1.0)
    run = quick(lambda a: losses.adaptive_barron(ERRORS, NONE, alpha=a, scale=1.0, reduction="none"))
    assert np.isnan(run(2.5)).all()
    assert np.isfinite(run(2.0)).all()
    for name, hyper in (("barron", {"alpha": np.nan}), ("barron", {"scale": 0.0}), ("cauchy", {"c": -1.0})):
        with pytest.raises(ValueError, match=next(iter(hyper))):
            units(name, **hyper)


# ---- hostile numbers -------------------------------------------------------------------------------------------------

TUNED = ("cauchy", "geman_mcclure", "welsch", "tukey")


@pytest.mark.parametrize("name", TUNED)
def test_slope_by_c_keeps_its_digits(name):
    """c times something that falls as the fourth power of the error: the textbook difference loses all of it."""
    run = lambda sizes, c: getattr(losses, name)(sizes, 0 * sizes, c=c, reduction="none")  # noqa: E731
    slope, truth = jax.jit(jax.jacfwd(run, argnums=1)), getattr(oracle, name)
    for c in np.float32([1e-8, 0.7, 2.385, 1e8]):
        sizes = np.array([1e-4, 1e-2, 0.5, 0.99, 1.0, 1.01, 3.0, 50.0], np.float32) * c
        with mpmath.workdps(80):
            errors, at = np.array([mpmath.mpf(float(e)) for e in sizes]), mpmath.mpf(float(c))
            step = at * mpmath.mpf(10) ** -30
            right, left = (truth(errors, 0 * errors, c=at + s) for s in (step, -step))
            exact = (right - left) / (2 * step)
        for e, ours, expected in zip(sizes, slope(sizes, c), exact, strict=True):
            assert v.ulps(ours, expected) <= 24, (c, e, ours, float(expected))


@pytest.mark.parametrize("name", [*TUNED, "charbonnier", "barron", "wing", "balanced_l1"])
def test_curvature_is_finite_and_right_at_zero(name):
    run = lambda x: getattr(losses, name)(x, 0 * x, reduction="sum")  # noqa: E731
    at = np.float32([0.0, 1e-20, 1e-3, 1.0, 4.0, 1e4, 1e15])
    second = quick(lambda x: jax.jvp(jax.grad(run), (x,), (jnp.ones_like(x),))[1])(at)
    assert np.isfinite(second).all()
    if name in (*TUNED, "barron"):
        agree(second[:2], [1.0, 1.0])


def test_charbonnier_of_a_small_exponent_is_finite_where_the_error_is_not():
    far = np.array([v.LARGEST], np.float32)
    run = lambda p, t: losses.charbonnier(p, t, exponent=0.4, reduction="sum")  # noqa: E731
    value, gradient = quick(jax.value_and_grad(run))(far, -far)
    np.testing.assert_allclose(value, float((2 * mpmath.mpf(v.LARGEST)) ** mpmath.mpf(0.8)), rtol=1e-5)
    np.testing.assert_allclose(gradient, float(0.8 * (2 * mpmath.mpf(v.LARGEST)) ** mpmath.mpf(-0.2)), rtol=1e-5)


def test_float64_has_its_digits():
    with jax.enable_x64(True):
        e = np.array([1e-6, 0.3, 4.0, 1e6])
        run = jax.jit(jax.vmap(lambda x, a: _barron(0.5 * x, a, jnp.asarray(1.25)), (0, None)))
        for alpha in (-3.0, 1e-9, 1.3, 2.5):
            for x, y in zip(e, run(e, alpha), strict=True):
                with mpmath.workdps(60):
                    exact = oracle._barron(mpmath.mpf(float(x)), mpmath.mpf(alpha), mpmath.mpf("1.25"))
                assert abs(float(y) / float(exact) - 1) < 2e-14


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_scale_invariant_log_under_the_conventions_of_its_users():
    predictions, truth = np.exp(RNG.normal(size=(2, 3, 50))).astype(np.float32)
    d = np.log(predictions.astype(np.float64)) - np.log(truth.astype(np.float64))
    second, first = np.mean(d**2, axis=-1), np.mean(d, axis=-1)
    loss = losses.scale_invariant_log
    run = lambda **hyper: quick(lambda *a: loss(*a, reduction="none", **hyper))(predictions, truth)  # noqa: E731
    agree(run(), second - 0.5 * first**2)
    agree(10 * run(variance_focus=0.85, root=True), 10 * np.sqrt(second - 0.85 * first**2))
    agree(100 * run(variance_focus=1.0, root=True), 100 * np.std(d, axis=-1), 4e-6)
    agree(
        run(variance_focus=0.0),
        np.mean(losses.squared_error(*np.log([predictions, truth]), reduction="none"), -1),
        1e-5,
    )


def test_a_scale_that_is_off_is_forgiven():
    """Exactly nothing is left of it, where the difference of the two means of the definition leaves its rounding."""
    truth = np.exp(RNG.normal(size=64)).astype(np.float32)
    assert quick(lambda p: losses.scale_invariant_log(p, truth, variance_focus=1.0))(64 * truth) < 1e-12
    value, gradient = quick(jax.value_and_grad(lambda p: losses.scale_invariant_log(p, truth, root=True)))(truth)
    assert value == 0
    assert not np.any(gradient)
    with pytest.raises(ValueError, match="predictions must be positive, got -1"):
        losses.scale_invariant_log(np.array([-1.0, 1.0]), np.ones(2))


def test_adaptive_wing_is_smooth_at_theta_and_sharp_on_the_peak():
    run = quick(jax.vmap(jax.value_and_grad(losses.adaptive_wing)))
    at = np.array([0.5 - 2.0**-20, 0.5, 0.5 + 2.0**-20], np.float32)
    values, slopes = run(at, np.zeros(3, np.float32))
    assert np.ptp(values) < 3e-5
    agree(slopes, slopes[1], 2e-5)
    (peak, background), _ = run(np.array([0.99, 0.01], np.float32), np.array([1.0, 0.0], np.float32))
    assert peak > 50 * background
    with pytest.raises(ValueError, match=r"targets must be in \[0, 1\], got 2"):
        losses.adaptive_wing(np.zeros(1, np.float32), np.array([2.0]))
    with pytest.raises(ValueError, match="alpha must be at least 2"):
        losses.adaptive_wing(at, at, alpha=1.5)
