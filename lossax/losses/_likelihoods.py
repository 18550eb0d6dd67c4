"""Negative log likelihoods of a number or an angle, given a whole distribution: one unit per target."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check
from lossax._bessel import bessel_gap, bessel_ratio, log_bessel
from lossax._numerics import absolute, divide, log_partition, scaled, softmax_pair, with_slopes
from lossax._reduction import masked, reduce
from lossax._special import half_step
from lossax._types import Reduction


def _half_error(predictions, targets):
    """(predictions - targets) / 2: unlike the difference itself, it cannot overflow."""
    return 0.5 * predictions - 0.5 * targets


def _half_turn(predictions, targets):
    """sin and cos of half the angle between, what the difference rounds away included."""
    a, b = 0.5 * predictions, -0.5 * targets
    half = a + b
    part = half - a
    low = (a - (half - part)) + (b - part)
    sine, cosine, low_sine, low_cosine = jnp.sin(half), jnp.cos(half), jnp.sin(low), jnp.cos(low)
    return sine * low_cosine + cosine * low_sine, cosine * low_cosine - sine * low_sine


def _von_mises_slopes(predictions, targets, concentrations):
    sine, cosine = _half_turn(predictions, targets)
    by_predictions = 2.0 * concentrations * sine * cosine
    near = bessel_gap(concentrations)
    opposite = bessel_ratio(concentrations) - (cosine - sine) * (cosine + sine)
    by_concentrations = jnp.where(jnp.abs(sine) < 0.5, 2.0 * sine * sine - near, opposite)
    return by_predictions, -by_predictions, by_concentrations


@with_slopes(_von_mises_slopes)
def _von_mises(predictions, targets, concentrations):
    sine, _ = _half_turn(predictions, targets)
    return 2.0 * (concentrations * sine * sine) + (log_bessel(concentrations) + math.log(2.0 * math.pi))


def von_mises_nll(
    predictions: jax.Array,
    targets: jax.Array,
    concentrations: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of an angle under the normal law of the circle.

    .. math:: \ell = \log(2 \pi I_0(\kappa)) - \kappa \cos(\hat\theta - \theta)

    For headings, poses, phases and times of day, where 359 and 1 degree are close. A prediction may be any number of
    turns away; a network predicts it best as `arctan2` of two outputs. For large concentrations it is
    `gaussian_nll(variances=1 / concentrations, full=True)`, and all digits are kept on the way there; 0 is the uniform
    law. The same numbers as torch's and SciPy's `VonMises(loc, concentration)`.

    Args:
      predictions: Mean directions in radians, float `[...]`.
      targets: True angles in radians, real `[...]`.
      concentrations: Concentrations kappa, float `[...]`, zero or more; one over the variance of a small error.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `predictions` or `concentrations` are not floating point.
      ValueError: if shapes differ or a known concentration is negative.

    Example:
      >>> import jax.numpy as jnp, math
      >>> even = von_mises_nll(jnp.zeros(1), jnp.ones(1), jnp.zeros(1))
      >>> round(math.exp(even.item()), 4)  # any angle, with density 1 / (2 pi)
      6.2832

    Reference:
      Mardia and Jupp, *Directional statistics*, 2000.
    """
    _check.floating(predictions=predictions, concentrations=concentrations)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets, concentrations=concentrations)
    predictions, targets, concentrations = masked(where, predictions, targets, concentrations)
    concentrations = _check.domain("nonnegative", lambda x: x >= 0, concentrations=concentrations)
    return reduce(_von_mises(predictions, targets, concentrations), where, weights, reduction)


def _joint(half, scales, logits):
    """Log of what is normalised, its share of the best component, and how far the others are behind that one.

    Counted from the best, so that large costs do not swallow the logits, nor the other way round.
    """
    top, remainder = log_partition(logits)
    ratio = half / scales
    costs = jnp.sum(jnp.log(scales) + 2.0 * ratio * ratio, axis=-1)
    joint = (logits - top[..., None]) - costs
    best = jnp.argmax(joint, axis=-1, keepdims=True)
    best_logit = jnp.take_along_axis(logits, best, axis=-1)
    best_cost = jnp.take_along_axis(costs, best, axis=-1)
    behind = jnp.where(jnp.isneginf(joint), joint, (logits - best_logit) - (costs - best_cost))
    return remainder, (best_cost + (top[..., None] - best_logit))[..., 0], behind


@jax.custom_jvp
def _mixture(half, scales, logits):
    """-log sum_k softmax(logits)_k exp(-cost_k), from half errors and scales `[..., k, d]`."""
    remainder, best, behind = _joint(half, scales, logits)
    top, rest = log_partition(behind)
    return ((remainder - rest) - top) + best


@_mixture.defjvp
def _(primals, tangents):
    half, scales, logits = primals
    _, _, behind = _joint(half, scales, logits)
    before, others_before = softmax_pair(logits)
    after, others_after = softmax_pair(behind)
    sure = (before > 0.5) & (after > 0.5)
    by_logits = jnp.where(sure, others_after - others_before, before - after)
    share = after[..., None]
    ratio = half / scales
    by_half = scaled(share, 4.0 * ratio / scales)
    by_scales = scaled(share, (1.0 - 2.0 * ratio) * (1.0 + 2.0 * ratio) / scales)
    slope = jnp.sum(by_half * tangents[0] + by_scales * tangents[1], axis=(-2, -1))
    return _mixture(*primals), slope + jnp.sum(by_logits * tangents[2], axis=-1)


def mixture_gaussian_nll(
    means: jax.Array,
    targets: jax.Array,
    scales: jax.Array,
    logits: jax.Array,
    *,
    full: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of a mixture of normal distributions: the loss of a mixture density network.

    .. math:: \ell = -\log \sum_k \mathrm{softmax}(z)_k \prod_d \frac 1 {s_{kd}} e^{-(y_d - \mu_{kd})^2 / 2 s_{kd}^2}

    For targets of which several values are plausible, such as inverse problems and trajectories, where
    `gaussian_nll` would predict their mean. A component may collapse on one target, its scale to 0 and the loss to
    minus infinity: add a floor to the scales. Scale them by softplus or exp; a logit of -inf is a component that does
    not exist. With `full=True` the same numbers as torch's `MixtureSameFamily` of `Normal`.

    Args:
      means: Mean of each component, float `[..., components]`, or `[..., components, d]` for vectors.
      targets: True values, real `[...]`, or `[..., d]` for vectors, independent within each component.
      scales: Standard deviations in the shape of `means`, float `[..., components]`, positive.
      logits: Unnormalised log weights of the components, float `[..., components]`.
      full: Whether to add the constant log(2 pi) d / 2.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `means`, `scales` or `logits` are not floating point.
      ValueError: if shapes do not fit or a known scale is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> means, ones = jnp.array([[-2.0, 2.0]]), jnp.ones((1, 2))
      >>> mixture_gaussian_nll(means, jnp.zeros(1), ones, jnp.zeros((1, 2))).item()  # both are two away
      2.0

    Reference:
      Bishop, *Mixture density networks*, 1994.
    """
    _check.floating(means=means, scales=scales, logits=logits)
    _check.real(targets=targets)
    _check.same_shape(means=means, scales=scales)
    rows, shape = _check.spec(logits)[0], _check.spec(means)[0]
    vectors = len(shape) == len(rows) + 1
    if vectors:
        _check.units_of({"means": means}, logits=logits)
    else:
        _check.same_shape(means=means, logits=logits)
    expected, given = rows[:-1] + shape[len(rows) :], _check.spec(targets)[0]
    if given != expected:
        raise ValueError(f"targets must have the shape of means without the components, {expected}, got {given}")
    means, scales, targets = (
        jnp.asarray(x) if vectors else jnp.asarray(x)[..., None] for x in (means, scales, targets)
    )
    means, scales = masked(where, means, scales, event=2, fill=1.0)
    targets = masked(where, means[..., 0, :], targets, event=1)[1]
    logits = masked(where, logits, event=1)[0].astype(means.dtype)
    scales = _check.domain("positive", lambda s: s > 0, scales=scales)
    values = _mixture(_half_error(means, targets[..., None, :]), scales, logits)
    constant = 0.5 * means.shape[-1] * math.log(2.0 * math.pi)
    return reduce(values + constant if full else values, where, weights, reduction)


def _squared_size(half, nu, beta):
    """|e| over the root of 2 beta (1 + 1 / nu), that root, and which ones are below 1, whose squares are taken."""
    root = jnp.sqrt(2.0 * beta) * jnp.sqrt(1.0 + 1.0 / nu)
    size = 2.0 * (jnp.abs(half) / root)
    return size, root, size < 1.0


def _evidential_excess(half, nu, beta):
    """log(1 + size^2), finite where the square is not."""
    size, root, _ = _squared_size(half, nu, beta)
    far = size > 1e18
    near = jnp.log1p(jnp.square(jnp.where(far, 1, size)))
    logs = jnp.log(jnp.where(far, jnp.abs(half), 1)) - jnp.log(root)
    return jnp.where(far, 2.0 * (logs + math.log(2.0)), near)


def _evidential_slopes(half, nu, alpha, beta):
    size, root, small = _squared_size(half, nu, beta)
    inner, outer = jnp.minimum(size, 1.0), 1.0 / jnp.maximum(size, 1.0)
    weight = 2.0 * (2.0 * alpha + 1.0)
    near = weight * jnp.sign(half) * inner / (1.0 + inner * inner) / root
    by_half = jnp.where(small, near, 0.5 * divide(weight / (1.0 + outer * outer), half))
    above, below = (0.5 - alpha * inner * inner) / (1.0 + inner * inner), 0.5 * outer * outer - alpha
    by_log_root = jnp.where(small, above, below / (1.0 + outer * outer))
    by_alpha = _evidential_excess(half, nu, beta) + (
        jax.jvp(half_step, (alpha,), (jnp.ones_like(alpha),))[1] - 0.5 / alpha
    )
    return by_half, -by_log_root / nu / (1.0 + nu), by_alpha, by_log_root / beta


@with_slopes(_evidential_slopes)
def _evidential(half, nu, alpha, beta):
    shape = half_step(alpha) + 0.5 * jnp.log(2.0 * math.pi * (beta / alpha))
    return (alpha + 0.5) * _evidential_excess(half, nu, beta) + (0.5 * jnp.log1p(1.0 / nu) + shape)


def evidential_regression(
    predictions: jax.Array,
    targets: jax.Array,
    nu: jax.Array,
    alpha: jax.Array,
    beta: jax.Array,
    *,
    penalty: ArrayLike = 0.01,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of a normal law that is itself uncertain, and a penalty on unfounded evidence.

    .. math::
      \ell = \tfrac12 \log\frac\pi\nu - \alpha \log\Omega + (\alpha + \tfrac12) \log\big(e^2 \nu + \Omega\big)
      + \log\frac{\Gamma(\alpha)}{\Gamma(\alpha + \frac12)} + \lambda\,|e|\,(2 \nu + \alpha),
      \qquad e = \hat y - y, \quad \Omega = 2 \beta (1 + \nu)

    For a network with four heads that tells the noise of the data, :math:`\beta / (\alpha - 1)`, from its own
    uncertainty, :math:`\beta / (\nu (\alpha - 1))`, in one pass. Only the penalty keeps the two apart, since the
    likelihood alone knows no more than a Student's t: take the second as a score, not as a variance, and ensembles
    where it matters. Without the penalty it is `student_t_nll` with `degrees_of_freedom` = 2 alpha and `scales` the
    root of beta (1 + nu) / (nu alpha). The authors' code has a penalty of 1 by default, their paper 0.01.

    Args:
      predictions: Means gamma, float `[...]`.
      targets: True values, real `[...]`.
      nu: Virtual observations of the mean, float `[...]`, positive; softplus of a head.
      alpha: Shape of the variance's law, float `[...]`, positive; above 1, softplus + 1, for the variances to exist.
      beta: Scale of the variance's law in units of `targets` squared, float `[...]`, positive; softplus of a head.
      penalty: Cost lambda of evidence, 2 nu + alpha, per absolute error; nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `predictions`, `nu`, `alpha` or `beta` are not floating point.
      ValueError: if shapes differ, `penalty` is negative or a known `nu`, `alpha` or `beta` is not positive.

    Example:
      >>> import jax.numpy as jnp, math
      >>> zero, one = jnp.zeros(1), jnp.ones(1)
      >>> value = evidential_regression(zero, zero, one, one, one)
      >>> round(math.exp(value.item()), 4)  # one over the density at the mean
      4.0

    Reference:
      Amini, Schwarting, Soleimany and Rus, *Deep evidential regression*, 2020.
    """
    _check.floating(predictions=predictions, nu=nu, alpha=alpha, beta=beta)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets, nu=nu, alpha=alpha, beta=beta)
    _check.nonnegative(penalty=penalty)
    arrays = masked(where, predictions, targets, nu, alpha, beta, penalty, fill=1.0)
    predictions, targets, nu, alpha, beta, penalty = arrays
    nu = _check.domain("positive", lambda x: x > 0, nu=nu)
    alpha = _check.domain("positive", lambda x: x > 0, alpha=alpha)
    beta = _check.domain("positive", lambda x: x > 0, beta=beta)
    half = _half_error(predictions, targets)
    unfounded = 2.0 * (penalty * (2.0 * nu + alpha)) * absolute(half)
    return reduce(_evidential(half, nu, alpha, beta) + unfounded, where, weights, reduction)
