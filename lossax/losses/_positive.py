"""Losses for amounts and counts: targets of zero or more, one unit per element of the predictions."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import (
    absolute,
    digamma_rest,
    log_factorial,
    log_ratio,
    scaled,
    stirling_rest,
    with_slopes,
    x_minus_log1p,
    xlogy,
)
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _log_difference(a, b):
    """log(1 + a) - log(1 + b)."""
    high, low = jnp.maximum(a, b), jnp.minimum(a, b)
    far = 1e-30 * (high - low) > 1.0 + low
    near = jnp.log1p(jnp.where(far, 0, high - low) / (1.0 + low))
    return jnp.sign(a - b) * jnp.where(far, jnp.log1p(high) - jnp.log1p(low), near)


def _squared_log_error_slopes(predictions, targets):
    twice = 2.0 * _log_difference(predictions, targets)
    return twice / (1.0 + predictions), -twice / (1.0 + targets)


@with_slopes(_squared_log_error_slopes)
def _squared_log_error(predictions, targets):
    return jnp.square(_log_difference(predictions, targets))


def squared_log_error(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared error of log(1 + x); its mean is the MSLE.

    .. math:: \ell = \big(\log(1 + \hat y) - \log(1 + y)\big)^2

    For amounts of many sizes where ratios matter, zeros included; it forgives predictions that are too high more than
    those too low. Keep predictions above -1, say by a softplus: Keras clips them at 1e-7, where the gradient dies. The
    same numbers as scikit-learn's `mean_squared_log_error`.

    Args:
      predictions: Estimates, float `[...]`, above -1.
      targets: True values, real `[...]`, above -1.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or a known value is -1 or below.

    Example:
      >>> import jax.numpy as jnp, math
      >>> round(squared_log_error(jnp.array([math.e - 1.0]), jnp.zeros(1)).item(), 5)
      1.0

    Reference:
      Törnqvist, Vartia and Vartia, *How should relative changes be measured?*, 1985.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    predictions, targets = masked(where, predictions, targets)
    predictions = _check.domain("above -1", lambda x: x > -1, predictions=predictions)
    targets = _check.domain("above -1", lambda x: x > -1, targets=targets)
    return reduce(_squared_log_error(predictions, targets), where, weights, reduction)


def _nonzero(x):
    return jnp.where(x == 0, 1, x)


def _rate_slope(rates, targets):
    """1 - targets / rates, and 1 where nothing happened at any rate."""
    return jnp.where(targets == 0, 1, (rates - targets) / rates)


@with_slopes(lambda rates, targets: (_rate_slope(rates, targets), -jnp.log(_nonzero(rates))))
def _poisson(rates, targets):
    return rates - xlogy(targets, rates)


def _poisson_of_log_rates(log_rates, targets):
    return jnp.exp(log_rates) - scaled(targets, log_rates)


def _full_poisson(rates, log_rates, targets):
    """The full loss, rates - targets log rates + log Gamma(targets + 1).

    Its terms cancel for large targets, so they are taken apart at the mode (Loader, 2000): what the rate costs over the
    target itself as a rate, and what even the best rate costs.
    """
    many = targets >= 1.0
    count = jnp.where(many, targets, 1)
    near = many & (rates >= 0.5 * count) & (rates <= 2.0 * count)
    gap = jnp.where(near, rates - count, 0) / count
    far = (rates - count) + count * log_ratio(count, rates, log_rates)
    cost = jnp.where(near, count * x_minus_log1p(gap), far)
    best = stirling_rest(count) + 0.5 * (jnp.log(count) + math.log(2.0 * math.pi))
    few = jnp.where(many, 0, targets)
    return jnp.where(many, cost + best, rates - scaled(few, log_rates) + log_factorial(few))


def _full_target_slope(rates, log_rates, targets):
    """digamma(targets + 1) - log rates, the digamma being log(targets + 1/2) and a little."""
    gap = (targets - rates) + 0.5
    near = (rates > 0) & (jnp.abs(gap) <= 0.5 * rates)
    close = jnp.log1p(jnp.where(near, gap, 0) / jnp.where(near, rates, 1))
    return jnp.where(near, close, log_ratio(targets + 0.5, rates, log_rates)) + digamma_rest(targets)


def _full_slopes(rates, targets):
    # At a rate of 0 the derivative by the target is infinite: 0, as for a square root.
    by_targets = _full_target_slope(rates, jnp.log(rates), targets)
    return _rate_slope(rates, targets), jnp.where(rates == 0, 0, by_targets)


@with_slopes(_full_slopes)
def _full_poisson_of_rates(rates, targets):
    return _full_poisson(rates, jnp.log(rates), targets)


def _full_log_slopes(log_rates, targets):
    rates = jnp.exp(log_rates)
    by_targets = _full_target_slope(rates, log_rates, targets)
    return rates - targets, jnp.where(jnp.isneginf(log_rates), 0, by_targets)


@with_slopes(_full_log_slopes)
def _full_poisson_of_log_rates(log_rates, targets):
    return _full_poisson(jnp.exp(log_rates), log_rates, targets)


def poisson_nll(
    rates: jax.Array,
    targets: jax.Array,
    *,
    full: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of counts, given their rate.

    .. math:: \ell = \lambda - y \log \lambda \qquad (\,{}+ \log \Gamma(y + 1) \text{ if full}\,)

    `poisson_nll_with_log_rates` trains more easily. The same numbers as Keras' `Poisson` and as torch's
    `poisson_nll_loss(log_input=False)`, without the 1e-7 or 1e-8 that these add to the rate. `full` adds the exact
    constant: torch takes Stirling's formula, and nothing for targets of 1 or less. For a loss that is 0 where the
    prediction is right, take `tweedie_deviance(power=1)`, which has twice the gradient.

    Args:
      rates: Expected counts, float `[...]`, zero or more.
      targets: Observed counts, real `[...]`, zero or more.
      full: Whether to add log(targets!).
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign, nonnegative if `full` and counts are integers.

    Raises:
      TypeError: if `rates` are not floating point.
      ValueError: if shapes differ or a known value is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> poisson_nll(jnp.array([1.0, 3.0]), jnp.array([5, 0]), reduction="none").tolist()
      [1.0, 3.0]

    Reference:
      Poisson, *Recherches sur la probabilité des jugements en matière criminelle et en matière civile*, 1837.
    """
    _check.floating(rates=rates)
    _check.real(targets=targets)
    _check.same_shape(rates=rates, targets=targets)
    rates, targets = masked(where, rates, targets, fill=1.0)
    rates = _check.domain("nonnegative", lambda x: x >= 0, rates=rates)
    targets = _check.domain("nonnegative", lambda x: x >= 0, targets=targets)
    values = _full_poisson_of_rates(rates, targets) if full else _poisson(rates, targets)
    return reduce(values, where, weights, reduction)


def poisson_nll_with_log_rates(
    log_rates: jax.Array,
    targets: jax.Array,
    *,
    full: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of counts, given the logarithm of their rate.

    .. math:: \ell = e^s - y\, s, \qquad s = \log \lambda \qquad (\,{}+ \log \Gamma(y + 1) \text{ if full}\,)

    For a linear head, whose output may be any real number; the gradient is the rate less the target, and a log rate of
    -inf is a rate of zero. The same numbers as torch's `poisson_nll_loss` with its default `log_input=True`, but for
    `full`, see `poisson_nll`.

    Args:
      log_rates: Natural logarithms of the expected counts, float `[...]`.
      targets: Observed counts, real `[...]`, zero or more.
      full: Whether to add log(targets!).
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign, nonnegative if `full` and counts are integers.

    Raises:
      TypeError: if `log_rates` are not floating point.
      ValueError: if shapes differ or a known target is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> poisson_nll_with_log_rates(jnp.zeros(1), jnp.array([2]), full=True).item()  # 1 + log 2!
      1.6931471824645996

    Reference:
      Nelder and Wedderburn, *Generalized linear models*, 1972.
    """
    _check.floating(log_rates=log_rates)
    _check.real(targets=targets)
    _check.same_shape(log_rates=log_rates, targets=targets)
    log_rates, targets = masked(where, log_rates, targets)
    targets = _check.domain("nonnegative", lambda x: x >= 0, targets=targets)
    values = _full_poisson_of_log_rates(log_rates, targets) if full else _poisson_of_log_rates(log_rates, targets)
    return reduce(values, where, weights, reduction)


def _gamma_slopes(predictions, targets):
    excess = (targets - predictions) / predictions
    return -2.0 * excess / predictions, 2.0 * excess / targets


@with_slopes(_gamma_slopes)
def _gamma_deviance(predictions, targets):
    excess = (targets - predictions) / predictions
    near = (excess >= -0.5) & (excess <= 1.0)
    far = excess - log_ratio(targets, predictions)
    return 2.0 * jnp.where(near, x_minus_log1p(jnp.where(near, excess, 0)), far)


def gamma_deviance(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Deviance of positive amounts whose spread grows with their mean: costs, durations, rainfall.

    .. math:: \ell = 2 \left(\frac y {\hat y} - 1 - \log \frac y {\hat y}\right)

    Only the ratio counts, so the unit of measurement does not matter. It is `tweedie_deviance(power=2)`, faster. The
    same numbers as scikit-learn's `mean_gamma_deviance`, with all digits where prediction and target are close.

    Args:
      predictions: Estimated means, float `[...]`, positive.
      targets: True values, real `[...]`, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or a known value is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> round(gamma_deviance(jnp.array([1.0]), jnp.array([2.0])).item(), 4)  # 2 (1 - log 2)
      0.6137

    Reference:
      McCullagh and Nelder, *Generalized linear models*, 1989.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    predictions, targets = masked(where, predictions, targets, fill=1.0)
    predictions = _check.domain("positive", lambda x: x > 0, predictions=predictions)
    targets = _check.domain("positive", lambda x: x > 0, targets=targets)
    return reduce(_gamma_deviance(predictions, targets), where, weights, reduction)


def _relative_expm1(y):
    """expm1(y) / y for |y| <= 1."""
    total = jnp.ones_like(y)
    for k in range(19, 1, -1):
        total = 1.0 + y / float(k) * total
    return total


def _raised(x, whole, power, share=1.0):
    """x^(whole - share * power), where that exponent itself would have to be rounded: for powers below 1."""
    below = power < 1
    split = jnp.power(_nonzero(x), -share * jnp.where(below, power, 0))
    for _ in range(whole):
        split = split * x
    return jnp.where(below, split, jnp.power(x, whole - share * power))


def _power_difference(a, b, whole, power):
    """(a^c - b^c) / c for c = whole - power, and log(a / b) at c = 0."""
    exponent = whole - power
    log = log_ratio(_nonzero(a), b)
    step = exponent * log
    near = (a > 0) & (jnp.abs(step) <= 1.0)
    step = -absolute(jnp.where(near, step, 0))
    first, second = _raised(a, whole, power), _raised(b, whole, power)
    direct = (first - second) / _nonzero(exponent)
    return jnp.where(near, jnp.maximum(first, second) * log * _relative_expm1(step), direct)


def _tweedie_value(predictions, targets, power):
    r"""The deviance as a divided difference, so that powers 1 and 2 are no exceptions.

    With a = 1 - power, b = 2 - power and P(c) = (y^c - m^c) / c, half of it is both (y P(a) - m^a P(1)) / b and
    (P(b) - m^a P(1)) / a; and where y is close to m it is m^b times the series of (e^{b d} / b - e^d) / a + 1 / b in
    d = log(y / m).
    """
    a, b = 1.0 - power, 2.0 - power
    log = log_ratio(_nonzero(targets), predictions)
    near = (targets > 0) & (jnp.abs(log) * jnp.maximum(jnp.abs(b), 1.0) <= 1.5)
    step = jnp.where(near, log, 0)
    series, powers, term = jnp.zeros_like(step), jnp.ones_like(b), jnp.full_like(step, 0.5)
    for k in range(3, 26):
        series = series + term * powers
        powers = 1.0 + b * powers
        term = term * step / float(k)
    close = jnp.square(scaled(step, _raised(predictions, 1, power, 0.5))) * series
    # m^a P(1), in two factors where one might overflow.
    root = jnp.where(power < 1, 1, jnp.power(predictions, 0.5 * a))
    linear = (targets - predictions) * jnp.where(power < 1, _raised(predictions, 1, power), root) * root
    first = jnp.abs(a) < 0.5
    by_first = scaled(targets, _power_difference(targets, predictions, 1, power)) - linear
    by_second = _power_difference(targets, predictions, 2, power) - linear
    far = jnp.where(first, by_first, by_second) / jnp.where(first, b, a)
    return 2.0 * jnp.where(near, close, far)


def _tweedie_slopes(predictions, targets, power):
    root = jnp.power(predictions, -0.5 * power)
    by_predictions = 2.0 * scaled(scaled(predictions - targets, root), root)
    by_targets = 2.0 * _power_difference(targets, predictions, 1, power)
    # At a target of 0 it is infinite from power 1 on: 0, as for a square root.
    by_targets = jnp.where((targets == 0) & (power >= 1.0), 0, by_targets)
    value = lambda power: _tweedie_value(predictions, targets, power)  # noqa: E731
    by_power = jax.jvp(value, (power,), (jnp.ones_like(power),))[1]
    return by_predictions, by_targets, by_power


@with_slopes(_tweedie_slopes)
def _tweedie(predictions, targets, power):
    return _tweedie_value(predictions, targets, power)


def tweedie_deviance(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    power: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Deviance of amounts whose variance is a power of their mean: from squared error through counts to durations.

    .. math::
      \ell = 2 \int_{\hat y}^{y} \frac{y - u}{u^p}\, du
      = 2 \left(\frac{y^{2-p}}{(1 - p)(2 - p)} - \frac{y\, \hat y^{1-p}}{1 - p} + \frac{\hat y^{2-p}}{2 - p}\right)

    Power 0 is the squared error, 1 the Poisson and 2 the gamma deviance, 3 the inverse Gaussian; between 1 and 2 lies
    the compound Poisson law of insurance claims and rainfall: often exactly zero, else positive. The power may be
    traced, swept or trained, through 1 and 2 too. The same numbers as scikit-learn's `mean_tweedie_deviance` and
    `mean_poisson_deviance`, with all digits where prediction and target are close.

    Args:
      predictions: Estimated means, float `[...]`, positive.
      targets: True values, real `[...]`, zero or more; positive for powers of 2 and more.
      power: Exponent of the variance, zero or more; no such law exists between 0 and 1, though the loss does.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `power` is negative or a known value is outside its domain.

    Example:
      >>> import jax.numpy as jnp
      >>> tweedie_deviance(jnp.array([4.0, 4.0]), jnp.array([0.0, 4.0]), power=1.5, reduction="none").tolist()
      [8.0, 0.0]

    Reference:
      Jørgensen, *Exponential dispersion models*, 1987.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.nonnegative(power=power)
    predictions, targets, power = masked(where, predictions, targets, power, fill=1.0)
    predictions = _check.domain("positive", lambda x: x > 0, predictions=predictions)
    targets = _check.domain("nonnegative", lambda x: x >= 0, targets=targets)
    strict = jnp.where(power < 2, 1, targets)
    strict = _check.domain("positive where power is 2 or more", lambda x: x > 0, targets=strict)
    targets = jnp.where(power < 2, targets, strict)
    return reduce(_tweedie(predictions, targets, power), where, weights, reduction)
