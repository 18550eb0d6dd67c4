"""Policy gradients: every name beside its own statement, what overflows, estimates of KL, devices, statistics."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lossax import losses, metrics, objectives, targets, unit_weights
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
SEQUENCES, TOKENS = 8, 5
NOW: Any = -RNG.exponential(size=(SEQUENCES, TOKENS)).astype(np.float32)
OLD: Any = (NOW + 0.3 * RNG.normal(size=NOW.shape)).astype(np.float32)
REFERENCE: Any = (NOW + 0.3 * RNG.normal(size=NOW.shape)).astype(np.float32)
GAINS: Any = RNG.normal(size=SEQUENCES).astype(np.float32)
EACH: Any = RNG.normal(size=NOW.shape).astype(np.float32)
LENGTHS = np.array([5, 3, 1, 4, 2, 5, 5, 3])
KEEP = np.arange(TOKENS) < LENGTHS[:, None]


# ---- names -----------------------------------------------------------------------------------------------------------
# As TRL and the papers put them: one sequence at a time, in float64. `now` is `x` where it is detached.


def per_token(x):
    return sum(map(sum, x)) / sum(map(len, x))


def per_sequence(x):
    return np.mean([np.mean(row) for row in x])


def per_constant(length, x):
    return sum(map(sum, x)) / (len(x) * length)


def tokens(term, mean, x, now, old, gains):
    rows = [
        [term(np.exp(a - b), g, a, np.exp(c - b)) for a, b, c in zip(*row, strict=True)]
        for *row, g in both(x, old, now, gains)
    ]
    return mean(rows)


def both(x, old, now, gains):
    for a, b, c, g, n in zip(x, old, now, gains, LENGTHS, strict=True):
        yield a[:n], b[:n], c[:n], g


def clipped(low, high, r, g, *_):
    return -min(r * g, min(max(r, low), high) * g)


def dual_clipped(r, g, *_):
    inner = min(r * g, np.clip(r, 0.8, 1.2) * g)
    return -max(inner, 3.0 * g) if g < 0 else -inner


def two_sided(r, g, *_):
    return -min(min(r, 1.5) * g, np.clip(r, 0.8, 1.2) * g)


def cispo(r, g, log_prob, fixed):
    return -min(fixed, 1.1) * g * log_prob


def sapo(r, g, *_):
    tau = 1.0 if g > 0 else 1.05
    return -g / (1 + np.exp(-tau * (r - 1))) * 4 / tau


def gspo(mean, x, now, old, gains):
    rows = []
    for a, b, _, g in both(x, old, now, gains):
        rows.append([clipped(1 - 0.03, 1 + 0.04, np.exp(np.mean(a - b)), g)] * len(a))
    return mean(rows)


def gspo_token(x, now, old, gains):
    rows = []
    for a, b, c, g in both(x, old, now, gains):
        s = np.exp(np.mean(c - b))
        rows.append([clipped(1 - 0.03, 1 + 0.04, s * np.exp(p - q), g) for p, q in zip(a, c, strict=True)])
    return per_sequence(rows)


def gmpo(x, now, old, gains):
    total = 0.0
    for a, b, _, g in both(x, old, now, gains):
        sign = np.sign(g)  # the smaller of the two, of what is good and of what is bad
        log = sign * np.minimum(sign * (a - b), sign * np.clip(a - b, -0.1, 0.1))
        total -= g * np.exp(np.mean(log))
    return total / len(x)


def rloo(x, now, old, gains):
    return np.mean([clipped(0.8, 1.2, np.exp(np.sum(a - b)), g) for a, b, _, g in both(x, old, now, gains)])


def grpo_with_kl(x, now, old, gains):
    k3 = [
        [np.exp(r - p) - (r - p) - 1 for p, r in zip(a, b, strict=True)] for a, b, *_ in both(x, REFERENCE, now, gains)
    ]
    return tokens(partial(clipped, 0.8, 1.2), per_sequence, x, now, old, gains) + 0.04 * per_sequence(k3)


PPO = partial(clipped, 0.8, 1.2)
NAMES: dict[str, Any] = {
    "PPO": ({}, partial(tokens, PPO, per_token)),
    "dual clip": ({"ceiling": 3.0}, partial(tokens, dual_clipped, per_token)),
    "two-sided GRPO": ({"ceiling": 1.5, "aggregation": "sequence"}, partial(tokens, two_sided, per_sequence)),
    "GRPO": ({"aggregation": "sequence"}, partial(tokens, PPO, per_sequence)),
    "Dr. GRPO": ({"aggregation": "constant", "length": 16}, partial(tokens, PPO, partial(per_constant, 16))),
    "DAPO": ({"clip_high": 0.28}, partial(tokens, partial(clipped, 0.8, 1.28), per_token)),
    "CISPO": ({"clipping": "weight", "clip_low": 1.0, "clip_high": 0.1}, partial(tokens, cispo, per_token)),
    "SAPO": ({"clipping": "gate", "aggregation": "sequence"}, partial(tokens, sapo, per_sequence)),
    "GSPO": (
        {"ratio": "sequence", "clip_low": 0.03, "clip_high": 0.04, "aggregation": "sequence"},
        partial(gspo, per_sequence),
    ),
    "LUSPO": (
        {"ratio": "sequence", "clip_low": 0.03, "clip_high": 0.04, "aggregation": "constant", "length": 1},
        partial(gspo, partial(per_constant, 1)),
    ),
    "GSPO-token": (
        {"ratio": "sequence_token", "clip_low": 0.03, "clip_high": 0.04, "aggregation": "sequence"},
        gspo_token,
    ),
    "GMPO": (
        {
            "ratio": "geometric",
            "clip_low": 1 - np.exp(-0.1),
            "clip_high": np.exp(0.1) - 1,
            "aggregation": "sequence",
        },
        gmpo,
    ),
    "RLOO": ({"ratio": "trajectory", "aggregation": "sequence"}, rloo),
    "GRPO with KL": ({"aggregation": "sequence"}, grpo_with_kl),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    options, statement = NAMES[name]

    hidden, padded = (jnp.where(KEEP, x, jnp.nan) for x in (NOW, OLD))

    def ours(x):
        loss = losses.policy_gradient(x, padded, GAINS, where=KEEP, **options)
        if "KL" not in name:
            return loss
        return loss + 0.04 * losses.kl_estimate(x, REFERENCE, where=KEEP, aggregation="sequence")

    value, slope = quick(jax.value_and_grad(ours))(hidden)
    exact = [np.float64(a) for a in (NOW, OLD, GAINS)]
    f = lambda x: statement(x, *exact)  # noqa: E731
    np.testing.assert_allclose(value, f(exact[0]), rtol=2e-6)
    assert not slope[~KEEP].any()
    for i, t in zip(*np.nonzero(KEEP), strict=True):
        step = np.zeros(NOW.shape)
        step[i, t] = 1e-6
        expected = (f(exact[0] + step) - f(exact[0] - step)) / 2e-6
        np.testing.assert_allclose(slope[i, t], expected, rtol=1e-5, atol=1e-8)


def test_reinforce():
    """With the log-probabilities as old ones too: value -A log p, and the same gradient of every objective."""
    f = lambda x, **options: losses.policy_gradient(x, x, EACH, where=KEEP, reduction="sum", **options)  # noqa: E731

    @quick
    def everything(x):
        plain = jax.value_and_grad(partial(f, clipping="weight"))(x)
        return plain, [jax.grad(partial(f, **options))(x) for options in ({}, {"ratio": "sequence_token"})]

    (value, slope), others = everything(NOW)
    np.testing.assert_allclose(value, -np.sum(EACH * NOW, where=KEEP), rtol=1e-6)
    np.testing.assert_allclose(slope, np.where(KEEP, -EACH, 0), rtol=1e-6)
    for other in others:
        np.testing.assert_allclose(other, slope, rtol=1e-6)


def test_only_the_policy_has_a_gradient():
    f = partial(losses.policy_gradient, reduction="sum")
    slopes = quick(jax.grad(f, argnums=(0, 1, 2)))(NOW, OLD, EACH)
    assert slopes[0].any()
    assert not slopes[1].any()
    assert not slopes[2].any()


def test_sequences_without_tokens():
    """They do not count here; TRL and Liger count a sequence that is masked (as truncated, say) as a loss of 0."""
    keep = KEEP & (np.arange(SEQUENCES) != 3)[:, None]
    f = partial(losses.policy_gradient, NOW, OLD, GAINS, aggregation="sequence")
    with_it, without = f(where=keep), f(where=keep, reduction="sum")
    np.testing.assert_allclose(with_it, without / 7, rtol=1e-6)
    rest = np.arange(SEQUENCES) != 3
    alone = losses.policy_gradient(NOW[rest], OLD[rest], GAINS[rest], aggregation="sequence", where=keep[rest])
    np.testing.assert_allclose(with_it, alone, rtol=1e-6)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["token", "sequence", "sequence_token", "geometric", "trajectory"])
def test_what_is_clipped_is_finite(ratio):
    """Ratios from exp(-300) to exp(300), at which min(r A, clip(r) A) by itself is inf or 0 times inf."""
    gaps: Any = np.array([-300.0, -100.0, 100.0, 300.0], np.float32)
    new = np.minimum(gaps, 0)[:, None]
    old = np.minimum(-gaps, 0)[:, None]
    f = partial(losses.policy_gradient, ratio=ratio, reduction="none")

    def both(gain, **options):
        gains = jnp.full((4, 1), gain)
        value, back = jax.vjp(lambda x: f(x, old, gains, **options), new)
        return value[:, 0], back(np.ones((4, 1), np.float32))[0][:, 0]

    value, slope = both(1.0)
    np.testing.assert_allclose(value, [0, -np.exp(-100), -1.2, -1.2], rtol=1e-5, atol=1e-38)
    np.testing.assert_allclose(slope, [0, -np.exp(-100), 0, 0], rtol=1e-5, atol=1e-38)
    value, slope = both(-1.0, ceiling=3.0)
    np.testing.assert_allclose(value, [0.8, 0.8, 3, 3], rtol=1e-6)
    assert not slope.any()
    value, slope = both(0.0)
    assert not value.any()
    assert not slope.any()
    value, slope = both(-1e-30)  # the product is no larger than 3e13 at 100
    np.testing.assert_allclose(value[:3], [0.8e-30, 0.8e-30, 1e-30 * np.exp(100.0)], rtol=2e-5)
    np.testing.assert_allclose(slope[:3], [0, 0, 1e-30 * np.exp(100.0)], rtol=2e-5)
    assert value[3] == np.inf, "as it is, in float32"
    for clipping in ("weight", "gate") if ratio != "geometric" else ():
        value, slope = both(-1.0, clipping=clipping)
        assert np.isfinite(value).all()
        assert np.isfinite(slope).all()


def test_probabilities_of_zero():
    new, old = jnp.array([[-jnp.inf, -1.0]]), jnp.array([[-1.0, -1.0]])
    for options in ({}, {"clipping": "gate"}, {"ratio": "sequence"}, {"ratio": "sequence_token"}):
        f = partial(losses.policy_gradient, reduction="sum", **options)
        value, slope = jax.value_and_grad(f)(new, old, jnp.ones((1, 2)))
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    nan = losses.policy_gradient(jnp.array([[jnp.nan, -1.0]]), old, jnp.ones((1, 2)), reduction="none")
    assert np.isnan(nan).tolist() == [[True, False]], "never a plausible number"


def test_wrong_calls():
    f = losses.policy_gradient
    with pytest.raises(ValueError, match=r"advantages must be \[8, 5\] or \[8\]"):
        f(NOW, OLD, GAINS[:1])
    with pytest.raises(ValueError, match="clipping must be 'objective'"):
        f(NOW, OLD, GAINS, ratio="geometric", clipping="gate")
    with pytest.raises(ValueError, match="aggregation must be one of"):
        f(NOW, OLD, GAINS, aggregation="seq")  # type: ignore
    with pytest.raises(ValueError, match="clip_low must be in"):
        f(NOW, OLD, GAINS, clip_low=1.5)
    with pytest.raises(ValueError, match="old_log_probs"):
        losses.kl_estimate(NOW, REFERENCE, old_log_probs=OLD[:1])


# ---- devices and micro-batches ---------------------------------------------------------------------------------------

AGGREGATIONS = [("token", None), ("sequence", None), ("constant", 16)]


@pytest.mark.parametrize(("aggregation", "length"), AGGREGATIONS)
def test_devices(aggregation, length):
    """One sequence on each of 8 devices, of different lengths: value and gradient are those of the whole."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def loss(x, old, reference, gains, keep, axis_name=None):
        options: Any = {"aggregation": aggregation, "length": length, "axis_name": axis_name, "where": keep}
        kl = losses.kl_estimate(x, reference, old_log_probs=old, **options)
        return losses.policy_gradient(x, old, gains, ratio="sequence", **options) + 0.1 * kl

    data = OLD, REFERENCE, GAINS, KEEP
    spread = jax.shard_map(partial(loss, axis_name="data"), mesh=mesh, in_specs=P("data"), out_specs=P())
    value, slope = quick(jax.value_and_grad(spread))(NOW, *data)
    expected, gradient = quick(jax.value_and_grad(loss))(NOW, *data)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, gradient, rtol=1e-5, atol=1e-8)


def test_micro_batches():
    for aggregation, length in AGGREGATIONS:
        f = partial(losses.policy_gradient, aggregation=aggregation, length=length)
        parts = [f(NOW[i], OLD[i], GAINS[i], where=KEEP[i], reduction="sum") for i in range(SEQUENCES)]
        number = unit_weights(KEEP.shape, KEEP).sum() if aggregation == "token" else SEQUENCES
        np.testing.assert_allclose(sum(parts) / number, f(NOW, OLD, GAINS, where=KEEP), rtol=1e-6)


# ---- KL --------------------------------------------------------------------------------------------------------------


def test_what_estimates_of_kl_are_on_average():
    """Over all classes, with the probability of each: value and gradient, of new tokens and of old ones."""
    logits, other, before = (jnp.asarray(RNG.normal(size=6), jnp.float32) for _ in range(3))
    fixed = jax.nn.log_softmax(other)

    def kl(p, q):
        return jnp.sum(jnp.exp(p) * (p - q))

    def average(x, estimator, sampler, corrected):
        p = jax.nn.log_softmax(x)
        drawn = jax.lax.stop_gradient(p) if sampler is None else jax.nn.log_softmax(sampler)
        old = drawn if corrected else None
        values = losses.kl_estimate(p, fixed, estimator=estimator, old_log_probs=old, reduction="none")
        return jnp.sum(jnp.exp(drawn) * values)

    @quick
    def everything(x):
        found = {}
        for estimator in ("k1", "k2", "k3"):
            found[estimator, "plain"] = jax.value_and_grad(
                partial(average, estimator=estimator, sampler=None, corrected=False)
            )(x)
            for name, sampler in (("on", None), ("off", before)):
                f = partial(average, estimator=estimator, sampler=sampler, corrected=True)
                found[estimator, name] = jax.value_and_grad(f)(x)
        reverse = jax.value_and_grad(lambda x: kl(jax.nn.log_softmax(x), fixed))(x)
        return found, reverse, jax.grad(lambda x: kl(fixed, jax.nn.log_softmax(x)))(x)

    found, (value, reverse), forward = everything(logits)
    for key in (("k1", "plain"), ("k3", "plain"), ("k1", "on"), ("k1", "off"), ("k3", "on"), ("k3", "off")):
        np.testing.assert_allclose(found[key][0], value, rtol=1e-5)
    for key, gradient in (("k1", 0 * reverse), ("k2", reverse), ("k3", forward)):
        np.testing.assert_allclose(found[key, "plain"][1], gradient, atol=1e-6)
    for key in (("k1", "on"), ("k1", "off"), ("k3", "on"), ("k3", "off")):
        np.testing.assert_allclose(found[key][1], reverse, rtol=1e-4, atol=1e-6)
    assert abs(found["k2", "plain"][0] - value) > 1e-2


def test_kl_where_one_factor_is_out_of_range():
    """A ratio of exp(-99) times an estimate of exp(99): the policy has all but forgotten a token."""
    f = lambda x: losses.kl_estimate(x, jnp.array([-1.0]), old_log_probs=jnp.array([-1.0]))  # noqa: E731
    for log_prob in (-20.0, -50.0, -100.0, -300.0, -jnp.inf):
        value, slope = jax.value_and_grad(f)(jnp.array([log_prob]))
        np.testing.assert_allclose(value, 1.0, rtol=1e-5)
        assert np.isfinite(slope).all()
        np.testing.assert_allclose(
            slope[0], (log_prob + 1) * np.exp(log_prob + 1) if log_prob > -100 else 0, atol=1e-35, rtol=1e-5
        )
    plain = partial(losses.kl_estimate, jnp.array([-100.0]), jnp.array([-1.0]))
    assert plain() == np.inf
    assert plain(estimator="k2") == 99.0**2 / 2


# ---- what goes around it ---------------------------------------------------------------------------------------------


def test_importance_weights():
    ratios = np.where(KEEP, np.exp(np.float64(NOW) - OLD), 1.0)
    products = np.broadcast_to(ratios.prod(-1, keepdims=True), ratios.shape)
    means = products ** (1 / LENGTHS[:, None])
    garbage: Any = np.where(KEEP, OLD, np.nan)
    levels: Any = (("token", ratios), ("sequence", means), ("trajectory", products))
    for level, exact in levels:
        f = partial(targets.importance_weights, NOW, garbage, ratio=level, cap=1.25, floor=0.75, where=KEEP)
        bounded, inside = f(), f(beyond="zero")
        np.testing.assert_allclose(bounded, np.where(KEEP, np.clip(exact, 0.75, 1.25), 0), rtol=1e-6)
        np.testing.assert_allclose(inside, np.where(KEEP & (exact < 1.25) & (exact > 0.75), exact, 0), rtol=1e-6)
    apart = targets.importance_weights(jnp.array([-1.0, -300.0]), jnp.array([-300.0, -1.0]))
    assert apart.tolist() == [2.0, 0.0]
    slope = jax.grad(lambda x: targets.importance_weights(x, OLD).sum())(NOW)
    assert not slope.any()


def test_weights_of_advantages_are_weights_of_the_loss():
    """TRL multiplies the loss of each token, and does not divide by the sum of these factors."""
    w = targets.importance_weights(REFERENCE, OLD, cap=1.1, where=KEEP)
    for options in ({}, {"ceiling": 3.0}, {"clipping": "weight"}, {"clipping": "gate"}, {"ratio": "sequence"}):
        f = partial(losses.policy_gradient, NOW, OLD, where=KEEP, reduction="none", **options)
        np.testing.assert_allclose(f(EACH * w), f(EACH) * w, rtol=1e-5)


def test_statistics():
    garbage = np.where(KEEP, NOW, np.nan)
    run = quick(partial(metrics.policy_statistics, clip_low=0.1, clip_high=0.15))
    found = run(garbage, OLD, GAINS, where=KEEP)
    ratios = np.exp(np.float64(NOW) - OLD)[KEEP]
    gains = np.broadcast_to(GAINS[:, None], KEEP.shape)[KEEP]
    expected = {
        "ratio_mean": ratios.mean(),
        "ratio_max": ratios.max(),
        "clipped_low": np.mean((ratios < 0.9) & (gains < 0)),
        "clipped_high": np.mean((ratios > 1.15) & (gains > 0)),
        "kl": np.mean(ratios - 1 - np.log(ratios)),
        "effective_sample_size": ratios.sum() ** 2 / (len(ratios) * np.sum(ratios**2)),
        "entropy": -NOW[KEEP].mean(),
    }
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-5, err_msg=name)
    assert not any(np.any(x) for x in run(garbage, OLD, GAINS, where=np.zeros_like(KEEP)).values())
    huge = metrics.policy_statistics(jnp.array([0.0, -80.0]), jnp.array([-80.0, -80.0]), jnp.ones(2))
    np.testing.assert_allclose(huge["effective_sample_size"], 0.5, rtol=1e-6)  # squares would overflow

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    f = lambda new, old, gains, keep: metrics.policy_statistics(  # noqa: E731
        new, old, gains, clip_low=0.1, clip_high=0.15, axis_name="data", where=keep
    )
    spread = quick(jax.shard_map(f, mesh=mesh, in_specs=P("data"), out_specs=P()))(garbage, OLD, GAINS, KEEP)
    for name, x in expected.items():
        np.testing.assert_allclose(spread[name], x, rtol=1e-5, err_msg=name)


def test_the_clipped_share_is_that_without_a_gradient():
    slope = jax.grad(lambda x: losses.policy_gradient(x, OLD, EACH, where=KEEP, reduction="sum"))(NOW)
    found = metrics.policy_statistics(NOW, OLD, EACH, where=KEEP)
    np.testing.assert_allclose(found["clipped_low"] + found["clipped_high"], np.mean(slope[KEEP] == 0), rtol=1e-6)


def test_kl_control():
    init, update = objectives.kl_control(0.5, target=lambda step: 2.0 + jnp.asarray(step, jnp.float32))
    measured = [8.0, 0.0, 4.1, np.nan, np.inf]
    weight, expected = 0.5, []
    for step, kl in enumerate(measured):
        weight *= 1 + 0.1 * (0.0 if np.isnan(kl) else np.clip(kl / (2.0 + step) - 1, -0.2, 0.2))
        expected.append(weight)
    _, found = quick(lambda x: jax.lax.scan(lambda s, kl: update(s, kl)[::-1], init(), x))(jnp.array(measured))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
