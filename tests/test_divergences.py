"""Divergences beyond the contract: peers under the conventions that docstrings claim, digits of close distributions,
missing classes, points that do not exist, and the peers' own faults.
"""

import functools
import importlib.util
import itertools
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import losses
from tests import vocabulary as v
from tests.oracles import oracles
from tests.vocabulary import quick

ORACLES = oracles()
# Every divergence between rows, with each of its static choices and orders that matter.
ROWS = [
    ("kl_divergence", {}),
    ("kl_divergence", {"reverse": True}),
    ("jeffreys", {}),
    ("jensen_shannon", {}),
    ("jensen_shannon", {"share": 0.1}),
    ("alpha_divergence", {"alpha": 0.0}),
    ("alpha_divergence", {"alpha": 1e-3}),
    ("alpha_divergence", {"alpha": 0.5}),
    ("alpha_divergence", {"alpha": 1.0}),
    ("alpha_divergence", {"alpha": 3.0}),
    ("alpha_divergence", {"alpha": -2.0}),
    ("renyi", {"alpha": 0.5}),
    ("renyi", {"alpha": 1.0}),
    ("renyi", {"alpha": 4.0}),
    ("hellinger", {}),
    ("hellinger", {"squared": True}),
    ("total_variation", {}),
    ("chi_squared", {}),
    ("chi_squared", {"reverse": True}),
]
each_row = pytest.mark.parametrize(("name", "options"), ROWS, ids=[f"{n}-{o}" for n, o in ROWS])


def mp(array):
    return np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])(np.asarray(array, np.float64))


def exact(options):
    return {k: x if isinstance(x, bool | str) else mpmath.mpf(x) for k, x in options.items()}


def distributions(seed=0, rows=8, classes=5):
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.ones(classes), rows).astype(np.float32) for _ in range(2)]


def cloud(seed, n, *shape, shift=0.0):
    return (shift + np.random.default_rng(seed).normal(size=(n, *shape))).astype(np.float32)


# ---- rows: digits, limits, missing classes ---------------------------------------------------------------------------


@pytest.mark.sampled
@each_row
@pytest.mark.parametrize("of", ["probabilities", "logits"])
def test_close_distributions_keep_their_digits(name, options, of):
    """Promise L8: perturbations from 1e-1 down to 1e-6, where the textbook sums are noise or negative."""
    rng = np.random.default_rng(3)
    q, _ = distributions(1, 24)
    size = 10.0 ** -np.linspace(1, 6, 24)[:, None]
    if of == "logits":
        q = np.log(q) + 5
        t = (q + size * rng.normal(size=q.shape)).astype(np.float32)
        q = q.astype(np.float32)
    else:
        t = (q * (1 + size * rng.uniform(-1, 1, q.shape))).astype(np.float32)
    values = getattr(losses, name)(q, t, **options, of=of, reduction="none")
    with mpmath.workdps(60):
        truth = ORACLES[name](mp(q), mp(t), **exact(options), of=of)
    for value, right in zip(values, truth, strict=True):
        assert value >= 0
        assert v.ulps(value, right) <= 32, (value, right)


@pytest.mark.sampled
@each_row
def test_equal_distributions_cost_nothing(name, options):
    q, _ = distributions(2)
    f = lambda q, t, of: getattr(losses, name)(q, t, **options, of=of, reduction="sum")  # noqa: E731
    programs = {
        of: quick(jax.value_and_grad(functools.partial(f, of=of), (0, 1))) for of in ("probabilities", "logits")
    }
    for of, row in (("probabilities", q), ("logits", np.log(q) * 3 + 100), ("logits", np.zeros_like(q))):
        value, gradients = programs[of](*[jnp.asarray(row, jnp.float32)] * 2)
        assert value == 0
        assert not any(np.any(g) for g in gradients)


@pytest.mark.sampled
@each_row
def test_logits_far_apart_are_exact(name, options):
    """Gaps up to 60 and rows that agree on no class that matters, values and gradients by the student's logits."""
    rng = np.random.default_rng(4)
    z, s = (20 * rng.normal(size=(12, 4)).astype(np.float32) for _ in range(2))
    with mpmath.workdps(200):
        truth = ORACLES[name](mp(z), mp(s), **exact(options), of="logits")
        step = mpmath.mpf(10) ** -60
        moved = mp(z)
        moved[:, 1] += step
        slopes = (ORACLES[name](moved, mp(s), **exact(options), of="logits") - truth) / step
    f = lambda z: getattr(losses, name)(z, s, **options, of="logits", reduction="none")  # noqa: E731
    values, gradients = quick(lambda z: (f(z), jax.grad(lambda z: f(z).sum())(z)))(z)
    for i in range(12):
        if truth[i] < 1e30:
            assert v.ulps(values[i], truth[i]) <= 256, (i, values[i], truth[i])  # of exp(alpha * 60)
            size = float(max(abs(slopes[i]), np.abs(gradients[i]).max()))
            # Bounded ones level off: what is left of their slope is a rounding of the loss.
            rest = 1e-8 if name in ("jensen_shannon", "hellinger", "total_variation") else 0.0
            assert abs(float(gradients[i, 1]) - float(slopes[i])) <= 3e-5 * size + rest


@pytest.mark.sampled
@each_row
@pytest.mark.parametrize("of", ["probabilities", "logits"])
def test_classes_that_neither_has_do_not_exist(name, options, of):
    """Promise L3, in value, gradient and Hessian-vector product, next to a row whose supports differ."""
    q, t = distributions(5, 3)
    q[:, [1, 3]] = t[:, [1, 3]] = 0
    q, t = (x / x.sum(axis=1, keepdims=True) for x in (q, t))
    rows = [np.log(x, where=x > 0, out=np.full_like(x, -np.inf)) if of == "logits" else x for x in (q, t)]
    kept = [x[:, [0, 2, 4]] for x in rows]
    f = lambda q, t: getattr(losses, name)(q, t, **options, of=of)  # noqa: E731
    first = jax.value_and_grad(f, (0, 1))
    ones = tuple(jnp.ones_like(x) for x in rows)
    (value, gradients), tangents = quick(lambda *rows: jax.jvp(first, rows, ones))(*rows)
    expected, smalls = quick(first)(*kept)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, small in zip(gradients, smalls, strict=True):
        np.testing.assert_allclose(gradient[:, [0, 2, 4]], small, rtol=1e-5, atol=1e-7)
        assert not gradient[:, [1, 3]].any()
    assert all(np.isfinite(x).all() for x in tangents[1])


@pytest.mark.sampled
@each_row
def test_supports_that_differ_are_infinite_or_finite_but_never_nan(name, options):
    q, t = np.array([[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]], np.float32)[:, None]
    with mpmath.workdps(50):
        truth = ORACLES[name](mp(q), mp(t), **exact(options))[0]
    for of, rows in (("probabilities", (q, t)), ("logits", tuple(map(jnp.log, (q, t))))):
        f = lambda q, t, of=of: getattr(losses, name)(q, t, **options, of=of)  # noqa: E731
        value, gradients = quick(jax.value_and_grad(f, argnums=(0, 1)))(*rows)
        if truth == mpmath.inf:
            assert value == np.inf
        else:
            np.testing.assert_allclose(value, float(truth), rtol=1e-6)
        assert all(np.isfinite(g).all() for g in gradients)
        # The row is infinite, its neighbour is not.
        both = [jnp.concatenate([x, rows[0]]) for x in rows]
        units = quick(lambda q, t, of=of: getattr(losses, name)(q, t, **options, of=of, reduction="none"))
        assert np.isfinite(units(*both)[1])


@pytest.mark.parametrize("name", ["alpha_divergence", "renyi"])
@pytest.mark.parametrize("at", [1e-4, 1.0])
def test_orders_pass_smoothly_through_their_exceptions(name, at):
    q, t = distributions(6, 4)
    f = lambda alpha: getattr(losses, name)(q, t, alpha=alpha)  # noqa: E731
    if at < 1 and name == "renyi":
        return
    orders = jnp.asarray(at + np.array([-1e-2, -1e-4, -1e-6, 0, 1e-6, 1e-4, 1e-2]), jnp.float32)
    values, slopes = quick(jax.vmap(jax.value_and_grad(f)))(orders)
    with mpmath.workdps(60):
        oracle = lambda a: np.mean(ORACLES[name](mp(q), mp(t), alpha=a))  # noqa: E731
        step = mpmath.mpf(10) ** -20
        for order, value, slope in zip(orders, values, slopes, strict=True):
            order = mpmath.mpf(float(order))
            assert v.ulps(value, oracle(order)) <= 8
            right = (oracle(order + step) - oracle(order - step)) / (2 * step)
            np.testing.assert_allclose(slope, float(right), rtol=1e-4)


def test_the_family_has_its_members():
    q, t = distributions(7)
    alpha = lambda a: losses.alpha_divergence(q, t, alpha=a)  # noqa: E731
    for value, member in (
        (alpha(1.0), losses.kl_divergence(q, t)),
        (alpha(0.0), losses.kl_divergence(q, t, reverse=True)),
        (alpha(0.5), 4 * losses.hellinger(q, t, squared=True)),
        (alpha(2.0), losses.chi_squared(q, t) / 2),
        (alpha(-1.0), losses.chi_squared(q, t, reverse=True) / 2),
        (losses.renyi(q, t, alpha=1.0), losses.kl_divergence(q, t)),
        (losses.jeffreys(q, t), losses.kl_divergence(q, t) + losses.kl_divergence(t, q)),
        (losses.jensen_shannon(q, t, share=1e-5) / 1e-5, losses.kl_divergence(q, t)),
    ):
        np.testing.assert_allclose(value, member, rtol=1e-3)
    divergences = [losses.renyi(q, t, alpha=a) for a in (0.25, 0.5, 1.0, 2.0, 8.0)]
    assert all(a < b for a, b in itertools.pairwise(divergences))


def test_high_orders_do_not_overflow():
    """The sum in a Rényi divergence leaves float32 where its logarithm is an ordinary number."""
    q, t = np.array([[1e-10, 1.0]], np.float32), np.array([[0.5, 0.5]], np.float32)
    value, gradient = quick(jax.value_and_grad(lambda q: losses.renyi(q, t, alpha=20.0)))(q)
    np.testing.assert_allclose(value, (20 * math.log(0.5) + 19 * math.log(1e10)) / 19, rtol=1e-6)
    assert np.isfinite(gradient).all()


# ---- rows: peers -----------------------------------------------------------------------------------------------------


def test_torch_kl_div():
    torch = pytest.importorskip("torch")
    q, t = distributions(8)
    theirs = torch.tensor(np.log(q), requires_grad=True)
    value = torch.nn.functional.kl_div(theirs, torch.tensor(t), reduction="batchmean")
    value.backward()
    f = lambda z: losses.kl_divergence(z, np.log(t), of="logits")  # noqa: E731
    np.testing.assert_allclose(losses.kl_divergence(q, t), value.item(), rtol=1e-5)
    np.testing.assert_allclose(f(np.log(q)), value.item(), rtol=1e-5)
    # Through a softmax the constant that their slope lacks is gone.
    z = torch.tensor(np.log(q) + 1, requires_grad=True)
    torch.nn.functional.kl_div(torch.log_softmax(z, -1), torch.tensor(t), reduction="batchmean").backward()
    np.testing.assert_allclose(jax.grad(f)(np.log(q)), z.grad.numpy(), rtol=1e-4, atol=1e-7)
    with pytest.warns(UserWarning, match="batchmean"):
        own = torch.nn.functional.kl_div(theirs, torch.tensor(t), reduction="mean")
    np.testing.assert_allclose(losses.kl_divergence(q, t) / 5, own.item(), rtol=1e-5)


def test_optax_and_its_faults():
    import optax

    q, t = distributions(9)
    np.testing.assert_allclose(
        losses.kl_divergence(q, t, reduction="none"), optax.losses.kl_divergence(np.log(q), t), rtol=1e-5, atol=1e-7
    )
    masses = 3 * q
    np.testing.assert_allclose(
        losses.kl_divergence(masses, t, reduction="none"),
        optax.losses.generalized_kl_divergence(np.log(masses), t),
        rtol=1e-5,
        atol=1e-6,
    )
    # A class that neither has: NaN there, as value or as slope, the other classes here.
    q[:, 0] = t[:, 0] = 0
    log = np.log(q, where=q > 0, out=np.full_like(q, -np.inf))
    other = np.log(t, where=t > 0, out=np.full_like(t, -np.inf))
    assert np.isnan(jax.grad(lambda t: optax.losses.kl_divergence(jnp.asarray(log), t).sum())(t)).any()
    assert np.isnan(optax.losses.kl_divergence_with_log_targets(jnp.asarray(log), jnp.asarray(other))).any()
    value, slope = jax.value_and_grad(lambda t: losses.kl_divergence(q, t))(t)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert np.isfinite(losses.kl_divergence(log, other, of="logits"))
    # Close rows: negative in a third of cases there, in none here.
    q, _ = distributions(10, 4000)
    t = (q * (1 + 1e-4 * np.random.default_rng(0).normal(size=q.shape))).astype(np.float32)
    assert (optax.losses.generalized_kl_divergence(np.log(q), t) < 0).mean() > 0.1
    assert (losses.kl_divergence(q, t, reduction="none") > 0).all()


def test_scipy():
    distance = pytest.importorskip("scipy.spatial.distance")
    stats = pytest.importorskip("scipy.stats")
    q, t = distributions(11)
    theirs = [distance.jensenshannon(a.astype(float), b.astype(float)) for a, b in zip(q, t, strict=True)]
    np.testing.assert_allclose(jnp.sqrt(losses.jensen_shannon(q, t, reduction="none")), theirs, rtol=1e-5)
    counts, expected = 60 * t.astype(float), 60 * q.astype(float)
    counts, expected = (60 * x / x.sum(1, keepdims=True) for x in (counts, expected))
    for a in (2.0, 1.0, 2 / 3 + 1, 0.5, 0.0, -1.0):
        ours = 2 * losses.alpha_divergence(expected.astype(np.float32), counts, alpha=a, reduction="none")
        np.testing.assert_allclose(ours, stats.power_divergence(counts, expected, axis=1, lambda_=a - 1)[0], rtol=1e-4)
    pearson = losses.chi_squared(expected.astype(np.float32), counts, reduction="none")
    np.testing.assert_allclose(pearson, stats.chisquare(counts, expected, axis=1)[0], rtol=1e-4)
    rel_entr = pytest.importorskip("scipy.special").rel_entr
    np.testing.assert_allclose(losses.kl_divergence(q, t), rel_entr(t, q).sum(1).mean(), rtol=1e-5)


def test_bad_masses_never_look_plausible():
    q, t = distributions(12, 2)
    q[0, 1] = -0.25
    for name, options in ROWS:
        f = lambda q, name=name, options=options: getattr(losses, name)(q, t, **options, reduction="none")  # noqa: E731
        with pytest.raises(ValueError, match=r"predictions must be nonnegative, got -0.25"):
            f(q)
        units = jax.jit(f)(q)
        assert np.isnan(units[0])
        assert np.isfinite(units[1])
    with pytest.raises(ValueError, match=r"of must be one of .*'logits'"):
        losses.kl_divergence(q, t, of="logit")


# ---- closed forms ----------------------------------------------------------------------------------------------------


def params(seed, *shape):
    rng = np.random.default_rng(seed)
    return [np.exp(rng.normal(size=shape)).astype(np.float32) for _ in range(4)]


@pytest.mark.parametrize("reverse", [False, True])
def test_torch_closed_forms(reverse):
    torch = pytest.importorskip("torch")
    d, kl = torch.distributions, torch.distributions.kl_divergence
    a, b, c, e = params(0, 4, 3)
    lower = [np.tril(np.random.default_rng(i).normal(size=(4, 3, 3)), -1).astype(np.float32) for i in (1, 2)]
    lower = [x + np.eye(3, dtype=np.float32) * y[..., None] for x, y in zip(lower, (b, e), strict=True)]
    tensors = lambda *arrays: [torch.tensor(x) for x in arrays]  # noqa: E731
    stack = lambda x, y: np.stack([x, y], axis=-1)  # noqa: E731
    for ours, estimate, truth in (
        (
            losses.gaussian_kl(a, b, c, e, reverse=reverse, reduction="none"),
            d.Normal(*tensors(a, np.sqrt(b))),
            d.Normal(*tensors(c, np.sqrt(e))),
        ),
        (
            losses.gaussian_kl_with_log_variances(a, np.log(b), c, np.log(e), reverse=reverse, reduction="none"),
            d.Normal(*tensors(a, np.sqrt(b))),
            d.Normal(*tensors(c, np.sqrt(e))),
        ),
        (
            losses.multivariate_gaussian_kl(a, lower[0], c, lower[1], reverse=reverse, reduction="none"),
            d.MultivariateNormal(torch.tensor(a), scale_tril=torch.tensor(lower[0])),
            d.MultivariateNormal(torch.tensor(c), scale_tril=torch.tensor(lower[1])),
        ),
        (
            losses.dirichlet_kl(a, c, reverse=reverse, reduction="none"),
            d.Dirichlet(torch.tensor(a)),
            d.Dirichlet(torch.tensor(c)),
        ),
        (
            losses.dirichlet_kl(stack(a, b), stack(c, e), reverse=reverse, reduction="none"),
            d.Beta(*tensors(a, b)),
            d.Beta(*tensors(c, e)),
        ),
        (
            losses.gamma_kl(a, b, c, e, reverse=reverse, reduction="none"),
            d.Gamma(*tensors(a, b)),
            d.Gamma(*tensors(c, e)),
        ),
    ):
        pair = (estimate, truth) if reverse else (truth, estimate)
        np.testing.assert_allclose(ours, kl(*pair).numpy(), rtol=2e-4, atol=1e-5)


@pytest.mark.sampled
@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("at", [0.01, 1.0, 7.5, 100.0, 1e5])
@pytest.mark.parametrize("direction", ["any", "of the mean"])
def test_close_parameters_keep_their_digits(size, at, direction):
    """Value within 32 ulp where the formulas leave nothing, also along the direction in which their parts cancel."""
    rng = np.random.default_rng(0)
    first = (at * rng.uniform(0.5, 2, size=(4, 3))).astype(np.float32)
    factor = 1 + size * (rng.uniform(-1, 1, size=(4, 3)) if direction == "any" else np.ones((4, 3)))
    second = (first * factor).astype(np.float32)
    rates = np.exp(rng.normal(size=(4, 3))).astype(np.float32)
    others = (rates * (factor if direction == "of the mean" else factor[::-1])).astype(np.float32)
    zero = np.zeros_like(rates)
    eye = np.eye(3, dtype=np.float32)
    cases = {
        "gaussian_kl": (rates, first, rates, second),
        "gaussian_kl_with_log_variances": (zero, np.log(first), zero, np.log(second)),
        "multivariate_gaussian_kl": (zero, eye * first[..., None], zero, eye * second[..., None]),
        "dirichlet_kl": (first, second),
        "gamma_kl": (first, rates, second, others),
    }
    for name, arrays in cases.items():
        values = getattr(losses, name)(*arrays, reduction="none")
        with mpmath.workdps(80):
            truth = ORACLES[name](*map(mp, arrays))
        for value, right in zip(values.ravel(), truth.ravel(), strict=True):
            assert v.ulps(value, right) <= (32 if at < 1e5 else 512), (name, value, float(right))
            assert value >= 0


def test_traced_parameters_outside_their_domain_are_nan():
    bad, good = jnp.array([-1.0, 1.0]), jnp.ones(2)
    for f in (
        lambda x: losses.gaussian_kl(good, x, good, good, reduction="none"),
        lambda x: losses.gamma_kl(good, good, x, good, reduction="none"),
        lambda x: losses.dirichlet_kl(x[:, None], good[:, None], reduction="none"),
        lambda x: losses.multivariate_gaussian_kl(
            good[:, None], x[:, None, None], good[:, None], good[:, None, None], reduction="none"
        ),
    ):
        with pytest.raises(ValueError, match=r"must be positive, got -1"):
            f(bad)
        units = jax.jit(f)(bad)
        assert np.isnan(units[0])
        assert np.isfinite(units[1])


def test_above_the_diagonal_is_ignored():
    means, factors = np.zeros((2, 3), np.float32), np.tile(2 * np.eye(3, dtype=np.float32), (2, 1, 1))
    spoiled = factors + np.triu(np.full((3, 3), np.nan, np.float32), 1)
    value, gradient = jax.value_and_grad(losses.multivariate_gaussian_kl, argnums=1)(means, spoiled, means, factors)
    assert value == 0
    assert np.isfinite(gradient).all()


# ---- samples ---------------------------------------------------------------------------------------------------------

SAMPLED = {
    "sliced_wasserstein": {"directions": np.array([[1.0, 0.5], [0.25, -1.0]])},
    "energy_distance": {},
    "mmd": {},
    "correlation_alignment": {},
}
each_sampled = pytest.mark.parametrize("name", SAMPLED)


@pytest.mark.parametrize(("n", "m"), [(7, 7), (7, 4), (1, 6), (6, 9)])
@pytest.mark.parametrize("weighted", [False, True])
def test_scipy_and_pot_on_the_line(n, m, weighted):
    stats = pytest.importorskip("scipy.stats")
    ot = pytest.importorskip("ot")
    x, y = cloud(0, n), cloud(1, m, shift=0.5)
    rng = np.random.default_rng(2)
    a, b = rng.uniform(0.1, 1, n), rng.uniform(0.1, 1, m)
    given = {"prediction_weights": a, "target_weights": b} if weighted else {}
    theirs = (a, b) if weighted else ()
    np.testing.assert_allclose(
        losses.wasserstein_1d(x, y, **given), stats.wasserstein_distance(x, y, *theirs), rtol=1e-5
    )
    energy = losses.energy_distance(x[:, None], y[:, None], **given)
    np.testing.assert_allclose(jnp.sqrt(energy), stats.energy_distance(x, y, *theirs), rtol=1e-5)
    a, b = (w / w.sum() for w in ((a, b) if weighted else (np.ones(n), np.ones(m))))
    for p in (1, 2, 3):
        pot = ot.wasserstein_1d(x.astype(float), y.astype(float), a, b, p=p)
        np.testing.assert_allclose(losses.wasserstein_1d(x, y, p=p, **given), pot, rtol=1e-5)


def test_pot_sliced_and_mmd_by_hand():
    ot = pytest.importorskip("ot")
    x, y, directions = cloud(0, 6, 3), cloud(1, 8, 3, shift=1.0), cloud(2, 5, 3)
    unit = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    for p in (1, 2):
        pot = ot.sliced_wasserstein_distance(x.astype(float), y.astype(float), projections=unit.astype(float), p=p)
        ours = losses.sliced_wasserstein(x, y, directions=directions, p=p)
        np.testing.assert_allclose(ours ** (1 / p), pot, rtol=1e-5)
    gram = lambda a, b: np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / 2 / 1.5**2)  # noqa: E731
    biased = gram(x, x).mean() + gram(y, y).mean() - 2 * gram(x, y).mean()
    np.testing.assert_allclose(losses.mmd(x, y, bandwidths=1.5, relative=False), biased, rtol=1e-4)
    off = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))  # noqa: E731
    unbiased = off(gram(x, x)) + off(gram(y, y)) - 2 * gram(x, y).mean()
    np.testing.assert_allclose(losses.mmd(x, y, bandwidths=1.5, relative=False, unbiased=True), unbiased, rtol=1e-4)
    several = losses.mmd(x, y, bandwidths=[1.5, 3.0], relative=False)
    each = [losses.mmd(x, y, bandwidths=b, relative=False) for b in (1.5, 3.0)]
    np.testing.assert_allclose(several, np.mean(each), rtol=1e-5)


def weighings(name):
    """The sample loss with and without its own weights, of points `[n, d]` or `[n]`."""
    if name == "wasserstein_1d":
        return losses.wasserstein_1d, cloud(0, 6), cloud(1, 5, shift=0.5)
    options = SAMPLED[name]
    f = lambda x, y, **k: getattr(losses, name)(x, y, **options, **k)  # noqa: E731
    return f, cloud(0, 6, 2), cloud(1, 5, 2, shift=1.5) * 2


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["wasserstein_1d", *SAMPLED])
@pytest.mark.parametrize("unbiased", [False, True])
def test_points_without_weight_do_not_exist(name, unbiased):
    f, x, y = weighings(name)
    options = {"unbiased": True} if unbiased else {}
    if unbiased and name not in ("energy_distance", "mmd"):
        return
    times, other = np.array([2, 0, 1, 1, 3, 0]), np.array([1, 1, 0, 2, 1])
    spoiled = x.copy()
    spoiled[times == 0] = np.nan
    run = lambda x, y, a, b: f(x, y, prediction_weights=a, target_weights=b, **options)  # noqa: E731
    weights = tuple(jnp.asarray(w, jnp.float32) for w in (times, other))
    value, gradients = quick(jax.value_and_grad(run, argnums=(0, 1, 2, 3)))(spoiled, y, *weights)
    own, f = f, lambda *arrays, **k: quick(functools.partial(own, **k))(*arrays)
    repeated = f(np.repeat(x, times, axis=0), np.repeat(y, other, axis=0), **options)
    np.testing.assert_allclose(value, repeated, rtol=2e-5)
    assert all(np.isfinite(g).all() for g in gradients)
    assert not gradients[0][times == 0].any()
    assert f(x, y, prediction_weights=np.zeros(6), **options) == 0
    one = f(x, y, prediction_weights=np.ones(6), target_weights=np.ones(5), **options)
    np.testing.assert_allclose(one, f(x, y, **options), rtol=1e-5)
    batch = f(
        np.stack([x, x]), np.stack([y, y]), prediction_weights=times, target_weights=other, reduction="none", **options
    )
    np.testing.assert_allclose(batch, [repeated] * 2, rtol=2e-5)
    for wrong in (np.ones(5), np.ones((2, 6))):
        with pytest.raises(ValueError, match="prediction_weights"):
            own(x, y, prediction_weights=wrong)
    with pytest.raises(ValueError, match="prediction_weights must be nonnegative"):
        own(x, y, prediction_weights=-np.ones(6))


@pytest.mark.parametrize(
    "name", ["wasserstein_1d", "sliced_wasserstein", "energy_distance", "mmd", "correlation_alignment"]
)
def test_gradients_by_the_weights_of_points(name):
    f, x, y = weighings(name)
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    a = np.random.default_rng(0).uniform(0.5, 1.5, 6)
    with jax.enable_x64(True):
        run = lambda a: f(x, y, prediction_weights=a)  # noqa: E731
        steps = 1e-6 * jnp.eye(6)
        gradient, right, left = quick(
            lambda a: (jax.grad(run)(a), jax.vmap(run)(a[None] + steps), jax.vmap(run)(a[None] - steps))
        )(jnp.asarray(a))
        np.testing.assert_allclose(gradient, (right - left) / 2e-6, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("d", [1, 2])
def test_energy_distance_of_numbers_and_of_vectors_agree(d):
    x, y = cloud(0, 7, 1), cloud(1, 4, 1, shift=0.5)
    wide = lambda a: np.concatenate([a, np.zeros_like(a)], axis=1) if d == 2 else a  # noqa: E731
    for unbiased in (False, True):
        f = lambda x, y, u=unbiased: losses.energy_distance(x, y, unbiased=u)  # noqa: E731
        value, gradient = quick(jax.value_and_grad(f))(wide(x), wide(y))
        flat, slopes = quick(jax.value_and_grad(f))(x, y)
        np.testing.assert_allclose(value, flat, rtol=1e-5)
        np.testing.assert_allclose(gradient[:, :1], slopes, rtol=1e-4, atol=1e-6)


def test_one_target_is_the_crps():
    x, y = cloud(0, 9), np.float32(0.25)
    ours = losses.energy_distance(x[:, None], y[None, None])
    np.testing.assert_allclose(ours, 2 * losses.crps_ensemble(x, y), rtol=1e-6)


def test_ties_and_equal_samples():
    x = np.array([1.0, 1.0, 2.0, 2.0], np.float32)
    for f, points in (
        (losses.wasserstein_1d, x),
        (losses.energy_distance, x[:, None]),
        (losses.energy_distance, np.stack([x, x], axis=1)),
        (losses.mmd, x[:, None]),
        (losses.correlation_alignment, x[:, None]),
    ):
        value, gradients = quick(jax.value_and_grad(f, argnums=(0, 1)))(points, points)
        assert value >= 0
        np.testing.assert_allclose(value, 0, atol=1e-6)
        for g in gradients:
            np.testing.assert_allclose(g, 0, atol=1e-6)
    same = np.zeros((5, 2), np.float32)  # no distance to take a median of
    assert losses.mmd(same, same) == 0
    assert np.isfinite(quick(jax.grad(losses.mmd))(same, same + 1)).all()


def test_close_samples_of_numbers_keep_their_digits():
    x = cloud(0, 50)[:, None]
    y = (x + np.float32(1e-4)).astype(np.float32)
    with mpmath.workdps(50):
        truth = ORACLES["energy_distance"](mp(x)[None], mp(y)[None])[0]
    assert v.ulps(losses.energy_distance(x, y), truth) <= 64


@pytest.mark.parametrize("name", ["energy_distance", "mmd"])
def test_blocks_are_the_whole(name, monkeypatch):
    """In blocks of one row, padding included: the same value, gradient and Hessian-vector product."""
    from lossax import _tile

    x, y = cloud(0, 7, 3), cloud(1, 5, 3, shift=1.0)
    ones = jnp.ones_like(x)

    def everything(x):
        return jax.jvp(jax.value_and_grad(lambda x: getattr(losses, name)(x, y)), (x,), (ones,))

    whole = quick(everything)(jnp.asarray(x))
    for size in (1, 45):
        monkeypatch.setattr(_tile, "_NUMBERS", size)
        found = quick(lambda x: everything(x))(jnp.asarray(x))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_memory_grows_with_the_points_and_not_their_pairs():
    """`[n, m, d]` for 2048 points of 64 numbers would be a gigabyte, in the gradient too."""
    x = jnp.zeros((2048, 64))
    for f in (losses.energy_distance, lambda x, y: losses.mmd(x, y, relative=False)):
        compiled = jax.jit(jax.value_and_grad(f)).lower(x, x).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 2**26


def test_the_line_takes_no_matrix():
    x = jnp.zeros(2**18)
    for f, points in ((losses.wasserstein_1d, x), (losses.energy_distance, x[:, None])):
        compiled = jax.jit(jax.value_and_grad(f)).lower(points, points).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 2**27


def test_unbiased_means_have_no_bias():
    """Over draws of equal distributions the unbiased forms are 0 in the mean, and the biased ones are not."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 2000, 4, 2)).astype(np.float32)
    for f, options in ((losses.energy_distance, {}), (losses.mmd, {"relative": False})):
        run = jax.jit(lambda x, y, u, f=f, o=options: f(x, y, unbiased=u, reduction="none", **o), static_argnums=2)
        unbiased, biased = run(x, y, True), run(x, y, False)
        error = np.std(unbiased) / math.sqrt(2000)
        assert abs(np.mean(unbiased)) < 4 * error
        assert np.mean(biased) > 20 * error
        assert (biased >= 0).all()


# ---- alignment -------------------------------------------------------------------------------------------------------


def test_cka_does_not_see_rotations_and_scales():
    rng = np.random.default_rng(0)
    x = cloud(0, 12, 3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    for kernel in ("linear", "rbf"):
        f = quick(lambda x, y, k=kernel: losses.cka(x, y, kernel=k))
        for scale in (1e-15, 1.0, 1e15):
            np.testing.assert_allclose(f(x, scale * (x @ rotation) + scale), 0, atol=1e-5)
        y = cloud(1, 12, 5)
        np.testing.assert_allclose(f(x, y), f(1e12 * x, 1e-12 * y), rtol=1e-4)
    assert losses.cka(x, np.ones((12, 2), np.float32)) == 1
    assert np.isfinite(quick(jax.grad(losses.cka))(x, np.ones((12, 2), np.float32))).all()


@pytest.mark.parametrize("unbiased", [False, True])
def test_linear_by_features_is_linear_by_matrices(unbiased):
    """The cheaper of two ways is chosen by shape: few examples of many features, and the other way round."""
    for n, d in ((5, 20), (30, 2)):
        x, y = cloud(0, n, d), cloud(1, n, d)
        y[:, 0] += 2 * x[:, 1]
        for name in ("hsic", "cka"):
            value = getattr(losses, name)(x, y, kernel="linear", unbiased=unbiased)
            truth = ORACLES[name](mp(x), mp(y), kernel="linear", unbiased=unbiased)
            np.testing.assert_allclose(value, float(truth), rtol=1e-4, atol=1e-6)


# ---- ott-jax ---------------------------------------------------------------------------------------------------------

needs_ott = pytest.mark.skipif(importlib.util.find_spec("ott") is None, reason="the extra `ott`")


def test_without_ott_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['ott'] = None\n"
        "import jax.numpy as jnp; from lossax import losses\n"
        "try: losses.sinkhorn_divergence(jnp.zeros((2, 1)), jnp.ones((3, 1)))\n"
        "except ImportError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "lossax[ott]"' in out.stdout


def sinkhorn(x, y, epsilon, a=None, b=None):
    """The divergence by plain iterations in float64."""

    def cost(x, y, a, b):
        c = ((x[:, None] - y[None]) ** 2).sum(-1)
        f, g = np.zeros(len(x)), np.zeros(len(y))
        for _ in range(20000):
            f = -epsilon * np.log((b * np.exp((g - c) / epsilon)).sum(1))
            g = -epsilon * np.log((a[:, None] * np.exp((f[:, None] - c) / epsilon)).sum(0))
        return a @ f + b @ g

    a, b = np.full(len(x), 1 / len(x)) if a is None else a, np.full(len(y), 1 / len(y)) if b is None else b
    return cost(x, y, a, b) - cost(x, x, a, a) / 2 - cost(y, y, b, b) / 2


@needs_ott
def test_sinkhorn_is_the_divergence_and_its_gradient():
    x, y = (np.asarray(a, np.float64) for a in (cloud(0, 4, 2), cloud(1, 5, 2, shift=1.0)))
    a, b = (np.random.default_rng(0).dirichlet(np.ones(n)) for n in (4, 5))
    f = lambda x, y, a, b, epsilon=0.5: losses.sinkhorn_divergence(  # noqa: E731
        x, y, epsilon=epsilon, relative=False, tolerance=1e-6, prediction_weights=a, target_weights=b
    )
    single = [jnp.asarray(z, jnp.float32) for z in (x, y, a, b)]
    value, gradients = quick(jax.value_and_grad(f, argnums=(0, 1, 2, 4)))(*single, jnp.float32(0.5))
    np.testing.assert_allclose(value, sinkhorn(x, y, 0.5, a, b), rtol=1e-5)
    step = 1e-5
    for i, j in ((0, 0), (1, 1), (3, 0)):
        moved = np.zeros_like(x)
        moved[i, j] = step
        right = (sinkhorn(x + moved, y, 0.5, a, b) - sinkhorn(x - moved, y, 0.5, a, b)) / (2 * step)
        np.testing.assert_allclose(gradients[0][i, j], right, rtol=1e-3, atol=1e-5)
    by_epsilon = (sinkhorn(x, y, 0.5 + step, a, b) - sinkhorn(x, y, 0.5 - step, a, b)) / (2 * step)
    np.testing.assert_allclose(gradients[3], by_epsilon, rtol=1e-3)


@needs_ott
def test_sinkhorn_is_that_of_ott_and_ends_in_its_limits():
    x, y = cloud(0, 5, 2), cloud(1, 5, 2, shift=1.0)
    from lossax.losses import _transport

    pointcloud, tool = _transport._solver()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs, _ = tool.sinkhorn_divergence(pointcloud.PointCloud, x=x, y=y, epsilon=0.5)
    np.testing.assert_allclose(losses.sinkhorn_divergence(x, y, epsilon=0.5, relative=False), theirs, rtol=1e-4)
    means = np.sum((x.mean(0) - y.mean(0)) ** 2)
    np.testing.assert_allclose(losses.sinkhorn_divergence(x, y, epsilon=1e4), means, rtol=2e-2)
    line = losses.sinkhorn_divergence(x[:, :1], y[:, :1], epsilon=1e-3)
    np.testing.assert_allclose(line, losses.wasserstein_1d(x[:, 0], y[:, 0], p=2.0), rtol=2e-2)


@needs_ott
def test_sinkhorn_masks_sweeps_and_batches():
    x, y = cloud(0, 5, 2), cloud(1, 4, 2, shift=1.0)
    weights = np.array([1, 1, 0, 1, 1], np.float32)
    spoiled = np.where(weights[:, None] == 0, np.nan, x)
    divergence = losses.sinkhorn_divergence
    run = quick(lambda x, epsilon: divergence(x, y, epsilon=epsilon))
    whole = quick(lambda x: divergence(x, y))(x[weights > 0])
    value, gradient = quick(jax.value_and_grad(lambda x: divergence(x, y, prediction_weights=weights)))(spoiled)
    np.testing.assert_allclose(value, whole, rtol=1e-4)
    assert np.isfinite(gradient).all()
    swept = quick(jax.vmap(lambda e: divergence(x, y, epsilon=e)))(jnp.array([0.05, 0.5]))
    np.testing.assert_allclose(swept, [run(x, e) for e in (0.05, 0.5)], rtol=1e-4)
    batch = np.stack([x, np.full_like(x, np.nan)]), np.stack([y, y])
    units = quick(lambda x, y: divergence(x, y, where=np.array([True, False]), reduction="none"))(*batch)
    np.testing.assert_allclose(units, [quick(lambda x: divergence(x, y))(x), 0], rtol=1e-4)
    assert losses.sinkhorn_divergence(x, x) == 0
