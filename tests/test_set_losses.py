"""The contract of every public loss of sets: examples see each other.

One set is one unit of the result, or (of coupled losses) one element. An oracle module may declare ELEMENTS (shape of
the elements, if they lie on more than one axis), SPATIAL (their order and neighbourhood matter), REPEATS = False
(repetition of an element has another meaning than weight), IDENTITIES (labels are any integers, only equality counts),
COUNTED (a function: which elements count in a mean; if there is none, those whose loss is not 0).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests import vocabulary as v
from tests.oracles import oracles
from tests.test_losses import (
    bound,
    close,
    compare,
    derivatives_agree,
    float_positions,
    half_precision_is_rounded_once,
    hyperparameters_may_be_traced,
    is_float,
    numeric,
    program_of_dtypes,
    program_of_masks,
    spoil,
    variants,
)
from tests.vocabulary import quick

SETS = 4

pytestmark = pytest.mark.parametrize("loss", v.SET_LOSSES.values(), ids=v.SET_LOSSES, scope="module")


def elements(loss):
    return v.ability(loss, "ELEMENTS", (6,))


def spatial(loss):
    return v.ability(loss, "SPATIAL", False)


def draw(loss, sets=SETS, **options):
    return v.draw(loss, (sets, *elements(loss)), **options)


def mask(loss, seed=0):
    """Which elements to keep; of the second set none."""
    keep = np.random.default_rng(seed).random((SETS, *elements(loss))) < 0.7
    keep[1] = False
    return keep


def of_each_set(values):
    """Classes of a set are summed: a number for each set."""
    return np.asarray(values, np.float64).reshape(len(values), -1).sum(-1)


def weights_of(keep):
    return np.random.default_rng(1).random(keep.shape).astype(np.float32)


@pytest.mark.sampled
def test_reductions_agree(loss):
    arrays, program = draw(loss), program_of_masks(loss)
    run, keep = bound(loss, **v.hyperparameters(loss)), mask(loss)
    weights, everywhere, ones = weights_of(keep), np.ones(keep.shape, bool), np.ones(keep.shape, np.float32)
    one_by_one = quick(jax.vmap(lambda arrays, where, weights: run(*arrays, where=where, weights=weights)))
    tails = ({}, {"where": keep}, {"weights": weights})
    means = quick(lambda arrays: [run(*arrays, **options) for options in tails])(arrays)
    for options, mean in zip(tails, means, strict=True):
        close(mean, program(arrays, options.get("where", everywhere), options.get("weights", ones))[2], 8, 1.0)
    for where, weight in itertools.product((everywhere, keep), (ones, weights)):
        units, total, mean = program(arrays, where, weight)[:3]
        assert units.shape[0] == SETS
        assert not np.any(np.asarray(units)[~where.any(axis=tuple(range(1, where.ndim)))]), "nothing kept is 0"
        close(total, np.sum(np.float64(units)), 8, 1.0)
        assert mean.shape == ()
        if v.coupled(loss):
            weight = np.sum(np.float64(weight), where=counted_elements(loss, arrays, units, where))
            close(mean, np.sum(np.float64(units)) / weight, 8, 1.0)
        elif units.ndim == 1:
            counted = [i for i in range(SETS) if where[i].any()]
            close(mean, np.mean(np.float64(one_by_one(arrays, where, weight))[counted]), 8, 1.0)


def counted_elements(loss, arrays, units, where):
    """Which elements count in a mean: those that the oracle says, or those that have a loss."""
    counted = v.ability(loss, "COUNTED")
    if counted is None:
        return np.asarray(units) != 0
    labels = arrays[v.data_arguments(loss).index("labels")]
    return np.stack([counted(loss, y, k) for y, k in zip(labels, where, strict=True)])


@pytest.mark.sampled
def test_masked_is_dropped(loss):
    if spatial(loss):
        return
    arrays, run = draw(loss), bound(loss)
    row = np.array([True, False, True, True, False, True])
    weights = np.arange(6.0, dtype=np.float32) / 4
    zero = np.where(row, 1.0, 0.0).astype(np.float32)

    @quick
    def everything(arrays, dropped):
        masked, expected = functools.partial(run, *arrays), functools.partial(run, *dropped)
        return (
            (masked(where=row, weights=weights), expected(weights=weights[row])),
            (masked(where=row, reduction="sum"), expected(reduction="sum")),
            (masked(weights=zero), expected()),
        )

    for masked, expected in everything(arrays, [a[:, row] for a in arrays]):
        close(masked, expected, 8, 1.0)


def test_masked_elements_do_not_exist(loss):
    clean, keep, program = draw(loss), mask(loss), program_of_masks(loss)
    expected = program(clean, keep, weights_of(keep))
    for garbage in (np.nan, np.inf, v.LARGEST):
        actual = program([spoil(a, keep, garbage) for a in clean], keep, spoil(weights_of(keep), keep, garbage))
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            close(a, b, 4, 1.0)
            assert np.isfinite(a).all(), garbage
        for gradient in actual[-2][0]:
            outside = keep.reshape(keep.shape + (1,) * (gradient.ndim - keep.ndim))
            if not spatial(loss):
                assert not np.any(np.where(outside, 0.0, gradient)), "a masked element has a gradient"


def test_nothing_kept_is_zero(loss):
    arrays, run = draw(loss), bound(loss)
    nothing = np.zeros((SETS, *elements(loss)), bool)
    spoiled = [spoil(a, nothing, np.nan) for a in arrays]
    assert not any(np.any(x) for x in jax.tree.leaves(program_of_masks(loss)(spoiled, nothing, weights_of(nothing))))

    @quick
    def everything(arrays):
        without_elements = () if spatial(loss) else run(*(a[:, :0] for a in arrays))
        return run(*arrays, where=False), run(*(a[:0] for a in arrays)), without_elements

    assert not any(np.any(x) for x in jax.tree.leaves(everything(spoiled)))


@pytest.mark.sampled
def test_integer_weight_is_repetition(loss):
    if spatial(loss) or not v.ability(loss, "REPEATS", True):
        return
    arrays, run = draw(loss), bound(loss)
    times = np.array([2, 0, 1, 3, 1, 1])
    repeated = [np.repeat(a, times, axis=1) for a in arrays]
    weighted, expected = quick(lambda a, b: (run(*a, weights=times), run(*b)))(arrays, repeated)
    close(weighted, expected, 8, 1.0)


def test_order_does_not_matter(loss):
    arrays, everywhere = draw(loss), np.ones((SETS, *elements(loss)), bool)
    units = lambda arrays: program_of_masks(loss)(arrays, everywhere, np.float32(everywhere))[0]  # noqa: E731
    whole = units(arrays)
    sets = np.array([2, 0, 3, 1])
    close(units([a[sets] for a in arrays]), whole[sets], 2, 1.0)
    if not spatial(loss):
        order = np.random.default_rng(0).permutation(6)
        close(units([a[:, order] for a in arrays]), whole[:, order] if v.coupled(loss) else whole, 8, 1.0)


@pytest.mark.sampled
def test_eager_jit_vmap_and_batch_axes_agree(loss):
    arrays = draw(loss)
    run = lambda *a: bound(loss)(*a, reduction="none")  # noqa: E731
    eager = run(*arrays)

    @quick
    def everything(arrays):
        deeper = run(*(a.reshape(2, 2, *a.shape[1:]) for a in arrays))
        return run(*arrays), jax.vmap(run)(*arrays), deeper.reshape(eager.shape), run(*(a[0] for a in arrays))

    *wholes, single = everything(arrays)
    for whole in wholes:
        close(whole, eager, 4, 1.0)
    close(single, eager[0], 4, 1.0)
    close(run(*(a.tolist() for a in arrays)), eager, 1)


@pytest.mark.sampled
def test_forward_and_reverse_agree(loss):
    derivatives_agree(loss, draw(loss, 2))


@pytest.mark.sampled
def test_sharded_is_local(loss):
    """Sets or their elements are spread over devices."""
    arrays = v.draw(loss, (8, 16, *elements(loss)[1:]))
    step = quick(jax.value_and_grad(bound(loss), argnums=float_positions(arrays)))
    expected = jax.tree.leaves(step(*arrays))
    specs = PartitionSpec("batch"), PartitionSpec(None, "batch")
    for spec, kind in itertools.product(specs, (AxisType.Auto, AxisType.Explicit)):
        mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            actual = step(*(jax.device_put(a, NamedSharding(mesh, spec)) for a in arrays))
        for x, y in zip(jax.tree.leaves(actual), expected, strict=True):
            close(np.asarray(x), np.asarray(y), 16, 1.0)


@pytest.mark.sampled
def test_every_hyperparameter_may_be_traced(loss):
    hyperparameters_may_be_traced(loss, draw(loss))


@pytest.mark.sampled
def test_the_dtype_is_that_of_the_estimate(loss):
    for dtype, other in (("float32", np.float64), ("bfloat16", np.float64), ("float16", jnp.bfloat16)):
        arrays = [jnp.asarray(a) for a in draw(loss, dtype=dtype)]
        where = float_positions(arrays)
        hyper = v.required(loss) | v.hyperparameters(loss)
        hyper |= {k: np.asarray(x, other) for k, x in numeric(hyper).items()}
        others = [a if i not in where[1:] else np.asarray(a, other) for i, a in enumerate(arrays)]
        run = functools.partial(loss, **hyper, weights=np.ones(elements(loss), other))
        assert jax.eval_shape(run, *others).dtype == jnp.float32
    half_precision_is_rounded_once(program_of_dtypes(loss), draw(loss, dtype="bfloat16"))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a, jnp.float64 if is_float(a) else a.dtype) for a in draw(loss)]
        run = functools.partial(bound(loss), weights=np.ones(elements(loss), np.float32))
        assert jax.eval_shape(run, *arrays).dtype == jnp.float64


def test_wrong_calls_are_loud(loss):
    arrays = draw(loss)
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
        run(*arrays, where=np.ones(elements(loss)))
    with pytest.raises(ValueError, match="where"):
        run(*arrays, where=np.ones((3, SETS, *elements(loss)), bool))
    with pytest.raises(ValueError, match="weights"):
        run(*arrays, weights=np.ones(7))
    with pytest.raises(ValueError, match=r"reduction must be one of .*'mean'"):
        run(*arrays, reduction="avg")


def test_labels_out_of_range_never_look_plausible(loss):
    names = v.data_arguments(loss)
    if "labels" not in names or v.ability(loss, "IDENTITIES", False):
        return
    arrays, run, i = draw(loss), bound(loss), names.index("labels")
    keep = np.ones(arrays[i].shape, bool)
    keep[1, 0] = False
    traced = quick(lambda *a: (run(*a, reduction="none"), run(*a, where=keep)))
    for wrong in (-1, v.CLASSES, -100):
        arrays[i] = arrays[i].copy()
        arrays[i][1, 0] = wrong
        with pytest.raises(ValueError, match=f"labels must be in .*got {wrong}"):
            run(*arrays)
        units, kept = traced(*arrays)
        assert np.isnan(units[1]).all()
        assert np.isfinite(units[::2]).all()
        assert np.isfinite(kept)


def exact_sets(loss):
    """The oracle of one set, for every set; what it says of each class is added up."""
    oracle = oracles()[loss.__name__]

    @functools.wraps(oracle)
    def run(*arrays, frozen=None, **hyper):
        def of_set(i):
            fixed = {} if frozen is None else {"frozen": [a[i] for a in frozen]}
            return np.sum(oracle(*(a[i] for a in arrays), **hyper, **fixed))

        return np.array([of_set(i) for i in range(len(arrays[0]))], object)

    return run


def test_ordinary_numbers_are_exact(loss):
    compared(loss, next(variants(loss, block=2)))


@pytest.mark.sampled
def test_every_choice_is_exact(loss):
    for variant in itertools.islice(variants(loss, block=2), 1, None):
        compared(loss, variant)


def compared(loss, variant):
    hyper, run = variant
    ulps = {"value_ulps": 16, "gradient_ulps": 16}
    compare(loss, draw(loss, 2), hyper, **ulps, oracle=exact_sets(loss), digits=110, run=run)


def test_hostile_numbers(loss):
    rng = np.random.default_rng(1)
    arrays = []
    for name, array in zip(v.data_arguments(loss), draw(loss, 12), strict=True):
        pool = v.meaning(loss, name)[1]
        arrays.append(rng.choice(pool, size=array.shape).astype(array.dtype) if pool else array)
    hyper, run = next(variants(loss, block=2))
    compare(loss, arrays, hyper, value_ulps=32, gradient_ulps=64, oracle=exact_sets(loss), run=run)
