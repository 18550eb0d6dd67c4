"""The contract of every public loss of sets: examples see each other.

One set is one unit of the result, or (of coupled losses) one element. An oracle module may declare ELEMENTS (shape of
the elements, if they lie on more than one axis), SPATIAL (their order and neighbourhood matter), REPEATS = False
(repetition of an element has another meaning than weight), IDENTITIES (labels are any integers, only equality counts),
COUNTED (a function: which elements count in a mean; if there is none, those whose loss is not 0).
"""

import functools

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


def test_reductions_agree(loss):
    arrays, run = draw(loss), bound(loss)
    keep = mask(loss)
    weights = np.random.default_rng(1).random(keep.shape).astype(np.float32)
    tails = [
        {k: x for k, x in {"where": where, "weights": weight}.items() if x is not None}
        for where in (None, keep)
        for weight in (None, weights)
    ]

    @quick
    def everything(arrays):
        def ways(tail):
            alone = None if v.coupled(loss) else jax.vmap(lambda a, tail: run(*a, **tail))(arrays, tail)
            return *(run(*arrays, **tail, reduction=r) for r in ("none", "sum", "mean")), alone

        return [ways(tail) for tail in tails]

    for tail, (units, total, mean, alone) in zip(tails, everything(arrays), strict=True):
        where, weight = tail.get("where"), tail.get("weights")
        assert units.shape[0] == SETS
        if where is not None:
            assert not np.any(units[1]), "nothing kept is 0"
        close(total, np.sum(np.float64(units)), 8, 1.0)
        assert mean.shape == ()
        if v.coupled(loss):
            total = np.ones(keep.shape) if weight is None else np.float64(weight)
            total = np.sum(total, where=counted_elements(loss, arrays, units, where))
            close(mean, np.sum(np.float64(units)) / total, 8, 1.0)
            continue
        counted = [i for i in range(SETS) if where is None or keep[i].any()]
        if units.ndim == 1:
            close(mean, np.mean(np.float64(alone)[counted]), 8, 1.0)


def counted_elements(loss, arrays, units, where):
    """Which elements count in a mean: those that the oracle says, or those that have a loss."""
    counted = v.ability(loss, "COUNTED")
    if counted is None:
        return np.asarray(units) != 0
    labels = arrays[v.data_arguments(loss).index("labels")]
    keep = np.ones(labels.shape, bool) if where is None else where
    return np.stack([counted(loss, y, k) for y, k in zip(labels, keep, strict=True)])


def test_masked_is_dropped(loss):
    if spatial(loss):
        return
    arrays, run = draw(loss), bound(loss)
    row = np.array([True, False, True, True, False, True])
    weights = np.arange(6.0, dtype=np.float32) / 4
    zero = np.where(row, 1.0, 0.0).astype(np.float32)

    @quick
    def everything(arrays, dropped):
        pairs = []
        for reduction in ("mean", "sum"):
            masked = functools.partial(run, *arrays, where=row, reduction=reduction)
            expected = functools.partial(run, *dropped, reduction=reduction)
            pairs.append((masked(), expected()))
            pairs.append((masked(weights=weights), expected(weights=weights[row])))
        return [*pairs, (run(*arrays, weights=zero), pairs[0][1])]

    for masked, expected in everything(arrays, [a[:, row] for a in arrays]):
        close(masked, expected, 8, 1.0)


def test_masked_elements_do_not_exist(loss):
    clean = draw(loss)
    keep = mask(loss)
    weights = np.random.default_rng(1).random(keep.shape).astype(np.float32)
    where = float_positions(clean)
    hyper = v.required(loss) | v.hyperparameters(loss)
    fixed = {k: x for k, x in hyper.items() if k not in numeric(hyper)}

    @quick
    def all_of_it(arrays, weights, hyper):
        def f(floats, weights, hyper):
            full = list(arrays)
            for i, a in zip(where, floats, strict=True):
                full[i] = a
            return loss(*full, where=keep, weights=weights, **hyper, **fixed)

        floats = [arrays[i] for i in where]
        ones = jax.tree.map(jnp.ones_like, floats)
        slope = jax.jvp(lambda x: f(x, weights, hyper), (floats,), (ones,))
        gradients, (hvp, _) = jax.jvp(lambda x: jax.grad(f, argnums=(0, 2))(x, weights, hyper), (floats,), (ones,))
        return slope, gradients, hvp

    hyper = {k: jnp.asarray(x, jnp.float32) for k, x in numeric(hyper).items()}
    expected = all_of_it([jnp.asarray(a) for a in clean], weights, hyper)
    for garbage in (np.nan, np.inf, v.LARGEST):
        spoiled = [jnp.asarray(spoil(a, keep, garbage)) for a in clean]
        actual = all_of_it(spoiled, spoil(weights, keep, garbage), hyper)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            close(a, b, 4, 1.0)
            assert np.isfinite(a).all(), garbage
        for gradient in actual[1][0]:
            outside = keep.reshape(keep.shape + (1,) * (gradient.ndim - keep.ndim))
            if not spatial(loss):
                assert not np.any(np.where(outside, 0.0, gradient)), "a masked element has a gradient"


def test_nothing_kept_is_zero(loss):
    arrays = draw(loss)
    nothing = np.zeros((SETS, *elements(loss)), bool)
    arrays = [spoil(a, nothing, np.nan) for a in arrays]
    where, run = float_positions(arrays), bound(loss)

    @quick
    def everything(arrays):
        derivatives = [
            jax.value_and_grad(run, argnums=where)(*arrays, where=False, reduction=r) for r in ("mean", "sum")
        ]
        empty = run(*(a[:0] for a in arrays))
        without_elements = () if spatial(loss) else run(*(a[:, :0] for a in arrays))
        return derivatives, empty, without_elements

    assert not any(np.any(x) for x in jax.tree.leaves(everything(arrays)))


def test_integer_weight_is_repetition(loss):
    if spatial(loss) or not v.ability(loss, "REPEATS", True):
        return
    arrays, run = draw(loss), bound(loss)
    times = np.array([2, 0, 1, 3, 1, 1])
    repeated = [np.repeat(a, times, axis=1) for a in arrays]
    weighted, expected = quick(lambda a, b: (run(*a, weights=times), run(*b)))(arrays, repeated)
    close(weighted, expected, 8, 1.0)


def test_order_does_not_matter(loss):
    arrays, run = draw(loss), bound(loss)
    whole = run(*arrays, reduction="none")
    sets = np.array([2, 0, 3, 1])
    close(run(*(a[sets] for a in arrays), reduction="none"), whole[sets], 2, 1.0)
    if not spatial(loss):
        order = np.random.default_rng(0).permutation(6)
        expected = whole[:, order] if v.coupled(loss) else whole
        close(run(*(a[:, order] for a in arrays), reduction="none"), expected, 8, 1.0)


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


def test_forward_and_reverse_agree(loss):
    derivatives_agree(loss, draw(loss, 2))


def test_sharded_is_local(loss):
    """Sets or their elements are spread over devices."""
    arrays = v.draw(loss, (8, 16, *elements(loss)[1:]))
    step = quick(jax.value_and_grad(bound(loss), argnums=float_positions(arrays)))
    expected = jax.tree.leaves(step(*arrays))
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    for spec in (PartitionSpec("batch"), PartitionSpec(None, "batch")):
        with jax.set_mesh(mesh):
            actual = step(*(jax.device_put(a, NamedSharding(mesh, spec)) for a in arrays))
        for x, y in zip(jax.tree.leaves(actual), expected, strict=True):
            close(np.asarray(x), np.asarray(y), 16, 1.0)


def test_every_hyperparameter_may_be_traced(loss):
    hyperparameters_may_be_traced(loss, draw(loss))


def test_the_dtype_is_that_of_the_estimate(loss):
    for dtype, other in (("float32", np.float64), ("bfloat16", np.float64), ("float16", jnp.bfloat16)):
        arrays = [jnp.asarray(a) for a in draw(loss, dtype=dtype)]
        where = float_positions(arrays)
        hyper = v.required(loss) | v.hyperparameters(loss)
        hyper |= {k: np.asarray(x, other) for k, x in numeric(hyper).items()}
        others = [a if i not in where[1:] else np.asarray(a, other) for i, a in enumerate(arrays)]
        run = functools.partial(loss, **hyper, weights=np.ones(elements(loss), other))
        assert jax.eval_shape(run, *others).dtype == jnp.float32
    half_precision_is_rounded_once(loss, draw(loss, dtype="bfloat16"))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a, jnp.float64 if is_float(a) else a.dtype) for a in draw(loss)]
        run = functools.partial(bound(loss), weights=np.ones(elements(loss), np.float32))
        assert jax.eval_shape(run, *arrays).dtype == jnp.float64


def test_wrong_calls_are_loud(loss):
    arrays, run = draw(loss), bound(loss)
    names = v.data_arguments(loss)
    for i in range(1, len(arrays)):
        for wrong in (arrays[i][:1], arrays[i][:, :1], arrays[i][..., None], arrays[i][:2]):
            changed = [*arrays[:i], wrong, *arrays[i + 1 :]]
            with pytest.raises(ValueError, match=names[i]):
                run(*changed)
            with pytest.raises(ValueError, match=names[i]):
                jax.eval_shape(run, *changed)
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
    close(run(*(a.tolist() for a in arrays)), run(*arrays), 1)


def test_labels_out_of_range_never_look_plausible(loss):
    names = v.data_arguments(loss)
    if "labels" not in names or v.ability(loss, "IDENTITIES", False):
        return
    arrays, run, i = draw(loss), bound(loss), names.index("labels")
    for wrong in (-1, v.CLASSES, -100):
        arrays[i] = arrays[i].copy()
        arrays[i][1, 0] = wrong
        with pytest.raises(ValueError, match=f"labels must be in .*got {wrong}"):
            run(*arrays)
        units = quick(lambda *a: run(*a, reduction="none"))(*arrays)
        assert np.isnan(units[1]).all()
        assert np.isfinite(units[::2]).all()
        keep = np.ones(arrays[i].shape, bool)
        keep[1, 0] = False
        assert np.isfinite(run(*arrays, where=keep))


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
    for hyper, run in variants(loss, block=2):
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
