"""Promise O10: state lives where its parameters live, on automatic and explicit meshes, and a step compiles once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import lossax
from lossax.sharding import state_shardings
from tests import vocabulary as v
from tests.test_optimizers import EXTRA, build, quadratic

SPECS = {"w": P("data", "model"), "b": [P("model")], "s": P(), "stack": P(None, "data")}
SMALL: dict[str, Any] = {"min_dim_size_to_factor": 2}
CASES = [(name, {}) for name in v.OPTIMIZERS] + [
    ("adafactor", SMALL),
    ("adafactor", SMALL | {"factored": "last", "momentum": 0.9}),
    ("sophia", {"estimator": "gauss_newton_bartlett", "batch_size": 8}),
    ("sgd", {"momentum": 0.9}),
]
every = pytest.mark.parametrize(("name", "own"), CASES, ids=lambda x: x if isinstance(x, str) else ",".join(x))
meshes = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])


COMPILED = []


def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs, kwargs
    if "jaxpr_trace" in event or "backend_compile" in event:
        COMPILED.append(event)


jax.monitoring.register_event_duration_secs_listener(listen)


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 4), "b": [(4,)], "s": (), "stack": (2, 4, 3)}
    return jax.tree.map(
        lambda shape: np.asarray(rng.normal(size=shape), "float32"), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def put(tree, mesh):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, SPECS)


def make_mesh(axis_type):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)


def train(tx, params, state, steps=3):
    """Parameters and state after some steps, of which the first alone may trace or compile."""

    @jax.jit
    def step(params, state):
        g = jax.grad(quadratic)(params)
        updates, state = tx.update(g, state, params, **EXTRA)
        return optax.apply_updates(params, updates), state

    params, state = step(params, state)
    COMPILED.clear()
    for _ in range(steps - 1):
        params, state = step(params, state)
    assert not COMPILED
    return params, state


def same(a, b):
    return a.sharding.is_equivalent_to(b, a.ndim)


@pytest.mark.sampled
@meshes
@every
def test_state_is_sharded_like_parameters(name, own, axis_type):
    tx = build(v.OPTIMIZERS[name], **own)
    mesh = make_mesh(axis_type)
    with jax.set_mesh(mesh):
        params = put(parameters(), mesh)
        shardings = state_shardings(tx, params)
        state = jax.jit(tx.init, out_shardings=shardings)(params)
        assert all(jax.tree.leaves(jax.tree.map(same, state, shardings)))
        after, last = train(tx, params, state)
        assert all(jax.tree.leaves(jax.tree.map(same, last, shardings)))
        assert all(jax.tree.leaves(jax.tree.map(lambda a, p: same(a, p.sharding), after, params)))
        # Made eagerly it is there already.
        eager = tx.init(params)
        assert all(
            same(x, s) for x, s in zip(jax.tree.leaves(eager), jax.tree.leaves(shardings), strict=True) if x.ndim > 0
        )
    local = jax.tree.map(jnp.asarray, parameters())
    expected, _ = train(tx, local, tx.init(local))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-6), after, expected)


def test_leaves():
    """Spelled out for one state of each kind."""
    params = put(parameters(), make_mesh(AxisType.Auto))
    tx = lossax.chain(optax.clip_by_global_norm(1.0), lossax.optimizers.adafactor(0.01, momentum=0.9, **SMALL))
    factored = state_shardings(tx, params)[1][1]
    assert factored.step.spec == P()
    assert factored.mu["w"].spec == P("data", "model")
    assert factored.nu["w"].row.spec == P("data", None)
    assert factored.nu["w"].column.spec == P(None, "model")
    assert factored.nu["stack"].row.spec == P(None, "data", None)
    assert factored.nu["stack"].column.spec == P(None, None, None)
    assert factored.nu["b"][0].spec == P("model")
    assert factored.nu["s"].spec == P()


def test_trees_of_equal_keys():
    """The end of a path tells its parameter: the numbers of a chain are no parameters of a tuple."""
    mesh = make_mesh(AxisType.Auto)
    specs = (P("data"), P("model"), P())
    params = tuple(jax.device_put(jnp.zeros((8, 8)), NamedSharding(mesh, spec)) for spec in specs)
    assert tuple(s.spec for s in state_shardings(lossax.optimizers.adam(0.1), params)[1].mu) == specs
    bare = state_shardings(lossax.optimizers.adam(0.1), params[0])[1]
    assert (bare.mu.spec, bare.step.spec) == (P("data"), P())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
        lambda tx: optax.masked(tx, {"w": True, "b": False, "s": True, "stack": True}),
        lambda tx: optax.partition({"a": tx, "b": optax.adam(0.1)}, {"w": "a", "b": "b", "s": "a", "stack": "b"}),
        lambda _: optax.adamw(0.1),
    ],
    ids=["MultiSteps", "masked", "partition", "optax.adamw"],
)
def test_wrappers_and_optax(wrap):
    tx = wrap(lossax.optimizers.adamw(0.1))
    params = put(parameters(), make_mesh(AxisType.Auto))
    shardings = state_shardings(tx, params)
    state = jax.jit(tx.init, out_shardings=shardings)(params)
    assert all(jax.tree.leaves(jax.tree.map(same, state, shardings)))
    for leaf in jax.tree.leaves(state):
        if leaf.shape == (8, 4):
            assert leaf.addressable_shards[0].data.shape == (2, 2)
    with jax.numpy_dtype_promotion("standard"):
        train(tx, params, state)


def test_without_it_state_is_on_one_device():
    """What the function is for: the day this fails it is no longer needed."""
    params = put(parameters(), make_mesh(AxisType.Auto))
    state = jax.jit(lossax.optimizers.adam(0.1).init)(params)
    assert len(state[1].mu["w"].sharding.device_set) == 1


def test_abstract_unfiltered_and_single_device_parameters():
    mesh = make_mesh(AxisType.Explicit)
    tx = lossax.optimizers.adam(0.1)
    sharding = NamedSharding(mesh, P("data"))
    abstract = {"w": jax.ShapeDtypeStruct((8,), "bfloat16", sharding=sharding), "call": jnp.sin, "none": None}
    found = state_shardings(tx, abstract)[1]
    assert found.mu == {"w": sharding, "call": None, "none": None}
    local = jnp.zeros(3)
    assert isinstance(state_shardings(tx, local)[1].mu, SingleDeviceSharding)
    for nothing in ({}, {"w": np.zeros(3)}, {"w": jax.ShapeDtypeStruct((3,), "float32")}):
        with pytest.raises(ValueError, match="sharding"):
            state_shardings(tx, nothing)
