"""Regularizers: oracle, masks, trees of frameworks, dtypes, peers."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import lossax
from lossax import regularizers
from tests import vocabulary as v
from tests.oracles import oracles
from tests.vocabulary import quick

FUNCTIONS = {
    "l1": regularizers.l1,
    "l2": regularizers.l2,
    "elastic_net": lambda params, **kwargs: regularizers.elastic_net(params, ratio=0.25, **kwargs),
}
HYPER = {"l1": {}, "l2": {}, "elastic_net": {"ratio": mpmath.mpf("0.25")}}
every = pytest.mark.parametrize("name", FUNCTIONS)


def params(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "dense": {"kernel": rng.normal(size=(3, 4)).astype(dtype), "bias": rng.normal(size=4).astype(dtype)},
        "norm": {"scale": rng.normal(size=4).astype(dtype)},
    }


def exact(tree):
    number = np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])
    return jax.tree.map(lambda leaf: number(np.asarray(leaf, np.float64)), tree)


@every
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_value_is_exact_and_wide(name, dtype):
    tree = jax.tree.map(lambda x: jnp.asarray(x, dtype), params())
    value = FUNCTIONS[name](tree)
    assert value.dtype == jnp.float32
    assert v.ulps(value, oracles()[name](exact(tree), **HYPER[name])) <= 4
    gradient = quick(jax.grad(FUNCTIONS[name]))(tree)
    assert all(g.dtype == dtype for g in jax.tree.leaves(gradient))
    assert quick(FUNCTIONS[name])(tree) == pytest.approx(float(value), rel=1e-6)


@every
def test_gradient(name):
    w = jnp.array([0.0, 2.0, -3.0, 1e-30])
    slope = {"l1": np.sign(w), "l2": 2 * w, "elastic_net": 0.25 * np.sign(w) + 0.75 * w}[name]
    np.testing.assert_allclose(quick(jax.grad(FUNCTIONS[name]))({"w": w})["w"], slope, rtol=1e-6)
    assert np.isfinite(quick(jax.hessian(FUNCTIONS[name]))(w)).all()
    forward, reverse = quick(jax.jacfwd(FUNCTIONS[name]))(w), quick(jax.jacrev(FUNCTIONS[name]))(w)
    np.testing.assert_array_equal(forward, reverse)


@every
def test_masks(name):
    tree, f = params(), FUNCTIONS[name]
    only_kernel = f({"kernel": tree["dense"]["kernel"]})
    rules = [
        lossax.path_mask(exclude="bias|scale|norm"),
        {"dense": {"kernel": True, "bias": False}, "norm": {"scale": False}},
        lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
        jax.tree.map(jnp.asarray, {"dense": {"kernel": True, "bias": False}, "norm": {"scale": False}}),
    ]
    masked = quick(lambda p: [jax.value_and_grad(lambda p, mask=mask: f(p, mask=mask))(p) for mask in rules])
    for value, gradient in masked(tree):
        assert value == only_kernel
        assert not np.any(gradient["norm"]["scale"])
        assert np.all(gradient["dense"]["kernel"])
    tree["norm"]["scale"] = np.full(4, np.nan, np.float32)
    value, gradient = quick(jax.value_and_grad(lambda p: f(p, mask=rules[0])))(tree)
    assert value == only_kernel
    assert not np.any(gradient["norm"]["scale"])


@every
def test_trees(name):
    f = FUNCTIONS[name]
    for empty in ({}, None, [], {"a": None, "b": jnp.arange(3)}, {"w": jnp.zeros((0, 3))}):
        assert f(empty) == 0
        assert f(empty).dtype == jnp.float32
    mixed = {"w": jnp.array([3.0, -4.0]), "steps": jnp.arange(3), "act": jax.nn.relu, "name": "dense", "none": None}
    assert f(mixed) == f([jnp.array([3.0, -4.0])]) == f((3.0, -4.0))
    scalar = f({"a": jnp.bfloat16(3.0), "b": jnp.float32(-4.0)})
    assert scalar.shape == ()
    assert scalar == f([jnp.array([3.0, -4.0])])
    with jax.enable_x64(True):
        wide = f({"a": jnp.array([3.0, -4.0], jnp.float64), "b": jnp.ones(2, jnp.bfloat16)})
        assert wide.dtype == jnp.float64


@every
def test_frameworks(name):
    nnx, eqx = pytest.importorskip("flax.nnx"), pytest.importorskip("equinox")
    f = FUNCTIONS[name]
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    assert f(model) == pytest.approx(float(f(arrays)), rel=1e-6)
    weights = f(model, mask=lossax.path_mask(exclude="bias"))
    assert weights == pytest.approx(float(f([a for a in arrays if a.ndim == 2])), rel=1e-6)
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    assert f(state, mask=lossax.path_mask(include="kernel$")) == pytest.approx(float(f(state)), rel=1e-6)


@every
def test_complex(name):
    z = jnp.array([3 + 4j, 0j])
    value, gradient = quick(jax.value_and_grad(FUNCTIONS[name]))([z])
    assert value == {"l1": 5.0, "l2": 25.0, "elastic_net": 1.25 + 0.375 * 25}[name]
    assert value.dtype == jnp.float32
    slope = {"l1": 0.6 - 0.8j, "l2": 6 - 8j, "elastic_net": 0.25 * (0.6 - 0.8j) + 0.75 * (3 - 4j)}[name]
    np.testing.assert_allclose(gradient[0], [slope, 0], rtol=1e-6)
    second = jax.jvp(jax.grad(lambda x: FUNCTIONS[name](x)), (z,), (jnp.ones_like(z),))[1]
    assert np.isfinite(second).all()


def test_added_to_a_loss():
    tree = params(np.float16)

    def objective(p, strength):
        return (
            lossax.losses.huber(p["dense"]["bias"], jnp.zeros(4))
            + 1e-4 * regularizers.l2(p)
            + strength * regularizers.l1(p)
        )

    value, gradient = quick(jax.value_and_grad(objective))(tree, jnp.float32(1e-3))
    assert value.dtype == jnp.float32
    assert gradient["dense"]["kernel"].dtype == np.float16


def test_large_16_bit_leaves_do_not_overflow():
    leaf = jnp.full((512, 512), 4.0, jnp.float16)
    assert regularizers.l2([leaf]) == 16 * 512 * 512
    assert regularizers.l1([jnp.full((4096,), 1.0, jnp.bfloat16)]) == 4096


def test_ratio():
    ratios = jnp.array([0.0, 0.3, 1.0])
    w = jnp.array([3.0, -4.0])
    swept = quick(jax.vmap(lambda r: regularizers.elastic_net(w, ratio=r)))(ratios)
    np.testing.assert_allclose(swept, [12.5, 0.3 * 7 + 0.7 * 12.5, 7.0], rtol=1e-6)
    assert quick(jax.grad(lambda r: regularizers.elastic_net(w, ratio=r)))(0.3) == pytest.approx(7 - 12.5)
    assert regularizers.elastic_net(w, ratio=np.float64(0.3)).dtype == jnp.float32
    for wrong in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="ratio must be in"):
            regularizers.elastic_net(w, ratio=wrong)


def test_the_penalty_of_scikit_learn():
    """At its optimum the gradient of the whole objective vanishes where a weight is not 0, and is small where it is."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6))
    y = x @ np.array([2.0, -1.0, 0.0, 0.0, 0.5, 0.0]) + 0.1 * rng.normal(size=64)
    model = linear_model.ElasticNet(alpha=0.1, l1_ratio=0.4, fit_intercept=False, tol=1e-12, max_iter=100000).fit(x, y)
    with jax.enable_x64(True):

        def objective(w):
            penalty = 0.1 * regularizers.elastic_net(w, ratio=0.4)
            return 0.5 * lossax.losses.squared_error(jnp.asarray(x) @ w, jnp.asarray(y)) + penalty

        gradient = np.asarray(quick(jax.grad(objective))(jnp.asarray(model.coef_)))
    assert np.abs(gradient[model.coef_ != 0]).max() < 1e-7
    assert (np.abs(gradient[model.coef_ == 0]) <= 0.1 * 0.4).all()


def test_weight_decay_of_torch():
    torch = pytest.importorskip("torch")
    w = torch.tensor([3.0, -4.0], requires_grad=True)
    sgd = torch.optim.SGD([w], lr=1.0, weight_decay=0.25)
    w.grad = torch.zeros(2)
    sgd.step()
    step = quick(jax.grad(lambda w: 0.25 / 2 * regularizers.l2(w)))(jnp.array([3.0, -4.0]))
    np.testing.assert_allclose(w.detach().numpy(), np.array([3.0, -4.0]) - step)
