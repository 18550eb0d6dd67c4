"""Every public schedule: oracle, boundaries, steps of every form, sweeps, gradients; and its peers, step by step."""

import inspect
import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossax
from lossax import schedules
from tests import vocabulary as v
from tests.oracles import oracles

# Argument name -> a value, or how to make it from a library of schedules (ours or the oracles).
ARGUMENTS = {
    "value": 0.3,
    "start": 2.0,
    "end": 0.5,
    "steps": 12,
    "power": 1.7,
    "rate": 0.3,
    "factor": 0.4,
    "every": 5,
    "timescale": 7.0,
    "peak_value": 2.0,
    "warmup_steps": 5,
    "stable_steps": 4,
    "decay_steps": 9,
    "final_steps": 3,
    "start_value": 0.1,
    "end_value": 0.2,
    "div_factor": 10.0,
    "final_div_factor": 50.0,
    "cycle_steps": 4,
    "growth": 2.0,
    "peak_decay": 0.7,
    "model_dim": 16.0,
    "values": [1.0, 0.5, 0.1],
    "boundaries": [4, 9],
    "schedule": lambda library: library["cosine"](1.5, 0.25, 6),
    "phases": lambda library: [(library["linear"](0.0, 1.0, 4), 4), (0.7, 3), (library["cosine"](0.7, 0.1, 6), 6)],
}
LENGTHS = {"steps", "every", "warmup_steps", "stable_steps", "decay_steps", "final_steps", "cycle_steps", "timescale"}
STEPS = [-7, *range(30), 1000]
ORACLES = oracles()


def build(make, arguments):
    """A schedule from its arguments by name."""
    arguments = dict(arguments)
    return make(*arguments.pop("phases", ()), **arguments)


def variants(make, library):
    """Its arguments by name, once for each of its static choices."""
    fixed, switches = {}, [{}]
    for p in inspect.signature(make).parameters.values():
        if isinstance(p.default, bool):
            switches.append({p.name: not p.default})
        elif isinstance(p.default, str):
            switches += [{p.name: option} for option in get_args(p.annotation) if option != p.default]
        else:
            assert p.name in ARGUMENTS, f"argument {p.name!r} of a schedule: say in ARGUMENTS what it is"
            value = ARGUMENTS[p.name]
            value = value(library) if callable(value) else value
            if p.default is None:
                switches.append({p.name: value})
            else:
                fixed[p.name] = value
    return [fixed | switch for switch in switches]


def numbers(arguments):
    """The names and values of the numbers among the arguments, and how to put others in their place."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(arguments)
    places = [i for i, (_, x) in enumerate(leaves) if isinstance(x, int | float) and not isinstance(x, bool)]

    def fill(values):
        new = dict(zip(places, values, strict=True))
        return jax.tree.unflatten(tree, [new.get(i, leaf) for i, (_, leaf) in enumerate(leaves)])

    return [leaves[i][0][0].key for i in places], [leaves[i][1] for i in places], fill


CASES = [
    pytest.param(make, place, id=f"{name}-{place}")
    for name, make in v.SCHEDULES.items()
    for place in range(len(variants(make, v.SCHEDULES)))
]
every = pytest.mark.parametrize(("make", "place"), CASES)


def ours(make, place):
    return variants(make, v.SCHEDULES)[place]


def series(schedule, steps):
    """The values of a JAX schedule."""
    return np.asarray(schedule(jnp.asarray(steps)))


def one_by_one(schedule, steps):
    """The values of a Python schedule."""
    return np.array([schedule(step) for step in steps])


@every
def test_agrees_with_its_oracle(make, place):
    theirs = build(ORACLES[make.__name__], variants(make, ORACLES)[place])
    schedule = build(make, ours(make, place))
    np.testing.assert_allclose(series(schedule, STEPS), one_by_one(theirs, STEPS), rtol=1e-6, atol=2e-7)


@pytest.mark.sampled
@every
def test_the_step_may_be_anything(make, place):
    schedule = build(make, ours(make, place))
    expected = one_by_one(build(ORACLES[make.__name__], variants(make, ORACLES)[place]), range(24))
    steps = jnp.arange(24)
    forms = {form: schedule(steps.astype(form)) for form in ("int32", "float32", "int8")}
    forms |= {"jit": jax.jit(schedule)(steps), "vmap": jax.vmap(schedule)(steps), "numpy": schedule(np.arange(24))}
    forms |= {"shaped": schedule(steps.reshape(2, 3, 4)).reshape(24)}
    for got in forms.values():
        assert (got.shape, got.dtype, got.weak_type) == ((24,), jnp.float32, False)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=2e-7)
    for one in (5, 5.0, np.int64(5), np.int32(5), jnp.int32(5), jnp.uint8(5), jnp.bfloat16(5)):
        got = schedule(one)
        assert isinstance(got, jax.Array)
        assert (got.shape, got.dtype, got.weak_type) == ((), jnp.float32, False)
        assert float(got) == pytest.approx(expected[5], rel=1e-6)


@every
def test_before_the_start_and_far_past_the_end(make, place):
    schedule = build(make, ours(make, place))
    assert schedule(-1) == schedule(-(2**31)) == schedule(0)
    biggest = max(series(schedule, range(100)))
    for step in (2**24 + 1, 2**31 - 1, 2**40):
        assert 0.0 <= schedule(step) <= biggest


@every
def test_every_number_sweeps_under_vmap(make, place):
    """One program in which each number varies in turn, against schedules of Python numbers."""
    _, values, fill = numbers(ours(make, place))
    rows = [values] + [[1.5 * x if i == j else x for j, x in enumerate(values)] for i in range(len(values))]
    sweep = jax.jit(jax.vmap(lambda row: build(make, fill(list(row)))(jnp.arange(24))))
    for got, row in zip(sweep(jnp.float32(rows)), rows, strict=True):
        np.testing.assert_allclose(got, series(build(make, fill(row)), range(24)), rtol=1e-6, atol=2e-7)


@every
def test_differentiable_by_every_number(make, place):
    _, values, fill = numbers(ours(make, place))
    at = lambda values: build(make, fill(values))(jnp.asarray(STEPS))  # noqa: E731
    values = [jnp.float32(x) for x in values]
    assert np.isfinite(jax.jit(jax.jacfwd(at))(values)).all()
    assert np.isfinite(jax.jit(jax.grad(lambda values: at(values).sum()))(values)).all()


@every
def test_nonsense_is_refused(make, place):
    names, values, fill = numbers(ours(make, place))
    for i, name in enumerate(names):
        for value in [math.nan, *([-1.0] if name in LENGTHS else [])]:
            for form in (float, np.float32, jnp.float32):
                with pytest.raises(ValueError, match="length|phase" if name == "phases" else name):
                    build(make, fill([form(value) if i == j else x for j, x in enumerate(values)]))


@pytest.mark.sampled
@every
def test_float64(make, place):
    with jax.enable_x64(True):
        schedule = build(make, ours(make, place))
        assert schedule(3).dtype == schedule(jnp.arange(3)).dtype == jnp.float64
        theirs = build(ORACLES[make.__name__], variants(make, ORACLES)[place])
        np.testing.assert_allclose(series(schedule, STEPS), one_by_one(theirs, STEPS), rtol=1e-14, atol=1e-15)


@pytest.mark.sampled
@every
def test_as_learning_rate_of_an_optimizer_built_under_vmap(make, place):
    _, (value, *others), fill = numbers(ours(make, place))
    gradient = jnp.float32(1.0)

    def train(x):
        tx = lossax.assemble(optax.identity(), build(make, fill([x, *others])))

        def step(carry, _):
            traces.append(None)
            params, state = carry
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), lossax.learning_rate(state)

        (_, _), rates = jax.lax.scan(step, (jnp.float32(0.0), tx.init(jnp.float32(0.0))), length=12)
        return rates

    traces = []
    rates = jax.vmap(train)(jnp.float32([value, 1.5 * value]))
    assert len(traces) == 1
    for x, got in zip([value, 1.5 * value], rates, strict=True):
        np.testing.assert_allclose(got, series(build(make, fill([x, *others])), range(12)), rtol=1e-6, atol=1e-7)


# ---- peers -----------------------------------------------------------------------------------------------------------

T = 20
OPTAX = {
    "constant": (schedules.constant(0.3), lambda: optax.constant_schedule(0.3)),
    "linear": (schedules.linear(0.1, 1.0, T), lambda: optax.linear_schedule(0.1, 1.0, T)),
    "polynomial": (schedules.polynomial(1.0, 0.1, T, power=0.9), lambda: optax.polynomial_schedule(1.0, 0.1, 0.9, T)),
    "cosine": (schedules.cosine(2.0, 0.5, T), lambda: optax.cosine_decay_schedule(2.0, T, alpha=0.25)),
    "exponential": (schedules.exponential(1.0, 0.3, 4), lambda: optax.exponential_decay(1.0, 4, 0.3)),
    "exponential, floor": (
        schedules.exponential(1.0, 0.3, 4, end=0.05),
        lambda: optax.exponential_decay(1.0, 4, 0.3, end_value=0.05),
    ),
    "exponential, ceiling": (
        schedules.exponential(1.0, 3.0, 4, end=20.0),
        lambda: optax.exponential_decay(1.0, 4, 3.0, end_value=20.0),
    ),
    "step decay": (schedules.step_decay(1.0, 0.3, 4), lambda: optax.exponential_decay(1.0, 4, 0.3, staircase=True)),
    "piecewise": (
        schedules.piecewise_constant([1.0, 0.5, 0.1], [4, 9]),
        lambda: optax.piecewise_constant_schedule(1.0, {4: 0.5, 9: 0.2}),
    ),
    "join": (
        schedules.join((schedules.linear(0.0, 1.0, 5), 5), (schedules.cosine(1.0, 0.0, 10), None)),
        lambda: optax.join_schedules([optax.linear_schedule(0.0, 1.0, 5), optax.cosine_decay_schedule(1.0, 10)], [5]),
    ),
    "warmup, constant": (schedules.warmup(0.7, 5, start=0.1), lambda: optax.warmup_constant_schedule(0.1, 0.7, 5)),
    "warmup, exponential": (
        schedules.warmup(schedules.exponential(0.7, 0.5, 4, end=0.1), 5),
        lambda: optax.warmup_exponential_decay_schedule(0.0, 0.7, 5, 4, 0.5, end_value=0.1),
    ),
    "warmup-cosine: its decay_steps are ours plus the warm-up": (
        schedules.warmup_cosine(0.7, warmup_steps=5, decay_steps=15, start_value=0.1, end_value=0.05),
        lambda: optax.warmup_cosine_decay_schedule(0.1, 0.7, 5, 5 + 15, end_value=0.05),
    ),
    "one cycle, cosine": (
        schedules.one_cycle(0.7, warmup_steps=6, decay_steps=T - 6),
        lambda: optax.cosine_onecycle_schedule(T, 0.7, pct_start=0.3),
    ),
    "one cycle, linear, three phases": (
        schedules.one_cycle(0.7, warmup_steps=6, decay_steps=11, final_steps=3, shape="linear"),
        lambda: optax.linear_onecycle_schedule(T, 0.7, pct_start=0.3, pct_final=0.85),
    ),
    "restarts, equal": (
        schedules.cosine_restarts(1.0, cycle_steps=6, peak_decay=0.5),
        lambda: optax.sgdr_schedule(
            [dict(init_value=p, peak_value=p, warmup_steps=0, decay_steps=6) for p in (1.0, 0.5, 0.25, 0.125, 0.0625)]
        ),
    ),
}


@pytest.mark.parametrize(("own", "theirs"), OPTAX.values(), ids=OPTAX)
def test_agrees_with_optax(own, theirs):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = jax.vmap(theirs())(jnp.arange(T + 6))  # Optax's one-cycle takes no array of steps
    np.testing.assert_allclose(series(own, range(T + 6)), expected, rtol=1e-6, atol=2e-7)


def _torch():
    lr = pytest.importorskip("torch").optim.lr_scheduler
    n = schedules
    return {
        "ConstantLR": (n.piecewise_constant([0.25, 1.0], [6]), lambda o: lr.ConstantLR(o, 0.25, 6)),
        "LinearLR": (n.linear(0.25, 1.0, 6), lambda o: lr.LinearLR(o, 0.25, 1.0, 6)),
        "PolynomialLR": (n.polynomial(1.0, 0.0, T, power=0.9), lambda o: lr.PolynomialLR(o, T, 0.9)),
        "ExponentialLR": (n.exponential(1.0, 0.9, 1), lambda o: lr.ExponentialLR(o, 0.9)),
        "StepLR": (n.step_decay(1.0, 0.3, 4), lambda o: lr.StepLR(o, 4, 0.3)),
        "MultiStepLR": (n.piecewise_constant([1.0, 0.3, 0.09], [4, 9]), lambda o: lr.MultiStepLR(o, [4, 9], 0.3)),
        "CosineAnnealingLR": (n.cosine(1.0, 0.1, T), lambda o: lr.CosineAnnealingLR(o, T, 0.1)),
        "CosineAnnealingWarmRestarts": (
            n.cosine_restarts(1.0, cycle_steps=3, end_value=0.1),
            lambda o: lr.CosineAnnealingWarmRestarts(o, 3, 1, 0.1),
        ),
        "CosineAnnealingWarmRestarts, growing": (
            n.cosine_restarts(1.0, cycle_steps=3, growth=2),
            lambda o: lr.CosineAnnealingWarmRestarts(o, 3, 2),
        ),
        "OneCycleLR": (
            n.one_cycle(1.0, warmup_steps=0.3 * T - 1, decay_steps=T - 0.3 * T),
            lambda o: lr.OneCycleLR(o, 1.0, T, pct_start=0.3),
        ),
        "OneCycleLR, linear": (
            n.one_cycle(1.0, warmup_steps=0.3 * T - 1, decay_steps=T - 0.3 * T, shape="linear"),
            lambda o: lr.OneCycleLR(o, 1.0, T, pct_start=0.3, anneal_strategy="linear"),
        ),
        "OneCycleLR, three phases": (
            n.one_cycle(1.0, warmup_steps=0.3 * T - 1, decay_steps=0.3 * T - 1, final_steps=T + 1 - 0.6 * T),
            lambda o: lr.OneCycleLR(o, 1.0, T, pct_start=0.3, three_phase=True),
        ),
        "SequentialLR": (
            n.join((n.linear(0.1, 1.0, 4), 4), (n.exponential(1.0, 0.9, 1), None)),
            lambda o: lr.SequentialLR(o, [lr.LinearLR(o, 0.1, 1.0, 4), lr.ExponentialLR(o, 0.9)], [4]),
        ),
    }


def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    for name, (own, theirs) in _torch().items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler, expected = theirs(optimizer), []
        for _ in range(T):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        np.testing.assert_allclose(series(own, range(T)), expected, rtol=1e-6, atol=2e-7, err_msg=name)


def test_a_momentum_that_cycles_like_torchs():
    own = schedules.one_cycle(0.85, warmup_steps=5, decay_steps=14, div_factor=0.85 / 0.95, final_div_factor=1.0)
    np.testing.assert_allclose(series(own, (0, 5, 19)), [0.95, 0.85, 0.95], rtol=1e-6)


@pytest.mark.parametrize(
    "theirs",
    [
        lambda x: optax.warmup_cosine_decay_schedule(0.0, x, 4, 12),
        lambda x: optax.warmup_cosine_decay_schedule(0.0, 1.0, x, 12),
        lambda x: optax.linear_schedule(0.0, 1.0, x),
        lambda x: optax.cosine_decay_schedule(1.0, x),
        lambda x: optax.exponential_decay(1.0, 4, x),
    ],
)
def test_optax_cannot_sweep_what_ours_can(theirs):
    """If this fails Optax has learnt it: the docstrings say otherwise then."""
    with jax.numpy_dtype_promotion("standard"), pytest.raises((jax.errors.JAXTypeError, TypeError, ValueError)):
        jax.vmap(lambda x: theirs(x)(3))(jnp.float32([0.5, 1.0]))


def test_one_program_for_a_sweep_over_peaks_and_lengths():
    peaks, lengths = jnp.float32([1e-3, 1e-2, 0.0]), jnp.int32([0, 3, 10])
    steps = jnp.arange(15)

    @jax.jit
    def sweep(peaks, lengths):
        one = lambda p, n: schedules.warmup_cosine(p, warmup_steps=n, decay_steps=12 - n)(steps)  # noqa: E731
        return jax.vmap(one)(peaks, lengths)

    for got, p, n in zip(sweep(peaks, lengths), [1e-3, 1e-2, 0.0], [0, 3, 10], strict=True):
        expected = schedules.warmup_cosine(p, warmup_steps=n, decay_steps=12 - n)(steps)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


# ---- boundaries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine, schedules.one_minus_sqrt])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1e-3), (1.0, 1e-8), (3e-4, 0.0), (1e30, 1e-30), (-1.0, 1.0)])
def test_ends_are_exact(make, start, end):
    schedule = make(start, end, 7)
    assert schedule(0) == np.float32(start)
    assert schedule(7) == schedule(8) == np.float32(end)


def test_small_values_keep_their_digits():
    """The first steps of a long warm-up, and the last of a long cosine, where `end + (start - end) * left` cancels."""
    steps = 100_000
    for step in (1, 10, 1000):
        assert float(schedules.linear(0.0, 1.0, steps)(step)) == pytest.approx(step / steps, rel=2e-7)
        exact = math.sin(0.5 * math.pi * step / steps) ** 2
        assert float(schedules.cosine(0.0, 1.0, steps)(step)) == pytest.approx(exact, rel=5e-7)


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine, schedules.one_minus_sqrt])
def test_a_phase_of_no_steps_is_over(make):
    assert make(1.0, 0.25, 0)(0) == 0.25
    assert jax.jit(lambda n: make(1.0, 0.25, n)(0))(0) == 0.25


def test_empty_phases_are_skipped():
    schedule = schedules.join((schedules.linear(0.0, 1.0, 0), 0), (0.5, 2), (0.3, 0), (0.2, 1), (0.1, 0))
    assert series(schedule, range(5)) == pytest.approx([0.5, 0.5, 0.2, 0.1, 0.1])
    assert schedules.warmup_cosine(1.0, warmup_steps=0, decay_steps=4)(0) == 1.0
    assert schedules.warmup_cosine(1.0, warmup_steps=2, decay_steps=0)(2) == 0.0


def test_phases_see_their_own_steps():
    seen = []

    def spy(step):
        seen.append(float(step))
        return step

    schedule = schedules.join((spy, 4), (spy, 3), (spy, None))
    assert one_by_one(schedule, (0, 3, 4, 6, 7, 20)).tolist() == [0.0, 3.0, 0.0, 2.0, 0.0, 13.0]
    assert min(seen) == 0.0
    seen.clear()
    schedules.join((spy, 4), (1.0, 2))(50)
    assert seen == [4.0], "what a phase would do past its end is never asked"


def test_join_takes_schedules_of_others():
    schedule = schedules.join((optax.linear_schedule(0.0, 1.0, 4), 4), (lambda _: 0.5, 4))
    assert series(schedule, (0, 2, 4, 9)).tolist() == [0.0, 0.5, 0.5, 0.5]
    assert schedule(jnp.arange(6)).shape == (6,)


def test_join_refuses():
    with pytest.raises(ValueError, match="at least one"):
        schedules.join()
    with pytest.raises(ValueError, match="phase 0 of 2"):
        schedules.join((1.0, None), (0.5, 3))
    with pytest.raises(ValueError, match="one value more"):
        schedules.piecewise_constant([1.0, 0.5], [3, 5])
    with pytest.raises(ValueError, match="ascend"):
        schedules.piecewise_constant([1.0, 0.5, 0.1], [5, 3])
    with pytest.raises(ValueError, match="growth must be at least 1"):
        schedules.cosine_restarts(1.0, cycle_steps=4, growth=0.5)
    with pytest.raises(ValueError, match="one_minus_sqrt"):
        schedules.warmup_stable_decay(1.0, warmup_steps=1, stable_steps=1, decay_steps=1, shape="sqrt")  # pyright: ignore


def test_piecewise_constant_takes_arrays():
    got = jax.vmap(lambda x: schedules.piecewise_constant(x, jnp.int32([3, 5]))(4))(jnp.float32([[1, 2, 3], [4, 5, 6]]))
    assert got.tolist() == [2.0, 5.0]


@jax.jit
def _restarts(steps, n, growth):
    return schedules.cosine_restarts(1.0, cycle_steps=n, growth=growth, peak_decay=0.99, end_value=-1.0)(steps)


@pytest.mark.parametrize("growth", [1.0, 1.0 + 2.0**-20, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 10.0])
@pytest.mark.parametrize("cycle_steps", [1, 3, 4, 10, 64])
def test_restarts_fall_on_the_step(cycle_steps, growth):
    """Every boundary up to 100,000 steps, and the steps beside it, traced and not."""
    boundaries, begin, length = [], 0.0, float(cycle_steps)
    while begin < 1e5 and len(boundaries) < 200:
        boundaries.append(begin)
        begin, length = begin + length, length * float(np.float32(growth))
    boundaries, end = np.array(boundaries), begin
    steps = np.unique(np.clip(np.concatenate([np.ceil(boundaries) + d for d in (-1, 0, 1)]), 0, None))
    # A boundary between two steps may round either way when it is within float32 of one of them.
    near = np.abs(steps[:, None] - boundaries[None]) / (1 + boundaries[None])
    steps = steps[((near == 0).any(1) | (near > 3e-6).all(1)) & (steps < end)]
    cycle = np.searchsorted(boundaries, steps, side="right") - 1

    share = (steps - boundaries[cycle]) / (cycle_steps * np.float64(np.float32(growth)) ** cycle)
    expected = -1.0 + (0.99**cycle + 1.0) * 0.5 * (1 + np.cos(np.pi * share))
    padded = np.pad(steps, (0, 600 - len(steps))).astype(np.float32)
    np.testing.assert_allclose(_restarts(padded, cycle_steps, growth)[: len(steps)], expected, atol=1e-4)


def test_noam_peaks_where_the_paper_says():
    schedule = schedules.noam(512, warmup_steps=4000)
    assert float(schedule(3999)) == pytest.approx((512 * 4000) ** -0.5, rel=1e-6)
    assert schedule(3998) < schedule(3999) > schedule(4000)
    named = schedules.warmup(schedules.inverse_sqrt(float(schedule(3999)), 4000), 4000)
    steps = np.arange(0, 20_000, 997)
    np.testing.assert_allclose(series(schedule, steps), series(named, steps + 1), rtol=1e-5)


def test_t5_is_a_join():
    k, c = 100, 0.1
    own = schedules.join((schedules.constant(c), k), (schedules.inverse_sqrt(c, k), None))
    steps = range(0, 1000, 37)
    np.testing.assert_allclose(series(own, steps), [1 / math.sqrt(max(t, k)) for t in steps], rtol=1e-6)


def test_scale_by_a_schedule():
    product = schedules.scale(schedules.linear(0.0, 1.0, 4), schedules.step_decay(1.0, 0.5, 2))
    assert series(product, range(5)).tolist() == [0.0, 0.25, 0.25, 0.375, 0.25]
    assert schedules.scale(lambda _: 2.0, 3.0)(jnp.arange(4)).tolist() == [6.0] * 4
