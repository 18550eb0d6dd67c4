"""Kullback-Leibler divergences between distributions of one family, by their parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import log_ratio, scaled, with_slopes
from lossax._reduction import masked, reduce
from lossax._special import (
    exp_excess,
    gamma_bregman,
    gamma_bregman_by_gap,
    gamma_curvature,
    gamma_slope_difference,
    log_excess,
)
from lossax._types import Reduction


def _positive(**arrays: Any) -> jax.Array:
    return _check.domain("positive", lambda x: x > 0, **arrays)


def _over_root(half: jax.Array, variances: jax.Array) -> jax.Array:
    """The error over the standard deviation, by a root: neither a square nor the quotient by a variance is formed."""
    return 2.0 * (half / jnp.sqrt(variances))


def _gaussian_slopes(half, variances, others):
    error = _over_root(half, variances)
    ratio = (others - variances) / variances
    by_variances = -0.5 * (ratio + error * error) / variances
    return 2.0 * error / jnp.sqrt(variances), by_variances, 0.5 * ratio / others


@with_slopes(_gaussian_slopes)
def _gaussian(half, variances, others):
    """KL of N(0, others) from N(2 half, variances)."""
    return 0.5 * log_excess(variances, others) + 0.5 * jnp.square(_over_root(half, variances))


def gaussian_kl(
    means: jax.Array,
    variances: jax.Array,
    target_means: jax.Array,
    target_variances: jax.Array,
    *,
    reverse: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Kullback-Leibler divergence between normal distributions, element by element.

    .. math:: \mathrm{KL}(N_t \,\|\, N) = \tfrac12 \left(\frac{v_t}{v} - 1 - \log \frac{v_t}{v}
        + \frac{(\mu - \mu_t)^2}{v}\right), \qquad \text{reverse: } \mathrm{KL}(N \,\|\, N_t)

    Truth first, as in `kl_divergence`; torch's `kl_divergence(p, q)` is this with q the estimate and p the target. That
    of independent numbers is the sum over them. `gaussian_kl_with_log_variances` suits the heads of networks,
    `multivariate_gaussian_kl` full covariances. The squared 2-Wasserstein distance between the same distributions is
    `squared_error` of the means and `squared_error` of the standard deviations, added.

    Args:
      means: Estimated means, float `[...]`.
      variances: Estimated variances, float `[...]`, positive.
      target_means: True means, real `[...]`.
      target_variances: True variances, real `[...]`, positive.
      reverse: Whether the estimate comes first.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `means` or `variances` are not floating point.
      ValueError: if shapes differ or a known variance is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> gaussian_kl(jnp.array(3.0), jnp.array(4.0), jnp.array(1.0), jnp.array(4.0)).item()  # (3 - 1)^2 / 4 / 2
      0.5

    Reference:
      Kullback, *Information theory and statistics*, 1959.
    """
    _check.floating(means=means, variances=variances)
    _check.real(target_means=target_means, target_variances=target_variances)
    _check.same_shape(means=means, variances=variances, target_means=target_means, target_variances=target_variances)
    means, variances, target_means, target_variances = masked(
        where, means, variances, target_means, target_variances, fill=1.0
    )
    variances = _positive(variances=variances)
    target_variances = _positive(target_variances=target_variances)
    pair = (target_variances, variances) if reverse else (variances, target_variances)
    return reduce(_gaussian(0.5 * means - 0.5 * target_means, *pair), where, weights, reduction)


def _over_exp(half: jax.Array, log_variances: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Error over standard deviation, and the root of the inverse of the latter; 0 times an infinite one is 0."""
    root = jnp.exp(-0.25 * log_variances)
    return 2.0 * scaled(scaled(half, root), root), root


def _gaussian_log_slopes(half, log_variances, others):
    error, root = _over_exp(half, log_variances)
    growth = jnp.expm1(others - log_variances)
    return 2.0 * scaled(scaled(error, root), root), -0.5 * (growth + error * error), 0.5 * growth


@with_slopes(_gaussian_log_slopes)
def _gaussian_log(half, log_variances, others):
    return 0.5 * exp_excess(others - log_variances) + 0.5 * jnp.square(_over_exp(half, log_variances)[0])


def gaussian_kl_with_log_variances(
    means: jax.Array,
    log_variances: jax.Array,
    target_means: jax.Array,
    target_log_variances: jax.Array,
    *,
    reverse: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Kullback-Leibler divergence between normal distributions, given the logarithms of their variances.

    .. math:: \mathrm{KL}(N_t \,\|\, N) = \tfrac12 \left(e^{s_t - s} - 1 - (s_t - s) + (\mu - \mu_t)^2\, e^{-s}\right),
        \qquad s = \log v, \qquad \text{reverse: } \mathrm{KL}(N \,\|\, N_t)

    For networks with two heads. The term of a variational autoencoder is the reverse direction to the standard normal,
    summed over the latent numbers, as below; a beta-VAE weighs it, and free bits are `jnp.maximum` of each number's
    mean and the bits.

    Args:
      means: Estimated means, float `[...]`.
      log_variances: Natural logarithms of the estimated variances, float `[...]`.
      target_means: True means, real `[...]`.
      target_log_variances: Natural logarithms of the true variances, real `[...]`.
      reverse: Whether the estimate comes first.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `means` or `log_variances` are not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> means, log_variances = jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2))  # one image, two latent numbers
      >>> prior = jnp.zeros_like(means)
      >>> each = gaussian_kl_with_log_variances(means, log_variances, prior, prior, reverse=True, reduction="none")
      >>> each.sum(axis=-1).mean().item()  # (1 + 4) / 2
      2.5

    Reference:
      Kingma and Welling, *Auto-encoding variational Bayes*, 2014.
    """
    _check.floating(means=means, log_variances=log_variances)
    _check.real(target_means=target_means, target_log_variances=target_log_variances)
    _check.same_shape(
        means=means, log_variances=log_variances, target_means=target_means, target_log_variances=target_log_variances
    )
    means, log_variances, target_means, target_log_variances = masked(
        where, means, log_variances, target_means, target_log_variances
    )
    pair = (target_log_variances, log_variances) if reverse else (log_variances, target_log_variances)
    return reduce(_gaussian_log(0.5 * means - 0.5 * target_means, *pair), where, weights, reduction)


def _ahead(excess, other_excess, ratio, other_ratio):
    """The difference of two ratios, by what they are above 1 where they are near it."""
    near = (jnp.abs(excess) < 0.5) & (jnp.abs(other_excess) < 0.5)
    return jnp.where(near, excess - other_excess, ratio - other_ratio)


def _normalised(a: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    """Sums a_0 and b_0, b_0 - a_0, and log(b_i / a_i) - log(b_0 / a_0), with the digits of b - a."""
    total, other = jnp.sum(a, axis=-1, keepdims=True), jnp.sum(b, axis=-1, keepdims=True)
    gap = jnp.sum(b - a, axis=-1, keepdims=True)
    excess = gap / total
    near = jnp.abs(excess) < 0.5
    shift = jnp.where(near, jnp.log1p(jnp.where(near, excess, 0)), log_ratio(other, total))
    return total, other, gap, log_ratio(b, a) - shift


@jax.custom_jvp
def _dirichlet(b: jax.Array, a: jax.Array) -> jax.Array:
    r"""KL of Dirichlet(a) from Dirichlet(b).

    The log-gamma functions are split into x log x - x, whose part is b_0 times the KL divergence of a / a_0 from
    b / b_0, and the rest of `_special`: of large concentrations the former nearly cancels if taken class by class.
    """
    total, other, gap, log = _normalised(a, b)
    values = jnp.sum(b * exp_excess(-log) + gamma_bregman(a, b), axis=-1)
    return values - gamma_bregman_by_gap(total, other, gap)[..., 0]


@_dirichlet.defjvp
def _(primals, tangents):
    (b, a), (db, da) = primals, tangents
    total, other, gap, log = _normalised(a, b)
    curvature = gamma_curvature(total)
    rise = gamma_slope_difference(total, other) + curvature * (gap - (other - total))  # with what the sums have lost
    by_b = log + (gamma_slope_difference(a, b) - rise)
    curved = curvature * gap - gamma_curvature(a) * (b - a)
    by_a = _ahead(gap / total, (b - a) / a, other / total, b / a) + curved
    return _dirichlet(b, a), jnp.sum(by_b * db + by_a * da, axis=-1)


def dirichlet_kl(
    concentrations: jax.Array,
    target_concentrations: jax.Array,
    *,
    reverse: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Kullback-Leibler divergence between Dirichlet distributions.

    .. math:: \mathrm{KL}(D_t \,\|\, D) = \log \frac{B(a)}{B(a_t)} + \sum_j (a_{t,j} - a_j)
        \left(\psi(a_{t,j}) - \psi\left(\textstyle\sum_k a_{t,k}\right)\right), \qquad
        \text{reverse: } \mathrm{KL}(D \,\|\, D_t)

    Truth first, as in `kl_divergence`. All digits are kept where the two are close and concentrations large, which the
    formula as it stands loses. Two classes are the Beta distribution, as below. The regulariser of evidential
    classification is the reverse direction to a target of ones.

    Args:
      concentrations: Estimated concentrations a, float `[..., classes]`, positive.
      target_concentrations: True concentrations, real `[..., classes]`, positive.
      reverse: Whether the estimate comes first.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `concentrations` are not floating point.
      ValueError: if shapes differ or a known concentration is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> alpha, beta = jnp.array([2.0]), jnp.array([1.0])
      >>> uniform = jnp.ones((1, 2))
      >>> beta_kl = dirichlet_kl(jnp.stack([alpha, beta], axis=-1), uniform, reverse=True)
      >>> round(beta_kl.item(), 4)  # of Beta(2, 1), whose density is 2 x, from the uniform: log 2 - 1 / 2
      0.1931

    Reference:
      Penny, *Kullback-Liebler divergences of normal, gamma, Dirichlet and Wishart densities*, 2001; Sensoy, Kaplan and
      Kandemir, *Evidential deep learning to quantify classification uncertainty*, 2018.
    """
    _check.floating(concentrations=concentrations)
    _check.real(target_concentrations=target_concentrations)
    _check.same_shape(concentrations=concentrations, target_concentrations=target_concentrations)
    _check.units_of({"concentrations": concentrations})
    pair = masked(where, concentrations, target_concentrations, event=1, fill=1.0)
    estimate, truth = _positive(concentrations=pair[0]), _positive(target_concentrations=pair[1])
    values = _dirichlet(truth, estimate) if reverse else _dirichlet(estimate, truth)
    return reduce(values, where, weights, reduction)


def _mean_ratio(shapes, rates, others, other_rates):
    """log of the ratio of the other mean to this one, and the ratio less 1."""
    log = log_ratio(others, shapes) - log_ratio(other_rates, rates)
    small = jnp.abs(log) < 1.0
    one = jnp.ones_like(log)
    ratio = (others / shapes) * (rates / other_rates)
    ratio = jnp.where((ratio > 1e-30) & (ratio < 1e30), ratio, jnp.exp(log))
    return log, jnp.where(small, jnp.expm1(jnp.where(small, log, 0.0 * one)), ratio - 1.0)


def _gamma_slopes(shapes, rates, others, other_rates):
    log, rise = _mean_ratio(shapes, rates, others, other_rates)
    by_shapes = gamma_slope_difference(others, shapes) - log
    by_others = _ahead(
        (rates - other_rates) / other_rates, (shapes - others) / others, rates / other_rates, shapes / others
    )
    by_others = by_others - gamma_curvature(others) * (shapes - others)
    return by_shapes, shapes * rise / rates, by_others, -shapes * rise / other_rates


@with_slopes(_gamma_slopes)
def _gamma(shapes, rates, others, other_rates):
    """KL of Gamma(others, other_rates) from Gamma(shapes, rates), as two parts that are never negative."""
    log, rise = _mean_ratio(shapes, rates, others, other_rates)
    excess = jnp.where(jnp.abs(log) < 1.0, exp_excess(jnp.clip(log, -1.0, 1.0)), rise - log)
    return shapes * excess + gamma_bregman(others, shapes)


def gamma_kl(
    shapes: jax.Array,
    rates: jax.Array,
    target_shapes: jax.Array,
    target_rates: jax.Array,
    *,
    reverse: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Kullback-Leibler divergence between gamma distributions, by shapes and rates.

    .. math:: \mathrm{KL}(G_t \,\|\, G) = (k_t - k)\,\psi(k_t) - \log \frac{\Gamma(k_t)}{\Gamma(k)}
        + k \log \frac{\beta_t}{\beta} + k_t \frac{\beta - \beta_t}{\beta_t}, \qquad
        \text{reverse: } \mathrm{KL}(G \,\|\, G_t)

    Truth first, as in `kl_divergence`. The mean is shape over rate; where there is a scale, its inverse is the rate.
    Shapes of 1 are exponential distributions. All digits are kept where the two are close, at any shape.

    Args:
      shapes: Estimated shapes k, float `[...]`, positive.
      rates: Estimated rates, float `[...]`, positive.
      target_shapes: True shapes, real `[...]`, positive.
      target_rates: True rates, real `[...]`, positive.
      reverse: Whether the estimate comes first.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `shapes` or `rates` are not floating point.
      ValueError: if shapes differ or a known value is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> one, two = jnp.array(1.0), jnp.array(2.0)
      >>> round(gamma_kl(one, two, one, one).item(), 4)  # exponential: 2 - 1 - log 2
      0.3069

    Reference:
      Penny, *Kullback-Liebler divergences of normal, gamma, Dirichlet and Wishart densities*, 2001.
    """
    _check.floating(shapes=shapes, rates=rates)
    _check.real(target_shapes=target_shapes, target_rates=target_rates)
    _check.same_shape(shapes=shapes, rates=rates, target_shapes=target_shapes, target_rates=target_rates)
    shapes, rates, target_shapes, target_rates = masked(where, shapes, rates, target_shapes, target_rates, fill=1.0)
    estimate = _positive(shapes=shapes), _positive(rates=rates)
    truth = _positive(target_shapes=target_shapes), _positive(target_rates=target_rates)
    values = _gamma(*truth, *estimate) if reverse else _gamma(*estimate, *truth)
    return reduce(values, where, weights, reduction)
