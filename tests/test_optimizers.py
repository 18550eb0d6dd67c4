"""The contract of every public optimizer. The signature is the specification; nothing here names an optimizer."""

import inspect
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossax
from tests import vocabulary as v

every = pytest.mark.parametrize("make", v.OPTIMIZERS.values(), ids=v.OPTIMIZERS)
FLOATS = ("float32", "bfloat16", "float16")
MIXED = {"float32": "bfloat16", "bfloat16": "float32", "float16": "float16"}


def quadratic(params):
    """Distance from 3, in float32: what extra arguments that ask for an objective are given."""
    return sum((jnp.sum((jnp.asarray(p, jnp.float32) - 3.0) ** 2) for p in jax.tree.leaves(params)), jnp.float32(0))


def sampled(params, key):
    """A loss at labels drawn from a model whose prediction is the mean of the parameters."""
    noise = jax.random.normal(key, ())
    return 0.5 * quadratic(jax.tree.map(lambda p: jnp.asarray(p, jnp.float32) + noise, params))


EXTRA = {"obj_fn": quadratic, "sampled_loss_fn": sampled}


def parameters(dtype="float32"):
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(size=(4, 3)), dtype), "b": [jnp.asarray(rng.normal(size=3), dtype)]}


def gradients(dtype="float32", seed=1):
    return jax.tree.map(lambda p: (p * (1 + 0.1 * seed)).astype(dtype), parameters())


def run(tx, params=None, steps=3, grads=gradients, extra=True):
    """Parameters, last update and last state after a few steps: outside of jit, for compiling is what tests cost."""
    params = parameters() if params is None else params
    step = lambda g, s, p: tx.update(g, s, p, **(EXTRA if extra else {}))  # noqa: E731
    state, updates = tx.init(params), None
    for i in range(steps):
        updates, state = step(grads(seed=i), state, params)
        params = optax.apply_updates(params, updates)
    return params, updates, state


def structure(tree):
    """What must not change: tree, shape, dtype and weak type."""
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.asarray(x).dtype, jax.typeof(x).weak_type), tree)


def hyper_names(make):
    return ["learning_rate", *v.hyperparameters(make)]


def build(make, **hyper):
    return make(hyper.pop("learning_rate", 0.01), **(v.required(make) | hyper))


def decays_inside(make):
    """Whether decay is a part of the direction, as in LAMB: its direction takes it."""
    direction = v.DIRECTIONS.get(f"scale_by_{make.__name__}")
    return direction is not None and "weight_decay" in inspect.signature(direction).parameters


def options(make):
    """The optimizer as it is, with every numeric hyperparameter off its default, and with its switches the other way.

    A switch of several ways takes another in each option, along with all other switches.
    """
    ways = {}
    parameters = inspect.signature(make).parameters
    for p in parameters.values():
        if isinstance(p.default, bool):
            ways[p.name] = [not p.default]
        elif p.annotation is int and p.name not in v.required(make):
            ways[p.name] = [2]
        elif isinstance(p.default, str):
            ways[p.name] = sorted({*typing.get_args(p.annotation)} - {p.default})
        elif p.name == "momentum" and p.default is None:
            ways[p.name] = [0.9]
    sizes = {"batch_size": 4.0} if "batch_size" in parameters and ways else {}
    yield {}
    yield v.hyperparameters(make)
    for i in range(max(map(len, ways.values()), default=0)):
        yield {name: others[min(i, len(others) - 1)] for name, others in ways.items()} | sizes


# ---- state -----------------------------------------------------------------------------------------------------------


@every
def test_state_is_a_fixed_point_of_type(make):
    """Promise O1."""
    forms = {
        "python": lambda x: x,
        "numpy": np.float64,
        "array": jnp.float32,
        "bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
        "schedule": lambda x: lambda step: x + 0.0 * jnp.asarray(step, jnp.float32),
    }
    for i, option in enumerate(options(make)):  # the second of them in every form
        numeric = {"learning_rate": 0.01} | option
        switches = {
            k: x
            for k, x in numeric.items()
            if isinstance(x, bool | str) or inspect.signature(make).parameters[k].annotation is int
        }
        for form in forms.values() if i == 1 else (forms["python"],):
            tx = build(make, **{k: form(x) for k, x in numeric.items() if k not in switches}, **switches)
            for dtype in FLOATS if form is forms["python"] else ("bfloat16",):
                params = parameters(dtype)
                state = jax.eval_shape(tx.init, params)
                for own in FLOATS if i == 0 else (MIXED[dtype],):
                    args = (gradients(own), state, params)
                    updates, after = jax.eval_shape(lambda g, s, p, tx=tx: tx.update(g, s, p, **EXTRA), *args)
                    assert after == state, (option, dtype, own)
                    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
            real = tx.init(parameters("bfloat16"))
            assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in jax.tree.leaves(real))
            if form is forms["python"]:
                assert structure(real) == structure(run(tx, parameters("bfloat16"), 1)[2])


@every
def test_accumulators_are_wide(make):
    def dtypes(dtype):
        return [x.dtype for x in jax.tree.leaves(jax.eval_shape(build(make).init, parameters(dtype)))]

    assert dtypes("bfloat16") == dtypes("float16") == dtypes("float32")


@every
def test_structure_does_not_depend_on_values(make):
    reference = structure(build(make).init(parameters()))
    for name in hyper_names(make):
        for value in (0.0, 0.5, jnp.float32(0.25), lambda step: 0.5):
            try:
                tx = build(make, **{name: value})
            except ValueError:  # out of the range of this one
                continue
            assert structure(tx.init(parameters())) == reference, name


@every
def test_one_trace_and_scan_and_donation(make):
    for i, option in enumerate(options(make)):
        tx = build(make, **option)

        def plain(params, state, g, tx=tx):
            updates, state = tx.update(g, state, params, **EXTRA)
            return optax.apply_updates(params, updates), state

        chex.clear_trace_counter()
        step = jax.jit(chex.assert_max_traces(plain, n=1), donate_argnums=(0, 1))
        params = parameters()
        state = tx.init(params)
        eager = parameters(), tx.init(parameters())
        for seed in range(3):
            params, state = step(params, state, gradients(seed=seed))
            if i == 0:
                eager = plain(*eager, gradients(seed=seed))

        def body(carry, seed, tx=tx):
            g = jax.tree.map(lambda p: p * (1 + 0.1 * seed), parameters())
            updates, state = tx.update(g, carry[1], carry[0], **EXTRA)
            return (optax.apply_updates(carry[0], updates), state), None

        scanned, _ = jax.lax.scan(body, (parameters(), tx.init(parameters())), jnp.arange(3.0))
        chex.assert_trees_all_close(scanned, (params, state), rtol=1e-5, atol=1e-6)
        if i == 0:
            chex.assert_trees_all_close((params, state), eager, rtol=1e-6, atol=1e-7)


# ---- hyperparameters -------------------------------------------------------------------------------------------------


@every
def test_every_hyperparameter_sweeps_under_vmap(make):
    """Promise O8: vmap equals a loop, over tracers or Python floats. A lane moves one of them."""
    defaults = {name: p.default for name, p in inspect.signature(make).parameters.items()}
    values = {"learning_rate": 0.01} | v.hyperparameters(make)
    swept = {k: x for k, x in values.items() if not (isinstance(defaults[k], int) and x >= 1)}
    lanes = [swept, *(swept | {name: 0.875 * x} for name, x in swept.items())]
    columns = {name: jnp.array([lane[name] for lane in lanes], jnp.float32) for name in swept}
    alone = jax.jit(lambda lane: run(build(make, **lane))[0])
    got = jax.jit(jax.vmap(alone))(columns)
    for i, lane in enumerate(lanes):
        lane = {k: float(np.float32(x)) for k, x in lane.items()}
        found = jax.tree.map(lambda x, i=i: x[i], got)
        for f in (alone,) if i else (alone, lambda lane: run(build(make, **lane))[0]):
            chex.assert_trees_all_close(found, f(lane), rtol=4 * 2.0**-23, atol=4 * 2.0**-23)


@pytest.mark.sampled
@every
def test_schedule_of_a_constant_is_the_constant(make):
    values = {"learning_rate": 0.01} | v.hyperparameters(make)
    constant = run(build(make, **values))
    scheduled = run(build(make, **{k: (lambda step, x=x: jnp.float32(x)) for k, x in values.items()}))
    chex.assert_trees_all_close(scheduled, constant, rtol=2e-5, atol=1e-6)


@pytest.mark.sampled
@every
def test_schedules_are_called_with_the_number_of_updates_made(make):
    for name, value in ({"learning_rate": 0.01} | v.hyperparameters(make)).items():
        seen = []
        tx = build(make, **{name: lambda step, seen=seen, value=value: seen.append(step) or jnp.float32(value)})
        params = parameters()
        state = tx.init(params)
        for made in range(3):
            seen.clear()
            _, state = tx.update(gradients(), state, params, **EXTRA)
            steps = [int(s) for s in seen if not isinstance(s, jax.core.Tracer)]
            assert len(set(steps)) <= 1, name
            if steps:
                assert steps[0] == made, name


@every
def test_nonsense_is_refused(make):
    """Promise O11."""
    nonsense = {
        "learning_rate": (-1.0, float("nan")),
        "weight_decay": (-1.0, float("nan")),
        "momentum": (1.0, -0.1, float("nan")),
        "b1": (1.0, 1.5, -0.1, float("nan")),
        "b2": (1.0, 1.5, -0.1, float("nan")),
        "decay": (1.0, 1.5, -0.1, float("nan")),
    }
    for p in inspect.signature(make).parameters.values():
        wrong = nonsense.get(p.name, (-1.0,) if p.name.startswith("eps") and not isinstance(p.default, bool) else ())
        for value in wrong:
            with pytest.raises(ValueError, match=p.name):
                build(make, **{p.name: value})
            with pytest.raises(ValueError, match=p.name):
                build(make, **{p.name: jnp.float32(value)})
    with pytest.raises(ValueError, match="scalar"):
        run(build(make, learning_rate=jnp.ones(3)))


# ---- what it does ----------------------------------------------------------------------------------------------------


@every
def test_it_descends(make):
    """At one of two rates: steps of about the rate, or (Adagrad) of a rate that shrinks."""

    def train(rate):
        tx = build(make, learning_rate=rate)

        def body(carry, _):
            params, state = carry
            value, g = jax.value_and_grad(quadratic)(params)
            updates, state = tx.update(g, state, params, **EXTRA)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(body, (parameters(), tx.init(parameters())), length=1000)[1]

    values = jax.vmap(train)(jnp.array([0.02, 0.5]))
    assert jnp.nanmin(values[:, -1] / values[:, 0]) < 0.05


@pytest.mark.sampled
@every
def test_the_optimizer_is_its_direction_assembled(make):
    direction = v.DIRECTIONS.get(f"scale_by_{make.__name__}")
    if direction is None:  # another default of an optimizer in the same file
        direction = next((d for d in v.DIRECTIONS.values() if d.__module__ == make.__module__), None)
    if direction is None:  # steps that are not in proportion to the rate: FTRL sets weights, SGLD adds noise
        return
    shared = {k: x for k, x in v.hyperparameters(make).items() if k in inspect.signature(direction).parameters}
    shared.pop("weight_decay", None)
    decay = {"weight_decay": 0.1, "weight_decay_mask": lossax.path_mask(include="w")}
    whole = run(build(make, **shared, **decay))
    if decays_inside(make):
        parts = run(lossax.assemble(direction(**(v.required(direction) | shared | decay)), 0.01))
    else:
        parts = run(lossax.assemble(direction(**(v.required(direction) | shared)), 0.01, *decay.values()))
    chex.assert_trees_all_close(whole, parts, rtol=1e-6)


@every
def test_decay_is_decoupled_and_masked(make):
    if "weight_decay" not in inspect.signature(make).parameters:
        pytest.fail("every optimizer takes weight_decay")
    mask = lossax.path_mask(include="w")
    params = parameters()
    with_decay = run(build(make, weight_decay=0.5, weight_decay_mask=mask), params, 1)[1]
    without = run(build(make, weight_decay=0.0), params, 1)[1]
    if decays_inside(make):  # how, its oracle says
        chex.assert_trees_all_equal(with_decay["b"], without["b"])
    else:
        expected = {"w": without["w"] - 0.01 * 0.5 * params["w"], "b": without["b"]}
        chex.assert_trees_all_close(with_decay, expected, rtol=2e-6, atol=1e-8)
    tx = build(make, weight_decay=0.5)
    state = tx.init(params)
    with pytest.raises(ValueError, match="params"):
        tx.update(gradients(), state, **EXTRA)


@every
def test_the_learning_rate_of_a_step_can_be_read(make):
    tx = build(make, learning_rate=lossax.schedules.linear(1.0, 0.0, 4))
    params = parameters()
    state = tx.init(params)
    assert lossax.learning_rate(state) == 1.0
    for expected in (1.0, 0.75, 0.5):
        _, state = tx.update(gradients(), state, params, **EXTRA)
        assert lossax.learning_rate(state) == expected


# ---- hostile gradients and trees -------------------------------------------------------------------------------------


@every
def test_zero_gradients_are_harmless(make):
    """Promise O2."""
    for i, option in enumerate(options(make)):
        for dtype in ("float32",) if i else FLOATS:
            zeros = lambda seed, dtype=dtype: jax.tree.map(jnp.zeros_like, parameters(dtype))  # noqa: E731
            chex.assert_tree_all_finite(run(build(make, **option), parameters(dtype), 3, zeros))


@every
def test_finite_gradients_make_finite_steps(make):
    """Where squares overflow an optimizer may stand still, but not spoil the parameters."""
    tx = build(make)

    @v.quick
    def steps(one, others):
        params = parameters()
        state, found = tx.init(params), []
        for own in (jnp.ones(2), jnp.stack([one, others]), jnp.stack([one, others]), jnp.ones(2)):
            scale = jax.tree.map(lambda p, own=own: jnp.full_like(p, own[1]).at[(0,) * p.ndim].set(own[0]), params)
            grads = jax.tree.map(jnp.multiply, gradients(), scale)
            updates, state = tx.update(grads, state, params, **EXTRA)
            params = optax.apply_updates(params, updates)
            found.append(updates)
        return found

    for size in (1e18, 1e20, 1e23, 1e30):
        for others in (1.0, size):
            chex.assert_tree_all_finite(steps(jnp.float32(size), jnp.float32(others)))


@pytest.mark.sampled
@every
def test_it_is_differentiable_everywhere(make):
    """Promise O6: through three steps, by every hyperparameter and the parameters, from any gradient."""
    programs = {}
    for option in options(make):
        switches = {
            k: x
            for k, x in option.items()
            if isinstance(x, bool | str) or inspect.signature(make).parameters[k].annotation is int
        }
        defaults = {k: inspect.signature(make).parameters[k].default for k in v.hyperparameters(make)}
        values = {"learning_rate": 0.01} | defaults | {k: x for k, x in option.items() if k not in switches}
        values = {k: jnp.float32(x) for k, x in values.items()}

        def after(values, params, scale, switches=switches):
            tx = build(make, **values, **switches)

            def step(carry, _):
                params, state = carry
                g = jax.tree.map(lambda p: scale * p, params)
                updates, state = tx.update(g, state, params, **EXTRA)
                return (optax.apply_updates(params, updates), state), None

            return quadratic(jax.lax.scan(step, (params, tx.init(params)), length=3)[0][0])

        slopes = programs.setdefault(str(switches), jax.jit(jax.grad(after, argnums=(0, 1, 2))))
        for dead in (None, "all", "one"):
            params = parameters()
            if dead == "all":
                params = jax.tree.map(jnp.zeros_like, params)
            elif dead == "one":
                params["w"] = params["w"].at[0, 0].set(0.0)
            found = slopes(values, params, jnp.float32(0.5))
            chex.assert_tree_all_finite(found)


@pytest.mark.sampled
@every
def test_odd_trees(make):
    """Promise O12."""
    tx = build(make)
    model = {
        "scalar": jnp.float32(2.0),
        "python": 2.0,
        "numpy": np.ones((1, 1), np.float32),
        "empty": jnp.zeros((0, 3)),
        "none": None,
        "pair": (jnp.ones(2), {}),
        "integer": jnp.arange(3),
        "call": jnp.sin,
        "name": "relu",
        "withheld": jnp.ones(2),
    }
    g = dict(model, scalar=jnp.float32(1.0), python=1.0, call=None, name=None, integer=jnp.arange(3), withheld=None)
    state = tx.init(model)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    objective = {"obj_fn": lambda p: p["scalar"] ** 2.0, "sampled_loss_fn": lambda p, key: p["scalar"] ** 2.0}
    for _ in range(2):
        updates, after = tx.update(g, state, model, **objective)
        assert structure(after) == structure(state)
        state = after
    assert updates["none"] is updates["call"] is updates["name"] is updates["withheld"] is None
    assert np.array_equal(updates["integer"], np.arange(3))
    assert np.all(np.isfinite(updates["scalar"]))
    assert updates["scalar"] != 0
    assert updates["empty"].shape == (0, 3)
    for empty in ({}, (), [None]):
        constant = {"obj_fn": lambda p: jnp.float32(0.0), "sampled_loss_fn": lambda p, key: jnp.float32(0.0)}
        updates, _ = tx.update(empty, tx.init(empty), empty, **constant)
        assert updates == empty


@pytest.mark.sampled
@every
def test_complex_updates_rotate_with_the_gradient(make):
    """Promise O12: or the optimizer refuses complex parameters."""
    tx = build(make, weight_decay=0.0)
    params = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)) + np.complex64(1j), jnp.complex64)
    turn = jnp.complex64(np.exp(0.7j))
    real = {
        "obj_fn": lambda p: jnp.sum(jnp.abs(p) ** 2.0),
        "sampled_loss_fn": lambda p, key: jnp.sum(jnp.abs(p) ** 2.0),
    }

    def final(params, turn):
        state, updates = tx.init(turn * params), None
        for i in range(3):
            updates, state = tx.update(turn * params * np.complex64(1 + i), state, turn * params, **real)
        return updates, state

    with jax.numpy_dtype_promotion("standard"):  # strict promotion refuses float32 * complex64
        try:
            plain, state = final(params, jnp.complex64(1))
        except TypeError as error:
            assert "complex" in str(error)
            return
        turned, _ = final(params, turn)
    assert plain.dtype == jnp.complex64
    # A matrix optimizer mixes entries: the small ones carry the roundings of the large ones.
    np.testing.assert_allclose(turned, turn * plain, rtol=2e-5, atol=2e-5 * np.abs(plain).max() + 1e-7)
    assert structure(state) == structure(tx.init(params))


@every
def test_parameters_are_optional_where_they_are_not_needed(make):
    """As in Optax: an optimizer without decay that reads no parameter takes `update(grads, state)`."""
    tx = build(make, weight_decay=0.0)
    params = parameters()
    try:
        updates, _ = tx.update(gradients(), tx.init(params), **EXTRA)
    except ValueError as error:
        assert "needs params" in str(error)
        return
    expected, _ = tx.update(gradients(), tx.init(params), params, **EXTRA)
    chex.assert_trees_all_close(updates, expected)


def test_lossax_and_optax_mix_in_one_chain():
    for make in (
        lambda: lossax.chain(optax.clip_by_global_norm(1.0), lossax.optimizers.adam(0.01)),
        lambda: optax.chain(lossax.optimizers.scale_by_adam(), optax.scale_by_learning_rate(0.01)),
        lambda: lossax.assemble(optax.scale_by_adam(), 0.01),
    ):
        with jax.numpy_dtype_promotion("standard"):  # Optax's bias correction cannot be strict
            params, _, state = run(make(), extra=False)
        chex.assert_tree_all_finite(params)
        assert len(state) >= 2
