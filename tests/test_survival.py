"""Survival: peers under the conventions that the docstrings claim, ties, weights and hazards of any range."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import losses
from tests.oracles import survival as oracle
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
N = 40
FEATURES = RNG.normal(size=(N, 2))
COEFFICIENTS = np.array([0.7, -0.4])
HAZARDS: Any = (FEATURES @ COEFFICIENTS).astype(np.float32)
TIES: Any = RNG.integers(1, 9, N).astype(np.float32)
TIMES: Any = RNG.permutation(N).astype(np.float32)
EVENTS: Any = RNG.random(N) < 0.6
WEIGHTS: Any = RNG.integers(0, 4, N)


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(partial(f, **options))(*arrays)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("times", [TIES, TIMES], ids=["tied", "apart"])
def test_statsmodels_agrees(ties, times):
    models = pytest.importorskip("statsmodels.duration.hazard_regression")
    model = models.PHReg(times, FEATURES, status=EVENTS.astype(int), ties=ties)
    ours = once(losses.cox_partial_likelihood, HAZARDS, times, EVENTS, ties=ties)
    np.testing.assert_allclose(ours * float(EVENTS.sum()), -model.loglike(COEFFICIENTS), rtol=1e-5)
    of_coefficients = lambda b: losses.cox_partial_likelihood(np.float32(FEATURES) @ b, times, EVENTS, ties=ties)  # noqa: E731
    slope = quick(jax.grad(of_coefficients))(np.float32(COEFFICIENTS))
    np.testing.assert_allclose(slope * float(EVENTS.sum()), -model.score(COEFFICIENTS), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_lifelines_fits_the_same():
    """Its maximum of the Efron likelihood is ours, in value and place."""
    lifelines = pytest.importorskip("lifelines")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": FEATURES[:, 0], "b": FEATURES[:, 1], "time": TIES, "event": EVENTS})
    fitted = lifelines.CoxPHFitter().fit(frame, "time", "event")
    with jax.enable_x64(True):
        f = lambda b: losses.cox_partial_likelihood(jnp.asarray(FEATURES) @ b, TIES, EVENTS)  # noqa: E731
        value, slope = quick(jax.value_and_grad(f))(jnp.asarray(fitted.params_.to_numpy()))
    np.testing.assert_allclose(value * float(EVENTS.sum()), -fitted.log_likelihood_, rtol=1e-6)
    assert np.abs(slope).max() < 1e-6


def weighted(hazards, times, events, weights, ties):
    """The partial likelihood as `coxph` weighs it, one tied group after the other."""
    total = 0.0
    for time in np.unique(times):
        risk = np.sum((weights * np.exp(hazards))[times >= time])
        tied = (times == time) & events & (weights > 0)
        own, shares = np.sum((weights * np.exp(hazards))[tied]), weights[tied]
        for k, (hazard, weight) in enumerate(zip(hazards[tied], shares, strict=True)):
            mean = shares.mean() if ties == "efron" else weight
            total += mean * np.log(risk - (k / len(shares) * own if ties == "efron" else 0.0)) - weight * hazard
    return total / weights[events].sum()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("weights", [WEIGHTS, WEIGHTS / 3 + 0.1], ids=["integer", "real"])
def test_weights_are_those_of_coxph(ties, weights):
    with jax.enable_x64(True):
        hazards = jnp.asarray(HAZARDS, jnp.float64)
        ours = once(losses.cox_partial_likelihood, hazards, TIES, EVENTS, ties=ties, weights=weights)
    np.testing.assert_allclose(ours, weighted(np.float64(HAZARDS), TIES, EVENTS, weights, ties), rtol=1e-12)


def test_breslow_weights_are_repetition():
    ours = once(losses.cox_partial_likelihood, HAZARDS, TIES, EVENTS, ties="breslow", weights=WEIGHTS)
    repeated = [jnp.asarray(np.repeat(a, WEIGHTS)) for a in (HAZARDS, TIES, EVENTS)]
    np.testing.assert_allclose(ours, once(losses.cox_partial_likelihood, *repeated, ties="breslow"), rtol=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_hazards_of_any_range(ties):
    """A running sum against the largest hazard loses everyone who leaves the cohort after it."""
    f = quick(jax.value_and_grad(partial(losses.cox_partial_likelihood, times=TIMES, events=EVENTS, ties=ties)))
    for spread in (1e-6, 1.0, 80.0, 1e4, 1e30):
        hazards = (np.float32(spread) * RNG.normal(size=N)).astype(np.float32)
        value, slope = f(hazards)
        wide = np.array([float(h) for h in hazards])
        expected = 0.0
        for i in np.flatnonzero(EVENTS):
            risk = wide[TIMES[i] <= TIMES]
            expected += risk.max() + np.log(np.exp(risk - risk.max()).sum()) - wide[i]
        np.testing.assert_allclose(value, expected / EVENTS.sum(), rtol=1e-6)
        assert np.isfinite(slope).all()


def test_a_well_ordered_cohort_keeps_its_digits():
    """Who is far ahead has his event first: what is left is a sum of tiny odds."""
    gaps = np.arange(5, dtype=np.float32) * 30
    value, slope = quick(jax.value_and_grad(losses.cox_partial_likelihood))(
        -gaps, np.arange(5.0, dtype=np.float32), np.ones(5, bool)
    )
    np.testing.assert_allclose(value, 4 / 5 * np.exp(-30.0), rtol=1e-6)
    np.testing.assert_allclose(slope[0], -np.exp(-30.0) / 5, rtol=1e-6)
    np.testing.assert_allclose(slope[4], np.exp(-30.0) / 5, rtol=1e-6)


def test_who_is_never_at_risk():
    hazards = jnp.asarray(HAZARDS).at[~EVENTS].set(-jnp.inf)
    value, slope = quick(jax.value_and_grad(losses.cox_partial_likelihood))(hazards, TIES, EVENTS)
    left = once(losses.cox_partial_likelihood, HAZARDS[EVENTS], TIES[EVENTS], EVENTS[EVENTS])
    np.testing.assert_allclose(value, left, rtol=1e-6)
    assert np.isfinite(slope).all()


def test_a_cohort_without_events_costs_nothing():
    value, slope = quick(jax.value_and_grad(losses.cox_partial_likelihood))(HAZARDS, TIES, np.zeros(N, bool))
    assert value == 0
    assert not slope.any()


def test_times_that_are_no_numbers():
    times = jnp.array([1.0, np.nan, 2.0])
    arrays = jnp.zeros(3), times, jnp.ones(3, bool)
    with pytest.raises(ValueError, match="times must be numbers, got nan"):
        losses.cox_partial_likelihood(*arrays)
    assert np.isnan(quick(losses.cox_partial_likelihood)(*arrays))
    assert np.isfinite(losses.cox_partial_likelihood(*arrays, where=np.array([True, False, True])))


def test_integer_times_are_not_rounded():
    """Seconds since 1970 are apart where float32 sees ties."""
    seconds = jnp.array([1_700_000_001, 1_700_000_000, 1_700_000_002])
    hazards, events = jnp.array([1.0, 2.0, 3.0]), jnp.ones(3, bool)
    ours = once(losses.cox_partial_likelihood, hazards, seconds, events)
    np.testing.assert_allclose(
        ours, once(losses.cox_partial_likelihood, hazards, seconds - seconds.min(), events), rtol=1e-6
    )
    assert ours != once(losses.cox_partial_likelihood, hazards, seconds.astype(jnp.float32), events)


def test_the_result_is_that_of_the_oracle_on_large_cohorts():
    hazards, times = RNG.normal(size=300).astype(np.float32), RNG.integers(0, 60, 300).astype(np.float32)
    events = RNG.random(300) < 0.5
    for ties in ("efron", "breslow"):
        exact = oracle.cox_partial_likelihood([float(h) for h in hazards], times, events, ties=ties)
        np.testing.assert_allclose(
            once(losses.cox_partial_likelihood, hazards, times, events, ties=ties), float(exact), rtol=1e-6
        )


def test_hazards_are_binary_cross_entropies():
    """Of the intervals lived through, and of the last one with the event as its target; as in pycox."""
    logits = RNG.normal(size=(30, 6)).astype(np.float32)
    labels, events = RNG.integers(0, 6, 30), RNG.random(30) < 0.5
    targets = (np.arange(6) == labels[:, None]) & events[:, None]
    each = once(losses.sigmoid_binary_cross_entropy, logits, targets.astype(np.float32), reduction="none")
    expected = np.where(np.arange(6) <= labels[:, None], each, 0).sum(1)
    np.testing.assert_allclose(
        once(losses.discrete_hazard_nll, logits, labels, events, reduction="none"), expected, rtol=1e-6
    )


def test_hazards_of_zero_and_of_later_intervals_are_nothing():
    logits = jnp.array([[-jnp.inf, 1.0, jnp.inf], [80.0, -jnp.inf, jnp.nan]])
    labels, events = jnp.array([1, 0]), jnp.array([True, True])
    value, slope = quick(jax.value_and_grad(losses.discrete_hazard_nll))(logits, labels, events)
    np.testing.assert_allclose(value, (np.log1p(np.exp(-1.0)) + np.exp(-80.0)) / 2, rtol=1e-6)
    assert np.isfinite(slope).all()
    assert not slope[:, 2].any()


def test_lifelines_and_scipy_agree_on_weibull():
    stats = pytest.importorskip("scipy.stats")
    predictions, scales = RNG.normal(size=50).astype(np.float32), np.exp(0.5 * RNG.normal(size=50)).astype(np.float32)
    times, events = np.exp(RNG.normal(size=50)).astype(np.float32), RNG.random(50) < 0.5
    law = stats.weibull_min(1 / np.float64(scales), scale=np.exp(np.float64(predictions)))
    expected = -np.where(events, law.logpdf(times), law.logsf(times))
    ours = once(losses.weibull_aft_nll, predictions, times, events, scales, reduction="none")
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_lifelines_weibull_is_stationary():
    lifelines = pytest.importorskip("lifelines")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": FEATURES[:, 0], "time": TIES, "event": EVENTS})
    fitted = lifelines.WeibullAFTFitter().fit(frame, "time", "event")
    design = np.stack([FEATURES[:, 0], np.ones(N)], 1)
    coefficients = fitted.params_["lambda_"][["a", "Intercept"]].to_numpy()
    log_scale = -float(fitted.params_["rho_"]["Intercept"])
    with jax.enable_x64(True):

        def f(b, s):
            scales = jnp.full(N, jnp.exp(s))
            return losses.weibull_aft_nll(jnp.asarray(design) @ b, TIES, EVENTS, scales, reduction="sum")

        value, slopes = quick(jax.value_and_grad(f, argnums=(0, 1)))(jnp.asarray(coefficients), jnp.asarray(log_scale))
    np.testing.assert_allclose(value, -fitted.log_likelihood_, rtol=1e-6)
    assert max(np.abs(slopes[0]).max(), abs(slopes[1])) < 1e-3


def test_weibull_far_from_the_prediction():
    f = quick(jax.value_and_grad(losses.weibull_aft_nll, argnums=(0, 1, 3)))
    early = f(jnp.full(1, 1e4), jnp.ones(1), np.array([False]), jnp.ones(1))
    assert early[0] == 0
    assert all(np.isfinite(g).all() for g in early[1])
    value, slopes = f(jnp.full(1, 1e4), jnp.ones(1), np.array([True]), jnp.ones(1))
    np.testing.assert_allclose(value, 1e4)
    np.testing.assert_allclose(slopes[0], 1.0)


@pytest.mark.parametrize("name", ["times", "scales"])
def test_weibull_domain(name):
    arrays: dict[str, Any] = {
        "predictions": jnp.ones(2),
        "times": jnp.ones(2),
        "events": jnp.ones(2, bool),
        "scales": jnp.ones(2),
    }
    arrays[name] = jnp.array([1.0, 0.0])
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        losses.weibull_aft_nll(**arrays)
    with pytest.raises(TypeError, match="events must be bool"):
        losses.weibull_aft_nll(**(arrays | {"events": jnp.ones(2)}))  # pyright: ignore
