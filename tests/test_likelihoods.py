"""Likelihoods: peers under the conventions that the docstrings claim, and numbers where they lose their digits."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import _bessel, losses
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


def normal(*shape) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


MEANS, TARGETS = normal(20, 3), normal(20, 3)
FACTORS: Any = np.tril(normal(20, 3, 3), -1) + np.exp(normal(20, 3))[..., None] * np.eye(3, dtype=np.float32)


def test_torch_agrees_on_full_covariances():
    torch = pytest.importorskip("torch")
    law = torch.distributions.MultivariateNormal(torch.tensor(MEANS), scale_tril=torch.tensor(FACTORS))
    expected = -law.log_prob(torch.tensor(TARGETS))
    ours = once(losses.multivariate_gaussian_nll, MEANS, TARGETS, FACTORS, full=True, reduction="none")
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_factor_of_the_precision():
    double = FACTORS.astype(np.float64)
    precision = np.linalg.cholesky(np.linalg.inv(double @ double.swapaxes(-1, -2)))
    with jax.enable_x64(True):
        one = once(losses.multivariate_gaussian_nll, *map(jnp.float64, (MEANS, TARGETS, FACTORS)), reduction="none")
        other = once(
            losses.multivariate_gaussian_nll,
            jnp.float64(MEANS),
            jnp.float64(TARGETS),
            jnp.asarray(precision),
            factor_of="precision",
            reduction="none",
        )
    np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("factor_of", ["covariance", "precision"])
def test_only_the_lower_triangle_is_read(factor_of):
    garbage = FACTORS + np.triu(np.full((3, 3), np.nan, np.float32), 1)
    f = quick(
        jax.value_and_grad(
            lambda *a: losses.multivariate_gaussian_nll(*a, factor_of=factor_of, reduction="sum"), argnums=(0, 1, 2)
        )
    )
    for a, b in zip(
        jax.tree.leaves(f(MEANS, TARGETS, garbage)), jax.tree.leaves(f(MEANS, TARGETS, FACTORS)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert not np.triu(f(MEANS, TARGETS, garbage)[1][2], 1).any()


def test_a_diagonal_factor_is_independent_errors():
    scales = np.exp(normal(20, 3))
    ours = once(
        losses.multivariate_gaussian_nll, MEANS, TARGETS, scales[..., None] * np.eye(3), full=True, reduction="none"
    )
    each = once(losses.gaussian_nll, MEANS, TARGETS, scales**2, full=True, reduction="none")
    np.testing.assert_allclose(ours, each.sum(-1), rtol=1e-5)


def test_wrong_factors_are_loud():
    with pytest.raises(ValueError, match="cholesky must be square"):
        losses.multivariate_gaussian_nll(jnp.ones((4, 3)), jnp.ones((4, 3)), jnp.ones((4, 3, 2)))
    with pytest.raises(ValueError, match="cholesky must be positive on the diagonal, got -1"):
        losses.multivariate_gaussian_nll(jnp.ones(2), jnp.ones(2), jnp.diag(jnp.array([1.0, -1.0])))
    with pytest.raises(ValueError, match="factor_of must be one of"):
        losses.multivariate_gaussian_nll(jnp.ones(2), jnp.ones(2), jnp.eye(2), factor_of="variance")  # pyright: ignore


def test_torch_agrees_on_mixtures():
    torch = pytest.importorskip("torch").distributions
    tensor = pytest.importorskip("torch").tensor
    logits, means, scales = normal(20, 4), normal(20, 4, 2), np.exp(normal(20, 4, 2))
    targets = normal(20, 2)
    choice = torch.Categorical(logits=tensor(logits))
    law = torch.MixtureSameFamily(choice, torch.Independent(torch.Normal(tensor(means), tensor(scales)), 1))
    ours = once(losses.mixture_gaussian_nll, means, targets, scales, logits, full=True, reduction="none")
    np.testing.assert_allclose(ours, -law.log_prob(tensor(targets)), rtol=2e-5, atol=1e-5)
    law = torch.MixtureSameFamily(choice, torch.Normal(tensor(means[..., 0]), tensor(scales[..., 0])))
    ours = once(
        losses.mixture_gaussian_nll, means[..., 0], targets[..., 0], scales[..., 0], logits, full=True, reduction="none"
    )
    np.testing.assert_allclose(ours, -law.log_prob(tensor(targets[..., 0])), rtol=2e-5, atol=1e-5)


def test_a_component_that_does_not_exist():
    means, scales, targets = normal(6, 3), np.exp(normal(6, 3)), normal(6)
    logits = normal(6, 3)
    logits[:, 1] = -np.inf
    f = quick(jax.value_and_grad(losses.mixture_gaussian_nll, argnums=(0, 1, 2, 3)))
    whole = f(means, targets, scales, logits)
    left = f(means[:, ::2], targets, scales[:, ::2], logits[:, ::2])
    np.testing.assert_allclose(whole[0], left[0], rtol=1e-6)
    for a, b in zip(whole[1], left[1], strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a if a.ndim == 1 else a[:, ::2], b, rtol=1e-5, atol=1e-7)


def test_one_component_is_gaussian():
    """However far away: a density that has vanished is no logarithm of zero."""
    mixture, gaussian = quick(jax.value_and_grad(losses.mixture_gaussian_nll)), quick(losses.gaussian_nll)
    zero = np.zeros(1, np.float32)
    for error in (0.0, 1.0, 1e4, 1e15):
        means, scales = np.float32([[error]]), np.float32([[0.5]])
        ours, slope = mixture(means, zero, scales, zero[None])
        np.testing.assert_allclose(ours, gaussian(means[0], zero, scales[0] ** 2), rtol=1e-6)
        np.testing.assert_allclose(slope, [[4 * error]], rtol=1e-6)


def test_responsibilities_keep_their_digits():
    """A component that is sure before and after: the slope of its logit is the difference of two tiny doubts."""
    means, logits = jnp.array([[0.0, 3.0]]), jnp.array([[20.0, 0.0]])
    slope = quick(jax.grad(losses.mixture_gaussian_nll, argnums=3))(means, jnp.zeros(1), jnp.ones((1, 2)), logits)[0]
    before = 1 / (1 + mpmath.exp(20))
    after = 1 / (1 + mpmath.exp(mpmath.mpf(20) + mpmath.mpf(9) / 2))
    np.testing.assert_allclose(slope, [float(after - before), float(before - after)], rtol=1e-5)


def test_mixture_shapes_are_checked():
    ones = jnp.ones((4, 2, 3))
    with pytest.raises(ValueError, match="targets must have the shape of means without the components"):
        losses.mixture_gaussian_nll(ones, jnp.ones(4), ones, jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="logits"):
        losses.mixture_gaussian_nll(ones, jnp.ones((4, 3)), ones, jnp.ones((4, 3)))


def test_torch_and_scipy_agree_on_von_mises():
    torch = pytest.importorskip("torch")
    stats = pytest.importorskip("scipy.stats")
    angles, targets, concentrations = 3 * normal(50), 3 * normal(50), np.exp(2 * normal(50))
    ours = once(losses.von_mises_nll, angles, targets, concentrations, reduction="none")
    law = torch.distributions.VonMises(torch.tensor(angles), torch.tensor(concentrations))
    np.testing.assert_allclose(ours, -law.log_prob(torch.tensor(targets)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours, -stats.vonmises.logpdf(targets, concentrations, angles), rtol=1e-4, atol=1e-5)


def test_von_mises_becomes_gaussian():
    von_mises = quick(jax.value_and_grad(losses.von_mises_nll, argnums=(0, 2)))
    gaussian = quick(functools.partial(losses.gaussian_nll, full=True, eps=0.0))
    zero = np.zeros(1, np.float32)
    for concentration in (1e4, 1e8, 1e30):
        error, k = np.float32([0.5 / np.sqrt(concentration)]), np.float32([concentration])
        ours, slopes = von_mises(error, zero, k)
        normal_law = gaussian(error, zero, 1 / k)
        np.testing.assert_allclose(ours, normal_law, rtol=1e-4)
        np.testing.assert_allclose(slopes[0], 0.5 * np.sqrt(concentration), rtol=1e-4)
        np.testing.assert_allclose(slopes[1], (0.125 - 0.5) / concentration, rtol=1e-3)


def test_von_mises_does_not_count_turns():
    angles, k = normal(20), jnp.full(20, 5.0)
    ours = once(losses.von_mises_nll, angles, jnp.zeros(20), k, reduction="none")
    turned = once(losses.von_mises_nll, angles + np.float32(2 * np.pi), jnp.zeros(20), k, reduction="none")
    np.testing.assert_allclose(ours, turned, rtol=1e-4, atol=1e-5)
    slope = quick(jax.grad(losses.von_mises_nll))(jnp.float32(np.pi), jnp.float32(-np.pi), jnp.float32(5.0))
    assert abs(slope) < 1e-5, "both sides of the cut are close"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bessel_functions(dtype):
    with jax.enable_x64(dtype is np.float64), mpmath.workdps(40):
        x = np.concatenate([10.0 ** RNG.uniform(-8, 4, 200), [23.9, 24.0, 24.1]]).astype(dtype)
        ratio = [mpmath.besseli(1, t) / mpmath.besseli(0, t) for t in map(mpmath.mpf, x.tolist())]
        logs = [mpmath.log(mpmath.besseli(0, t)) - t for t in map(mpmath.mpf, x.tolist())]
        rtol = 8 * np.finfo(dtype).eps
        np.testing.assert_allclose(jax.jit(_bessel.bessel_ratio)(x), [float(r) for r in ratio], rtol=rtol)
        np.testing.assert_allclose(jax.jit(_bessel.bessel_gap)(x), [float(1 - r) for r in ratio], rtol=rtol)
        np.testing.assert_allclose(jax.jit(_bessel.log_bessel)(x), [float(v) for v in logs], rtol=rtol, atol=rtol)


def evidence(size):
    return normal(size), normal(size), np.exp(normal(size)), 1 + np.exp(normal(size)), np.exp(normal(size))


def test_evidential_is_student_t():
    predictions, targets, nu, alpha, beta = evidence(30)
    ours = once(losses.evidential_regression, predictions, targets, nu, alpha, beta, penalty=0.0, reduction="none")
    scales = np.sqrt(beta * (1 + nu) / (nu * alpha))
    each = once(losses.student_t_nll, predictions, targets, scales, degrees_of_freedom=2 * alpha, reduction="none")
    np.testing.assert_allclose(ours, each, rtol=1e-5, atol=1e-6)


def test_the_penalty_is_on_evidence_times_error():
    predictions, targets, nu, alpha, beta = evidence(30)
    plain, penalised = (
        once(losses.evidential_regression, predictions, targets, nu, alpha, beta, penalty=p, reduction="none")
        for p in (0.0, 0.5)
    )
    expected = 0.5 * np.abs(predictions - targets) * (2 * nu + alpha)
    np.testing.assert_allclose(penalised - plain, expected, rtol=1e-4, atol=1e-5)
    at_the_mean = quick(jax.grad(losses.evidential_regression))(1.0, 1.0, 2.0, 3.0, 4.0)
    assert at_the_mean == 0


@pytest.mark.parametrize("alpha", [1e-6, 1e3, 1e15])
def test_many_or_no_virtual_observations(alpha):
    """Where the difference of two log gamma functions has no digits left."""
    one = jnp.ones(1)
    value = once(losses.evidential_regression, one, 0 * one, one, alpha * one, alpha * one, penalty=0.0)
    with mpmath.workdps(60):
        a = mpmath.mpf(float(np.float32(alpha)))
        exact = mpmath.log(mpmath.pi) / 2 - a * mpmath.log(4 * a) + (a + mpmath.mpf(1) / 2) * mpmath.log(1 + 4 * a)
        exact += mpmath.loggamma(a) - mpmath.loggamma(a + mpmath.mpf(1) / 2)
    np.testing.assert_allclose(value, float(exact), rtol=1e-5)
