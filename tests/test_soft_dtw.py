"""Soft-DTW: against the recursion as it is written down, masks, gamma from 0 on, digits of long sequences."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import losses
from tests.oracles import soft_dtw as oracle
from tests.test_losses import quick

RNG: Any = np.random.default_rng(0)
UNITS, N, M, SIZE = 3, 5, 4, 2
X: Any = RNG.normal(size=(UNITS, N, SIZE)).astype(np.float32)
Y: Any = RNG.normal(size=(UNITS, M, SIZE)).astype(np.float32)
OF_X = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 1, 0]], bool)
OF_Y = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]], bool)
BOTH = [losses.soft_dtw, losses.soft_dtw_divergence]


def recursion(x, y, gamma, squared=True):
    """Cell by cell, in float64."""
    costs = ((np.float64(x)[:, None] - np.float64(y)) ** 2).sum(-1)
    costs = costs if squared else np.sqrt(costs)
    table = np.full((len(x) + 1, len(y) + 1), np.inf)
    table[0, 0] = 0
    for i in range(len(x)):
        for j in range(len(y)):
            before = np.array([table[i, j], table[i, j + 1], table[i + 1, j]])
            least = before.min()
            soft = gamma * np.log(np.exp((least - before) / gamma).sum()) if gamma else 0.0
            table[i + 1, j + 1] = costs[i, j] + least - soft
    return table[-1, -1]


def expected(loss, x, y, gamma, squared=True):
    value = recursion(x, y, gamma, squared)
    if loss is losses.soft_dtw:
        return value
    return value - recursion(x, x, gamma, squared) / 2 - recursion(y, y, gamma, squared) / 2


@pytest.mark.parametrize("squared", [True, False], ids=["squared", "plain"])
@pytest.mark.parametrize("loss", BOTH)
def test_the_recursion_with_steps_left_out(loss, squared):
    """Whatever stands at steps that do not exist; gamma down to 0, where it is DTW, and no gradient is infinite."""
    x, y = np.where(OF_X[..., None], X, np.nan), np.where(OF_Y[..., None], Y, np.nan)

    @quick
    def run(gamma):
        f = partial(loss, squared=squared, prediction_where=OF_X, target_where=OF_Y)
        gradients = jax.grad(lambda x, y, g: f(x, y, gamma=g), argnums=(0, 1, 2))(x, y, gamma)
        return f(x, y, gamma=gamma, reduction="none"), gradients

    for gamma in (0.0, 1e-30, 0.1, 1.0, 10.0):
        values, gradients = run(jnp.float32(gamma))
        for i in range(UNITS):
            exact = expected(loss, X[i][OF_X[i]], Y[i][OF_Y[i]], gamma, squared)
            np.testing.assert_allclose(values[i], exact, rtol=1e-6, atol=2e-6 * max(gamma, 1.0))
        assert all(np.isfinite(g).all() for g in gradients)
        assert not gradients[0][~OF_X].any()
        assert not gradients[1][~OF_Y].any()


@pytest.mark.parametrize("loss", BOTH)
def test_derivatives_of_second_order_and_by_gamma(loss):
    with jax.enable_x64(True):
        args = X[:2].astype(np.float64), Y[:2].astype(np.float64), np.float64(0.7)
        ways = tuple(np.asarray(RNG.normal(size=np.shape(a))) for a in args)
        options = {"prediction_where": OF_X[:2], "target_where": OF_Y[:2]}
        gradient = jax.grad(lambda x, y, g: loss(x, y, gamma=g, **options), argnums=(0, 1, 2))
        f = quick(gradient)
        value = quick(lambda x, y, g: loss(x, y, gamma=g, **options))
        moved = [tuple(a + sign * 1e-5 * d for a, d in zip(args, ways, strict=True)) for sign in (1, -1)]
        slope = sum(np.sum(g * d) for g, d in zip(f(*args), ways, strict=True))
        np.testing.assert_allclose((value(*moved[0]) - value(*moved[1])) / 2e-5, slope, rtol=1e-7)
        second = quick(lambda *a: jax.jvp(gradient, a, ways)[1])(*args)
        for high, low, bend in zip(f(*moved[0]), f(*moved[1]), second, strict=True):
            np.testing.assert_allclose((high - low) / 2e-5, bend, rtol=1e-5, atol=1e-7)


def test_a_large_gamma_counts_the_alignments():
    """-gamma log of their number, and to first order the mean cost; the derivative by gamma is -log of the number."""
    run = quick(jax.value_and_grad(lambda g: losses.soft_dtw(X[0], Y[0], gamma=g)))
    number = sum(math.comb(N - 1, k) * math.comb(M - 1, k) * 2**k for k in range(M))
    for gamma in (1e6, 1e30):
        value, slope = run(gamma)
        np.testing.assert_allclose(value, -gamma * math.log(number), rtol=1e-5)
        np.testing.assert_allclose(slope, -math.log(number), rtol=1e-5)


def test_long_sequences_keep_their_digits():
    """Sums of many costs round by more than a small gamma: half the digits of the gradient would be lost."""
    x, y = RNG.normal(size=(2, 200, 1)).astype(np.float32)

    @quick
    def run(x, y):
        return [jax.value_and_grad(partial(loss, gamma=0.01))(x, y) for loss in BOTH]

    found = run(x, y)
    with jax.enable_x64(True):
        exact = run(*(jnp.asarray(a, jnp.float64) for a in (x, y)))
    for (value, gradient), (truth, slope) in zip(found, exact, strict=True):
        np.testing.assert_allclose(value, truth, rtol=1e-6)
        np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-5 * np.abs(slope).max())


def test_equal_sequences_cost_nothing_and_no_others_less():
    divergence = partial(losses.soft_dtw_divergence, reduction="none")
    run = quick(jax.value_and_grad(lambda x, y: jnp.sum(divergence(x, y))))
    for scale in (1e-3, 1.0, 1e4):
        value, gradient = run(scale * X, scale * X)
        assert value == 0
        assert np.abs(gradient).max() <= 1e-6 * scale
    padded = np.concatenate([X, np.full_like(X, np.nan)], axis=1)
    assert quick(lambda x, y: losses.soft_dtw_divergence(x, y, target_where=np.arange(2 * N) < N))(X, padded) == 0
    near = X + 10.0 ** RNG.uniform(-8, 0, (100, 1, 1, 1)) * RNG.normal(size=(100, *X.shape))
    assert (quick(divergence)(near.astype(np.float32), np.tile(X, (100, 1, 1, 1))) >= 0).all()
    assert quick(losses.soft_dtw)(X, X) < 0


def test_equal_sequences_are_a_minimum():
    """The floor at 0 is one of the value alone: the second derivative is there."""
    bend = quick(jax.hessian(losses.soft_dtw_divergence))(X[0], X[0]).reshape(N * SIZE, N * SIZE)
    assert np.linalg.eigvalsh(bend).min() > 0.5


@pytest.mark.parametrize("loss", BOTH)
def test_no_number_is_too_large(loss):
    """Costs that overflow are infinite, and not NaN."""
    f = quick(jax.value_and_grad(loss, argnums=(0, 1)))
    for size in (1e15, 1e19, 1e38):
        value, gradients = f(*(np.float32(size) * np.sign(a) for a in (X, Y)))
        assert value > 0
        assert np.isfinite(value) == (size < 1e18)
        assert all(np.isfinite(g).all() for g in gradients)


def test_hostile_numbers():
    pool = np.array([0.0, 1.0, -1.0, 1e-8, 1e-30, 20.0, 1e4, -1e4], np.float32)
    x, y = RNG.choice(pool, (24, 3, 1)), RNG.choice(pool, (24, 2, 1))
    values = quick(partial(losses.soft_dtw, reduction="none"))(x, y)
    for i in range(24):
        exact = float(oracle.soft_dtw(x[i : i + 1].astype(object), y[i : i + 1].astype(object), gamma=1)[0])
        np.testing.assert_allclose(values[i], exact, rtol=1e-6, atol=1e-6)


def test_no_alignment_is_no_cost():
    nothing = np.zeros((UNITS, N), bool)
    for loss in BOTH:
        value, gradient = quick(jax.value_and_grad(loss))(X, Y, prediction_where=nothing)
        assert value == 0
        assert not gradient.any()


def test_the_gradient_holds_a_few_matrices():
    length, size = 512, 64
    x = jnp.zeros((length, size))
    memory = jax.jit(jax.grad(losses.soft_dtw)).lower(x, x).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 32 * 4 * length * length  # all differences alone would be twice that


def test_tslearn_agrees():
    metrics = pytest.importorskip("tslearn.metrics")
    for gamma in (0.1, 1.0):
        theirs = metrics.soft_dtw(np.float64(X[0]), np.float64(Y[0]), gamma=gamma)
        np.testing.assert_allclose(quick(partial(losses.soft_dtw, gamma=gamma))(X[0], Y[0]), theirs, rtol=1e-5)


def test_wrong_calls_are_loud():
    with pytest.raises(ValueError, match="differ in the number of points only"):
        losses.soft_dtw(X, Y[..., :1])
    with pytest.raises(ValueError, match=r"prediction_where\[3, 4\] does not broadcast"):
        losses.soft_dtw(X, Y, prediction_where=np.ones((3, 4), bool))
    with pytest.raises(TypeError, match="target_where must be bool"):
        losses.soft_dtw_divergence(X, Y, target_where=np.ones((3, 4)))
    with pytest.raises(ValueError, match="gamma must be nonnegative"):
        losses.soft_dtw(X, Y, gamma=-1.0)
