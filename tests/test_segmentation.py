"""Segmentation beyond the contract: every peer's Dice, digits, surfaces, distance maps and what is built on them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import scipy.ndimage

from lossax import losses, objectives, targets
from tests import vocabulary as v
from tests.oracles import segmentation, surfaces
from tests.vocabulary import quick

OVERLAPS = [losses.dice, losses.jaccard, losses.tversky, losses.focal_tversky, losses.generalized_dice]
MAPS = [f for n, f in v.SET_LOSSES.items() if v.family(f) in ("segmentation", "surfaces")]
BATCH = (0, 1, 2)
NOTHING = {"smooth_numerator": 0.0, "smooth_denominator": 0.0}


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


def maps(shape=(2, 4, 4, 3), seed=0):
    """Logits, labels and one-hot targets."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, shape[-1], shape[:-1])
    return rng.normal(size=shape).astype(np.float32), labels, np.eye(shape[-1], dtype=np.float32)[labels]


def softmax(z):
    mass = np.exp(z - z.max(-1, keepdims=True))
    return mass / mass.sum(-1, keepdims=True)


def mp(array):
    return np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])(np.asarray(array, np.float64))


def arguments(loss, shape, seed=0):
    """Data for a loss of maps."""
    logits, labels, hard = maps(shape, seed)
    second = v.data_arguments(loss)[1]
    return logits, {"labels": labels, "targets": hard, "signs": 2 * hard - 1, "distances": 3 * logits[::-1]}[second]


# ---- everybody's Dice ------------------------------------------------------------------------------------------------

_sum = lambda x, axes: x.sum(axis=axes)  # noqa: E731
PEERS = {
    "MONAI": (
        {},
        lambda p, t: 1 - (2 * _sum(p * t, (1, 2)) + 1e-5) / (_sum(p, (1, 2)) + _sum(t, (1, 2)) + 1e-5),
    ),
    "MONAI batch": (
        {"axes": BATCH},
        lambda p, t: 1 - (2 * _sum(p * t, BATCH) + 1e-5) / (_sum(p, BATCH) + _sum(t, BATCH) + 1e-5),
    ),
    "segmentation_models.pytorch": (
        {"axes": BATCH} | NOTHING,
        lambda p, t: 1 - 2 * _sum(p * t, BATCH) / np.maximum(_sum(p, BATCH) + _sum(t, BATCH), 1e-7),
    ),
    "MONAI squared": (
        {"squared": True},
        lambda p, t: 1 - (2 * _sum(p * t, (1, 2)) + 1e-5) / (_sum(p * p, (1, 2)) + _sum(t * t, (1, 2)) + 1e-5),
    ),
    "Milletari": (
        {"squared": True} | NOTHING,
        lambda p, t: 1 - 2 * _sum(p * t, (1, 2)) / (_sum(p * p, (1, 2)) + _sum(t * t, (1, 2))),
    ),
    "Optax": (
        {"soft_labels": False, "smooth_numerator": 2.0, "smooth_denominator": 2.0},
        lambda p, t: optax.losses.dice_loss(np.log(p), t),
    ),
    "logarithm": (
        {"log": True, "axes": BATCH} | NOTHING,
        lambda p, t: -np.log(2 * _sum(p * t, BATCH) / (_sum(p, BATCH) + _sum(t, BATCH))),
    ),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_every_dice_is_some_of_the_arguments(peer, soft):
    logits, _, hard = maps()
    options, formula = PEERS[peer]
    t = softmax(maps(seed=1)[0]) if soft else hard
    expected = np.mean(formula(softmax(logits), t))
    product = {"soft_labels": False} if soft else {}
    np.testing.assert_allclose(once(losses.dice, logits, t, **options | product), expected, rtol=2e-6)
    jitted = quick(lambda p: losses.dice(p, t, activation="none", **options | product))
    np.testing.assert_allclose(jitted(softmax(logits)), expected, rtol=2e-6)


def test_the_peers_differ_by_as_much_as_is_said():
    logits, _, hard = maps()
    values = {peer: float(once(losses.dice, logits, hard, **options)) for peer, (options, _) in PEERS.items()}
    assert values["MONAI"] != values["MONAI batch"]
    assert values["Optax"] < 0.9 * values["MONAI"]
    assert values["Milletari"] < 0.9 * values["MONAI"]


def test_keras_dice_sums_over_classes():
    logits, _, hard = maps()
    p = softmax(logits)
    expected = 1 - (2 * np.sum(p * hard) + 1e-7) / (np.sum(p) + np.sum(hard) + 1e-7)
    actual = once(losses.generalized_dice, logits, hard, axes=BATCH, weighting="uniform")
    np.testing.assert_allclose(actual, expected, rtol=2e-6)


def test_optax_tversky_and_its_generalised_dice():
    logits, _, hard = maps()
    ours = once(losses.tversky, logits, hard, smooth_numerator=1.0, smooth_denominator=1.0, soft_labels=False)
    np.testing.assert_allclose(ours, np.mean(optax.losses.dice_loss(logits, hard, alpha=0.3, beta=0.7)), rtol=2e-6)
    p, size = softmax(logits), hard.sum((1, 2))
    sudre = 1 - 2 * np.sum((p * hard).sum((1, 2)) / size**2, -1) / np.sum((p + hard).sum((1, 2)) / size**2, -1)
    np.testing.assert_allclose(once(losses.generalized_dice, logits, hard, reduction="none"), sudre, rtol=2e-6)
    with jax.numpy_rank_promotion("allow"):
        other = optax.losses.multiclass_generalized_dice_loss(logits, hard)
    assert np.abs(np.asarray(other) - sudre).max() > 1e-3, "a mean of ratios, not the ratio of sums"


def test_optax_cannot_take_probabilities_under_jit():
    logits, _, hard = maps()
    p = softmax(logits)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(lambda p: optax.losses.dice_loss(p, hard, apply_softmax=False))(p)
    for loss in OVERLAPS:
        close = quick(lambda p: loss(p, hard, activation="none"))(p)  # noqa: B023
        np.testing.assert_allclose(close, once(loss, logits, hard), rtol=1e-5)


def test_half_precision_images_are_finite():
    """512 x 512 in float16, whose largest number is 65504."""
    logits, _, hard = maps((1, 512, 512, 2))
    logits, hard = logits.astype(np.float16), hard.astype(np.float16)
    assert np.isnan(optax.losses.dice_loss(jnp.asarray(logits), jnp.asarray(hard))).all()
    wide = once(losses.dice, logits.astype(np.float32), hard)
    assert once(losses.dice, logits, hard).dtype == jnp.float32
    np.testing.assert_allclose(once(losses.dice, logits, hard), wide, rtol=1e-7)
    with jax.enable_x64(True):
        np.testing.assert_allclose(wide, once(losses.dice, jnp.asarray(logits, jnp.float64), hard), rtol=1e-6)


# ---- absent classes --------------------------------------------------------------------------------------------------


def test_absent_classes():
    """A batch of background: 0 for two of three classes, counted (segmentation_models.pytorch), or not."""
    logits, _, hard = maps()
    hard = np.zeros_like(hard)
    hard[..., 0] = 1
    options = {"axes": BATCH} | NOTHING
    present = once(losses.dice, logits, hard, **options, reduction="none")[0]
    np.testing.assert_allclose(once(losses.dice, logits, hard, **options), (present + 2) / 3, rtol=1e-6)
    np.testing.assert_allclose(once(losses.dice, logits, hard, absent="skip", **options), present, rtol=1e-6)
    zeros = once(losses.dice, logits, hard, absent="skip", reduction="none", **options)
    np.testing.assert_allclose(np.mean(zeros), present / 3, rtol=1e-6)
    weighed = once(losses.dice, logits, hard, class_weights=np.array([0.0, 1.0, 3.0]), **options)
    assert weighed == 1


@pytest.mark.parametrize("loss", OVERLAPS, ids=lambda f: f.__name__)
def test_nothing_there_and_nothing_found(loss):
    """0 / 0 is a perfect overlap, with a finite gradient."""
    none = jnp.zeros((1, 2, 2, 3))
    value, slope = quick(jax.value_and_grad(lambda p: loss(p, none, activation="none", **NOTHING)))(none)
    assert value == 0
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("loss", OVERLAPS, ids=lambda f: f.__name__)
def test_the_overlap_is_one_where_it_should_be(loss):
    hard = maps()[2]
    assert once(loss, hard, hard, activation="none") == 0
    assert once(loss, 1 - hard, hard, activation="none", **NOTHING) == 1
    assert np.isfinite(quick(jax.grad(lambda p: loss(p, hard, activation="none")))(hard)).all(), (
        "a root has a slope here"
    )
    sure = 1e4 * (2 * hard - 1)
    assert once(loss, sure, hard) == 0
    assert np.isfinite(quick(jax.grad(loss))(sure, hard)).all()
    p = np.stack([np.random.default_rng(seed).random(hard.shape).astype(np.float32) ** 8 for seed in range(20)])
    values = quick(jax.vmap(lambda p: loss(p, hard, activation="none", **NOTHING)))(p)
    assert (values >= 0).all()
    assert (values <= 1).all()


@pytest.mark.parametrize("loss", OVERLAPS, ids=lambda f: f.__name__)
def test_soft_targets_are_their_own_best_prediction(loss):
    t = softmax(maps(seed=1)[0])
    best, product = once(loss, t, t, activation="none"), once(loss, t, t, activation="none", soft_labels=False)
    assert best < 1e-6
    assert product > 0.1
    hard = (t == t.max(-1, keepdims=True)).astype(np.float32)
    assert once(loss, hard, t, activation="none", soft_labels=False) < product, "a product prefers another prediction"


# ---- digits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "generalized_dice"])
@pytest.mark.parametrize("gap", [10.0, 30.0, 80.0])
def test_confident_maps_keep_their_digits(name, gap):
    """Promise L1: 1 - overlap is not what is left of 1."""
    hard = maps((1, 2, 3, 3))[2]
    logits = (gap * hard + np.random.default_rng(0).normal(size=hard.shape)).astype(np.float32)
    loss = v.SET_LOSSES[name]
    options = {"alpha": 0.3, "beta": 0.7} if name == "tversky" else {}
    with mpmath.workdps(150):
        z, t = mp(logits).reshape(6, 3), mp(hard).reshape(6, 3)
        oracle = lambda z: np.sum(getattr(segmentation, name)(z, t, **options, **NOTHING))  # noqa: E731
        exact = oracle(z)
        step, slopes = mpmath.mpf(10) ** -60, np.empty(z.shape, dtype=object)
        for index in np.ndindex(z.shape):
            moved = z.copy()
            moved[index] += step
            slopes[index] = (oracle(moved) - exact) / step
    options = {k: float(np.float32(x)) for k, x in options.items()} | NOTHING
    value, gradient = quick(jax.value_and_grad(lambda z: loss(z, hard, reduction="sum", **options)))(logits)
    assert v.ulps(value, exact) <= 16
    largest = max(abs(float(x)) for x in slopes.flat)
    for own, slope in zip(np.ravel(gradient), slopes.flat, strict=True):
        assert v.ulps(own, slope, largest) <= 16


def berman(errors, truth, dtype):
    """The slopes by the published code: differences of the Jaccard loss."""
    order = np.argsort(-errors, kind="stable")
    inside = truth[order].astype(dtype)
    left, union = inside.sum() - np.cumsum(inside), inside.sum() + np.cumsum(1 - inside)
    index = (1 - left / union).astype(dtype)
    index[1:] = index[1:] - index[:-1]
    out = np.empty_like(index)
    out[order] = index
    return out


def test_lovasz_slopes_keep_their_digits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(64, 64)).astype(np.float32)
    truth = rng.random((64, 64)) < 0.1
    signs = 2 * truth - 1
    errors = np.maximum(0, 1 - logits.astype(np.float64) * signs)
    exact = (berman(errors.ravel(), truth.ravel(), np.float64).reshape(64, 64) * -signs) * (errors > 0)
    single = (berman(errors.ravel(), truth.ravel(), np.float32).reshape(64, 64) * -signs) * (errors > 0)
    ours = quick(jax.grad(lambda z: losses.lovasz_hinge(z[..., None], signs[..., None])))(logits)
    used = exact != 0
    off = lambda x: np.max(np.abs(x - exact)[used] / np.abs(exact[used]))  # noqa: E731
    assert off(np.asarray(ours)) < 1e-6
    assert off(single) > 1e-3
    value = once(losses.lovasz_hinge, logits[..., None], signs[..., None])
    rounded = np.sqrt(errors.size) * 2.0**-23  # a sum of so many, one after the other
    np.testing.assert_allclose(value, -np.sum(exact * signs * errors), rtol=rounded)


def test_lovasz_of_decisions_is_the_jaccard_loss():
    """At errors of 0 and 1 the extension is the set function itself."""
    _, labels, hard = maps((1, 5, 5, 3))
    _, _, decided = maps((1, 5, 5, 3), seed=1)
    expected = once(losses.jaccard, decided, hard, activation="none", reduction="none", **NOTHING)
    actual = once(losses.lovasz_softmax, decided, labels, activation="none", reduction="none")
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_lovasz_at_ties_and_without_an_object():
    flat = jnp.zeros((1, 3, 3, 2))
    labels = np.zeros((1, 3, 3), int)
    value, slope = quick(jax.value_and_grad(losses.lovasz_softmax))(flat, labels)
    assert value == 0.5
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(once(losses.lovasz_softmax, flat, labels, absent="count"), 0.5)
    logits = jnp.array([[[-3.0], [0.5], [0.25]]])
    nobody = -jnp.ones_like(logits)
    assert once(losses.lovasz_hinge, logits, nobody) == 1.5, "the largest hinge"
    assert once(losses.lovasz_hinge, logits, nobody, absent="skip") == 0
    batch = once(losses.lovasz_hinge, logits[None], -nobody[None], axes=BATCH)
    np.testing.assert_allclose(batch, once(losses.lovasz_hinge, logits, -nobody))


# ---- axes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", MAPS, ids=lambda f: f.__name__)
def test_any_spatial_rank(loss):
    """A volume of one slice is the image, a signal an image of one row; with the values of every axis order."""
    arrays = arguments(loss, (2, 3, 4, 2))
    units = functools.partial(loss, reduction="none")

    @quick
    def by_axes(*arrays):
        volume, signal, row = ([a[:, at] for a in arrays] for at in (None, 0, slice(1)))
        images = units(*arrays), units(*volume, axes=(-4, -3, -2)), units(*arrays, axes=(2, 1))
        return images, (units(*row), units(*signal, axes=(-2,)))

    for first, *others in by_axes(*arrays):
        for other in others:
            np.testing.assert_allclose(other, first, rtol=1e-6)


@pytest.mark.parametrize("loss", MAPS, ids=lambda f: f.__name__)
def test_wrong_axes_are_loud(loss):
    arrays = arguments(loss, (2, 3, 4, 2))
    for wrong in ((-1,), (1, 1), (1, -3), (4,), (-5,)):
        with pytest.raises(ValueError, match="axes must be distinct axes"):
            loss(*arrays, axes=wrong)
    for wrong in (1, (), (1.0,), None):
        with pytest.raises(TypeError, match="axes must be a tuple"):
            loss(*arrays, axes=wrong)


@pytest.mark.parametrize("loss", [f for f in MAPS if "targets" in v.data_arguments(f)], ids=lambda f: f.__name__)
def test_values_outside_the_domain_are_loud(loss):
    logits, _, hard = maps()
    each = quick(lambda *a: loss(*a, activation="none", reduction="none"))
    for position, wrong in itertools.product((0, 1), (-0.5, 1.5)):
        arrays = [softmax(logits), hard.copy()]
        arrays[position][0, 1, 1, 1] = wrong
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            loss(*arrays, activation="none")
        units = each(*arrays)
        assert np.isnan(np.ravel(units[0])).any()
        assert np.isfinite(units[1]).all()
    for name, wrong in (("activation", "relu"), ("class_weights", np.ones(7)), ("absent", "zero")):
        if name in loss.__kwdefaults__:
            with pytest.raises(ValueError, match=name):
                loss(logits, hard, **{name: wrong})


# ---- distance transform ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (9,), (7, 11), (20, 3), (4, 5, 6)], ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_distances_are_exact(shape, share):
    rng = np.random.default_rng(0)
    mask = rng.random(shape) < share
    mask.flat[0] = False
    axes = tuple(range(len(shape)))
    expected = scipy.ndimage.distance_transform_edt(mask)
    run = quick(functools.partial(targets.distance_transform, axes=axes))
    np.testing.assert_array_equal(run(mask), expected.astype(np.float32))
    for spacing in (0.5, rng.uniform(0.2, 3.0, len(shape))):
        expected = scipy.ndimage.distance_transform_edt(mask, sampling=spacing)
        np.testing.assert_allclose(run(mask, spacing=spacing), expected, rtol=4e-7)


def test_sets_are_transformed_alone():
    masks = np.random.default_rng(0).random((3, 6, 7, 2)) < 0.6
    masks[1, ..., 0], masks[2, ..., 1] = True, False
    together = once(targets.distance_transform, masks, axes=(-3, -2))
    for i, c in np.ndindex(3, 2):
        mask = masks[i, ..., c]
        expected = np.zeros(mask.shape) if mask.all() else scipy.ndimage.distance_transform_edt(mask)
        np.testing.assert_array_equal(together[i, ..., c], expected.astype(np.float32))
    each = quick(jax.vmap(lambda m: targets.distance_transform(m, axes=(0, 1))))(masks)
    np.testing.assert_array_equal(each, together)
    with jax.enable_x64(True):
        assert targets.distance_transform(masks, axes=(1, 2)).dtype == jnp.float64


def test_pixels_that_do_not_exist_are_on_no_side():
    mask = np.array([True, True, False, True, True])
    where = np.array([True, True, False, True, False])
    assert targets.distance_transform(mask, axes=(0,)).tolist() == [2, 1, 0, 1, 2]
    assert targets.distance_transform(mask, axes=(0,), where=where).tolist() == [0] * 5
    where[2] = True
    assert targets.distance_transform(mask, axes=(0,), where=where).tolist() == [2, 1, 0, 1, 0]


def test_signed_distance_is_that_of_both_sides():
    mask = np.random.default_rng(0).random((8, 9)) < 0.4
    edt = scipy.ndimage.distance_transform_edt
    signed = quick(functools.partial(targets.signed_distance, axes=(0, 1)))
    np.testing.assert_allclose(signed(mask), edt(~mask) - edt(mask), rtol=1e-6)
    kervadec = edt(~mask) * ~mask - (edt(mask) - 1) * mask
    np.testing.assert_allclose(signed(mask) + mask.astype(np.float32), kervadec, atol=1e-6)
    for filled in (np.zeros_like(mask), np.ones_like(mask)):
        assert not np.any(signed(filled))


def test_wrong_masks_are_loud():
    with pytest.raises(TypeError, match="mask must be bool"):
        targets.distance_transform(np.ones((3, 3)), axes=(0, 1))
    with pytest.raises(ValueError, match="spacing must be positive"):
        targets.distance_transform(np.ones((3, 3), bool), axes=(0, 1), spacing=0.0)
    with pytest.raises(ValueError, match="spacing"):
        targets.signed_distance(np.ones((3, 3), bool), axes=(0, 1), spacing=np.ones(3))


# ---- surfaces --------------------------------------------------------------------------------------------------------


def test_boundary_prefers_the_nearer_miss():
    truth = np.zeros((1, 9, 9, 1), bool)
    truth[0, 2:4, 2:4] = True
    phi = once(targets.signed_distance, truth, axes=(1, 2))
    at = lambda i: np.roll(truth, (i, i), (1, 2)).astype(np.float32)  # noqa: E731
    moved = np.stack([at(i) for i in range(5)])
    values = quick(jax.vmap(lambda p: losses.boundary(p, phi, activation="none")))(moved).tolist()
    assert values == sorted(values)
    overlaps = quick(jax.vmap(lambda p: losses.dice(p, truth, activation="none")))(moved)[2:].tolist()
    assert max(overlaps) - min(overlaps) < 1e-5, "an overlap cannot tell one miss from another"


def test_hausdorff_of_empty_and_full_masks_is_finite():
    logits, _, hard = maps()
    run = quick(jax.value_and_grad(functools.partial(losses.hausdorff, activation="sigmoid")))
    for t in (np.zeros_like(hard), np.ones_like(hard), hard):
        for z in (logits, np.full_like(logits, -50), np.full_like(logits, 50)):
            value, slope = run(z, t)
            assert np.isfinite(value)
            assert np.isfinite(slope).all()
    missed = once(losses.hausdorff, np.full_like(logits, -50), hard, activation="sigmoid", reduction="none")
    assert (missed > 0).all(), "seen through the outline of the target"


def test_spacing_is_a_unit():
    logits, _, hard = maps()
    np.testing.assert_allclose(
        once(losses.hausdorff, logits, hard, spacing=3.0), 9 * once(losses.hausdorff, logits, hard), 1e-6
    )
    slope = quick(jax.grad(lambda s: losses.hausdorff(logits, hard, spacing=s)))(1.0)
    assert slope == 0, "without derivative"


def test_soft_skeleton_in_three_dimensions():
    rng = np.random.default_rng(0)
    p, t = (rng.random((3, 4, 3, 1)).astype(np.float32) for _ in range(2))
    expected = surfaces.soft_cldice(mp(p), mp(t), smooth=1, iterations=2, activation="none")
    actual = once(losses.soft_cldice, p, t, axes=(0, 1, 2), iterations=2, activation="none")
    np.testing.assert_allclose(actual, float(expected[0]), rtol=1e-6)


def test_a_broken_tube_costs_more_than_a_thin_one():
    tube = np.zeros((9, 15, 1), np.float32)
    tube[3:6] = 1
    thin, broken = tube.copy(), tube.copy()
    thin[[3, 5]] = 0
    broken[:, 6:9] = 0
    cldice = quick(lambda p: losses.soft_cldice(p, tube, activation="none"))
    assert cldice(thin) < cldice(broken) / 4
    assert once(losses.dice, thin, tube, activation="none") > once(losses.dice, broken, tube, activation="none")


def test_iterations_set_structure():
    logits, _, hard = maps()
    with pytest.raises(TypeError, match="iterations sets structure"):
        losses.soft_cldice(logits, hard, iterations=2.0)


# ---- objectives ------------------------------------------------------------------------------------------------------


def test_weighted_sum():
    terms = {"dice": jnp.bfloat16(0.5), "ce": jnp.float32(2.0)}
    assert objectives.weighted_sum(terms) == 2.5
    total = objectives.weighted_sum(terms, {"ce": jnp.float16(0.25), "dice": np.float64(3.0)})
    assert (total, total.dtype) == (2.0, jnp.float32)
    swept = quick(jax.vmap(lambda w: objectives.weighted_sum(terms, {"ce": 1.0, "dice": w})))(jnp.arange(3.0))
    assert swept.tolist() == [2, 2.5, 3]
    with pytest.raises(ValueError, match=r"same names, got \['ce', 'dice'\] and \['CE', 'dice'\]"):
        objectives.weighted_sum(terms, {"CE": 1.0, "dice": 1.0})
    with pytest.raises(ValueError, match="same names"):
        objectives.weighted_sum({})
    with pytest.raises(ValueError, match="equal shapes"):
        objectives.weighted_sum({"a": jnp.ones(2), "b": jnp.ones(())})


def test_deep_supervision_downsamples_as_torch():
    torch = pytest.importorskip("torch")
    labels = np.random.default_rng(0).integers(0, 9, (2, 7, 12))
    seen = []
    outputs = [jnp.zeros((2, h, w, 3)) for h, w in ((7, 12), (4, 6), (3, 5), (1, 1))]
    loss = lambda p, t, where: seen.append((t, where)) or jnp.float32(p.shape[1])  # noqa: E731
    total = objectives.deep_supervision(loss, outputs, labels, where=labels != 3)
    assert total == 7 + 4 / 2 + 3 / 4 + 1 / 8
    for (t, where), output in zip(seen, outputs, strict=True):
        full = torch.tensor(labels[:, None], dtype=torch.float32)
        expected = torch.nn.functional.interpolate(full, size=output.shape[1:3], mode="nearest-exact")[:, 0].numpy()
        np.testing.assert_array_equal(t, expected)
        np.testing.assert_array_equal(where, expected != 3)


def test_deep_supervision_of_maps_and_volumes():
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(1, n, n, n, 2)).astype(np.float32) for n in (4, 2)]
    hard = maps((1, 4, 4, 4, 2))[2]
    loss = lambda p, t: losses.dice(p, t, axes=(1, 2, 3))  # noqa: E731
    coarse = hard[:, 1::2, 1::2, 1::2]

    @quick
    def both(outputs, hard):
        scales = np.float32([2.0, 1.0])
        total = objectives.deep_supervision(loss, outputs, hard, axes=(1, 2, 3), scale_weights=scales)
        return total, 2 * loss(outputs[0], hard) + loss(outputs[1], coarse)

    np.testing.assert_allclose(*both(outputs, hard), rtol=1e-6)
    with pytest.raises(ValueError, match="more pixels"):
        objectives.deep_supervision(loss, outputs[::-1], coarse, axes=(1, 2, 3))
    with pytest.raises(ValueError, match="scale_weights must be"):
        objectives.deep_supervision(loss, outputs, hard, axes=(1, 2, 3), scale_weights=np.ones(3))
    with pytest.raises(ValueError, match="at least one"):
        objectives.deep_supervision(loss, [], hard)


def test_the_hardest_units():
    values = jnp.array([[3.0, 1.0, 2.0, 2.0], [0.0, 5.0, 2.0, 4.0]])
    mask = objectives.hardest(values, count=4)
    assert mask.tolist() == [[True, False, True, False], [False, True, False, True]], "of equal ones the earlier"
    each = objectives.hardest(values, fraction=0.5, axes=(1,))
    assert each.tolist() == [[True, False, True, False], [False, True, False, True]]
    np.testing.assert_array_equal(objectives.hardest(values.T, fraction=0.5, axes=(0,)), each.T)
    for fraction in np.linspace(0, 1, 11):
        k = int(objectives.hardest(jnp.arange(40.0), fraction=fraction).sum())
        assert k == max(1, round(40 * fraction))
    swept = quick(jax.vmap(lambda f: objectives.hardest(values, fraction=f).sum()))(jnp.array([0.25, 0.5, 1.0]))
    assert swept.tolist() == [2, 4, 8]


def test_the_hardest_of_those_that_take_part():
    values = jnp.array([jnp.nan, 9.0, -jnp.inf, 1.0, jnp.nan, 2.0])
    where = np.array([False, False, True, True, True, True])
    assert objectives.hardest(values, count=2, where=where).tolist() == [False, False, False, False, True, True]
    assert objectives.hardest(values, fraction=1.0, where=where).tolist() == where.tolist()
    assert objectives.hardest(values, fraction=0.5, where=where).sum() == 2
    assert not objectives.hardest(values, count=3, where=False).any()
    f = lambda x: jnp.sum(x, where=objectives.hardest(x, fraction=0.5))  # noqa: E731
    assert quick(jax.grad(f))(jnp.array([1.0, 3.0])).tolist() == [0, 1], "the choice has no gradient"
    for wrong in ({}, {"count": 1, "fraction": 0.5}):
        with pytest.raises(ValueError, match="exactly one"):
            objectives.hardest(values, **wrong)
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\]"):
        objectives.hardest(values, fraction=1.5)
