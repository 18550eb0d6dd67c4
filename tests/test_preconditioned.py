"""What only the optimizers with preconditioners promise, and the eigenvectors and roots that they stand on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossax
from lossax import _linalg
from tests.oracles.muon import orthogonal
from tests.vocabulary import quick

NAMES = ("soap", "kl_shampoo", "shampoo", "psgd_kron")
every = pytest.mark.parametrize("name", NAMES)


def moment(values, seed=0):
    """A matrix with these eigenvalues, and its eigenvectors."""
    vectors, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))
    return (vectors * values) @ vectors.T, vectors


@pytest.mark.parametrize("shape", [(6, 4, 4), (6, 3, 8), (5, 3, 8)])
@pytest.mark.parametrize("cached", [2**19, 0])
def test_newton_schulz_of_some_at_a_time(cached, shape, monkeypatch):
    """All matrices together, in pairs, or one after the other: polynomials of their singular values."""
    monkeypatch.setattr(_linalg, "_CACHED", cached)
    x, steps = np.random.default_rng(0).normal(size=shape), 4
    found = quick(lambda x: _linalg.newton_schulz(x, _linalg.polynomials("quintic", steps), 1e-8))(np.float32(x))
    np.testing.assert_allclose(found, [orthogonal(one, "quintic", steps) for one in x], atol=2e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("rank", [1, 5, 8])
@pytest.mark.parametrize("exponent", [0.25, 0.5])
def test_inverse_roots(exponent, rank, scale):
    """Of any rank and size; 1e-4 relative, as a condition of a million allows."""
    values = np.where(np.arange(8) < rank, np.geomspace(1.0, 1e-3, 8), 0.0)
    matrix, vectors = moment(values)
    found = _linalg.inverse_root(
        jnp.asarray(scale * matrix, jnp.float32)[None], jnp.float32(exponent), jnp.float32(1e-6)
    )
    right = (vectors * (scale * (values + 1e-6)) ** -exponent) @ vectors.T
    np.testing.assert_allclose(found[0], right, atol=1e-4 * np.abs(right).max())


def test_the_inverse_root_of_nothing_is_the_identity():
    found = _linalg.inverse_root(jnp.zeros((2, 3, 3)), jnp.float32(0.25), jnp.float32(0.0))
    np.testing.assert_array_equal(np.abs(found), np.broadcast_to(np.eye(3), (2, 3, 3)))


def test_bases_approach_eigenvectors_and_stay_orthonormal():
    matrix, vectors = moment(4.0 ** -np.arange(5.0))
    matrix, basis = jnp.asarray(matrix, jnp.float32)[None], jnp.eye(5)[None]
    for _ in range(12):
        basis, order = _linalg.refined_basis(matrix, basis)
        np.testing.assert_allclose(basis[0].T @ basis[0], np.eye(5), atol=2e-6)
    assert order[0].tolist() == list(range(5))
    np.testing.assert_allclose(np.abs(vectors.T @ basis[0]), np.eye(5), atol=1e-3)
    values, exact = _linalg.eigenbasis(matrix)
    np.testing.assert_allclose(values[0], 4.0 ** -np.arange(5.0), rtol=1e-4)
    np.testing.assert_allclose(np.abs(vectors.T @ exact[0]), np.eye(5), atol=1e-3)


@pytest.mark.parametrize("dead", [False, True])
def test_spectral_bound(dead):
    matrix, _ = moment(np.zeros(6) if dead else np.geomspace(1.0, 1e-2, 6))
    found = float(_linalg.spectral_bound(jnp.asarray(matrix, jnp.float32)[None])[0])
    assert found == 0 if dead else 0.7 < found <= 1.0 + 1e-6


def insides(equation):
    """The programs inside an equation."""
    for value in equation.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield getattr(inner, "jaxpr", inner)


def primitives(jaxpr, inside=()):
    """Every primitive, and the conditions it stands under."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, inside
        for inner in insides(equation):
            yield from primitives(inner, (*inside, equation.primitive.name))


LAPACK = {"cholesky", "eig", "eigh", "geqrf", "geqp3", "householder_product", "lu", "svd", "triangular_solve"}


def assert_one_after_another(jaxpr):
    """No two calls of LAPACK, which wait for one another if they run at once, and for ever on few cores."""
    behind: dict = {}  # variable -> calls that it waits for
    calls: list[int] = []
    for i, equation in enumerate(jaxpr.eqns):
        waits = set().union(*(behind.get(x, ()) for x in equation.invars if not hasattr(x, "val")))
        if equation.primitive.name in LAPACK or any(
            name in LAPACK for inner in insides(equation) for name, _ in primitives(inner)
        ):
            assert waits.issuperset(calls), f"{equation.primitive.name} does not wait for all calls before it"
            waits.add(i)
            calls.append(i)
        for inner in insides(equation):
            assert_one_after_another(inner)
        behind.update(dict.fromkeys(equation.outvars, waits))
    return calls


PROJECTED = lossax.transforms.project_low_rank(lossax.optimizers.scale_by_adam(), rank=2)
CALLERS = {name: getattr(lossax.optimizers, name)(0.1) for name in (*NAMES, "muon", "scion")}
CALLERS |= {"dion": lossax.optimizers.dion(0.1, rank=2), "project_low_rank": PROJECTED}


@pytest.mark.parametrize("name", CALLERS)
def test_lapack_is_called_by_one_at_a_time(name):
    """Matrices of three shapes: what works on one waits for what works on another."""
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((5, 2)), "c": jnp.ones((2, 7, 4)), "d": jnp.ones((3, 3))}
    tx = CALLERS[name]
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params).jaxpr
    calls = assert_one_after_another(jaxpr)
    assert bool(calls) == (name not in ("psgd_kron", "muon", "scion"))


@every
def test_other_steps_pay_for_no_refresh(name):
    params = jnp.ones((4, 3))
    tx = getattr(lossax.optimizers, name)(0.1)
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params).jaxpr
    dear = [inside for found, inside in primitives(jaxpr) if found in ("eigh", "qr", "geqrf", "householder_product")]
    assert all("cond" in inside for inside in dear)
    assert bool(dear) == (name != "psgd_kron")


@every
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_one_gradient_of_any_size_leaves_numbers(name, size):
    """The size of it is forgotten as fast as averages forget; no state is infinite or not a number."""
    rng = np.random.default_rng(0)
    tx = getattr(lossax.optimizers, name)(0.1)
    params = jnp.zeros((4, 3))
    state, step = tx.init(params), quick(tx.update)
    for i in range(14):
        g = jnp.asarray(rng.normal(size=(4, 3)) * (size if i in (0, 5) else 1.0), jnp.float32)
        updates, state = step(g, state, params)
        for leaf in jax.tree.leaves((updates, state)):
            assert np.all(np.isfinite(leaf))


def kronecker(count, seed=0):
    """Gradients whose covariance is that of rows times that of columns, and both."""
    rng = np.random.default_rng(seed)
    left, right = moment(np.geomspace(4.0, 0.25, 3), 1)[0], moment(np.geomspace(9.0, 1.0, 4), 2)[0]
    drawn = np.linalg.cholesky(left) @ rng.normal(size=(count, 3, 4)) @ np.linalg.cholesky(right).T
    return jnp.asarray(drawn, jnp.float32), left, right


@pytest.mark.parametrize("factors", ["quad", "triangular"])
def test_psgd_whitens(factors):
    """The covariance of what it makes of gradients becomes the identity."""
    drawn, left, right = kronecker(3000)
    tx = lossax.optimizers.scale_by_psgd_kron(b1=0.0, update_probability=1.0, factor_rate=0.03, factors=factors)
    state = quick(lambda g: jax.lax.scan(lambda s, g: (tx.update(g, s)[1], None), tx.init(g[0]), g)[0])(drawn)
    rows, columns = (np.asarray(factor.value[0], np.float64) for factor in state.matrices.factors["3x4"])
    white = (
        np.kron(rows.T @ rows, columns.T @ columns) @ np.kron(left, right) @ np.kron(rows.T @ rows, columns.T @ columns)
    )
    np.testing.assert_allclose(white, np.eye(12), atol=0.35)


def test_kl_shampoo_finds_both_covariances():
    """Their product, for what belongs to which is not determined."""
    drawn, left, right = kronecker(3000)
    tx = lossax.optimizers.scale_by_kl_shampoo(b2=0.998)
    state = quick(lambda g: jax.lax.scan(lambda s, g: (tx.update(g, s)[1], None), tx.init(g[0]), g)[0])(drawn)
    rows, columns = state.matrices.sides["3x4"]
    found, exact = np.kron(rows.moment[0], columns.moment[0]), np.kron(left, right)
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact)
    for side in (rows, columns):
        measured = np.diag(side.basis[0].T @ side.moment[0] @ side.basis[0])
        np.testing.assert_allclose(side.values[0], measured, rtol=0.05)
