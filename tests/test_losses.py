"""The contract of every public loss. The signature is the specification; nothing here names a loss."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests import vocabulary as v
from tests.oracles import oracles
from tests.vocabulary import optimised, quick

UNITS = (4, 6)
BLOCK = 16
KEEP = np.array([[True, False, True, True, False, True]] * 2 + [[False] * 6, [True] * 6])
WEIGHTS = np.arange(24.0, dtype=np.float32).reshape(UNITS) / 8.0
LARGEST = v.LARGEST

# By its scope, pytest runs all tests of a loss together, so that a few programs are enough to remember.
pytestmark = pytest.mark.parametrize("loss", v.LOSSES.values(), ids=v.LOSSES, scope="module")


def bound(loss, **fixed):
    """The loss with required hyperparameters filled in."""
    return lambda *arrays, **options: loss(*arrays, **(v.required(loss) | fixed | options))


def is_float(array):
    return jnp.issubdtype(array.dtype, jnp.floating)


def float_positions(arrays):
    return tuple(i for i, a in enumerate(arrays) if is_float(a))


def numeric(hyper):
    """The hyperparameters that are numbers or arrays of them."""
    return {k: x for k, x in hyper.items() if v._numeric(x)}


def spoil(array, keep, value):
    """The array with garbage in the units that are not kept."""
    keep = keep.reshape(keep.shape + (1,) * (array.ndim - keep.ndim))
    if not is_float(array):
        limit = True if array.dtype == np.bool_ else np.iinfo(array.dtype).max
        value = -100 if np.isnan(value) else limit
    return np.where(keep, array, np.asarray(value, array.dtype))


def close(actual, desired, ulp=4, floor=1e-6):
    np.testing.assert_allclose(actual, desired, rtol=ulp * 2.0**-23, atol=ulp * 2.0**-23 * floor)


# ---- programs that several tests share -------------------------------------------------------------------------------


def units_and_slopes(loss, hyper):
    """Value of each unit and gradient of their sum."""

    def run(*arrays):
        total = jax.grad(lambda *a: loss(*a, reduction="sum", **hyper), argnums=float_positions(arrays))
        return loss(*arrays, reduction="none", **hyper), total(*arrays)

    return run


@functools.lru_cache(32)
def program(loss, *choices):
    """`units_and_slopes` with static choices; optimised machine code for the defaults, for others less time on it."""
    jit = quick if choices else optimised
    return jit(units_and_slopes(loss, v.required(loss) | dict(choices)))


@functools.lru_cache(4)
def program_of_numbers(loss):
    """`units_and_slopes` for any numeric hyperparameters, which are its last argument."""
    return quick(lambda *a: units_and_slopes(loss, v.required(loss) | a[-1])(*a[:-1]))


@functools.lru_cache(4)
def program_of_dtypes(loss):
    """`units_and_slopes`, with the same roundings in every dtype."""
    return quick(units_and_slopes(loss, v.required(loss)))


@functools.lru_cache(4)
def program_of_masks(loss):
    """Units, sum, mean, its slope along ones, gradients and second derivatives, for any mask and weights."""
    hyper = v.required(loss) | v.hyperparameters(loss)
    fixed = {k: x for k, x in hyper.items() if k not in numeric(hyper)}
    hyper = {k: np.float32(x) for k, x in numeric(hyper).items()}

    @quick
    def run(arrays, where, weights, hyper):
        positions = float_positions(arrays)

        def f(floats, weights, hyper, reduction="mean"):
            full = list(arrays)
            for i, a in zip(positions, floats, strict=True):
                full[i] = a
            return loss(*full, where=where, weights=weights, reduction=reduction, **hyper, **fixed)

        floats = [arrays[i] for i in positions]
        ones = jax.tree.map(jnp.ones_like, floats)
        mean, slope = jax.jvp(lambda x: f(x, weights, hyper), (floats,), (ones,))
        gradients, (hvp, _) = jax.jvp(lambda x: jax.grad(f, (0, 2))(x, weights, hyper), (floats,), (ones,))
        return *(f(floats, weights, hyper, r) for r in ("none", "sum")), mean, slope, gradients, hvp

    return lambda arrays, where, weights, **numbers: run(
        [jnp.asarray(a) for a in arrays], where, weights, {k: np.float32(numbers.get(k, x)) for k, x in hyper.items()}
    )


def in_blocks(run, arrays, block=BLOCK):
    """`units_and_slopes` of arrays of any length from a program for `block` units, the last of them filled up."""
    n = len(arrays[0])
    filled = [a[np.arange(-(-n // block) * block) % n] for a in arrays]
    parts = [run(*(a[i : i + block] for a in filled)) for i in range(0, n, block)]
    return jax.tree.map(lambda *x: np.concatenate(x)[:n], *parts)


# ---- reductions, masks, weights --------------------------------------------------------------------------------------


def test_signature_ends_in_the_tail(loss):
    parameters = inspect.signature(loss).parameters
    tail = list(parameters.values())[-3:]
    assert [(p.name, p.default) for p in tail] == [("where", None), ("weights", None), ("reduction", "mean")]
    assert all(p.kind is p.KEYWORD_ONLY for p in tail)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in v.data_arguments(loss):
        v.meaning(loss, name)


@pytest.mark.sampled
def test_reductions_agree(loss):
    """What is left out, repeated or added up in parts follows from: units do not see each other, a mean is weighted."""
    hyper = v.hyperparameters(loss)
    if "class_weights" in hyper:  # they would be a part of a mean's weights
        hyper["class_weights"] = np.ones_like(hyper["class_weights"])
    arrays, run, program = (
        v.draw(loss),
        bound(loss, **hyper),
        functools.partial(program_of_masks(loss), **numeric(hyper)),
    )
    everywhere, ones = np.ones(UNITS, bool), np.ones(UNITS, np.float32)
    own = program(arrays, everywhere, ones)[0]

    for where, weights in itertools.product((everywhere, KEEP), (ones, WEIGHTS)):
        units, total, mean = program(arrays, where, weights)[:3]
        assert units.shape == UNITS
        weight = np.where(where, weights, 0.0)
        close(units, np.where(where, own, 0.0) * weight)
        close(total, np.sum(np.float64(units)), floor=10.0)
        close(mean, np.sum(np.float64(units)) / weight.sum(), floor=1.0)
    times = np.array([2, 0, 1, 3, 1, 1])
    tails = ({}, {"where": KEEP[0]}, {"weights": times}, {"where": KEEP[:, :1], "weights": WEIGHTS})
    means = quick(lambda arrays: [run(*arrays, **options) for options in tails])(arrays)
    for options, mean in zip(tails, means, strict=True):
        weight = np.where(options.get("where", True), options.get("weights", 1.0), 0.0) * ones
        close(mean, np.sum(own * np.float64(weight)) / weight.sum(), floor=1.0)


def test_masked_units_do_not_exist(loss):
    clean, program = v.draw(loss), program_of_masks(loss)
    expected = program(clean, KEEP, WEIGHTS)
    for garbage in (np.nan, np.inf, LARGEST):
        actual = program([spoil(a, KEEP, garbage) for a in clean], KEEP, spoil(WEIGHTS, KEEP, garbage))
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            close(a, b, 4, 1.0)
            assert np.isfinite(a).all(), garbage
        for gradient in actual[-2][0]:
            keep = KEEP.reshape(KEEP.shape + (1,) * (gradient.ndim - KEEP.ndim))
            assert not np.any(np.where(keep, 0.0, gradient)), "a masked unit has a gradient"


def test_nothing_kept_is_zero(loss):
    nothing = np.zeros(UNITS, bool)
    spoiled = [spoil(a, nothing, np.nan) for a in v.draw(loss)]
    assert not any(np.any(x) for x in jax.tree.leaves(program_of_masks(loss)(spoiled, nothing, WEIGHTS)))


@pytest.mark.sampled
def test_nothing_is_zero(loss):
    run, arrays = bound(loss), v.draw(loss)
    spoiled = [spoil(a, np.zeros(UNITS, bool), np.nan) for a in arrays]
    units, *values = quick(
        lambda none, arrays: (*(run(*none, reduction=r) for r in ("none", "sum", "mean")), run(*arrays, where=False))
    )([a[:0] for a in arrays], spoiled)
    assert units.shape == (0, 6)
    assert not any(values)


@pytest.mark.sampled
def test_order_of_units_does_not_matter(loss):
    arrays = v.draw(loss, (BLOCK,))
    order = np.random.default_rng(0).permutation(BLOCK)
    units, _ = program(loss)(*arrays)
    moved, _ = program(loss)(*(a[order] for a in arrays))
    close(units[order], moved, 2)


# ---- transformations of JAX ------------------------------------------------------------------------------------------


@pytest.mark.sampled
def test_eager_jit_vmap_and_batch_axes_agree(loss):
    arrays = v.draw(loss)
    run = lambda *a: bound(loss)(*a, reduction="none")  # noqa: E731
    eager = run(*arrays)

    @quick
    def everything(arrays):
        deeper = [a.reshape(2, 2, *a.shape[1:]) for a in arrays]
        return run(*arrays), jax.vmap(run)(*arrays), run(*deeper).reshape(UNITS), run(*(a[0, 0] for a in arrays))

    *wholes, single = everything(arrays)
    for whole in wholes:
        close(whole, eager, 4, 1e-4)  # next to a threshold a loss is small and moves with every rounding
    close(single, eager[0, 0], 4)


def derivatives_agree(loss, arrays):
    """In float64, along random directions: first derivatives both ways, the second symmetric and finite."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a, jnp.float64 if is_float(a) else a.dtype) for a in arrays]
        where, run = float_positions(arrays), bound(loss)
        floats = tuple(arrays[i] for i in where)
        directions = tuple(jnp.asarray(rng.normal(size=(2, *a.shape))) for a in floats)

        def f(*floats):
            full = list(arrays)
            for i, a in zip(where, floats, strict=True):
                full[i] = a
            return run(*full)

        @quick
        def derivatives(floats, directions):
            along = lambda g: jax.vmap(lambda d: jax.jvp(g, floats, d), out_axes=(None, 0))(directions)  # noqa: E731
            return along(f)[1], *along(jax.grad(f, argnums=tuple(range(len(floats)))))

        def dot(x, y):
            return sum(np.sum(np.asarray(a) * np.asarray(b)) for a, b in zip(x, y, strict=True))

        forward, reverse, second = derivatives(floats, directions)
        one, two = (tuple(d[i] for d in directions) for i in (0, 1))
        np.testing.assert_allclose(forward, [dot(reverse, one), dot(reverse, two)], rtol=1e-11, atol=1e-13)
        assert all(np.isfinite(x).all() for x in second)
        if v.freezes(oracles()[loss.__name__]):
            return  # no function has this gradient
        across = dot([x[0] for x in second], two), dot([x[1] for x in second], one)
        np.testing.assert_allclose(*across, rtol=1e-9, atol=1e-12)


@pytest.mark.sampled
def test_forward_and_reverse_agree(loss):
    derivatives_agree(loss, v.draw(loss, (3,)))


@pytest.mark.sampled
def test_sharded_is_local(loss):
    arrays, run = v.draw(loss, (BLOCK,)), bound(loss)
    where = float_positions(arrays)
    step = quick(jax.value_and_grad(lambda *a: run(*a, where=a[0].reshape(BLOCK, -1)[:, 0] < 1e9), argnums=where))
    units, slopes = program(loss)(*arrays)
    expected = [np.mean(np.asarray(units)), *(np.asarray(g) / BLOCK for g in slopes)]
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
        spread = [jax.device_put(a, NamedSharding(mesh, PartitionSpec("batch"))) for a in arrays]
        with jax.set_mesh(mesh):
            if kind == AxisType.Explicit:  # what XLA does of it is the same, once it is traced
                jax.eval_shape(step, *spread)
                continue
            actual = step(*spread)
        for x, y in zip(jax.tree.leaves(actual), expected, strict=True):
            close(np.asarray(x), np.asarray(y), 8, 0.1)


# ---- hyperparameters -------------------------------------------------------------------------------------------------


def hyperparameters_may_be_traced(loss, arrays):
    swept = {
        name: np.stack([np.asarray(value, np.float32), np.asarray(1.0625 * value, np.float32)])
        for name, value in v.hyperparameters(loss).items()
    }

    def both_ways(name, values):
        run = lambda x: loss(*arrays, **v.required(loss) | {name: x})  # noqa: E731
        return jax.vmap(jax.value_and_grad(run))(values), [run(x if x.ndim else float(x)) for x in swept[name]]

    @quick
    def everything(swept):
        return {name: both_ways(name, values) for name, values in swept.items()}

    for name, ((found, slopes), each) in everything(swept).items():
        close(found, each, 8, 1.0)
        assert found.dtype == jnp.float32
        assert np.isfinite(slopes).all(), f"gradient with respect to {name}"


@pytest.mark.sampled
def test_every_hyperparameter_may_be_traced(loss):
    hyperparameters_may_be_traced(loss, v.draw(loss))


@pytest.mark.sampled
def test_the_dtype_is_that_of_the_estimate(loss):
    """Whatever the targets, weights and hyperparameters are made of."""
    first = v.data_arguments(loss)[0]
    for dtype, other in (("float32", np.float64), ("bfloat16", np.float64), ("float16", jnp.bfloat16)):
        arrays = [jnp.asarray(a) for a in v.draw(loss, dtype=dtype)]
        where = float_positions(arrays)
        hyper = v.required(loss) | v.hyperparameters(loss)
        hyper |= {k: np.asarray(x, other) for k, x in numeric(hyper).items()}
        others = [a if i not in where[1:] else np.asarray(a, other) for i, a in enumerate(arrays)]
        run = functools.partial(loss, **hyper, weights=np.ones(6, other))
        value, gradient = jax.eval_shape(jax.value_and_grad(run), *others)
        assert value.dtype == jnp.float32, (first, dtype, other)
        assert gradient.dtype == jnp.dtype(dtype)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a, jnp.float64) if a.dtype == np.float32 else a for a in v.draw(loss)]
        value = jax.eval_shape(functools.partial(bound(loss), weights=np.ones(6, np.float32)), *arrays)
        assert value.dtype == jnp.float64


# ---- loud errors -----------------------------------------------------------------------------------------------------


def test_wrong_calls_are_loud(loss):
    arrays = v.draw(loss)
    run = lambda *a, **options: jax.eval_shape(functools.partial(bound(loss), **options), *a)  # noqa: E731
    names = v.data_arguments(loss)
    for i in range(1, len(arrays)):
        for wrong in (arrays[i][:1], arrays[i][:, :1], arrays[i][..., None], arrays[i][:2]):
            changed = [*arrays[:i], wrong, *arrays[i + 1 :]]
            with pytest.raises(ValueError, match=names[i]):
                run(*changed)
    with pytest.raises(TypeError, match=names[0]):
        run(np.ones_like(arrays[0], np.int32), *arrays[1:])
    with pytest.raises(TypeError, match="where must be bool"):
        run(*arrays, where=np.ones(UNITS))
    with pytest.raises(ValueError, match="where"):
        run(*arrays, where=np.ones((3, *UNITS), bool))
    with pytest.raises(ValueError, match="weights"):
        run(*arrays, weights=np.ones(7))
    with pytest.raises(ValueError, match=r"reduction must be one of .*'mean'"):
        run(*arrays, reduction="avg")


@pytest.mark.sampled
def test_python_and_numpy_data_are_accepted(loss):
    arrays, run = v.draw(loss), bound(loss)
    expected = run(*(jnp.asarray(a) for a in arrays))
    close(run(*arrays), expected, 1)
    close(run(*(a.tolist() for a in arrays)), expected, 1)
    single = [a[0, 0].tolist() for a in arrays]
    assert jax.eval_shape(lambda: run(*single)).shape == ()


def test_labels_out_of_range_never_look_plausible(loss):
    names = v.data_arguments(loss)
    if "labels" not in names:
        return
    arrays, run, at = v.draw(loss, (3,)), bound(loss), names.index("labels")
    keep = np.array([True, False, True])
    traced = quick(lambda *a: (run(*a, reduction="none"), run(*a, where=keep)))
    for wrong in (-1, v.CLASSES, -100):
        arrays[at] = arrays[at].copy()
        arrays[at][1] = wrong
        with pytest.raises(ValueError, match=f"labels must be in .*got {wrong}"):
            run(*arrays)
        units, kept = traced(*arrays)
        assert np.isnan(units[1])
        assert np.isfinite(units[::2]).all()
        assert np.isfinite(kept)
    arrays[at] = arrays[at].astype(np.float32)
    with pytest.raises(TypeError, match="labels must be integer"):
        run(*arrays)


# ---- numbers: against an exact oracle --------------------------------------------------------------------------------


def exact(array):
    """The numbers of an array as they are, in arbitrary precision."""
    if not is_float(array):
        return array
    return np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])(np.asarray(array, np.float64))


def in_full(value):
    """A hyperparameter as the oracle takes it: `mpf` rounded as the loss does, an array of them, or as it is."""
    if not v._numeric(value):
        return value
    return exact(np.float32(value)) if np.ndim(value) else mpmath.mpf(float(np.float32(value)))


def one_sided(oracle, arrays, position, hyper, column, centre=None):
    """Left and right derivative of every unit by one component of one argument, by tiny exact differences.

    `column` is the place of the component within its unit.
    """
    hyper = hyper | {"frozen": arrays} if v.freezes(oracle) else hyper
    centre = oracle(*arrays, **hyper) if centre is None else centre
    out = []
    for sign in (-1, 1):
        moved = arrays[position].copy()
        at = (..., *column)
        step = mpmath.mpf(10) ** -int(0.4 * mpmath.mp.dps)
        size = np.vectorize(lambda x, step=step: step * max(abs(x), mpmath.mpf(10) ** -30), otypes=[object])
        size = size(np.where(np.vectorize(mpmath.isfinite)(moved[at]), moved[at], mpmath.mpf(0)))
        moved[at] = moved[at] + sign * size
        changed = oracle(*arrays[:position], moved, *arrays[position + 1 :], **hyper)
        out.append(sign * (changed - centre) / size)
    return out


def compare(loss, arrays, hyper, *, value_ulps, gradient_ulps, oracle=None, digits=150, run=None):
    """Value and gradient of every unit against the oracle; what is finite there must be finite here, and right."""
    oracle = oracle or oracles()[loss.__name__]
    shown = {
        name: p.default
        for name, p in inspect.signature(loss).parameters.items()
        if p.kind is p.KEYWORD_ONLY and isinstance(p.default, float)
    }
    numbers = {k: in_full(x) for k, x in (shown | hyper).items()}
    exacts = [exact(a) for a in arrays]
    with mpmath.workdps(digits):
        truth = oracle(*exacts, **numbers)
    floor = any(word in loss.__doc__ for word in ("nonnegative", "in [0"))
    signed = not floor or any(t < 0 for t in truth.flat)
    cancels = v.ability(loss, "CANCELS", False)  # a difference of numbers with slopes about 1
    rounded_at = 1.0 if signed or cancels else 0.0
    positions = float_positions(arrays)
    values, gradients = (run or optimised(units_and_slopes(loss, hyper)))(*arrays)
    values = np.asarray(values).reshape(*truth.shape, -1).sum(-1, dtype=np.float64)
    problems = []

    def describe(index):
        return [a[index].tolist() for a in arrays]

    for index in np.ndindex(truth.shape):
        if not mpmath.isfinite(truth[index]) or abs(truth[index]) > LARGEST:
            continue
        off = v.ulps(values[index], truth[index], rounded_at)
        if not off <= value_ulps and not abs(float(values[index]) - float(truth[index])) <= 2 * v.TINY:
            problems.append(f"value {values[index]} is not {float(truth[index])} ({off:.3g} ulp) at {describe(index)}")
        if not signed and values[index] < 0:
            problems.append(f"negative {values[index]} at {describe(index)}")
    for position, gradient in zip(positions, gradients, strict=True):
        columns = list(np.ndindex(gradient.shape[truth.ndim :]))
        sides = []
        with mpmath.workdps(digits):
            for column in columns:
                sides.append(one_sided(oracle, exacts, position, numbers, column, truth))

        def slack(index, column, position=position):
            """How far the exact derivative moves when every argument is rounded once: no more can be had."""
            unit = [a[tuple(slice(i, i + 1) for i in index)] for a in exacts]
            step = mpmath.mpf(2) ** -24
            rng = np.random.default_rng(0)
            with mpmath.workdps(digits):
                here = one_sided(oracle, unit, position, numbers, column)[1].flat[0]
                near = []
                for i in positions:
                    # One factor for all of it would be nothing to a loss that is scale-free.
                    for signs in (1, *rng.choice([-1, 1], size=(3, *unit[i].shape)).astype(object)):
                        moved = [a * (1 + step * signs) if j == i else a for j, a in enumerate(unit)]
                        near.append(one_sided(oracle, moved, position, numbers, column))
                near += [
                    one_sided(oracle, unit, position, numbers | {k: x * (1 + step)}, column)
                    for k, x in numbers.items()
                    if isinstance(x, mpmath.mpf)
                ]
                return float(sum((abs(right.flat[0] - here) for _, right in near), mpmath.mpf(0)))

        for index in np.ndindex(truth.shape):
            if not mpmath.isfinite(truth[index]) or abs(truth[index]) > LARGEST:
                continue
            pairs = [(left[index], right[index]) for left, right in sides]
            if not all(mpmath.isfinite(x) and abs(x) <= LARGEST for pair in pairs for x in pair):
                continue
            largest = max(float(max(abs(x) for x in pair)) for pair in pairs)
            largest = max(largest, rounded_at) if cancels else largest
            own = np.ravel(gradient[index])
            for column, (left, right), slope in zip(columns, pairs, own, strict=True):
                scale = max(abs(left), abs(right))
                margin = 1e-6 * scale + 2 * v.TINY + gradient_ulps * 2.0**-24 * largest
                if abs(left - right) <= 1e-20 * scale:
                    right_enough = v.ulps(slope, right, largest) <= gradient_ulps
                    if not right_enough and not abs(slope - float(right)) <= 2 * v.TINY + 8 * slack(index, column):
                        problems.append(f"gradient {position}: {slope} is not {float(right)} at {describe(index)}")
                elif not min(left, right) - margin <= slope <= max(left, right) + margin:
                    low_high = (float(left), float(right))
                    problems.append(f"gradient {position}: {slope} outside the kink {low_high} at {describe(index)}")
                elif left < 0 < right and left == -right and slope != 0:
                    problems.append(f"gradient {position}: {slope} at the kink {describe(index)}")
    assert not problems, f"{len(problems)} problems:\n" + "\n".join(problems[:12])


def variants(loss, *, numbers=True, block=BLOCK):
    """Default hyperparameters, every static choice and, with `numbers`, another value of each; and what runs them."""
    base = v.required(loss)
    yield base, lambda *a: in_blocks(program(loss), a, block)
    parameters = inspect.signature(loss).parameters
    for name in parameters:
        for choice in v.declared(loss, "STATIC").get(name, ()):
            if choice != base.get(name, parameters[name].default):
                yield base | {name: choice}, lambda *a, x=(name, choice): in_blocks(program(loss, x), a, block)
    shown = {name: base.get(name, parameters[name].default) for name in v.hyperparameters(loss)}
    shown = {name: value for name, value in shown.items() if value is not None}
    for name, value in v.hyperparameters(loss).items() if numbers else ():
        own = quick(units_and_slopes(loss, base | {name: value}))  # None leaves something out: another program
        if name in shown:
            traced = {k: jnp.asarray(x, jnp.float32) for k, x in (shown | {name: value}).items()}
            own = lambda *a, traced=traced: program_of_numbers(loss)(*a, traced)  # noqa: E731
        yield base | {name: value}, lambda *a, own=own: in_blocks(own, a, block)


def extremes(loss):
    """Errors from 1e-15 to 1e15 and confident rows up to gaps of 80, for losses of them: promises L1 and L8."""
    rng = np.random.default_rng(2)
    names = v.data_arguments(loss)
    arrays = v.draw(loss, (32,))
    draws = [v.meaning(loss, name)[0] for name in names]
    if names[:2] == ["predictions", "targets"] and draws[:2] == [v._normal, v._normal]:
        arrays[1] = np.zeros_like(arrays[1])
        arrays[0] = (rng.choice([-1, 1], 32) * 10 ** rng.uniform(-15, 15, 32)).astype(np.float32)
        yield arrays
    elif draws[0] is v._rows and draws[1:] in ([v._labels], [v._distributions]):
        best = np.arange(32) % v.CLASSES
        arrays[0][np.arange(32), best] += np.linspace(0, 80, 32).astype(np.float32)
        arrays[1] = best if names[1] == "labels" else np.eye(v.CLASSES, dtype=np.float32)[best]
        yield arrays
    elif names[0] == "logits" and draws in ([v._normal, v._fractions], [v._normal, v._signs]):
        gaps = np.linspace(0, 80, 32).astype(np.float32)
        arrays[0] = np.where(np.arange(32) % 2 == 0, gaps, -gaps)
        low = -1.0 if names[1] == "signs" else 0.0
        arrays[1] = np.where(np.arange(32) % 4 < 2, 1.0, low).astype(np.float32)
        yield arrays


def test_numbers_of_all_sizes_are_exact(loss):
    hyper, run = next(variants(loss))
    for arrays in (v.draw(loss, (12,)), *extremes(loss)):
        compare(loss, arrays, hyper, value_ulps=8, gradient_ulps=8, digits=110, run=run)


@pytest.mark.sampled
def test_every_choice_is_exact(loss):
    for hyper, run in itertools.islice(variants(loss), 1, None):
        compare(loss, v.draw(loss, (12,)), hyper, value_ulps=8, gradient_ulps=8, digits=110, run=run)


@pytest.mark.sampled
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_float32_rounded_once(loss, dtype):
    half_precision_is_rounded_once(program_of_dtypes(loss), v.draw(loss, (BLOCK,), dtype=dtype))


def half_precision_is_rounded_once(run, half):
    dtype = half[0].dtype
    value, gradients = run(*half)
    expected, wide_gradients = run(*(a.astype(np.float32) if a.dtype == dtype else a for a in half))
    close(value, expected, 2, 1.0)
    for g, w in zip(gradients, wide_gradients, strict=True):
        assert g.dtype == dtype
        np.testing.assert_array_equal(g, w.astype(dtype))


def hostile(loss):
    """Combinations of the hostile values of a loss's arguments, all or 128 of them (rows: 48 random rows of them)."""
    rng = np.random.default_rng(1)
    names = v.data_arguments(loss)
    ordinary = v.draw(loss, (48,))
    if all(a.ndim == 1 for a in ordinary):
        pools = [np.array(v.meaning(loss, name)[1] or range(v.CLASSES)) for name in names]
        grid = [g.ravel() for g in np.meshgrid(*pools, indexing="ij")]
        some = rng.permutation(grid[0].size)[:128]
        return [g[some].astype(a.dtype) for g, a in zip(grid, ordinary, strict=True)]
    out = []
    for name, array in zip(names, ordinary, strict=True):
        draw, pool = v.meaning(loss, name)
        if draw is v._distributions:  # one-hot rows, rows with zeros, ordinary rows
            corners = np.eye(v.CLASSES, dtype=np.float32)[rng.integers(0, v.CLASSES, 48)]
            holes = np.where(rng.random(array.shape) < 0.5, 0, array).astype(np.float32)
            kind = rng.integers(0, 3, (48, 1))
            out.append(np.where(kind == 0, corners, np.where(kind == 1, holes, array)))
        else:
            out.append(rng.choice(pool, size=array.shape).astype(array.dtype) if pool else array)
    return out


def test_hostile_numbers(loss):
    hyper, run = next(variants(loss))
    compare(loss, hostile(loss), hyper, value_ulps=32, gradient_ulps=64, run=run)


@pytest.mark.sampled
def test_hostile_numbers_with_every_choice(loss):
    for hyper, run in itertools.islice(variants(loss, numbers=False), 1, None):
        compare(loss, hostile(loss), hyper, value_ulps=32, gradient_ulps=64, run=run)


def test_missing_classes_and_zero_targets(loss):
    """Promise L3: 0 log 0 = 0 in value and in first and second derivatives."""
    names = v.data_arguments(loss)
    draws = [v.meaning(loss, name)[0] for name in names]
    if draws[0] is not v._rows or draws[1:] not in ([v._labels], [v._distributions]):
        return
    arrays, run = v.draw(loss, (8,)), bound(loss)
    arrays[0][:, 1] = -np.inf
    arrays[0][:, 3] = -np.inf
    if names[1] == "labels":
        arrays[1] = np.array([0, 2, 4, 0, 2, 4, 0, 2])
    else:
        arrays[1][:, [1, 3]] = 0
        arrays[1] /= arrays[1].sum(axis=1, keepdims=True)
    left = [a[:, [0, 2, 4]] if a.ndim == 2 else a // 2 for a in arrays]
    positions = float_positions(arrays)
    f = lambda *floats: run(*floats, *arrays[len(floats) :])  # noqa: E731
    floats = [jnp.asarray(arrays[i]) for i in positions]
    ones = [jnp.where(jnp.isfinite(a), 1.0, 0.0) for a in floats]
    first = jax.value_and_grad(run, argnums=positions)
    both = quick(lambda floats: jax.jvp(jax.value_and_grad(f, argnums=positions), floats, ones))
    (value, gradients), derivatives = both(floats)
    expected, small_gradients = quick(first)(*left)
    close(value, expected, 4)
    for gradient, small in zip(gradients, small_gradients, strict=True):
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient[:, [0, 2, 4]], small, rtol=1e-5, atol=1e-7)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(derivatives))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_finite_in_finite_out(loss, data):
    """No input of ordinary size gives a non-finite value or gradient, nor a negative loss where none can be."""
    strategies = {
        v._normal: st.floats(-1e4, 1e4, width=32),
        v._rows: st.floats(-1e4, 1e4, width=32),
        v._positive: st.floats(2.0**-10, 1e4, width=32),
        v._fractions: st.floats(2.0**-20, 1 - 2.0**-20, width=32),
        v._distributions: st.floats(0, 1, width=32),
        v._signs: st.sampled_from([-1.0, 1.0]),
    }
    arrays = []
    for name, ordinary in zip(
        v.data_arguments(loss), v.draw(loss, (3,), seed=data.draw(st.integers(0, 99))), strict=True
    ):
        draw = v.meaning(loss, name)[0]
        strategy = st.floats(-60, 60, width=32) if name.startswith("log_") else strategies.get(draw)
        if strategy is None:
            arrays.append(ordinary)
            continue
        flat = data.draw(st.lists(strategy, min_size=ordinary.size, max_size=ordinary.size))
        arrays.append(np.array(flat, ordinary.dtype).reshape(ordinary.shape))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(in_blocks(program(loss), arrays)))
