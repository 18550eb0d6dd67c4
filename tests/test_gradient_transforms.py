"""What each transformation of gradients promises beyond the contract of test_transforms.py: formula and hard cases."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax as typed_optax
import pytest

import lossax
from tests import vocabulary as v
from tests.test_optimizers import gradients, parameters

optax: Any = typed_optax
optimizers: Any = lossax.optimizers
transforms: Any = lossax.transforms
INF, NAN = math.inf, math.nan


def applied(tx, updates, params=None):
    """One update, and the state after it."""
    params = updates if params is None else params
    return v.quick(tx.update)(updates, tx.init(params), params)


def steps(tx, sequence, params=None):
    """What comes out of a sequence of updates, and the last state."""
    numbers = lambda x: isinstance(x, list) and isinstance(x[0], float)  # noqa: E731
    sequence = [jax.tree.map(jnp.asarray, x, is_leaf=numbers) for x in sequence]
    params = sequence[0] if params is None else params
    state: Any
    state, out, update = tx.init(params), [], v.quick(tx.update)
    for updates in sequence:
        moved, state = update(updates, state, params)
        out.append(moved)
    return out, state


def normal(*shape, seed=0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---- units -----------------------------------------------------------------------------------------------------------

# Shape, rule, and for each unit its index.
LAYOUTS = {
    "flax kernel": ((4, 3), -1, [np.s_[:, i] for i in range(3)]),
    "flax convolution": ((3, 3, 2, 5), -1, [np.s_[:, :, :, i] for i in range(5)]),
    "torch weight": ((3, 4), 0, [np.s_[i] for i in range(3)]),
    "torch convolution": ((5, 2, 3, 3), 0, [np.s_[i] for i in range(5)]),
    "stacked for a scan": ((2, 4, 3), (0, -1), [np.s_[i, :, j] for i in range(2) for j in range(3)]),
    "heads": ((4, 2, 3), (-2, -1), [np.s_[:, i, j] for i in range(2) for j in range(3)]),
    "whole": ((4, 3), (), [np.s_[:]]),
    "vector": ((4,), -1, [np.s_[:]]),
    "scalar": ((), -1, [np.s_[...]]),
    "rule": ((4, 3), lambda path, leaf: 0 if path == "x" else None, [np.s_[i] for i in range(4)]),
}


@pytest.mark.parametrize(("shape", "rule", "units"), LAYOUTS.values(), ids=LAYOUTS)
def test_units_of_every_layout(shape, rule, units):
    g, w = normal(*shape), normal(*shape, seed=1)
    clip, center, unit, trust = (np.array(g, np.float64) for _ in range(4))
    flags = []
    for i in units:
        own, weights = np.linalg.norm(g[i]), np.linalg.norm(w[i])
        limit = 0.5 * max(weights, 1e-3)
        flags.append(own > limit)
        clip[i] = g[i] * min(1.0, limit / own)
        center[i] = g[i] - np.mean(g[i], dtype=np.float64)
        unit[i] = g[i] / own
        trust[i] = g[i] * weights / own
    tree, params = {"x": jnp.asarray(g)}, {"x": jnp.asarray(w)}
    got, state = applied(transforms.adaptive_grad_clip(0.5, unit_axes=rule), tree, params)
    np.testing.assert_allclose(got["x"], clip, rtol=2e-6)
    assert float(state.clipped) == pytest.approx(np.mean(flags))
    got, _ = applied(transforms.normalize(rule), tree)
    np.testing.assert_allclose(got["x"], unit, rtol=2e-6)
    got, _ = applied(transforms.scale_by_trust_ratio(unit_axes=rule), tree, params)
    np.testing.assert_allclose(got["x"], trust, rtol=2e-6)
    got, _ = applied(transforms.centralize(rule), tree)
    np.testing.assert_allclose(got["x"], center if len(shape) > 1 else g, rtol=2e-6, atol=1e-6)


UNITWISE = [
    partial(transforms.adaptive_grad_clip, 1e-3),
    transforms.normalize,
    transforms.scale_by_trust_ratio,
    transforms.centralize,
]


@pytest.mark.parametrize("make", UNITWISE)
def test_rules_for_units(make):
    g, w = {"a": {"kernel": normal(4, 3)}, "head": normal(4, 2)}, {"a": {"kernel": normal(4, 3)}, "head": normal(4, 2)}
    seen = []
    tx = make(unit_axes=lambda path, leaf: seen.append((path, leaf.shape)) or (None if "head" in path else -1))
    got, _ = tx.update(g, tx.init(w), w)
    assert seen == [("a/kernel", (4, 3)), ("head", (4, 2))]
    np.testing.assert_array_equal(got["head"], g["head"])
    tx = make(unit_axes=2)
    with pytest.raises(ValueError, match=r"leaf a/kernel\[4, 3\]"):
        tx.update(g, tx.init(w), w)
    for wrong in (0.5, "out", (0, None), True):
        with pytest.raises(TypeError, match="unit_axes"):
            make(unit_axes=wrong)


def test_units_can_be_printed():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    shown = transforms.describe_units(nnx.state(model, nnx.Param))
    assert shown.splitlines() == ["bias [3]: 1 units of 3, axes ()", "kernel [2, 3]: 3 units of 2, axes (1,)"]
    odd = {"n": 3, "f": jnp.sin, "none": None, "x": jax.ShapeDtypeStruct((2, 4, 3), jnp.float32)}
    assert transforms.describe_units(odd, (0, -1)) == "x [2, 4, 3]: 6 units of 4, axes (0, 2)"


# ---- adaptive clipping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (3, 3, 2, 5)])
def test_adaptive_clipping_agrees_with_optax(shape):
    g, w = jnp.asarray(normal(*shape)), jnp.asarray(0.1 * normal(*shape, seed=1))
    for clipping in (0.01, 0.5, 50.0):
        ours, _ = applied(transforms.adaptive_grad_clip(clipping), g, w)
        theirs, _ = applied(optax.adaptive_grad_clip(clipping), g, w)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_optax_guesses_that_three_axes_are_two():
    """A kernel `(width, in, out)` of a 1-D convolution has `out` units; Optax clips `in * out` of them."""
    g, w = jnp.asarray(normal(3, 2, 4)), jnp.asarray(0.1 * normal(3, 2, 4, seed=1))
    ours, _ = applied(transforms.adaptive_grad_clip(0.5), g, w)
    flat, _ = applied(transforms.adaptive_grad_clip(0.5), g.reshape(6, 4), w.reshape(6, 4))
    np.testing.assert_allclose(ours, flat.reshape(3, 2, 4), rtol=1e-6)
    theirs, _ = applied(optax.adaptive_grad_clip(0.5), g, w)
    assert np.abs(ours - theirs).max() > 0.01


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_adaptive_clipping_at_every_size(size):
    g, w = jnp.array([3.0, 4.0]) * size, jnp.array([5.0, 12.0]) * size
    got, _ = applied(transforms.adaptive_grad_clip(0.1, eps=0.0), g, w)
    np.testing.assert_allclose(got, np.array([0.78, 1.04]) * size, rtol=1e-6)
    got, _ = applied(transforms.adaptive_grad_clip(0.1), g, jnp.zeros(2))
    limit = 1e-4 if size >= 1 else 1.0
    np.testing.assert_allclose(got, g * min(1.0, limit / (5 * size)), rtol=1e-6)
    got, _ = applied(transforms.adaptive_grad_clip(0.1), jnp.array([INF, 1.0]), jnp.ones(2))
    np.testing.assert_allclose(got, [0.1 * 2**0.5, 0.0], rtol=1e-6)


# ---- clipping by the past --------------------------------------------------------------------------------------------

NORMS = (3.0, 1.0, 4.0, 0.0, 1.5, 9.0, 2.0, INF, 6.0, 5.0, NAN, 3.5, 8.0, 9.5, 30.0, 2.5, 4.0)


@pytest.mark.parametrize("window", [1, 4, 100])
@pytest.mark.parametrize("percentile", [0.0, 10.0, 37.0, 100.0])
def test_autoclip_is_its_definition(percentile, window):
    past: list[float] = []
    tx = transforms.autoclip(percentile, window=window)
    state, kept = tx.init(None), -window
    for norm in NORMS:
        got, state = tx.update(jnp.array([0.0, norm]), state)
        past += [norm] if 0 < norm < INF else []
        limit = np.percentile(np.array(past[kept:]), percentile)
        expected = norm if math.isnan(norm) else min(norm, limit)
        np.testing.assert_allclose(got[1], expected, rtol=1e-6)
        np.testing.assert_allclose(state.limit, limit, rtol=1e-6)
        assert bool(state.clipped) == (norm > np.float32(state.limit))


def test_autoclip_of_nothing_and_of_noise():
    got, state = applied(transforms.autoclip(), jnp.zeros(2))
    assert not np.any(got)
    assert state.limit == INF
    got, state = applied(transforms.autoclip(), jnp.array([NAN, 1.0]))
    np.testing.assert_array_equal(got, [NAN, 1.0])
    assert state.recorded == 0


def zclip(norms, threshold, decay, warmup):
    """The paper's rule over plain numbers."""
    seen, out, mean, variance = [], [], 0.0, 0.0
    for norm in norms:
        if len(seen) < warmup:
            out.append(norm)
            seen += [norm] if 0 < norm < INF else []
            if seen:
                mean, variance = float(np.mean(seen)), float(np.var(seen))
            continue
        z = (norm - mean) / math.sqrt(variance)
        new = mean + threshold**2 / z * math.sqrt(variance) if z > threshold else norm
        out.append(new)
        if 0 < new < INF:
            mean = decay * mean + (1 - decay) * new
            variance = decay * variance + (1 - decay) * (new - mean) ** 2
    return out, mean, variance


@pytest.mark.parametrize(("threshold", "decay", "warmup"), [(2.5, 0.97, 5), (0.5, 0.5, 2), (1.0, 0.3, 3)])
def test_zclip_is_the_papers(threshold, decay, warmup):
    out, state = steps(transforms.zclip(threshold, decay=decay, warmup=warmup), [[0.0, norm] for norm in NORMS])
    expected, mean, variance = zclip(NORMS, threshold, decay, warmup)
    np.testing.assert_allclose([x[1] for x in out], expected, rtol=1e-5)
    np.testing.assert_allclose([state.mean, state.variance], [mean, variance], rtol=1e-5)


def test_zclip_of_equal_norms_lets_them_pass():
    out, state = steps(transforms.zclip(warmup=3), [[1.7]] * 10)
    np.testing.assert_array_equal(out, np.full((10, 1), np.float32(1.7)))
    assert state.clipped == 0


def test_adagc_is_the_papers():
    rng = np.random.default_rng(0)
    limit, factor, decay, warmup = 2.0, 1.05, 0.8, 4
    tx = transforms.adagc(limit, factor=factor, decay=decay, warmup=warmup)
    sequence = [{"a": rng.normal(size=3) * rng.choice([1, 9]), "b": rng.normal(size=(2, 2))} for _ in range(12)]
    sequence = [{k: np.float32(x) for k, x in g.items()} for g in sequence]
    out, state = steps(tx, sequence)
    averages: Any = {"a": INF, "b": INF}
    for t, g in enumerate(sequence):
        whole = math.sqrt(sum(np.sum(np.float64(x) ** 2) for x in g.values()))
        for name, x in g.items():
            norm = np.linalg.norm(np.float64(x))
            share = min(1.0, limit / whole) if t < warmup else min(1.0, factor * averages[name] / norm)
            np.testing.assert_allclose(out[t][name], share * x, rtol=1e-5)
            left = share * norm
            old = averages[name]
            averages[name] = min(old, left) if t < warmup else decay * old + (1 - decay) * left
    for name, average in averages.items():
        np.testing.assert_allclose(state.norms[name], average, rtol=1e-5)


def test_adagc_does_not_hold_a_leaf_at_nothing():
    """By the letter of the paper a leaf without gradient in the warmup would be clipped to 0 from then on."""
    ordinary = [1.0, 0.5]
    sequence = [{"a": ordinary, "b": [0.0]}] * 3 + [{"a": ordinary, "b": [5.0]}] + [{"a": [NAN, 1.0], "b": [50.0]}]
    out, state = steps(transforms.adagc(10.0, factor=2.0, warmup=2), sequence)
    assert (out[3]["b"].item(), out[4]["b"].item()) == (5.0, 10.0)
    np.testing.assert_allclose(state.norms["a"], 1.25**0.5, rtol=1e-6)
    assert float(state.clipped) == 0.5


def test_spikes_are_cut_to_their_past():
    threshold, decay = 3.0, 0.7
    sequence = [normal(6, seed=t) * (20.0 if t in (3, 5) else 1.0) for t in range(8)]
    out, state = steps(transforms.spike_aware_clip(threshold, decay=decay), sequence)
    average, mass = np.zeros(6), 0.0
    for g, got in zip(np.array(sequence, np.float64), out, strict=True):
        limit = np.sqrt(threshold * average / mass) if mass else np.full(6, INF)
        expected = np.sign(g) * np.minimum(np.abs(g), limit)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        average, mass = decay * average + (1 - decay) * expected**2, decay * mass + 1 - decay
    np.testing.assert_allclose(state.nu, average, rtol=1e-5)


def test_an_entry_without_past_is_no_spike():
    out, _ = steps(transforms.spike_aware_clip(), [[1.0, 0.0], [1.0, 0.0], [1.0, 7.0], [1.0, 7.0]])
    np.testing.assert_array_equal(out[2:], [[1.0, 7.0], [1.0, 7.0]])


# ---- forgetting ------------------------------------------------------------------------------------------------------


def test_a_reset_is_a_new_beginning_but_for_schedules_and_keys():
    rate: Any = lossax.schedules.linear(1.0, 0.0, 10)
    inner = lossax.chain(transforms.add_noise(0.0, key=0), optimizers.adam(rate))
    tx = transforms.reset_momentum(inner, 3, warmup=0)
    out, state = steps(tx, [normal(4, seed=t) for t in range(7)])
    plain, other = steps(inner, [normal(4, seed=t) for t in range(7)])
    for t in range(3):
        np.testing.assert_allclose(out[t], plain[t], rtol=1e-6)
    for t in (3, 6):  # as the first update of an optimizer is, at the rate of the day
        np.testing.assert_allclose(out[t], -(1 - t / 10) * np.sign(normal(4, seed=t)), rtol=1e-5)
    assert (state.step, state.since, state.resets) == (7, 1, 2)
    assert lossax.learning_rate(state) == lossax.learning_rate(other)
    np.testing.assert_array_equal(state.inner[0].key, other[0].key)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_steps_after_a_reset_grow(warmup):
    out, _ = steps(transforms.reset_momentum(optax.sgd(1.0), 5, warmup=warmup), [[1.0]] * 10)
    rise = [0.5 - 0.5 * math.cos(math.pi * (k + 1) / (warmup + 1)) for k in range(warmup)]
    np.testing.assert_allclose(-np.ravel(out), [1.0] * 5 + rise + [1.0] * (5 - warmup), rtol=1e-6)
    assert rise == sorted(rise)


def test_quantized_moments_are_forgotten():
    def update(updates, state, params=None):
        del params
        return updates, (state[0] + 1, state[1] + jnp.int8(1), state[2])

    init = lambda params: (jnp.int32(0), jnp.zeros(3, jnp.int8), jax.random.key_data(jax.random.key(3)))  # noqa: E731
    tx = transforms.reset_momentum(optax.GradientTransformation(init, update), 2)
    _, state = steps(tx, [normal(3)] * 3)
    assert state.inner[0] == 3
    assert state.inner[1].tolist() == [1, 1, 1]
    assert state.inner[2].tolist() == [0, 3]


def test_a_reset_needs_params():
    tx = transforms.reset_momentum(optax.sgd(1.0))
    with pytest.raises(ValueError, match="needs params"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))


# ---- caution ---------------------------------------------------------------------------------------------------------


def test_cautious_is_the_papers_mask():
    sequence = [{"a": normal(4, 3, seed=t), "b": normal(5, seed=9 + t)} for t in range(4)]
    plain, _ = steps(optimizers.adam(0.1), sequence)
    held, state = steps(transforms.cautious(optimizers.adam(0.1)), sequence)
    total = 0
    for g, move, got in zip(sequence, plain, held, strict=True):
        total = 0
        for name in g:
            keep = np.asarray(move[name]) * g[name] < 0
            total += keep.sum()
            expected = np.where(keep, move[name] * np.float32(keep.size / (keep.sum() + 1)), 0.0)
            np.testing.assert_allclose(got[name], expected, rtol=1e-6)
    assert float(state.kept) == pytest.approx(total / 17)


def test_cautious_directions_leave_decay_alone():
    params, g = jnp.asarray(normal(6)), [normal(6, seed=t) for t in range(3)]
    direction = transforms.cautious(optimizers.scale_by_adam(), ascending=True)
    got, _ = steps(lossax.assemble(direction, 0.1, 0.5), g, params)
    held, _ = steps(transforms.cautious(optimizers.adam(0.1)), g, params)
    np.testing.assert_allclose(got[-1], held[-1] - 0.1 * 0.5 * params, rtol=1e-5, atol=1e-7)


def test_caution_by_signs_where_products_vanish():
    tiny = jnp.float32([1e-30, -1e-30, 0.0])
    held, state = applied(transforms.cautious(optax.sgd(1.0)), tiny)
    np.testing.assert_allclose(held, -tiny, rtol=1e-6)
    assert float(state.kept) == pytest.approx(2 / 3)
    decayed, _ = transforms.add_decayed_weights(1.0, cautious=True).update(
        -tiny, transforms.add_decayed_weights(1.0).init(None), tiny
    )
    np.testing.assert_array_equal(decayed, -tiny)


def test_cautious_decay_is_its_formula():
    u, w = normal(50), normal(50, seed=1)
    u[:3], w[2:5] = 0.0, 0.0
    got, _ = applied(transforms.add_decayed_weights(0.3, cautious=True), jnp.asarray(u), jnp.asarray(w))
    np.testing.assert_allclose(got, u + 0.3 * (u * w >= 0) * w, rtol=1e-6)
    direction = lossax.chain(optimizers.scale_by_adam(), transforms.add_decayed_weights(0.3, cautious=True))
    params = jnp.asarray(w)
    out, _ = steps(lossax.assemble(direction, 0.1), [u], params)
    plain, _ = steps(optimizers.adam(0.1), [u], params)
    np.testing.assert_allclose(out[0], plain[0] - 0.1 * 0.3 * np.where(u * w >= 0, w, 0.0), rtol=1e-5, atol=1e-7)


# ---- centre, size, sign ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (4, 3), (5, 2, 3, 3)])
def test_centralizing_is_optax_on_torch_layouts(shape):
    g = jnp.asarray(normal(*shape))
    theirs, _ = applied(optax.centralize(), g)
    ours, _ = applied(transforms.centralize(0), g)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    ours, _ = applied(transforms.centralize(), jnp.moveaxis(g, 0, -1))
    np.testing.assert_allclose(ours, jnp.moveaxis(theirs, 0, -1), rtol=1e-6, atol=1e-7)


def test_optax_centralizes_flax_kernels_over_outputs():
    g = jnp.asarray(normal(4, 3))
    theirs, _ = applied(optax.centralize(), g)
    np.testing.assert_allclose(theirs.sum(1), np.zeros(4), atol=1e-6)
    assert np.abs(theirs.sum(0)).max() > 0.1
    ours, _ = applied(transforms.centralize(), g)
    np.testing.assert_allclose(ours.sum(0), np.zeros(3), atol=1e-6)


def test_a_mean_of_itself_is_left_alone():
    g = jnp.asarray(normal(1, 3))
    np.testing.assert_array_equal(applied(transforms.centralize(), g)[0], g)
    large = jnp.full((4, 1), 3e38, jnp.float32)
    np.testing.assert_allclose(applied(transforms.centralize(), large)[0], np.zeros((4, 1)), atol=1e32)


SIZES = [
    ([3.0, 4.0], [0.6, 0.8]),
    ([3e-30, -4e-30], [0.6, -0.8]),
    ([3e30, 4e30], [0.6, 0.8]),
    ([3e38, 3e38], [0.5**0.5, 0.5**0.5]),
    ([0.0, 0.0], [0.0, 0.0]),
    ([INF, 1.0], [1.0, 0.0]),
    ([-INF, INF], [-(0.5**0.5), 0.5**0.5]),
]


@pytest.mark.parametrize(("updates", "expected"), SIZES)
@pytest.mark.parametrize("unit_axes", [None, (), -1])
def test_updates_of_length_one(updates, expected, unit_axes):
    got, _ = applied(transforms.normalize(unit_axes), jnp.float32(updates))
    np.testing.assert_allclose(got, np.float32(expected), rtol=3e-7)


def test_normalizing_is_optax_but_for_its_epsilon():
    g = gradients()
    ours, _ = applied(transforms.normalize(), g)
    theirs, _ = applied(optax.normalize_by_update_norm(eps=0.0), g)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-6)
    np.testing.assert_array_equal(applied(transforms.normalize(), jnp.float32([NAN, 2.0]))[0], [NAN, 2.0])


def test_signs_are_optax():
    g = jnp.float32([-2.0, 0.0, 1e-40, INF])
    np.testing.assert_array_equal(applied(transforms.scale_by_sign(), g)[0], applied(optax.scale_by_sign(), g)[0])


# ---- chance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_noise_falls_as_it_should(dtype):
    out, _ = steps(transforms.add_noise(0.3, 0.55, key=1), [jnp.zeros(20_000, dtype)] * 5)
    for t, noise in enumerate(out):
        assert float(jnp.mean(jnp.abs(noise) ** 2)) == pytest.approx(0.3 / (1 + t) ** 0.55, rel=0.05)
        assert abs(complex(noise.mean())) < 0.02
    assert abs(np.corrcoef(np.real(out[0]), np.real(out[1]))[0, 1]) < 0.05
    with jax.numpy_dtype_promotion("standard"):
        theirs, _ = steps(optax.add_noise(0.3, 0.55, 1), [jnp.zeros(20_000)] * 5)
    for ours, other in zip(out, theirs, strict=True):
        assert float(jnp.sqrt(jnp.mean(jnp.abs(ours) ** 2))) == pytest.approx(float(other.std()), rel=0.05)


CHANCE = [partial(transforms.add_noise, 0.3), transforms.gradient_dropout]


@pytest.mark.parametrize("make", CHANCE)
def test_keys_of_every_kind(make):
    forms = (3, np.int64(3), jax.random.key(3), jax.random.PRNGKey(3))
    runs = [steps(make(key=key), [normal(4)] * 2)[0] for key in forms]
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0], other)
    assert not np.array_equal(runs[0][0], runs[0][1])

    def one(key):
        tx = make(key=key)
        return tx.update(jnp.ones(8), tx.init(jnp.ones(8)))[0]

    lanes = jax.vmap(one)(jax.random.split(jax.random.key(0), 3))
    assert len(np.unique(lanes, axis=0)) == 3
    with pytest.raises(TypeError, match="key"):
        make()
    pair, _ = applied(make(key=0), (jnp.ones(50), jnp.ones(50)))
    assert not np.array_equal(*pair)


def test_dropout_drops_its_share():
    g = jnp.float32(normal(20_000))
    got, _ = applied(transforms.gradient_dropout(0.2, key=0), g)
    dropped = np.asarray(got) == 0
    assert dropped.mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_allclose(got[~dropped], g[~dropped] / 0.8, rtol=1e-6)
    np.testing.assert_array_equal(applied(transforms.gradient_dropout(0.0, key=0), g)[0], g)


# ---- directions ------------------------------------------------------------------------------------------------------


def test_orthogonal_gradients_are_orthogonal_and_as_long():
    for size in (1e-30, 1.0, 1e30):
        g, w = normal(4, 5) * np.float32(size), normal(4, 5, seed=1) * np.float32(size)
        got = np.float64(applied(transforms.orthogonal_gradient(), jnp.asarray(g), jnp.asarray(w))[0])
        wide, weights = np.float64(g), np.float64(w)
        rest = wide - np.sum(wide * weights) / np.sum(weights**2) * weights
        np.testing.assert_allclose(got, rest * np.linalg.norm(wide) / np.linalg.norm(rest), rtol=1e-5)
        assert abs(np.sum(got * weights)) < 1e-6 * np.linalg.norm(got) * np.linalg.norm(weights)


def test_gradients_along_the_weights_and_weights_of_nothing():
    turn = transforms.orthogonal_gradient()
    w = jnp.asarray(normal(1000))
    assert not np.any(applied(turn, -3.7 * w, w)[0]), "nothing but rounding is left"
    np.testing.assert_array_equal(applied(turn, w, jnp.zeros(1000))[0], w)
    np.testing.assert_array_equal(applied(turn, jnp.float32([2.0]), jnp.float32([3.0]))[0], [2.0])
    np.testing.assert_array_equal(applied(turn, jnp.zeros(3), jnp.ones(3))[0], np.zeros(3))


def test_grokfast_is_its_formula():
    sequence = [normal(3, seed=t) for t in range(5)]
    out, state = steps(transforms.grokfast(0.9, amplification=3.0), sequence)
    average = sequence[0]
    for g, got in zip(sequence, out, strict=True):
        average = 0.9 * average + 0.1 * g
        np.testing.assert_allclose(got, g + 3.0 * average, rtol=1e-5)
    np.testing.assert_allclose(state.average, average, rtol=1e-5)


# ---- compression -----------------------------------------------------------------------------------------------------

COMPRESSORS = {
    "top k": partial(transforms.compress_top_k, 0.1),
    "int8": partial(transforms.compress_int8, 16),
    "sign": transforms.compress_sign,
    "low rank": partial(transforms.compress_low_rank, 1),
}
compressors = pytest.mark.parametrize("make", COMPRESSORS.values(), ids=COMPRESSORS)


@compressors
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_is_lost(make, dtype):
    """What was sent and what is owed add up to what was to be sent, 16-bit rounding included."""
    sequence = [{"w": jnp.asarray(normal(6, 8, seed=t), dtype), "b": jnp.ones(3, dtype)} for t in range(6)]
    out, state = steps(transforms.error_feedback(make()), sequence)
    for name in ("w", "b"):
        given = sum(np.float64(g[name]) for g in sequence)
        sent = sum(np.float64(g[name]) for g in out)
        assert out[0][name].dtype == dtype
        np.testing.assert_allclose(sent + np.float64(state.residual[name]), given, atol=1e-5)


@compressors
def test_compressed_descent_converges(make):
    target = jnp.asarray(normal(6, 8))
    tx = lossax.chain(transforms.error_feedback(make()), optax.sgd(0.05))

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(w - target, state, w)
        return (w + updates, state), None

    start = jnp.zeros_like(target)
    (w, _), _ = jax.jit(lambda: jax.lax.scan(body, (start, tx.init(start)), None, 600))()
    np.testing.assert_allclose(w, target, atol=0.05)


def test_signs_alone_do_not_converge():
    """Karimireddy's example: the largest gradients, rarely, point the other way."""
    rng, total, fed = np.random.default_rng(0), 0.0, 0.0
    sequence = [[4.0] if rng.random() < 0.25 else [-1.0] for _ in range(2000)]
    plain = transforms.scale_by_sign()
    tx = transforms.error_feedback(plain)
    state, update = tx.init(jnp.zeros(1)), jax.jit(tx.update)
    for g in sequence:
        sent, state = update(jnp.float32(g), state)
        fed += float(sent[0])
        total += float(np.sign(g[0]))
    given = sum(g[0] for g in sequence)
    assert given > 0
    assert total < 0
    assert fed > 0


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.25, 1.0, 1])
def test_the_largest_are_kept(fraction):
    g = normal(5, 8)
    got = np.asarray(applied(transforms.compress_top_k(fraction), jnp.asarray(g))[0])
    k = max(math.ceil(fraction * 40), 1)
    order = np.sort(np.abs(g).ravel())[::-1]
    np.testing.assert_array_equal(got, np.where(np.abs(g) >= order[k - 1], g, 0.0))
    assert np.count_nonzero(got) == k
    for wrong, error in ((0.0, ValueError), (1.5, ValueError), (jnp.float32(0.5), TypeError), (True, TypeError)):
        with pytest.raises(error, match="fraction"):
            transforms.compress_top_k(wrong)


@pytest.mark.parametrize("size", [1e-34, 1e-30, 1.0, 1e38])
@pytest.mark.parametrize("block", [1, 7, 256])
def test_int8_is_near_and_an_int8(block, size):
    g = np.clip(normal(5, 8), -3, 3) * np.float32(size)
    got = np.float64(applied(transforms.compress_int8(block), jnp.asarray(g))[0]).ravel()
    for start in range(0, 40, block):
        own, out = g.ravel().astype(np.float64)[start : start + block], got[start : start + block]
        scale = np.abs(own).max() / 127
        assert np.abs(own - out).max() <= 0.5001 * scale
        np.testing.assert_allclose(out / scale, np.round(out / scale), atol=1e-4)
        assert np.abs(out / scale).max() < 127.01
    assert not np.any(applied(transforms.compress_int8(block), jnp.zeros(9))[0])


def test_low_rank_finds_the_best_of_its_rank():
    u, s, v = np.linalg.svd(normal(20, 12), full_matrices=False)
    s = np.array([10, 8, 6, 1, 0.5] + [0.1] * 7, np.float32)
    g: Any = (u * s) @ v
    for unit_axes, leaf in ((-1, g), (0, g.T), (-1, g.reshape(4, 5, 12)), ((0, 1), g.T.reshape(3, 4, 20))):
        out, state = steps(transforms.compress_low_rank(3, unit_axes=unit_axes, key=1), [leaf] * 15)
        best = ((u[:, :3] * s[:3]) @ v[:3]).reshape(20, 12)
        best = (best.T if leaf.shape[0] in (12, 3) else best).reshape(leaf.shape)
        np.testing.assert_allclose(out[-1], best, atol=1e-4)
        assert state.factors.shape == (20, 3)


def test_low_rank_survives_nothing_and_less_than_its_rank():
    tx = transforms.compress_low_rank(2)
    one = np.outer(normal(6), normal(8, seed=1)).astype(np.float32)
    out, state = steps(tx, [np.zeros((6, 8), np.float32), one, one, np.zeros((6, 8), np.float32), 1e-30 * one, one])
    assert not np.any(out[0])
    np.testing.assert_allclose(out[1], one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out[4], 1e-30 * one, rtol=1e-4, atol=1e-35)
    np.testing.assert_allclose(out[5], one, rtol=1e-4, atol=1e-5)
    assert np.abs(state.factors).max(0).min() > 0, "no direction is dead"
    small = {"vector": jnp.ones(9), "square": jnp.ones((3, 3)), "deep": jnp.asarray(normal(2, 3, 8))}
    got, state = applied(tx, small)
    np.testing.assert_array_equal(got["square"], small["square"])
    assert state.factors["square"] is state.factors["vector"] is None
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="rank"):
            transforms.compress_low_rank(wrong)


def test_low_rank_averages_over_devices():
    """8 devices with gradients of their own do what one would do with the mean, and all get the same."""
    mesh = jax.make_mesh((8,), ("data",))
    grads = {"w": jnp.asarray(normal(8, 6, 10)), "b": jnp.asarray(normal(8, 5))}
    placed = jax.device_put(grads, jax.sharding.NamedSharding(mesh, jax.P("data")))
    tx = transforms.error_feedback(transforms.compress_low_rank(2, axis_name="data"))
    alone = transforms.error_feedback(transforms.compress_low_rank(2))
    of_one = jax.tree.map(lambda g: g[0], grads)

    def local(grads):
        own = jax.tree.map(lambda g: g[0], grads)
        state, total = tx.init(own), []
        for _ in range(3):
            updates, state = tx.update(own, state)
            total.append(updates)
        return (
            updates,
            jax.tree.map(lambda *x: sum(x), *total),
            jax.tree.map(lambda e: e[None], state.residual),
            state.inner,
        )

    specs = (jax.P(), jax.P(), jax.P("data"), jax.P())
    spread = jax.shard_map(local, mesh=mesh, in_specs=jax.P("data"), out_specs=specs)
    updates, total, residual, inner = jax.device_get(jax.jit(spread)(placed))
    mean = jax.tree.map(lambda g: g.mean(0), grads)
    out, state = steps(alone, [mean] * 3, of_one)
    np.testing.assert_allclose(updates["w"], out[-1]["w"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(updates["b"], mean["b"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inner.factors["w"], state.inner.factors["w"], rtol=1e-4, atol=1e-4)
    # What each owes is the mean of nobody else: together they owe what was not sent.
    np.testing.assert_allclose(total["w"] + residual["w"].mean(0), 3 * mean["w"], rtol=1e-4, atol=1e-5)
    assert np.abs(residual["w"][0] - residual["w"][1]).max() > 0.1


def test_compressors_on_every_device():
    """Inside `shard_map` each device compresses what it has, as it would alone."""
    mesh = jax.make_mesh((8,), ("data",))
    grads = jnp.asarray(normal(8, 6, 10))
    for make in (
        transforms.compress_sign,
        partial(transforms.compress_int8, 16),
        partial(transforms.compress_top_k, 0.1),
    ):
        tx = transforms.error_feedback(make())

        def local(g, tx=tx):
            updates, state = tx.update(g[0], tx.init(g[0]))
            return jax.lax.pmean(updates, "data"), state.residual[None]

        spread = jax.shard_map(local, mesh=mesh, in_specs=jax.P("data"), out_specs=(jax.P(), jax.P("data")))
        placed = jax.device_put(grads, jax.sharding.NamedSharding(mesh, jax.P("data")))
        mean, residual = jax.device_get(v.quick(spread)(placed))
        alone = [applied(tx, g)[0] for g in grads]
        np.testing.assert_allclose(mean, np.mean(alone, axis=0), atol=1e-6)
        np.testing.assert_allclose(residual, grads - np.array(alone), atol=1e-6)


def test_low_rank_factors_are_not_spread_wrongly():
    """The state of a sharded parameter has a place, and a step in it compiles once."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"w": jax.device_put(normal(8, 16), jax.sharding.NamedSharding(mesh, jax.P("data")))}
    tx, traces = transforms.error_feedback(transforms.compress_low_rank(1)), []
    state = jax.jit(tx.init, out_shardings=lossax.sharding.state_shardings(tx, params))(params)
    assert state.residual["w"].sharding.spec == jax.P("data")
    assert state.inner.factors["w"].shape == (8, 1)

    @v.quick
    def step(params, state):
        traces.append(None)
        return tx.update(params, state)

    for _ in range(2):
        _, state = step(params, state)
    assert len(traces) == 1


# ---- factors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hyper", [{}, {"trust_coefficient": 0.001}, {"eps": 0.3}, {"min_norm": 2.0}])
def test_trust_ratio_agrees_with_optax(hyper):
    g = gradients() | {"zero": jnp.zeros(2), "large": 9.0 * jnp.ones(2)}
    w = parameters() | {"zero": jnp.ones(2), "large": jnp.zeros(2)}
    theirs, _ = applied(optax.scale_by_trust_ratio(**hyper), g, w)
    ours, state = applied(transforms.scale_by_trust_ratio(**hyper), g, w)
    for name in ("w", "zero", "large"):
        if name == "large" and "min_norm" in hyper:
            continue  # of weights that are 0 the least norm counts here; there it does not
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)
    np.testing.assert_allclose(ours["w"], state.ratio["w"] * g["w"], rtol=1e-6)


def test_trust_ratio_bounds_and_masks():
    g, w = {"w": jnp.float32([3.0, 4.0]), "b": jnp.float32([5.0])}, {"w": jnp.float32([0.0, 100.0]), "b": jnp.ones(1)}
    cases = (({}, 20.0), ({"max_norm": 10.0}, 2.0), ({"max_ratio": 1.0}, 1.0), ({"min_norm": 200.0}, 40.0))
    for hyper, ratio in cases:
        got, state = applied(transforms.scale_by_trust_ratio(**hyper, mask=lossax.path_mask(exclude="b")), g, w)
        np.testing.assert_allclose(got["w"], ratio * g["w"], rtol=1e-6)
        np.testing.assert_array_equal(got["b"], g["b"])
        assert (float(state.ratio["w"]), float(state.ratio["b"])) == (pytest.approx(ratio), 1.0)


def test_lamb_by_hand():
    """LAMB is Adam's direction, decay and the trust ratio, in Optax's words and in ours."""
    params = parameters()
    direction = lossax.chain(
        optimizers.scale_by_adam(eps=1e-6), transforms.add_decayed_weights(0.1), transforms.scale_by_trust_ratio()
    )
    ours, _ = steps(lossax.assemble(direction, 0.1), [gradients(seed=t) for t in range(3)], params)
    with jax.numpy_dtype_promotion("standard"):
        theirs, _ = steps(optax.lamb(0.1, weight_decay=0.1), [gradients(seed=t) for t in range(3)], params)
    np.testing.assert_allclose(ours[-1]["w"], theirs[-1]["w"], rtol=1e-5)


def test_stacked_layers_are_layers():
    """One array of stacked layers and as many arrays: the same steps."""
    g, w = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    apart = {f"layers_{i}": jnp.asarray(g[i]) for i in range(3)}
    rules = [
        (transforms.scale_by_trust_ratio(unit_axes=0), transforms.scale_by_trust_ratio()),
        (transforms.adaptive_grad_clip(unit_axes=(0, -1)), transforms.adaptive_grad_clip()),
        (
            transforms.scale_by_factors(transforms.layer_decay(0.5, layers=3, stacked="layers$")),
            transforms.scale_by_factors(transforms.layer_decay(0.5, layers=3)),
        ),
    ]
    for stacked, single in rules:
        one, _ = applied(stacked, {"layers": jnp.asarray(g)}, {"layers": jnp.asarray(w)})
        many, _ = applied(single, apart, {f"layers_{i}": jnp.asarray(w[i]) for i in range(3)})
        np.testing.assert_allclose(one["layers"], np.stack([many[f"layers_{i}"] for i in range(3)]), rtol=1e-6)


PATHS = {  # path, its power of the decay, of 12 layers
    "encoder/layers_0/attention/kernel": 12,
    "encoder/layers/11/mlp/bias": 1,
    "blocks/3/norm/scale": 9,
    "patch_embed/kernel": 13,
    "pos_embedding": 13,
    "norm/scale": 0,
    "head/kernel": 0,
    "layer5/0/conv": 7,
}


@pytest.mark.parametrize(("path", "power"), PATHS.items())
def test_layers_are_found_by_path(path, power):
    tree: Any = jnp.zeros(3)
    for part in path.split("/")[::-1]:
        tree = {part: tree}
    rule = transforms.layer_decay(0.8, layers=12)
    assert jax.tree.leaves(rule(tree)) == [pytest.approx(0.8**power)]


def test_layer_decay_is_data():
    params = {"layers_0": jnp.ones(2), "layers_1": jnp.ones(2), "stack": jnp.ones((3, 2)), "head": jnp.ones(2)}

    def scaled(decay):
        tx = transforms.scale_by_factors(transforms.layer_decay(decay, layers=2, stacked="stack", axis=1))
        return tx.update(params, tx.init(params), params)[0]

    plain = scaled(0.5)
    np.testing.assert_array_equal(plain["stack"], np.tile([[0.25, 0.5]], (3, 1)))
    for other in (jnp.float32(0.5), lambda step: 0.5, np.float64(0.5)):
        jax.tree.map(np.testing.assert_array_equal, scaled(other), plain)
    lanes = jax.vmap(scaled)(jnp.float32([0.5, 1.0]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), lanes, plain)
    jax.tree.map(lambda a: np.testing.assert_array_equal(a[1], np.ones_like(a[1])), lanes)


def test_rules_refuse():
    with pytest.raises(ValueError, match="in layer 7, but layers=4"):
        transforms.layer_decay(0.5, layers=4)({"layers_7": 0.0})
    with pytest.raises(ValueError, match="must stack 4 layers along axis 0"):
        transforms.layer_decay(0.5, layers=4, stacked="w")({"w": jnp.zeros((3, 4))})
    with pytest.raises(ValueError, match="decay"):
        transforms.layer_decay(1.5, layers=4)
    for make in (lambda: transforms.layer_decay(0.5, layers=4, index="("), lambda: transforms.path_factors({"(": 1.0})):
        with pytest.raises(ValueError, match="regular expression"):
            make()
    with pytest.raises(ValueError, match="factor of 'w'"):
        transforms.path_factors({"w": -1.0})
    with pytest.raises(ValueError, match="optimizer"):
        transforms.mup_factors({}, optimizer="muon")
    with pytest.raises(ValueError, match="as many axes"):
        transforms.mup_factors({"w": jnp.zeros(3)})({"w": jnp.zeros((3, 3))})
    tx = transforms.scale_by_factors({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match="factor"):
        tx.update({"w": jnp.ones(2)}, tx.init(None))


def test_factors_of_every_kind():
    updates = {"a": jnp.ones((2, 3)), "b": jnp.ones(2, jnp.bfloat16), "c": jnp.ones(1), "n": None, "i": jnp.arange(2)}
    factors = {
        "a": jnp.float32([[2.0], [3.0]]),
        "b": lambda step: 0.5 + jnp.float32(step),
        "c": None,
        "n": None,
        "i": 7.0,
    }
    tx = transforms.scale_by_factors(factors)
    state = tx.init(updates)
    for step in range(2):
        got, state = tx.update(updates, state)
        np.testing.assert_array_equal(got["a"], [[2.0] * 3, [3.0] * 3])
        np.testing.assert_array_equal(np.float32(got["b"]), [0.5 + step] * 2)
        assert got["b"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(got["c"], [1.0])
        np.testing.assert_array_equal(got["i"], [0, 1])
    rule = transforms.path_factors({"^a": 2, "": np.float32(0.5)}, default=9.0)
    got, _ = applied(transforms.scale_by_factors(rule), updates)
    assert (float(got["a"][0, 0]), float(got["c"][0])) == (2.0, 0.5)


def widths(n, torch=False):
    """A model with every kind of leaf; `torch` puts outputs first."""
    flip = (lambda *s: s[::-1]) if torch else (lambda *s: s)
    shapes = {"in": flip(3, n), "mid": flip(n, 4 * n), "out": flip(n, 10), "bias": (n,), "fixed": flip(3, 10), "t": ()}
    shapes |= {"conv": (n, n, 3, 3) if torch else (3, 3, n, n)}
    return {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("torch", [False, True])
def test_mup_is_table_3(torch):
    """Adam: 1 for input weights and biases, 1 / fan-in for the rest; SGD: fan-out, 1 and 1 / fan-in."""
    unit_axes = 0 if torch else -1
    adam = transforms.mup_factors(widths(8, torch), unit_axes=unit_axes)(widths(64, torch))
    assert adam == {"in": 1, "mid": 1 / 8, "out": 1 / 8, "bias": 1, "fixed": 1, "t": 1, "conv": 1 / 8}
    sgd = transforms.mup_factors(widths(8, torch), optimizer="sgd", unit_axes=unit_axes)(widths(64, torch))
    assert sgd == {"in": 8, "mid": 1, "out": 1 / 8, "bias": 8, "fixed": 1, "t": 1, "conv": 1}
    same = transforms.mup_factors(widths(8, torch), unit_axes=unit_axes)(widths(8, torch))
    assert set(same.values()) == {1.0}


def test_mup_of_heads_and_stacks():
    def shapes(width):
        heads = width // 4
        return {"query": jnp.zeros((2, width, heads, 4)), "out": jnp.zeros((2, heads, 4, width)), "skip": None}

    rule = lambda path, leaf: (-2, -1) if "query" in path else -1  # noqa: E731
    factors = transforms.mup_factors(shapes(8), unit_axes=rule)(shapes(32))
    assert factors == {"query": 0.25, "out": 0.25, "skip": None}
    sgd = transforms.mup_factors(shapes(8), unit_axes=rule, optimizer="sgd")(shapes(32))
    assert sgd == {"query": 1.0, "out": 1.0, "skip": None}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_mup_moves_outputs_alike_at_every_width(optimizer):
    """The coordinate check: a step changes hidden units and outputs as much in a wide net as in a narrow one."""

    def moved(width):
        rng = np.random.default_rng(0)
        draw = lambda *s, std: jnp.float32(std * rng.normal(size=s))  # noqa: E731
        params = {"in": draw(16, width, std=0.25), "mid": draw(width, width, std=width**-0.5)}
        params["out"] = draw(width, 4, std=1 / width)
        base = jax.eval_shape(
            lambda: {"in": jnp.zeros((16, 32)), "mid": jnp.zeros((32, 32)), "out": jnp.zeros((32, 4))}
        )
        x, y = draw(8, 16, std=1.0), draw(8, 4, std=1.0)

        def forward(p):
            hidden = jnp.tanh(jnp.tanh(x @ p["in"]) @ p["mid"])
            return hidden, hidden @ p["out"]

        inner = optimizers.adam(0.01) if optimizer == "adam" else optimizers.sgd(0.1)
        tx = lossax.chain(inner, transforms.scale_by_factors(transforms.mup_factors(base, optimizer=optimizer)))

        @v.quick
        def step(params, state):
            grads = jax.grad(lambda p: jnp.mean((forward(p)[1] - y) ** 2))(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        state, before = tx.init(params), forward(params)
        for _ in range(3):
            params, state = step(params, state)
        after = forward(params)
        return [float(jnp.sqrt(jnp.mean((a - b) ** 2))) for a, b in zip(after, before, strict=True)]

    narrow, wide = moved(32), moved(256)
    for a, b in zip(narrow, wide, strict=True):
        assert 0.4 < b / a < 2.5
