"""Returns and advantages beside loops over the steps of each row, and what is done to rewards."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lossax import losses, targets
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
ROWS, STEPS = 6, 9


def _normal():
    return RNG.normal(size=(ROWS, STEPS)).astype(np.float32)


REWARDS, VALUES, NEXT, NEW, OLD = _normal(), _normal(), _normal(), -np.abs(_normal()), -np.abs(_normal())
LAST: Any = RNG.normal(size=ROWS).astype(np.float32)
ENDED, CUT = RNG.random((ROWS, STEPS)) < 0.2, RNG.random((ROWS, STEPS)) < 0.2
KEEP: Any = RNG.random((ROWS, STEPS)) < 0.7  # padding anywhere
KEEP[0], KEEP[1], KEEP[2] = True, False, np.arange(STEPS) < 4
NONE = np.zeros_like(ENDED)
# With what episodes end, and what is known of values after steps.
CASES: dict[str, Any] = {
    "one episode": {},
    "goes on": {"next_values": LAST},
    "ends": {"terminations": ENDED, "next_values": LAST},
    "ends and cuts": {"terminations": ENDED, "truncations": CUT, "next_values": NEXT},
}


def rows(keep, terminations=NONE, truncations=NONE, next_values=None):
    """The steps of each row that exist, each with the value after it and whether the next is of its episode."""
    for i in range(ROWS):
        there = np.flatnonzero(keep[i])
        steps = []
        for place, t in enumerate(there):
            if next_values is not None and next_values.ndim == 2:
                after = next_values[i, t]
            elif place + 1 < len(there):
                after = VALUES[i, there[place + 1]]
            else:
                after = 0.0 if next_values is None else next_values[i]
            follows = not terminations[i, t] and not truncations[i, t] and place + 1 < len(there)
            steps.append((t, 0.0 if terminations[i, t] else float(after), follows))
        yield i, steps


def by_loop(discount, trace, keep, **case):
    advantages, returns = np.zeros((ROWS, STEPS)), np.zeros((ROWS, STEPS))
    for i, steps in rows(keep, **case):
        later = 0.0
        for t, after, follows in reversed(steps):
            error = REWARDS[i, t] + discount * after - VALUES[i, t]
            later = error + (discount * trace * later if follows else 0.0)
            advantages[i, t], returns[i, t] = later, later + VALUES[i, t]
    return advantages, returns


def vtrace_by_sum(discount, trace, bounds, keep, **case):
    """As the sum over all later steps, with the product of traces between."""
    ratios = np.exp(np.float64(NEW) - OLD)
    rho, c = np.minimum(ratios, bounds[0]), trace * np.minimum(ratios, bounds[1])
    advantages, returns = np.zeros((ROWS, STEPS)), np.zeros((ROWS, STEPS))
    for i, steps in rows(keep, **case):
        target = {}
        for place, (start, *_) in enumerate(steps):
            total, factor = float(VALUES[i, start]), 1.0
            for t, after, follows in steps[place:]:
                total += factor * rho[i, t] * (REWARDS[i, t] + discount * after - VALUES[i, t])
                factor *= discount * c[i, t]
                if not follows:
                    break
            target[start] = total
        for place, (t, after, follows) in enumerate(steps):
            then = target[steps[place + 1][0]] - VALUES[i, steps[place + 1][0]] if follows else 0.0
            error = REWARDS[i, t] + discount * (after + then) - VALUES[i, t]
            advantages[i, t], returns[i, t] = rho[i, t] * error, target[t]
    return advantages, returns


def spoiled(array, keep):
    return array if array is None or np.ndim(array) == 1 or array.dtype == bool else np.where(keep, array, np.nan)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_gae_is_the_loop(name, padded):
    case, keep = CASES[name], KEEP if padded else np.ones_like(KEEP)
    hidden = {k: spoiled(x, keep) for k, x in case.items()}
    run = quick(targets.gae)
    for discount, trace in ((0.9, 0.8), (1.0, 1.0), (0.9, 0.0)):
        found = run(spoiled(REWARDS, keep), spoiled(VALUES, keep), discount=discount, trace=trace, where=keep, **hidden)
        for ours, expected in zip(found, by_loop(discount, trace, keep, **case), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_vtrace_is_the_sum(name, padded):
    case, keep = CASES[name], KEEP if padded else np.ones_like(KEEP)
    hidden = {k: spoiled(x, keep) for k, x in case.items()}
    arrays = [spoiled(x, keep) for x in (REWARDS, VALUES, NEW, OLD)]
    run = quick(targets.vtrace)
    for discount, trace, bounds in ((0.9, 0.8, (1.5, 1.0)), (1.0, 1.0, (np.inf, np.inf))):
        options = {"discount": discount, "trace": trace, "clip_error": bounds[0], "clip_trace": bounds[1]}
        found = run(*arrays, where=keep, **options, **hidden)
        for ours, expected in zip(found, vtrace_by_sum(discount, trace, bounds, keep, **case), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_on_policy_vtrace_is_gae():
    case = CASES["ends"]
    for ours, other in zip(
        quick(targets.vtrace)(REWARDS, VALUES, NEW, NEW, **case),
        quick(targets.gae)(REWARDS, VALUES, trace=1.0, **case),
        strict=True,
    ):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5)


def test_ratios_out_of_range():
    far, ones = jnp.array([0.0, -300.0, 0.0]), jnp.ones(3)
    advantages, returns = targets.vtrace(ones, ones, far, -300.0 - far)
    assert np.isfinite(advantages).all()
    assert np.isfinite(returns).all()


def test_td_lambda_and_monte_carlo():
    """The returns are those of TD(lambda), by their own recursion; with a trace of 1 values do not matter."""
    gamma, trace = 0.9, 0.7
    found = targets.gae(REWARDS, VALUES, discount=gamma, trace=trace, next_values=LAST).returns
    follow = LAST.astype(np.float64)
    for t in reversed(range(STEPS)):
        value = VALUES[:, t + 1] if t + 1 < STEPS else LAST
        follow = REWARDS[:, t] + gamma * ((1 - trace) * value + trace * follow)
        np.testing.assert_allclose(found[:, t], follow, rtol=1e-5, atol=1e-6)
    sums = np.cumsum(REWARDS[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(targets.gae(REWARDS, VALUES, discount=1.0, trace=1.0).returns, sums, atol=1e-5)


def test_numbers_for_each_step():
    """UPGO: back from where returns are below values there is no trace."""
    better = np.concatenate([REWARDS[:, 1:] + 0.9 * VALUES[:, 1:] > 0, np.zeros((ROWS, 1), bool)], axis=1)
    found = targets.gae(REWARDS, VALUES, discount=np.full_like(REWARDS, 0.9), trace=better.astype(np.float32))
    for i in range(ROWS):
        later = 0.0
        for t in reversed(range(STEPS)):
            after = VALUES[i, t + 1] if t + 1 < STEPS else 0.0
            later = REWARDS[i, t] + 0.9 * after - VALUES[i, t] + 0.9 * better[i, t] * later
            np.testing.assert_allclose(found.advantages[i, t], later, rtol=1e-5, atol=1e-5)


def test_episodes_do_not_touch():
    """NaN in a later episode of a row stays there."""
    rewards, ends = jnp.ones(4), jnp.array([False, True, False, False])
    values = jnp.array([0.0, 0.0, jnp.nan, 0.0])
    found = targets.gae(rewards, values, discount=1.0, trace=1.0, terminations=ends)
    assert found.advantages[:2].tolist() == [2.0, 1.0]


def test_gae_has_no_gradient_and_any_shape():
    slope = quick(jax.grad(lambda v: targets.gae(REWARDS, v).returns.sum()))(VALUES)
    assert not slope.any()
    single = targets.gae(REWARDS[0], VALUES[0], next_values=LAST[0])
    np.testing.assert_allclose(single.returns, targets.gae(REWARDS, VALUES, next_values=LAST).returns[0], rtol=1e-6)
    assert targets.gae(REWARDS[:0], VALUES[:0]).returns.shape == (0, STEPS)
    assert targets.gae(REWARDS[:, :0], VALUES[:, :0]).returns.shape == (ROWS, 0)
    half = targets.gae(REWARDS.astype(np.int32), VALUES.astype(jnp.bfloat16), where=KEEP)
    assert half.returns.dtype == jnp.float32
    for wrong, message in (
        ({"truncations": CUT}, "next_values"),
        ({"truncations": CUT, "next_values": LAST}, "next_values"),
        ({"next_values": LAST[:1]}, "next_values must be"),
        ({"terminations": ENDED[:1]}, "terminations"),
        ({"trace": 1.5}, "trace must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            targets.gae(REWARDS, VALUES, **wrong)
    with pytest.raises(TypeError, match="terminations must be bool"):
        targets.gae(REWARDS, VALUES, terminations=ENDED.astype(np.float32))


# ---- groups ----------------------------------------------------------------------------------------------------------

GROUPS: Any = RNG.normal(size=(8, 5)).astype(np.float32)
GROUPS[0] = 0.1  # all alike
GROUPS[1, 1:] = np.nan  # one that could be scored
GROUPS[2, 2], GROUPS[2, 3] = np.nan, np.inf
GROUPS[3] = np.nan
THERE: Any = RNG.random(GROUPS.shape) < 0.8
THERE[:4] = True


def group_by_group(rewards, there, baseline, scale, ddof, epsilon):
    out = np.zeros(rewards.shape)
    scored = there & np.isfinite(rewards)
    everything = rewards[scored].astype(np.float64)
    for i, row in enumerate(rewards.astype(np.float64)):
        own = row[scored[i]]
        for j in np.flatnonzero(scored[i]):
            others = [row[k] for k in np.flatnonzero(scored[i]) if k != j]
            if not others:
                continue
            out[i, j] = row[j] - (np.mean(own) if baseline == "mean" else np.mean(others))
        if scale != "none" and len(own) > ddof:
            out[i] /= np.std(own if scale == "group" else everything, ddof=ddof) + epsilon
    out[0] = 0
    return out


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_group_advantages(baseline, scale):
    for ddof, epsilon in ((1, 1e-4), (0, 0.5)):
        options = {"baseline": baseline, "scale": scale, "ddof": ddof, "epsilon": epsilon}
        found = quick(partial(targets.group_advantages, **options))(GROUPS, where=THERE)
        np.testing.assert_allclose(
            found, group_by_group(GROUPS, THERE, baseline, scale, ddof, epsilon), rtol=1e-5, atol=1e-6
        )
        assert not found[0].any(), "rewards that are all alike are exactly 0"
        assert not found[3].any()


def test_group_advantages_at_any_size():
    for size in (1e-30, 1e-6, 1e30):
        rewards = jnp.array([[0.0, size, 2 * size], [size, size, size]], jnp.float32)
        found = targets.group_advantages(rewards, epsilon=0.0)
        np.testing.assert_allclose(found, [[-1, 0, 1], [0, 0, 0]], atol=1e-6)
    assert targets.group_advantages(jnp.zeros((0, 4))).shape == (0, 4)
    assert not jax.grad(lambda r: targets.group_advantages(r).sum())(GROUPS[4:]).any()
    half = targets.group_advantages(jnp.asarray(GROUPS, jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert np.isfinite(half).all()
    with pytest.raises(ValueError, match="ddof must be"):
        targets.group_advantages(GROUPS, ddof=-1)


def test_whitened():
    x, keep = GROUPS[4:], THERE[4:]
    for ddof in (0, 1):
        run = quick(partial(targets.whitened, ddof=ddof))
        mean, deviation = x[keep].mean(), x[keep].std(ddof=ddof)
        expected = np.where(keep, (x - mean) / deviation, 0)
        np.testing.assert_allclose(run(np.where(keep, x, np.nan), where=keep), expected, rtol=1e-5, atol=1e-6)
        kept = targets.whitened(jnp.where(keep, x, jnp.nan), center=False, ddof=ddof, where=keep)
        np.testing.assert_allclose(kept, np.where(keep, expected + mean, 0), rtol=1e-5, atol=1e-6)
    assert not targets.whitened(jnp.full((2, 3), 0.1)).any()
    assert not targets.whitened(x, where=np.zeros_like(keep)).any()
    assert targets.whitened(jnp.array([0.1]), center=False).tolist() == [np.float32(0.1)]


def test_batches_on_devices():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def both(rewards, there, axis_name=None):
        advantages = targets.group_advantages(rewards, scale="batch", axis_name=axis_name, where=there)
        return advantages, targets.whitened(advantages, axis_name=axis_name, where=there)

    f = partial(both, axis_name="data")
    spread = quick(jax.shard_map(f, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(GROUPS, THERE)
    for ours, whole in zip(spread, both(GROUPS, THERE), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-6)


def test_overlong_penalty():
    """Of 16384 + 4096 tokens, as in the paper; whole beyond the limit."""
    lengths = np.array([0, 16384, 18432, 20480, 30000])
    run = quick(targets.overlong_penalty)
    assert run(lengths, limit=20480, buffer=4096).tolist() == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_a_step_of_ppo_on_a_bandit():
    """From rewards to a better policy, through everything above."""
    rewards = jnp.array([0.0, 1.0, 0.2])

    def step(logits, key):
        actions = jax.random.categorical(key, logits, shape=(4, 16))
        advantages = targets.group_advantages(rewards[actions])

        def loss(logits):
            log_probs = jax.nn.log_softmax(logits)[actions]
            return losses.policy_gradient(log_probs, log_probs, advantages)

        return logits - 0.5 * jax.grad(loss)(logits), None

    logits, _ = quick(lambda x, keys: jax.lax.scan(step, x, keys))(
        jnp.zeros(3), jax.random.split(jax.random.key(0), 20)
    )
    assert jax.nn.softmax(logits)[1] > 0.9
