"""Ordered classes: thresholds, cumulative distributions, kappa; against peers and at hostile numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossax import activations, losses, targets
from tests import vocabulary as v
from tests.test_losses import compare
from tests.vocabulary import quick

RNG = np.random.default_rng(0)
LOGITS = np.float32(2.0 * RNG.normal(size=(40, 4)))
LABELS = RNG.integers(0, 5, size=40)
THRESHOLDS = np.float32([-1.5, -0.25, 0.5, 2.0])


def once(f, *arrays, **options):
    """A loss as one program."""
    return quick(functools.partial(f, **options))(*arrays)


# ---- peers -----------------------------------------------------------------------------------------------------------


def test_coral_is_that_of_its_authors():
    """The example of `coral_pytorch.losses.coral_loss`."""
    logits = jnp.array([[2.1, 1.8, -2.1, -1.8], [1.9, -1.0, -1.5, -1.3], [1.9, 1.8, 1.7, 1.6]])
    assert round(once(losses.coral, logits, jnp.array([2, 1, 4])).item(), 4) == 0.6920


@pytest.mark.parametrize("importance", [None, np.float32([1.0, 0.5, 2.0, 0.25])])
def test_coral_and_corn_are_those_of_coral_pytorch(importance):
    torch = pytest.importorskip("torch")
    peer = pytest.importorskip("coral_pytorch.losses")
    levels = np.float32(LABELS[:, None] > np.arange(4))
    weights = None if importance is None else torch.tensor(importance)
    expected = peer.coral_loss(torch.tensor(LOGITS), torch.tensor(levels), importance_weights=weights)
    actual = once(losses.coral, LOGITS, LABELS, threshold_weights=importance)
    np.testing.assert_allclose(actual, expected.item(), rtol=1e-6)
    expected = peer.corn_loss(torch.tensor(LOGITS), torch.tensor(LABELS), num_classes=5)
    steps = np.minimum(LABELS + 1, 4).sum()
    np.testing.assert_allclose(
        float(once(losses.corn, LOGITS, LABELS, reduction="sum")) / steps, expected.item(), rtol=1e-6
    )


def test_proportional_odds_are_those_of_statsmodels():
    ordinal = pytest.importorskip("statsmodels.miscmodels.ordinal_model")
    x = RNG.normal(size=(40, 2))
    model = ordinal.OrderedModel(LABELS, x, distr="logit")
    slopes = np.array([0.7, -1.2])
    steps = np.log(np.diff(np.float64(THRESHOLDS)))  # the first threshold, then logarithms of differences
    parameters = np.concatenate([slopes, THRESHOLDS[:1], steps])
    expected = -model.loglike(parameters)
    actual = once(
        losses.proportional_odds, jnp.asarray(x @ slopes, jnp.float32), LABELS, thresholds=THRESHOLDS, reduction="sum"
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize(("power", "name"), [(2.0, "quadratic"), (1.0, "linear"), (0.0, None)])
def test_kappa_is_that_of_scikit_learn(power, name):
    metrics = pytest.importorskip("sklearn.metrics")
    decisions = RNG.integers(0, 5, size=40)
    decisions[:20] = LABELS[:20]
    logits = np.where(np.arange(5) == decisions[:, None], 0.0, -np.inf).astype(np.float32)
    times = RNG.integers(0, 4, size=40)
    expected = metrics.cohen_kappa_score(LABELS, decisions, weights=name, sample_weight=times)
    actual = once(losses.weighted_kappa, logits, LABELS, power=power, weights=times)
    np.testing.assert_allclose(1.0 - actual, expected, atol=1e-6)


# ---- thresholds ------------------------------------------------------------------------------------------------------


def test_corn_is_the_likelihood_of_its_probabilities():
    p = once(activations.ordinal_probabilities, LOGITS, form="conditional")
    expected = once(losses.cross_entropy_with_integer_labels, p, LABELS)
    np.testing.assert_allclose(once(losses.corn, LOGITS, LABELS), expected, rtol=1e-6)


def test_proportional_odds_are_the_likelihood_of_their_probabilities():
    scores = LOGITS[:, 0]
    p = once(activations.ordinal_probabilities, scores[:, None] - THRESHOLDS)
    expected = once(losses.cross_entropy_with_integer_labels, p, LABELS)
    np.testing.assert_allclose(
        once(losses.proportional_odds, scores, LABELS, thresholds=THRESHOLDS), expected, rtol=1e-6
    )


def test_two_classes_are_logistic():
    x, y = LOGITS[:, 0], LABELS % 2
    expected = once(losses.sigmoid_binary_cross_entropy, x, y, reduction="none")
    for actual in (
        once(losses.coral, x[:, None], y, reduction="none"),
        once(losses.corn, x[:, None], y, reduction="none"),
        once(losses.proportional_odds, x, y, thresholds=jnp.zeros(1), reduction="none"),
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [losses.coral, losses.corn], ids=["coral", "corn"])
def test_confident_thresholds_keep_their_digits(loss):
    labels = np.arange(40) % 5
    gaps = np.linspace(0.0, 80.0, 40)[:, None]
    logits = np.float32(np.where(labels[:, None] > np.arange(4), gaps, -gaps))
    compare(loss, [logits, labels], {}, value_ulps=8, gradient_ulps=8)


@pytest.mark.parametrize(
    "thresholds",
    [[-1.5, -0.25, 0.5, 2.0], [-1e-4, 0.0, 1e-6, 1e-3], [-80.0, -1.0, 60.0, 90.0], [-1e30, -1e4, 1e15, 1e30]],
    ids=["ordinary", "narrow", "wide", "huge"],
)
def test_certain_hopeless_and_narrow_classes_keep_their_digits(thresholds):
    """sigmoid(a) - sigmoid(b) itself is 0 in float32 from 17 away, or in a class 1e-8 wide."""
    scores = np.float32([-1e30, -1e4, -80.0, -20.0, -1.0, -1e-6, 0.0, 5e-7, 0.125, 1.25, 20.0, 80.0, 1e4, 1e30])
    scores, labels = (x.ravel() for x in np.meshgrid(scores, np.arange(5)))
    compare(
        losses.proportional_odds,
        [scores, labels],
        {"thresholds": np.array(thresholds)},
        value_ulps=32,
        gradient_ulps=64,
    )


def test_thresholds_are_learned():
    """Gradients reach them, in the right order and to the right place, and a class turned inside out is NaN."""
    with jax.enable_x64(True):
        x, t = LOGITS[:, 0].astype(np.float64), THRESHOLDS.astype(np.float64)
        f = lambda t, y: losses.proportional_odds(x, y, thresholds=t)  # noqa: E731
        value, steps = quick(f), 1e-6 * np.eye(4)
        numeric = [(value(t + s, LABELS) - value(t - s, LABELS)) / 2e-6 for s in steps]
        np.testing.assert_allclose(quick(jax.grad(f))(t, LABELS), numeric, rtol=1e-7)
        assert np.isfinite(quick(jax.hessian(f))(t, LABELS)).all()
    turned = quick(lambda t: losses.proportional_odds(LOGITS[:, 0], LABELS, thresholds=t, reduction="none"))
    units = turned(THRESHOLDS[[0, 2, 1, 3]])
    assert np.isnan(units[LABELS == 2]).all()
    assert np.isfinite(units[LABELS != 2]).all()
    with pytest.raises(ValueError, match="thresholds must increase"):
        losses.proportional_odds(LOGITS[:, 0], LABELS, thresholds=[0.0, 0.0, 1.0, 2.0])


def test_the_middle_of_a_class_is_a_minimum_with_curvature():
    f = lambda x: losses.proportional_odds(x, jnp.array(1), thresholds=jnp.array([-1.0, 1.0]))  # noqa: E731
    x = jnp.array(0.0)
    assert quick(jax.grad(f))(x) == 0
    np.testing.assert_allclose(
        quick(jax.grad(jax.grad(f)))(x), 2 * jax.nn.sigmoid(1.0) * jax.nn.sigmoid(-1.0), rtol=1e-6
    )


def test_thresholds_of_the_wrong_number_are_named():
    with pytest.raises(ValueError, match=r"threshold_weights must be \[4\]"):
        losses.coral(LOGITS, LABELS, threshold_weights=jnp.ones(5))
    with pytest.raises(ValueError, match="thresholds"):
        losses.proportional_odds(LOGITS[:, 0], LABELS, thresholds=1.0)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_small_integers_count_many_classes(dtype):
    logits = jnp.zeros((2, 299))
    labels = np.array([3, 127], dtype)
    np.testing.assert_allclose(once(losses.coral, logits, labels), 299 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(
        once(losses.corn, logits, labels, reduction="none"), np.log(2) * np.array([4, 128]), rtol=1e-6
    )
    assert targets.ordinal_soft_labels(labels, classes=300).shape == (2, 300)


# ---- probabilities, decisions and soft labels ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cumulative", "conditional"])
def test_probabilities_are_distributions_whatever_was_learned(form):
    logits = np.concatenate([LOGITS, RNG.choice(np.float32([*v.LOGITS, np.inf, -np.inf]), size=(40, 4))])
    p = once(activations.ordinal_probabilities, logits, form=form)
    assert p.shape == (80, 5)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=1e-6)
    gradient = quick(jax.grad(lambda z: activations.ordinal_probabilities(z, form=form)[:, 2].sum()))(LOGITS)
    assert np.isfinite(gradient).all()
    labels = once(activations.ordinal_labels, LOGITS, form=form)
    above = 1.0 - np.cumsum(np.float64(p[:40]), axis=-1)[:, :-1]
    np.testing.assert_array_equal(labels, (above > 0.5).sum(axis=-1))
    assert labels.dtype == jnp.int32
    assert once(activations.ordinal_probabilities, jnp.zeros(2, jnp.bfloat16), form=form).dtype == jnp.float32


def test_small_probabilities_keep_their_digits():
    p = once(activations.ordinal_probabilities, jnp.array([-30.0, -30.0 - 2.0**-15, -60.0]))
    exact = np.diff([0.0, *(1 / (1 + np.exp([30.0, 30.0 + 2.0**-15, 60.0]))), 0.0][::-1])[::-1][1:]
    np.testing.assert_allclose(p[2:], exact[1:], rtol=1e-6)
    np.testing.assert_allclose(p[1], np.exp(-30.0) * 2.0**-15, rtol=1e-4)


def test_odd_logits_are_refused():
    with pytest.raises(ValueError, match="form must be one of"):
        activations.ordinal_probabilities(LOGITS, form="cumulativ")  # type: ignore
    with pytest.raises(ValueError, match="at least one threshold"):
        activations.ordinal_labels(jnp.zeros((3, 0)))
    with pytest.raises(TypeError, match="logits must be floating"):
        activations.ordinal_labels(jnp.zeros(3, jnp.int32))


def test_soft_labels():
    t = once(targets.ordinal_soft_labels, LABELS, classes=5, temperature=2.0)
    distance = np.square(np.arange(5) - LABELS[:, None]) / 2.0
    np.testing.assert_allclose(t, np.exp(-distance) / np.exp(-distance).sum(axis=-1, keepdims=True), rtol=1e-6)
    hard = once(targets.ordinal_soft_labels, LABELS, classes=5, temperature=1e-6)
    np.testing.assert_array_equal(hard, np.eye(5)[LABELS])
    with pytest.raises(ValueError, match="labels must be in"):
        targets.ordinal_soft_labels(np.array([5]), classes=5)
    traced = quick(lambda y, t: targets.ordinal_soft_labels(y, classes=5, temperature=t))
    assert np.isnan(traced(np.array([5, 1]), 1.0)[0]).all()
    gradient = quick(jax.grad(lambda q: targets.ordinal_soft_labels(LABELS, classes=5, power=q)[0, 0]))(1.5)
    assert np.isfinite(gradient)


# ---- squared EMD -----------------------------------------------------------------------------------------------------


def test_squared_emd_grows_with_distance_and_never_negative():
    logits = np.tile(np.where(np.arange(5) == 0, 0.0, -200.0).astype(np.float32), (5, 1))
    units = once(losses.squared_emd, logits, np.eye(5, dtype=np.float32), reduction="none")
    np.testing.assert_array_equal(units, np.arange(5.0))  # certain of class 0: one for each class on the way


def test_squared_emd_of_nearly_equal_distributions():
    """At the targets the loss and its gradient vanish, up to the rounding of the targets."""
    z = 2.0 * RNG.normal(size=(20, 5))
    t = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    value, gradient = quick(jax.value_and_grad(losses.squared_emd))(jnp.float32(z), jnp.float32(t))
    assert 0 <= value < 1e-13
    assert np.abs(gradient).max() < 1e-7


def test_squared_emd_refuses_negative_targets():
    with pytest.raises(ValueError, match="targets must be nonnegative"):
        losses.squared_emd(jnp.zeros((1, 2)), jnp.array([[-0.5, 1.5]]))


def test_nima_is_a_recipe():
    p = jax.nn.softmax(LOGITS)
    t = np.float32(RNG.dirichlet(np.ones(4), size=40))
    expected = np.sqrt(np.mean(np.square(np.cumsum(p, axis=-1) - np.cumsum(t, axis=-1)), axis=-1))
    actual = jnp.sqrt(once(losses.squared_emd, LOGITS, t, reduction="none") / 4)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


# ---- kappa -----------------------------------------------------------------------------------------------------------


def test_labels_of_one_class_say_nothing():
    """0 / 0 where every prediction is right: scikit-learn gives NaN."""
    run = quick(jax.value_and_grad(losses.weighted_kappa))
    for gap in (0.0, 1.0, 20.0, 200.0, np.inf):
        logits = np.tile(np.where(np.arange(5) == 2, 0.0, -gap).astype(np.float32), (6, 1))
        value, gradient = run(logits, np.full(6, 2))
        assert value == 1
        assert not np.any(gradient)


def test_kappa_keeps_its_digits_near_agreement():
    labels = np.array([0, 1, 2, 3, 4, 2])
    logits = 40.0 * np.eye(5)[labels]
    with jax.enable_x64(True):
        exact = quick(jax.value_and_grad(losses.weighted_kappa))(jnp.asarray(logits), labels)
        exact = [np.asarray(x) for x in exact]
    actual = quick(jax.value_and_grad(losses.weighted_kappa))(jnp.asarray(logits, jnp.float32), labels)
    assert 0 < exact[0] < 1e-16
    for a, b in zip(actual, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_kappa_of_a_whole_set_is_not_the_mean_of_its_parts():
    logits = np.float32(2.0 * RNG.normal(size=(2, 20, 5)))
    labels = RNG.integers(0, 5, size=(2, 20))
    parts = once(losses.weighted_kappa, logits, labels)
    whole = once(losses.weighted_kappa, logits.reshape(40, 5), labels.reshape(40))
    assert abs(parts - whole) > 1e-3
