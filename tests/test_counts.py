"""Counts: peers under the conventions that the docstrings claim, and the limits where they lose their digits."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import losses
from tests.oracles import counts as oracle
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
RATES: Any = np.exp(RNG.normal(size=40)).astype(np.float32)
TARGETS: Any = RNG.poisson(2 * RATES).astype(np.float32)
LOGITS: Any = RNG.normal(size=40).astype(np.float32)


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


@pytest.mark.parametrize("dispersion", [0.05, 0.5, 3.0])
def test_torch_takes_one_over_the_dispersion(dispersion):
    torch = pytest.importorskip("torch")
    law = torch.distributions.NegativeBinomial(1 / dispersion, logits=torch.log(torch.tensor(RATES * dispersion)))
    expected = -law.log_prob(torch.tensor(TARGETS))
    ours = once(losses.negative_binomial_nll, RATES, TARGETS, dispersion=dispersion, reduction="none")
    np.testing.assert_allclose(ours, expected, rtol=2e-5)
    logs = once(
        losses.negative_binomial_nll_with_log_rates, np.log(RATES), TARGETS, dispersion=dispersion, reduction="none"
    )
    np.testing.assert_allclose(logs, ours, rtol=1e-5)


def test_statsmodels_takes_the_dispersion():
    api = pytest.importorskip("statsmodels.api")
    design = np.ones((40, 1))
    for log_rate in (-0.5, 1.0):
        rates = jnp.full(40, np.exp(log_rate), jnp.float32)
        model = api.NegativeBinomial(TARGETS, design)
        ours = once(losses.negative_binomial_nll, rates, TARGETS, dispersion=0.7, reduction="none")
        np.testing.assert_allclose(ours, -model.loglikeobs(np.array([log_rate, np.log(0.7)])), rtol=1e-5)
        model = api.ZeroInflatedPoisson(TARGETS, design)
        ours = once(losses.zero_inflated_poisson_nll, rates, TARGETS, jnp.full(40, 0.3), reduction="none")
        np.testing.assert_allclose(ours, -model.loglikeobs(np.array([0.3, log_rate])), rtol=1e-5)


def test_scvi_takes_one_over_the_dispersion():
    """Its formula, as published with ZINB-VAE: theta, and the zero inflation as logits."""
    theta, m, y, z = 2.0, RATES.astype(np.float64), TARGETS.astype(np.float64), LOGITS.astype(np.float64)
    lgamma = np.vectorize(lambda x: float(mpmath.loggamma(x)))
    count = theta * np.log(theta / (theta + m)) + y * np.log(m / (theta + m))
    count += lgamma(y + theta) - lgamma(theta) - lgamma(y + 1)
    share = 1 / (1 + np.exp(-z))
    expected = -np.log((y == 0) * share + (1 - share) * np.exp(count))
    ours = once(losses.zero_inflated_negative_binomial_nll, RATES, TARGETS, LOGITS, dispersion=0.5, reduction="none")
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_no_dispersion_is_poisson():
    poisson = once(losses.poisson_nll, RATES, TARGETS, full=True, reduction="none")
    total = lambda a: losses.negative_binomial_nll(RATES, TARGETS, dispersion=a, reduction="sum")  # noqa: E731
    slope_at = quick(jax.grad(total))
    for dispersion in (0.0, 1e-30, 1e-12):
        ours = once(losses.negative_binomial_nll, RATES, TARGETS, dispersion=dispersion, reduction="none")
        np.testing.assert_allclose(ours, poisson, rtol=1e-6)
        slope = slope_at(dispersion)
        np.testing.assert_allclose(slope, np.sum(TARGETS - (TARGETS - RATES) ** 2) / 2, rtol=1e-5)


def test_no_inflation_is_the_law_itself():
    nothing = jnp.full(40, -jnp.inf)
    ours = once(losses.zero_inflated_negative_binomial_nll, RATES, TARGETS, nothing, dispersion=0.5, reduction="none")
    np.testing.assert_allclose(
        ours, once(losses.negative_binomial_nll, RATES, TARGETS, dispersion=0.5, reduction="none"), rtol=1e-6
    )
    law = functools.partial(losses.zero_inflated_negative_binomial_nll, dispersion=0.5)
    gradients = quick(jax.grad(law, argnums=(0, 1, 2)))(RATES, TARGETS, nothing)
    assert all(np.isfinite(g).all() for g in gradients)


def test_the_slope_by_the_dispersion():
    rates = np.float32([0.01, 0.5, 3.0, 3.0, 40.0, 1000.0, 1000.0])
    counts = np.float32([0.0, 1.0, 0.0, 9.0, 35.0, 1000.0, 3.0])
    a = np.float32([1e-9, 1e-4, 0.01, 0.12, 0.13, 1.0, 1e3, 1e9]).repeat(7)
    rates, counts = np.tile(rates, 8), np.tile(counts, 8)
    slope = quick(jax.grad(lambda a: losses.negative_binomial_nll(rates, counts, dispersion=a, reduction="sum")))(a)
    with mpmath.workdps(60):
        for ours, m, y, x in zip(slope, rates, counts, a, strict=True):
            m, y, x = (mpmath.mpf(float(v)) for v in (m, y, x))
            exact = mpmath.diff(lambda x, m=m, y=y: oracle._law(m, mpmath.log(m), y, x), x, h=x * mpmath.mpf(10) ** -25)
            np.testing.assert_allclose(float(ours), float(exact), rtol=1e-5)


@pytest.mark.parametrize("dispersion", [0.0, 1e-30, 1e-4, 1.0, 1e6, 1e30])
def test_the_whole_range(dispersion):
    """Where lgamma(y + r) - lgamma(r) has no digits left."""
    pools = ([1e-30, 1e-8, 1.0, 1e4, 1e15, 1e30], [0.0, 1.0, 2.0, 1e4, 1e15])
    rates, counts = (np.float32(g).ravel() for g in np.meshgrid(*pools))
    values = once(losses.negative_binomial_nll, rates, counts, dispersion=dispersion, reduction="none")
    a = mpmath.mpf(float(np.float32(dispersion)))
    with mpmath.workdps(100):
        exact = [
            float(oracle._law(m, mpmath.log(m), y, a))
            for m, y in zip(map(mpmath.mpf, rates.tolist()), map(mpmath.mpf, counts.tolist()), strict=True)
        ]
    np.testing.assert_allclose(values, exact, rtol=1e-5)
    assert (np.asarray(values) >= 0).all()


def test_log_rates_beyond_the_range_of_rates():
    f = quick(jax.value_and_grad(lambda s, y: losses.negative_binomial_nll_with_log_rates(s, y, dispersion=0.5)))
    for log_rate, count in itertools.product((-1e4, -100.0, 89.0, 1e4), (0.0, 3.0)):
        value, slope = f(log_rate, count)
        tail = 2 * (log_rate - np.log(2)) if log_rate > 0 else -count * log_rate
        assert abs(float(value) - tail) <= 0.01 * abs(tail) + 3
        np.testing.assert_allclose(slope, 2.0 if log_rate > 0 else -count, rtol=1e-6)


def test_one_dispersion_for_each_column_or_unit():
    rates, counts = np.reshape(RATES, (8, 5)), np.reshape(TARGETS, (8, 5))
    columns = np.float32([0.0, 0.1, 0.5, 1.0, 5.0])
    ours = once(losses.negative_binomial_nll, rates, counts, dispersion=columns, reduction="none")
    column = quick(lambda m, y, a: losses.negative_binomial_nll(m, y, dispersion=a, reduction="none"))
    for i, a in enumerate(columns):
        single = column(rates[:, i], counts[:, i], a)
        np.testing.assert_allclose(ours[:, i], single, rtol=1e-6)
    keep = np.arange(40).reshape(8, 5) % 3 > 0
    unknown = np.where(keep, 0.5, np.nan).astype(np.float32)
    assert np.isfinite(losses.negative_binomial_nll(rates, counts, dispersion=unknown, where=keep))


@pytest.mark.parametrize("loss", [losses.negative_binomial_nll, losses.zero_inflated_poisson_nll])
def test_bad_values_are_loud(loss):
    options = {"dispersion": 0.5} if loss is losses.negative_binomial_nll else {}
    extra = () if options else (jnp.zeros(2),)
    for name, rates, counts in (("rates", [1.0, -1.0], [0.0, 1.0]), ("targets", [1.0, 1.0], [0.0, -1.0])):
        arrays = (jnp.array(rates), jnp.array(counts), *extra)
        with pytest.raises(ValueError, match=f"{name} must be nonnegative, got -1"):
            loss(*arrays, **options)
        units = quick(lambda *a: loss(*a, reduction="none", **options))(*arrays)
        np.testing.assert_array_equal(np.isnan(units), [False, True])
    with pytest.raises(ValueError, match="dispersion must be nonnegative"):
        losses.negative_binomial_nll(jnp.ones(2), jnp.ones(2), dispersion=-1.0)
    with pytest.raises(ValueError, match="dispersion"):
        losses.negative_binomial_nll(jnp.ones(2), jnp.ones(2), dispersion=jnp.ones(3))
