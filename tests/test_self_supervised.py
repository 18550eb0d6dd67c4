"""Self-supervised losses: official codes by hand, batches over devices, memory, what must not collapse or overflow."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lossax import activations, losses, objectives, targets
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
N, D, CLASSES = 12, 4, 6
X: Any = RNG.normal(size=(N, D))
Y: Any = X + 0.5 * RNG.normal(size=(N, D))
WIDE: Any = RNG.normal(size=(2, 5, 10))  # fewer examples than features


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


def off_diagonal(matrix):
    return matrix.flatten()[:-1].view(len(matrix) - 1, len(matrix) + 1)[:, 1:].flatten()


# ---- official codes, by hand -----------------------------------------------------------------------------------------


def barlow_twins(torch, x, y):
    norm = torch.nn.BatchNorm1d(x.shape[1], affine=False).double()
    c = norm(x).T @ norm(y) / len(x)
    return torch.diagonal(c).add(-1).pow(2).sum() + 0.0051 * off_diagonal(c).pow(2).sum()


def vicreg(torch, x, y):
    value = 25 * torch.nn.functional.mse_loss(x, y)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    for view in (x, y):
        std = torch.sqrt(view.var(dim=0) + 0.0001)
        value = value + 25 * torch.mean(torch.relu(1 - std)) / 2
        value = value + off_diagonal(view.T @ view / (len(x) - 1)).pow(2).sum().div(x.shape[1])
    return value


def alignment_and_uniformity(torch, x, y):
    x, y = (torch.nn.functional.normalize(z) for z in (x, y))
    align = (x - y).norm(p=2, dim=1).pow(2).mean()
    return align + sum(torch.pdist(z, p=2).pow(2).mul(-2).exp().mean().log() for z in (x, y)) / 2


def koleo(torch, x, y):
    x = torch.nn.functional.normalize(x, eps=1e-8, p=2, dim=-1)
    dots = x @ x.T
    dots.view(-1)[:: len(x) + 1].fill_(-1)
    nearest = dots.max(dim=1).indices
    return -torch.log(torch.nn.PairwiseDistance(2, eps=1e-8)(x, x[nearest]) + 1e-8).mean()


def byol(torch, x, y):
    x, y = (torch.nn.functional.normalize(z, dim=-1, p=2) for z in (x, y.detach()))
    return (2 - 2 * (x * y).sum(dim=-1)).mean()


def simsiam(torch, x, y):
    return -torch.nn.CosineSimilarity(dim=1)(x, y.detach()).mean()


unit = activations.unit_vectors
PEERS = {
    "barlow_twins": (barlow_twins, lambda x, y: losses.barlow_twins(x, y, off_diagonal=0.0051), 1e-9),
    "vicreg": (vicreg, losses.vicreg, 1e-9),
    "alignment and uniformity": (
        alignment_and_uniformity,
        lambda x, y: losses.alignment(unit(x), unit(y)) + (losses.uniformity(unit(x)) + losses.uniformity(unit(y))) / 2,
        1e-9,
    ),
    "koleo": (koleo, lambda x, y: losses.koleo(unit(x)), 1e-6),  # torch adds an epsilon to every difference too
    "byol": (byol, lambda x, y: 2.0 * losses.cosine_distance(x, lax.stop_gradient(y)), 1e-9),
    "simsiam": (simsiam, lambda x, y: losses.cosine_distance(x, lax.stop_gradient(y)) - 1.0, 1e-9),
}


@pytest.mark.parametrize("name", PEERS)
def test_official_codes_agree(name):
    torch = pytest.importorskip("torch")
    peer, ours, close = PEERS[name]
    x, y = (torch.tensor(a, requires_grad=True) for a in (X, Y))
    expected = peer(torch, x, y)
    expected.backward()
    with jax.enable_x64(True):
        value, slopes = quick(jax.value_and_grad(ours, (0, 1)))(X, Y)
    np.testing.assert_allclose(value, expected.item(), rtol=close)
    for slope, variable in zip(slopes, (x, y), strict=True):
        exact = 0.0 if variable.grad is None else variable.grad
        np.testing.assert_allclose(slope, exact, rtol=10 * close, atol=close)


def test_the_papers_vicreg():
    """Sums of hinges in place of their mean."""
    value = once(losses.vicreg, X.astype(np.float32), Y.astype(np.float32), variance=50.0)
    hinges = [np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4)).mean() for z in (X, Y)]
    apart = 25 * ((X - Y) ** 2).mean()
    rest = [(np.cov(z.T)[~np.eye(D, dtype=bool)] ** 2).sum() / D for z in (X, Y)]
    np.testing.assert_allclose(value, apart + 25 * sum(hinges) + sum(rest), rtol=1e-5)


def test_dino_as_in_its_code():
    """Two steps with a running centre, a rising temperature and small crops that the teacher does not see."""
    torch = pytest.importorskip("torch")
    crops, taught, batch = 4, 2, 3
    init, update = objectives.centering(CLASSES, temperature=lambda step: 0.04 + 0.01 * jnp.float32(step))
    centre = torch.zeros(1, CLASSES)

    def ours(student, teacher, state):
        q, state = update(state, jnp.moveaxis(teacher, 0, 1))
        return losses.dino(jnp.moveaxis(student, 0, 1), q), state

    run = quick(jax.value_and_grad(ours, argnums=(0, 1), has_aux=True))
    with jax.enable_x64(True):
        state = init()
        for step in range(3):
            student, teacher = RNG.normal(size=(crops, batch, CLASSES)), RNG.normal(size=(taught, batch, CLASSES))
            z = torch.tensor(student, requires_grad=True)
            out = [v / 0.1 for v in z]
            soft = torch.softmax((torch.tensor(teacher) - centre) / (0.04 + 0.01 * step), dim=-1)
            total, terms = 0.0, 0
            for t, q in enumerate(soft):
                for s, v in enumerate(out):
                    if s != t:
                        total = total + torch.sum(-q * torch.log_softmax(v, dim=-1), dim=-1).mean()
                        terms += 1
            (total / terms).backward()
            centre = 0.9 * centre + 0.1 * torch.tensor(teacher).flatten(0, 1).mean(0, keepdim=True)
            (value, state), (slope, back) = run(student, teacher, state)
            np.testing.assert_allclose(value, total.item() / terms, rtol=1e-6)
            np.testing.assert_allclose(slope, z.grad, rtol=1e-5, atol=1e-9)
            assert not np.any(back), "a teacher has no gradient"
    np.testing.assert_allclose(state.center, centre[0], rtol=1e-6, atol=1e-7)


def test_ibot_is_of_masked_patches():
    """The recipe of the docstring against the official mean: over the masked of each image, then over images."""
    z, q = RNG.normal(size=(2, 5, CLASSES)).astype(np.float32), RNG.dirichlet(np.ones(CLASSES), (2, 5))
    masks = np.array([[True, True, False, True, False], [False, False, False, False, True]])
    weights = np.broadcast_to(1.0 / masks.sum(-1, keepdims=True), masks.shape)
    value = once(losses.softmax_cross_entropy, z / 0.1, q, where=masks, weights=weights)
    shifted = z / 0.1 - np.log(np.exp(z / 0.1).sum(-1, keepdims=True))
    each = -(q * shifted).sum(-1)
    np.testing.assert_allclose(value, np.mean([each[i][masks[i]].mean() for i in range(2)]), rtol=1e-5)


def swav(scores, epsilon, iterations):
    """Sinkhorn-Knopp as in the code of SwAV, in NumPy."""
    q = np.exp(scores / epsilon).T
    k, b = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True)
        q /= k
        q /= q.sum(axis=0, keepdims=True)
        q /= b
    return (q * b).T


def test_assignments_as_in_swav():
    scores, keep = RNG.uniform(-1, 1, (2, 9, CLASSES)), RNG.random((2, 9)) < 0.7
    with jax.enable_x64(True):
        for iterations in (1, 3):
            ours = once(activations.sinkhorn_knopp, scores, iterations=iterations)
            np.testing.assert_allclose(ours, [swav(s, 0.05, iterations) for s in scores], rtol=1e-9)
        masked = once(activations.sinkhorn_knopp, np.where(keep[..., None], scores, np.nan), where=keep)
        for i in range(2):
            np.testing.assert_allclose(masked[i][keep[i]], swav(scores[i][keep[i]], 0.05, 3), rtol=1e-9)
            assert not np.any(masked[i][~keep[i]])
        shares = np.asarray(once(activations.sinkhorn_knopp, scores, temperature=0.5, iterations=50))
    np.testing.assert_allclose(shares.sum(1), 9 / CLASSES, rtol=1e-3)
    np.testing.assert_allclose(shares.sum(2), 1.0, rtol=1e-9)


def test_assignments_at_any_temperature():
    """Where the official exponential overflows, with prototypes that nobody can have, and a gradient."""
    logits = jnp.asarray(RNG.normal(size=(9, CLASSES)), jnp.float32).at[:, 2].set(-jnp.inf)
    with np.errstate(all="ignore"):
        assert not np.isfinite(swav(np.where(np.isinf(logits), 0, logits).astype(np.float32), 1e-3, 3)).all()
    f = quick(lambda z, t: activations.sinkhorn_knopp(z, temperature=t))
    for temperature in (1e-3, 1e-30, 1.0):
        q = f(logits, temperature)
        np.testing.assert_allclose(q.sum(-1), 1.0, rtol=1e-5)
        assert not np.any(q[:, 2])
    slope = quick(jax.grad(lambda z: jnp.square(activations.sinkhorn_knopp(z)).sum()))(logits)
    assert np.isfinite(slope).all()
    assert not np.any(slope[:, 2])
    assert once(activations.sinkhorn_knopp, logits[:0]).shape == (0, CLASSES)
    assert not np.any(once(activations.sinkhorn_knopp, logits, where=False))


def test_masked_autoencoders():
    """Patches and the loss as in the official code."""
    torch = pytest.importorskip("torch")
    images = RNG.normal(size=(2, 4, 8, 3)).astype(np.float32)
    predictions = RNG.normal(size=(2, 8, 12)).astype(np.float32)
    hidden = RNG.random((2, 8)) < 0.6
    x = torch.tensor(images).permute(0, 3, 1, 2).reshape(2, 3, 2, 2, 4, 2)
    x = torch.einsum("nchpwq->nhwpqc", x).reshape(2, 8, 12)
    np.testing.assert_array_equal(targets.patchify(images, size=2), x)
    normal = (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, keepdim=True) + 1.0e-6) ** 0.5
    mask = torch.tensor(hidden).float()
    expected = (((torch.tensor(predictions) - normal) ** 2).mean(dim=-1) * mask).sum() / mask.sum()
    truth = targets.normalized_patches(targets.patchify(images, size=2))
    np.testing.assert_allclose(truth, normal, rtol=1e-4, atol=1e-5)
    value = once(losses.squared_error, predictions, truth, where=hidden[..., None])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    flat = targets.normalized_patches(jnp.ones((1, 4)), epsilon=0.0)
    assert not np.any(flat)
    with pytest.raises(ValueError, match="divides"):
        targets.patchify(images, size=3)


# ---- batches over devices --------------------------------------------------------------------------------------------

BATCH = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))


EVERY = {
    "barlow_twins": losses.barlow_twins,
    "vicreg": losses.vicreg,
    "uniformity": lambda x, y, **options: losses.uniformity(x, **options),
    "koleo": lambda x, y, **options: losses.koleo(x, **options),
}


@pytest.mark.sampled
@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("tile", [None, 2])
def test_statistics_of_all_devices(loss, tile):
    """With `axis_name`, in `shard_map`: the loss and the gradients of the whole batch, taken inside or outside."""
    x, y = (jnp.asarray(RNG.normal(size=(16, D)), jnp.float32) for _ in range(2))
    keep, weights = RNG.random(16) < 0.7, RNG.random(16).astype(np.float32)

    def run(x, y, weights, keep, axis_name=None):
        return loss(x, y, where=keep, weights=weights, tile=tile, axis_name=axis_name)

    def spread(x, y, weights, keep):
        return run(x, y, weights, keep, axis_name="batch")

    expected = quick(jax.value_and_grad(run, (0, 1, 2)))(x, y, weights, keep)
    over = {"mesh": BATCH, "in_specs": P("batch")}
    inside = jax.shard_map(jax.value_and_grad(spread, (0, 1, 2)), out_specs=(P(), P("batch")), **over)
    outside = jax.value_and_grad(jax.shard_map(spread, out_specs=P(), **over), (0, 1, 2))
    for f in (inside, outside):
        actual = quick(f)(x, y, weights, keep)
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            scale = np.abs(b).max() if np.ndim(b) else 1.0  # a loss may be a small mean of logarithms about 1
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6 * scale)


def test_teachers_of_all_devices():
    logits, keep = jnp.asarray(RNG.normal(size=(16, CLASSES)), jnp.float32), jnp.asarray(RNG.random(16) < 0.7)
    here, there = objectives.centering(CLASSES), objectives.centering(CLASSES, axis_name="batch")

    def step(update):
        return lambda z, k: update(here.init(), z, where=k)

    expected = quick(step(here.update))(logits, keep)
    over = {"mesh": BATCH, "in_specs": P("batch")}
    actual = quick(jax.shard_map(step(there.update), out_specs=(P("batch"), P()), **over))(logits, keep)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)

    def assigned(z, k, axis_name=None):
        return activations.sinkhorn_knopp(z, where=k, axis_name=axis_name)

    def slope(f):
        return lambda z, k: jax.grad(lambda z: jnp.square(f(z, k)).sum())(z)

    spread = jax.shard_map(lambda z, k: assigned(z, k, "batch"), out_specs=P("batch"), **over)
    np.testing.assert_allclose(quick(spread)(logits, keep), quick(assigned)(logits, keep), rtol=1e-5, atol=1e-7)
    exact = quick(slope(assigned))(logits, keep)
    np.testing.assert_allclose(quick(slope(spread))(logits, keep), exact, rtol=1e-4, atol=1e-5)


# ---- redundancy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [losses.barlow_twins, losses.vicreg])
@pytest.mark.parametrize("tile", [None, 2])
def test_few_examples_of_many_features(loss, tile):
    """Read from the matrix of examples; that of features, with weights as repetitions, agrees."""
    weights = np.array([2, 1, 0, 3, 2])
    x, y = WIDE
    repeats = [np.repeat(z, weights, axis=0) for z in (x, y)]
    assert 2 * len(repeats[0]) > x.shape[1] >= 2 * len(x)
    with jax.enable_x64(True):
        f = quick(jax.value_and_grad(lambda x, y: loss(x, y, weights=weights, tile=tile), (0, 1)))
        value, slopes = f(x, y)
        exact, each = quick(jax.value_and_grad(loss, (0, 1)))(*repeats)
        np.testing.assert_allclose(value, exact, rtol=1e-12)
        owner = np.repeat(np.arange(5), weights)
        for slope, whole in zip(slopes, each, strict=True):
            total = np.zeros_like(x)
            np.add.at(total, owner, whole)
            np.testing.assert_allclose(slope, total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 1024), (1024, 1024)], ids=["few", "many"])
@pytest.mark.parametrize("loss", [losses.barlow_twins, losses.vicreg])
def test_the_matrix_is_never_whole(loss, shape):
    """Temporary memory of value and gradient is that of blocks and of the batch."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    tile = None if shape[0] < 1024 else 64
    compiled = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y, tile=tile), (0, 1))).lower(x, x).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes
    batch = 4 * shape[0] * shape[1]
    assert memory < 12 * batch + 4 * 1024 * 64 * 12, memory
    if shape[0] < 1024:
        assert memory < 4 * 1024 * 1024, "not even one matrix of features"


def test_equal_views_are_perfect():
    """Correlations reach 1, as they cannot with an unbiased deviation and a mean over n (MONAI)."""
    x = np.linalg.qr(RNG.normal(size=(N, D)))[0]
    x = np.linalg.qr(x - x.mean(0))[0].astype(np.float32)
    assert once(losses.barlow_twins, x, x, epsilon=0.0) < 1e-12
    biased = D * (1.0 / N) ** 2
    assert biased > 1e-2
    near = once(losses.barlow_twins, x, x * (1 + 1e-3 * RNG.normal(size=x.shape).astype(np.float32)), epsilon=0.0)
    assert 0 < near < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_barlow_twins_of_any_scale(scale):
    """Without an epsilon scale does not matter, be squares out of range; a feature that is constant costs 1."""
    f = quick(jax.value_and_grad(lambda x, y: losses.barlow_twins(x, y, epsilon=0.0), (0, 1)))
    x, y = X.astype(np.float32), Y.astype(np.float32)
    expected, _ = f(x, y)
    value, slopes = f(x * np.float32(scale), y)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(slopes[1]).all()
    assert np.isfinite(slopes[0]).all()
    x[:, 1] = 3.0
    flat, slopes = f(x * np.float32(scale), y)
    with np.errstate(all="ignore"):
        c = np.nan_to_num(np.corrcoef(x.T, y.T)[:D, D:])
    off = c[~np.eye(D, dtype=bool)]
    np.testing.assert_allclose(flat, ((1 - np.diag(c)) ** 2).sum() + 0.005 * (off**2).sum(), rtol=1e-5)
    assert not np.any(slopes[0][:, 1])


def test_one_example_and_weights_below_one():
    """No variance, no correlation, nothing infinite."""
    x = X[:1].astype(np.float32)
    for loss, expected in ((losses.barlow_twins, D), (losses.vicreg, 25 * (1 - 0.01))):
        value, slope = quick(jax.value_and_grad(lambda x: loss(x, x)))(x)  # noqa: B023
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert not np.any(slope)
        light = quick(jax.value_and_grad(lambda x: loss(x, x, weights=jnp.full(N, 1e-3))))(X.astype(np.float32))  # noqa: B023
        assert all(np.isfinite(a).all() for a in light)


# ---- spread ----------------------------------------------------------------------------------------------------------


def test_equal_points_are_finite():
    """Collapsed embeddings: KoLeo has the value of epsilon and no gradient, uniformity is 0."""
    x = jnp.ones((5, 3)).at[4].set(jnp.array([0.0, 1.0, 2.0]))
    value, slope = quick(jax.value_and_grad(losses.koleo))(x)
    np.testing.assert_allclose(value, -(4 * np.log(1e-8) + np.log(np.sqrt(2) + 1e-8)) / 5, rtol=1e-6)
    assert np.isfinite(slope).all()
    assert not np.any(slope[1:4]), "only the first is a neighbour of the one apart"
    assert once(losses.koleo, x[:4], epsilon=0.0) == np.inf
    assert once(losses.uniformity, x[:4]) == 0.0
    for loss in (losses.koleo, losses.uniformity):
        assert once(loss, x[:1]) == 0.0
        assert once(loss, x, where=np.arange(5) == 2) == 0.0


def test_near_neighbours_are_found():
    """Points much nearer than the rounding of an inner product, by which DINOv2 looks for them."""
    x = np.array([[1.0, 0.0], [1.0, 1e-6], [1.0, 1e-4], [0.0, 1.0]], np.float32)
    value = once(losses.koleo, x, epsilon=0.0)
    np.testing.assert_allclose(value, -np.log([1e-6, 1e-6, 9.9e-5, np.hypot(1.0, 1 - 1e-4)]).mean(), rtol=1e-5)


def test_uniformity_of_points_far_apart():
    """Where every potential underflows."""
    x = jnp.array([[0.0], [10.0], [25.0]])
    value, slope = quick(jax.value_and_grad(losses.uniformity))(x)
    np.testing.assert_allclose(value, -200.0 + np.log(1 / 3), rtol=1e-6)
    np.testing.assert_allclose(slope[:, 0], [40.0, -40.0, 0.0], atol=1e-4)
    # From the origin nothing is lost: distances are those of points less their mean.
    np.testing.assert_allclose(
        once(losses.uniformity, X.astype(np.float32) + 100.0), once(losses.uniformity, X), rtol=1e-5
    )


@pytest.mark.parametrize("loss", [losses.uniformity, losses.koleo])
def test_the_distances_are_never_whole(loss):
    x = jax.ShapeDtypeStruct((2048, 8), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(lambda x: loss(x, tile=64))).lower(x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2048 * 2048


# ---- cosines ---------------------------------------------------------------------------------------------------------


def test_cosine_distance_of_zero_and_of_equals():
    """Optax's gradient is NaN at 0; digits are kept where vectors agree."""
    x, y = jnp.zeros((1, 3)), jnp.ones((1, 3))
    assert np.isnan(quick(jax.grad(lambda x: optax.cosine_distance(x, y).sum()))(x)).any()
    value, slopes = quick(jax.value_and_grad(losses.cosine_distance, (0, 1)))(x, y)
    assert value == 1.0
    assert not any(np.any(s) for s in slopes)
    np.testing.assert_allclose(once(losses.cosine_distance, X, Y), optax.cosine_distance(X, Y).mean(), rtol=1e-5)
    turned = jnp.array([[1.0, 1e-4, 0.0]])
    np.testing.assert_allclose(once(losses.cosine_distance, turned, jnp.eye(3)[:1]), 0.5e-8, rtol=1e-5)
    assert optax.cosine_distance(turned, jnp.eye(3)[:1]) == 0.0


def test_alignment_of_any_length():
    x = jnp.array([[3e30, 4e30], [0.0, 0.0], [3e-30, 4e-30]])
    f = lambda x: losses.alignment(x, jnp.zeros_like(x), power=1.0, reduction="none")  # noqa: E731
    np.testing.assert_allclose(quick(f)(x), [5e30, 0.0, 5e-30], rtol=1e-6)
    slope = quick(jax.grad(lambda x: f(x).sum()))(x)
    np.testing.assert_allclose(slope, [[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


def test_dino_needs_another_view():
    z, q = jnp.zeros((3, 1, 4)), jnp.full((3, 1, 4), 0.25)
    with pytest.raises(ValueError, match="targets"):
        losses.dino(z, q)
    with pytest.raises(ValueError, match="targets"):
        losses.dino(jnp.zeros((3, 2, 4)), jnp.zeros((3, 3, 4)))
    missing = jnp.array([[0.0, -jnp.inf], [1.0, -jnp.inf]])
    assert once(losses.dino, missing, jnp.array([[1.0, 0.0]])) == 0.0
