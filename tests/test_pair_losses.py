"""Losses of pairs of embeddings: peers by hand, digits where pairs agree, order at any size, cut embeddings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lossax import activations, losses, objectives
from tests.vocabulary import LARGEST, quick

RNG: Any = np.random.default_rng(0)
N, D = 12, 6
X: Any = RNG.normal(size=(N, D)).astype(np.float32)
Y: Any = (X * RNG.uniform(0.3, 1.5, (N, 1)) + 0.8 * RNG.normal(size=(N, D))).astype(np.float32)
TOGETHER: Any = np.arange(N) % 3 != 0
GRADES: Any = RNG.integers(0, 11, N) / 2.0


# ---- pairs with a margin ---------------------------------------------------------------------------------------------


def hadsell(torch, x, y, t):
    d = torch.linalg.vector_norm(x - y, dim=1)
    return torch.where(t, d**2, torch.clamp(2.0 - d, min=0) ** 2).mean() / 2


def hinge_embedding(torch, x, y, t):
    d = torch.linalg.vector_norm(x - y, dim=1)
    return torch.nn.functional.hinge_embedding_loss(d, 2.0 * t.double() - 1.0, margin=2.0)


def metric_learning(torch, x, y, t):
    """PyTorch Metric Learning's means: over the losses that are not 0, of either kind."""
    d = torch.linalg.vector_norm(x - y, dim=1)
    sides = torch.relu(d[t] - 0.3), torch.relu(2.0 - d[~t])
    return sum(side[side > 0].mean() for side in sides)


def cosine_embedding(torch, x, y, t):
    return torch.nn.functional.cosine_embedding_loss(x, y, 2.0 * t.double() - 1.0, margin=0.25)


def not_zero(x, y):
    run = functools.partial(losses.contrastive, x, y, TOGETHER, squared=False, margin=2.0, positive_margin=0.3)
    there = run(reduction="none") > 0
    return run(where=there & TOGETHER) + run(where=there & ~TOGETHER)


PEERS = {
    "hadsell": (hadsell, lambda x, y: losses.contrastive(x, y, TOGETHER, margin=2.0)),
    "hinge_embedding": (hinge_embedding, lambda x, y: losses.contrastive(x, y, TOGETHER, margin=2.0, squared=False)),
    "metric_learning": (metric_learning, not_zero),
    "cosine_embedding": (cosine_embedding, lambda x, y: losses.cosine_embedding(x, y, TOGETHER, margin=0.25)),
}


@pytest.mark.parametrize("name", PEERS)
def test_peers_agree(name):
    torch = pytest.importorskip("torch")
    peer, ours = PEERS[name]
    x, y = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (X, Y))
    expected = peer(torch, x, y, torch.tensor(TOGETHER))
    expected.backward()
    value, slopes = quick(jax.value_and_grad(ours, (0, 1)))(X, Y)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    for slope, variable in zip(slopes, (x, y), strict=True):
        np.testing.assert_allclose(slope, variable.grad, rtol=1e-5, atol=1e-7)


PAIR_LOSSES = pytest.mark.parametrize("loss", [losses.contrastive, losses.cosine_embedding])


@PAIR_LOSSES
def test_targets_between_are_mixtures(loss):
    t = RNG.random(N).astype(np.float32)

    @quick
    def run(t):
        return loss(X, Y, t, reduction="none"), jax.grad(lambda t: loss(X, Y, t, reduction="sum"))(t)

    (mixed, slope), (yes, _), (no, _) = run(t), run(np.ones_like(t)), run(np.zeros_like(t))
    np.testing.assert_allclose(mixed, t * yes + (1 - t) * no, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(slope, yes - no, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(loss(X, Y, TOGETHER), loss(X, Y, TOGETHER.astype(np.int32)))
    with pytest.raises(ValueError, match=r"targets must be in \[0, 1\], got -1"):
        loss(X, Y, np.where(TOGETHER, 1, -1))  # torch's labels
    assert np.isnan(quick(lambda t: loss(X, Y, t))(2 * t + 2))


@PAIR_LOSSES
def test_two_of_one_place_are_no_nan(loss):
    """Equal embeddings and vectors of length 0, of any size: derivatives to the second order."""
    x = np.float32([[0, 0], [1, 2], [0, 0], [1e-30, 0], [LARGEST, LARGEST], [1e30, -1e30]])
    y = np.float32([[0, 0], [1, 2], [3, 4], [0, 1e-30], [-LARGEST, LARGEST], [1e30, -1e30]])

    @quick
    def run(t):
        f = lambda x, y: loss(x, y, t, reduction="sum")  # noqa: E731
        second = jax.jvp(jax.grad(f, (0, 1)), (x, y), (0 * x + 0.5, 0 * y - 0.25))[1]
        return loss(x, y, t, reduction="none"), jax.grad(f, (0, 1))(x, y), second

    for t in (np.zeros(6, bool), np.ones(6, bool)):
        values, gradients, second = run(t)
        assert not np.isnan(values).any()
        if not t.any() or loss is losses.cosine_embedding:
            assert np.isfinite(values).all()
            assert all(np.isfinite(g).all() for g in gradients)
        for g, h in zip(gradients, second, strict=True):
            assert not np.any(g[:1])
            assert np.isfinite(h[: 4 if loss is losses.contrastive else 3]).all()  # that of a cosine is 1e60


def exact_gap(x, y):
    """1 - cos in float64 by the cross products of all axes (Lagrange), which do not cancel for x near y."""
    x, y = (a.astype(np.longdouble) for a in (x, y))
    cross = x[..., :, None] * y[..., None, :] - x[..., None, :] * y[..., :, None]
    squares = np.sum(x * x, -1) * np.sum(y * y, -1)
    sine = np.sum(cross**2, (-2, -1)) / 2 / squares
    return sine / (1 + np.sum(x * y, -1) / np.sqrt(squares))


@pytest.mark.parametrize("angle", [1.0, 1e-2, 1e-4])
def test_pairs_that_agree_keep_their_digits(angle):
    """As 1 - cos is rounding: at an angle of 1e-4 nothing is left of it. And the norms do not matter."""
    y = (3 * (X + angle * RNG.normal(size=X.shape))).astype(np.float32)
    expected = exact_gap(X, y).astype(np.float64)

    @jax.jit
    def run(x, y):
        value = functools.partial(losses.cosine_embedding, x, y, np.ones(N, bool), reduction="none")
        return value(), losses.cosine_distance(x, y, reduction="none")

    for values in run(X, y):
        np.testing.assert_allclose(values, expected, rtol=2e-6)
    for size in (2.0**-90, 2.0**90):
        for values in run(X * np.float32(size), y):
            np.testing.assert_allclose(values, expected, rtol=2e-6)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.cosine_embedding_loss(
        torch.tensor(X), torch.tensor(y), torch.ones(N), reduction="none"
    )
    if angle < 1e-3:
        assert np.max(np.abs(theirs.numpy() / expected - 1)) > 0.5


def test_masked_pairs_do_not_leak():
    """Where NaN behind a mask reaches the gradient of Optax's cosine distance."""
    keep = np.arange(N) % 2 == 0
    spoiled = np.where(keep[:, None], X, np.nan)
    for loss in (losses.contrastive, losses.cosine_embedding):
        f = quick(jax.value_and_grad(lambda x, y, loss=loss: loss(x, y, TOGETHER, where=keep), (0, 1)))
        for a, b in zip(jax.tree.leaves(f(spoiled, Y)), jax.tree.leaves(f(X, Y)), strict=True):
            np.testing.assert_array_equal(a, b)


# ---- similarities ----------------------------------------------------------------------------------------------------


def angle_by_hand(x, y):
    z, w = (v[..., : D // 2] + 1j * v[..., D // 2 :] for v in (x, y))
    q = np.sum(z * np.conj(w), -1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
    return np.abs(q.real + q.imag)


def test_similarities():
    """Values, gradients by differences, any length, never beyond their bounds, zero vectors."""
    wide = X.astype(np.float64), Y.astype(np.float64)
    cos = np.sum(wide[0] * wide[1], -1) / np.linalg.norm(wide[0], axis=-1) / np.linalg.norm(wide[1], axis=-1)
    for f, expected in ((activations.cosine_similarity, cos), (activations.angle_similarity, angle_by_hand(*wide))):
        for a, b in ((1.0, 1.0), (2.0**-95, 2.0**90)):
            np.testing.assert_allclose(jax.jit(f)(X * np.float32(a), Y * np.float32(b)), expected, rtol=2e-7, atol=2e-8)
        with jax.enable_x64(True):
            d = RNG.normal(size=X.shape)
            slope = quick(lambda x, y, f=f, d=d: jax.jvp(lambda x: f(x, y), (x,), (d,))[1])(*wide)
            move = (f(wide[0] + 1e-6 * d, wide[1]) - f(wide[0] - 1e-6 * d, wide[1])) / 2e-6
        np.testing.assert_allclose(slope, move, rtol=1e-6, atol=1e-8)
        value, gradient = quick(jax.value_and_grad(lambda x, y, f=f: jnp.sum(f(x, y)), (0, 1)))(0 * X, Y)
        assert value == 0
        assert not any(np.any(g) for g in gradient)
        with pytest.raises(ValueError, match="others"):
            f(X, Y[:1])
    with pytest.raises(ValueError, match="even number of features, got 5"):
        activations.angle_similarity(X[:, :5], Y[:, :5])
    many = RNG.normal(size=(4000, 7)).astype(np.float32)
    times = RNG.choice([-3.0, 0.1, 7.0], (4000, 1)).astype(np.float32)
    for x in (many, many.astype(jnp.bfloat16)):
        parallel = jax.jit(activations.cosine_similarity)(x, x * times.astype(x.dtype))
        assert parallel.dtype == jnp.float32
        assert np.max(np.abs(parallel)) <= 1
        assert np.min(np.abs(parallel)) > 0.9999


# ---- similarities in order -------------------------------------------------------------------------------------------


def all_pairs(scores, targets, scale, weights=None):
    """In float64, every pair with every other."""
    exponents = scale * (scores[None, :] - scores[:, None])
    weight = 1.0 if weights is None else weights[:, None] * weights[None, :]
    exponents = jnp.where(targets[:, None] > targets[None, :], exponents + jnp.log(weight), -jnp.inf)
    return jnp.logaddexp(0.0, jax.nn.logsumexp(exponents))


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_cosent_is_the_sum_over_all_pairs(spread):
    """Value and gradients in float32 against all pairs in float64, with ties and weights."""
    n = 200
    scores = (spread * RNG.normal(size=n)).astype(np.float32)
    targets = RNG.integers(0, 26, n) / np.float32(5)
    weights = RNG.uniform(0.1, 3.0, n).astype(np.float32)
    run = jax.jit(jax.value_and_grad(lambda s, c, w: losses.cosent(s, targets, scale=c, weights=w), (0, 1, 2)))
    value, slopes = run(scores, np.float32(20), weights)
    with jax.enable_x64(True):
        wide = scores.astype(np.float64), np.float64(20), weights.astype(np.float64)
        f = jax.jit(jax.value_and_grad(lambda s, c, w: all_pairs(s, jnp.asarray(targets), c, w), (0, 1, 2)))
        expected, exact = f(*wide)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for slope, truth in zip(slopes, exact, strict=True):
        np.testing.assert_allclose(slope, truth, rtol=1e-5, atol=2e-6 * np.max(np.abs(truth)))


def test_cosent_in_order_keeps_its_digits():
    """A set in order, by gaps of up to 80: the loss is exp(-gap), where peers' log(1 + ...) is 0."""
    for gap in (1.0, 4.0):
        scores, targets = np.float32([gap, 0.0, 0.0]), np.array([1, 0, 0])
        value, slope = jax.jit(jax.value_and_grad(losses.cosent))(scores, targets)
        np.testing.assert_allclose(value, 2 * np.exp(-20 * np.float64(gap)), rtol=1e-6)
        np.testing.assert_allclose(slope, 20 * np.exp(-20 * np.float64(gap)) * np.array([-2, 1, 1]), rtol=1e-6)


def test_cosent_of_what_is_hardly_a_number():
    """Scores of any size, none that exist, one grade: finite, to the second derivative."""
    pool = np.float32([0, 1, -1, 1e30, -1e30, LARGEST, -LARGEST, -np.inf])
    scores, targets = RNG.choice(pool, (40, 6)), RNG.integers(0, 3, (40, 6))
    scores[0] = -np.inf

    @quick
    def run(scores):
        f = lambda s: jnp.sum(losses.cosent(s, targets, reduction="none"))  # noqa: E731
        gradient, second = jax.jvp(jax.grad(f), (scores,), (jnp.ones_like(scores),))
        return losses.cosent(scores, targets, reduction="none"), gradient, second

    values, gradient, second = run(scores)
    assert not np.isnan(values).any()
    assert (np.asarray(values) >= 0).all()
    assert values[0] == 0
    assert np.isfinite(gradient).all()
    assert np.isfinite(second).all()
    assert not np.any(np.where(np.isneginf(scores), gradient, 0))
    alone = jax.value_and_grad(losses.cosent)(np.float32([0.5, -0.5]), np.array([1, 1]))
    assert alone[0] == 0
    assert not np.any(alone[1])
    with pytest.raises(ValueError, match="targets must be numbers"):
        losses.cosent(np.zeros(2, np.float32), np.array([np.nan, 1.0]))


def test_cosent_where_elements_lie_on_several_devices():
    scores, targets = RNG.normal(size=(2, 16)).astype(np.float32), RNG.integers(0, 3, (2, 16))
    step = quick(jax.value_and_grad(lambda s, t: losses.cosent(s, t, weights=jnp.ones_like(s))))
    expected = step(scores, targets)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spread = [jax.device_put(a, NamedSharding(mesh, PartitionSpec(None, "batch"))) for a in (scores, targets)]
        actual = step(*spread)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)


def test_cosent_holds_no_matrix():
    n = 4096
    step = jax.jit(jax.value_and_grad(losses.cosent))
    shapes = jax.ShapeDtypeStruct((n,), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.float32)
    used = step.lower(*shapes).compile().memory_analysis()
    if used is not None:
        assert used.temp_size_in_bytes < n * n / 8


def test_angle_as_in_the_official_code():
    """The three terms of AnglE, where all pairs belong together in different degrees."""
    torch = pytest.importorskip("torch")
    x, y = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (X, Y))

    def ordered(scores, scale):
        truth = torch.tensor(GRADES)
        gaps = scale * (scores[:, None] - scores[None, :]) - 1e12 * (truth[:, None] >= truth[None, :])
        return torch.logsumexp(torch.cat([torch.zeros(1), gaps.flatten()]), dim=0)

    (a, b), (c, d) = x.chunk(2, dim=1), y.chunk(2, dim=1)
    norms = x.norm(dim=1, keepdim=True) * y.norm(dim=1, keepdim=True)
    angle = torch.abs((((a * c + b * d) + (b * c - a * d)) / norms).sum(dim=1))
    expected = ordered(angle, 1.0) + ordered(torch.nn.functional.cosine_similarity(x, y), 20.0)
    z = torch.nn.functional.normalize(torch.cat([x, y]))
    partner = torch.arange(2 * N).roll(N)
    expected = expected + torch.nn.functional.cross_entropy(20 * (z @ z.T - 1e12 * torch.eye(2 * N)), partner)
    expected.backward()

    def ours(x, y):
        order = losses.cosent(activations.cosine_similarity(x, y), GRADES)
        angle = losses.cosent(activations.angle_similarity(x, y), GRADES, scale=1.0)
        return order + angle + losses.info_nce(x, y, temperature=0.05, symmetric=True, within=True)

    value, slopes = quick(jax.value_and_grad(ours, (0, 1)))(X, Y)
    np.testing.assert_allclose(value, expected.item(), rtol=2e-6)
    for slope, variable in zip(slopes, (x, y), strict=True):
        np.testing.assert_allclose(slope, variable.grad, rtol=1e-4, atol=1e-5)


# ---- cut embeddings --------------------------------------------------------------------------------------------------

SIZES = (2, 3, 6)
WEIGHTS = np.float32([1.0, 0.5, 0.25])
LABELS = np.arange(N) % 4
MATRYOSHKAS = {
    "info_nce": (losses.info_nce, (X, Y), {}, (0, 1)),
    "negatives": (losses.info_nce, (X, Y), {"negatives": X[:3] + 1, "temperature": 0.2}, (0, 1)),
    "supervised_contrastive": (losses.supervised_contrastive, (X, LABELS), {}, (0,)),
    "contrastive": (losses.contrastive, (X, Y, TOGETHER), {"weights": GRADES}, (0, 1)),
    "units": (losses.alignment, (X, Y), {"reduction": "none"}, (0, 1)),
    "partial": (functools.partial(losses.info_nce, temperature=0.5), (X, Y), {}, (0, 1)),
}


@pytest.mark.parametrize("name", MATRYOSHKAS)
def test_matryoshka_is_the_sum(name):
    loss, arrays, options, embeddings = MATRYOSHKAS[name]

    @quick
    def both(arrays):
        total, expected = objectives.matryoshka(loss, SIZES, dimension_weights=WEIGHTS)(*arrays, **options), 0.0
        for size, weight in zip(SIZES, WEIGHTS, strict=True):
            cut = [a[..., :size] if i in embeddings else a for i, a in enumerate(arrays)]
            more = {k: x[..., :size] if k == "negatives" else x for k, x in options.items()}
            expected = expected + weight * loss(*cut, **more)
        return total, expected

    total, expected = both(arrays)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    if name == "contrastive":
        named = objectives.matryoshka(loss, SIZES, dimension_weights=WEIGHTS)
        x, y, together = arrays
        np.testing.assert_allclose(named(targets=together, others=y, anchors=x, **options), total, rtol=1e-6)


def test_matryoshka_of_other_names_and_traced_weights():
    plain = objectives.matryoshka(losses.cosine_distance, SIZES, arguments=("predictions", "targets"))
    swept = lambda w: objectives.matryoshka(  # noqa: E731
        losses.cosine_distance, SIZES, dimension_weights=w, arguments=("predictions", "targets")
    )(X, Y)
    values = jax.vmap(swept)(jnp.stack([jnp.ones(3), 2.0 * jnp.ones(3), jnp.float32([0, 0, 1])]))
    np.testing.assert_allclose(values, [plain(X, Y), 2 * plain(X, Y), losses.cosine_distance(X, Y)], rtol=1e-6)
    slope = jax.grad(swept)(jnp.ones(3))
    np.testing.assert_allclose(slope[0], losses.cosine_distance(X[:, :2], Y[:, :2]), rtol=1e-6)
    mine = objectives.matryoshka(lambda x, scale: scale * jnp.sum(x), (1, 2), arguments=["x"])
    assert mine(jnp.float32([1, 2, 4]), scale=2.0) == 8
    assert plain.__name__ == "cosine_distance"


def test_matryoshka_says_what_is_wrong():
    make = objectives.matryoshka
    for sizes, error, message in (
        ((), ValueError, r"dimensions must have one axis and at least 1 entries"),
        ((4, 2), ValueError, r"dimensions must increase, got \[4 2\]"),
        ((2, 2), ValueError, r"increase, got \[2 2\]"),
        ((0, 2), ValueError, r"dimensions\[0\] must be at least 1, got 0"),
        ((2, 3.0), TypeError, r"dimensions\[1\] .* Python int, got 3.0"),
    ):
        with pytest.raises(error, match=message):
            make(losses.info_nce, sizes)
    with pytest.raises(ValueError, match=r"dimension_weights must be \[2\], one for each dimension, got \[3\]"):
        make(losses.info_nce, (2, 3), dimension_weights=WEIGHTS)
    with pytest.raises(ValueError, match="arguments must be given"):
        make(losses.cosine_distance, (2, 3))
    with pytest.raises(ValueError, match=r"arguments must be one of .* got 'prediction'"):
        make(losses.cosine_distance, (2, 3), arguments=("prediction", "targets"))
    with pytest.raises(ValueError, match="arguments must be names, at least one, got 'targets'"):
        make(losses.cosine_distance, (2, 3), arguments="targets")
    with pytest.raises(ValueError, match=r"positives must have at least 7 numbers in the last axis, got \[12, 6\]"):
        make(losses.info_nce, (2, 7))(np.zeros((12, 7), np.float32), Y)
    with pytest.raises(TypeError, match="missing a required argument"):
        make(losses.info_nce, (2, 3))(X)
