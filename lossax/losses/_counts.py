"""Losses for counts that vary more than Poisson's law allows: overdispersed, or zero too often."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._numerics import (
    atanh_tail,
    digamma_rest,
    log_factorial,
    log_ratio,
    scaled,
    sigmoid_pair,
    stirling_rest,
    with_slopes,
)
from lossax._reduction import masked, reduce
from lossax._special import gamma_slope_difference
from lossax._types import Reduction

# The negative binomial law with mean m and variance m + a m^2, a the dispersion, is taken apart like the Poisson law in
# `poisson_nll(full=True)`: what the mean costs over the count itself as a mean, and what even the best mean costs. With
# the excess E = (m - y) / (1 + a m) the first is E (h(E / y) - h(-a E)), h(x) = 1 - log(1 + x) / x, two terms of one
# sign: nothing cancels, and a = 0 is no exception. r = 1 / a is the shape of the gamma law behind it.

_HUGE = 1e30


def _nonzero(x):
    return jnp.where(x == 0, 1, x)


def _bend(x, log1p_x):
    """h(x) = 1 - log(1 + x) / x, and h(x) / x, for x > -1."""
    near = (x >= -0.5) & (x <= 1.0)
    y = jnp.where(near, x, 0)
    r = y / (2.0 + y)
    curve = (1.0 - 2.0 * r / (2.0 + y) * atanh_tail(r * r)) / (2.0 + y)
    x = jnp.where(near, 1, x)
    far = 1.0 - jnp.where(near, 0, log1p_x) / x
    return jnp.where(near, y * curve, far), jnp.where(near, curve, far / x)


def _log1p_product(product, a, log_b):
    """log(1 + a b), where the product may have overflown."""
    far = product > _HUGE
    logs = jnp.log(_nonzero(jnp.where(far, a, 1))) + jnp.where(far, log_b, 0)
    return jnp.where(far, logs, jnp.log1p(jnp.where(far, 0, product)))


def _spread(rates, log_rates, dispersion):
    """dispersion * rates, also where the rates have overflown, and log(1 + it)."""
    lost = jnp.isposinf(rates) & (dispersion > 0)
    product = dispersion * jnp.where(jnp.isposinf(rates), 1, rates)
    from_logs = jnp.log(_nonzero(dispersion)) + jnp.where(lost, log_rates, 0)
    product = jnp.where(lost, jnp.exp(from_logs), product)
    return product, _log1p_product(product, dispersion, log_rates)


def _excess(rates, targets, dispersion, product):
    """(rates - targets) / (1 + dispersion * rates)."""
    far = (product > _HUGE) | (jnp.isposinf(rates) & (dispersion > 0))
    near = (rates - targets) / (1.0 + jnp.where(far, 1, product))
    share = (1.0 - targets / jnp.where(far, rates, 1)) / _nonzero(dispersion)
    return jnp.where(far, share / (1.0 + 1.0 / jnp.where(far, product, 1)), near)


def _against(excess, dispersion):
    """-dispersion * excess; only without dispersion is the excess infinite."""
    return -dispersion * jnp.where(jnp.isfinite(excess), excess, 0)


def _costs(rates, log_rates, targets, dispersion):
    """The excess E, h(E / targets), h(-dispersion E) and the latter over its argument; targets positive."""
    product, log_spread = _spread(rates, log_rates, dispersion)
    excess = _excess(rates, targets, dispersion, product)
    a = _against(excess, dispersion)
    near = (a >= -0.5) & (a <= 1.0)
    of_targets = dispersion * targets
    turn = _log1p_product(of_targets, dispersion, jnp.log(targets)) - log_spread
    turn = jnp.where((of_targets < _HUGE) & (product < _HUGE), jnp.log((1.0 + of_targets) / (1.0 + product)), turn)
    turn = jnp.where(near, jnp.log1p(jnp.where(near, a, 0)), turn)
    over_a, curve = _bend(a, turn)
    some = (rates > 1.0 / _HUGE) & (rates < _HUGE)
    inverse = 1.0 / jnp.where(some, rates, 1)
    direct = log_ratio(dispersion + 1.0 / targets, dispersion + inverse)
    over_b, _ = _bend(excess / targets, jnp.where(some, direct, turn - log_ratio(targets, rates, log_rates)))
    return excess, over_b, over_a, curve


def _shape(dispersion):
    """1 / dispersion; above 1e18 it makes no difference any more."""
    return 1.0 / jnp.maximum(dispersion, 1e-18)


def _shape_rest(dispersion):
    """`stirling_rest` of 1 / dispersion, also where that is below 1."""
    shape = _shape(dispersion)
    low = shape < 1.0
    few = jnp.where(low, shape, 1)
    log_few = jnp.log(jnp.where(low, dispersion, 1))  # of 1 / few, which may be subnormal
    below = log_factorial(few) + few * (log_few + 1.0) + 0.5 * (log_few - math.log(2.0 * math.pi))
    return jnp.where(low, below, stirling_rest(jnp.where(low, 1, shape)))


def _log_rising(x, dispersion):
    """log Gamma(x + r) - log Gamma(r) - x log r for 0 <= x <= 1: relative to x, however small.

    Eight steps up, where Stirling's series s holds: s(1 / b) - s(1 / a) as a divided difference.
    """
    shape = _shape(dispersion)
    u = 1.0 / (shape + 8.0)
    t = u * x
    v = u / (1.0 + t)
    steps = jnp.log1p(x * dispersion)
    for k in range(1, 8):
        steps = steps + jnp.log1p(x / (shape + float(k)))
    value, difference = jnp.zeros_like(t), jnp.zeros_like(t)
    for c in (1 / 156, 0, -691 / 360360, 0, 1 / 1188, 0, -1 / 1680, 0, 1 / 1260, 0, -1 / 360, 0, 1 / 12, 0):
        value, difference = c + u * value, value + v * difference
    series = -(t * v) * difference
    bend, _ = _bend(t, jnp.log1p(t))
    all_steps = _log1p_product(8.0 * dispersion, dispersion, jnp.full_like(x, math.log(8.0)))
    return x * (all_steps + jnp.log1p(t) - bend) - 0.5 * jnp.log1p(t) + series - steps


def _negative_binomial_value(rates, log_rates, targets, dispersion):
    many = targets >= 1.0
    count = jnp.where(many, targets, 1)
    excess, over_b, over_a, _ = _costs(rates, log_rates, count, dispersion)
    spread = _log1p_product(dispersion * count, dispersion, jnp.log(count))
    best = stirling_rest(count) + 0.5 * (jnp.log(count) + math.log(2.0 * math.pi))
    best = best + (0.5 * spread + _shape_rest(dispersion) - stirling_rest(count + _shape(dispersion)))
    few = jnp.where(many, 0, targets)
    product, log_spread = _spread(rates, log_rates, dispersion)
    nothing = jnp.where(product < 1.0 / _HUGE, rates, log_spread / _nonzero(dispersion))
    wide = product > 1.0
    beyond = jnp.log(_nonzero(dispersion)) + jnp.log1p(1.0 / jnp.where(wide, product, 1))
    each = jnp.where(wide, beyond, log_spread - log_rates)
    rare = nothing + scaled(few, each) - _log_rising(few, dispersion) + log_factorial(few)
    return jnp.where(many, best + excess * (over_b - over_a), rare)


def _target_slope(rates, log_rates, targets, dispersion):
    """log(1 / rates + dispersion) + digamma(y + 1) - digamma(y + r) - log dispersion."""
    shape = _shape(dispersion)
    total = targets + shape
    low = total < 1.0
    half = jnp.where(low, 0.5 * jnp.ones_like(total), -0.5)
    _, log_spread = _spread(rates, log_rates, dispersion)
    inner = dispersion * (targets + half)
    some = (rates > 0) & jnp.isfinite(rates)
    safe = jnp.where(some, rates, 1)
    near_zero = dispersion * (0.5 - half) / (1.0 + jnp.where(dispersion < 1.0, inner, 0))
    # Products between divisions: XLA turns (x / a) / b into x / (a * b), which may overflow.
    gap = (targets - safe + 0.5) / safe * (1.0 / (1.0 + inner)) + jnp.where(
        dispersion < 1.0, near_zero, (0.5 - half) / (total + half)
    )
    near = some & (gap >= -0.5) & (gap < _HUGE)
    logs = jnp.where(near, 0, log_rates)
    bulk = _log1p_product(inner, dispersion, jnp.log(jnp.maximum(targets + half, 0.5)))
    far = (log_spread - logs) + jnp.log(targets + 0.5) - bulk
    close = jnp.log1p(jnp.where(near, gap, 0))
    below = jnp.where(low, total, 1)
    rest = digamma_rest(targets) - digamma_rest(jnp.where(low, total, total - 1.0))
    return jnp.where(near, close, far) + (rest + jnp.where(low, 1.0 / below, 0))


def _dispersion_slope(rates, log_rates, targets, dispersion):
    """r^2 (R'(y + r) - R'(r)) - (what an excess costs), with R'(x) = digamma(x) - log x: finite where r is infinite."""
    count = _nonzero(targets)
    product, log_spread = _spread(rates, log_rates, dispersion)
    excess = _excess(rates, targets, dispersion, product)
    a = _against(excess, dispersion)
    of_targets = _log1p_product(dispersion * targets, dispersion, jnp.log(count))
    _, curve = _bend(a, of_targets - log_spread)
    wide = dispersion > 0.125
    shape = 1.0 / jnp.where(wide, dispersion, 1)
    low = jnp.maximum(shape, 1e-15)  # below, and for counts beyond 1e20, the limits are reached
    more = jnp.where(wide, jnp.minimum(targets, 1e20), 0)
    steps = jnp.where(
        shape < low,
        jnp.where(targets > 0, shape, 0),
        low * (low * gamma_slope_difference(low, low + more)),
    )
    small = jnp.where(wide, 0, dispersion)
    v = 1.0 / (1.0 + small * targets)
    u, w = small * small, small * small * v * v
    value, difference = jnp.zeros_like(v), jnp.zeros_like(v)
    for c in (1 / 12, -691 / 32760, 1 / 132, -1 / 240, 1 / 252, -1 / 120, 1 / 12, 0):
        value, difference = c + u * value, value + w * difference
    series = targets * v * (0.5 + small * (1.0 + v) * difference)
    return jnp.where(wide, steps, series) - excess * (excess * curve)


@jax.custom_jvp
def _negative_binomial(rates, targets, dispersion):
    return _negative_binomial_value(rates, jnp.log(rates), targets, dispersion)


def _negative_binomial_jvp(primals, tangents):
    rates, targets, dispersion = primals
    log_rates = jnp.log(_nonzero(rates))
    product, _ = _spread(rates, log_rates, dispersion)
    relative = jnp.where((targets == 0) & (rates == 0), 1, (rates - targets) / _nonzero(rates))
    relative = jnp.where((targets > 0) & (rates == 0), jnp.full_like(rates, -jnp.inf), relative)
    # At a rate of 0 the derivative by the target is infinite: 0, as for a square root.
    by_targets = _target_slope(rates, log_rates, targets, dispersion)
    by_targets = jnp.where(rates == 0, 0, by_targets)
    by_dispersion = _dispersion_slope(rates, log_rates, targets, dispersion)
    value = _negative_binomial(*primals)
    slopes = (relative * (1.0 / (1.0 + product)), by_targets, by_dispersion)
    return value, _numerics.tangent(value, *zip(slopes, tangents, strict=True))


_negative_binomial.defjvp(_negative_binomial_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _negative_binomial_of_log_rates(log_rates, targets, dispersion):
    return _negative_binomial_value(jnp.exp(log_rates), log_rates, targets, dispersion)


def _negative_binomial_of_log_rates_jvp(primals, tangents):
    log_rates, targets, dispersion = primals
    rates = jnp.exp(log_rates)
    finite = jnp.where(jnp.isneginf(log_rates), 0, log_rates)
    product, _ = _spread(rates, finite, dispersion)
    by_targets = _target_slope(rates, finite, targets, dispersion)
    by_targets = jnp.where(jnp.isneginf(log_rates), 0, by_targets)
    by_dispersion = _dispersion_slope(rates, finite, targets, dispersion)
    value = _negative_binomial_of_log_rates(*primals)
    slopes = (_excess(rates, targets, dispersion, product), by_targets, by_dispersion)
    return value, _numerics.tangent(value, *zip(slopes, tangents, strict=True))


_negative_binomial_of_log_rates.defjvp(_negative_binomial_of_log_rates_jvp, symbolic_zeros=True)


def _of_a_zero_slopes(surprise, logits):
    below, beyond = sigmoid_pair(logits + surprise)
    return beyond, -(below * sigmoid_pair(logits)[1]) * -jnp.expm1(-surprise)


@with_slopes(_of_a_zero_slopes)
def _of_a_zero(surprise, logits):
    """-log(s + (1 - s) exp(-surprise)) with s = sigmoid(logits): either source may have given the zero."""
    missed = sigmoid_pair(logits)[1] * -jnp.expm1(-surprise)
    small = missed < 0.5
    few = -jnp.log1p(-jnp.where(small, missed, 0))
    return jnp.where(small, few, jax.nn.softplus(logits) - jnp.logaddexp(logits, -surprise))


def _inflated(surprise, targets, logits):
    """The loss of a count whose own law gives it `surprise`, where sigmoid(logits) of all counts are just zeros."""
    nothing = targets == 0
    zeros = _of_a_zero(jnp.where(nothing, surprise, 1), logits)
    return jnp.where(nothing, zeros, jax.nn.softplus(logits) + surprise)


def _whole(targets):
    """The targets, without a derivative where they are 0: what is inflated is the zero itself."""
    return jnp.where(targets == 0, 0, targets)


def negative_binomial_nll(
    rates: jax.Array,
    targets: jax.Array,
    *,
    dispersion: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of counts that vary more than Poisson's law allows.

    .. math::
      \ell = -\log \frac{\Gamma(y + r)}{\Gamma(r)\, y!} - r \log \frac{r}{r + m} - y \log \frac{m}{r + m},
      \qquad r = \frac 1 \alpha

    The mean is m, the variance :math:`m + \alpha m^2`: for counts of reads, claims, visits or sales whose own rates
    differ; `negative_binomial_nll_with_log_rates` trains more easily. The dispersion may be trained too, one for all,
    for each column or for each unit; at 0 this is `poisson_nll(full=True)`, which costs less. It is the `alpha` of
    statsmodels' `NegativeBinomial` and the dispersion of edgeR and DESeq2; scVI's `theta`, R's `size` and torch's
    `total_count` are 1 / dispersion, and torch's `logits` are log(rates * dispersion).

    Args:
      rates: Expected counts, float `[...]`, zero or more.
      targets: Observed counts, real `[...]`, zero or more.
      dispersion: Variance beyond Poisson's over the squared mean, zero or more; broadcasts to the units.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative if counts are integers.

    Raises:
      TypeError: if `rates` are not floating point.
      ValueError: if shapes do not fit or a known value is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> values = negative_binomial_nll(jnp.ones(3), jnp.arange(3), dispersion=1.0, reduction="none")
      >>> jnp.exp2(values / jnp.log(2.0)).tolist()  # one over the probabilities of a fair coin's first tail
      [2.0, 4.0, 8.0]

    Reference:
      Greenwood and Yule, *An inquiry into the nature of frequency distributions*, 1920.
    """
    _check.floating(rates=rates)
    _check.real(targets=targets)
    _check.same_shape(rates=rates, targets=targets)
    _check.broadcasts_to(_check.spec(rates)[0], dispersion=dispersion)
    rates, targets, dispersion = masked(where, rates, targets, dispersion, fill=1.0)
    rates = _check.domain("nonnegative", lambda x: x >= 0, rates=rates)
    targets = _check.domain("nonnegative", lambda x: x >= 0, targets=targets)
    dispersion = _check.domain("nonnegative", lambda x: x >= 0, dispersion=dispersion)
    return reduce(_negative_binomial(rates, targets, _each(dispersion, rates)), where, weights, reduction)


def _each(dispersion, rates):
    return dispersion + jnp.zeros_like(rates)


def negative_binomial_nll_with_log_rates(
    log_rates: jax.Array,
    targets: jax.Array,
    *,
    dispersion: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of overdispersed counts, given the logarithm of their rate.

    .. math::
      \ell = -\log \frac{\Gamma(y + r)}{\Gamma(r)\, y!} - r \log \frac{r}{r + e^s} - y \log \frac{e^s}{r + e^s},
      \qquad r = \frac 1 \alpha

    For a linear head, whose output may be any real number; the gradient is :math:`(m - y) / (1 + \alpha m)`, so that
    large counts pull less than in `poisson_nll_with_log_rates`. The negative binomial regression of statsmodels
    (`NegativeBinomial`, `alpha`) and of R's `glm.nb` (`theta` is 1 / dispersion). See `negative_binomial_nll`.

    Args:
      log_rates: Natural logarithms of the expected counts, float `[...]`.
      targets: Observed counts, real `[...]`, zero or more.
      dispersion: Variance beyond Poisson's over the squared mean, zero or more; broadcasts to the units.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative if counts are integers.

    Raises:
      TypeError: if `log_rates` are not floating point.
      ValueError: if shapes differ or a known target or dispersion is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> value = negative_binomial_nll_with_log_rates(jnp.zeros(1), jnp.zeros(1), dispersion=1.0)
      >>> round(value.item(), 4)  # log 2
      0.6931

    Reference:
      Hilbe, *Negative binomial regression*, 2011.
    """
    _check.floating(log_rates=log_rates)
    _check.real(targets=targets)
    _check.same_shape(log_rates=log_rates, targets=targets)
    _check.broadcasts_to(_check.spec(log_rates)[0], dispersion=dispersion)
    log_rates, targets, dispersion = masked(where, log_rates, targets, dispersion)
    targets = _check.domain("nonnegative", lambda x: x >= 0, targets=targets)
    dispersion = _check.domain("nonnegative", lambda x: x >= 0, dispersion=dispersion)
    values = _negative_binomial_of_log_rates(log_rates, targets, _each(dispersion, log_rates))
    return reduce(values, where, weights, reduction)


def zero_inflated_poisson_nll(
    rates: jax.Array,
    targets: jax.Array,
    logits: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of Poisson counts of which some are zero for another reason.

    .. math:: \ell = -\log\big([y = 0]\,\sigma(z) + \sigma(-z)\, e^{-\lambda} \lambda^y / y!\big)

    For counts with two kinds of zeros: nobody came, or nobody could have come. Where all counts vary too much, zeros
    or not, `negative_binomial_nll` is the simpler remedy. The same numbers as statsmodels' `ZeroInflatedPoisson`. It is
    `zero_inflated_negative_binomial_nll(dispersion=0.0)`.

    Args:
      rates: Expected counts where a count was possible, float `[...]`, zero or more.
      targets: Observed counts, real `[...]`, zero or more.
      logits: Log odds that none was possible, float `[...]`; -inf is `poisson_nll(full=True)`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative if counts are integers.

    Raises:
      TypeError: if `rates` or `logits` are not floating point.
      ValueError: if shapes differ or a known rate or target is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> even, counts = jnp.zeros(2), jnp.array([0, 1])
      >>> values = zero_inflated_poisson_nll(jnp.zeros(2) + 1e-3, counts, even, reduction="none")
      >>> [round(x, 3) for x in values.tolist()]  # nearly 0, and log 2 + 0.001 + log 1000
      [0.0, 7.602]

    Reference:
      Lambert, *Zero-inflated Poisson regression, with an application to defects in manufacturing*, 1992.
    """
    return zero_inflated_negative_binomial_nll(
        rates, targets, logits, dispersion=0.0, where=where, weights=weights, reduction=reduction
    )


def zero_inflated_negative_binomial_nll(
    rates: jax.Array,
    targets: jax.Array,
    logits: jax.Array,
    *,
    dispersion: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of overdispersed counts of which some are zero for another reason.

    .. math:: \ell = -\log\big([y = 0]\,\sigma(z) + \sigma(-z)\, \mathrm{NB}(y;\, m, \alpha)\big)

    For counts of single cells and other sparse counts: dropouts as well as spread. An overdispersed law has many zeros
    already, so see first whether `negative_binomial_nll` does. scVI's `log_zinb_positive`, negated, takes the same
    rates and logits, and `theta` = 1 / dispersion.

    Args:
      rates: Expected counts where a count was possible, float `[...]`, zero or more.
      targets: Observed counts, real `[...]`, zero or more.
      logits: Log odds that none was possible, float `[...]`; -inf is `negative_binomial_nll`.
      dispersion: Variance beyond Poisson's over the squared mean, zero or more; broadcasts to the units.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative if counts are integers.

    Raises:
      TypeError: if `rates` or `logits` are not floating point.
      ValueError: if shapes differ or a known rate, target or dispersion is negative.

    Example:
      >>> import jax.numpy as jnp, math
      >>> one, even = jnp.ones(1), jnp.zeros(1)
      >>> value = zero_inflated_negative_binomial_nll(one, jnp.zeros(1), even, dispersion=1.0)
      >>> round(math.exp(-value.item()), 5)  # half are zero anyway, and half of the others
      0.75

    Reference:
      Greene, *Accounting for excess zeros and sample selection in Poisson and negative binomial regression models*,
      1994.
    """
    _check.floating(rates=rates, logits=logits)
    _check.real(targets=targets)
    _check.same_shape(rates=rates, targets=targets, logits=logits)
    _check.broadcasts_to(_check.spec(rates)[0], dispersion=dispersion)
    rates, targets, logits, dispersion = masked(where, rates, targets, logits, dispersion, fill=1.0)
    rates = _check.domain("nonnegative", lambda x: x >= 0, rates=rates)
    targets = _check.domain("nonnegative", lambda x: x >= 0, targets=targets)
    dispersion = _check.domain("nonnegative", lambda x: x >= 0, dispersion=dispersion)
    surprise = _negative_binomial(rates, _whole(targets), _each(dispersion, rates))
    return reduce(_inflated(surprise, targets, logits), where, weights, reduction)
