"""Accumulation, states of few bits, parameters of 16 bits, loss scaling, low rank: what only they promise."""

import itertools
import math
import os
import subprocess
import sys
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax as typed_optax
import pytest

import lossax
from tests import vocabulary as v

optax: Any = typed_optax
optimizers: Any = lossax.optimizers
transforms: Any = lossax.transforms
assemble: Any = lossax.assemble


def count_calls(tx):
    """The transformation, and how often its update has run so far."""
    calls = []

    def update(updates, state, params=None, **extra):
        jax.debug.callback(lambda: calls.append(None))
        return tx.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(tx.init, update), calls


# ---- accumulation ----------------------------------------------------------------------------------------------------


def fed(tx, grads, params=None, weights=None, **options):
    """Updates and states of one compiled step for each gradient."""
    params = jnp.zeros_like(grads[0]) if params is None else params
    step = jax.jit(lambda g, s, w: tx.update(g, s, params, weight=w, **options))
    state, out = tx.init(params), []
    for i, g in enumerate(grads):
        updates, state = step(g, state, jnp.float32(1.0 if weights is None else weights[i]))
        out.append((updates, state))
    return out


def test_the_optimizer_runs_once_for_every_k_gradients():
    counted, calls = count_calls(optimizers.adam(0.1))
    grads = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    out = fed(transforms.accumulate(counted, 4), grads)
    jax.effects_barrier()
    assert len(calls) == 2
    assert [int(s.mini_step) for _, s in out] == [1, 2, 3, 0] * 2
    assert [bool(np.any(u)) for u, _ in out] == [False, False, False, True] * 2
    plain = fed(optimizers.adam(0.1), grads.reshape(2, 4, 5).mean(1))
    np.testing.assert_allclose([out[3][0], out[7][0]], [u for u, _ in plain], rtol=1e-5)
    peer, calls = count_calls(optax.adam(0.1))
    with jax.numpy_dtype_promotion("standard"):
        fed(optax.with_extra_args_support(optax.MultiSteps(peer, 4).gradient_transformation()), grads)
    jax.effects_barrier()
    assert len(calls) == 8, "what Optax does: take it out of the docstring if it is better now"


def test_uneven_micro_batches_are_one_batch():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(12, 3)), rng.normal(size=12), jnp.array(rng.normal(size=3), jnp.float32)
    keep = rng.random(12) < 0.6
    keep[4:6] = False  # a micro-batch of which nothing is kept
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

    def loss(w, part):
        return lossax.losses.squared_error(x[part] @ w, y[part], where=keep[part])

    tx = transforms.accumulate(optimizers.sgd(1.0), 4)
    state, updates = tx.init(w), w
    for part in (slice(0, 4), slice(4, 6), slice(6, 7), slice(7, 12)):
        weight = lossax.unit_weights(y[part].shape, where=keep[part]).sum()
        updates, state = tx.update(jax.grad(loss)(w, part), state, w, weight=weight)
    np.testing.assert_allclose(updates, -jax.grad(loss)(w, slice(0, 12)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("reduction", "expected"), [("mean", -2.5), ("sum", -10.0)])
def test_reductions(reduction, expected):
    tx = transforms.accumulate(optimizers.sgd(1.0), 3, reduction=reduction)
    (_, _), (_, _), (updates, state) = fed(tx, jnp.array([1.0, math.nan, 3.0]), weights=[1.0, 0.0, 3.0])
    assert updates == expected
    assert not any(map(np.any, (state.total, state.weight, state.mini_step)))


def test_16_bit_gradients_are_summed_in_32():
    grads = jnp.concatenate([jnp.ones((1, 1), jnp.bfloat16), jnp.full((255, 1), 2.0**-9, jnp.bfloat16)])
    tx = transforms.accumulate(optax.sgd(1.0), 256, reduction="sum")
    with jax.numpy_dtype_promotion("standard"):
        _, updates = jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], tx.init(grads[0]), grads)
    assert updates.dtype == jnp.bfloat16
    exact = 1.0 + 255 * 2.0**-9
    assert float(updates[-1, 0]) == float(-jnp.bfloat16(exact)), "in bfloat16 1 + 2**-9 is 1"


def test_every_is_a_schedule_of_steps_made():
    tx = transforms.accumulate(optimizers.sgd(1.0), lambda step: 1 + jnp.asarray(step))
    out = fed(tx, jnp.ones(10))
    assert [bool(u) for u, _ in out] == [True, False, True, False, False, True, False, False, False, True]
    assert [int(s.step) for _, s in out] == [1, 1, 2, 2, 2, 3, 3, 3, 3, 4]


def test_what_is_held_at_the_end_makes_a_step():
    tx = transforms.accumulate(optimizers.sgd(1.0), 4)
    *_, (_, state) = fed(tx, jnp.array([3.0]))
    updates, state = tx.update(jnp.array(1.0), state._replace(mini_step=jnp.int32(3)), jnp.array(0.0))
    assert updates == -2.0
    assert (state.step, state.mini_step) == (1, 0)


def test_a_bad_micro_batch_inside_or_outside_of_the_guard():
    grads = jnp.array([1.0, math.nan, 3.0, 5.0])
    replaced = fed(transforms.skip_nonfinite(transforms.accumulate(optimizers.sgd(1.0), 2)), grads)
    assert [float(u) for u, _ in replaced] == [0.0, 0.0, -2.0, 0.0]
    left_out = fed(transforms.accumulate(transforms.skip_nonfinite(optimizers.sgd(1.0)), 2), grads)
    assert [float(u) for u, _ in left_out] == [0.0, 0.0, 0.0, -4.0]
    assert left_out[-1][1].inner.skipped == 1


@pytest.mark.parametrize("weight", [-1.0, math.nan, jnp.ones(2)])
def test_weights_that_are_none(weight):
    tx = transforms.accumulate(optimizers.sgd(1.0), 2)
    with pytest.raises(ValueError, match="weight must be"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2), weight=weight)


def test_16_bit_optax_inside_keeps_its_state():
    params = {"w": jnp.ones(3, jnp.bfloat16), "n": None}
    with jax.numpy_dtype_promotion("standard"):
        tx = transforms.accumulate(optax.adamw(0.1), 1)
        updates, state = tx.update({"w": jnp.ones(3, jnp.bfloat16), "n": None}, tx.init(params), params)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    assert updates["w"].dtype == jnp.bfloat16


# ---- states of few bits ----------------------------------------------------------------------------------------------

LARGE = (64, 300)


def large(seed=0, spread=1.0, dtype=jnp.float32):
    """Gradients whose sizes differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(spread * np.random.default_rng(99).normal(size=LARGE))
    return {"w": jnp.asarray(rng.normal(size=LARGE) * sizes, dtype), "b": jnp.asarray(rng.normal(size=5), dtype)}


def stepped(tx, steps=20, params=None, grads=large):
    """Parameters, updates and state after some steps."""
    params = large(7) if params is None else params
    step = jax.jit(tx.update)
    state, updates = tx.init(params), params
    for seed in range(steps):
        updates, state = step(grads(seed), state, params)
        params = optax.apply_updates(params, updates)
    return params, updates, state


@pytest.mark.parametrize(("dtype", "error"), [("int8", 0.08), ("bfloat16", 0.01)])
def test_steps_are_nearly_those_of_a_wide_state(dtype, error):
    tx, plain = transforms.low_precision(optimizers.adamw(1e-3), dtype), optimizers.adamw(1e-3)
    _, got, state = stepped(tx)
    _, expected, _ = stepped(plain)
    np.testing.assert_array_equal(got["b"], expected["b"], "small leaves are as they were")
    gap = np.linalg.norm(got["w"] - expected["w"]) / np.linalg.norm(expected["w"])
    assert gap < error
    assert state.decode()[1].nu["w"].dtype == jnp.float32


@pytest.mark.parametrize(("dtype", "most"), [("int8", 2.1), ("bfloat16", 4.01)])
def test_bytes_for_each_parameter(dtype, most):
    params = {"w": jnp.zeros((1024, 1024)), "conv": jnp.zeros((3, 3, 64, 512)), "odd": jnp.zeros((1009, 50))}
    state = jax.eval_shape(transforms.low_precision(optimizers.adamw(1e-3), dtype).init, params)
    used = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert used <= most * sum(p.size for p in params.values())
    narrow = [x for x in jax.tree.leaves(state.inner) if x.dtype == dtype]
    assert sorted(x.shape for x in narrow) == sorted(2 * [p.shape for p in params.values()])


MEMORY = """
import jax, lossax
params = {str(i): jax.ShapeDtypeStruct((512, 512), "float32") for i in range(4)}
tx = lossax.transforms.low_precision(lossax.optimizers.adamw(1e-3))
step = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=(0, 1))
print(step.lower(params, jax.eval_shape(tx.init, params), params).compile().memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
def test_the_whole_state_is_never_there_in_float32():
    # On CPU XLA runs as much at once as it can, unless it is told so before it starts.
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_enable_concurrency_optimized_scheduler=false"}
    out = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, env=os.environ | flags)
    assert int(out.stdout) < 4 * 512 * 512 * 8, out.stderr


def test_nothing_positive_becomes_zero():
    spread = jnp.asarray(10.0 ** np.linspace(-37, 0, 4096), jnp.float32).at[::7].set(0.0)
    for scale in (1e-30, 1.0, 1e30):
        tx = transforms.low_precision(optax.trace(0.0), min_size=1)
        _, state = jax.jit(tx.update)(spread * jnp.float32(scale), tx.init(spread))
        got, exact = np.asarray(state.decode().trace), np.asarray(spread * jnp.float32(scale))
        np.testing.assert_array_equal(got > 0, exact >= np.finfo(np.float32).tiny)
        top = exact.reshape(16, 256).max(1, keepdims=True).repeat(256, 1).ravel()
        seen = (exact > 1e-6 * top) & (exact > 1e-36)
        assert np.max(np.abs(got[seen] / exact[seen] - 1.0)) < 0.27  # the gap between codes there
    assert not np.any(tx.init(spread).decode().trace)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_averages_do_not_stall(dtype):
    """One share of 0.001 is less than half a gap between two codes: rounded to the nearest nothing would move."""
    ones = jnp.ones((16, 256)).at[:, 0].set(4.0)  # the largest of a block is exact
    tx = transforms.low_precision(optax.ema(0.999, debias=False), dtype, min_size=1)
    state = tx.init(ones)
    state = state._replace(inner=state.inner._replace(ema=ones)) if dtype == "bfloat16" else tx.update(ones, state)[1]
    first = float(state.decode().ema[:, 1:].mean())
    step = jax.jit(lambda _, s: tx.update(jnp.zeros_like(ones).at[:, 0].set(4.0), s)[1])
    state = jax.lax.fori_loop(0, 1000, step, state)
    assert float(state.decode().ema[:, 1:].mean()) == pytest.approx(first * 0.999**1000, rel=0.05)


def test_rounding_is_right_in_the_mean():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 256)), jnp.float32)
    many = jnp.broadcast_to(x, (1024, 256))
    for signed in (many, jnp.abs(many)):
        tx = transforms.low_precision(optax.trace(0.0), min_size=1)
        got = tx.update(signed, tx.init(signed))[1].decode().trace
        spread = np.asarray(got).std(0) / 32 + 2e-4 * np.asarray(signed)[0].__abs__()  # and what 1024 draws cannot see
        assert np.max(np.abs(np.asarray(got).mean(0) - np.asarray(signed)[0]) / spread) < 5


def test_which_leaves_are_stored():
    params = {"embed": jnp.zeros((64, 128)), "w": jnp.zeros((64, 128)), "b": jnp.zeros(128), "none": None}
    tx = transforms.low_precision(
        transforms.average_parameters(optimizers.adamw(1e-3)), mask=lossax.path_mask(exclude="embed")
    )
    state = tx.init(params)
    assert {x.dtype for x in jax.tree.leaves(state)} <= {jnp.dtype(d) for d in ("float32", "int32", "uint32")}
    state = transforms.low_precision(optimizers.adamw(1e-3), mask=lossax.path_mask(exclude="embed")).init(params)
    assert state.inner[1].mu["w"].dtype == state.inner[1].nu["w"].dtype == jnp.int8
    assert state.inner[1].mu["embed"].dtype == state.inner[1].mu["b"].dtype == jnp.float32
    for outer in (transforms.master_weights, transforms.compensated):
        params = {"w": jnp.ones((64, 128), jnp.bfloat16)}
        tx = outer(transforms.low_precision(optimizers.adamw(1e-3)))
        assert tx.init(params).inner.inner[1].mu["w"].dtype == jnp.int8
        wrong = transforms.low_precision(outer(optimizers.adamw(1e-3))).init(params)
        assert jnp.int8 not in {x.dtype for x in jax.tree.leaves(wrong)}


def test_runs_go_on_from_a_checkpoint(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    for i, dtype in enumerate(("int8", "bfloat16")):
        tx = transforms.low_precision(optimizers.adamw(1e-3), dtype)
        params, _, state = stepped(tx, 2)
        with checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / str(i), state)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(tmp_path / str(i), jax.eval_shape(lambda state=state: state))
        chex.assert_trees_all_equal(restored, state)
        step = jax.jit(tx.update)
        chex.assert_trees_all_equal(step(large(3), restored, params), step(large(3), state, params))


def test_codes_are_spread_like_parameters():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    tx = transforms.low_precision(optimizers.adamw(1e-3), block=64)
    with jax.set_mesh(mesh):
        for spec in (jax.P("x"), jax.P(None, "x")):
            params = {"w": jax.device_put(jnp.ones((64, 512)), jax.sharding.NamedSharding(mesh, spec))}
            state = jax.jit(tx.init, out_shardings=lossax.sharding.state_shardings(tx, params))(params)
            updates, state = jax.jit(tx.update)(params, state, params)
            for leaf in (state.inner[1].mu["w"], state.inner[1].nu["w"], updates["w"]):
                assert leaf.sharding.is_equivalent_to(params["w"].sharding, 2)
            text = jax.jit(tx.update).lower(params, state, params).compile().as_text() or ""
            assert not any(word in text for word in ("all-gather", "all-to-all", "all-reduce")), "each device by itself"


# ---- parameters of 16 bits -------------------------------------------------------------------------------------------

KEEPERS = [transforms.master_weights, transforms.compensated, transforms.round_stochastically]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("make", KEEPERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_small_steps_are_not_lost(make, dtype, compiled):
    """100 steps of 1e-3 from 1: plain bfloat16 stays where it is."""
    params = jnp.ones(4096, dtype)

    def go(tx):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(-jnp.ones_like(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        first = (params, tx.init(params))
        if compiled:
            return v.optimised(lambda c: jax.lax.scan(body, c, None, 100)[0])(first)
        with jax.disable_jit():
            return jax.lax.scan(body, first, None, 100)[0]

    plain, _ = go(optimizers.sgd(1e-3))
    if dtype == "bfloat16":
        assert np.all(plain == 1.0)
    got, state = go(make(optimizers.sgd(1e-3)))
    assert got.dtype == dtype
    if make is transforms.round_stochastically:
        assert float(got.astype(jnp.float32).mean()) == pytest.approx(1.1, abs=2e-3)
    else:
        assert np.all(got == jnp.asarray(1.1, dtype))
    if make is transforms.master_weights:
        np.testing.assert_allclose(state.master, 1.1, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_are_the_rounded_masters(dtype):
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=500), dtype)
    tx = transforms.master_weights(optax.sgd(0.02))
    state = tx.init(params)
    step = v.optimised(lambda g, s, p: (lambda u, s: (optax.apply_updates(p, u), s))(*tx.update(g, s, p)))
    exact = np.asarray(params, np.float32)
    for i in range(30):
        grads = np.asarray(rng.normal(size=500) * (10.0 if i == 15 else 1.0), np.float32)
        before, (params, state) = params, step(jnp.asarray(grads), state, params)
        exact = exact - np.float32(0.02) * grads
        np.testing.assert_allclose(state.master, exact, rtol=1e-5, atol=1e-6)
        rounded, landed, left = (np.asarray(x.astype(dtype), np.float32) for x in (state.master, params, before))
        easy = (left * rounded > 0) & (np.abs(rounded) >= 0.5 * np.abs(left)) & (np.abs(left) >= 0.5 * np.abs(rounded))
        assert easy.mean() > 0.5
        np.testing.assert_array_equal(landed[easy], rounded[easy])
        within = float(jnp.finfo(dtype).eps) * np.abs(rounded - left)
        assert np.all(np.abs(landed - rounded) <= within), "a rounding of the step"


def test_compensation_holds_what_was_lost():
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=500), jnp.bfloat16)
    tx = transforms.compensated(optimizers.sgd(1e-3))
    state, exact = tx.init(params), np.asarray(params, np.float64)
    step = v.optimised(lambda g, s, p: (lambda u, s: (optax.apply_updates(p, u), s))(*tx.update(g, s, p)))
    for _ in range(200):
        grads = np.asarray(rng.normal(size=500), np.float32)
        params, state = step(jnp.asarray(grads), state, params)
        exact = exact - 1e-3 * grads
    whole = np.asarray(params, np.float64) + np.asarray(state.compensation, np.float64)
    assert np.max(np.abs(whole - exact)) < 1e-3  # 200 roundings of what is left, at random
    assert np.max(np.abs(np.asarray(params, np.float64) - exact) / np.abs(exact).clip(0.01)) < 2.0**-7


def test_wide_parameters_are_the_optimizers_affair():
    params = {"w": jnp.ones(3), "i": jnp.arange(2), "n": None, "h": jnp.ones(2, jnp.float16)}
    grads = {"w": jnp.ones(3), "i": None, "n": None, "h": jnp.ones(2, jnp.float16)}
    for make in KEEPERS:
        tx, plain = make(optimizers.adam(0.1)), optimizers.adam(0.1)
        updates, state = tx.update(grads, tx.init(params), params)
        expected, _ = plain.update(grads, plain.init(params), params)
        np.testing.assert_array_equal(updates["w"], expected["w"])
        assert updates["h"].dtype == jnp.float16
        kept = [x for x in jax.tree.leaves(state) if x.shape == (3,)]
        assert len(kept) == 2, "two moments, no copy"
        with pytest.raises(ValueError, match="needs params"):
            tx.update(grads, state)


def test_decay_is_of_the_master():
    """Shrinking by 1e-3 is lost in bfloat16."""
    params = jnp.ones(2, jnp.bfloat16)
    tx = transforms.master_weights(optimizers.sgd(1.0, weight_decay=1e-3))
    state = tx.init(params)
    for _ in range(20):
        updates, state = tx.update(jnp.zeros_like(params), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.master, 0.999**20, rtol=1e-6)
    assert params[0] == jnp.bfloat16(0.999**20)


# ---- loss scaling ----------------------------------------------------------------------------------------------------


def test_the_scale_follows_the_gradients():
    tx = transforms.dynamic_loss_scale(optimizers.sgd(1.0), 8.0, growth_interval=3, min_scale=2.0)
    scales = []
    for updates, state in fed_plain(tx, [8.0, 8.0, 8.0, math.inf, math.nan, 8.0, -math.inf, -math.inf, -math.inf]):
        scales.append(float(state.scale))
        assert np.isfinite(updates)
    assert scales == [8.0, 8.0, 16.0, 8.0, 4.0, 4.0, 2.0, 2.0, 2.0]
    assert (state.step, state.skipped, state.good_steps) == (4, 5, 0)


def fed_plain(tx, grads):
    params = jnp.zeros(())
    step = jax.jit(tx.update)
    state, out = tx.init(params), []
    for g in grads:
        updates, state = step(jnp.float32(g), state, params)
        out.append((updates, state))
    return out


def test_a_skipped_step_advances_nothing():
    tx = transforms.dynamic_loss_scale(optimizers.adam(lossax.schedules.linear(1.0, 0.0, 4)), 4.0)
    out = fed_plain(tx, [4.0, math.inf, math.nan, 2.0])
    chex.assert_trees_all_equal(out[2][1].inner, out[0][1].inner)
    assert lossax.learning_rate(out[-1][1]) == 0.75
    assert out[1][0] == out[2][0] == 0.0


def test_the_scale_stays_finite():
    tx = transforms.dynamic_loss_scale(optimizers.sgd(1.0), 2.0**126, growth_interval=1)
    state = fed_plain(tx, [1.0] * 4)[-1][1]
    assert np.isfinite(state.scale)
    assert float(fed_plain(tx, [1.0, 1.0, math.inf])[-1][1].scale) <= 2.0**127


def test_float16_gradients_that_would_vanish():
    def loss(w):
        return jnp.sum((w * jnp.float16(2.0**-14)) * jnp.float16(2.0**-12)).astype(jnp.float32)

    params = jnp.ones(2, jnp.float16)
    assert not np.any(jax.grad(loss)(params)), "2**-26 is 0 in float16"
    tx: Any = lossax.chain(transforms.dynamic_loss_scale(optax.identity()))
    state = tx.init(params)
    grads = jax.grad(lambda w: transforms.scale_loss(state, loss(w)))(params)
    updates, _ = tx.update(grads, state, params.astype(jnp.float32))
    np.testing.assert_allclose(updates, 2.0**-26, rtol=1e-3)


def test_scale_loss_refuses():
    with pytest.raises(ValueError, match="found 0"):
        transforms.scale_loss(optimizers.adam(0.1).init(jnp.ones(2)), jnp.float32(1.0))
    with pytest.raises(TypeError, match="loss must be floating"):
        transforms.scale_loss((), jnp.int32(1))


def test_loss_scaling_around_accumulation():
    tx = transforms.dynamic_loss_scale(transforms.accumulate(optimizers.sgd(1.0), 2), 2.0)
    assert [float(u) for u, _ in fed_plain(tx, [2.0, math.inf, 3.0])] == [0.0, 0.0, -2.0], "2 / 2 and 3 / 1"


# ---- few rows --------------------------------------------------------------------------------------------------------

LOW_RANK = ("galore", "fira", "apollo", "apollo_mini")


def decaying(shape, seed=0, rate=1.0):
    """A matrix whose singular values fall like powers."""
    rng = np.random.default_rng(seed)
    u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return jnp.asarray((u * (1.0 + np.arange(u.shape[-1])) ** -rate) @ v, jnp.float32)


def low_rank(direction, rank=3, **options):
    return transforms.project_low_rank(direction, rank, **({"scale": 1.0} | options))


@pytest.mark.parametrize(
    ("shape", "pattern"), [((12, 20), "io"), ((20, 12), "io"), ((2, 9, 14), "bio"), ((8, 8), "io")]
)
def test_the_basis_is_that_of_the_svd(shape, pattern):
    g = decaying(shape)
    tx = low_rank(optax.identity(), matrices=lossax.matrix_rule({"": pattern}))
    updates, state = jax.jit(tx.update)(g, tx.init(g))
    u, s, v = np.linalg.svd(np.asarray(g), full_matrices=False)
    best = (u[..., :3] * s[..., None, :3]) @ v[..., :3, :]
    left, least = np.linalg.norm(g - updates), np.linalg.norm(g - best)
    assert left < 1.02 * least
    for basis in state.bases.values():
        assert basis.shape[1:] == (min(shape[-2:]), 3)
        np.testing.assert_allclose(
            np.swapaxes(basis, 1, 2) @ basis, np.broadcast_to(np.eye(3), (len(basis), 3, 3)), atol=1e-5
        )


def test_moments_have_few_rows():
    params = {"wide": jnp.ones((16, 40)), "tall": jnp.ones((40, 16)), "bias": jnp.ones(16), "small": jnp.ones((3, 50))}
    for method in LOW_RANK:
        state = jax.eval_shape(low_rank(optimizers.scale_by_adam(), method=method).init, params)
        assert state.inner.mu["low_rank"]["16x40"].shape == (2, 3, 40)
        others = {name: None if x is None else x.shape for name, x in state.inner.nu["others"].items()}
        assert others == {"wide": None, "tall": None, "bias": (16,), "small": (3, 50)}
        assert bool(state.bases) is (method in ("galore", "fira"))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 0.0])
def test_without_a_direction_fira_and_apollo_are_the_gradient(scale):
    g = jnp.float32(scale) * decaying((12, 20))
    for method in ("fira", "apollo", "apollo_mini"):
        tx = low_rank(optax.identity(), method=method)
        updates, _ = jax.jit(tx.update)(g, tx.init(g))
        np.testing.assert_allclose(updates, g, rtol=1e-4, atol=3e-6 * scale)


def test_sizes_are_those_of_the_direction():
    g = decaying((12, 20))
    state = None
    for method, axes in (("apollo", (0,)), ("apollo_mini", (0, 1))):
        tx = low_rank(optimizers.scale_by_adam(), method=method)
        updates, state = tx.update(g, tx.init(g))
        ratio = np.asarray(updates / g)
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio.mean(axes, keepdims=True), ratio.shape), rtol=1e-4)
        assert ratio.std() > 0 or method == "apollo_mini"
    # Adam's first step is the sign, so in galore and fira the part inside is P sign(P^T g).
    for method in ("galore", "fira"):
        tx = low_rank(optimizers.scale_by_adam(eps=0.0), method=method)
        updates, state = tx.update(g, tx.init(g))
        p, exact = np.asarray(state.bases["12x20"][0]), np.asarray(g)
        low = p.T @ exact
        expected = p @ np.sign(low)
        if method == "fira":
            expected += (exact - p @ low) * np.linalg.norm(np.sign(low), axis=0) / np.linalg.norm(low, axis=0)
        np.testing.assert_allclose(updates, expected, rtol=1e-3, atol=1e-4)


def test_a_new_basis_keeps_the_meaning_of_moments():
    """Gradients of one space: looking for it again and again changes nothing."""
    space, rng = np.linalg.qr(np.random.default_rng(1).normal(size=(12, 3)))[0], np.random.default_rng(2)
    grads = [jnp.asarray(space @ rng.normal(size=(3, 20)), jnp.float32) for _ in range(8)]

    def last(every):
        tx = low_rank(optimizers.scale_by_adam(), every=every)
        state, updates = tx.init(grads[0]), grads[0]
        step = jax.jit(tx.update)
        for g in grads:
            updates, state = step(g, state)
        return updates, state

    once, again = last(100), last(2)
    np.testing.assert_allclose(again[0], once[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(again[1].bases["12x20"], once[1].bases["12x20"], atol=1e-4)
    assert not np.array_equal(again[1].key, once[1].key)


def test_random_bases_are_kept_as_long_as_said():
    g = decaying((12, 20))
    tx = low_rank(optimizers.scale_by_adam(), 1, method="apollo", every=3)
    state, keys = tx.init(g), []
    for _ in range(7):
        _, state = tx.update(g, state)
        keys.append(tuple(np.asarray(state.key)))
    assert [a == b for a, b in itertools.pairwise(keys)] == [True, True, False, True, True, False]


@pytest.mark.parametrize("method", LOW_RANK[1:])
def test_growth_is_limited(method):
    tx = low_rank(optax.identity(), method=method, limit=1.5)
    g, lengths = decaying((12, 20)), []
    state = tx.init(g)
    for factor in (1.0, 10.0, 10.0, 0.1):
        _, state = tx.update(jnp.float32(factor) * g, state)
        lengths.append(float(state.lengths["12x20"][0, 0, 0]))
    np.testing.assert_allclose(np.array(lengths) / lengths[0], [1.0, 1.5, 2.25, 0.1], rtol=1e-5)


@pytest.mark.parametrize("method", LOW_RANK)
def test_few_rows_train(method):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 16)), jnp.float32)
    y = x @ decaying((16, 24), rate=1.0)

    def loss(w):
        return jnp.mean((x @ w - y) ** 2)

    tx = assemble(transforms.project_low_rank(optimizers.scale_by_adam(), 4, method=method, every=20), 0.01)
    first = jnp.zeros((16, 24))

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        return (w + updates, state), None

    w, _ = v.quick(lambda c: jax.lax.scan(body, c, None, 300)[0])((first, tx.init(first)))
    assert loss(w) < (0.2 if method == "galore" else 0.05) * loss(first)


def test_decay_is_outside():
    g = decaying((12, 20))
    tx = low_rank(optimizers.adamw(0.1))
    with pytest.raises(ValueError, match="needs params"):
        tx.update(g, tx.init(g), g)
    tx = assemble(low_rank(optimizers.scale_by_adam()), 0.1, 0.5)
    updates, _ = tx.update(jnp.zeros_like(g), tx.init(g), g)
    np.testing.assert_allclose(updates, -0.05 * g, rtol=1e-6)


def test_ranks_are_python_numbers():
    with pytest.raises(TypeError, match="rank"):
        transforms.project_low_rank(optax.identity(), 4.0)
    with pytest.raises(ValueError, match="method"):
        transforms.project_low_rank(optax.identity(), 4, method="lora")
    with pytest.raises(TypeError, match="direction must be a transformation"):
        transforms.project_low_rank(0.1, 4)
