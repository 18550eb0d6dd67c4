"""Optimizers that train other parameters than are evaluated, or see other gradients than they are given."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax as typed_optax
import pytest

import lossax
from tests.test_optimizer_trajectories import alternating, assert_close, data
from tests.test_optimizers import gradients, parameters
from tests.vocabulary import quick

optax: Any = typed_optax
optimizers: Any = lossax.optimizers
transforms: Any = lossax.transforms


def walk(tx, params, steps, **extra):
    """The parameters after each step, each on a gradient of its own, and the last state."""

    @quick
    def run(params, grads):
        def body(carry, g):
            updates, state = tx.update(g, carry[1], carry[0], **extra)
            params = optax.apply_updates(carry[0], updates)
            return (params, state), params

        (_, state), path = jax.lax.scan(body, (params, tx.init(params)), grads)
        return path, state

    return run(params, steps)


# ---- schedule-free ---------------------------------------------------------------------------------------------------

PEERS = [
    ("schedule_free_sgd", {}, {}),
    ("schedule_free_sgd", {"weight_decay": 0.1, "b1": 0.5}, {"weight_decay": 0.1, "b1": 0.5}),
    ("schedule_free_adamw", {}, {}),
    (
        "schedule_free_adamw",
        {"b1": 0.8, "b2": 0.95, "weight_decay": 0.1, "weight_lr_power": 1.0},
        {"b1": 0.8, "b2": 0.95, "weight_decay": 0.1, "weight_lr_power": 1.0},
    ),
]


@pytest.mark.parametrize(("name", "own", "theirs"), PEERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_schedule_free_agrees_with_optax(name, own, theirs, dtype):
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):
        params, steps = data(dtype)
        ours, state = walk(getattr(optimizers, name)(0.01, **own), params, steps)
        path, peer = walk(getattr(optax.contrib, name)(0.01, **theirs), params, steps)
        x = transforms.eval_params(state, ours[-1])
        y = optax.contrib.schedule_free_eval_params(peer, path[-1])
    tolerance = 1e-5 if dtype == "float32" else 1e-9
    assert_close(ours, path, tolerance)
    assert_close(x, y, tolerance)


def test_any_optimizer_is_schedule_free():
    """The rate is read where it is kept, however deep, and handed over where it is not."""
    params, steps = data()
    read = transforms.schedule_free(lossax.chain(transforms.clip_by_global_norm(1e9), optimizers.adam(0.1, b1=0.0)))
    given = transforms.schedule_free(optax.adam(0.1, b1=0.0), 0.1)
    with jax.numpy_dtype_promotion("standard"):
        assert_close(walk(read, params, steps)[0], walk(given, params, steps)[0], 1e-5)
    with pytest.raises(ValueError, match="needs learning_rate"):
        transforms.schedule_free(optax.adam(0.1)).init(params)


def test_the_average_is_of_the_iterates_by_their_weights():
    """From sums over the past, with a warmup that begins at 0, whose first step has no weight."""
    rates = np.minimum(0.1 * np.arange(12.0), 0.5)
    tx = transforms.schedule_free(
        optimizers.sgd(lambda step: jnp.minimum(0.1 * jnp.asarray(step, jnp.float32), 0.5)), b1=0.7, r=0.5
    )
    params, steps = data()
    z, x, iterates = np.float64(params), np.float64(params), []
    state = tx.init(params)
    for i in range(12):
        updates, state = tx.update(steps[i], state, params)
        params = optax.apply_updates(params, updates)
        z = z - rates[i] * steps[i]
        iterates.append(z)
        weights = np.arange(1.0, i + 2) ** 0.5 * np.maximum.accumulate(rates[: i + 1]) ** 2
        if weights.sum() > 0:
            x = np.einsum("i,ijk->jk", weights, np.stack(iterates)) / weights.sum()
        np.testing.assert_allclose(transforms.eval_params(state, params), x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(params, 0.7 * x + 0.3 * z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [1e-30, 1e30])
def test_weights_matter_to_one_another_only(rate):
    """Optax: the square of 1e-30 is 0, so nothing is averaged; of 1e30 infinite, so NaN."""
    params, steps = data()
    expected, _ = walk(transforms.schedule_free(optimizers.sgd(0.01), 0.01), params, steps)
    got, _ = walk(transforms.schedule_free(optimizers.sgd(0.01), rate), params, steps)
    assert_close(got, expected, 1e-6)


def test_without_interpolation_it_trains_the_iterates():
    """Optax divides by `b1`."""
    params, steps = data()
    got, state = walk(transforms.schedule_free(optimizers.sgd(0.01), b1=0.0), params, steps)
    plain, _ = walk(optimizers.sgd(0.01), params, steps)
    assert_close(got, plain, 1e-6)
    assert_close(transforms.eval_params(state, got[-1]), np.mean(plain, axis=0), 1e-5)
    theirs, _ = walk(optax.contrib.schedule_free(optax.sgd(0.01), 0.01, b1=0.0), params, steps)
    assert np.all(np.isnan(theirs[1:]))


@pytest.mark.parametrize("b1", [0.9, alternating])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_parameters_are_trained_as_32(dtype, b1):
    """Steps of 1e-4 on ones, each of which 16 bits lose."""
    tx = transforms.schedule_free(optimizers.sgd(1e-4), b1=b1)
    steps = jnp.ones((200, 3))
    wide, state = walk(tx, jnp.ones(3), steps)
    expected = transforms.eval_params(state, wide[-1])
    narrow, state = walk(tx, jnp.ones(3, dtype), steps.astype(dtype))
    resolution = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float32(narrow), wide, rtol=0, atol=0.51 * resolution)
    found = transforms.eval_params(state, narrow[-1])
    assert found.dtype == narrow.dtype
    np.testing.assert_allclose(np.float32(found), expected, rtol=0, atol=0.51 * resolution)


# ---- sharpness-aware -------------------------------------------------------------------------------------------------


def bent(params):
    """A loss with curvature that differs between coordinates and leaves."""
    return jnp.sum(jnp.cosh(params["w"])) + 0.5 * jnp.sum(params["b"][0] ** 4)


slope = jax.grad(bent)


def aware(steps, rate=0.05, grad_fn=slope, params=None, **own):
    """The parameters and the state after a few steps of SGD."""
    tx = transforms.sharpness_aware(optimizers.sgd(rate), **own)
    params = parameters() if params is None else params
    state = tx.init(params)
    step = quick(lambda p, s: tx.update(grad_fn(p), s, p, grad_fn=grad_fn))
    for _ in range(steps):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    return params, state


def flat(tree):
    return np.concatenate([np.ravel(np.float64(leaf)) for leaf in jax.tree.leaves(tree)])


def by_hand(steps, rate=0.05, rho=0.05, eta=None, alpha=0.0, every=1, reuse=0.7):
    """The same in float64, on all parameters as one vector: `b` comes first."""
    w = flat(parameters())
    gradient = lambda w: np.concatenate([2.0 * w[:3] ** 3, np.sinh(w[3:])])  # noqa: E731
    off = lambda a, b: a - (a @ b) / (b @ b) * b  # noqa: E731
    turn: Any = None
    for step in range(steps):
        g = gradient(w)
        if step % every == 0:
            size = np.ones_like(w) if eta is None else np.abs(w) + eta
            s = gradient(w + rho * size**2 * g / np.linalg.norm(size * g))
            turn = off(s, g)
            taken = s - alpha * off(g, s)
        else:
            taken = g + reuse * np.linalg.norm(g) / np.linalg.norm(turn) * turn
        w = w - rate * taken
    return w


RELATIVES = [
    ({}, {}),
    ({"rho": 0.5}, {"rho": 0.5}),
    ({"rho": 0.5, "adaptive": True}, {"rho": 0.5, "eta": 0.01}),
    ({"rho": 0.2, "alpha": 0.4}, {"rho": 0.2, "alpha": 0.4}),
    ({"rho": 0.2, "every": 3}, {"rho": 0.2, "every": 3}),
    ({"rho": 0.2, "every": 2, "reuse": 0.3, "alpha": 0.1}, {"rho": 0.2, "every": 2, "reuse": 0.3, "alpha": 0.1}),
]


@pytest.mark.parametrize(("own", "meant"), RELATIVES)
def test_sharpness_aware_is_its_definition(own, meant):
    np.testing.assert_allclose(flat(aware(7, **own)[0]), by_hand(7, **meant), rtol=2e-5, atol=1e-6)


def test_sharpness_aware_agrees_with_optax():
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.3))
    peer = optax.contrib.sam(optax.sgd(0.05), ascent, opaque_mode=True)
    params = parameters()
    state = peer.init(params)
    for _ in range(5):
        updates, state = peer.update(slope(params), state, params, grad_fn=lambda p, _: slope(p))
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(aware(5, rho=0.3)[0], params, rtol=1e-5)


@pytest.mark.parametrize("own", [{}, {"adaptive": True}, {"alpha": 0.3}, {"every": 2}])
def test_no_gradient_perturbs_nothing(own):
    """Optax divides by its norm."""
    zero = jax.tree.map(jnp.zeros_like, parameters())
    params, _ = aware(3, params=zero, grad_fn=jax.grad(lambda p: bent(p)), **own)
    chex.assert_trees_all_equal(params, zero)
    peer = optax.contrib.sam(optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.1)), opaque_mode=True)
    updates, _ = peer.update(zero, peer.init(zero), zero, grad_fn=lambda p, _: slope(p))
    assert np.all(np.isnan(updates["w"]))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_neighbour_is_as_far_whatever_the_gradient(size):
    seen = []
    tx = transforms.sharpness_aware(optax.sgd(1.0), 0.5)
    params = jnp.zeros(2)
    grads = size * jnp.array([3.0, 4.0])
    tx.update(grads, tx.init(params), params, grad_fn=lambda p: seen.append(p) or jnp.ones(2))
    np.testing.assert_allclose(seen[0], [0.3, 0.4], rtol=1e-6)


def test_the_second_gradient_is_computed_now_and_then():
    calls = []

    def counted(params):
        jax.debug.callback(lambda: calls.append(None))
        return slope(params)

    tx = transforms.sharpness_aware(optimizers.sgd(0.1), every=3)
    params = parameters()
    step, state = jax.jit(lambda p, s: tx.update(slope(p), s, p, grad_fn=counted)), tx.init(params)
    for _ in range(7):
        _, state = step(params, state)
    jax.effects_barrier()
    assert len(calls) == 3


def test_each_device_looks_at_a_neighbour_of_its_own():
    """m-SAM: gradients of a device, and `grad_fn` that averages."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    params = jnp.array([1.0, -0.5, 0.25])
    tx = transforms.sharpness_aware(optax.sgd(1.0), 0.3)
    gradient = jax.grad(lambda p, x: jnp.sum((p * x) ** 4))

    def step(params, x):
        params = params[0]
        mean = lambda p: jax.lax.pmean(gradient(p, x[0]), "data")  # noqa: E731
        updates, _ = tx.update(gradient(params, x[0]), tx.init(params), params, grad_fn=mean)
        return updates[None]

    shares = jax.shard_map(step, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    own = [gradient(params, x) for x in batch]
    expected = -np.mean(
        [gradient(params + 0.3 * g / jnp.linalg.norm(g), x) for g, x in zip(own, batch, strict=True)], axis=0
    )
    for found in jax.jit(shares)(jnp.tile(params, (4, 1)), batch):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sharpness_aware_refuses():
    tx = transforms.sharpness_aware(optimizers.sgd(0.1))
    params = parameters()
    with pytest.raises(ValueError, match="needs grad_fn"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, tx.init(params), grad_fn=slope)
    with pytest.raises(TypeError, match="every sets structure"):
        transforms.sharpness_aware(optimizers.sgd(0.1), every=jnp.int32(2))


# ---- lookahead -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("every", "step_size"), [(6, 0.5), (1, 0.8), (4, 0.0), (5, 1.0)])
def test_lookahead_agrees_with_optax(every, step_size, dtype):
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("standard"):  # for Optax
        params, steps = data(dtype)
        ours, state = walk(transforms.lookahead(optimizers.sgd(0.01), every, step_size=step_size), params, steps)
        peer = optax.lookahead(optax.sgd(0.01), every, step_size)
        both = optax.LookaheadParams.init_synced(params)
        fast, theirs = [], peer.init(both)
        step = quick(peer.update)
        for g in steps:
            updates, theirs = step(g, theirs, both)
            both = optax.apply_updates(both, updates)
            fast.append(both.fast)
        slow = transforms.eval_params(state, ours[-1])
    tolerance = 1e-5 if dtype == "float32" else 1e-9
    assert_close(ours, np.stack(fast), tolerance)
    assert_close(slow, both.slow, tolerance)


def test_slow_parameters_are_wide():
    """Ways back that 16 bits cannot go: 0.5 of two steps of 2^-8, from 1."""
    tx = transforms.lookahead(optimizers.sgd(1.0), 2, step_size=0.25)
    path, state = walk(tx, jnp.ones(1, jnp.bfloat16), jnp.full((8, 1), -(2.0**-8), jnp.bfloat16))
    assert state.slow.dtype == jnp.float32
    assert state.slow[0] > 1.0
    np.testing.assert_array_equal(path[-1], state.slow.astype(jnp.bfloat16))


def test_momentum_is_forgotten_by_another_wrapper():
    """As Optax's `reset_state` does."""
    params, steps = data()
    heavy = lambda library: library.sgd(0.01, momentum=0.9)  # noqa: E731
    forgets = transforms.reset_momentum(heavy(optimizers), 4, warmup=0)
    ours, _ = walk(transforms.lookahead(forgets, 4), params, steps[:20])
    peer = optax.lookahead(heavy(optax), 4, 0.5, reset_state=True)
    both = optax.LookaheadParams.init_synced(params)
    state = peer.init(both)
    for g in steps[:20]:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = peer.update(g, state, both)
        both = optax.apply_updates(both, updates)
    assert_close(ours[-1], both.fast, 1e-5)


# ---- averages --------------------------------------------------------------------------------------------------------


def by_power(path, gamma):
    """Weights that make each average that of the one before and the newest parameters."""
    average = np.zeros_like(path[0])
    for t, p in enumerate(path, 1):
        keep = (1.0 - 1.0 / t) ** (gamma + 1.0)
        average = keep * average + (1.0 - keep) * p
    return average


AVERAGES = [  # how it is made, and what it is of the parameters after each step
    (lambda tx: transforms.swa(tx), lambda path: np.mean(path, axis=0)),
    (lambda tx: transforms.swa(tx, 3, every=2), lambda path: np.mean(path[4::2], axis=0) if len(path) > 4 else None),
    (lambda tx: transforms.swa(tx, 50), lambda path: None),
    (lambda tx: transforms.lawa(tx, 1, size=3), lambda path: np.mean(path[-3:], axis=0)),
    (lambda tx: transforms.lawa(tx, 2, size=2), lambda path: np.mean(path[1::2][-2:], axis=0) if path[1:] else None),
    (lambda tx: transforms.lawa(tx, 4, size=5), lambda path: np.mean(path[3::4], axis=0) if path[3:] else None),
    (lambda tx: transforms.power_ema(tx), lambda path: by_power(path, 6.94)),
    (lambda tx: transforms.power_ema(tx, 0.0), lambda path: np.mean(path, axis=0)),
]


@pytest.mark.parametrize(("make", "meant"), AVERAGES)
def test_average_is_its_definition(make, meant):
    tx, (params, steps) = make(optimizers.sgd(0.01)), data()
    state, path = tx.init(params), []
    step = quick(tx.update)
    assert np.array_equal(transforms.eval_params(state, params), params)
    for g in steps[:12]:
        updates, state = step(g, state, params)
        params = optax.apply_updates(params, updates)
        path.append(np.float64(params))
        expected = meant(path)
        expected = params if expected is None else expected
        np.testing.assert_allclose(transforms.eval_params(state, params), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("gamma", "width"), [(6.94, 0.1), (16.97, 0.05)])
def test_the_width_of_a_power_average(gamma, width):
    """Over 20000 steps; the share of each step is where rounding would tell."""

    @quick
    def weigh(gamma):
        tx = transforms.power_ema(optax.identity(), gamma)
        count = 20000

        def body(state, t):
            both = jnp.stack([t, t * t]) / jnp.array([1.0, count])
            return tx.update(jnp.zeros(2), state, both / count)[1], None

        state, _ = jax.lax.scan(body, tx.init(jnp.zeros(2)), jnp.arange(1.0, count + 1.0))
        return state.average

    mean, square = weigh(gamma).tolist()
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-4)
    assert np.sqrt(square - mean**2) == pytest.approx(width, rel=5e-3)


@pytest.mark.parametrize("make", [transforms.swa, lambda tx: transforms.lawa(tx, 1), transforms.power_ema])
def test_nothing_is_averaged_while_gradients_accumulate(make):
    params, steps = data()
    gathered, state = walk(transforms.accumulate(make(optimizers.sgd(0.01)), 2), params, steps[:6])
    means = 0.5 * (steps[:6:2] + steps[1:6:2])
    whole, expected = walk(make(optimizers.sgd(0.01)), params, means)
    assert_close(gathered[-1], whole[-1], 1e-6)
    assert_close(transforms.eval_params(state, gathered[-1]), transforms.eval_params(expected, whole[-1]), 1e-6)


@pytest.mark.parametrize("make", [transforms.swa, lambda tx: transforms.lawa(tx, 1), transforms.power_ema])
def test_16_bit_parameters_are_averaged_as_they_are_stored(make):
    params = jnp.ones(3, jnp.bfloat16)
    path, state = walk(make(optimizers.sgd(1.0)), params, jnp.full((5, 3), 2.0**-6, jnp.bfloat16))
    found = transforms.eval_params(state, path[-1])
    assert found.dtype == jnp.bfloat16
    assert np.all(np.float32(path[-1]) <= np.float32(found))
    assert np.all(np.float32(found) < 1.0)


def test_one_function_reads_them_all():
    params = parameters()
    for make in (
        transforms.swa,
        transforms.power_ema,
        transforms.lookahead,
        lambda tx: transforms.lawa(tx, 2),
        lambda tx: transforms.schedule_free(tx, 0.1),
    ):
        for tx in (make(optimizers.sgd(0.1)), transforms.skip_nonfinite(lossax.chain(make(optimizers.sgd(0.1))))):
            state = tx.init(params)
            chex.assert_trees_all_equal(transforms.eval_params(state, params), params)
            updates, state = tx.update(gradients(), state, params)
            moved = optax.apply_updates(params, updates)
            chex.assert_trees_all_equal_shapes_and_dtypes(transforms.eval_params(state, moved), params)
    # The outermost is what is asked.
    tx = transforms.swa(transforms.schedule_free(optimizers.sgd(0.1)))
    updates, state = tx.update(gradients(), tx.init(params), params)
    moved = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(transforms.eval_params(state, moved), moved, rtol=1e-6)


# ---- distances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prodigy", "dadapt_adamw", "dog", "dowg"])
def test_the_distance_is_found(name):
    """Without a rate, over scales of a million."""
    tx = getattr(optimizers, name)(1.0)

    @quick
    def arrive(far):
        def body(carry, _):
            grads = jax.grad(lambda p: jnp.sum(jnp.abs(p - far)))(carry[0])
            updates, state = tx.update(grads, carry[1], carry[0])
            return (carry[0] + updates, state), None

        return jax.lax.scan(body, (jnp.zeros(4), tx.init(jnp.zeros(4))), length=3000)[0][0]

    for far in (1e-2, 1e4):
        np.testing.assert_allclose(arrive(far), far, rtol=0.5)


@pytest.mark.parametrize(("name", "broken"), [("prodigy", True), ("dadapt_adamw", True), ("dog", False)])
def test_a_first_gradient_of_zero_is_harmless(name, broken):
    params, steps = data()
    steps[:2] = 0.0
    ours, _ = walk(getattr(optimizers, name)(1.0), params, steps)
    assert np.all(np.isfinite(ours))
    assert np.any(ours[-1] != params)
    with jax.numpy_dtype_promotion("standard"):
        theirs, _ = walk(getattr(optax.contrib, name)(1.0), params, steps)
    assert np.all(np.isnan(theirs[-1])) == broken


@pytest.mark.parametrize("size", [1e-25, 1e25])
@pytest.mark.parametrize("name", ["dog", "dowg"])
def test_squares_of_gradients_are_not_taken(name, size):
    params, steps = data()
    expected, _ = walk(getattr(optimizers, name)(1.0, eps=0.0), params, steps)
    got, _ = walk(getattr(optimizers, name)(1.0, eps=0.0), params, np.float32(size) * steps)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_each_layer_has_a_distance_of_its_own():
    """LDoG: as each leaf would go alone."""
    tx = optimizers.dog(layerwise=True, reps_rel=1e-2)
    whole = parameters()
    state, alone = tx.init(whole), {name: (leaf, tx.init(leaf)) for name, leaf in whole.items()}
    for seed in range(4):
        grads = gradients(seed=seed)
        updates, state = tx.update(grads, state, whole)
        whole = optax.apply_updates(whole, updates)
        for name, (leaf, own) in alone.items():
            updates, own = tx.update(grads[name], own, leaf)
            alone[name] = optax.apply_updates(leaf, updates), own
    chex.assert_trees_all_close(whole, {name: leaf for name, (leaf, _) in alone.items()}, rtol=1e-6)
