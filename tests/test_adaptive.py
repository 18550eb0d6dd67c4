"""Adam's relatives: those whose steps depend on the parameters, and what only one of them promises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossax
from tests.oracles import oracles
from tests.test_optimizer_trajectories import RATE, Case, alternating, assert_close, data, exact, table, trajectory

optimizers: Any = lossax.optimizers

LARGE = {"weight_decay": 0.1}
BOUNDED = {"min_norm": 0.5, "max_norm": 2.0}
AHEAD = {"momentum": 0.5, "nesterov": True, "trust_coefficient": 0.1, "eps": 0.01}
CASES = [
    Case("lamb", {}, ("lamb", {})),
    Case("lamb", LARGE | {"b1": 0.8, "b2": 0.95}, ("lamb", LARGE | {"b1": 0.8, "b2": 0.95})),
    Case("lamb", LARGE | BOUNDED | {"eps_root": 0.1}),
    Case("lamb", {"b1": alternating, "b2": alternating, "max_norm": alternating, "weight_decay": alternating}),
    Case("lars", {}, ("lars", {})),
    Case("lars", LARGE | AHEAD, ("lars", LARGE | AHEAD)),
    Case("ftrl", {}),
    Case("ftrl", {"beta": 0.0, "initial_accumulator_value": 0.1, "l1": 0.5, "l2": 2.0, "weight_decay": 0.1}),
    Case("ftrl", {"l1": alternating, "l2": alternating, "weight_decay": alternating}),
    Case("lars", BOUNDED | {"trust_coefficient": alternating, "momentum": alternating, "weight_decay": alternating}),
]
every = table(CASES)


@every
def test_float64_is_the_oracle(case):
    params, gradients = data("float64")
    with jax.enable_x64(True):
        _, updates = trajectory(case.make(), params, gradients)
    assert_close(updates, exact(case, params, gradients), 1e-9)


@table([case for case in CASES if case.name != "ftrl"])
def test_float32_update_is_the_formula(case):
    """Promise O4: parameters frozen: median at most 2 ulp at step 1, and 8 through step 100."""
    params, gradients = data()
    _, updates = trajectory(case.make(), params, gradients, frozen=True)
    right = exact(case, params.astype("float64"), gradients.astype("float64"), frozen=True)
    ulps = np.abs(updates - right) / np.spacing(np.abs(right).astype("float32"))
    medians = np.median(ulps, axis=(1, 2))
    assert medians[0] <= 2
    assert medians[:100].max() <= 8


def test_complex_is_the_oracle():
    params, gradients = data("float64")
    params, gradients = params + 1j, gradients + 1j * gradients[::-1]
    for case in (case for case in CASES if alternating not in case.own.values()):
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            _, updates = trajectory(case.make(), params, gradients)
        right = exact(case, params, gradients)
        np.testing.assert_allclose(updates, right, rtol=1e-9, atol=1e-9 * np.abs(right).max(), err_msg=str(case))


@table([case for case in CASES if case.optax])
def test_optax(case):
    params, gradients = data()
    with jax.numpy_dtype_promotion("standard"):
        theirs = trajectory(case.make_optax(), params, gradients)
    ours = trajectory(case.make(), params, gradients)
    assert_close(ours[0], theirs[0], 1e-5)
    assert_close(ours[1], theirs[1], 2e-5)


WIDE: list[tuple[Case, Any]] = [
    (Case("radam", {}), optax.radam(RATE)),
    (Case("adopt", {}), optax.contrib.adopt(RATE)),
    (
        Case("yogi", {"initial_accumulator_value": 0.0}),
        optax.chain(optax.scale_by_yogi(initial_accumulator_value=0.0), optax.scale(-RATE)),
    ),
]


@pytest.mark.parametrize(("case", "peer"), WIDE, ids=lambda x: x.name if isinstance(x, Case) else "")
def test_optax_in_float64(case, peer):
    """Where its float32 is not the formula, or its own function has no argument for the difference."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        theirs = trajectory(optax.with_extra_args_support(peer), *data("float64"))
        ours = trajectory(case.make(), *data("float64"))
    assert_close(ours[1], theirs[1], 1e-9)


def updates_of(tx, *gradients, params=None):
    """The update that each gradient makes from fixed parameters."""
    params = jnp.ones_like(gradients[0]) if params is None else params
    state, found = tx.init(params), []
    for g in gradients:
        u, state = tx.update(g, state, params)
        found.append(u)
    return found


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_trust_ratios(name):
    """Zero norms and masks leave steps as they are; no norm overflows or vanishes."""
    make = getattr(optimizers, name)
    g = {"w": jnp.array([3.0, 4.0]), "bias": jnp.array([3.0, 4.0]), "zero": jnp.array([3.0, 4.0])}
    params = {"w": jnp.array([6.0, 8.0]), "bias": jnp.array([6.0, 8.0]), "zero": jnp.zeros(2)}
    plain = {"lamb": np.array([1.0, 1.0]), "lars": np.array([3.0, 4.0])}[name]
    size = {"lamb": 10.0, "lars": 0.01}[name]
    own = {"trust_ratio_mask": lossax.path_mask(exclude="bias")}
    (found,) = updates_of(make(1.0, **own), g, params=params)
    np.testing.assert_allclose(found["w"], -size * plain / np.linalg.norm(plain), rtol=1e-5)
    for leaf in ("bias", "zero"):
        np.testing.assert_allclose(found[leaf], -plain, rtol=1e-5)
    (nothing,) = updates_of(make(1.0), jax.tree.map(jnp.zeros_like, g), params=params)
    assert not any(np.any(x) for x in jax.tree.leaves(nothing))
    for scale in (1e30, 1e-30) if name == "lars" else (1e18, 1e-12):
        (found,) = updates_of(make(1.0), jax.tree.map(lambda x, s=scale: s * x, g), params=params)
        np.testing.assert_allclose(np.linalg.norm(found["w"]), size, rtol=1e-3)


def test_a_coordinate_without_gradient_stays():
    """Optax's Yogi starts its first moment from 1e-6, and moves it."""
    g = jnp.zeros(1)
    with jax.numpy_dtype_promotion("standard"):
        assert all(u[0] < 0 for u in updates_of(optax.yogi(1.0), g, g))
    assert all(u[0] == 0 for u in updates_of(optimizers.yogi(1.0), g, g))


def test_rectification_does_not_cancel():
    """Between two numbers of 2,000: Optax's factor in float32 is off by a percent."""
    gradients = [jnp.ones(1)] * 20
    rho = np.array([1.0 + 2.0 * np.average(np.arange(t), weights=0.999 ** np.arange(t)) for t in range(1, 21)])
    r = np.sqrt((rho - 4.0) * (rho - 2.0) * 1999.0 / (1995.0 * 1997.0 * rho), where=rho > 4, out=np.ones(20))
    right = -np.where(rho >= 5.0, r, 1.0)

    def error(tx):
        return np.abs(np.ravel(updates_of(tx, *gradients)) / right - 1.0).max()

    assert error(optimizers.radam(1.0, eps=0.0)) < 1e-6
    with jax.numpy_dtype_promotion("standard"):
        assert error(optax.radam(1.0, eps=0.0)) > 5e-3


def assert_torch(tx, name, **own):
    """At a constant rate, in float64."""
    torch = pytest.importorskip("torch")
    params, gradients = data("float64")
    tensor = torch.tensor(params, requires_grad=True)
    peer = getattr(torch.optim, name)([tensor], lr=RATE, **own)
    path = []
    for g in gradients:
        tensor.grad = torch.tensor(g)
        peer.step()
        path.append(tensor.detach().numpy().copy())
    _, updates = trajectory(tx, params, gradients)
    assert_close(params + np.cumsum(updates, axis=0), np.stack(path), 1e-9)


def test_radam_is_torch():
    """Which adds its eps before the bias is corrected."""

    def early(step):
        return 1e-3 / jnp.sqrt(1.0 - 0.999 ** (jnp.asarray(step, float) + 1.0))

    with jax.enable_x64(True):
        assert_torch(optimizers.radam(RATE, eps=early), "RAdam", eps=1e-3)


def test_rprop_is_torch():
    """Whose bounds are not relative to its rate. Optax makes each step when the next gradient has come."""
    with jax.enable_x64(True):
        assert_torch(optimizers.rprop(RATE), "Rprop")
    with jax.numpy_dtype_promotion("standard"):
        (late,) = updates_of(optax.rprop(RATE), jnp.ones(1))
    assert late[0] == 0
    (at_once,) = updates_of(optimizers.rprop(RATE), jnp.ones(1))
    assert at_once[0] == np.float32(-RATE)


def test_ftrl_without_penalties_is_adagrad():
    params, gradients = data()
    _, updates = trajectory(optimizers.ftrl(0.5, beta=0.25), params, gradients)
    wide = gradients.astype("float64")
    right = -0.5 * wide / (0.25 + np.sqrt(np.cumsum(wide**2, axis=0)))
    assert np.median(np.abs(updates - right) / np.spacing(np.abs(right).astype("float32"))) <= 2


def test_ftrl_is_sparse_and_goes_on_from_where_it_was():
    """Weights that do not pay are 0 to the last bit, in 16 bits too; weights that were there are not forgotten."""
    params, gradients = data()
    for dtype in ("float32", "bfloat16"):
        after, _ = trajectory(optimizers.ftrl(0.1, l1=100.0), params.astype(dtype), gradients.astype(dtype))
        assert 0 < np.sum(after == 0) < after.size
    (first,) = updates_of(optimizers.ftrl(0.1, initial_accumulator_value=0.1, beta=0.0), jnp.full(1, 1e-3))
    np.testing.assert_allclose(first, -0.1 * 1e-3 / np.sqrt(0.1 + 1e-6), rtol=1e-5)


def test_ftrl_under_a_schedule_is_the_oracle():
    params, gradients = data("float64")
    own = {"l1": 0.5, "l2": 0.25}
    rate = lambda step: 0.1 * alternating(step)  # noqa: E731
    with jax.enable_x64(True):
        _, updates = trajectory(optimizers.ftrl(rate, **own), params, gradients)
    assert_close(updates, np.stack(oracles()["ftrl"](params, list(gradients), rate, **own)), 1e-9)


def test_ftrl_is_keras():
    """Step by step from weights of 0: linear terms, and a rate that stays."""
    _, gradients = data("float64")
    rate, l1, l2 = 0.1, 0.5, 0.25
    with jax.enable_x64(True):
        tx = optimizers.ftrl(rate, beta=0.0, initial_accumulator_value=0.1, l1=l1, l2=2.0 * l2)
        _, updates = trajectory(tx, np.zeros((3, 4)), gradients)
    weights, linear, total = np.zeros((3, 4)), np.zeros((3, 4)), np.full((3, 4), 0.1)
    for g, update in zip(gradients, updates, strict=True):
        grown = total + g**2
        linear = linear + g - (np.sqrt(grown) - np.sqrt(total)) / rate * weights
        new = (np.clip(linear, -l1, l1) - linear) / (np.sqrt(grown) / rate + 2.0 * l2)
        assert_close(update, new - weights, 1e-9)
        weights, total = new, grown


@pytest.mark.parametrize("preconditioner", ["none", "rmsprop"])
def test_sgld_is_the_oracle(preconditioner):
    """Given its draws, which are what it adds to a gradient of 0 at a rate of 1/2."""
    params, gradients = data("float64")
    own = {"preconditioner": preconditioner, "weight_decay": 0.1, "decay": alternating, "eps": 0.1}
    with jax.enable_x64(True):
        _, noise = trajectory(optimizers.sgld(0.5, key=3), params, np.zeros_like(gradients))
        rate = lambda step: RATE * alternating(step)  # noqa: E731
        _, updates = trajectory(optimizers.sgld(rate, temperature=2.0, key=3, **own), params, gradients)
    right = oracles()["sgld"](params, list(gradients), rate, noise=noise, temperature=2.0, **own)
    assert_close(updates, np.stack(right), 1e-9)
    assert abs(noise.mean()) < 4.0 / np.sqrt(noise.size)
    np.testing.assert_allclose(noise.std(), 1.0, rtol=4.0 / np.sqrt(noise.size))
    assert len(np.unique(noise)) == noise.size


def test_sgld_draws_from_the_posterior():
    """Of a Gaussian of variance 1/4 and mean 3, at half the temperature, up to the error of a finite step."""

    def body(carry, _):
        w, state = carry
        updates, state = tx.update(4.0 * (w - 3.0), state, w)
        return (w + updates, state), None

    tx = optimizers.sgld(0.01, temperature=0.5)
    start = jnp.zeros(20_000)
    (w, _), _ = jax.lax.scan(body, (start, tx.init(start)), length=300)
    np.testing.assert_allclose(w.mean(), 3.0, rtol=0.01)
    np.testing.assert_allclose(w.var(), 0.125 / (1.0 - 0.02), rtol=0.05)


def test_units_of_adam_mini():
    """Memory of a number for each unit; a rule for embeddings, and for leaves that keep every element."""
    params = {"embed": jnp.ones((5, 4)), "w": jnp.ones((2, 3, 4)), "b": jnp.ones(4), "s": jnp.float32(1.0)}

    def rule(path, leaf):
        return 0 if "embed" in path else None if path == "b" else (0, -1) if leaf.ndim > 1 else ()

    for axes, shapes in (
        ((-1,), {"embed": (1, 4), "w": (1, 1, 4), "b": (1,), "s": ()}),
        ((), {"embed": (1, 1), "w": (1, 1, 1), "b": (1,), "s": ()}),
        (rule, {"embed": (5, 1), "w": (2, 1, 4), "b": (4,), "s": ()}),
    ):
        tx = optimizers.scale_by_adam_mini(unit_axes=axes)
        state = tx.init(params)
        assert jax.tree.map(jnp.shape, state.nu) == shapes
        _, after = tx.update(params, state)
        assert jax.tree.map(jnp.shape, after.nu) == shapes
    every_element = {"unit_axes": lambda path, leaf: None}
    _, updates = trajectory(optimizers.adam_mini(RATE, **every_element), *data())
    assert_close(updates, trajectory(optimizers.adam(RATE), *data())[1], 1e-5)
    with pytest.raises(TypeError, match="unit_axes"):
        optimizers.adam_mini(RATE, unit_axes=0.5)


def test_came_keeps_vectors_whole():
    params = {"w": jnp.ones((6, 5)), "stack": jnp.ones((2, 6, 5)), "b": jnp.ones(5), "none": None}
    state = optimizers.scale_by_came().init(params)
    assert jax.tree.map(jnp.shape, state.nu) == {
        "w": ((6, 1), (1, 5)),
        "stack": ((2, 6, 1), (2, 1, 5)),
        "b": (5,),
        "none": None,
    }
    assert state.instability["b"] is None
    whole = optimizers.scale_by_came(min_dim_size_to_factor=6).init(params)
    assert whole.nu["w"].shape == (6, 5)


def test_clips_and_warm_ups():
    """ADOPT's clip holds a coordinate whose first gradient was tiny; AdEMAMix's warm-ups end at their values."""
    spike = [jnp.full(1, 1e-3), jnp.ones(1), jnp.ones(1)]
    bounded = updates_of(optimizers.adopt(1.0, b1=0.0), *spike)
    free = updates_of(optimizers.adopt(1.0, b1=0.0, clip_threshold=jnp.inf), *spike)
    np.testing.assert_allclose(np.ravel(bounded), [0.0, -1.0, -(2.0**0.25)], rtol=1e-6)
    np.testing.assert_allclose(free[1], [-1000.0], rtol=1e-5)
    params, gradients = data()
    warm = {"alpha_warmup_steps": 3, "b3_warmup_steps": 2}
    state = optimizers.scale_by_ademamix(**warm).init(params)
    plain = state
    for g in gradients[:4]:
        before = state
        _, state = optimizers.scale_by_ademamix(**warm).update(g, before)
        _, plain = optimizers.scale_by_ademamix().update(g, before)
    assert_close(state.mu_slow, plain.mu_slow, 1e-5)  # of the last step, from one state


@pytest.mark.parametrize("name", ["mars", "adan"])
def test_the_first_gradient_has_no_change(name):
    """A steady gradient has none at all: with MARS's code it counts half as much again at the first step."""
    steady = [jnp.full(1, 0.25)] * 3
    found = np.ravel(updates_of(getattr(optimizers, name)(1.0), *steady))
    np.testing.assert_allclose(found, -np.ones(3), rtol=1e-5)
