"""Classes with a structure, or known in part: one unit per row; the classes are the last axis."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _double, _hyper, _numerics
from lossax._numerics import positive_part, with_slopes
from lossax._reduction import labelled, masked, reduce
from lossax._special import gamma_bregman_above, gamma_curvature, gamma_slope_difference, log_excess
from lossax._types import Reduction


def _odds(logits: jax.Array, inside: jax.Array, outside: jax.Array) -> tuple[jax.Array, ...]:
    """Masses of the classes inside and outside, their sums, the gap of the largest logits, and the odds against inside.

    The odds are only good where the gap is below 60, which comes last.
    """
    nothing = -jnp.inf * jnp.ones_like(logits)
    a, b = jnp.where(inside, logits, nothing), jnp.where(outside, logits, nothing)
    top = lax.stop_gradient(jnp.max(a, axis=-1, keepdims=True))
    other = lax.stop_gradient(jnp.max(b, axis=-1, keepdims=True))
    # A side without classes is counted from the other one, or from 0.
    top, other = jnp.where(jnp.isneginf(top), other, top), jnp.where(jnp.isneginf(other), top, other)
    top, other = (jnp.where(jnp.isneginf(x), 0, x) for x in (top, other))
    mass, rest = jnp.exp(a - top), jnp.exp(b - other)
    total, left = jnp.sum(mass, axis=-1, keepdims=True), jnp.sum(rest, axis=-1, keepdims=True)
    gap, error = _double.add(other, -top)
    near = gap < 60.0
    ratio = left / jnp.where(total > 0, total, 1)
    odds = jnp.exp(jnp.where(near, gap, 0)) * (1.0 + error) * ratio
    return mass, total, rest, left, ratio, gap, odds, near


@jax.custom_jvp
def _subset_surprise(logits: jax.Array, inside: jax.Array, outside: jax.Array) -> jax.Array:
    """-log of the share of the classes inside in those inside and outside, with all its digits also when near 0."""
    _, total, _, left, ratio, gap, odds, near = _odds(logits, inside, outside)
    far = jnp.where(near, 1, gap) + jnp.log(jnp.where(near, 1, ratio + jnp.exp(-gap)))
    value = jnp.where(near, jnp.log1p(odds), far)
    return jnp.where((total == 0) & (left > 0), jnp.inf * jnp.ones_like(value), value)[..., 0]


@_subset_surprise.defjvp
def _(primals, tangents):
    mass, total, rest, left, _, _, odds, near = _odds(*primals)
    miss = jnp.where(near & (total > 0), odds / (1.0 + odds), 1)
    slope = miss * (_numerics.divide(rest, left) - _numerics.divide(mass, total))
    return _subset_surprise(*primals), jnp.sum(slope * tangents[0], axis=-1)


def _tree(groups: Any, leaves: int) -> jax.Array:
    """The groups as an array, checked to be those of a tree with that many leaves."""
    _check.integer(groups=groups)
    shape, _ = _check.spec(groups)
    if len(shape) != 2 or shape[1] != leaves:
        raise ValueError(f"groups must be [levels, {leaves}], a group of each class at each level, got {list(shape)}")
    known = _check.concrete(groups)
    if known is not None:
        for level in range(1, len(known)):
            below, pairs = np.unique(known[level]), np.unique(known[level - 1 : level + 1], axis=1)
            if pairs.shape[1] != below.size:
                raise ValueError(f"groups must be a tree: a group of level {level} is in several of level {level - 1}")
    return jnp.asarray(groups)


def hierarchical_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    groups: ArrayLike,
    alpha: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy of each step down a tree of classes, the lower the lighter: mistakes that are near cost less.

    .. math:: -\sum_{d = 0}^{D - 1} e^{-\alpha d} \log \frac{P(G_{d + 1}(y))}{P(G_d(y))}, \qquad
        P(G) = \sum_{j \in G} \mathrm{softmax}(z)_j

    For species, products, diagnoses: where some confusions are better than others and a tree says which. `G_0` is all
    classes, `G_D` the class itself, and the `G_d` between are the groups that it is in. At `alpha=0` the steps add up
    to cross-entropy; above, accuracy on the classes is traded for milder mistakes. Weights are those of the paper's
    code, which counts from the root, as functions of the depth; there they are also divided by their sum over the
    nodes of the tree. All digits are kept: each step is a ratio of sums and no difference of logarithms.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      labels: True classes, integer `[...]`, in [0, classes).
      groups: Group of each class at each level, from the children of the root down to the parents of the classes,
        integer `[levels, classes]`; a branch that ends early goes on with a group of its own for the class.
      alpha: How fast the weight of a step falls with its depth; 0 is cross-entropy.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point or `labels` or `groups` not integer.
      ValueError: if shapes do not fit, a known label names no class or known groups are no tree.

    Example:
      >>> import jax.numpy as jnp
      >>> groups = jnp.array([[0, 0, 1]])  # two cats and a dog
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> loss = hierarchical_cross_entropy(logits, jnp.array([1]), groups=groups, alpha=jnp.log(2.0))
      >>> round(loss.item(), 4)  # log(4/3) for a cat, and log(3) / 2 for which
      0.837

    Reference:
      Bertinetto et al., *Making better mistakes: leveraging class hierarchies with deep networks*, 2020.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.number(alpha=alpha)
    logits, labels, known = labelled(where, logits, labels)
    groups = _tree(groups, logits.shape[-1])
    _, alpha = masked(None, logits, alpha)
    leaf = _numerics.one_hot(labels, logits)
    among, loss = jnp.ones_like(leaf), jnp.zeros_like(known)
    for depth in range(groups.shape[0] + 1):
        inside = leaf
        if depth < groups.shape[0]:
            group = groups[depth].reshape((1,) * labels.ndim + (-1,))
            of_label = jnp.where(leaf, group, 0)
            inside = group == jnp.sum(of_label, axis=-1, keepdims=True, dtype=group.dtype)
        loss = loss + jnp.exp(-alpha * depth) * _subset_surprise(logits, inside, among & ~inside)
        among = inside
    return reduce(known * loss, where, weights, reduction)


def partial_label(
    logits: jax.Array,
    candidates: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of a set of classes of which one is true: ambiguous, coarse and complementary labels.

    .. math:: -\log \sum_{j \in C} \mathrm{softmax}(z)_j

    Use it where annotators disagree, where a label names a group, or where it says what a thing is not (below). One
    candidate is cross-entropy, all of them cost nothing. Its gradient is that of cross-entropy with the candidates
    weighted by their present probabilities: PRODEN, whose weights are those of the epoch before, is
    `softmax_cross_entropy(logits, stop_gradient(weights))`.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      candidates: Whether each class may be the true one, bool `[..., classes]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, infinite for a unit without candidates.

    Raises:
      TypeError: if `logits` are not floating point or `candidates` not bool.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> round(partial_label(logits, jnp.array([[False, True, True]])).item(), 4)  # log 2
      0.6931
      >>> not_this = jnp.array([1])
      >>> round(partial_label(logits, jnp.arange(3)[None] != not_this[:, None]).item(), 4)  # -log(1 - 1/4)
      0.2877

    Reference:
      Jin and Ghahramani, *Learning with multiple labels*, 2002; Lv et al., *Progressive identification of true labels
      for partial-label learning*, 2020; Feng et al., *Learning with multiple complementary labels*, 2020.
    """
    _check.floating(logits=logits)
    _check.boolean(candidates=candidates)
    _check.same_shape(logits=logits, candidates=candidates)
    _check.units_of({"logits": logits})
    (logits,) = masked(where, logits, event=1)
    (candidates,) = masked(where, candidates, event=1, fill=True)
    return reduce(_subset_surprise(logits, candidates, ~candidates), where, weights, reduction)


def energy_margin(
    logits: jax.Array,
    outliers: jax.Array,
    *,
    margin_in: ArrayLike,
    margin_out: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared hinges on the energy of a classifier: low for what it knows, high for outliers.

    .. math:: \max(0, E - m_{in})^2 \text{ or, for outliers, } \max(0, m_{out} - E)^2, \qquad
        E = -\log \textstyle\sum_j e^{z_j}

    Added to cross-entropy on the inliers (with weight 0.1 in the paper) it makes -E a score that tells data of the
    training distribution from all else, given examples of that else. Choose the margins around the mean energies of the
    trained network before: -23 and -5 for CIFAR-10 in the paper, which takes means of inliers and outliers apart
    (`where=~outliers` and `where=outliers`). Outlier exposure, which asks for the uniform distribution instead, is
    `softmax_cross_entropy_with_integer_labels` with `label_smoothing=1` and any label, below.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      outliers: Whether each row is an outlier, bool `[...]`.
      margin_in: Energy below which inliers cost nothing, in nats.
      margin_out: Energy above which outliers cost nothing, in nats; above `margin_in`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point or `outliers` not bool.
      ValueError: if shapes do not fit or a margin is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import losses
      >>> logits, outliers = jnp.array([[0.0, -jnp.inf], [3.0, -jnp.inf]]), jnp.array([False, True])
      >>> energy_margin(logits, outliers, margin_in=-2.0, margin_out=-2.0, reduction="none").tolist()
      [4.0, 1.0]
      >>> any_label = jnp.zeros(1, int)
      >>> exposure = losses.softmax_cross_entropy_with_integer_labels(
      ...     jnp.log(jnp.array([[0.8, 0.2]])), any_label, label_smoothing=1.0
      ... )
      >>> round(exposure.item(), 4)  # -(log 0.8 + log 0.2) / 2
      0.9163

    Reference:
      Liu, Wang, Owens and Li, *Energy-based out-of-distribution detection*, 2020; Hendrycks, Mazeika and Dietterich,
      *Deep anomaly detection with outlier exposure*, 2019.
    """
    _check.floating(logits=logits)
    _check.boolean(outliers=outliers)
    _check.units_of({"logits": logits}, outliers=outliers)
    _check.number(margin_in=margin_in, margin_out=margin_out)
    (logits,), (outliers,) = masked(where, logits, event=1), masked(where, outliers)
    _, margin_in, margin_out = masked(None, logits, margin_in, margin_out)
    top, remainder = _numerics.log_partition(logits)
    sum_of, rest = _double.add(top, jnp.where(outliers, margin_out, margin_in))
    above = sum_of + (remainder + rest)
    violation = positive_part(jnp.where(outliers, above, -above))
    return reduce(violation * violation, where, weights, reduction)


Form = Literal["digamma", "log", "squared"]


def _trigamma(x: jax.Array) -> jax.Array:
    return 1.0 / x + gamma_curvature(x)


def _digamma_rise_slopes(a: jax.Array, rise: jax.Array) -> tuple[jax.Array, ...]:
    b = a + rise
    return (gamma_curvature(b) - gamma_curvature(a)) - rise / b / a, _trigamma(b)


@with_slopes(_digamma_rise_slopes)
def _digamma_rise(a: jax.Array, rise: jax.Array) -> jax.Array:
    """digamma(a + rise) - digamma(a), with the digits of the rise."""
    return jnp.log1p(rise / a) + gamma_slope_difference(a, a + rise)


def _log_rise_slopes(a: jax.Array, rise: jax.Array) -> tuple[jax.Array, ...]:
    b = a + rise
    return -rise / b / a, 1.0 / b


@with_slopes(_log_rise_slopes)
def _log_rise(a: jax.Array, rise: jax.Array) -> jax.Array:
    """log(a + rise) - log(a)."""
    return jnp.log1p(rise / a)


def _shares(alpha: jax.Array) -> tuple[jax.Array, ...]:
    """Share of each class and of all others, where the largest is, and the sum of the squares of the others."""
    total = jnp.sum(alpha, axis=-1, keepdims=True)
    p = alpha / total
    best = _numerics.one_hot(jnp.argmax(alpha, axis=-1), alpha)
    others = jnp.where(best, 0, p)
    rest = jnp.where(best, jnp.sum(others, axis=-1, keepdims=True), 1.0 - p)
    return total, p, rest, best, jnp.sum(others * others, axis=-1, keepdims=True)


@jax.custom_jvp
def _squared_risk(alpha: jax.Array, leaf: jax.Array) -> jax.Array:
    """Expected squared error of a Dirichlet distribution: that of its mean, and its variance."""
    total, p, rest, _, _ = _shares(alpha)
    error = jnp.where(leaf, rest, p)
    return jnp.sum(error * error + p * rest / (total + 1.0), axis=-1)


@_squared_risk.defjvp
def _(primals, tangents):
    alpha, leaf = primals
    total, p, rest, best, squares = _shares(alpha)
    largest = jnp.sum(jnp.where(best, p, 0), axis=-1, keepdims=True)
    missing = jnp.sum(jnp.where(best, rest, 0), axis=-1, keepdims=True)
    of_label = jnp.sum(jnp.where(leaf, p, 0), axis=-1, keepdims=True)
    right = jnp.any(leaf & best, axis=-1, keepdims=True)
    # p less the sum of all squares, of which that of the largest share cancels where it is sure.
    centred = jnp.where(best, largest * missing, p - largest * largest) - squares
    error = jnp.where(leaf, centred - rest, centred + of_label)
    error = jnp.where(right, jnp.where(best, -missing * missing, p + largest * missing) - squares, error)
    variance = jnp.sum(p * rest, axis=-1, keepdims=True)
    slope = 2.0 * (error - centred / (total + 1.0)) / total - variance / (total + 1.0) / (total + 1.0)
    return _squared_risk(*primals), jnp.sum(slope * tangents[0], axis=-1)


def _uneven(evidence: jax.Array) -> tuple[jax.Array, ...]:
    """Mean of the evidence and by how much each is above it."""
    mean = jnp.sum(evidence, axis=-1, keepdims=True) / evidence.shape[-1]
    return mean, evidence - mean


@jax.custom_jvp
def _from_uniform(evidence: jax.Array) -> jax.Array:
    """KL divergence of Dirichlet(1 + evidence) from the uniform distribution, with the digits of a small evidence.

    Of x log x, and of the rest of log Gamma, how far they are above a tangent: terms that grow by the logarithm alone.
    """
    mean, above = _uneven(evidence)
    classes = evidence.shape[-1]
    one = jnp.ones_like(evidence)
    terms = gamma_bregman_above(one, evidence) + log_excess(1.0 + mean, 1.0 + evidence, above)
    total = mean[..., 0] * classes
    return jnp.sum(terms, axis=-1) - gamma_bregman_above(classes * jnp.ones_like(total), total)


@_from_uniform.defjvp
def _(primals, tangents):
    (evidence,) = primals
    mean, above = _uneven(evidence)
    total = mean * evidence.shape[-1]
    curved = evidence * gamma_curvature(1.0 + evidence) - total * gamma_curvature(evidence.shape[-1] + total)
    slope = curved + above / (1.0 + mean) / (1.0 + evidence)
    return _from_uniform(evidence), jnp.sum(slope * tangents[0], axis=-1)


def evidential_dirichlet(
    evidence: jax.Array,
    labels: jax.Array,
    *,
    form: Form = "squared",
    kl_weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Classification by evidence: a Dirichlet distribution over probabilities, which can say that it does not know.

    .. math:: R(\alpha, y) + \lambda\, \mathrm{KL}\big(\mathrm{Dir}(\tilde\alpha) \,\|\, \mathrm{Dir}(1)\big),
        \qquad \alpha = 1 + e, \quad \tilde\alpha = \alpha \text{ with } \tilde\alpha_y = 1, \quad
        S = \textstyle\sum_j \alpha_j

        \text{squared: } R = \sum_j \Big([j = y] - \frac{\alpha_j}{S}\Big)^2
        + \frac{\alpha_j (S - \alpha_j)}{S^2 (S + 1)}, \quad
        \text{digamma: } \psi(S) - \psi(\alpha_y), \quad \text{log: } \log S - \log \alpha_y

    One pass gives class probabilities `alpha / S` and an uncertainty `classes / S`, for data unlike those of training;
    how far that can be trusted is disputed, so compare with an ensemble. The evidence is what the network puts out
    after `jax.nn.softplus`, `relu` or `exp`. The divergence takes evidence for wrong classes back; the paper raises
    `kl_weight` from 0 to 1 over the first ten epochs, which is a schedule of the step, and prefers `"squared"`.
    `"digamma"` is the expected cross-entropy and `"log"` the likelihood of the label.

    Args:
      evidence: Evidence for each class, float `[..., classes]`, nonnegative.
      labels: True classes, integer `[...]`, in [0, classes).
      form: `"squared"`, `"digamma"` or `"log"`: the risk R.
      kl_weight: Weight of the divergence, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `evidence` is not floating point or `labels` not integer.
      ValueError: if shapes do not fit, known evidence is negative, a known label names no class, `form` is unknown or
        `kl_weight` negative.

    Example:
      >>> import jax.numpy as jnp
      >>> evidence, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
      >>> evidential_dirichlet(evidence, labels, form="digamma").item()  # psi(3) - psi(2)
      0.5
      >>> round(evidential_dirichlet(evidence, labels).item(), 4)  # 1/9 + 1/9 + 2 (2 * 1) / (9 * 4)
      0.3333

    Reference:
      Sensoy, Kaplan and Kandemir, *Evidential deep learning to quantify classification uncertainty*, 2018.
    """
    _check.floating(evidence=evidence)
    _check.integer(labels=labels)
    _check.units_of({"evidence": evidence}, labels=labels)
    _check.choice(("squared", "digamma", "log"), form=form)
    _check.nonnegative(kl_weight=kl_weight)
    evidence, labels, known = labelled(where, evidence, labels)
    evidence = _check.domain("nonnegative", lambda e: e >= 0, evidence=evidence)
    _, pull = masked(None, evidence, kl_weight)
    leaf = _numerics.one_hot(labels, evidence)
    wrong = jnp.where(leaf, 0, evidence)
    if form == "squared":
        loss = _squared_risk(1.0 + evidence, leaf)
    else:
        of_label = 1.0 + jnp.sum(jnp.where(leaf, evidence, 0), axis=-1)
        rise = jnp.sum(wrong, axis=-1) + (evidence.shape[-1] - 1.0)
        loss = _digamma_rise(of_label, rise) if form == "digamma" else _log_rise(of_label, rise)
    if not _hyper.is_zero(kl_weight):
        loss = loss + pull * _from_uniform(wrong)
    return reduce(known * loss, where, weights, reduction)
