"""Regression losses and losses of amounts: what their docstrings claim about peers, limits and hostile numbers."""
# pyright: reportArgumentType=false
# NumPy arrays and Python numbers are data too.

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import losses
from tests import vocabulary as v
from tests.oracles import oracles
from tests.vocabulary import quick

LARGEST = v.LARGEST
RNG = np.random.default_rng(7)
REAL = (RNG.normal(size=40) * 2).astype(np.float32)
TRUE = RNG.normal(size=40).astype(np.float32)
AMOUNT = np.exp(RNG.normal(size=40)).astype(np.float32)
OTHER = np.exp(RNG.normal(size=40)).astype(np.float32)
COUNT = RNG.poisson(4.0, size=40).astype(np.float32)
DATA = {
    "real": (REAL, TRUE),
    "spread": (REAL, TRUE, AMOUNT),
    "log spread": (REAL, TRUE, np.log(AMOUNT)),
    "amount": (AMOUNT, OTHER),
    "count": (AMOUNT, COUNT),
    "log count": (np.log(AMOUNT), COUNT),
}


def f32(*numbers):
    return np.array(numbers, np.float32)


def run(name, *arrays, **options):
    """A loss by its name, as one program."""
    return quick(functools.partial(getattr(losses, name), **options))(*arrays)


def slopes(name, *arrays, by=0, **options):
    """Its value and gradients."""
    return quick(jax.value_and_grad(functools.partial(getattr(losses, name), **options), by))(*arrays)


def agree(ours, theirs, rtol=3e-6):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-7)


# ---- peers, under the conventions that the docstrings claim ----------------------------------------------------------

TORCH = [
    ("squared_error", "mse_loss", "real", {}, {}),
    ("absolute_error", "l1_loss", "real", {}, {}),
    ("huber", "huber_loss", "real", {"delta": 0.7}, {"delta": 0.7}),
    ("smooth_l1", "smooth_l1_loss", "real", {"beta": 0.4}, {"beta": 0.4}),
    ("smooth_l1", "smooth_l1_loss", "real", {"beta": 0.0}, {"beta": 0.0}),
    ("gaussian_nll", "gaussian_nll_loss", "spread", {}, {}),
    ("gaussian_nll", "gaussian_nll_loss", "spread", {"full": True, "eps": 0.8}, {"full": True, "eps": 0.8}),
    ("poisson_nll_with_log_rates", "poisson_nll_loss", "log count", {}, {}),
    ("poisson_nll", "poisson_nll_loss", "count", {}, {"log_input": False}),
]


@pytest.mark.parametrize(("name", "peer", "data", "hyper", "peer_hyper"), TORCH)
def test_torch_value_and_gradients(name, peer, data, hyper, peer_hyper):
    torch = pytest.importorskip("torch")
    arrays = DATA[data]
    tensors = [torch.tensor(a, requires_grad=i != 1) for i, a in enumerate(arrays)]
    theirs = getattr(torch.nn.functional, peer)(*tensors, **peer_hyper)
    theirs.backward()
    places = tuple(i for i in range(len(arrays)) if i != 1)
    ours, gradients = slopes(name, *arrays, by=places, **hyper)
    agree(ours, theirs.item())
    for i, gradient in zip(places, gradients, strict=True):
        agree(gradient, tensors[i].grad.numpy(), 2e-5)


def test_torch_full_poisson_is_stirlings_formula_of_ours():
    torch = pytest.importorskip("torch")
    counts = np.array([2.0, 5.0, 50.0], np.float32)
    theirs = torch.nn.functional.poisson_nll_loss(
        torch.zeros(3), torch.tensor(counts), full=True, reduction="none"
    ).numpy()
    ours = np.asarray(run("poisson_nll_with_log_rates", np.zeros(3, np.float32), counts, full=True, reduction="none"))
    assert np.all(np.abs(ours - theirs) < 1 / (11.9 * counts))
    assert np.all(ours > theirs)


OPTAX = [
    ("squared_error", "squared_error", {}, {}, 1.0),
    ("squared_error", "l2_loss", {}, {}, 2.0),
    ("huber", "huber_loss", {"delta": 0.7}, {"delta": 0.7}, 1.0),
    ("log_cosh", "log_cosh", {}, {}, 1.0),
]


@pytest.mark.parametrize(("name", "peer", "hyper", "peer_hyper", "factor"), OPTAX)
def test_optax(name, peer, hyper, peer_hyper, factor):
    import optax

    theirs = factor * getattr(optax.losses, peer)(REAL, TRUE, **peer_hyper)
    np.testing.assert_allclose(run(name, REAL, TRUE, **hyper, reduction="none"), theirs, 1e-5, 1e-6)


SKLEARN = [
    ("quantile", "mean_pinball_loss", "real", {"level": 0.9}, {"alpha": 0.9}, 1.0),
    ("absolute_percentage_error", "mean_absolute_percentage_error", "real", {}, {}, 100.0),
    ("squared_log_error", "mean_squared_log_error", "amount", {}, {}, 1.0),
    ("gamma_deviance", "mean_gamma_deviance", "amount", {}, {}, 1.0),
    ("tweedie_deviance", "mean_poisson_deviance", "count", {"power": 1.0}, {}, 1.0),
    ("tweedie_deviance", "mean_gamma_deviance", "amount", {"power": 2}, {}, 1.0),
    *(
        ("tweedie_deviance", "mean_tweedie_deviance", "amount", {"power": p}, {"power": p}, 1.0)
        for p in (0, 1, 1.01, 1.5, 1.99, 2, 3)
    ),
    ("tweedie_deviance", "mean_tweedie_deviance", "count", {"power": 1.3}, {"power": 1.3}, 1.0),
]


@pytest.mark.parametrize(("name", "peer", "data", "hyper", "peer_hyper", "factor"), SKLEARN)
def test_sklearn(name, peer, data, hyper, peer_hyper, factor):
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, targets = DATA[data]
    theirs = factor * getattr(metrics, peer)(targets.astype(float), predictions.astype(float), **peer_hyper)
    agree(run(name, predictions, targets, **hyper), theirs)


SCIPY = [
    ("gaussian_nll", "spread", {"full": True}, lambda s, p, t, x: -s.norm.logpdf(t, p, np.sqrt(x))),
    (
        "gaussian_nll_with_log_variances",
        "log spread",
        {"full": True},
        lambda s, p, t, x: -s.norm.logpdf(t, p, np.exp(x / 2)),
    ),
    ("laplace_nll", "spread", {}, lambda s, p, t, x: -s.laplace.logpdf(t, p, x)),
    ("student_t_nll", "spread", {}, lambda s, p, t, x: -s.t.logpdf(t, 4, p, x)),
    ("student_t_nll", "spread", {"degrees_of_freedom": 1}, lambda s, p, t, x: -s.cauchy.logpdf(t, p, x)),
    ("student_t_nll", "spread", {"degrees_of_freedom": 1e30}, lambda s, p, t, x: -s.norm.logpdf(t, p, x)),
    ("poisson_nll", "count", {"full": True}, lambda s, r, t: -s.poisson.logpmf(t, r)),
    ("poisson_nll_with_log_rates", "log count", {"full": True}, lambda s, r, t: -s.poisson.logpmf(t, np.exp(r))),
]


@pytest.mark.parametrize(("name", "data", "hyper", "density"), SCIPY)
def test_likelihoods_are_those_of_scipy(name, data, hyper, density):
    stats = pytest.importorskip("scipy.stats")
    exact = density(stats, *(a.astype(np.float64) for a in DATA[data]))
    np.testing.assert_allclose(run(name, *DATA[data], **hyper, reduction="none"), exact, 2e-6, 1e-6)


# ---- faults of peers, proven right here ------------------------------------------------------------------------------

ERRORS = f32(1e-30, 1e-15, 3e-8, 1e-6, 1e-4, 1e-3, 0.1, 1.0, 1.9, 2.1, 20.0, 1e3, 1e15, 1e30)


@pytest.mark.parametrize("name", ["huber", "smooth_l1", "pseudo_huber", "log_cosh"])
def test_gradients_of_small_errors_keep_their_digits(name):
    """`optax.losses.huber_loss` has gradient 0 below 3e-8, `optax.losses.log_cosh` is noise below 1e-3."""
    both = np.concatenate([ERRORS, -ERRORS])
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(getattr(losses, name))))(both, np.zeros_like(both))
    with mpmath.workdps(150):
        exacts = np.array([mpmath.mpf(float(e)) for e in both], object)
        truth = oracles()[name](exacts, exacts * 0)
        for e, value, gradient, true in zip(exacts, values, gradients, truth, strict=True):
            slope = {
                "log_cosh": lambda e: mpmath.tanh(e),
                "pseudo_huber": lambda e: e / mpmath.sqrt(1 + e * e),
            }.get(name, lambda e: max(min(e, mpmath.mpf(1)), mpmath.mpf(-1)))(e)
            assert v.ulps(value, true) <= 8
            assert v.ulps(gradient, slope) <= (1 if name in ("huber", "smooth_l1") else 8)


@pytest.mark.parametrize(
    ("name", "hyper", "curvature"),
    [
        ("squared_error", {}, 2.0),
        ("huber", {"delta": 0.5}, 1.0),
        ("smooth_l1", {"beta": 0.5}, 2.0),
        ("pseudo_huber", {"delta": 0.5}, 1.0),
        ("log_cosh", {}, 1.0),
    ],
)
def test_curvature_at_a_perfect_prediction(name, hyper, curvature):
    """Smooth there, so its second derivative is not 0 as `abs` would have it."""
    assert quick(jax.hessian(lambda p: getattr(losses, name)(p, 0.0, **hyper)))(0.0) == curvature


@pytest.mark.parametrize("name", ["absolute_error", "huber", "smooth_l1", "pseudo_huber", "log_cosh", "quantile"])
def test_the_largest_number_has_a_mean(name):
    predictions = f32(LARGEST, -LARGEST, LARGEST, 0.0)
    value, gradient = slopes(name, predictions, np.zeros(4, np.float32))
    share = 0.5 if name == "quantile" else 1.0
    np.testing.assert_allclose(value, share * 0.75 * LARGEST, 1e-6)
    np.testing.assert_allclose(gradient, share * np.array([0.25, -0.25, 0.25, 0.0]), 1e-6)


OVERFLOWING = [
    ("huber", {"delta": 0.25}, (), 0.5 * LARGEST),
    ("pseudo_huber", {"delta": 0.25}, (), 0.5 * LARGEST),
    ("quantile", {"level": 0.25}, (), 0.5 * LARGEST * 3),
    ("quantile", {"level": 0.75}, (), 0.5 * LARGEST),
    ("expectile", {"level": 1.0}, (), 0.0),
    ("symmetric_absolute_percentage_error", {}, (), 200.0),
    ("absolute_percentage_error", {}, (), 200.0),
    ("laplace_nll", {}, (1e4,), 2e-4 * LARGEST),
    ("student_t_nll", {"degrees_of_freedom": 1.0}, (1.0,), 2 * np.log(2.0) + 2 * np.log(LARGEST) + np.log(np.pi)),
    ("gaussian_nll_with_log_variances", {}, (400.0,), 200.0),
]


@pytest.mark.parametrize(("name", "hyper", "more", "expected"), OVERFLOWING)
def test_the_difference_may_overflow_where_the_loss_does_not(name, hyper, more, expected):
    arrays = [f32(x) for x in (LARGEST, -LARGEST, *more)]
    places = tuple(i for i in range(len(arrays)) if i != 1)
    loss = functools.partial(getattr(losses, name), **hyper)
    for wrap in (quick, jax.jit):
        value, gradients = wrap(jax.value_and_grad(loss, argnums=places))(*arrays)
        if expected > LARGEST:
            assert np.isinf(value)
        else:
            np.testing.assert_allclose(value, expected, 1e-6)
        assert all(np.isfinite(g).all() for g in gradients)


# ---- what each is for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantile_is_least_at_the_quantile(level):
    targets = np.sort(RNG.exponential(size=101)).astype(np.float32)
    total = quick(jax.vmap(lambda t: losses.quantile(jnp.full(101, t), targets, level=level)))(targets)
    assert np.argmin(total) == round(100 * level)


def test_quantile_levels_broadcast_and_are_exact_near_one():
    levels = np.array([0.001, 0.5, 0.999])
    predictions, targets = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    units = run("quantile", predictions, targets, level=levels, reduction="none")
    np.testing.assert_allclose(units, np.tile(1 - levels, (2, 1)), 1e-7)
    assert slopes("quantile", 1.0, 1.0, level=0.9)[1] == 0
    with pytest.raises(ValueError, match="level must be in"):
        losses.quantile(predictions, targets, level=90)
    with pytest.raises(ValueError, match="broadcast"):
        losses.quantile(predictions, targets, level=jnp.array([0.1, 0.9]))


def test_expectile_at_a_half_is_half_the_squared_error():
    agree(2 * run("expectile", REAL, TRUE), run("squared_error", REAL, TRUE))


def test_smooth_l1_without_width_is_the_absolute_error_traced_or_not():
    errors = f32(-2.0, -1e-30, 0.0, 1e-30, 3.0)
    total = lambda e, beta: losses.smooth_l1(e, np.zeros(5, np.float32), beta=beta, reduction="sum")  # noqa: E731
    value, gradient = quick(jax.value_and_grad(total, argnums=(0, 1)))(errors, np.float32(0))
    assert value == 5
    np.testing.assert_array_equal(gradient[0], np.sign(errors))
    assert np.isfinite(gradient[1])
    for beta in (0, 0.0, jnp.float32(0)):
        known = quick(jax.grad(lambda e, beta=beta: total(e, beta)))
        np.testing.assert_array_equal(known(errors), np.sign(errors))


def test_smooth_l1_is_huber_by_its_width():
    agree(0.3 * run("smooth_l1", REAL, TRUE, beta=0.3), run("huber", REAL, TRUE, delta=0.3))


def test_pseudo_huber_of_any_width():
    for delta, error, expected in [(1e-30, 1e30, 1.0), (1e30, 1e-10, 5e-21), (LARGEST, 2.0, 2.0), (v.TINY, 0.0, 0.0)]:
        value, gradient = slopes("pseudo_huber", error, 0.0, delta=delta)
        np.testing.assert_allclose(value, expected, 1e-6)
        np.testing.assert_allclose(gradient, min(error, delta), 1e-6)


def test_symmetric_percentage_of_nothing_is_nothing():
    value, gradient = slopes("symmetric_absolute_percentage_error", 0.0, 0.0)
    assert value == 0
    assert gradient == 0


def test_gaussian_variance_below_its_floor_still_learns():
    value, slope = slopes("gaussian_nll", 1.0, 0.0, 0.0, by=2, eps=0.5)
    np.testing.assert_allclose([value, slope], [0.5 * (np.log(0.5) + 2.0), 0.5 * (1 / 0.5 - 1 / 0.25)], 1e-6)


def test_a_right_mean_survives_any_log_variance():
    of = quick(jax.value_and_grad(losses.gaussian_nll_with_log_variances, argnums=(0, 2)))
    for log_variance in (-LARGEST, -400.0, -200.0, 400.0, LARGEST):
        value, gradients = of(1.0, 1.0, log_variance)
        np.testing.assert_allclose([value, *gradients], [0.5 * log_variance, 0.0, 0.5], 1e-6)


def test_gaussian_forms_agree():
    predictions, targets, variances = DATA["spread"]
    other = run("gaussian_nll_with_log_variances", predictions, targets, np.log(variances), full=True)
    agree(run("gaussian_nll", predictions, targets, variances, full=True), other)


def test_student_t_keeps_its_digits_for_all_degrees_of_freedom():
    """Differences of two log Gamma functions have none left from about 1e6."""
    data = [a.astype(np.float32) for a in DATA["spread"]]
    units = jax.jit(lambda *a: losses.student_t_nll(*a[:3], degrees_of_freedom=a[3], reduction="none"))
    for dof in np.float32([1e-3, 0.3, 1.0, 4.0, 200.0, 1e5, 1e10, 1e30]):
        with mpmath.workdps(100):
            exact = [np.array([mpmath.mpf(float(x)) for x in a], object) for a in data]
            truth = oracles()["student_t_nll"](*exact, degrees_of_freedom=mpmath.mpf(float(dof)))
        assert max(v.ulps(a, b, 1.0) for a, b in zip(units(*data, dof), truth, strict=True)) <= 8, dof


def test_student_t_degrees_of_freedom_can_be_fitted():
    slope = quick(jax.vmap(jax.grad(lambda n: losses.student_t_nll(1.5, 0.0, 1.0, degrees_of_freedom=n))))
    np.testing.assert_allclose(slope(f32(0.1, 1.0, 4.0)), [-8.0683999, -0.2961274, -0.0170426], 1e-5)


# ---- amounts and counts ----------------------------------------------------------------------------------------------


deviances = jax.jit(lambda p, t, power: losses.tweedie_deviance(p, t, power=power, reduction="none"))


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 0.999, 1.0, 1.0001, 1.3, 1.5, 1.7, 1.9999, 2.0, 2.5, 3.0])
def test_deviances_keep_their_digits(power):
    """scikit-learn's formula is noise, and negative, once prediction and target share their first digits."""
    rng = np.random.default_rng(3)
    predictions = np.exp(rng.uniform(-15, 15, 80)).astype(np.float32)
    targets = (predictions * np.exp(np.repeat([1e-6, 1e-3, 0.5, 3.0], 20) * rng.normal(size=80))).astype(np.float32)
    ours = deviances(predictions, targets, power)
    with mpmath.workdps(100):
        exact = [np.array([mpmath.mpf(float(x)) for x in a], object) for a in (predictions, targets)]
        truth = oracles()["tweedie_deviance"](*exact, power=mpmath.mpf(float(np.float32(power))))
    assert (np.asarray(ours) >= 0).all()
    assert max(v.ulps(a, b) for a, b in zip(ours, truth, strict=True)) <= 12


def test_tweedie_joins_the_others():
    agree(run("tweedie_deviance", AMOUNT, OTHER, power=0), run("squared_error", AMOUNT, OTHER))
    agree(run("tweedie_deviance", AMOUNT, OTHER, power=2), run("gamma_deviance", AMOUNT, OTHER))
    poisson, slope = slopes("poisson_nll", AMOUNT, COUNT)
    deviance, gradient = slopes("tweedie_deviance", AMOUNT, COUNT, power=1)
    agree(deviance, 2 * (poisson - run("poisson_nll", COUNT, COUNT)), 1e-5)
    agree(gradient, 2 * slope)


def test_tweedie_power_can_be_swept_and_fitted():
    """Through 1 and 2, where the formula is 0 / 0, and with targets of 0."""
    powers, data = f32(1.0, 1.2, 1.5, 1.9, 2.0), f32([2.0, 9.0], [2.0, 0.1], [1e-3, 1.0], [5.0, 0.0])
    loss = jax.value_and_grad(lambda q, d: losses.tweedie_deviance(d[0], d[1], power=q))
    values, slopes = quick(jax.vmap(jax.vmap(loss, (0, None)), (None, 0)))(powers, data)
    for row, column in np.ndindex(values.shape):
        if powers[column] == 2 and data[row, 1] == 0:
            assert np.isnan(values[row, column])
            continue
        with mpmath.workdps(60):
            step, power = mpmath.mpf(10) ** -20, mpmath.mpf(float(powers[column]))
            arrays = [np.array([mpmath.mpf(float(x))], object) for x in data[row]]
            low, value, high = (oracles()["tweedie_deviance"](*arrays, power=power + i * step)[0] for i in (-1, 0, 1))
            slope = (high - low) / (2 * step)
        np.testing.assert_allclose(values[row, column], float(value), 2e-6)
        np.testing.assert_allclose(slopes[row, column], float(slope), 1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_tweedie_of_nothing(power):
    """A target of 0 costs 2 m^(2 - p) / (2 - p); its own derivative, infinite from power 1 on, is 0 there."""
    value, gradients = slopes("tweedie_deviance", 4.0, 0.0, by=(0, 1), power=power)
    np.testing.assert_allclose(value, 2 * 4 ** (2 - power) / (2 - power), 1e-6)
    np.testing.assert_allclose(gradients[0], 2 * 4 ** (1 - power), 1e-6)
    assert np.isfinite(gradients[1])
    tangent = quick(jax.jacfwd(lambda p: losses.tweedie_deviance(p, 0.0, power=power)))(4.0)
    np.testing.assert_allclose(tangent, 2 * 4 ** (1 - power), 1e-6)


def test_poisson_counts_of_any_size():
    """log Gamma and the rest cancel for large counts; the loss at the mode is log(2 pi n) / 2."""
    counts = f32(1e3, 1e6, 1e15, 1e30)
    expected = 0.5 * np.log(2 * np.pi * counts.astype(float)) + 1 / (12 * counts.astype(float))
    np.testing.assert_allclose(run("poisson_nll", counts, counts, full=True, reduction="none"), expected, 1e-6)


@pytest.mark.parametrize("full", [False, True])
def test_poisson_without_events(full):
    of_rates = quick(jax.value_and_grad(functools.partial(losses.poisson_nll, full=full), argnums=(0, 1)))
    value, gradients = of_rates(0.0, 0.0)
    assert value == 0
    assert gradients[0] == 1
    assert np.isfinite(gradients).all()
    assert of_rates(0.0, 1.0)[0] == np.inf
    value, gradient = slopes("poisson_nll_with_log_rates", -np.inf, 0.0, full=full)
    assert value == 0
    assert gradient == 0


def test_poisson_forms_agree():
    for full in (False, True):
        other = run("poisson_nll_with_log_rates", np.log(AMOUNT), COUNT, full=full)
        agree(run("poisson_nll", AMOUNT, COUNT, full=full), other)


# ---- domains ---------------------------------------------------------------------------------------------------------

DOMAINS = [
    ("gaussian_nll", (0.0, 0.0, -1.0), {}, "variances must be nonnegative"),
    ("laplace_nll", (0.0, 0.0, 0.0), {}, "scales must be positive"),
    ("student_t_nll", (0.0, 0.0, -2.0), {}, "scales must be positive"),
    ("squared_log_error", (-1.0, 0.0), {}, "predictions must be above -1"),
    ("squared_log_error", (0.0, -2.0), {}, "targets must be above -1"),
    ("poisson_nll", (-1.0, 0.0), {}, "rates must be nonnegative"),
    ("poisson_nll", (1.0, -1.0), {}, "targets must be nonnegative"),
    ("poisson_nll_with_log_rates", (1.0, -1.0), {"full": True}, "targets must be nonnegative"),
    ("gamma_deviance", (0.0, 1.0), {}, "predictions must be positive"),
    ("gamma_deviance", (1.0, 0.0), {}, "targets must be positive"),
    ("tweedie_deviance", (0.0, 1.0), {"power": 1.5}, "predictions must be positive"),
    ("tweedie_deviance", (1.0, -1.0), {"power": 1.5}, "targets must be nonnegative"),
    ("tweedie_deviance", (1.0, 0.0), {"power": 2.0}, "targets must be positive where power is 2 or more"),
]


@pytest.mark.parametrize(("name", "arrays", "hyper", "message"), DOMAINS)
def test_values_outside_the_domain_are_loud(name, arrays, hyper, message):
    bad = [f32(x, 1.0) for x in arrays]
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)(*bad, **hyper)
    units = run(name, *bad, **hyper, reduction="none")
    assert np.isnan(units[0])
    assert np.isfinite(units[1])
    assert np.isfinite(getattr(losses, name)(*bad, **hyper, where=np.array([False, True])))


def test_a_traced_power_gives_nan_where_the_target_is_outside():
    swept = quick(jax.vmap(lambda p: losses.tweedie_deviance(f32(1.0), f32(0.0), power=p)))
    np.testing.assert_array_equal(np.isnan(swept(f32(1.5, 2.0))), [False, True])


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("huber", {"delta": 0.0}),
        ("smooth_l1", {"beta": -1.0}),
        ("pseudo_huber", {"delta": -1.0}),
        ("expectile", {"level": 1.5}),
        ("absolute_percentage_error", {"eps": 0.0}),
        ("tweedie_deviance", {"power": -1.0}),
    ],
)
def test_hyperparameters_outside_their_range_are_loud(name, hyper):
    with pytest.raises(ValueError, match=f"{next(iter(hyper))} must be"):
        getattr(losses, name)(AMOUNT, OTHER, **hyper)


@pytest.mark.parametrize("name", ["squared_error", "huber", "quantile", "squared_log_error", "poisson_nll"])
def test_integers_lists_and_scalars_are_targets(name):
    loss = getattr(losses, name)
    expected = loss(f32(1.0, 2.5), f32(3.0, 0.0))
    assert loss([1.0, 2.5], [3, 0]) == expected
    assert loss(jnp.array([1.0, 2.5]), jnp.array([3, 0])) == expected
    assert loss(jnp.array([1.0, 2.5], jnp.bfloat16), np.array([3, 0], np.uint8)) == expected
    assert loss(2.5, 0).shape == ()
