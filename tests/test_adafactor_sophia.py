"""Adafactor and Sophia: against oracles and peers, and what the general contract cannot see of them."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossax
from lossax.optimizers import relative_step
from tests.oracles import oracles
from tests.test_optimizer_trajectories import RATE, Case, alternating, assert_close, data, exact, trajectory
from tests.vocabulary import quick

# Optax's annotations leave no way into an update or a state.
adafactor: Any = lossax.optimizers.adafactor
scale_by_adafactor: Any = lossax.optimizers.scale_by_adafactor
sophia: Any = lossax.optimizers.sophia
apply_updates: Any = optax.apply_updates

# ---- Adafactor -------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"min_dim_size_to_factor": 2}
ABSOLUTE: dict[str, Any] = {"multiply_by_parameter_scale": False}
CASES = [
    Case("adafactor", {}, ("adafactor", {})),
    Case("adafactor", SMALL, ("adafactor", SMALL)),
    Case("adafactor", SMALL | ABSOLUTE, ("adafactor", SMALL | ABSOLUTE)),
    Case("adafactor", SMALL | {"momentum": 0.9}, ("adafactor", SMALL | {"momentum": 0.9})),
    Case(
        "adafactor",
        SMALL | {"clip_threshold": 0.5, "decay_rate": 0.6, "eps": 1e-3},
        ("adafactor", SMALL | {"clipping_threshold": 0.5, "decay_rate": 0.6, "eps": 1e-3}),
    ),
    Case(
        "adafactor",
        SMALL | {"clip_threshold": float("inf")},
        ("adafactor", SMALL | {"clipping_threshold": None}),
    ),
    Case(
        "adafactor",
        SMALL | {"weight_decay": 0.01, "independent": True},
        ("adafactor", SMALL | {"weight_decay_rate": 0.01}),
    ),
    Case("adafactor", SMALL | {"factored": "none"}, ("adafactor", SMALL | {"factored": False})),
    Case("adafactor", SMALL | {"factored": "last", "eps_scale": 10.0}),
    Case("adafactor", SMALL | {"decay_offset": 5.0, "eps": 0.0}),
    Case("adafactor", SMALL | {"decay_rate": alternating, "momentum": alternating, "clip_threshold": alternating}),
]


def table(cases):
    def label(case):
        return ",".join(f"{k}={'schedule' if callable(x) else x}" for k, x in case.own.items())

    return pytest.mark.parametrize("case", cases, ids=label)


every = table(CASES)


def blocks(dtype="float64"):
    """Parameters and gradients of which every axis is another size, and the last is not among the two largest."""
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(20, 4, 5, 2)) * np.exp(rng.normal(size=(4, 5, 2)))
    return rng.normal(size=(4, 5, 2)).astype(dtype), gradients.astype(dtype)


@every
def test_adafactor_is_the_oracle(case):
    params, gradients = data("float64")
    with jax.enable_x64(True):
        _, updates = trajectory(case.make(), params, gradients)
    assert_close(updates, exact(case, params, gradients), 1e-9)


@every
def test_adafactor_in_float32_is_the_formula(case):
    """Promise O4: parameters frozen: median at most 2 ulp at step 1, and 8 through step 100."""
    params, gradients = data()
    _, updates = trajectory(case.make(weight_decay=0.0), params, gradients, frozen=True)
    with jax.enable_x64(True):  # the oracle in all but time
        wide = (params.astype("float64"), gradients.astype("float64"))
        _, right = trajectory(case.make(weight_decay=0.0), *wide, frozen=True)
    ulps = np.abs(updates - right) / np.spacing(np.abs(right).astype("float32"))
    medians = np.median(ulps, axis=(1, 2))
    assert medians[0] <= 2
    assert medians[:100].max() <= 8


@pytest.mark.parametrize("factored", ["largest", "last", "none"])
@pytest.mark.parametrize("least", [2, 3, 5])
def test_stacks_of_matrices(factored, least):
    case = Case("adafactor", {"factored": factored, "min_dim_size_to_factor": least})
    params, gradients = blocks()
    with jax.enable_x64(True):
        _, updates = trajectory(case.make(), params, gradients)
    assert_close(updates, exact(case, params, gradients), 1e-9)


def test_a_stack_is_its_matrices():
    """Where the matrices are in the last two axes, up to the clip and the scale, which see the whole leaf."""
    params, gradients = blocks("float32")
    own = {"factored": "last", "min_dim_size_to_factor": 2, "clip_threshold": jnp.inf} | ABSOLUTE
    _, whole = trajectory(adafactor(RATE, **own), params, gradients)
    for i in range(params.shape[0]):
        _, one = trajectory(adafactor(RATE, **own), params[i], gradients[:, i])
        assert_close(whole[:, i], one, 1e-6)


@table([case for case in CASES if case.optax])
@pytest.mark.parametrize("draw", [data, blocks], ids=["matrix", "stack"])
def test_adafactor_is_optax(case, draw):
    with jax.numpy_dtype_promotion("standard"):
        theirs = trajectory(case.make_optax(), *draw("float32"))
    ours = trajectory(case.make(), *draw("float32"))
    assert_close(ours[0], theirs[0], 1e-5)
    assert_close(ours[1], theirs[1], 1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("draw", [data, blocks], ids=["matrix", "stack"])
def test_adafactor_is_torch(weight_decay, draw):
    torch = pytest.importorskip("torch")
    params, gradients = draw("float64")
    tensor = torch.tensor(params, requires_grad=True)
    peer = torch.optim.Adafactor([tensor], lr=0.2, weight_decay=weight_decay)
    path = []
    for step, g in enumerate(gradients):
        # torch decays by its rate, ours by the rate of the step: the same until the limit is passed.
        peer.param_groups[0]["weight_decay"] = weight_decay * min(1.0, 5.0 / np.sqrt(step + 1))
        tensor.grad = torch.tensor(g)
        peer.step()
        path.append(tensor.detach().numpy().copy())
    own = {"factored": "last", "min_dim_size_to_factor": 1, "eps": 0.0, "weight_decay": weight_decay}
    with jax.enable_x64(True):
        _, updates = trajectory(adafactor(relative_step(0.2), **own), params, gradients)
    assert_close(params + np.cumsum(updates, axis=0), np.stack(path), 1e-9)


def test_complex_adafactor_is_the_oracle():
    params, gradients = data("float64")
    params, gradients = params + 1j, gradients + 1j * gradients[::-1]
    for case in CASES[:4]:
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            _, updates = trajectory(case.make(), params, gradients)
        right = exact(case, params, gradients)
        np.testing.assert_allclose(updates, right, rtol=1e-9, atol=1e-9 * np.abs(right).max())


def test_an_offset_starts_afresh_and_is_never_nan():
    """Optax is NaN from the first step."""
    params, gradients = data()
    own = SMALL | ABSOLUTE
    with jax.numpy_dtype_promotion("standard"):
        theirs, _ = trajectory(optax.adafactor(RATE, decay_offset=3, **own), params, gradients)
    assert np.isnan(theirs).all()
    _, updates = trajectory(adafactor(RATE, decay_offset=3, **own), params, gradients)
    _, before = trajectory(adafactor(RATE, **own), params, gradients)
    _, after = trajectory(adafactor(RATE, **own), params, gradients[3:])
    assert_close(updates[:3], before[:3], 1e-6)
    assert_close(updates[3:], after, 1e-5)


def test_decay_is_multiplied_by_the_rate():
    """In Optax it is not."""
    params = np.ones((3, 4), np.float32)
    for independent, expected in ((False, -0.005), (True, -0.5)):
        tx = adafactor(0.01, weight_decay=0.5, independent=independent)
        updates, _ = quick(lambda g, p, tx=tx: tx.update(g, tx.init(p), p))(np.zeros_like(params), params)
        np.testing.assert_allclose(updates, np.full((3, 4), expected), rtol=1e-6)


def test_memory():
    params = {"matrix": jnp.zeros((256, 512)), "stack": jnp.zeros((4, 128, 130)), "small": jnp.zeros((512, 64))}
    state = scale_by_adafactor().init(params)
    shapes = jax.tree.map(jnp.shape, state.nu)
    assert shapes["matrix"] == ((256, 1), (1, 512))
    assert shapes["stack"] == ((4, 128, 1), (4, 1, 130))
    assert shapes["small"] == (512, 64)
    assert state.mu is None


def test_factored_state_is_a_fixed_point_of_type():
    """Promises O1, O2 and O8 where leaves are factored: the general contract's are too small."""
    rates, dtypes = (0.01, jnp.float32(0.01), relative_step()), ("float32", "bfloat16", "float16")
    cases = [*itertools.product(rates, dtypes, dtypes)]

    def step(own, rate, dtype, of_gradients):
        tx = adafactor(rate, **own)
        params = {"w": jnp.zeros((4, 3), dtype), "b": jnp.zeros(3, dtype), "call": jnp.sin, "none": None}
        g = {"w": jnp.zeros((4, 3), of_gradients), "b": jnp.zeros(3, of_gradients), "call": None, "none": None}
        state = tx.init(params)
        return *tx.update(g, state, params), state

    for own in (SMALL, SMALL | {"momentum": 0.9, "mu_dtype": "bfloat16"}, SMALL | {"factored": "last"}):
        results = quick(lambda own=own: [step(own, *case) for case in cases])()
        for (_, dtype, _), (updates, after, state) in zip(cases, results, strict=True):
            chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
            assert jax.tree.structure(after) == jax.tree.structure(state)
            assert updates["w"].dtype == dtype
            assert not np.any(np.asarray(updates["w"], "float32"))
    params, gradients = data()

    def final(rate, decay_rate):
        return trajectory(adafactor(rate, decay_rate=decay_rate, **SMALL), params, gradients[:5])[0]

    def traced(rate, decay_rate):
        tx = adafactor(rate, decay_rate=decay_rate, **SMALL)
        p, state = jnp.asarray(params), tx.init(jnp.asarray(params))
        for g in gradients[:5]:
            updates, state = tx.update(jnp.asarray(g), state, p)
            p = apply_updates(p, updates)
        return p

    swept = quick(jax.vmap(traced))(np.float32([0.01, 0.1]), np.float32([0.8, 0.7]))
    np.testing.assert_allclose(swept, [final(0.01, 0.8), final(0.1, 0.7)], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("own", [SMALL, SMALL | ABSOLUTE, SMALL | {"momentum": 0.9}, ABSOLUTE | {"eps": 0.0}], ids=str)
def test_adafactor_is_differentiable(own):
    """Promise O6 where leaves are factored."""
    params, gradients = data()
    gradients = gradients[:3]

    def after(rate, params, gradients):
        tx = adafactor(rate, **own)
        state = tx.init(params)
        for g in gradients:
            updates, state = tx.update(g * params, state, params)
            params = apply_updates(params, updates)
        return jnp.sum(jnp.sin(params))

    value, slope = quick(after), quick(jax.grad(after, argnums=(0, 1, 2)))
    no_row = gradients.copy()
    no_row[:, 0] = 0.0
    for g in (gradients, no_row, np.zeros_like(gradients)):
        chex.assert_tree_all_finite(slope(np.float32(RATE), params, g))
    with jax.enable_x64(True):
        wide: Any = tuple(np.float64(x) for x in (np.float32(RATE), params, gradients))
        for i, (each, x) in enumerate(zip(slope(*wide), wide, strict=True)):
            high, low = (value(*(*wide[:i], x + d, *wide[i + 1 :])) for d in (1e-7, -1e-7))
            np.testing.assert_allclose(np.sum(each), (high - low) / 2e-7, rtol=1e-5)


def test_structure_is_static():
    for wrong in (128.0, jnp.int32(128), None):
        with pytest.raises(TypeError, match="min_dim_size_to_factor"):
            adafactor(0.01, min_dim_size_to_factor=wrong)
    with pytest.raises(ValueError, match="min_dim_size_to_factor"):
        adafactor(0.01, min_dim_size_to_factor=0)
    with pytest.raises(ValueError, match="largest"):
        adafactor(0.01, factored="larges")
    tx = adafactor(0.01)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_relative_step():
    steps = np.array([0, 3, 9_998, 9_999, 39_999])
    np.testing.assert_allclose(relative_step()(steps), np.minimum(1e-2, (steps + 1.0) ** -0.5), rtol=1e-6)
    warm = relative_step(warmup_steps=10_000)
    np.testing.assert_allclose(warm(steps), np.minimum(1e-6 * (steps + 1.0), (steps + 1.0) ** -0.5), rtol=1e-6)
    swept = quick(jax.vmap(lambda limit, warmup: relative_step(limit, warmup_steps=warmup)(4)))(
        np.float32([0.1, 1.0]), np.array([10, 0])
    )
    np.testing.assert_allclose(swept, [0.05, 5.0**-0.5], rtol=1e-6)
    joined = lossax.schedules.join(
        (lossax.schedules.constant(1e-2), 9_999), (lossax.schedules.inverse_sqrt(1e-2, 1e4), None)
    )
    np.testing.assert_allclose(joined(steps), relative_step()(steps), rtol=1e-6)


# ---- Sophia ----------------------------------------------------------------------------------------------------------

rng = np.random.default_rng(2)
ROOT = rng.normal(size=(3, 3))
HESSIAN = (ROOT @ ROOT.T).astype("float32")
SIGNS = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
INPUTS = rng.normal(size=(5, 3)).astype("float32")


def bowl(params):
    """A quadratic whose Hessian is not diagonal."""
    return 0.5 * params @ jnp.asarray(HESSIAN) @ params


def drawn(params, key):
    """Logistic regression at labels drawn from itself."""
    logits = jnp.asarray(INPUTS) @ params
    labels = jax.lax.stop_gradient(jax.random.bernoulli(key, jax.nn.sigmoid(logits)))
    return jnp.mean(jnp.logaddexp(0.0, logits) - labels.astype(logits.dtype) * logits)


SOPHIA = [
    Case("sophia", {}),
    Case("sophia", {"gamma": 0.5, "b1": 0.9, "b2": 0.5, "every": 3, "weight_decay": 0.1}),
    Case("sophia", {"gamma": 2.0, "debias": True, "every": 1, "clip_threshold": 0.25}),
    Case("sophia", {"gamma": alternating, "b1": alternating, "b2": alternating, "clip_threshold": alternating}),
    Case("sophia", {"b1": 0.96875, "eps": 10.0, "clip_threshold": float("inf"), "every": lambda _: 2}),
]


@table(SOPHIA)
def test_sophia_is_the_oracle(case):
    """On a sum of squares, whose Hessian every probe measures exactly."""
    params, gradients = data("float64")
    with jax.enable_x64(True):
        _, updates = trajectory(case.make(), params, gradients)
    assert_close(updates, exact(case, params, gradients), 1e-9)


@table(SOPHIA)
def test_sophia_in_float32_is_the_formula(case):
    params, gradients = data()
    _, updates = trajectory(case.make(weight_decay=0.0), params, gradients, frozen=True)
    right = exact(case, params.astype("float64"), gradients.astype("float64"), weight_decay=0.0)
    ulps = np.abs(updates - right) / np.spacing(np.abs(right).astype("float32"))
    medians = np.median(ulps, axis=(1, 2))
    assert medians[0] <= 2
    assert medians[:100].max() <= 8


def test_hutchinson_measures_signs_times_the_hessian_times_signs():
    """What was measured at each refresh is one of the eight possible; given it, the path is the oracle's."""
    own = {"gamma": 0.05, "b2": 0.5, "every": 3, "weight_decay": 0.01}
    tx = sophia(0.1, **own)
    params = jnp.array([1.0, -2.0, 0.5])
    state, before, measured, gradients, updates = tx.init(params), np.zeros(3), [], [], []
    step, slope = quick(lambda g, s, p: tx.update(g, s, p, obj_fn=bowl)), quick(jax.grad(bowl))
    path = params
    for i in range(12):
        gradients.append(np.asarray(slope(path)))
        update, state = step(jnp.asarray(gradients[-1]), state, path)
        path = apply_updates(path, update)
        updates.append(update)
        after = np.asarray(optax.tree.get(state, "nu"))
        if i % 3:
            np.testing.assert_array_equal(after, before)
        else:
            measured.append(2.0 * after - before)
        before = after
    possible = SIGNS * (SIGNS @ HESSIAN)
    chosen = [int(np.argmin(np.abs(possible - m).max(axis=1))) for m in measured]
    np.testing.assert_allclose(measured, possible[chosen], rtol=1e-4, atol=1e-4)
    assert len(set(chosen)) > 1, "a new draw each time"
    exactly = {3 * i: possible[c] for i, c in enumerate(chosen)}
    right = oracles()["sophia"](
        np.asarray(params, "float64"), gradients, 0.1, curvatures=lambda step, _: exactly[step], **own
    )
    np.testing.assert_allclose(np.stack(updates), right, rtol=1e-4, atol=1e-6)


def estimates(count=4000, **own):
    """The curvature measured with each of many seeds."""

    def one(seed):
        tx = sophia(0.1, b2=0.0, key=seed, **own)
        params = jnp.array([1.0, -0.5, 0.25])
        return optax.tree.get(tx.update(params, tx.init(params), params, obj_fn=bowl, sampled_loss_fn=drawn)[1], "nu")

    return np.asarray(quick(jax.vmap(one))(np.arange(count)), "float64")


@pytest.mark.parametrize("estimator", ["hutchinson", "gauss_newton_bartlett"])
def test_estimators_are_unbiased(estimator):
    if estimator == "hutchinson":
        found, right = estimates(), np.diag(HESSIAN)
    else:
        found = estimates(estimator=estimator, batch_size=len(INPUTS))
        p = 1.0 / (1.0 + np.exp(-INPUTS @ np.array([1.0, -0.5, 0.25])))
        right = np.mean((p * (1.0 - p))[:, None] * INPUTS**2, axis=0)
        assert np.all(found >= 0)
    error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - right) < 4.0 * error)


def test_sophia_is_optax():
    """Whose step uses the curvature of the step before: handed the first one, it makes the same path."""
    diagonal = jnp.array([1.0, 30.0, 0.1, 0.0])

    def objective(params):
        return 0.5 * jnp.sum(diagonal * params**2.0)

    own: dict[str, Any] = {"gamma": 0.5, "b2": 0.9, "weight_decay": 0.01}
    peer = optax.contrib.sophia(0.01, update_interval=1, **own)
    ours = sophia(0.01, every=1, debias=True, **own)
    params = theirs = jnp.array([1.0, -2.0, 3.0, -4.0])
    state = ours.init(params)
    with jax.numpy_dtype_promotion("standard"):
        other: Any = peer.init(params)
        other = (other[0]._replace(nu=0.1 * diagonal), *other[1:])
        their_step = quick(lambda p, s: peer.update(jax.grad(objective)(p), s, p, obj_fn=objective))
        our_step = quick(lambda p, s: ours.update(jax.grad(objective)(p), s, p, obj_fn=objective))
        for _ in range(100):
            updates, other = their_step(theirs, other)
            theirs = apply_updates(theirs, updates)
            updates, state = our_step(params, state)
            params = apply_updates(params, updates)
            np.testing.assert_allclose(params, theirs, rtol=1e-5)


@pytest.mark.parametrize(("own", "extra"), [({}, "obj_fn"), ({"batch_size": 5.0}, "sampled_loss_fn")])
def test_only_refreshes_pay(own, extra):
    """Twice in 20 steps, alone and in lanes over a rate, whose steps are in time with each other."""
    calls = []

    def objective(params, key=None):
        jax.debug.callback(lambda: calls.append(1))
        return bowl(params) if key is None else drawn(params, key)

    def train(rate):
        tx = sophia(rate, estimator="gauss_newton_bartlett" if own else "hutchinson", **own)

        def body(carry, _):
            updates, state = tx.update(jax.grad(bowl)(carry[0]), carry[1], carry[0], **{extra: objective})
            return (apply_updates(carry[0], updates), state), None

        params = jnp.ones(3)
        return jax.lax.scan(body, (params, tx.init(params)), length=20)[0][0]

    jax.block_until_ready(quick(train)(0.01))
    jax.effects_barrier()
    assert len(calls) == 2
    jax.block_until_ready(quick(jax.vmap(train))(np.float32([0.01, 0.1, 1.0])))
    jax.effects_barrier()
    assert len(calls) == 4


def test_a_traced_period():
    def final(period):
        tx = sophia(0.1, every=period, gamma=0.05)
        params = jnp.ones(3)
        state = tx.init(params)
        for _ in range(5):
            updates, state = tx.update(jax.grad(bowl)(params), state, params, obj_fn=bowl)
            params = apply_updates(params, updates)
        return params

    swept = quick(jax.vmap(final))(np.array([1, 2, 3]))
    known = [quick(lambda period=period: final(period))() for period in (1, 2.0, np.float32(3))]
    np.testing.assert_allclose(swept, known, rtol=1e-6)


@pytest.mark.parametrize(
    "key",
    [
        lambda: jax.random.key(7),
        lambda: jax.random.PRNGKey(7),
        lambda: np.asarray(jax.random.PRNGKey(7)),
        lambda: np.int32(7),
        lambda: jnp.int32(7),
        lambda: jax.random.key(7, impl="rbg"),
    ],
)
def test_keys(key):
    """A seed, a raw key and a typed one; the state holds data that any checkpoint can write."""

    def state_after(key):
        tx = sophia(0.1, key=key)
        return quick(lambda p: tx.update(p, tx.init(p), p, obj_fn=bowl)[1])(np.ones(3, np.float32))

    state = state_after(key())
    assert optax.tree.get(state, "key").dtype == jnp.uint32
    if optax.tree.get(state, "key").shape == (2,):
        chex.assert_trees_all_equal(state, state_after(7))


def test_the_key_of_the_user_survives_donation():
    key = jax.random.PRNGKey(0)
    tx = sophia(0.1, key=key)
    params = jnp.ones(3)
    jax.jit(lambda s: s, donate_argnums=0)(tx.init(params))
    assert not key.is_deleted()


def test_the_objective_gets_the_parameters_that_update_got():
    model = {"w": jnp.ones(3), "call": jnp.tanh, "none": None, "name": "x", "count": jnp.int32(2), "half": 0.5}
    tx = sophia(0.1)

    def objective(model):
        assert model["name"] == "x"
        assert model["none"] is None
        return jnp.sum(model["call"](model["w"]) ** 2.0) * model["count"].astype("float32") * model["half"]

    g = {"w": jnp.ones(3), "call": None, "none": None, "name": None, "count": None, "half": jnp.float32(1.0)}
    updates, state = tx.update(g, tx.init(model), model, obj_fn=objective)
    assert updates["call"] is None
    nu = optax.tree.get(state, "nu")
    assert np.all(np.asarray(nu["w"]) != 0)
    assert nu["call"] is None
    for empty in ({}, [None]):
        updates, _ = tx.update(empty, tx.init(empty), empty, obj_fn=lambda _: jnp.float32(1.0))
        assert updates == empty


def test_16_bit_curvature_is_accumulated_in_float32():
    params = jnp.ones(3, jnp.bfloat16)
    tx = sophia(0.1)

    def objective(params):
        return jnp.sum(params.astype("float32") ** 2.0)

    _, state = tx.update(params, tx.init(params), params, obj_fn=objective)
    nu = optax.tree.get(state, "nu")
    assert nu.dtype == jnp.float32
    np.testing.assert_allclose(nu, np.full(3, 0.02), rtol=1e-6)


def test_what_sophia_asks_for():
    params = jnp.ones(3)
    tx = sophia(0.1)
    with pytest.raises(ValueError, match="obj_fn"):
        tx.update(params, tx.init(params), params, sampled_loss_fn=drawn)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, tx.init(params), obj_fn=bowl)
    with pytest.raises(ValueError, match="batch_size"):
        sophia(0.1, estimator="gauss_newton_bartlett")
    tx = sophia(0.1, estimator="gauss_newton_bartlett", batch_size=5)
    with pytest.raises(ValueError, match="sampled_loss_fn"):
        tx.update(params, tx.init(params), params, obj_fn=bowl)
    with pytest.raises(TypeError, match="complex"):
        tx.init(jnp.ones(3, "complex64"))
    with pytest.raises(ValueError, match="hutchinson"):
        sophia(0.1, estimator="hutchison")
