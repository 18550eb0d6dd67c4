"""Transformations of updates: one contract for all, then what each is for."""

import inspect
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax as typed_optax
import pytest

import lossax
from lossax import _numerics, _tree
from tests import vocabulary as v
from tests.test_optimizers import EXTRA, FLOATS, gradients, parameters, structure

# Optax types what `update` returns as any tree of arrays, of which a type checker allows no use.
optax: Any = typed_optax
optimizers: Any = lossax.optimizers
transforms: Any = lossax.transforms
BIASES: Any = lossax.path_mask(include="b")


def with_logits(tx):
    """The largest logits are extra arguments: here one for each row of `w`."""

    def update(updates, state, params=None):
        heads = len(params["w"]) if isinstance(params, dict) and "w" in params else 0
        logits = {"w": jnp.linspace(0.1, 3.0, heads)} if heads else {}
        return tx.update(updates, state, params, max_logits=logits)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def cubes(params):
    """What optimizers that ask for the gradient elsewhere are given: |p|^2 p."""
    cube = lambda p: (p * jnp.conj(p)).real * p if _tree.is_number(p) else None  # noqa: E731
    return jax.tree.map(cube, params, is_leaf=lambda x: x is None)


def fed(tx):
    """The optimizer with the extra argument that it needs."""
    return optax.GradientTransformationExtraArgs(
        tx.init, lambda updates, state, params=None: tx.update(updates, state, params, grad_fn=cubes)
    )


# Name -> how to make it from its numeric hyperparameters, and their values.
CASES = {
    "clip_by_value": (transforms.clip_by_value, {"limit": 0.7}),
    "clip_by_norm": (transforms.clip_by_norm, {"limit": 0.7}),
    "clip_by_global_norm": (transforms.clip_by_global_norm, {"limit": 0.7}),
    "add_decayed_weights": (lambda **h: transforms.add_decayed_weights(**h, mask=BIASES), {"weight_decay": 0.3}),
    "freeze": (lambda: transforms.freeze(optimizers.adam(0.1), BIASES), {}),
    "skip_nonfinite": (lambda: transforms.skip_nonfinite(optimizers.adam(0.1)), {}),
    "average_parameters": (lambda **h: transforms.average_parameters(optimizers.adam(0.1), **h), {"decay": 0.8}),
    "average_parameters, warm": (
        lambda **h: transforms.average_parameters(optimizers.adam(0.1), **h, warmup=True, debias=False),
        {"decay": 0.8},
    ),
    "add_decayed_weights, cautious": (
        lambda **h: transforms.add_decayed_weights(**h, cautious=True),
        {"weight_decay": 0.3},
    ),
    "adaptive_grad_clip": (transforms.adaptive_grad_clip, {"clipping": 0.3, "eps": 1e-3}),
    "autoclip": (lambda **h: transforms.autoclip(**h, window=3), {"percentile": 40.0}),
    "zclip": (transforms.zclip, {"threshold": 0.5, "decay": 0.6, "warmup": 4.0}),
    "adagc": (transforms.adagc, {"limit": 0.7, "factor": 1.05, "decay": 0.8, "warmup": 2.0}),
    "spike_aware_clip": (transforms.spike_aware_clip, {"threshold": 1.2, "decay": 0.8}),
    "reset_momentum": (
        lambda **h: transforms.reset_momentum(optimizers.adam(0.1), **h),
        {"period": 2.0, "warmup": 2.0},
    ),
    "accumulate": (lambda **h: transforms.accumulate(optimizers.adam(0.1), **h), {"every": 2.0}),
    "schedule_free": (
        lambda **h: transforms.schedule_free(optimizers.adam(0.1, b1=0.0), **h),
        {"learning_rate": 0.1, "b1": 0.8, "weight_lr_power": 2.0, "r": 0.5},
    ),
    "low_precision": (lambda: transforms.low_precision(optimizers.adam(0.1), block=4, min_size=0), {}),
    "low_precision, bfloat16": (
        lambda: transforms.low_precision(optimizers.adam(0.1), "bfloat16", min_size=0),
        {},
    ),
    "sharpness_aware": (
        lambda **h: fed(transforms.sharpness_aware(optimizers.adam(0.1), **h, adaptive=True)),
        {"rho": 0.5, "eta": 0.1, "alpha": 0.3},
    ),
    "sharpness_aware, now and then": (
        lambda **h: fed(transforms.sharpness_aware(optimizers.adam(0.1), **h, every=2)),
        {"rho": 0.5, "reuse": 0.7},
    ),
    "lookahead": (
        lambda **h: transforms.lookahead(optimizers.adam(0.1), **h),
        {"every": 2.0, "step_size": 0.4},
    ),
    "swa": (lambda **h: transforms.swa(optimizers.adam(0.1), **h), {"start": 1.0, "every": 2.0}),
    "lawa": (lambda **h: transforms.lawa(optimizers.adam(0.1), **h, size=2), {"every": 2.0}),
    "power_ema": (lambda **h: transforms.power_ema(optimizers.adam(0.1), **h), {"gamma": 2.0}),
    "master_weights": (lambda: transforms.master_weights(optimizers.adam(0.1)), {}),
    "compensated": (lambda: transforms.compensated(optimizers.adam(0.1)), {}),
    "round_stochastically": (lambda: transforms.round_stochastically(optimizers.adam(0.1)), {}),
    "dynamic_loss_scale": (
        lambda **h: transforms.dynamic_loss_scale(optimizers.adam(0.1), 4.0, **h),
        {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2.0, "min_scale": 1.0},
    ),
    "project_low_rank": (
        lambda **h: lossax.assemble(transforms.project_low_rank(optimizers.scale_by_adam(), 1, **h), 0.1, 0.1),
        {"every": 2.0, "scale": 0.5},
    ),
    "project_low_rank, fira": (
        lambda **h: lossax.assemble(
            transforms.project_low_rank(optimizers.scale_by_adam(), 1, method="fira", **h), 0.1, 0.1
        ),
        {"every": 2.0, "limit": 1.01},
    ),
    "project_low_rank, apollo": (
        lambda **h: lossax.assemble(
            transforms.project_low_rank(optimizers.scale_by_adam(), 1, method="apollo", **h), 0.1, 0.1
        ),
        {"every": 2.0, "limit": 1.01},
    ),
    "cautious": (lambda: transforms.cautious(optimizers.adam(0.1)), {}),
    "centralize": (transforms.centralize, {}),
    "normalize": (transforms.normalize, {}),
    "normalize, units": (lambda: transforms.normalize(-1), {}),
    "scale_by_sign": (transforms.scale_by_sign, {}),
    "add_noise": (lambda **h: transforms.add_noise(**h, key=0), {"eta": 0.01, "gamma": 0.5}),
    "gradient_dropout": (lambda **h: transforms.gradient_dropout(**h, key=0), {"rate": 0.3}),
    "orthogonal_gradient": (transforms.orthogonal_gradient, {}),
    "grokfast": (transforms.grokfast, {"decay": 0.8, "amplification": 2.0}),
    "compress_top_k": (lambda: transforms.compress_top_k(0.4), {}),
    "compress_int8": (lambda: transforms.compress_int8(4), {}),
    "compress_sign": (transforms.compress_sign, {}),
    "compress_low_rank": (lambda: transforms.compress_low_rank(1), {}),
    "error_feedback": (lambda: transforms.error_feedback(transforms.compress_low_rank(1)), {}),
    "scale_by_trust_ratio": (
        transforms.scale_by_trust_ratio,
        {"trust_coefficient": 0.5, "eps": 0.1, "min_norm": 0.1, "max_norm": 2.0, "max_ratio": 3.0},
    ),
    "qk_clip": (
        lambda **h: with_logits(transforms.qk_clip({"^w": "h."}, {}, **h)),
        {"threshold": 0.7, "balance": 0.25},
    ),
    "scale_by_factors": (
        lambda **h: transforms.scale_by_factors(transforms.path_factors({"b": h["factor"]})),
        {"factor": 0.5},
    ),
    "all together": (
        lambda **h: transforms.skip_nonfinite(
            transforms.average_parameters(
                transforms.freeze(
                    optax.chain(transforms.clip_by_global_norm(h["limit"]), optimizers.adam(0.1)), BIASES
                ),
                h["decay"],
            )
        ),
        {"limit": 0.7, "decay": 0.8},
    ),
}
every = pytest.mark.parametrize(("make", "hyper"), CASES.values(), ids=CASES)
swept = pytest.mark.parametrize(
    ("make", "hyper"), [x for x in CASES.values() if x[1]], ids=[name for name, x in CASES.items() if x[1]]
)


def run(tx, params=None, steps=4, scale=1.0):
    """Parameters and state after a few steps down."""
    params = parameters() if params is None else params
    state = tx.init(params)

    def body(carry, seed):
        params, state = carry
        grads = jax.tree.map(lambda p: scale * (p + 0.1 * seed.astype(p.dtype)), params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), updates

    (params, state), updates = jax.lax.scan(body, (params, state), jnp.arange(float(steps)))
    return params, state, updates


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_every_transformation_is_here():
    made = {name: inspect.signature(f).return_annotation for name, f in v.public(transforms).items()}
    makers = {name for name, what in made.items() if getattr(what, "__name__", "").startswith("GradientTransformation")}
    assert makers <= set(CASES), "add it to CASES"
    assert {"freeze", "clip_by_norm"} <= makers


@every
def test_state_is_a_fixed_point_of_type(make, hyper):
    forms = (lambda x: x, np.float64, jnp.float32, lambda x: jnp.asarray(x, jnp.bfloat16), lambda x: lambda _: x)
    for form in forms:
        tx = make(**{k: form(x) for k, x in hyper.items()})
        for dtype in FLOATS if form is forms[0] else ("bfloat16",):
            params = parameters(dtype)
            real = tx.init(params)
            assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in jax.tree.leaves(real))
            state = jax.eval_shape(tx.init, params)
            for own in FLOATS if form is forms[0] else (dtype,):
                grads = gradients(own)
                updates, after = jax.eval_shape(tx.update, grads, state, params)
                assert after == state
                moves = isinstance(tx, optax.GradientTransformationExtraArgs)  # an optimizer, not a part of one
                assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype if moves else own)}


@every
def test_structure_does_not_depend_on_values(make, hyper):
    reference = structure(make(**hyper).init(parameters()))
    for other in (lambda x: jnp.float32(x), lambda x: 0.5 * x, lambda x: lambda _: x):
        assert structure(make(**{k: other(x) for k, x in hyper.items()}).init(parameters())) == reference


@every
def test_one_trace_and_donation(make, hyper):
    tx, traces = make(**hyper), []

    def plain(params, state, grads):
        traces.append(None)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step, params = jax.jit(plain, donate_argnums=(0, 1)), parameters()
    state = tx.init(params)
    for seed in range(3):
        params, state = step(params, state, gradients(seed=seed))
    assert len(traces) == 1
    params, state = parameters(), jax.jit(tx.init)(parameters())
    step(params, state, gradients())


@swept
def test_every_hyperparameter_sweeps_under_vmap(make, hyper):
    unmoved = run(make(**{name: float(np.float32(value)) for name, value in hyper.items()}))
    for name, value in hyper.items():
        sweep = np.array([value, 0.5 * value], np.float32)
        got = jax.vmap(lambda x, name=name: run(make(**hyper | {name: x})))(jnp.asarray(sweep))
        moved = run(make(**hyper | {name: float(sweep[1])}))
        for i, one in enumerate((unmoved, moved)):
            chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], got), one, rtol=1e-6, atol=1e-6)


@pytest.mark.sampled
@swept
def test_schedules_see_the_number_of_updates_made(make, hyper):
    for name, value in hyper.items():
        seen = []
        tx = make(**hyper | {name: lambda step, value=value, seen=seen: seen.append(step) or jnp.float32(value)})
        state = tx.init(parameters())
        made = 0
        with jax.disable_jit():
            for _ in range(3):
                seen.clear()
                updates, state = tx.update(gradients(), state, parameters())
                assert {int(s) for s in seen if not isinstance(s, jax.core.Tracer)} == {made}
                made += any(np.any(u) for u in jax.tree.leaves(updates))  # what only gathers gradients made none
        run_at = lambda x, name=name: run(make(**hyper | {name: x}))  # noqa: E731
        chex.assert_trees_all_close(run_at(lambda _, value=value: jnp.float32(value)), run_at(value), rtol=1e-6)


@swept
def test_nonsense_is_refused(make, hyper):
    wrong = {"decay": (1.0, -0.1), "rate": (1.0, -0.1), "percentile": (101.0, -1.0)}
    wrong |= {
        name: (0.0, -1.0) for name in ("limit", "clipping", "threshold", "max_norm", "max_ratio", "period", "every")
    }
    for name in hyper:
        for value in (math.nan, *wrong.get(name, (-1.0,))):
            for form in (float, jnp.float32):
                with pytest.raises(ValueError, match=name):
                    make(**hyper | {name: form(value)})
        tx = make(**hyper | {name: jnp.full(2, 0.0 if name in ("decay", "rate") else hyper[name])})
        with pytest.raises(ValueError, match=r"scalar|broadcast"):
            tx.update(gradients(), tx.init(parameters()), parameters())


WRAPPERS = [
    transforms.skip_nonfinite,
    transforms.average_parameters,
    transforms.cautious,
    transforms.reset_momentum,
    lambda tx: transforms.accumulate(tx, 1),
    lambda tx: transforms.dynamic_loss_scale(tx, 1.0),
    transforms.low_precision,
    transforms.master_weights,
    transforms.compensated,
    transforms.round_stochastically,
]


@pytest.mark.parametrize("make", WRAPPERS)
def test_only_transformations_are_wrapped(make):
    with pytest.raises(TypeError, match="optimizer must be a transformation"):
        make(0.1)
    with pytest.raises(TypeError, match="optimizer must be a transformation"):
        transforms.freeze(lambda updates: updates, BIASES)
    with pytest.raises(TypeError, match="compressor must be a transformation"):
        transforms.error_feedback(transforms.compress_sign)


@pytest.mark.sampled
@every
def test_differentiable_from_any_gradient(make, hyper):
    def after(hyper, params, scale):
        params, _, _ = run(make(**hyper), params, 3, scale)
        return sum(jnp.sum(p**2) for p in jax.tree.leaves(params))

    hyper = {k: jnp.float32(x) for k, x in hyper.items()}
    dead = parameters() | {"w": parameters()["w"].at[0].set(0.0)}
    slopes = v.quick(jax.grad(after, argnums=(0, 1, 2)))
    for params in (parameters(), dead, jax.tree.map(jnp.zeros_like, parameters())):
        for scale in (0.5, 0.0):
            found = slopes(hyper, params, jnp.float32(scale))
            chex.assert_tree_all_finite(found)


@pytest.mark.sampled
@every
def test_odd_trees(make, hyper):
    tx = make(**hyper)
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
    }
    grads = dict(model, scalar=jnp.float32(1.0), python=1.0, call=None, name=None)
    for integer in (jnp.arange(3), np.zeros(3, jax.dtypes.float0)):  # what `jax.grad(allow_int=True)` gives
        grads["integer"] = integer
        state = tx.init(model)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
        for _ in range(2):
            updates, after = tx.update(grads, state, model)
            assert structure(after) == structure(state)
            state = after
        assert updates["none"] is updates["call"] is updates["name"] is None
        assert updates["integer"] is integer or np.array_equal(updates["integer"], integer)
        assert np.isfinite(updates["scalar"])
        assert updates["empty"].shape == (0, 3)
    for empty in ({}, (), [None]):
        assert tx.update(empty, tx.init(empty), empty)[0] == empty


@pytest.mark.sampled
@every
def test_complex_updates_rotate_with_the_gradient(make, hyper):
    tx = make(**hyper)
    params = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)) + np.complex64(1j), jnp.complex64)
    turn = jnp.complex64(np.exp(0.7j))

    def final(params):
        state, updates = tx.init(params), params
        for i in range(3):
            updates, state = tx.update(np.complex64(1 + i) * params, state, params)
        return updates

    if "add_noise" in make.__code__.co_names:
        pytest.skip("noise turns in distribution only")
    if "compress_int8" in make.__code__.co_names:
        with pytest.raises(TypeError, match="complex"):
            final(params)
        return
    with jax.numpy_dtype_promotion("standard"):  # for Adam
        plain, turned = final(params), final(turn * params)
    assert plain.dtype == jnp.complex64
    np.testing.assert_allclose(turned, turn * plain, rtol=2e-5, atol=1e-6)


@pytest.mark.sampled
@every
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_sharded_is_local(make, hyper, kind):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    params = {"w": jnp.arange(1.0, 17.0).reshape(8, 2), "b": jnp.arange(1.0, 9.0)}
    tx = make(**hyper)
    expected, _, _ = run(tx, params)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.P("x")))
        got, _, _ = jax.jit(lambda params: run(tx, params))(placed)
    # These gradients lie along the weights but for a hundredth; turned off them, that is all there is.
    rtol = 1e-3 if make is transforms.orthogonal_gradient else 1e-6
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(expected), rtol=rtol)


@pytest.mark.sampled
@every
def test_equinox_hands_over_the_whole_model(make, hyper):
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    tx = make(**hyper)

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(2)) ** 2))(model)
        updates, state = tx.update(grads, state, model)
        return eqx.apply_updates(model, updates), state

    state = tx.init(model)
    for _ in range(2):
        model, after = step(model, state)
        assert structure(eqx.filter(after, eqx.is_array)) == structure(eqx.filter(state, eqx.is_array))
        state = after
    assert np.isfinite(model(jnp.ones(2))).all()


@pytest.mark.sampled
@every
def test_flax_nnx_shows_init_and_update_other_paths(make, hyper):
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    bias = np.asarray(model.bias[...])
    optimizer = nnx.Optimizer(model, make(**hyper), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        grads = nnx.grad(lambda m: jnp.sum((m(jnp.ones((3, 2))) - 1.0) ** 2))(model)
        optimizer.update(model, grads)

    for _ in range(2):
        step(model, optimizer)
    if "freeze" in make.__code__.co_names:
        np.testing.assert_array_equal(model.bias[...], bias)


# ---- clipping --------------------------------------------------------------------------------------------------------


def clipped(tx, updates):
    updates, state = jax.jit(tx.update)(updates, tx.init(updates))
    return updates, state


INF, BIG = math.inf, 3e38
GLOBAL = [  # updates, limit, clipped, norm
    ([3.0, 4.0], 1.0, [0.6, 0.8], 5.0),
    ([3.0, 4.0], 10.0, [3.0, 4.0], 5.0),
    ([3.0, 4.0], 5.0, [3.0, 4.0], 5.0),
    ([3.0, 4.0], INF, [3.0, 4.0], 5.0),
    ([0.0, 0.0], 1.0, [0.0, 0.0], 0.0),
    ([3e-30, 4e-30], 1e-30, [6e-31, 8e-31], 5e-30),
    ([3e-30, 4e-30], 1.0, [3e-30, 4e-30], 5e-30),
    ([1.2e-38, 1.2e-38], 1.0, [1.2e-38, 1.2e-38], 1.697e-38),
    ([3e30, 4e30], 1.0, [0.6, 0.8], 5e30),
    ([BIG, -BIG, BIG, BIG], 1.0, [0.5, -0.5, 0.5, 0.5], INF),
    ([INF, 1.0, -2.0], 1.0, [1.0, 0.0, 0.0], INF),
    ([INF, 1e30, -INF], 1.0, [0.5**0.5, 0.0, -(0.5**0.5)], INF),
    ([INF, 1.0], INF, [INF, 1.0], INF),
    ([math.nan, 1.0], 1.0, [math.nan, 1.0], math.nan),
    ([math.nan, INF], 1.0, [math.nan, INF], math.nan),
]


@pytest.mark.parametrize("zeros", [0, _tree._BRANCH])
@pytest.mark.parametrize(("updates", "limit", "expected", "norm"), GLOBAL)
def test_global_norm_over_the_whole_range(updates, limit, expected, norm, zeros):
    split = {"a": jnp.float32(updates[0]), "b": jnp.float32([*updates[1:], *[0.0] * zeros])}
    got, state = clipped(transforms.clip_by_global_norm(limit), split)
    np.testing.assert_allclose([got["a"], *got["b"][: len(updates) - 1]], np.float32(expected), rtol=3e-7)
    np.testing.assert_allclose(state.norm, np.float32(norm), rtol=2e-4 if norm < 1e-37 else 3e-7)
    traced, _ = jax.jit(lambda x: clipped(transforms.clip_by_global_norm(x), split))(jnp.float32(limit))
    chex.assert_trees_all_close(traced, got, rtol=1e-7)
    leaf, _ = clipped(transforms.clip_by_norm(limit), jnp.float32(updates))
    np.testing.assert_allclose(leaf, np.float32(expected), rtol=3e-7)


def test_norm_in_16_bits_is_that_in_32():
    """In float16 Optax's norm of these overflows, and the clipped update is 0."""
    updates = jnp.full((300,), 6e4, jnp.float16)
    got, state = clipped(transforms.clip_by_global_norm(1.0), updates)
    assert got.dtype == jnp.float16
    np.testing.assert_allclose(got, np.full(300, 300**-0.5), rtol=1e-3)
    assert float(state.norm) == pytest.approx(float(updates[0]) * 300**0.5, rel=1e-6)
    theirs, _ = clipped(optax.clip_by_global_norm(1.0), updates)
    assert not np.any(theirs)


def test_optax_turns_an_infinite_gradient_into_nan():
    theirs, _ = clipped(optax.clip_by_global_norm(1.0), jnp.array([1.0, INF]))
    assert np.isnan(theirs[1])


@pytest.mark.parametrize("limit", [0.3, 1.0, 50.0])
def test_clipping_agrees_with_optax_on_ordinary_updates(limit):
    updates = gradients()
    ours, state = clipped(transforms.clip_by_global_norm(limit), updates)
    chex.assert_trees_all_close(ours, clipped(optax.clip_by_global_norm(limit), updates)[0], rtol=1e-6)
    assert float(state.norm) == pytest.approx(float(optax.tree.norm(updates)), rel=1e-6)
    ours, _ = clipped(transforms.clip_by_value(limit), updates)
    chex.assert_trees_all_close(ours, clipped(optax.clip(limit), updates)[0])
    leaf = updates["w"]
    ours, _ = clipped(transforms.clip_by_norm(limit), leaf)
    theirs, _ = clipped(optax.clip_by_block_rms(limit / leaf.size**0.5), leaf)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_clipping_agrees_with_torch():
    torch = pytest.importorskip("torch")
    updates = gradients()
    weights = [torch.nn.Parameter(torch.zeros(x.shape)) for x in jax.tree.leaves(updates)]
    for limit in (0.5, 50.0):
        for ours, theirs in (
            (transforms.clip_by_global_norm, torch.nn.utils.clip_grad_norm_),
            (transforms.clip_by_value, torch.nn.utils.clip_grad_value_),
        ):
            for weight, update in zip(weights, jax.tree.leaves(updates), strict=True):
                weight.grad = torch.tensor(np.asarray(update))
            norm = theirs(weights, limit)
            got, state = clipped(ours(limit), updates)
            for weight, update in zip(weights, jax.tree.leaves(got), strict=True):
                np.testing.assert_allclose(update, weight.grad.numpy(), rtol=2e-6)  # torch adds 1e-6 to the norm
            if norm is not None:
                np.testing.assert_allclose(state.norm, norm.numpy(), rtol=1e-6)


def test_clip_by_value_keeps_the_angle_of_complex_entries():
    updates = jnp.array([3 + 4j, 0.3 + 0.4j, 0.0, complex(BIG, BIG), complex(0.0, -INF)], jnp.complex64)
    got, _ = clipped(transforms.clip_by_value(1.0), updates)
    np.testing.assert_allclose(got, np.array([0.6 + 0.8j, 0.3 + 0.4j, 0, (1 + 1j) / 2**0.5, -1j]), rtol=1e-6)
    got, _ = clipped(transforms.clip_by_value(1.0), jnp.array([INF, -INF, math.nan, -0.5]))
    np.testing.assert_array_equal(got, [1.0, -1.0, math.nan, -0.5])


def test_the_last_norm_is_found_in_a_chain():
    tx = lossax.chain(transforms.clip_by_global_norm(1.0), optimizers.adam(0.1))
    _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    assert optax.tree.get(state, "norm") == 5.0


@pytest.mark.parametrize("exponent", [-35, -30, -20, -5, 0, 5, 18, 20, 36])
@pytest.mark.parametrize("count", [350, _tree._BRANCH])
def test_norm_is_exact_at_every_scale(count, exponent):
    rng = np.random.default_rng(0)
    leaves = [np.float32(rng.normal(size=(count // 7, 7)) * 10.0**exponent), np.float32(10.0**exponent)]
    exact = math.sqrt(sum(float(np.sum(np.float64(leaf) ** 2)) for leaf in leaves))
    assert float(_tree.norm(leaves)) == pytest.approx(exact, rel=5e-7)
    slopes = jax.grad(lambda leaves: _tree.norm(leaves))([jnp.asarray(leaf) for leaf in leaves])
    np.testing.assert_allclose(slopes[0], np.float64(leaves[0]) / exact, rtol=2e-6, atol=1.2e-38 / exact)


def test_norms_of_each_leaf():
    """Ordinary ones, one look; beside a leaf that is huge, tiny, infinite or complex, two; the same under `vmap`."""
    ones = jnp.ones((2, _tree._BRANCH))
    others = {
        "huge": 1e30 * ones,
        "tiny": 1e-30 * ones,
        "ones": 3.0 * ones,
        "complex": jax.lax.complex(3 * ones, 4 * ones),
        "none": None,
    }
    expected = {"huge": 1.28e32, "tiny": 1.28e-28, "ones": 384.0, "complex": 640.0, "small": 5.0, "zero": 0.0}
    small = {"small": jnp.array([[3.0, 4.0]] * 2), "zero": jnp.zeros((2, 1))}
    for of in (["ones", "none"], ["ones", "complex"], [*others]):
        found = jax.vmap(_tree.norms)({name: others[name] for name in of} | small)
        first = jax.jit(_tree.norms)({name: x if x is None else x[0] for name, x in others.items() if name in of})
        for name in (*of, *small):
            if others.get(name, 0) is None:
                assert found[name] is first[name] is None
                continue
            np.testing.assert_allclose(found[name], [expected[name]] * 2, rtol=1e-6)
            np.testing.assert_allclose(first.get(name, expected[name]), expected[name], rtol=1e-6)
    assert _tree.norms({"a": jnp.full(_tree._BRANCH, INF), "b": 1.0}) == {"a": INF, "b": 1.0}
    spoiled = {"a": ones[0].at[7].set(jnp.nan), "huge": others["huge"][0]}
    assert np.isnan(jax.jit(_tree.norms)(spoiled)["a"])
    assert np.isnan(jax.jit(_tree.norm)(spoiled))


@pytest.mark.parametrize("count", [3, _tree._BRANCH])
def test_norm_at_zero_is_smooth(count):
    direction = jnp.linspace(-1, 1, count)
    for point in (jnp.zeros(count), jnp.ones(count)):
        slope, curvature = jax.jvp(jax.grad(_tree.norm), (point,), (direction,))
        np.testing.assert_allclose(slope, point * count**-0.5, rtol=1e-6)
        assert np.isfinite(curvature).all()
    assert _tree.norm({}) == 0.0
    assert _tree.norm([jnp.zeros((0, 2)), None, "name"]) == 0.0


@pytest.mark.parametrize("count", [4, _tree._BRANCH])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30, INF, math.nan])
def test_norm_of_what_the_compiler_knows(count, size):
    """Of constants XLA multiplies factors in another order, and the square of a scale is no number."""
    tree = lambda size: {"a": jnp.full(count, size), "b": jnp.full((2, count), size)}  # noqa: E731
    for found in (jax.jit(lambda: _tree.norms(tree(size)))(), jax.jit(lambda x: _tree.norms(tree(x)))(size)):
        np.testing.assert_allclose([found["a"], found["b"]], size * np.sqrt([count, 2 * count]), rtol=1e-6)
    found = jax.jit(lambda: (_tree.norm(tree(size)), _tree.scaled_norm(tree(size))))()
    np.testing.assert_allclose([found[0], math.prod(found[1])], size * (3 * count) ** 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "length"), [(3.0, -4.0, 5.0), (0.0, 0.0, 0.0), (3e30, 4e30, 5e30), (-INF, INF, INF), (INF, 1.0, INF)]
)
def test_hypot_is_that_of_c(x, y, length):
    """But NaN beside infinity stays NaN."""
    for one, other in ((x, y), (y, x)):
        assert _numerics.hypot(jnp.float32(one), jnp.float32(other)) == pytest.approx(length, rel=1e-6)
        assert np.isnan(jax.jit(_numerics.hypot)(jnp.float32(one), jnp.float32(math.nan)))


def test_quotients_in_a_row():
    """XLA makes a / (b c) of (a / b) / c."""
    found = jax.jit(lambda a, b, c: _numerics.divide(a, b) / c)(*jnp.array([[1e30, 0.0], [1e20, 1e-30], [1e20, 1e-30]]))
    np.testing.assert_allclose(found, [1e-10, 0.0], rtol=1e-6)


# ---- decay -----------------------------------------------------------------------------------------------------------


def test_decayed_weights_are_optax_and_torch():
    updates, params = gradients(), parameters()
    got, _ = transforms.add_decayed_weights(0.3).update(
        updates, transforms.add_decayed_weights(0.3).init(params), params
    )
    theirs, _ = optax.add_decayed_weights(0.3).update(updates, optax.EmptyState(), params)
    chex.assert_trees_all_close(got, theirs, rtol=1e-6)
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.tensor(np.asarray(params["w"])))
    optimizer = torch.optim.Adam([weight], lr=0.1, weight_decay=0.3)
    tx = lossax.chain(transforms.add_decayed_weights(0.3), optimizers.adam(0.1))
    own = params["w"]
    state = tx.init(own)
    for seed in range(3):
        grads = gradients(seed=seed)["w"]
        weight.grad = torch.tensor(np.asarray(grads))
        optimizer.step()
        moved, state = tx.update(grads, state, own)
        own = optax.apply_updates(own, moved)
    np.testing.assert_allclose(own, weight.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_decay_without_params():
    tx = transforms.add_decayed_weights(0.0)
    updates = gradients()
    assert tx.update(updates, tx.init(None))[0] is updates
    with pytest.raises(ValueError, match="needs params"):
        transforms.add_decayed_weights(0.1).update(updates, tx.init(None))


# ---- freezing --------------------------------------------------------------------------------------------------------


def test_frozen_leaves_have_no_state_and_no_influence():
    params, grads = parameters(), gradients()
    chain = lambda: optax.chain(transforms.clip_by_global_norm(0.1), optimizers.adamw(0.1, weight_decay=0.5))  # noqa: E731
    tx, alone = transforms.freeze(chain(), BIASES), chain()
    state = tx.init(params)
    assert not any(leaf.shape == (3,) for leaf in jax.tree.leaves(state))
    poisoned = grads | {"b": [jnp.full(3, jnp.nan)]}
    updates, _ = tx.update(poisoned, state, params)
    expected, _ = alone.update(grads["w"], alone.init(params["w"]), params["w"])
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"][0], np.zeros(3))


MASKS = [
    {"w": True, "b": [False]},
    {"w": np.True_, "b": [np.False_]},
    lossax.path_mask(include="^w$"),
    lambda _: {"w": True, "b": [False]},
]


@pytest.mark.parametrize("mask", MASKS)
def test_masks_of_every_form(mask):
    tx = transforms.freeze(optax.sgd(1.0), mask)
    updates, _ = tx.update(gradients(), tx.init(parameters()))
    assert not np.any(updates["w"])
    assert np.all(updates["b"][0])


def test_freezing_all_and_nothing():
    for include, moves in (("", False), ("nothing", True)):
        tx = transforms.freeze(optimizers.adam(0.1), lossax.path_mask(include=include))
        params, _, _ = run(tx)
        moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), params, parameters())
        assert set(jax.tree.leaves(moved)) == {moves}


def test_extra_arguments_go_through():
    scale = lambda updates, state, params, *, value, **_: (jax.tree.map(lambda u: value * u, updates), state)  # noqa: E731
    inner = optax.GradientTransformationExtraArgs(lambda _: (), scale)
    for wrap in (lambda tx: transforms.freeze(tx, BIASES), *WRAPPERS):
        tx = wrap(inner)
        updates, _ = tx.update(gradients(), tx.init(parameters()), parameters(), value=jnp.float32(3.0), unknown=3)
        if wrap is not transforms.cautious:
            np.testing.assert_array_equal(updates["w"], 3.0 * gradients()["w"])


# ---- the guard -------------------------------------------------------------------------------------------------------


def spoil(value):
    return gradients() | {"b": [jnp.array([1.0, value, 1.0])]}


@pytest.mark.parametrize("make", v.OPTIMIZERS.values(), ids=v.OPTIMIZERS)
def test_one_bad_gradient_costs_one_step(make):
    """Promise O5, over every optimizer there is."""
    tx = transforms.skip_nonfinite(make(0.01, **v.required(make)))
    params = parameters()
    step = jax.jit(lambda g, s: tx.update(g, s, params, **EXTRA))
    _, state = step(gradients(), tx.init(params))
    for count, value in enumerate((math.nan, INF, -INF, 1e30, v.LARGEST), start=1):
        updates, after = step(spoil(value), state)
        assert all(not np.any(u) for u in jax.tree.leaves(updates))
        chex.assert_trees_all_equal(after.inner, state.inner)
        assert (after.skipped, after.skipped_in_a_row) == (count, count)
        state = after
    ordinary, good = None, state
    for _ in range(20):
        ordinary, good = step(gradients(), good)
    assert (good.skipped, good.skipped_in_a_row) == (5, 0)
    plain = make(0.01, **v.required(make))
    step, expected, state = jax.jit(lambda g, s: plain.update(g, s, params, **EXTRA)), None, plain.init(params)
    for _ in range(21):
        expected, state = step(gradients(), state)
    chex.assert_trees_all_close(ordinary, expected, rtol=1e-5, atol=1e-7)


def test_the_guard_is_the_optimizer_on_good_gradients():
    guarded, plain = run(transforms.skip_nonfinite(optimizers.adam(0.1))), run(optimizers.adam(0.1))
    chex.assert_trees_all_close(guarded[0], plain[0], rtol=1e-6)


def test_a_skipped_step_advances_no_schedule():
    tx = transforms.skip_nonfinite(optimizers.adam(lossax.schedules.linear(1.0, 0.0, 4)))
    state = tx.init(parameters())
    for value in (1.0, math.nan, math.nan, 1.0):
        _, state = tx.update(spoil(value), state, parameters())
    assert lossax.learning_rate(state) == 0.75
    assert state.skipped == 2


def test_the_guard_under_vmap_skips_by_lane():
    tx = transforms.skip_nonfinite(optimizers.adam(0.1))
    params = jnp.ones((3, 2))
    updates, state = jax.vmap(tx.update)(
        jnp.array([[1.0, 1.0], [math.nan, 1.0], [1e30, 1.0]]), jax.vmap(tx.init)(params), params
    )
    np.testing.assert_allclose(updates, [[-0.1, -0.1], [0.0, 0.0], [0.0, 0.0]], rtol=1e-6)
    assert state.skipped.tolist() == [0, 1, 1]


def test_the_guard_is_differentiable_where_it_skips():
    tx = transforms.skip_nonfinite(optimizers.adam(0.1))

    def update(grads):
        return tx.update(grads, tx.init(jnp.ones(2)))[0].sum()

    assert jax.grad(update)(jnp.array([1.0, math.nan])).tolist() == [0.0, 0.0]


def test_the_guard_squares_16_bits_in_32():
    tx = transforms.skip_nonfinite(optax.sgd(1.0))
    updates, state = tx.update(jnp.full(3, 6e4, jnp.float16), tx.init(jnp.zeros(3, jnp.float16)))
    assert state.skipped == 0
    assert np.all(updates)


# ---- averaging -------------------------------------------------------------------------------------------------------


def trajectory(tx, steps=6):
    """The parameters after each step, and the states."""
    params, out = parameters(), []
    state = tx.init(params)
    for seed in range(steps):
        updates, state = tx.update(gradients(seed=seed), state, params)
        params = optax.apply_updates(params, updates)
        out.append((params, state))
    return out


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.2, 0.9, lambda step: 0.1 * jnp.asarray(step, jnp.float32)])
def test_average_is_its_definition(decay: Any, debias, warmup):
    tx = transforms.average_parameters(optimizers.adam(0.1), decay, warmup=warmup, debias=debias)
    average, mass = (0.0, 0.0) if debias else (np.float64(parameters()["w"]), 1.0)
    for step, (params, state) in enumerate(trajectory(tx)):
        keep: Any = decay(step) if callable(decay) else decay
        keep = min(float(keep), (1 + step) / (10 + step)) if warmup else keep
        average = keep * average + (1 - keep) * np.float64(params["w"])
        mass = keep * mass + (1 - keep)
        np.testing.assert_allclose(transforms.eval_params(state, params)["w"], average / mass, rtol=2e-6, atol=1e-7)


def test_training_is_as_without():
    plain = trajectory(optimizers.adam(0.1))[-1][0]
    chex.assert_trees_all_equal(trajectory(transforms.average_parameters(optimizers.adam(0.1)))[-1][0], plain)


def test_average_agrees_with_torch():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Linear(1, 1, bias=False)
    weight.weight.data[:] = 2.0
    averaged = torch.optim.swa_utils.AveragedModel(weight, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1)
    params = jnp.float32(2.0)
    tx = transforms.average_parameters(optimizers.sgd(0.1), 0.9, debias=False)
    state = None
    for step in range(5):
        optimizer.zero_grad()
        (weight.weight**2).sum().backward()
        optimizer.step()
        averaged.update_parameters(weight)
        updates, state = tx.update(2.0 * params, state if step else tx.init(params), params)
        params = params + updates
        if step == 0:  # torch begins with a copy of what the first step gave
            state = tx.init(params)
        theirs = averaged.module.weight.item()
        assert float(transforms.eval_params(state, params)) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("debias", [False, True])
def test_16_bit_parameters_are_averaged_in_32(debias):
    """Steps of the average that bfloat16 could not make."""
    params = jnp.ones(4, jnp.bfloat16)
    tx = transforms.average_parameters(optax.set_to_zero(), 0.999, debias=debias)
    state = tx.init(params)
    step = jax.jit(lambda params, state: tx.update(jnp.zeros_like(params), state, params)[1])
    for _ in range(100):
        state = step(2.0 * params, state)
    found = transforms.eval_params(state, params)
    assert found.dtype == jnp.bfloat16
    assert state.average.dtype == jnp.float32
    exact = 2.0 if debias else 2.0 - 0.999**100
    np.testing.assert_allclose(state.average / state.mass, exact, rtol=1e-5)


def test_the_average_is_of_the_parameters_as_they_are_stored():
    params = jnp.ones(1, jnp.bfloat16)
    tx = transforms.average_parameters(optax.identity(), 0.0)
    _, state = tx.update(jnp.array([1e-4], jnp.bfloat16), tx.init(params), params)
    assert state.average[0] == 1.0, "1 + 1e-4 is 1 in bfloat16"


def test_eval_params_is_found_anywhere():
    averaging = transforms.average_parameters(optimizers.adam(0.1), 0.5)
    for tx in (
        averaging,
        lossax.chain(transforms.clip_by_global_norm(1.0), averaging),
        transforms.skip_nonfinite(averaging),
        optax.chain(optimizers.adam(0.1), transforms.average_parameters(optax.identity(), 0.5)),
        transforms.average_parameters(transforms.freeze(optimizers.adam(0.1), BIASES), 0.5),
        transforms.freeze(averaging, BIASES),
        optax.masked(averaging, {"w": True, "b": [False]}),
    ):
        params = parameters()
        state = tx.init(params)
        chex.assert_trees_all_equal(transforms.eval_params(state, params), params)
        seen = []
        for seed in range(2):
            updates, state = tx.update(gradients(seed=seed), state, params)
            params = optax.apply_updates(params, updates)
            seen.append(params["w"])
        expected = (seen[0] * 0.25 + seen[1] * 0.5) / 0.75
        got = transforms.eval_params(state, params)
        np.testing.assert_allclose(got["w"], expected, rtol=1e-5)
        chex.assert_trees_all_equal_shapes_and_dtypes(got, params)


def test_eval_params_refuses():
    params = parameters()
    with pytest.raises(ValueError, match="found 0"):
        transforms.eval_params(optimizers.adam(0.1).init(params), params)
    twice = optax.chain(*(transforms.average_parameters(optax.identity()) for _ in range(2)))
    with pytest.raises(ValueError, match="found 2"):
        transforms.eval_params(twice.init(params), params)
    tx = transforms.average_parameters(optax.identity())
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, tx.init(params))
