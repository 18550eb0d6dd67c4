"""Contrastive and metric losses: tiles, devices, peers and numbers at which peers fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lossax
from lossax import losses, targets
from lossax._numerics import norm
from lossax._pairs import squared_distances
from lossax._tile import by_rows
from tests.vocabulary import quick

N, D = 16, 3
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, N)
KEEP = RNG.random(N) < 0.8
CASES = {
    "clip": functools.partial(losses.info_nce, symmetric=True),
    "simclr": functools.partial(losses.info_nce, symmetric=True, within=True, temperature=0.5),
    "moco": functools.partial(losses.info_nce, negatives=jnp.asarray(RNG.normal(size=(5, D)), jnp.float32)),
    "siglip": losses.siglip,
    "supervised": lambda x, y, **options: losses.supervised_contrastive(x + y, _own(options), **options),
    "neighbours": lambda x, y, **options: losses.supervised_contrastive(
        x - y, _own(options), aggregation="in", similarity="euclidean", **options
    ),
    "angular": losses.angular,
}
LABELLED = {
    "hard": functools.partial(losses.batch_triplet_margin, squared=True),
    "all": functools.partial(losses.batch_triplet_margin, mining="all"),
    "soft": functools.partial(losses.batch_triplet_margin, mining="all", soft=True),
    "semihard": functools.partial(losses.batch_triplet_margin, mining="semihard", active=True),
    "contrastive": functools.partial(losses.batch_contrastive, mining="multi_similarity"),
    "lifted": losses.lifted_structure,
    "circle": losses.circle,
    "multi_similarity": losses.multi_similarity,
}
CASES |= {name: lambda x, y, f=f, **options: f(x + y, _own(options), **options) for name, f in LABELLED.items()}


def _own(options):
    """The labels of this device's elements."""
    name = options.get("axis_name")
    n = N if name is None else N // jax.lax.axis_size(name)
    return (
        jnp.asarray(LABELS)
        if name is None
        else jax.lax.dynamic_slice_in_dim(jnp.asarray(LABELS), jax.lax.axis_index(name) * n, n)
    )


def pairs(dtype=np.float32):
    rng = np.random.default_rng(1)
    return [jnp.asarray(rng.normal(size=(N, D)), dtype) for _ in range(2)]


def agree(actual, desired, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        scale = np.max(np.abs(np.asarray(b)))
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance * max(scale, 1e-2))


def tiled_is_plain(case, dtype, tolerance):
    """Value and gradient; in float64 the product of second derivatives with a vector too."""
    x, y = pairs(dtype)

    def everything(x, y, tile):
        f = lambda x, y: CASES[case](x, y, where=KEEP, tile=tile)  # noqa: E731
        first = jax.value_and_grad(f, (0, 1))
        return first(x, y) if dtype == np.float32 else jax.jvp(first, (x, y), (y, x))

    run = quick(everything, static_argnums=2)
    agree(run(x, y, 5), run(x, y, None), tolerance)


@pytest.mark.sampled
@pytest.mark.parametrize("case", CASES)
def test_tiled_is_plain(case):
    with jax.enable_x64(True):
        tiled_is_plain(case, np.float64, 1e-12)


@pytest.mark.sampled
@pytest.mark.parametrize("case", CASES)
def test_tiled_is_plain_in_float32(case):
    tiled_is_plain(case, np.float32, 2e-6)


@pytest.mark.sampled
@pytest.mark.parametrize(("case", "devices"), [(case, 8) for case in CASES] + [("clip", n) for n in (1, 2, 4)])
def test_devices_see_one_batch(case, devices):
    x, y = pairs()
    weights = jnp.asarray(KEEP, jnp.float32)

    def step(x, y, weights, **options):
        f = lambda x, y, w: CASES[case](x, y, weights=w, **options)  # noqa: E731
        return jax.value_and_grad(f, (0, 1))(x, y, weights)

    mesh = jax.make_mesh((devices,), ("batch",), axis_types=(AxisType.Auto,))
    spread, whole = PartitionSpec("batch"), PartitionSpec()
    local = functools.partial(step, axis_name="batch", tile=1)
    specs = {"in_specs": (spread,) * 3, "out_specs": (whole, (spread, spread))}
    agree(quick(jax.shard_map(local, mesh=mesh, **specs))(x, y, weights), quick(step)(x, y, weights), 4e-6)


@pytest.mark.sampled
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("case", ["clip", "supervised", "hard", "all", "lifted"])
def test_the_compiler_spreads_tiles(case, kind):
    x, y = pairs()
    step = quick(jax.value_and_grad(functools.partial(CASES[case], tile=8), (0, 1)))
    expected = step(x, y)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        agree(step(*(jax.device_put(a, NamedSharding(mesh, PartitionSpec("batch"))) for a in (x, y))), expected)


def test_memory_is_that_of_a_tile():
    """A block of 8 rows: neither value nor gradient holds an eighth of the matrix, or a third if rows are sorted."""
    x = jax.ShapeDtypeStruct((1024, 8), jnp.float32)
    labels = jax.ShapeDtypeStruct((1024,), jnp.int32)
    steps = {case: (functools.partial(CASES[case], tile=8), (0, 1), (x, x)) for case in ("clip", "siglip")}
    steps |= {case: (functools.partial(f, tile=8), 0, (x, labels)) for case, f in LABELLED.items()}
    for case, (f, argnums, arguments) in steps.items():
        step = quick(jax.value_and_grad(f, argnums))
        held = step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
        assert held < 1024 * 1024 * 4 / {"all": 3, "semihard": 7, "soft": 5}.get(case, 8), (case, held)


def test_simclr_is_optax_ntxent():
    x, y = pairs()
    labels = jnp.tile(jnp.arange(N), 2)
    ours = losses.info_nce(x, y, symmetric=True, within=True)
    with jax.numpy_dtype_promotion("standard"):
        theirs = optax.ntxent(jnp.concatenate([x, y]), labels)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(
        losses.supervised_contrastive(jnp.concatenate([x, y]), labels, temperature=0.07), theirs, rtol=1e-5
    )


def test_clip_is_the_mean_of_two_cross_entropies():
    x, y = pairs()
    x, y = (a / jnp.linalg.norm(a, axis=-1, keepdims=True) for a in (x, y))
    logits, own = x @ y.T / 0.07, jnp.arange(N)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    expected = 0.5 * (cross_entropy(logits, own) + cross_entropy(logits.T, own))
    np.testing.assert_allclose(CASES["clip"](x, y, reduction="none"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-5, 1e30])
def test_the_length_of_embeddings_does_not_matter(size):
    """Optax's `ntxent` gives another loss below 1e-4."""
    x, y = pairs()
    for case in ("clip", "siglip"):
        agree(CASES[case](x * size, y), CASES[case](x, y), 1e-5)
        assert np.isfinite(jax.grad(CASES[case])(x * size, y)).all()


@pytest.mark.parametrize("temperature", [1e-6, 1e-2, 1e4])
def test_any_temperature_is_finite(temperature):
    x, y = pairs()
    for symmetric in (False, True):
        f = lambda x, t: losses.info_nce(x, x + 1e-3 * y, temperature=t, symmetric=symmetric)  # noqa: B023, E731
        value, slopes = jax.value_and_grad(f, (0, 1))(x, jnp.float32(temperature))
        assert np.isfinite(value)
        assert value >= 0
        assert all(np.isfinite(s).all() for s in slopes)


def test_a_sure_loss_keeps_its_digits():
    x = jnp.eye(4)
    np.testing.assert_allclose(losses.info_nce(x, x, temperature=1 / 40), 3 * np.exp(-40.0), rtol=1e-5)


def test_nobody_to_confuse_with_or_to_find():
    x = jnp.ones((1, D))
    for decoupled in (False, True):
        assert losses.info_nce(x, x, symmetric=True, decoupled=decoupled) == 0
    alone = losses.supervised_contrastive(jnp.eye(3), jnp.array([0, 1, 2]))
    assert alone == 0
    assert np.isfinite(jax.grad(losses.supervised_contrastive)(jnp.eye(3), jnp.array([0, 1, 2]))).all()


def test_collapsed_embeddings_have_a_gradient_of_nothing():
    x = jnp.zeros((4, D))
    value, slope = jax.value_and_grad(losses.info_nce)(x, x)
    np.testing.assert_allclose(value, np.log(4), rtol=1e-6)
    assert not slope.any()


def test_in_batch_softmax_is_that_of_corrected_logits():
    x, y = pairs()
    log_q = jnp.log(jnp.asarray(RNG.random(N), jnp.float32))
    logits = jnp.where(KEEP[None, :], x @ y.T / 2 - log_q[None, :], -jnp.inf)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits[KEEP], np.flatnonzero(KEEP)).mean()
    options = {"similarity": "dot", "temperature": 2.0, "log_q": jnp.where(KEEP, log_q, jnp.nan)}
    for tile in (None, 3):
        np.testing.assert_allclose(losses.info_nce(x, y, where=KEEP, tile=tile, **options), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="log_q"):
        losses.info_nce(x, y, symmetric=True, **options)


def test_where_of_negatives():
    x, y = pairs()
    negatives = jnp.array([[1.0, 2.0, 3.0], [jnp.nan, 0.0, 0.0]])
    there = jnp.array([True, False])
    f = lambda c, **o: losses.info_nce(x, y, negatives=c, **o)  # noqa: E731
    value, slope = jax.value_and_grad(lambda c: f(c, negatives_where=there))(negatives)
    np.testing.assert_allclose(value, f(negatives[:1]), rtol=1e-6)
    assert np.isfinite(slope).all()
    with pytest.raises(ValueError, match=r"negatives must have shape \[any, 3\], got \[2, 2\]"):
        f(negatives[:, :2])


@pytest.mark.parametrize("devices", [1, 8])
def test_by_rows_adds_up_and_keeps_rows(devices, monkeypatch):
    """Blocks are of rows that follow each other on one device, and of every k-th row on several."""
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    x = jnp.arange(10.0)
    for tile in (None, 1, 3, 4, 5):
        each, total = by_rows(lambda rows, c: (rows + c, jnp.sum(rows * c)), x, jnp.float32(2), width=1, tile=tile)
        np.testing.assert_array_equal(each, x + 2)
        assert total == 90


def test_a_mean_over_devices_is_exact():
    """`reduce` with the name of an axis: uneven weights, one result for all."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    values, weights = jnp.arange(16.0), jnp.asarray(RNG.random(16), jnp.float32)
    spread = PartitionSpec("batch")
    f = lambda x, w: lossax.reduce(x, w > 0.3, w, "mean", "batch")  # noqa: E731
    over = jax.shard_map(f, mesh=mesh, in_specs=(spread, spread), out_specs=PartitionSpec())
    np.testing.assert_allclose(over(values, weights), lossax.reduce(values, weights > 0.3, weights, "mean"), rtol=1e-6)


def test_squared_distances_and_their_slopes_are_those_of_differences():
    """Points that are near each other and far from 0, where products have no digit left."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(1e3 + 1e-3 * rng.normal(size=(5, 37)), jnp.float32)
    y = jnp.asarray(1e3 + 1e-3 * rng.normal(size=(21, 37)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(5, 21)), jnp.float32)
    differences = np.float64(x)[:, None] - np.float64(y)[None]
    slopes = 2 * np.float64(weights)[..., None] * differences
    value, pull = jax.vjp(squared_distances, x, y)
    np.testing.assert_allclose(value, np.sum(differences**2, -1), rtol=1e-6)
    for slope, exact in zip(pull(weights), (slopes.sum(1), -slopes.sum(0)), strict=True):
        np.testing.assert_allclose(slope, exact, rtol=1e-5, atol=1e-6 * np.max(np.abs(exact)))


@pytest.mark.parametrize("mining", ["all", "hard"])
def test_triplets_of_a_batch_are_all_triplets(mining):
    """Against the plain form over all triplets, in float64."""
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        x, labels = jnp.asarray(rng.normal(size=(40, 5))), jnp.asarray(rng.integers(0, 7, 40))

        def plain(x):
            d = jnp.sqrt(jnp.sum((x[:, None] - x[None]) ** 2, -1) + jnp.eye(len(x)))
            same = (labels[:, None] == labels[None]) & ~jnp.eye(len(x), dtype=bool)
            other = labels[:, None] != labels[None]
            if mining == "hard":
                same &= d == jnp.max(jnp.where(same, d, 0.0), 1, keepdims=True)
                other &= d == jnp.min(jnp.where(other, d, jnp.inf), 1, keepdims=True)
            triplets = same[:, :, None] & other[:, None, :]
            values = jnp.where(triplets, jnp.maximum(d[:, :, None] - d[:, None, :] + 0.3, 0.0), 0.0)
            return jnp.mean(jnp.sum(values, (1, 2)) / jnp.sum(triplets, (1, 2), dtype=x.dtype))

        ours = functools.partial(losses.batch_triplet_margin, labels=labels, margin=0.3, mining=mining, tile=7)
        agree(jax.jit(jax.value_and_grad(ours))(x), jax.jit(jax.value_and_grad(plain))(x), 1e-12)


def test_embeddings_that_are_equal_have_no_direction():
    x, labels = jnp.ones((6, 3)), jnp.array([0, 0, 0, 1, 1, 1])
    for f in LABELLED.values():
        value, slope = quick(jax.value_and_grad(f))(x, labels)
        assert np.isfinite(value)
        np.testing.assert_allclose(slope, 0.0, atol=1e-6)


def test_nobody_is_compared_with_himself_or_with_those_who_are_not_there():
    """Without a positive, or without a negative, there is no loss and it does not count."""
    x = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    for labels in (jnp.arange(4), jnp.zeros(4, jnp.int32)):
        for case in ("hard", "all", "semihard", "lifted", "circle", "multi_similarity"):
            assert LABELLED[case](x, labels) == 0, case


def test_mined_triplets_are_those_of_the_loss():
    x, labels = jnp.asarray(RNG.normal(size=(20, 3)), jnp.float32), jnp.asarray(RNG.integers(0, 6, 20))
    for mining in ("hard", "easy_positive", "easy_positive_semihard"):
        found = targets.mined_triplets(x, labels, mining=mining, where=labels < 5, tile=3)
        apart = losses.triplet_margin(x, x[found.positives], x[found.negatives], where=found.where)
        together = losses.batch_triplet_margin(x, labels, mining=mining, where=labels < 5)
        np.testing.assert_allclose(apart, together, rtol=1e-6)
        assert not found.where[labels == 5].any()


@pytest.mark.parametrize("degree", [1.0, 1.5, 2.0, 3.0, 40.0])
def test_triplet_margin_is_that_of_torch(degree):
    torch = pytest.importorskip("torch")
    a, p, n = (np.asarray(z) for z in np.random.default_rng(5).normal(size=(3, 6, 4)))
    for swap in (False, True):
        f = torch.nn.functional.triplet_margin_loss
        expected = f(*map(torch.tensor, (a, p, n)), margin=0.7, p=degree, eps=0.0, swap=swap, reduction="none")
        actual = losses.triplet_margin(
            *(z.astype(np.float32) for z in (a, p, n)), margin=0.7, norm_degree=degree, swap=swap, reduction="none"
        )
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


def test_norms_of_every_degree():
    """Optax's triplet loss adds up signed differences for a degree of 1, and is NaN for one of 3."""
    x = jnp.array([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0], [3e30, -3e30, 0.0], [1e-30, 1e-30, 0.0]])
    for degree, expected in ((1.0, [7, 0, 6e30, 2e-30]), (3.0, [91 ** (1 / 3), 0, 3e30 * 2 ** (1 / 3), None])):
        actual = norm(x, jnp.float32(degree))
        np.testing.assert_allclose(actual[:3], expected[:3], rtol=1e-6)
    np.testing.assert_allclose(norm(x, jnp.float32(np.inf)), [4, 0, 3e30, 1e-30], rtol=1e-6)
    for degree in (1.0, 2.0, 3.0, np.inf):
        slope = jax.grad(lambda x: norm(x, jnp.float32(degree)).sum())(x)  # noqa: B023
        assert np.isfinite(slope).all()
        assert not slope[1].any()
    np.testing.assert_allclose(jax.grad(lambda x: norm(x, jnp.float32(np.inf)))(x[2]), [0.5, -0.5, 0], rtol=1e-6)
