"""Classification beyond the contract: peers under the conventions that docstrings claim, and the peers' own faults."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import _numerics, losses
from tests import vocabulary as v
from tests.oracles import multiclass as oracle
from tests.vocabulary import quick

INTEGER = losses.softmax_cross_entropy_with_integer_labels
SOFT = losses.softmax_cross_entropy
LABELLED = {n: f for n, f in v.LOSSES.items() if v.data_arguments(f)[1:] == ["labels"] and v.family(f) == "multiclass"}
SMOOTH = {n: LABELLED[n] for n in ("softmax_cross_entropy_with_integer_labels", "softmax_focal", "poly1")}
MARGINS = {n: LABELLED[n] for n in ("multiclass_hinge", "weston_watkins_hinge", "multiclass_perceptron")}
SIGNED = {n: f for n, f in v.LOSSES.items() if v.data_arguments(f)[1:] == ["signs"]}
LARGEST = v.LARGEST


def rows(seed=0, units=(7,), classes=5, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(*units, classes))).astype(np.float32)
    return logits, rng.integers(0, classes, size=units), rng.dirichlet(np.ones(classes), size=units).astype(np.float32)


def pairs(seed=0, n=40):
    rng = np.random.default_rng(seed)
    return (3 * rng.normal(size=n)).astype(np.float32), rng.integers(0, 2, n).astype(np.float32)


def mp(array):
    return np.vectorize(lambda x: mpmath.mpf(float(x)), otypes=[object])(np.asarray(array, np.float64))


# ---- confident rows: promise L1 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_confident_rows_keep_their_digits(name, dtype):
    """Value and label gradient within 8 ulp for gaps from 0 to 80, in any 16 bits as those round the logits."""
    logits, labels, _ = rows(1, (81,))
    logits[np.arange(81), labels] = logits.max(axis=1) + np.arange(81)
    logits = jnp.asarray(logits, dtype)
    wide = np.asarray(logits, np.float32)
    slopes_of = jax.grad(lambda z: SMOOTH[name](z, labels, reduction="sum"))
    values, gradients = jax.jit(lambda z, wide: (SMOOTH[name](z, labels, reduction="none"), slopes_of(wide)))(
        logits, wide
    )
    with mpmath.workdps(150):
        exact = getattr(oracle, name)(mp(wide), labels)
        step = mpmath.mpf(10) ** -40
        moved = mp(wide)
        moved[np.arange(81), labels] += step
        slopes = (getattr(oracle, name)(moved, labels) - exact) / step
    for i in range(81):
        if abs(exact[i]) > v.TINY:
            assert v.ulps(values[i], exact[i]) <= 8, i
        if abs(slopes[i]) > v.TINY:
            assert v.ulps(gradients[i, labels[i]], slopes[i]) <= 8, i


@pytest.mark.parametrize("name", ["sigmoid_binary_cross_entropy", "sigmoid_focal", "logistic"])
@pytest.mark.parametrize("target", [0, 1])
def test_confident_decisions_keep_their_digits(name, target):
    gaps = np.linspace(0, 80, 161).astype(np.float32)
    z = gaps if target else -gaps
    y = np.full_like(z, 2 * target - 1 if name == "logistic" else target)
    from tests.oracles import oracles

    loss = v.LOSSES[name]
    slopes_of = jax.grad(lambda z, y: loss(z, y, reduction="sum"))
    values, gradients = jax.jit(lambda z, y: (loss(z, y, reduction="none"), slopes_of(z, y)))(z, y)
    with mpmath.workdps(150):
        exact = oracles()[name](mp(z), mp(y))
        step = mpmath.mpf(10) ** -40
        slopes = (oracles()[name](mp(z) + step, mp(y)) - exact) / step
    for i in range(len(z)):
        if abs(exact[i]) > v.TINY:
            assert v.ulps(values[i], exact[i]) <= 8, z[i]
        if abs(slopes[i]) > v.TINY:
            assert v.ulps(gradients[i], slopes[i]) <= 8, z[i]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_equal_logits_are_log_classes(dtype):
    labels, even = np.array([0, 3]), np.full((2, 7), 1 / 7)

    @quick
    def values_and_gradient(logits):
        options = {}, {"label_smoothing": 0.1}
        values = [(INTEGER(logits, labels, **o), SOFT(logits, even, **o)) for o in options]
        slope = jax.grad(lambda z: INTEGER(z, labels, reduction="sum"))
        return jnp.array(values), slope(logits.astype(jnp.float32))

    for offset in (0.0, 1000.0, -1000.0, 1e8, -1e30)[: 3 if dtype == "float16" else 5]:
        values, gradient = values_and_gradient(np.full((2, 7), offset, jnp.dtype(dtype)))
        np.testing.assert_allclose(values, np.log(7), rtol=3e-7)
        np.testing.assert_allclose(gradient[0], np.array([-6, 1, 1, 1, 1, 1, 1]) / 7, rtol=1e-6)


def test_soft_and_integer_labels_agree():
    logits, labels, _ = rows(2, (64,))
    logits[np.arange(64), labels] += np.linspace(0, 80, 64)
    hot = np.eye(5, dtype=np.float32)[labels]
    for options in (
        {},
        {"label_smoothing": 0.1},
        {"z_loss": 1e-3},
        {"soft_cap": 5.0},
        {"label_smoothing": 0.1, "z_loss": 0.5},
    ):
        a, b = quick(
            lambda z, o=options: (
                jax.value_and_grad(lambda z: INTEGER(z, labels, **o))(z),
                jax.value_and_grad(lambda z: SOFT(z, hot, **o))(z),
            )
        )(logits)
        np.testing.assert_allclose(a[0], b[0], rtol=1e-6)
        np.testing.assert_allclose(a[1], b[1], rtol=1e-5, atol=1e-9)
    values, exact = quick(jax.vmap(jax.value_and_grad(INTEGER)))(logits, labels)
    one_hot_values, slopes = quick(jax.vmap(jax.value_and_grad(SOFT)))(logits, hot)
    np.testing.assert_allclose(values, one_hot_values, rtol=1e-6)
    label = lambda g: np.asarray(g)[np.arange(64), labels]  # noqa: E731
    np.testing.assert_allclose(label(slopes), label(exact), rtol=2e-6)


# ---- classes that do not exist, ties, second derivatives: promises L3, L6, L7, L11 -----------------------------------


def hostile_rows():
    some = [0.0, -np.inf, 1.0, 80.0, -1e30]
    logits = np.array(list(itertools.product(some, repeat=3)), np.float32)
    labels = np.arange(len(logits)) % 3
    return logits, labels


@pytest.mark.parametrize("name", LABELLED)
def test_missing_classes(name):
    """Finite where the label exists; infinite where it does not, without a NaN in any derivative."""
    loss = LABELLED[name]
    logits, labels = hostile_rows()
    if v.data_arguments(loss)[0] == "probabilities":
        return
    ones = np.where(np.isfinite(logits), 1, 0).astype(np.float32)
    f = lambda z: loss(z, labels, reduction="none")  # noqa: E731
    slope = jax.grad(lambda z: loss(z, labels, reduction="sum"))
    both = quick(lambda z: (jax.jvp(f, (z,), (ones,)), jax.jvp(slope, (z,), (ones,))))
    (values, tangent), gradient_and_hvp = both(logits)
    values = np.asarray(values)
    exists = np.isfinite(logits[np.arange(len(logits)), labels])
    assert np.isfinite(values[exists]).all()
    assert not np.isnan(values).any()
    assert (values >= 0).all()
    if name not in MARGINS:
        assert np.isposinf(values[~exists]).all()
    assert np.isfinite(tangent).all()
    assert np.isfinite(gradient_and_hvp).all()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 1e-3}, {"soft_cap": 30.0}], ids=str)
def test_rows_without_classes_do_not_poison(options):
    logits = np.array([[-np.inf] * 3, [0.0, 1.0, -np.inf]], np.float32)
    targets = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]], np.float32)
    of_labels = jax.value_and_grad(lambda z: INTEGER(z, np.array([0, 1]), reduction="sum", **options))
    of_rows = jax.value_and_grad(lambda *a: SOFT(*a, reduction="sum", **options), argnums=(0, 1))
    (value, gradient), soft = quick(lambda z, t: (of_labels(z), of_rows(z, t)))(logits, targets)
    assert np.isposinf(value)
    assert np.isfinite(gradient).all()
    value, gradients = soft
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_hessian_is_diag_p_minus_pp():
    rows = np.float32([[1, 1, 1], [0, 0, -3], [2, 0.5, -1], [30, 0, 0], [0, -np.inf, 0]])
    p = np.exp(rows - rows.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :]
    for f in (lambda z: INTEGER(z, 0), lambda z: SOFT(z, np.float32([0.75, 0.0, 0.25]))):
        for second in (jax.jacfwd(jax.grad(f)), jax.jacrev(jax.grad(f)), jax.jacfwd(jax.jacfwd(f))):
            np.testing.assert_allclose(quick(jax.vmap(second))(rows), expected, atol=1e-6)


def test_mixed_derivative_of_the_soft_form():
    """d/dt_k d/dz_j = p_j - [j = k], at ties too."""
    z, t = np.float32([1.0, 1.0, 0.0]), np.float32([0.2, 0.3, 0.5])
    p = np.exp([0.0, 0.0, -1.0]) / np.exp([0.0, 0.0, -1.0]).sum()
    expected = p[None] - np.eye(3)
    f = jax.jacfwd(jax.grad(SOFT, argnums=1), argnums=0)
    np.testing.assert_allclose(quick(f)(z, t), expected, atol=1e-6)
    np.testing.assert_allclose(quick(jax.jacfwd(jax.grad(SOFT), argnums=1))(z, t).T, expected, atol=1e-6)


@pytest.mark.parametrize("name", [*SMOOTH, "softmax_cross_entropy"])
def test_gradient_at_ties_is_the_derivative(name):
    second = np.array([0.1, 0.2, 0.3, 0.4]) if name == "softmax_cross_entropy" else 1
    rows = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -2.0, 0.5], [3.0, 0.0, 0.0, -1.0]])
    f = lambda z: v.LOSSES[name](z, second)  # noqa: E731

    def numeric(g, z, h=1e-5):
        steps = h * jnp.eye(4)
        return (jax.vmap(g)(z[None] + steps) - jax.vmap(g)(z[None] - steps)) / (2 * h)

    def derivatives(z):
        return (jax.grad(f)(z), jax.hessian(f)(z)), (numeric(f, z), numeric(jax.grad(f), z))

    with jax.enable_x64(True):
        exact, expected = quick(jax.vmap(derivatives))(rows)
    for a, b in zip(exact, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("name", ["sigmoid_binary_cross_entropy", "sigmoid_focal", "logistic"])
def test_second_derivative_of_decisions(name):
    z, targets = np.array([0.0, -0.0, 1.0, -1.0, 3.0]), (1.0,) if name == "logistic" else (0.0, 0.3, 1.0)
    z, t = (x.ravel() for x in np.meshgrid(z, targets))
    f, h = v.LOSSES[name], 1e-5
    g = jax.grad(f)

    def derivatives(z, t):
        numeric = [(f(z + h, t) - f(z - h, t)) / (2 * h) for f in (f, g)]
        return [g(z, t), jax.grad(g)(z, t)], numeric

    with jax.enable_x64(True):
        exact, numeric = quick(jax.vmap(derivatives))(z, t)
    np.testing.assert_allclose(exact, numeric, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in v.LOSSES if v.family(v.LOSSES[n]) in ("binary", "multiclass")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_never_negative(name, dtype):
    loss = v.LOSSES[name]
    units = quick(functools.partial(loss, reduction="none"))
    for seed in range(4):
        arrays = v.draw(loss, (1000,), seed=seed, dtype=dtype)
        if v.data_arguments(loss)[0] == "logits":
            arrays[0] = (arrays[0] * (10.0 ** (seed - 1))).astype(arrays[0].dtype)
        assert (units(*arrays) >= 0).all()
    if name == "poly1":
        assert (units(*v.draw(loss, (1000,)), epsilon=-1.0) >= 0).all()


# ---- focal: any gamma, any logit -------------------------------------------------------------------------------------


def test_focal_is_finite_for_every_gamma():
    """Optax's is NaN at the largest logits, and textbook forms have infinite slopes below gamma = 1."""
    z = np.array([0.0, 1e-30, 5.0, 20.0, 60.0, 88.0, 100.0, 1e4, 1e30, LARGEST], np.float32)
    z = np.concatenate([z, -z])
    rivals = np.stack([z, np.zeros_like(z), -0.5 * z], axis=1)
    decisions = lambda z, t, gamma: losses.sigmoid_focal(z, t, gamma=gamma, reduction="sum")  # noqa: E731
    rows = lambda z, y, gamma: losses.softmax_focal(z, y, gamma=gamma, reduction="sum")  # noqa: E731
    halves = (0.0, 1.0, 0.3, 1e-30, 1 - 2.0**-24)
    for f, logits, near, seconds in (
        (decisions, z, 1e-3 * z, [np.full_like(z, t) for t in halves]),
        (rows, rivals, np.clip(rivals, -1e4, 1e4), [np.zeros(len(z), int)]),
    ):
        by_logit, by_gamma = jax.grad(f), jax.grad(f, argnums=2)
        slopes = quick(lambda z, near, t, gamma, a=by_logit, b=by_gamma: (a(z, t, gamma), b(near, t, gamma)))
        for gamma in (0.0, 0.01, 0.5, 1.0, 2.0, 5.0):
            known = lambda z, t, g=by_logit, gamma=gamma: g(z, t, gamma)  # noqa: E731
            hvp = quick(lambda z, t, g=known: jax.jvp(lambda z: g(z, t), (z,), (jnp.ones_like(z),))[1])
            for second in seconds:
                for slope in (*slopes(logits, near, second, np.float32(gamma)), hvp(logits, second)):
                    assert np.isfinite(slope).all(), gamma


def test_focal_without_focus_is_cross_entropy():
    z, t = pairs()
    plain, focal = quick(lambda: (losses.sigmoid_binary_cross_entropy(z, t), losses.sigmoid_focal(z, t, gamma=0.0)))()
    np.testing.assert_allclose(focal, plain, rtol=1e-6)
    logits, labels, _ = rows()
    value, gradient = quick(jax.value_and_grad(lambda z: INTEGER(z, labels)))(logits)
    slopes = jax.value_and_grad(lambda z, gamma: losses.softmax_focal(z, labels, gamma=gamma))
    for own in (quick(lambda z: slopes(z, 0.0))(logits), quick(slopes)(logits, 0.0)):
        np.testing.assert_allclose(own[0], value, rtol=1e-6)
        np.testing.assert_allclose(own[1], gradient, rtol=1e-5, atol=1e-8)


# ---- wrong calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LABELLED)
def test_label_shapes(name):
    logits = np.abs(rows()[0]) / 10
    for wrong in (np.zeros((7, 1), int), np.zeros(1, int), np.zeros((), int), np.zeros((5,), int)):
        with pytest.raises(ValueError, match="labels"):
            LABELLED[name](logits, wrong)
    for dtype in (np.int8, np.uint8, np.int16, np.int32, np.uint32):
        labels = np.arange(7).astype(dtype) % 5
        assert LABELLED[name](logits, labels) == LABELLED[name](logits, labels.astype(np.int32))


def test_narrow_labels_and_many_classes():
    logits = rows(3, (6,), 600)[0]
    labels = np.array([0, 1, 100, 200, 254, 255])
    run = quick(jax.value_and_grad(INTEGER))
    for a, b in zip(run(logits, labels.astype(np.uint8)), run(logits, labels), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", LABELLED)
def test_traced_labels_out_of_range_are_nan_in_the_gradient_too(name):
    logits = np.abs(rows(0, (3,))[0]) / 10
    gradient = quick(jax.grad(lambda z, y: LABELLED[name](z, y, reduction="sum")))(logits, np.array([0, -1, 5]))
    assert np.isfinite(gradient[0]).all()
    assert np.isnan(gradient[1:]).any(axis=1).all()


def test_ignored_labels_are_masked():
    logits, labels, _ = rows()
    ignored = np.where(np.arange(7) % 3 == 0, -100, labels)
    keep = ignored != -100
    expected = float(quick(INTEGER)(logits[keep], labels[keep]))
    assert INTEGER(logits, ignored, where=keep) == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(quick(jax.grad(lambda z, y: INTEGER(z, y, where=y != -100)))(logits, ignored)).all()


@pytest.mark.parametrize("name", SIGNED)
def test_zero_is_no_sign(name):
    z, t = pairs()
    with pytest.raises(ValueError, match="signs must be -1 or \\+1, got 0"):
        SIGNED[name](z, t)
    assert np.isnan(quick(SIGNED[name])(z, t))
    assert SIGNED[name](z, (2 * t - 1).astype(np.int8)) == SIGNED[name](z, 2 * t - 1)
    keep = t != 0
    assert np.isfinite(SIGNED[name](z, t, where=keep))


@pytest.mark.parametrize("loss", [losses.sigmoid_binary_cross_entropy, losses.sigmoid_focal])
def test_targets_are_probabilities(loss):
    z, t = pairs()
    for dtype in (bool, np.int32, np.uint8, np.float64):
        np.testing.assert_array_equal(loss(z, t.astype(dtype)), loss(z, t))
    for wrong in (2 * t - 1, 255 * t):
        with pytest.raises(ValueError, match="targets must be in \\[0, 1\\], got"):
            loss(z, wrong)
        units = quick(lambda z, t: loss(z, t, reduction="none"))(z, wrong)
        np.testing.assert_array_equal(np.isnan(units), (wrong < 0) | (wrong > 1))


@pytest.mark.parametrize("loss", [SOFT, losses.cross_entropy])
def test_negative_targets_are_refused(loss):
    arrays = np.full((3, 2), 0.5, np.float32), np.array([[0.5, 0.5], [-0.25, 1.0], [1.0, 0.0]], np.float32)
    with pytest.raises(ValueError, match=r"targets must be nonnegative, got -0.25"):
        loss(*arrays)
    gradients = jax.grad(lambda *a: loss(*a, reduction="sum"), argnums=(0, 1))
    units, gradients = quick(lambda *a: (loss(*a, reduction="none"), gradients(*a)))(*arrays)
    np.testing.assert_array_equal(np.isnan(units), [False, True, False])
    for gradient in gradients:
        np.testing.assert_array_equal(np.isnan(gradient).any(axis=1), [False, True, False])
    assert np.isfinite(loss(*arrays, where=np.array([True, False, True])))


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (INTEGER, {"label_smoothing": 1.5}, "label_smoothing must be in"),
        (INTEGER, {"z_loss": -1.0}, "z_loss must be nonnegative"),
        (INTEGER, {"soft_cap": 0.0}, "soft_cap must be positive"),
        (INTEGER, {"class_weights": np.ones(4)}, "class_weights must be \\[5\\]"),
        (INTEGER, {"class_weights": 2.0}, "class_weights must be \\[5\\]"),
        (losses.softmax_focal, {"gamma": -1.0}, "gamma must be nonnegative"),
        (losses.softmax_focal, {"class_weights": np.ones((1, 5))}, "class_weights must be \\[5\\]"),
        (losses.poly1, {"epsilon": -2.0}, "epsilon must be at least -1"),
        (losses.multiclass_hinge, {"margin": 0.0}, "margin must be positive"),
    ],
)
def test_hyperparameters_out_of_range(loss, options, message):
    logits, labels, _ = rows()
    with pytest.raises(ValueError, match=message):
        loss(logits, labels, **options)


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"z_loss": 0.01}, {"soft_cap": 3.0}], ids=str)
def test_options_against_the_oracle(options):
    logits, labels, targets = rows(5)
    number = {k: mpmath.mpf(float(np.float32(x))) for k, x in options.items()}
    for loss, second, f in (
        (INTEGER, labels, oracle.softmax_cross_entropy_with_integer_labels),
        (SOFT, targets, oracle.softmax_cross_entropy),
    ):
        exact = f(mp(logits), second if second is labels else mp(second), **number)
        run = quick(lambda z, y, loss=loss: loss(z, y, reduction="none", **options))
        np.testing.assert_allclose(run(logits, second), exact.astype(float), rtol=2e-6)


def test_smoothing_spreads_over_the_classes_that_exist():
    logits, labels = np.array([[1.0, -np.inf, 0.0]], np.float32), np.array([0])
    hot = np.array([[1.0, 0.0, 0.0]], np.float32)

    @quick
    def smoothed(logits):
        return [
            f(z, y, label_smoothing=0.2)
            for f, z, y in (
                (INTEGER, logits[:, [0, 2]], labels),
                (INTEGER, logits, labels),
                (SOFT, logits, hot),
            )
        ]

    with_two, *others = smoothed(logits)
    np.testing.assert_allclose(others, [with_two] * 2, rtol=1e-6)


def test_terms_that_are_zero_are_left_out():
    logits, labels, _ = rows()
    size = lambda **o: str(jax.make_jaxpr(lambda z: INTEGER(z, labels, **o))(logits)).count("\n")  # noqa: E731
    assert (
        size()
        == size(label_smoothing=0.0, z_loss=0, soft_cap=None)
        < size(label_smoothing=0.1)
        < size(label_smoothing=0.1, z_loss=1e-4)
    )


def test_soft_cap():
    z = np.array([-np.inf, -LARGEST, -100.0, -1e-3, 0.0, 1e-3, 3.0, 100.0, LARGEST], np.float32)
    run = quick(jax.vmap(jax.value_and_grad(_numerics.soft_cap, argnums=(0, 1)), (0, None)))
    capped, (slope, _) = run(z, np.float32(30.0))
    assert np.isneginf(capped[0])
    np.testing.assert_allclose(capped[1:], 30 * np.tanh(z[1:].astype(np.float64) / 30), rtol=1e-6)
    np.testing.assert_allclose(slope[2:-1], 1 / np.cosh(z[2:-1].astype(np.float64) / 30) ** 2, rtol=2e-6)
    assert np.isfinite(slope).all()
    _, (_, by_cap) = run(z, np.float32(0.1))
    assert np.isfinite(by_cap).all()


def test_pos_weight_by_class_and_smoothing():
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=(6, 3)).astype(np.float32), rng.integers(0, 2, (6, 3)).astype(np.float32)
    weight = np.array([1.0, 4.0, 0.25], np.float32)
    by_hand = np.where(t == 1, weight * np.log1p(np.exp(-z)), np.log1p(np.exp(z)))
    loss = losses.sigmoid_binary_cross_entropy
    value, gradient = quick(jax.value_and_grad(lambda w: loss(z, t, pos_weight=w)))(weight)
    np.testing.assert_allclose(value, by_hand.mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, (t * np.log1p(np.exp(-z))).sum(axis=0) / 18, rtol=1e-6)
    smoothed, smooth = quick(lambda z, t: (loss(z, t, label_smoothing=0.1), loss(z, 0.9 * t + 0.05)))(z, t)
    np.testing.assert_allclose(smoothed, smooth, rtol=1e-6)


def test_probabilities_at_the_ends():
    p = np.array([0.0, 0.0, 1.0, 1.0, 1e-30, 1 - 2.0**-24], np.float32)
    t = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], np.float32)
    values, gradient = quick(jax.vmap(jax.value_and_grad(losses.binary_cross_entropy)))(p, t)
    floor = -np.log(v.TINY)
    np.testing.assert_allclose(values, [0, floor, floor, 0, -np.log(1e-30), 24 * np.log(2)], rtol=1e-6)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(np.asarray(gradient)[[0, 3, 4]], [1, -1, -1e30], rtol=1e-6)
    rows = np.array([[0.0, 1.0], [1e-30, 1.0], [0.25, 0.75]], np.float32)
    hot = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    f = lambda p: losses.cross_entropy(p, hot, reduction="sum")  # noqa: E731
    (value, _), (_, hvp) = quick(lambda p: jax.jvp(jax.value_and_grad(f), (p,), (jnp.ones_like(p),)))(rows)
    assert value == pytest.approx(np.log(4))
    np.testing.assert_allclose(hvp, [[0, 1], [0, 1], [16, 0]], rtol=1e-6)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="probabilities must be in \\[0, 1\\]"):
            losses.binary_cross_entropy(np.float32([wrong]), np.float32([1]))
        with pytest.raises(ValueError, match="probabilities must be in \\[0, 1\\]"):
            losses.cross_entropy(np.float32([wrong, 0.5]), np.float32([1, 0]))
    assert np.isnan(quick(losses.cross_entropy)(np.float32([1.1, 0.5]), np.float32([1, 0])))


# ---- margins ---------------------------------------------------------------------------------------------------------


def test_kinks_and_ties():
    for loss, prediction, truth, expected in (
        (losses.hinge, 1.0, 1, 0),
        (losses.squared_hinge, 1.0, 1, 0),
        (losses.perceptron, 0.0, 1, -1),  # a tie is a mistake
        (losses.multiclass_hinge, [1.0, 0.0], 0, [0, 0]),
        (losses.multiclass_perceptron, [0.0, 0.0, 0.0], 0, [-1, 0.5, 0.5]),
        (losses.multiclass_hinge, [0.0, 0.0, 0.0], 0, [-1, 0.5, 0.5]),
        (losses.weston_watkins_hinge, [0.0, 0.0, 0.0], 0, [-2, 1, 1]),
    ):
        np.testing.assert_array_equal(quick(jax.grad(loss))(np.float32(prediction), truth), expected)


def test_margin_scales():
    logits, labels, _ = rows()
    z, t = pairs()
    for loss, first, second in (
        (losses.multiclass_hinge, logits, labels),
        (losses.weston_watkins_hinge, logits, labels),
        (losses.hinge, z, 2 * t - 1),
    ):
        both = quick(lambda x, y, loss=loss: (loss(2 * x, y, margin=2.0), 2 * loss(x, y)))
        np.testing.assert_allclose(*both(first, second), rtol=1e-6)


# ---- peers -----------------------------------------------------------------------------------------------------------


def check(ours, peer, *arrays, rtol=1e-5):
    """Value and gradient by the first array."""
    value, gradient = quick(jax.value_and_grad(ours))(*arrays)
    peer_value, peer_gradient = quick(jax.value_and_grad(peer))(*arrays)
    np.testing.assert_allclose(value, peer_value, rtol=rtol)
    np.testing.assert_allclose(gradient, peer_gradient, rtol=rtol, atol=1e-7)


OPTAX = {
    "sigmoid_binary_cross_entropy": ("sigmoid_binary_cross_entropy", "binary", {}),
    "sigmoid_focal": ("sigmoid_focal_loss", "binary", {}),
    "hinge": ("hinge_loss", "sign", {}),
    "perceptron": ("perceptron_loss", "sign", {}),
    "softmax_cross_entropy": ("softmax_cross_entropy", "soft", {}),
    "softmax_cross_entropy_with_integer_labels": ("softmax_cross_entropy_with_integer_labels", "label", {}),
    "multiclass_hinge": ("multiclass_hinge_loss", "label", {}),
    "multiclass_perceptron": ("multiclass_perceptron_loss", "label", {}),
    "poly1": ("poly_loss_cross_entropy", "hot", {"epsilon": 2.0}),
}


@pytest.mark.parametrize("name", OPTAX)
def test_optax(name):
    optax_losses = pytest.importorskip("optax.losses")
    peer_name, kind, options = OPTAX[name]
    peer = getattr(optax_losses, peer_name)
    logits, labels, targets = rows()
    z, t = pairs()
    second = {"binary": t, "sign": 2 * t - 1, "soft": targets, "label": labels, "hot": labels}[kind]
    theirs = np.eye(5, dtype=np.float32)[labels] if kind == "hot" else second
    first = logits if kind in ("soft", "label", "hot") else z
    if peer_name in ("multiclass_hinge_loss", "multiclass_perceptron_loss"):
        peer = jax.vmap(peer)
    check(lambda z: v.LOSSES[name](z, second, **options), lambda z: jnp.mean(peer(z, jnp.asarray(theirs))), first)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_optax_focal_of_soft_targets(alpha, gamma):
    optax = pytest.importorskip("optax")
    z, _ = pairs()
    t = np.random.default_rng(1).uniform(size=z.shape).astype(np.float32)
    peer = lambda z: optax.losses.sigmoid_focal_loss(z, jnp.asarray(t), alpha=alpha, gamma=gamma).mean()  # noqa: E731
    check(lambda z: losses.sigmoid_focal(z, t, alpha=alpha, gamma=gamma), peer, z)


def test_soft_focal_of_the_inventory():
    """y = 0.3, z = 2: torchvision, Keras and Optax have 0.650."""
    assert losses.sigmoid_focal(np.float32(2), np.float32(0.3)) == pytest.approx(0.650, abs=5e-4)


def tensor(x):
    import torch

    return torch.tensor(
        np.asarray(x).astype(np.int64) if np.issubdtype(np.asarray(x).dtype, np.integer) else np.asarray(x)
    )


WEIGHTS = [1, 2, 0.5, 3, 0]
TORCH = {
    "int": (INTEGER, "cross_entropy", "label", {}, {}, 1),
    "int, smoothed": (INTEGER, "cross_entropy", "label", {"label_smoothing": 0.2}, {"label_smoothing": 0.2}, 1),
    "int, weighted": (
        INTEGER,
        "cross_entropy",
        "label",
        {"class_weights": WEIGHTS},
        {"weight": WEIGHTS},
        1,
    ),
    "soft": (SOFT, "cross_entropy", "soft", {}, {}, 1),
    "soft, smoothed, weighted": (
        SOFT,
        "cross_entropy",
        "soft",
        {"class_weights": WEIGHTS, "label_smoothing": 0.2},
        {"weight": WEIGHTS, "label_smoothing": 0.2},
        1,
    ),
    "hinge": (losses.weston_watkins_hinge, "multi_margin_loss", "label", {"margin": 0.5}, {"margin": 0.5}, 5),
    "squared hinge": (losses.weston_watkins_hinge, "multi_margin_loss", "label", {"squared": True}, {"p": 2}, 5),
    "bce": (losses.sigmoid_binary_cross_entropy, "binary_cross_entropy_with_logits", "binary", {}, {}, 1),
    "bce, weighted": (
        losses.sigmoid_binary_cross_entropy,
        "binary_cross_entropy_with_logits",
        "binary",
        {"pos_weight": 3.0},
        {"pos_weight": 3.0},
        1,
    ),
    "probabilities": (losses.binary_cross_entropy, "binary_cross_entropy", "probability", {}, {}, 1),
    "soft margin": (losses.logistic, "soft_margin_loss", "sign", {}, {}, 1),
}


@pytest.mark.parametrize("case", TORCH)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_torch(case, reduction):
    torch = pytest.importorskip("torch")
    ours, name, kind, options, theirs, divide = TORCH[case]
    logits, labels, targets = rows()
    z, t = pairs()
    first = {"label": logits, "soft": logits, "probability": 1 / (1 + np.exp(-z))}.get(kind, z)
    second = {"label": labels, "soft": targets, "sign": 2 * t - 1}.get(kind, t)
    leaf = torch.tensor(first, requires_grad=True)
    hyper = {k: torch.tensor(x, dtype=torch.float32) if k in ("weight", "pos_weight") else x for k, x in theirs.items()}
    value = getattr(torch.nn.functional, name)(leaf, tensor(second), reduction=reduction, **hyper)
    value.backward()
    assert leaf.grad is not None
    options = {k: np.array(x, np.float32) if isinstance(x, list) else x for k, x in options.items()}
    own, gradient = quick(jax.value_and_grad(lambda x: ours(x, second, reduction=reduction, **options) / divide))(first)
    np.testing.assert_allclose(own, value.item(), rtol=2e-6)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_smoothing_with_class_weights_differs_from_torch_as_documented():
    torch = pytest.importorskip("torch")
    logits, labels, _ = rows()
    weight = np.array([1, 2, 0.5, 3, 0.25], np.float32)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), tensor(labels), weight=torch.tensor(weight), label_smoothing=0.2
    ).item()
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    plain = -log_probs[np.arange(7), labels] * weight[labels]
    spread_torch = (0.8 * plain - 0.2 * (log_probs * weight).mean(axis=1)).sum() / weight[labels].sum()
    spread_ours = (0.8 * plain - 0.2 * log_probs.mean(axis=1) * weight[labels]).sum() / weight[labels].sum()
    assert theirs == pytest.approx(spread_torch, rel=1e-5)
    ours = INTEGER(logits, labels, class_weights=weight, label_smoothing=0.2)
    assert ours == pytest.approx(spread_ours, rel=1e-5)


def test_class_weights_are_unit_weights():
    logits, labels, _ = rows()
    class_weights, weights = np.array([1, 2, 0.5, 3, 0.25], np.float32), np.arange(7.0, dtype=np.float32)
    keep = np.arange(7) != 2
    for loss in (INTEGER, losses.softmax_focal):
        expected = loss(logits, labels, weights=class_weights[labels] * weights, where=keep)
        spoiled = np.where(keep, weights, np.nan)
        f = lambda c, loss=loss, w=spoiled: loss(logits, labels, class_weights=c, weights=w, where=keep)  # noqa: E731
        np.testing.assert_allclose(f(class_weights), expected, rtol=1e-6)
        assert np.isfinite(jax.grad(f)(class_weights)).all()
        with pytest.raises(TypeError, match="class_weights"):
            loss(logits, labels, class_weights=np.ones(5, complex))


def test_log_loss_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels, _ = rows(4, (20,))
    p = np.asarray(jax.nn.softmax(logits))
    z, t = pairs()
    log_loss, hinge_loss = metrics.log_loss(labels, p, labels=range(5)), metrics.hinge_loss
    for ours, theirs in (
        (quick(INTEGER)(logits, labels), log_loss),
        (quick(losses.cross_entropy_with_integer_labels)(p, labels), log_loss),
        (quick(losses.hinge)(z, 2 * t - 1), hinge_loss(2 * t - 1, z)),
        (quick(losses.multiclass_hinge)(logits, labels), hinge_loss(labels, logits, labels=range(5))),
    ):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_keras_categorical_hinge_is_another_loss():
    """Its best rival is 0 at least: 6 where Optax and the paper have 4."""
    assert losses.multiclass_hinge(np.float32([-2, -5, -4]), 1) == 4


# ---- faults of peers -------------------------------------------------------------------------------------------------


def test_confident_rows_are_not_zero():
    """optax, torch, Keras and rax give 0 at a gap of 20."""
    for loss, truth in ((INTEGER, 0), (SOFT, np.float32([1, 0, 0]))):
        value, gradient = quick(jax.value_and_grad(loss))(np.float32([20, 0, 0]), truth)
        np.testing.assert_allclose([value, -gradient[0]], 4.122307e-9, rtol=1e-6)


def test_both_sides_of_a_decision_are_alike():
    """torch has 0 for (-20, 0) and 2.06e-9 for (20, 1)."""
    z = np.float32([-20, 20])
    values, slopes = quick(jax.vmap(jax.value_and_grad(losses.sigmoid_binary_cross_entropy)))(z, np.float32([0, 1]))
    np.testing.assert_allclose(values, 2.0611536e-9, rtol=1e-6)
    np.testing.assert_allclose(slopes, [2.0611536e-9, -2.0611536e-9], rtol=1e-6)


def test_infinite_log_odds_are_certain():
    z, t = np.float32([-np.inf, np.inf]), np.float32([0, 1])
    value, gradient = quick(jax.value_and_grad(losses.sigmoid_binary_cross_entropy))(z, t)
    assert value == 0
    assert not np.any(gradient)


def test_a_missing_class_against_a_zero_target():
    """optax, torch (probabilities) and Keras give NaN."""
    z, t = np.float32([0, -np.inf, 1]), np.float32([0.25, 0, 0.75])
    run = quick(lambda z, t: (SOFT(z, t), jax.jacfwd(SOFT)(z, t)))
    value, slopes = run(z, t)
    np.testing.assert_allclose(value, quick(SOFT)(z[[0, 2]], t[[0, 2]]), rtol=1e-6)
    assert np.isfinite(slopes).all()
    assert np.isposinf(run(z, np.float32([0.5, 0.25, 0.25]))[0])


def test_the_soft_margin_does_not_overflow():
    z = np.float32([-100, -1e4, -LARGEST])
    values, slopes = quick(jax.vmap(jax.value_and_grad(losses.logistic)))(z, np.ones(3))
    np.testing.assert_allclose(values, -z)
    np.testing.assert_array_equal(slopes, [-1, -1, -1])


def test_an_exact_shift_changes_nothing():
    logits, labels, targets = rows(6, (200,))
    logits = np.round(8 * logits) / 8
    for f, second in ((INTEGER, labels), (SOFT, targets)):
        run = quick(lambda z, y, f=f: f(z, y, reduction="none"))
        expected = run(logits, second)
        for shift in (-64.0, 0.5, 1024.0):
            np.testing.assert_allclose(run(logits + np.float32(shift), second), expected, rtol=5e-7)


def test_poly1_next_to_minus_one():
    """-log p - (1 - p) is about (1 - p)^2 / 2, which a difference of the two would lose."""
    z = np.float32([[10, 0], [4, 0], [0.5, 0], [0, 3]])
    values = quick(lambda z: losses.poly1(z, np.zeros(4, int), epsilon=-1.0, reduction="none"))(z)
    with mpmath.workdps(50):
        exact = oracle.poly1(mp(z), np.zeros(4, int), epsilon=mpmath.mpf(-1))
    assert all(v.ulps(a, b) <= 8 for a, b in zip(values, exact, strict=True))
