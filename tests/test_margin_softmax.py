"""Classes as directions: peers' formulas by hand, angles at which they break, proxies, moving margins and centers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lossax import activations, losses, objectives
from lossax.activations import class_cosines
from tests.vocabulary import quick

RNG: Any = np.random.default_rng(0)
N, D, CLASSES, CENTERS = 12, 4, 5, 3
EMBEDDINGS: Any = RNG.normal(size=(N, D))
PROTOTYPES: Any = RNG.normal(size=(CLASSES, D))
SEVERAL: Any = RNG.normal(size=(CLASSES, CENTERS, D))
LABELS: Any = RNG.integers(0, CLASSES, N)


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


# ---- peers, by hand --------------------------------------------------------------------------------------------------


def replaced(torch, cosines, own):
    """Cosines in which that with the label is another."""
    mask = torch.nn.functional.one_hot(torch.tensor(LABELS), CLASSES).bool()
    return torch.where(mask, own[:, None], cosines)


def insightface(torch, cosines, factor=1.0, angle=0.0, less=0.0, beyond="none"):
    """The combined margins of InsightFace; `"linear"` as in torch metric learning, `"clip"` as in AdaFace's code."""
    own = cosines[torch.arange(N), torch.tensor(LABELS)]
    theta = torch.arccos(own)
    moved = factor * theta + angle
    if beyond == "clip":
        moved = moved.clip(0.0, np.pi)
    turned = torch.cos(moved)
    if beyond == "linear":
        turned = torch.where(moved > np.pi, own - angle * np.sin(angle), turned)
    return replaced(torch, cosines, turned - less)


PEERS = {
    "ArcFace": ({}, {"angle": 0.5}),
    "ArcFace, far": ({"angular_margin": 1.5, "beyond": "linear"}, {"angle": 1.5, "beyond": "linear"}),
    "CosFace": ({"angular_margin": 0, "cosine_margin": 0.35}, {"less": 0.35}),
    "combined": (
        {"angle_factor": 0.9, "angular_margin": 0.4, "cosine_margin": 0.15},
        {"factor": 0.9, "angle": 0.4, "less": 0.15},
    ),
    "clipped": (
        {"angular_margin": -1.2, "cosine_margin": 0.5, "beyond": "clip"},
        {"angle": -1.2, "less": 0.5, "beyond": "clip"},
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_peers_agree(name):
    """Value and gradient by embeddings and prototypes, of angles that stay below pi unless said."""
    torch = pytest.importorskip("torch")
    own, peer = PEERS[name]
    x, w = (torch.tensor(a, requires_grad=True) for a in (EMBEDDINGS, PROTOTYPES))
    unit = torch.nn.functional.normalize
    cosines = unit(x) @ unit(w).T
    if name in ("ArcFace", "combined"):
        theta = torch.arccos(cosines[torch.arange(N), torch.tensor(LABELS)])
        assert (peer.get("factor", 1.0) * theta + peer["angle"] < np.pi).all()
    value = torch.nn.functional.cross_entropy(16.0 * insightface(torch, cosines, **peer), torch.tensor(LABELS))
    value.backward()
    with jax.enable_x64(True):
        f = quick(
            jax.value_and_grad(
                lambda x, w: losses.margin_softmax(class_cosines(x, w), LABELS, scale=16.0, **own), (0, 1)
            )
        )
        ours, slopes = f(EMBEDDINGS, PROTOTYPES)
    np.testing.assert_allclose(ours, value.item(), rtol=1e-12)
    for slope, variable in zip(slopes, (x, w), strict=True):
        np.testing.assert_allclose(slope, variable.grad, rtol=1e-9, atol=1e-12)


def test_sphereface():
    """(-1)^k cos(4 angle) - 2 k, by the paper's polynomial of the cosine."""
    with jax.enable_x64(True):
        c = np.float64(class_cosines(EMBEDDINGS, PROTOTYPES))
        own = c[np.arange(N), LABELS]
        k = np.floor(4 * np.arccos(own) / np.pi)
        logits = c.copy()
        logits[np.arange(N), LABELS] = (-1) ** k * (8 * own**4 - 8 * own**2 + 1) - 2 * k
        ours = quick(lambda c: losses.margin_softmax(c, LABELS, angle_factor=4.0, angular_margin=0.0, scale=8.0))(c)
        expected = once(losses.softmax_cross_entropy_with_integer_labels, 8.0 * logits, LABELS)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_several_centers():
    """Sub-center ArcFace by a maximum, SoftTriple as its code has it, and both from one array of prototypes."""
    torch = pytest.importorskip("torch")
    unit = torch.nn.functional.normalize
    x, w = torch.tensor(EMBEDDINGS), torch.tensor(SEVERAL)
    each = torch.einsum("nd,ckd->nck", unit(x), unit(w, dim=-1))
    soft = (torch.softmax(each / 0.1, dim=2) * each).sum(2)
    margin = torch.zeros(N, CLASSES, dtype=torch.float64)
    margin[torch.arange(N), torch.tensor(LABELS)] = 0.01
    triple = torch.nn.functional.cross_entropy(20 * (soft - margin), torch.tensor(LABELS))
    with jax.enable_x64(True):
        np.testing.assert_allclose(class_cosines(EMBEDDINGS, SEVERAL), each.amax(2), rtol=1e-12)
        cosines = class_cosines(EMBEDDINGS, SEVERAL, gamma=0.1)
        ours = once(losses.margin_softmax, cosines, LABELS, scale=20, angular_margin=0, cosine_margin=0.01)
    np.testing.assert_allclose(ours, triple.item(), rtol=1e-12)


def test_proxies_are_distances():
    """Proxy-NCA of vectors of length 3, and ProxyNCA++ at temperature 1/9, by squared distances as in their codes."""
    torch = pytest.importorskip("torch")
    unit = torch.nn.functional.normalize
    x, w, y = torch.tensor(EMBEDDINGS), torch.tensor(PROTOTYPES), torch.tensor(LABELS)
    squares = torch.cdist(3 * unit(x), 3 * unit(w)) ** 2
    own = squares[torch.arange(N), y]
    others = torch.where(torch.nn.functional.one_hot(y, CLASSES).bool(), -torch.inf, -squares)
    plus = torch.nn.functional.cross_entropy(-9 * torch.cdist(unit(x), unit(w)) ** 2, y)
    with jax.enable_x64(True):
        cosines = class_cosines(EMBEDDINGS, PROTOTYPES)
        plain = once(losses.proxy_nca, cosines, LABELS)
        softmax = once(losses.margin_softmax, cosines, LABELS, scale=18, angular_margin=0)
    np.testing.assert_allclose(plain, (own + torch.logsumexp(others, 1)).mean().item(), rtol=1e-10)
    np.testing.assert_allclose(softmax, plus.item(), rtol=1e-10)


def test_proxy_anchor_as_in_its_code():
    torch = pytest.importorskip("torch")
    unit = torch.nn.functional.normalize
    x = torch.tensor(EMBEDDINGS, requires_grad=True)
    cosines = unit(x) @ unit(torch.tensor(PROTOTYPES)).T
    hot = torch.nn.functional.one_hot(torch.tensor(LABELS), CLASSES)
    pull, push = torch.exp(-32 * (cosines - 0.1)), torch.exp(32 * (cosines + 0.1))
    near = torch.where(hot == 1, pull, 0.0).sum(0)
    far = torch.where(hot == 0, push, 0.0).sum(0)
    value = torch.log(1 + near).sum() / (hot.sum(0) > 0).sum() + torch.log(1 + far).sum() / CLASSES
    value.backward()
    with jax.enable_x64(True):
        f = quick(jax.value_and_grad(lambda x: losses.proxy_anchor(class_cosines(x, PROTOTYPES), LABELS)))
        ours, slope = f(EMBEDDINGS)
    np.testing.assert_allclose(ours, value.item(), rtol=1e-12)
    np.testing.assert_allclose(slope, x.grad, rtol=1e-9, atol=1e-12)


def test_proxy_anchor_of_any_scale():
    """Exponentials of 1e3 neither overflow nor swallow the rest."""
    cosines = jnp.asarray(class_cosines(EMBEDDINGS, PROTOTYPES), jnp.float32)
    f = jax.value_and_grad(lambda c: losses.proxy_anchor(c, LABELS, scale=1000.0))
    value, slope = quick(f)(cosines)
    with jax.enable_x64(True):
        wide, exact = quick(f)(np.float64(cosines))
    np.testing.assert_allclose(value, wide, rtol=1e-6)
    np.testing.assert_allclose(slope, exact, rtol=1e-4, atol=1e-3)


# ---- angles at which the textbook breaks -----------------------------------------------------------------------------


def test_embeddings_upon_their_class():
    """At an angle of 0 or pi torch's arccos has the gradient NaN; here it is finite, and 0 for the direction."""
    torch = pytest.importorskip("torch")
    x = torch.tensor([[2.0, 0.0], [-3.0, 0.0]], requires_grad=True)
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    cosines = torch.nn.functional.normalize(x) @ w.T
    (torch.cos(torch.arccos(cosines[:, 0]) + 0.5)).sum().backward()
    assert not torch.isfinite(x.grad).all()

    def loss(x):
        return losses.margin_softmax(class_cosines(x, np.eye(2, dtype=np.float32)), np.zeros(2, int))

    x = jnp.array([[2.0, 0.0], [-3.0, 0.0]])
    value, slope = quick(jax.value_and_grad(loss))(x)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert np.isfinite(quick(lambda x: jax.jvp(jax.grad(loss), (x,), (jnp.ones_like(x),))[1])(x)).all()
    assert not np.any(slope[:, 0]), "length has no gradient"


def test_continuation_has_no_kink():
    """Past pi the cosine goes on falling, and slopes meet, at any margin and factor."""
    angles = np.linspace(0.02, np.pi - 0.02, 2001).astype(np.float32)
    cosines = jnp.stack([jnp.cos(angles), jnp.zeros_like(angles)], axis=-1)

    @quick
    def logits(c, factor, margin):  # of rows so wrong that the loss is the gap
        options = {"angular_margin": margin, "angle_factor": factor, "cosine_margin": 20.0}
        values, back = jax.vjp(lambda c: -losses.margin_softmax(c, np.zeros(2001, int), reduction="none", **options), c)
        return values, back(jnp.ones_like(values))[0]

    for factor, margin in ((1.0, 0.5), (1.0, 2.5), (4.0, 0.0), (1.35, 0.3), (1.0, -0.4)):
        values, slopes = logits(cosines, factor, margin)
        assert (np.diff(values) < 2e-4).all()
        by_angle = slopes[:, 0] * np.sin(angles)
        assert np.abs(np.diff(by_angle)).max() < 64 * max(1.0, factor) ** 2 * 0.005


def test_easy_margin():
    """A margin for each unit."""
    c = class_cosines(EMBEDDINGS, PROTOTYPES)
    own = c[np.arange(N), LABELS]
    loss = quick(lambda margin: losses.margin_softmax(c, LABELS, angular_margin=margin, reduction="none"))
    ours, with_margin, without = (loss(m) for m in (jnp.where(own > 0, 0.5, 0.0), jnp.full(N, 0.5), jnp.zeros(N)))
    np.testing.assert_allclose(ours, np.where(own > 0, with_margin, without), rtol=1e-6)
    with pytest.raises(ValueError, match="does not broadcast"):
        losses.margin_softmax(c, LABELS, angular_margin=jnp.zeros(3))


@pytest.mark.parametrize("loss", [losses.margin_softmax, losses.proxy_nca, losses.proxy_anchor])
def test_missing_classes(loss):
    """A class of -inf does not exist, in value and gradient; with the label among them the loss is no number."""
    c = np.array(class_cosines(EMBEDDINGS, PROTOTYPES))
    full = np.insert(c, 2, -np.inf, axis=1)
    labels = np.where(LABELS >= 2, LABELS + 1, LABELS)
    value, slope = quick(jax.value_and_grad(lambda c: loss(c, labels)))(full)
    expected, exact = quick(jax.value_and_grad(lambda c: loss(c, LABELS)))(c)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(np.delete(slope, 2, axis=1), exact, rtol=1e-5, atol=1e-7)
    assert not np.any(slope[:, 2])
    if loss is not losses.proxy_anchor:
        assert once(loss, full, np.full(N, 2)) == np.inf


@pytest.mark.parametrize("loss", [losses.margin_softmax, losses.proxy_nca, losses.proxy_anchor])
def test_logits_are_no_cosines(loss):
    logits = 3.0 * jnp.asarray(EMBEDDINGS @ PROTOTYPES.T, jnp.float32)
    with pytest.raises(ValueError, match=r"cosines must be in \[-1, 1\]"):
        loss(logits, LABELS)
    assert np.isnan(quick(loss)(logits, LABELS))
    rounded = jnp.array([[1.0 + 2.0**-7, 0.0]])  # the cosine of a vector with itself in bfloat16
    assert np.isfinite(quick(jax.grad(lambda c: loss(c, np.array([0]))))(rounded)).all()


def test_linear_is_for_arcface():
    with pytest.raises(ValueError, match="angle_factor=1"):
        losses.margin_softmax(jnp.zeros((1, 2)), jnp.array([0]), angle_factor=2.0, beyond="linear")


# ---- cosines ---------------------------------------------------------------------------------------------------------


def test_cosines_of_any_length():
    """From 1e-30 to 1e38, and of 0, which has cosine 0 and no gradient."""
    lengths = jnp.array([1e-30, 1.0, 1e30, 1e38, 0.0])
    x = lengths[:, None] * jnp.array([[0.6, 0.8]])
    w = jnp.array([[1.0, 0.0], [0.0, 1e20], [0.0, 0.0]])
    f = quick(lambda x, w: (class_cosines(x, w), jax.grad(lambda *a: class_cosines(*a).sum(), (0, 1))(x, w)))
    cosines, slopes = f(x, w)
    expected = np.array([[0.6, 0.8, 0.0]] * 4 + [[0.0] * 3])
    np.testing.assert_allclose(cosines, expected, rtol=1e-6)
    exact = np.array([[0.16, -0.12]]) / np.array([[1e-30], [1.0], [1e30]])
    np.testing.assert_allclose(slopes[0][:3], exact, rtol=1e-5)
    assert np.isfinite(slopes[0]).all()
    assert np.isfinite(slopes[1]).all()
    assert not np.any(slopes[0][4])
    assert not np.any(slopes[1][2])
    np.testing.assert_allclose(
        once(activations.unit_vectors, x), np.where(lengths[:, None] > 0, [[0.6, 0.8]], 0.0), rtol=1e-6
    )


def test_cosines_never_leave_their_range():
    x = jnp.asarray(RNG.normal(size=(200, 7)), jnp.float32)
    cosines = class_cosines(x, jnp.concatenate([x, -x]))
    assert np.abs(cosines).max() <= 1.0
    half = class_cosines(x.astype(jnp.bfloat16), x)
    assert half.dtype == jnp.float32
    temperatures = jnp.array([0.0, 1e-6, 0.1])
    several = jnp.asarray(SEVERAL, jnp.float32)
    found = jax.vmap(lambda g: class_cosines(x[:, :D], several, gamma=g))(temperatures)
    np.testing.assert_array_equal(found[0], class_cosines(x[:, :D], several))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_cosines_on_an_explicit_mesh():
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    x, several = jnp.asarray(RNG.normal(size=(16, D)), jnp.float32), jnp.asarray(SEVERAL, jnp.float32)
    step = quick(jax.value_and_grad(lambda x, w: class_cosines(x, w, gamma=0.1).sum(), (0, 1)))
    expected = step(x, several)
    with jax.set_mesh(mesh):
        actual = step(
            jax.device_put(x, NamedSharding(mesh, P("batch"))), jax.device_put(several, NamedSharding(mesh, P()))
        )
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


# ---- margins and centers that move -----------------------------------------------------------------------------------


def test_adaface_as_in_its_code():
    """Two updates of the statistics, margins, and the loss with its clipped angles."""
    torch = pytest.importorskip("torch")
    norms = [np.exp(RNG.normal(size=N)) * 20, np.exp(RNG.normal(size=N)) * 200]
    init, update = objectives.adaface()
    mean, std = torch.tensor(20.0), torch.tensor(100.0)

    @quick
    def loss(c, margins):
        options = {"angular_margin": margins.angular, "cosine_margin": margins.cosine, "beyond": "clip"}
        return losses.margin_softmax(c, LABELS, **options)

    with jax.enable_x64(True):
        state = init()
        cosines = np.float64(class_cosines(EMBEDDINGS, PROTOTYPES))
        step = quick(update)
        for norm in norms:
            margins, state = step(state, norm)
            safe = torch.tensor(norm).clip(0.001, 100)
            mean = safe.mean() * 0.01 + 0.99 * mean
            std = safe.std() * 0.01 + 0.99 * std
            quality = ((safe - mean) / (std + 1e-3) * 0.333).clip(-1, 1)
            own = torch.tensor(cosines)[torch.arange(N), torch.tensor(LABELS)]
            angle = (torch.arccos(own) - 0.4 * quality).clip(0, np.pi)
            logits = replaced(torch, torch.tensor(cosines), torch.cos(angle) - (0.4 + 0.4 * quality))
            expected = torch.nn.functional.cross_entropy(64 * logits, torch.tensor(LABELS)).item()
            ours = loss(cosines, margins)
            np.testing.assert_allclose(ours, expected, rtol=1e-6)  # the state is float32
    np.testing.assert_allclose([state.mean, state.std], [mean, std], rtol=1e-6)
    assert int(state.step) == 2


def test_adaface_of_what_is_there():
    init, update = objectives.adaface(decay=0.0)
    norms = jnp.array([10.0, 20.0, jnp.nan, 30.0])
    margins, state = update(init(), norms, where=~jnp.isnan(norms))
    np.testing.assert_allclose([state.mean, state.std], [20.0, 10.0], rtol=1e-6)
    _, same = update(state, norms, where=False)
    assert (same.mean, same.std) == (state.mean, state.std)
    _, one = update(state, norms, where=jnp.arange(4) == 0)
    assert (one.mean, one.std) == (10.0, state.std)
    slope = quick(jax.grad(lambda x: update(init(), x)[0].angular.sum()))(jnp.array([1.0, 2.0]))
    assert not np.any(slope)
    assert np.isfinite(margins.angular).all()


def test_centers_as_in_the_paper():
    init, update = objectives.centers(CLASSES, D, alpha=0.3)
    centers = np.zeros((CLASSES, D))
    weights = RNG.integers(0, 3, size=N)
    state = init()
    for _ in range(3):
        x = RNG.normal(size=(N, D)).astype(np.float32)
        penalty, state = quick(update)(state, x, LABELS, weights=weights)
        each = 0.5 * ((x - centers[LABELS]) ** 2).sum(-1)
        np.testing.assert_allclose(penalty, (weights * each).sum() / weights.sum(), rtol=1e-5)
        moves = np.zeros_like(centers)
        for j in range(CLASSES):
            mine = weights * (j == LABELS)
            moves[j] = (mine[:, None] * (centers[j] - x)).sum(0) / (1 + mine.sum())
        centers -= 0.3 * moves
        np.testing.assert_allclose(state.centers, centers, rtol=1e-4, atol=1e-6)
    assert int(state.step) == 3


def test_centers_of_bad_labels_and_masks():
    init, update = objectives.centers(2, 1, alpha=lambda step: 1.0 / (1.0 + jnp.float32(step)))
    x, labels = jnp.array([[1.0], [jnp.nan], [4.0]]), jnp.array([0, 7, 1])
    keep = jnp.array([True, False, True])
    penalty, state = quick(update)(init(), x, labels, where=keep)
    assert penalty == (1.0 + 16.0) / 4
    np.testing.assert_allclose(state.centers[:, 0], [0.5, 2.0])
    with pytest.raises(ValueError, match="labels must be in"):
        update(init(), x, labels)
    penalties, moved = quick(lambda s, x, y: update(s, x, y, reduction="none"))(init(), x.at[1].set(9.0), labels)
    assert np.isnan(penalties[1])
    np.testing.assert_allclose(moved.centers, state.centers)
    slope = quick(jax.grad(lambda x: update(state, x, jnp.array([0, 1, 1]), where=keep)[0]))(x)
    np.testing.assert_allclose(slope[:, 0], [0.25, 0.0, 1.0])
    before = quick(jax.grad(lambda s: update(s, x, labels, where=keep)[0], allow_int=True))(state)
    assert not np.any(before.centers)


def test_statistics_of_all_devices():
    """Inside shard_map, over the axis, as if all were in one place."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    norms = jnp.asarray(np.exp(RNG.normal(size=16)) * 20, jnp.float32)
    keep = jnp.arange(16) % 3 > 0
    here, there = objectives.adaface(), objectives.adaface(axis_name="batch")
    expected = here.update(here.init(), norms, where=keep)
    run = jax.shard_map(
        lambda n, k: there.update(there.init(), n, where=k), mesh=mesh, in_specs=P("batch"), out_specs=(P("batch"), P())
    )
    for a, b in zip(jax.tree.leaves(quick(run)(norms, keep)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
