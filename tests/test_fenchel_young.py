"""Sparse probabilities and their losses beyond the contract: the maps, their derivatives, a fit is 0, peers' faults."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import activations, losses
from tests import vocabulary as v
from tests.oracles import entmax as oracle

ALPHAS = [1.05, 1.0, 1.001, 1.25, 1.5, 1.75, 2.0]
SOFT = {"sparsemax": losses.sparsemax, "entmax": losses.entmax}
HARD = {
    "sparsemax": losses.sparsemax_with_integer_labels,
    "entmax": losses.entmax_with_integer_labels,
}


def rows(seed=0, units=(12,), classes=5, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(*units, classes))).astype(np.float32)
    return logits, rng.integers(0, classes, size=units), rng.dirichlet(np.ones(classes), size=units).astype(np.float32)


def exact(row, alpha):
    with mpmath.workdps(40):
        return oracle._entmax([mpmath.mpf(float(x)) for x in row], mpmath.mpf(float(np.float32(alpha))))


def jitted(alpha):
    """The map with a Python number, a program of its own, and with an array, which any alpha shares."""
    yield jax.jit(lambda z: activations.entmax(z, alpha=alpha))
    yield lambda z: jax.jit(lambda z, a: activations.entmax(z, alpha=a))(z, jnp.float32(alpha))


# ---- the maps --------------------------------------------------------------------------------------------------------


@pytest.mark.sampled
@pytest.mark.parametrize("alpha", ALPHAS)
def test_probabilities_are_exact(alpha):
    """Within 4 ulp of the largest of a row, zeros included, known alpha or traced."""
    logits, _, _ = rows()
    logits[:3] += np.array([[8.0, 0, 0, 0, 0]], np.float32)
    truth = [exact(row, alpha) for row in logits]
    for f in jitted(alpha):
        p = f(logits)
        for row, right in zip(p, truth, strict=True):
            assert all(v.ulps(a, b, float(max(right))) <= 4 for a, b in zip(row, right, strict=True))
            assert [a == 0 for a in row] == [b == 0 for b in right]


@pytest.mark.parametrize("alpha", [1.0, 1.2, 2.0])
def test_hostile_rows(alpha):
    big = v.LARGEST
    hostile = np.array(
        [
            [0, 0, 0, 0],
            [1e30, 1e30, 1e30, -1e30],
            [big, -big, 0, big],
            [-big, -big, -np.inf, -big],
            [-np.inf, 3, -np.inf, -np.inf],
            [1e-30, 0, -1e-30, 0],
            [1e8, 1e8, -np.inf, 0],
        ],
        np.float32,
    )
    expected = [
        [1 / 4] * 4,
        [1 / 3, 1 / 3, 1 / 3, 0],
        [1 / 2, 0, 0, 1 / 2],
        [1 / 3, 1 / 3, 0, 1 / 3],
        [0, 1, 0, 0],
        [1 / 4] * 4,
        [1 / 2, 1 / 2, 0, 0],
    ]
    for f in jitted(alpha):
        np.testing.assert_allclose(f(hostile), expected, rtol=3e-7)
        square = lambda z, f=f: jnp.sum(f(z) ** 2)  # noqa: E731
        every = v.quick(lambda z, f=f, g=square: (jax.jacfwd(f)(z), jax.jacrev(f)(z), jax.hessian(g)(z)))(hostile)
        assert all(np.isfinite(j).all() for j in every)
    assert not np.any(activations.entmax(np.full((2, 3), -np.inf, np.float32), alpha=alpha)), "no class, no probability"


@pytest.mark.sampled
@pytest.mark.parametrize("alpha", [1.3, 1.0, 1.5, 2.0])
@pytest.mark.parametrize(
    "row",
    [
        np.zeros(100_000),
        -np.arange(100_000) / 1e5,
        -(0.9 ** np.arange(300)),
        -1 + 0.9 ** np.arange(300),
        np.random.default_rng(0).normal(size=50_000),
    ],
    ids=["ties", "linear", "crowded", "thinning", "normal"],
)
def test_long_rows_sum_to_one(alpha, row):
    """Newton's method ends and keeps its digits where many thousand classes share the probability."""
    for f in jitted(alpha):
        p = np.asarray(f(row.astype(np.float32)), np.float64)
        assert abs(p.sum() - 1) < 1e-6
        if not np.ptp(row):
            np.testing.assert_allclose(p, 1 / len(row), rtol=1e-6)


@pytest.mark.sampled
@pytest.mark.parametrize("alpha", [1.8, 1.0, 1.5, 2.0])
def test_derivatives_of_the_map(alpha):
    """diag(s) - s s^T / sum s with s = p^(2 - alpha), and by alpha against exact differences, at the limits too."""
    with jax.enable_x64(True):
        logits = jnp.asarray(rows(3, (6,))[0], jnp.float64)
        f = lambda z, a: activations.entmax(z, alpha=a)  # noqa: E731
        p = f(logits, alpha)
        s = np.where(p > 0, np.where(p > 0, p, 1) ** (2 - alpha), 0)
        expected = s[:, :, None] * np.eye(5) - s[:, :, None] * s[:, None, :] / s.sum(-1)[:, None, None]
        with mpmath.workdps(60):
            step = mpmath.mpf(10) ** -25 * (-1 if alpha == 2 else 1)
            differences = []
            for row in logits:
                z = [mpmath.mpf(float(x)) for x in row]
                moved, here = (oracle._entmax(z, mpmath.mpf(alpha) + by) for by in (step, 0))
                differences.append([float((a - b) / step) for a, b in zip(moved, here, strict=True)])
        for jacobian in (jax.jacfwd, jax.jacrev):

            def every(z, a, jacobian=jacobian):
                known = jax.vmap(jacobian(lambda z: f(z, alpha)))(z)
                return known, jax.vmap(jacobian(f), (0, None))(z, a), jacobian(f, argnums=1)(z, a)

            known, traced, by_alpha = v.quick(every)(logits, jnp.float64(alpha))
            np.testing.assert_allclose(known, expected, atol=1e-13)
            np.testing.assert_allclose(traced, expected, atol=1e-13)
            np.testing.assert_allclose(by_alpha, differences, atol=1e-12)


def test_alpha_of_each_row():
    logits = rows(4, (3, 4))[0]
    alpha = np.linspace(1, 2, 12, dtype=np.float32).reshape(3, 4)
    p = activations.entmax(logits, alpha=alpha)
    one = v.quick(lambda z, a: activations.entmax(z, alpha=a))
    for index in np.ndindex(3, 4):
        np.testing.assert_allclose(p[index], one(logits[index], alpha[index]), rtol=1e-6)
    np.testing.assert_allclose(activations.entmax(logits, alpha=1.0), jax.nn.softmax(logits), rtol=1e-6)
    np.testing.assert_array_equal(activations.entmax(logits, alpha=2.0), activations.sparsemax(logits))
    slope = jax.grad(lambda a: losses.entmax_with_integer_labels(logits, np.zeros((3, 4), int), alpha=a))(alpha)
    assert slope.shape == (3, 4)
    assert np.isfinite(slope).all()
    for wrong, message in ((0.9, r"alpha must be in \[1, 2\]"), (2.5, "alpha"), (np.ones(5), "alpha")):
        with pytest.raises(ValueError, match=message):
            activations.entmax(logits, alpha=wrong)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    logits = jnp.asarray(rows()[0], dtype)
    for f in (activations.sparsemax, activations.entmax):
        assert f(logits).dtype == jnp.float32
        np.testing.assert_array_equal(f(logits), f(logits.astype(jnp.float32)))
        assert jax.grad(lambda z, f=f: jnp.sum(f(z) ** 2))(logits).dtype == dtype


# ---- the losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HARD)
def test_a_lead_is_a_fit(name):
    """Exactly 0 with a gradient of exactly 0 once the label leads by 1 / (alpha - 1), and not before."""
    lead = 1.0 if name == "sparsemax" else 2.0
    logits = np.float32([[lead, 0, -3], [80, 80 - lead, 0], [lead - 0.25, 0, 0]])
    values = HARD[name](logits, np.zeros(3, int), reduction="none")
    gradient = jax.grad(lambda z: HARD[name](z, np.zeros(3, int), reduction="sum"))(logits)
    np.testing.assert_array_equal(values[:2], 0)
    np.testing.assert_array_equal(gradient[:2], 0)
    assert values[2] > 0
    np.testing.assert_allclose(values, SOFT[name](logits, np.float32([[1, 0, 0]] * 3), reduction="none"), rtol=3e-7)


def test_soft_targets_that_are_met_cost_nothing():
    logits = rows(5)[0]
    for alpha in (1.0, 1.25, 1.5, 2.0):

        def both(z, p, a=alpha):
            f = lambda z: losses.entmax(z, p, alpha=a, reduction="none")  # noqa: E731
            return f(z), jax.grad(lambda z: jnp.sum(f(z)))(z)

        values, gradient = v.quick(both)(logits, v.quick(lambda z, a=alpha: activations.entmax(z, alpha=a))(logits))
        assert np.all((values >= 0) & (values < 1e-13))
        assert np.max(np.abs(gradient)) < 2e-7
    assert losses.sparsemax(np.float32([1, 0.5, -1]), np.float32([0.75, 0.25, 0])) == 0


@pytest.mark.sampled
@pytest.mark.parametrize("alpha", [1.2, 1.0, 1.5, 2.0])
def test_gradient_and_curvature(alpha):
    """p - y and the Jacobian of the map; m p - y for a row of total m."""
    with jax.enable_x64(True):
        logits, _, targets = (jnp.asarray(a, jnp.float64) for a in rows(6, (5,)))
        targets = targets * jnp.array([1, 1, 2, 0.5, 0])[:, None]
        f = lambda z: losses.entmax(z, targets, alpha=alpha, reduction="sum")  # noqa: E731
        map_ = lambda z: activations.entmax(z, alpha=alpha)  # noqa: E731
        every = v.quick(lambda z: (map_(z), jax.grad(f)(z), jax.hessian(f)(z), jax.vmap(jax.jacrev(map_))(z)))
        p, gradient, hessian, jacobian = every(logits)
        total = targets.sum(-1, keepdims=True)
        np.testing.assert_allclose(gradient, total * p - targets, atol=1e-13)
        np.testing.assert_allclose(jnp.einsum("iaib->iab", hessian), total[..., None] * jacobian, atol=1e-13)


@pytest.mark.sampled
@pytest.mark.parametrize("alpha", [1.2, 1.0, 1.5, 2.0])
def test_alpha_can_be_learned(alpha):
    with jax.enable_x64(True):
        logits, labels, targets = rows(7, (5,))
        for second, loss in ((labels, losses.entmax_with_integer_labels), (targets, losses.entmax)):
            z, y = jnp.asarray(logits, jnp.float64), jnp.asarray(second)
            f = lambda a, loss=loss, z=z, y=y: loss(z, y, alpha=a, reduction="sum")  # noqa: E731
            slope = v.quick(jax.grad(f))(jnp.float64(alpha))
            truth = mpmath.mpf(0)
            with mpmath.workdps(60):
                step = mpmath.mpf(10) ** -25 * (-1 if alpha == 2 else 1)
                exacts = np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])
                t = labels if second is labels else exacts(np.asarray(targets, np.float64))
                moved = oracle.entmax(exacts(np.asarray(z)), t, alpha=alpha + step)
                truth = mpmath.fsum(moved - oracle.entmax(exacts(np.asarray(z)), t, alpha=mpmath.mpf(alpha))) / step
            np.testing.assert_allclose(slope, float(truth), rtol=1e-10)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_never_negative(dtype):
    logits, labels, targets = rows(8, (4000,), classes=3, scale=0.7)
    logits = jnp.asarray(logits, dtype)
    for alpha in (1.0, 1.1, 1.5, 2.0):
        of_labels = lambda z, y, a=alpha: losses.entmax_with_integer_labels(z, y, alpha=a, reduction="none")  # noqa: E731
        of_targets = lambda z, t, a=alpha: losses.entmax(z, t, alpha=a, reduction="none")  # noqa: E731
        for value in (v.quick(of_labels)(logits, labels), v.quick(of_targets)(logits, targets)):
            assert np.isfinite(value).all()
            assert (np.asarray(value) >= 0).all()


def test_the_ends_are_the_losses_one_knows():
    logits, labels, targets = rows(9)
    cross = losses.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="none")
    np.testing.assert_allclose(
        losses.entmax_with_integer_labels(logits, labels, alpha=1.0, reduction="none"), cross, rtol=2e-6
    )
    entropy = -np.sum(targets * np.log(targets), axis=-1)
    soft = losses.softmax_cross_entropy(logits, targets, reduction="none") - entropy
    np.testing.assert_allclose(losses.entmax(logits, targets, alpha=1.0, reduction="none"), soft, rtol=1e-5)
    for second, entmax, sparsemax in ((labels, HARD["entmax"], HARD["sparsemax"]), (targets, *SOFT.values())):
        if second is targets:
            entmax, sparsemax = sparsemax, entmax
        np.testing.assert_array_equal(entmax(logits, second, alpha=2.0), sparsemax(logits, second))
        np.testing.assert_allclose(entmax(logits, second, alpha=jnp.float32(2)), sparsemax(logits, second), rtol=1e-6)


# ---- peers -----------------------------------------------------------------------------------------------------------


def test_optax_projection():
    optax = pytest.importorskip("optax")
    logits = rows(10, (20,))[0]
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.vmap(optax.projections.projection_simplex)(logits)
    np.testing.assert_allclose(activations.sparsemax(logits), expected, atol=3e-7)


def test_optax_sparsemax():
    """The binary one is that of the logits (0, z); the multiclass one is the same."""
    optax = pytest.importorskip("optax")
    z, t = np.linspace(-3, 3, 25, dtype=np.float32), np.arange(25) % 2
    two = np.stack([np.zeros_like(z), z], axis=-1)
    ours = losses.sparsemax_with_integer_labels(two, t, reduction="none")
    logits, labels, _ = rows(11)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(ours, optax.losses.sparsemax_loss(jnp.asarray(z), jnp.asarray(t)), atol=3e-7)
        theirs = optax.losses.multiclass_sparsemax_loss(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(
        losses.sparsemax_with_integer_labels(logits, labels, reduction="none"), theirs, rtol=1e-5, atol=1e-6
    )


def test_sparsemax_in_half_precision_can_be_differentiated():
    """Optax' raises a TypeError from JAX' internals, is negative, and takes any label."""
    logits = jnp.asarray(rows(12, (3, 4))[0], jnp.bfloat16)
    labels = rows(12, (3, 4))[1]
    gradient = jax.grad(lambda z: losses.sparsemax_with_integer_labels(z, labels, reduction="sum"))(logits)
    wide = activations.sparsemax(logits) - jax.nn.one_hot(labels, 5)
    np.testing.assert_array_equal(gradient, wide.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match="labels must be in"):
        losses.sparsemax_with_integer_labels(logits, labels + 5)


def test_the_entropy_that_optax_omits():
    """At the fit z = log y its Fenchel-Young loss is the entropy of y; with Omega(y) it is 0 there, and only there."""
    optax = pytest.importorskip("optax")
    targets = rows(13)[2]
    logits = np.log(targets)
    negentropy = lambda y: jnp.sum(jax.scipy.special.xlogy(y, y))  # noqa: E731
    ours = lambda z, **o: losses.fenchel_young(  # noqa: E731
        z, targets, conjugate=jax.nn.logsumexp, reduction="none", **o
    )
    theirs = optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)(jnp.asarray(logits), jnp.asarray(targets))
    entropy = -np.sum(targets * logits, axis=-1)
    np.testing.assert_allclose(theirs, entropy, rtol=1e-5)
    np.testing.assert_allclose(ours(logits), theirs, rtol=1e-5)
    full = ours(logits, negentropy=negentropy)
    assert np.all((full >= 0) & (full < 1e-6))
    assert np.all(ours(logits + rows(14)[0], negentropy=negentropy) > 1e-3)
    g, h = (jax.grad(lambda z, o=o: jnp.sum(ours(z, **o)))(logits) for o in ({}, {"negentropy": negentropy}))
    np.testing.assert_array_equal(g, h)
    np.testing.assert_allclose(g, jax.nn.softmax(logits) - targets, atol=3e-7)


def test_a_missing_part_against_a_zero_target():
    """Optax gives NaN."""
    z, y = np.float32([0, -np.inf, 1]), np.float32([0.25, 0, 0.75])
    loss = lambda z, y: losses.fenchel_young(z, y, conjugate=jax.nn.logsumexp)  # noqa: E731
    np.testing.assert_allclose(loss(z, y), loss(z[[0, 2]], y[[0, 2]]), rtol=1e-6)
    assert all(np.isfinite(g).all() for g in jax.grad(loss, argnums=(0, 1))(z, y))


def test_any_convex_function_will_do():
    """Sparsemax from its conjugate, and the marginals of a structure: an assignment of two to two."""
    logits, _, targets = rows(15)

    def conjugate(z):
        p = activations.sparsemax(z)
        return jnp.sum(p * z) - 0.5 * jnp.sum(p * p)

    value = losses.fenchel_young(logits, targets, conjugate=conjugate, negentropy=lambda y: 0.5 * jnp.sum(y * y))
    np.testing.assert_allclose(value, losses.sparsemax(logits, targets), rtol=1e-4)

    def assignments(z):  # scores (a to 1, a to 2, b to 1, b to 2)
        return jnp.logaddexp(z[0] + z[3], z[1] + z[2])

    z, y = np.float32([1, 0, 0, 1]), np.float32([1, 0, 0, 1])
    gradient = jax.grad(lambda z: losses.fenchel_young(z, y, conjugate=assignments))(z)
    right = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(gradient, [right - 1, 1 - right, 1 - right, right - 1], rtol=1e-5)
    with pytest.raises(TypeError, match="conjugate"):
        losses.fenchel_young(z, y, conjugate=1.0)  # pyright: ignore[reportArgumentType]
