"""Trees of classes, labels known in part, outliers, evidence, positive and unlabelled sets."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from lossax import losses
from lossax.losses._structured import _from_uniform
from tests import vocabulary as v
from tests.test_losses import compare
from tests.vocabulary import quick

RNG = np.random.default_rng(0)
LOGITS = np.float32(2.0 * RNG.normal(size=(30, 5)))
LABELS = RNG.integers(0, 5, size=30)
GROUPS = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 2, 3]])
EVIDENCE = np.float32(np.exp(2.0 * RNG.normal(size=(30, 5))))
INTEGER = losses.softmax_cross_entropy_with_integer_labels
GAPS = np.linspace(0.0, 80.0, 30, dtype=np.float32)


# ---- trees -----------------------------------------------------------------------------------------------------------


def test_without_a_discount_the_steps_add_up_to_cross_entropy():
    expected = quick(jax.value_and_grad(INTEGER))(LOGITS, LABELS)
    for groups in (GROUPS, GROUPS[:1], GROUPS[:0], np.zeros((3, 5), int), np.tile(np.arange(5), (3, 1))):
        run = partial(losses.hierarchical_cross_entropy, groups=groups, alpha=0.0)
        actual = quick(jax.value_and_grad(run))(LOGITS, LABELS)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_short_branch_is_weighed_by_its_own_depth():
    """A class that hangs from the root has one step, of weight 1."""
    p = jax.nn.softmax(LOGITS)
    groups = np.array([[0, 0, 0, 0, 7], [0, 0, 1, 1, 9]])
    run = quick(partial(losses.hierarchical_cross_entropy, groups=groups, alpha=3.0, reduction="none"))
    np.testing.assert_allclose(run(LOGITS, np.full(30, 4)), -np.log(p[:, 4]), rtol=1e-5)


def test_a_milder_mistake_costs_less():
    """Certain of a sibling, of a cousin and of a stranger: in cross-entropy they are the same."""
    logits = 1000.0 * np.eye(5, dtype=np.float32)[[1, 2, 3]]
    run = quick(partial(losses.hierarchical_cross_entropy, groups=GROUPS, alpha=0.5, reduction="none"))
    np.testing.assert_allclose(run(logits, np.zeros(3, int)) / 1000.0, np.exp([-1.0, -0.5, 0.0]), rtol=1e-2)


def test_confident_steps_keep_their_digits():
    logits = LOGITS.copy()
    logits[np.arange(30), LABELS] += GAPS
    hyper = {"groups": GROUPS}
    compare(losses.hierarchical_cross_entropy, [logits, LABELS], hyper, value_ulps=8, gradient_ulps=8)
    compare(losses.partial_label, [logits, np.eye(5, dtype=bool)[LABELS]], {}, value_ulps=8, gradient_ulps=8)


def test_many_confident_classes_outside_a_hopeless_group():
    """A gap above 60 and groups of many classes, where the odds would overflow."""
    groups = np.repeat([0, 1], 2000)[None]
    run = quick(jax.value_and_grad(partial(losses.hierarchical_cross_entropy, groups=groups, alpha=0.0)))
    value, gradient = run(np.float32(100.0 * groups), np.array([0]))
    np.testing.assert_allclose(value, 100.0 + np.log(2000.0), rtol=1e-6)
    assert np.isfinite(gradient).all()


KEPT = [0, 2, 4]
FEW = RNG.integers(0, 3, size=30)
CANDIDATES = np.eye(3, dtype=bool)[FEW] | (RNG.random((30, 3)) < 0.3)
WIDE = np.ones((30, 5), bool)
WIDE[:, KEPT] = CANDIDATES


@pytest.mark.parametrize(
    ("whole", "part"),
    [
        (
            lambda z: losses.hierarchical_cross_entropy(z, np.array(KEPT)[FEW], groups=GROUPS),
            lambda z: losses.hierarchical_cross_entropy(z, FEW, groups=GROUPS[:, KEPT]),
        ),
        (lambda z: losses.partial_label(z, WIDE), lambda z: losses.partial_label(z, CANDIDATES)),
        (lambda z: losses.energy_margin(z, FEW == 0, margin_in=-3.0, margin_out=-1.0),) * 2,
    ],
    ids=["hierarchical_cross_entropy", "partial_label", "energy_margin"],
)
def test_missing_classes_are_as_dropped(whole, part):
    logits = LOGITS.copy()
    logits[:, [1, 3]] = -np.inf
    ones = np.float32(np.isfinite(logits))
    (value, gradient), (_, hvp) = quick(lambda z: jax.jvp(jax.value_and_grad(whole), (z,), (ones,)))(logits)
    expected, small = quick(jax.value_and_grad(part))(logits[:, KEPT])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, KEPT], small, rtol=1e-4, atol=1e-7)
    assert not np.any(gradient[:, [1, 3]])
    assert np.isfinite(hvp).all()


def test_what_is_no_tree_is_refused():
    with pytest.raises(ValueError, match="a group of level 1 is in several of level 0"):
        losses.hierarchical_cross_entropy(LOGITS, LABELS, groups=[[0, 0, 0, 1, 1], [0, 0, 1, 1, 2]])
    with pytest.raises(ValueError, match=r"groups must be \[levels, 5\]"):
        losses.hierarchical_cross_entropy(LOGITS, LABELS, groups=[0, 0, 0, 1, 1])
    with pytest.raises(TypeError, match="groups must be integer"):
        losses.hierarchical_cross_entropy(LOGITS, LABELS, groups=np.float32(GROUPS))
    run = lambda g: losses.hierarchical_cross_entropy(LOGITS, LABELS, groups=g)  # noqa: E731
    np.testing.assert_allclose(quick(run)(GROUPS), quick(lambda: run(GROUPS))(), rtol=1e-6)


# ---- labels known in part --------------------------------------------------------------------------------------------


def test_one_candidate_is_cross_entropy_and_all_are_nothing():
    one = quick(jax.vmap(losses.partial_label))(LOGITS, np.eye(5, dtype=bool)[LABELS])
    np.testing.assert_allclose(one, quick(jax.vmap(INTEGER))(LOGITS, LABELS), rtol=1e-6)
    value, gradient = quick(jax.value_and_grad(losses.partial_label))(LOGITS, np.ones((30, 5), bool))
    assert value == 0
    assert not np.any(gradient)


def test_no_candidate_is_impossible():
    candidates = np.ones((30, 5), bool)
    candidates[3] = False
    units = quick(jax.vmap(losses.partial_label))(LOGITS, candidates)
    assert np.isposinf(units[3])
    assert not np.any(np.delete(units, 3))
    where = np.arange(30) != 3
    gradient = quick(jax.grad(lambda z: losses.partial_label(z, candidates, where=where)))(LOGITS)
    assert np.isfinite(gradient).all()


def test_proden_has_the_same_gradient():
    candidates = np.eye(5, dtype=bool)[LABELS] | (RNG.random((30, 5)) < 0.3)

    def proden(z):
        p = jnp.where(candidates, jax.nn.softmax(z), 0.0)
        return losses.softmax_cross_entropy(z, jax.lax.stop_gradient(p / p.sum(axis=-1, keepdims=True)))

    expected = quick(jax.grad(proden))(LOGITS)
    actual = quick(jax.grad(lambda z: losses.partial_label(z, candidates)))(LOGITS)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-8)


# ---- outliers --------------------------------------------------------------------------------------------------------


def test_energy_margin_is_that_of_its_authors():
    torch = pytest.importorskip("torch")
    outliers = np.arange(30) % 3 == 0
    energy = -torch.logsumexp(torch.tensor(LOGITS), dim=1)
    inside = torch.relu(energy[~outliers] + 3.0).square().mean()
    outside = torch.relu(-1.0 - energy[outliers]).square().mean()
    loss = partial(losses.energy_margin, margin_in=-3.0, margin_out=-1.0)
    run = quick(lambda z, y: loss(z, y, where=~y) + loss(z, y, where=y))
    np.testing.assert_allclose(run(LOGITS, outliers), (inside + outside).item(), rtol=1e-5)


def test_outlier_exposure_is_label_smoothing():
    expected = -np.mean(np.asarray(jax.nn.log_softmax(LOGITS)), axis=-1)
    actual = quick(partial(INTEGER, label_smoothing=1.0, reduction="none"))(LOGITS, LABELS)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


# ---- evidence --------------------------------------------------------------------------------------------------------

FORMS = ("squared", "digamma", "log")


@pytest.mark.parametrize("form", FORMS)
def test_evidential_is_that_of_the_textbook(form):
    torch = pytest.importorskip("torch")
    e = torch.tensor(np.float64(EVIDENCE))
    y = torch.nn.functional.one_hot(torch.tensor(LABELS), 5)
    alpha = e + 1.0
    total = alpha.sum(1, keepdim=True)
    if form == "squared":
        p = alpha / total
        risk = ((y - p) ** 2 + p * (1 - p) / (total + 1)).sum(1)
    else:
        f = torch.digamma if form == "digamma" else torch.log
        risk = (y * (f(total) - f(alpha))).sum(1)
    wrong = torch.distributions.Dirichlet(y + (1 - y) * alpha)
    kl = torch.distributions.kl_divergence(wrong, torch.distributions.Dirichlet(torch.ones_like(alpha)))
    for weight in (0.0, 0.3):
        run = quick(partial(losses.evidential_dirichlet, form=form, kl_weight=weight, reduction="none"))
        np.testing.assert_allclose(run(EVIDENCE, LABELS), risk + weight * kl, rtol=2e-6)


@pytest.mark.sampled
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kl_weight", [0.0, 1.0])
def test_much_and_little_evidence_keep_their_digits(form, kl_weight):
    """Sure and right up to 1e15, where digamma(S) - digamma(alpha) is 0 in float32 from 1e8."""
    evidence = np.float32(10.0 ** RNG.uniform(-15, 3, size=(40, 5)))
    labels = np.arange(40) % 5
    evidence[np.arange(40), labels] = 10.0 ** np.linspace(-15, 15, 40)
    compare(
        losses.evidential_dirichlet,
        [evidence, labels],
        {"form": form, "kl_weight": kl_weight},
        value_ulps=16,
        gradient_ulps=32,
    )


def test_the_textbook_forgets_a_sure_and_right_row():
    torch = pytest.importorskip("torch")
    alpha = torch.tensor([1e8, 1.0, 1.0])
    assert torch.digamma(alpha.sum()) - torch.digamma(alpha[0]) == 0
    run = quick(jax.value_and_grad(partial(losses.evidential_dirichlet, form="digamma")))
    value, gradient = run(np.float32([1e8, 0.0, 0.0]), np.array(0))
    np.testing.assert_allclose(value, 2e-8, rtol=1e-6)
    np.testing.assert_allclose(gradient[0], -2e-16, rtol=1e-6)


def test_the_divergence_of_little_and_of_equal_evidence():
    """Of the second order in little evidence; by the textbook it is noise there, and may be negative."""
    scales = np.float32([1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e12])
    found = jax.jit(_from_uniform)(scales[:, None] * np.float32([0, 1, 1, 1]))
    for scale, ours in zip(scales, found, strict=True):
        with mpmath.workdps(80):
            alpha = [mpmath.mpf(1), *[1 + mpmath.mpf(float(scale))] * 3]
            total = mpmath.fsum(alpha)
            exact = mpmath.loggamma(total) - mpmath.loggamma(4) - mpmath.fsum(map(mpmath.loggamma, alpha))
            exact += mpmath.fsum((a - 1) * (mpmath.digamma(a) - mpmath.digamma(total)) for a in alpha)
        assert v.ulps(ours, exact) < 16, scale


def test_negative_evidence_is_loud():
    evidence = EVIDENCE.copy()
    evidence[3, 2] = -1.0
    with pytest.raises(ValueError, match="evidence must be nonnegative, got -1"):
        losses.evidential_dirichlet(evidence, LABELS)
    for form in FORMS:
        units = quick(partial(losses.evidential_dirichlet, form=form, reduction="none"))(evidence, LABELS)
        assert np.isnan(units[3])
        assert np.isfinite(np.delete(units, 3)).all()


# ---- positive and unlabelled -----------------------------------------------------------------------------------------

Z = np.float32(RNG.normal(size=40))
POSITIVE = np.arange(40) < 12


def surrogates(kind):
    return (lambda z: jax.nn.sigmoid(-z)) if kind == "sigmoid" else (lambda z: jax.nn.softplus(-z))


def risks(z, prior, kind):
    loss = surrogates(kind)
    positive = prior * loss(z[POSITIVE]).mean()
    return positive, loss(-z[~POSITIVE]).mean() - prior * loss(-z[POSITIVE]).mean()


@pytest.mark.parametrize("kind", ["sigmoid", "logistic"])
def test_value_and_gradient_of_pu_learning(kind):
    """With a shift the positives have been fitted too well: the risk for negatives is below 0."""
    prior, beta, gamma = 0.6, 0.0625, 0.5
    part = quick(jax.vmap(jax.value_and_grad(lambda z, i: jnp.stack(risks(z, prior, kind))[i]), (None, 0)))
    run = lambda z, **more: losses.non_negative_pu(z, POSITIVE, prior=prior, surrogate=kind, **more)  # noqa: E731
    non_negative = quick(jax.value_and_grad(lambda z: run(z, beta=beta, gamma=gamma)))
    unbiased = quick(jax.value_and_grad(lambda z: run(z, beta=jnp.inf)))
    for shift in (0.0, 3.0):
        z = Z - 1.0 + np.float32(shift) * POSITIVE
        (positive, negative), slopes = part(z, np.arange(2))
        back = bool(negative < -beta)
        assert back == bool(shift)
        value, gradient = non_negative(z)
        np.testing.assert_allclose(value, positive + max(negative, -beta), rtol=1e-6)
        np.testing.assert_allclose(gradient, -gamma * slopes[1] if back else slopes.sum(0), rtol=1e-5, atol=1e-8)
        value, gradient = unbiased(z)
        np.testing.assert_allclose(value, positive + negative, rtol=1e-5)
        np.testing.assert_allclose(gradient, slopes.sum(0), rtol=1e-5, atol=1e-8)


def test_sets_without_positives_or_without_unlabelled():
    run = quick(jax.value_and_grad(partial(losses.non_negative_pu, prior=0.5)))
    none, _ = run(Z, np.zeros(40, bool))
    np.testing.assert_allclose(none, np.mean(1 / (1 + np.exp(-Z))), rtol=1e-6)
    value, gradient = run(Z, np.ones(40, bool))
    np.testing.assert_allclose(value, 0.5 * np.mean(1 / (1 + np.exp(Z))), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_each_set_takes_its_own_branch():
    z = np.stack([Z, Z + 3.0 * POSITIVE - 1.0])
    labelled = np.stack([POSITIVE, POSITIVE])
    both = quick(jax.grad(partial(losses.non_negative_pu, prior=0.6, reduction="sum")))(z, labelled)
    alone = quick(jax.grad(partial(losses.non_negative_pu, prior=0.6)))
    for i in range(2):
        np.testing.assert_allclose(both[i], alone(z[i], POSITIVE), rtol=1e-6)
