"""Regression: one unit per element of the predictions."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper, _numerics
from lossax._numerics import absolute, divide, hypot, scaled, with_slopes
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _half_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """(predictions - targets) / 2: unlike the difference itself, it cannot overflow."""
    return 0.5 * predictions - 0.5 * targets


def _huber_slopes(half, delta):
    error, side = 2.0 * half, 0.5 * delta
    return 2.0 * jnp.clip(error, -delta, delta), 2.0 * jnp.maximum(jnp.abs(half) - side, 0.0)


@with_slopes(_huber_slopes)
def _huber(half, delta):
    near = jnp.clip(half, -0.5 * delta, 0.5 * delta)
    return 4.0 * (near * (half - 0.5 * near))


def squared_error(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared error; its mean is the MSE, and the best constant prediction the mean of the targets.

    .. math:: \ell(e) = e^2, \qquad e = \hat y - y

    Use it where errors are about normal and all of one size; `huber` where a few are large. There is no factor 1/2, as
    in torch's `mse_loss`, Keras' `MeanSquaredError` and `optax.losses.squared_error`; `optax.losses.l2_loss` is half.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> squared_error(jnp.array([1.0, 3.0]), jnp.zeros(2)).item()
      5.0

    Reference:
      Gauss, *Theoria motus corporum coelestium*, 1809.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    predictions, targets = masked(where, predictions, targets)
    error = predictions - targets
    return reduce(jnp.square(error), where, weights, reduction)


def absolute_error(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Absolute error; its mean is the MAE, and the best constant prediction the median of the targets.

    .. math:: \ell(e) = |e|, \qquad e = \hat y - y

    Outliers pull no harder than anything else, but the gradient does not shrink near the target; where that matters use
    `huber` or `log_cosh`. The gradient at `e = 0` is 0, as in torch's `l1_loss`.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> absolute_error(jnp.array([1.0, -3.0]), jnp.zeros(2)).item()
      2.0

    Reference:
      Laplace, *Mémoire sur la probabilité des causes par les évènemens*, 1774.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    predictions, targets = masked(where, predictions, targets)
    return reduce(absolute(predictions - targets), where, weights, reduction)


def huber(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Quadratic near zero, linear in the tails: squared error that outliers cannot dominate.

    .. math:: \ell(e) = m\,(e - m / 2), \qquad e = \hat y - y, \quad m = \min(\max(e, -\delta), \delta)

    `smooth_l1` is this divided by its `beta`; at 1 they are the same.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      delta: Error at which the loss turns linear, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `delta` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> huber(jnp.array([0.0, 3.0]), jnp.zeros(2)).item()
      1.25

    Reference:
      Huber, *Robust estimation of a location parameter*, 1964.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(delta=delta)
    predictions, targets, delta = masked(where, predictions, targets, delta)
    return reduce(_huber(_half_error(predictions, targets), delta), where, weights, reduction)


def _share(error, beta):
    """Slope of the rounded absolute value: error / beta in [-1, 1], or the sign for beta = 0."""
    safe = jnp.where(beta > 0, beta, 1)
    return jnp.where(beta > 0, jnp.clip(error, -beta, beta) / safe, jnp.sign(error))


@with_slopes(lambda error, beta: (_share(error, beta), -0.5 * jnp.square(_share(error, beta))))
def _smooth_l1(error, beta):
    return _share(error, beta) * (error - 0.5 * jnp.clip(error, -beta, beta))


def smooth_l1(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    beta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Absolute error with a rounded tip: slope 1 in the tails whatever the width of the tip.

    .. math:: \ell(e) = \frac m\beta\,(e - m / 2), \qquad e = \hat y - y, \quad m = \min(\max(e, -\beta), \beta)

    The usual loss of box regression. It is `huber(delta=beta) / beta`; `beta=0` is `absolute_error`, in the gradient
    too. The same numbers as torch's `smooth_l1_loss`.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      beta: Error at which the loss turns linear, in units of `targets`; nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `beta` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> smooth_l1(jnp.array([1.0, 4.0]), jnp.zeros(2), beta=2.0).item()
      1.625

    Reference:
      Girshick, *Fast R-CNN*, 2015.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.nonnegative(beta=beta)
    predictions, targets, beta = masked(where, predictions, targets, beta)
    return reduce(_smooth_l1(predictions - targets, beta), where, weights, reduction)


def _pseudo_huber_slopes(half, delta):
    side = 0.5 * delta
    length = hypot(half, side)
    near = jnp.abs(half) < side
    slope = jnp.where(near, half * divide(side, length), side * divide(half, length))
    lifted = half * divide(half, length + side)
    return 4.0 * slope, 2.0 * lifted * divide(lifted, length)


@with_slopes(_pseudo_huber_slopes)
def _pseudo_huber(half, delta):
    # delta^2 (sqrt(1 + (e / delta)^2) - 1) = delta e^2 / (hypot(e, delta) + delta), the factors in an order in which
    # nothing overflows or vanishes before the product does.
    half, side = jnp.abs(half), 0.5 * delta
    longer = jnp.maximum(half, side)
    share = divide(longer, hypot(half, side) + side)
    return half * (4.0 * jnp.minimum(half, side) * share)


def pseudo_huber(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Huber's shape with derivatives of all orders, also known as the Charbonnier loss.

    .. math:: \ell(e) = \delta^2 \left(\sqrt{1 + (e / \delta)^2} - 1\right), \qquad e = \hat y - y

    Use it instead of `huber` where curvature is used (Newton steps, Hessian-vector products) or as a smooth absolute
    error with a small `delta`: divided by `delta`, it is the Charbonnier loss less its constant.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      delta: Error around which the loss turns linear, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `delta` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> pseudo_huber(jnp.array([4.0]), jnp.zeros(1), delta=3.0).item()
      6.0

    Reference:
      Charbonnier, Blanc-Féraud, Aubert and Barlaud, *Deterministic edge-preserving regularization in computed imaging*,
      1997.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(delta=delta)
    predictions, targets, delta = masked(where, predictions, targets, delta)
    return reduce(_pseudo_huber(_half_error(predictions, targets), delta), where, weights, reduction)


def log_cosh(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Half the squared error near zero, the absolute error less log 2 in the tails, and smooth between.

    .. math:: \ell(e) = \log\cosh e, \qquad e = \hat y - y

    Like `pseudo_huber`, without a scale to choose: divide both arguments by one to set it. Value and gradient keep
    their digits for errors of any size.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> round(log_cosh(jnp.array([100.0]), jnp.zeros(1)).item(), 3)  # 100 - log 2
      99.307

    Reference:
      Green, *Bayesian reconstructions from emission tomography data using a modified EM algorithm*, 1990.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    predictions, targets = masked(where, predictions, targets)
    return reduce(_numerics.log_cosh(predictions - targets), where, weights, reduction)


def quantile(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    level: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Pinball loss: the best constant prediction is the quantile of the targets at `level`.

    .. math:: \ell = \tau \max(y - \hat y, 0) + (1 - \tau) \max(\hat y - y, 0)

    At level 0.9 a prediction that is too low costs nine times what one too high costs, so the estimate settles where
    90% of the targets lie below it. Level 0.5 is half the absolute error. The gradient at equality is 0. The same
    numbers as scikit-learn's `mean_pinball_loss(alpha=level)`. Several quantiles at once: predictions `[..., levels]`,
    targets repeated along the last axis, and an array of levels.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      level: Share of the targets to lie below the estimate, in [0, 1]; a number or an array that broadcasts to `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `level` is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> quantile(jnp.array([0.0, 0.0]), jnp.array([4.0, -4.0]), level=0.75, reduction="none").tolist()
      [3.0, 1.0]
      >>> levels = jnp.array([0.25, 0.5, 0.75])
      >>> quantile(jnp.zeros((2, 3)), jnp.full((2, 3), 4.0), level=levels, reduction="none")[0].tolist()
      [1.0, 2.0, 3.0]

    Reference:
      Koenker and Bassett, *Regression quantiles*, 1978.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.fraction(level=level)
    # 1 - level before it is rounded to the dtype of the predictions.
    predictions, targets, level, rest = masked(where, predictions, targets, level, 1.0 - level)
    half = _half_error(targets, predictions)
    weight = jnp.where(half > 0, level, rest)
    return reduce(2.0 * (weight * absolute(half)), where, weights, reduction)


def expectile(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    level: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared error that weighs the two signs differently: the smooth relative of `quantile`.

    .. math:: \ell = \big|\tau - [y < \hat y]\big|\,(y - \hat y)^2

    At levels above 0.5 a prediction that is too low costs more; level 0.5 is half the squared error. It is the value
    loss of implicit Q-learning (levels 0.7 to 0.9).

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      level: Weight of predictions that are too low, in [0, 1]; a number or an array that broadcasts to `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `level` is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> expectile(jnp.array([0.0, 0.0]), jnp.array([2.0, -2.0]), level=0.75, reduction="none").tolist()
      [3.0, 1.0]

    Reference:
      Newey and Powell, *Asymmetric least squares estimation and testing*, 1987.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.fraction(level=level)
    predictions, targets, level, rest = masked(where, predictions, targets, level, 1.0 - level)
    half = _half_error(targets, predictions)
    weight = jnp.where(half > 0, level, rest)
    return reduce(4.0 * weight * half * half, where, weights, reduction)


def _percentage_error_slopes(predictions, targets, floor):
    size = jnp.maximum(jnp.abs(targets), floor)
    side = jnp.sign(predictions - targets)
    large = jnp.abs(targets) > floor
    ratio = jnp.where(large, predictions / jnp.where(large, targets, 1), 1)
    share = jnp.where(large, 0, jnp.abs(_half_error(predictions, targets)) / size)
    return 100.0 * side / size, -100.0 * side * ratio / size, -200.0 * share / size


@with_slopes(_percentage_error_slopes)
def _percentage_error(predictions, targets, floor):
    return 200.0 * (jnp.abs(_half_error(predictions, targets)) / jnp.maximum(jnp.abs(targets), floor))


def absolute_percentage_error(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    eps: ArrayLike = 1e-7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Absolute error in percent of the target; its mean is the MAPE.

    .. math:: \ell = 100\, \frac{|\hat y - y|}{\max(|y|, \epsilon)}

    For targets that stay well away from 0, since one near 0 outweighs all others; elsewhere `absolute_error`, or
    `symmetric_absolute_percentage_error`, which is bounded. In percent as Keras' `MeanAbsolutePercentageError`, and
    with its `eps`; scikit-learn's `mean_absolute_percentage_error` is a hundredth of it.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      eps: Least size of a target to divide by, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar in percent, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `eps` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> absolute_percentage_error(jnp.array([1.0, 6.0]), jnp.array([2.0, 4.0])).item()
      50.0

    Reference:
      Makridakis, *Accuracy measures: theoretical and practical concerns*, 1993.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(eps=eps)
    predictions, targets, eps = masked(where, predictions, targets, eps)
    return reduce(_percentage_error(predictions, targets, eps), where, weights, reduction)


def _mean_size(a, b):
    """(|a| + |b|) / 2 by a product: XLA turns a sum of halves into half a sum, which may overflow."""
    a, b = jnp.abs(a), jnp.abs(b)
    longer = jnp.maximum(a, b)
    return longer * (0.5 + 0.5 * divide(jnp.minimum(a, b), longer))


def _symmetric_slopes(predictions, targets):
    size = _mean_size(predictions, targets)
    same = jnp.sign(predictions) * jnp.sign(targets) > 0
    side = jnp.where(same, 100.0 * jnp.sign(predictions - targets), 0)
    by_predictions = divide(side * divide(jnp.abs(targets), size), size)
    by_targets = divide(-side * divide(jnp.abs(predictions), size), size)
    return by_predictions, by_targets


@with_slopes(_symmetric_slopes)
def _symmetric(predictions, targets):
    return 200.0 * divide(jnp.abs(_half_error(predictions, targets)), _mean_size(predictions, targets))


def symmetric_absolute_percentage_error(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Absolute error in percent of the mean size of prediction and target, from 0 to 200; its mean is the sMAPE.

    .. math:: \ell = 200\, \frac{|\hat y - y|}{|\hat y| + |y|}

    A score for forecasts rather than a loss to train on: where the signs differ it is 200 and flat. Both zero cost
    nothing. Some authors leave out the factor 2, which gives 0 to 100.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar in percent, or `[...]` for `"none"`; in [0, 200].

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> predictions, targets = jnp.array([1.0, -1.0, 0.0]), jnp.array([3.0, 1.0, 0.0])
      >>> symmetric_absolute_percentage_error(predictions, targets, reduction="none").tolist()
      [100.0, 200.0, 0.0]

    Reference:
      Makridakis and Hibon, *The M3-competition: results, conclusions and implications*, 2000.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    predictions, targets = masked(where, predictions, targets)
    return reduce(_symmetric(predictions, targets), where, weights, reduction)


_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def _gaussian_slopes(error, variances):
    ratio = error / variances
    return ratio, (0.5 - 0.5 * error * ratio) / variances


@with_slopes(_gaussian_slopes)
def _gaussian(error, variances):
    return 0.5 * jnp.log(variances) + 0.5 * error * (error / variances)


def _weighted_gaussian_slopes(error, variances, constant, beta) -> tuple[jax.Array, ...]:
    # Factors of which none overflows before the slope does: e v^(beta - 1) and v^(beta - 1) (1 - e^2 / v) / 2.
    root = variances ** (0.5 * beta - 0.5)
    ratio = root * (error / jnp.sqrt(variances))
    by_beta = jnp.log(variances) * _weighted_gaussian(error, variances, constant, beta)
    return root * (root * error), 0.5 * (root - ratio) * (root + ratio), variances**beta, by_beta


@with_slopes(_weighted_gaussian_slopes)
def _weighted_gaussian(error, variances, constant, beta):
    """v^beta times the likelihood, where the derivatives take that weight for a constant."""
    ratio = variances ** (0.5 * beta - 0.5) * error
    return variances**beta * (0.5 * jnp.log(variances) + constant) + 0.5 * ratio * ratio


def gaussian_nll(
    predictions: jax.Array,
    targets: jax.Array,
    variances: jax.Array,
    *,
    full: bool = False,
    eps: ArrayLike = 1e-6,
    beta: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of a normal distribution: squared error that knows how sure it is.

    .. math:: \ell = \lfloor v^\beta \rfloor\, \tfrac12 \left(\log v + (\hat y - y)^2 / v\right),
        \qquad v = \max(\text{variance}, \epsilon)

    For a network that predicts a mean and its own uncertainty; `gaussian_nll_with_log_variances` trains more easily.
    The floor of the variance does not stop its gradient, so that a variance stuck below it can grow again. The same
    numbers as torch's `gaussian_nll_loss`, gradients included.

    What is fitted badly has a large variance, and so a small gradient: it stays bad. `beta` takes that back, by a
    weight without gradient (in brackets): the mean learns at 1 as from `squared_error`, at the paper's 0.5 half way.

    Args:
      predictions: Means, float `[...]`.
      targets: True values, real `[...]`.
      variances: Variances, float `[...]`, zero or more.
      full: Whether to add the constant log(2 pi) / 2.
      eps: Least variance, in units of `targets` squared; nonnegative.
      beta: Power of the variance that weighs the likelihood, in [0, 1]; 0 for the likelihood itself.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `predictions` or `variances` are not floating point.
      ValueError: if shapes differ, `beta` is outside [0, 1], or `eps` or a known variance is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> gaussian_nll(jnp.array([3.0]), jnp.array([1.0]), jnp.array([1.0])).item()
      2.0

    Reference:
      Nix and Weigend, *Estimating the mean and variance of the target probability distribution*, 1994; Seitzer,
      Tavakoli, Antic and Martius, *On the pitfalls of heteroscedastic uncertainty estimation with probabilistic neural
      networks*, 2022 (beta).
    """
    _check.floating(predictions=predictions, variances=variances)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets, variances=variances)
    _check.nonnegative(eps=eps)
    _check.fraction(beta=beta)
    predictions, targets, variances, eps = masked(where, predictions, targets, variances, eps, fill=1.0)
    variances = _check.domain("nonnegative", lambda v: v >= 0, variances=variances)
    # The value of the floor, the derivative of the variance itself.
    floored = lax.stop_gradient(jnp.maximum(variances, eps)) + (variances - lax.stop_gradient(variances))
    error = predictions - targets
    if _hyper.is_zero(beta):
        values = _gaussian(error, floored)
        return reduce(values + _HALF_LOG_2PI if full else values, where, weights, reduction)
    constant = jnp.full_like(error, _HALF_LOG_2PI if full else 0.0)
    values = _weighted_gaussian(error, floored, constant, *masked(None, error, beta)[1:])
    return reduce(values, where, weights, reduction)


def _standardized(half, log_variances):
    """Error over standard deviation, and the inverse square root of the latter.

    In two factors, and 0 times an infinite one is 0: a mean that is right is no NaN where the variance is too small for
    the dtype.
    """
    root = jnp.exp(-0.25 * log_variances)
    return 2.0 * scaled(scaled(half, root), root), root


def _gaussian_log_slopes(half, log_variances):
    error, root = _standardized(half, log_variances)
    return 2.0 * scaled(scaled(error, root), root), 0.5 - 0.5 * error * error


@with_slopes(_gaussian_log_slopes)
def _gaussian_log(half, log_variances):
    error, _ = _standardized(half, log_variances)
    return 0.5 * log_variances + 0.5 * error * error


def _weighted_gaussian_log_slopes(half, log_variances, constant, beta) -> tuple[jax.Array, ...]:
    error, root = _standardized(half, (1.0 - beta) * log_variances)
    weight = jnp.exp(beta * log_variances)
    by_log_variance = 0.5 * weight - 0.5 * error * error
    by_beta = scaled(log_variances, _weighted_gaussian_log(half, log_variances, constant, beta))
    return 2.0 * scaled(scaled(error, root), root), by_log_variance, weight, by_beta


@with_slopes(_weighted_gaussian_log_slopes)
def _weighted_gaussian_log(half, log_variances, constant, beta):
    """exp(beta s) times the likelihood, where the derivatives take that weight for a constant."""
    error, _ = _standardized(half, (1.0 - beta) * log_variances)
    return jnp.exp(beta * log_variances) * (0.5 * log_variances + constant) + 0.5 * error * error


def gaussian_nll_with_log_variances(
    predictions: jax.Array,
    targets: jax.Array,
    log_variances: jax.Array,
    *,
    full: bool = False,
    beta: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of a normal distribution, given the logarithm of its variance.

    .. math:: \ell = \lfloor e^{\beta s} \rfloor\, \tfrac12 \left(s + (\hat y - y)^2\, e^{-s}\right),
        \qquad s = \log v

    For a network with two heads: a linear head is any real number, so nothing needs a floor or a softplus. It also
    weighs tasks against each other, with one trained log variance per task. Where it learns to call targets noise that
    it could fit, a `beta` of 0.5 makes the mean learn from them too; `gaussian_nll` says how.

    Args:
      predictions: Means, float `[...]`.
      targets: True values, real `[...]`.
      log_variances: Natural logarithms of the variances, float `[...]`.
      full: Whether to add the constant log(2 pi) / 2.
      beta: Power of the variance that weighs the likelihood, in [0, 1]; 0 for the likelihood itself.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `predictions` or `log_variances` are not floating point.
      ValueError: if shapes differ or `beta` is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> features, targets = jnp.array([[1.0], [2.0]]), jnp.array([1.0, 4.0])
      >>> heads = features @ jnp.array([[1.0, 0.0]])  # two columns: the mean and the log variance
      >>> gaussian_nll_with_log_variances(heads[:, 0], targets, heads[:, 1], reduction="none").tolist()
      [0.0, 2.0]

    Reference:
      Kendall and Gal, *What uncertainties do we need in Bayesian deep learning for computer vision?*, 2017; Seitzer,
      Tavakoli, Antic and Martius, *On the pitfalls of heteroscedastic uncertainty estimation with probabilistic neural
      networks*, 2022 (beta).
    """
    _check.floating(predictions=predictions, log_variances=log_variances)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets, log_variances=log_variances)
    _check.fraction(beta=beta)
    predictions, targets, log_variances = masked(where, predictions, targets, log_variances)
    half = _half_error(predictions, targets)
    if _hyper.is_zero(beta):
        values = _gaussian_log(half, log_variances)
        return reduce(values + _HALF_LOG_2PI if full else values, where, weights, reduction)
    constant = jnp.full_like(half, _HALF_LOG_2PI if full else 0.0)
    values = _weighted_gaussian_log(half, log_variances, constant, *masked(None, half, beta)[1:])
    return reduce(values, where, weights, reduction)


def _room(half, scales):
    """1 - |e| / s, exact where the two are close."""
    size = jnp.abs(half)
    ratio = size / scales
    return jnp.where(size < scales, ((scales - size) - size) / scales, (1.0 - ratio) - ratio)


def _laplace_slopes(half, scales):
    return 2.0 * jnp.sign(half) / scales, _room(half, scales) / scales


@with_slopes(_laplace_slopes)
def _laplace(half, scales):
    return 2.0 * (jnp.abs(half) / scales) + jnp.log(scales)


def laplace_nll(
    predictions: jax.Array,
    targets: jax.Array,
    scales: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of a Laplace distribution: absolute error that knows how sure it is.

    .. math:: \ell = |\hat y - y| / b + \log 2b

    `gaussian_nll` for errors with heavier tails; `student_t_nll` for tails heavier still.

    Args:
      predictions: Medians, float `[...]`.
      targets: True values, real `[...]`.
      scales: Mean absolute errors b, float `[...]`, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `predictions` or `scales` are not floating point.
      ValueError: if shapes differ or a known scale is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> laplace_nll(jnp.array([3.0]), jnp.array([1.0]), jnp.array([0.5])).item()  # 2 / 0.5 + log 1
      4.0

    Reference:
      Kotz, Kozubowski and Podgórski, *The Laplace distribution and generalizations*, 2001.
    """
    _check.floating(predictions=predictions, scales=scales)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets, scales=scales)
    predictions, targets, scales = masked(where, predictions, targets, scales, fill=1.0)
    scales = _check.domain("positive", lambda b: b > 0, scales=scales)
    values = _laplace(_half_error(predictions, targets), scales) + math.log(2.0)
    return reduce(values, where, weights, reduction)


def _student_t_share(half, scales, dof):
    """e^2 / (dof s^2 + e^2), and |e| / (sqrt(dof) s), which may be infinite."""
    size = (jnp.abs(half) / scales) * (2.0 / jnp.sqrt(dof))
    inner = jnp.minimum(size, 1.0)
    outer = 1.0 / jnp.maximum(size, 1.0)
    return jnp.where(size < 1, inner * inner / (1.0 + inner * inner), 1.0 / (1.0 + outer * outer)), size


def _student_t_slopes(half, scales, dof):
    share, size = _student_t_share(half, scales, dof)
    # A product between two divisions: XLA turns (x / s) / s into x / (s * s), which may be 0 / 0.
    factor = 4.0 * (1.0 + 1.0 / dof) / (1.0 + jnp.square(jnp.minimum(size, 1.0)))
    by_half = jnp.where(size < 1, factor * (half / scales) / scales, divide((dof + 1.0) * share, half))
    ratio = jnp.minimum(jnp.abs(half) / scales, 1.0) * 2.0
    inner = _room(half, scales) * (1.0 + ratio) * (1.0 / (1.0 + ratio * ratio / dof))
    by_scales = jnp.where(jnp.abs(half) < scales, inner, 1.0 - (dof + 1.0) * share) / scales
    by_dof = 0.5 * (_student_t_excess(half, scales, dof) - (1.0 + 1.0 / dof) * share)
    return by_half, by_scales, by_dof


def _student_t_excess(half, scales, dof):
    """log(1 + e^2 / (dof s^2)), finite where the square is not."""
    _, size = _student_t_share(half, scales, dof)
    far = size > 1e18
    near = jnp.log1p(jnp.square(jnp.where(far, 1, size)))
    logs = jnp.log(jnp.where(far, jnp.abs(half), 1)) - jnp.log(scales)
    return jnp.where(far, 2.0 * (logs + jnp.log(2.0 / jnp.sqrt(dof))), near)


@with_slopes(_student_t_slopes)
def _student_t(half, scales, dof):
    return 0.5 * (dof + 1.0) * _student_t_excess(half, scales, dof) + jnp.log(scales)


def _student_t_constant(dof):
    """log(dof pi) / 2 + log Gamma(dof / 2) - log Gamma((dof + 1) / 2): log(2 pi) / 2 and a rest that vanishes.

    With x = dof / 2 the rest is log(x) / 2 - log(Gamma(x + 1/2) / Gamma(x)), a series in 1 / x that is reached by steps
    of one: neither Gamma function is evaluated, so nothing cancels however many degrees of freedom.
    """
    x = 0.5 * dof
    total = 0.5 * jnp.log1p(0.25 / x / (x + 1.0))
    for k in range(1, 8):
        total = total + 0.5 * jnp.log1p(0.25 / (x + float(k)) / (x + (k + 1.0)))
    y = 1.0 / (x + 8.0)
    series = jnp.zeros_like(x)
    for c in (5461 / 425984, -691 / 180224, 31 / 18432, -17 / 14336, 1 / 640, -1 / 192, 1 / 8):
        series = c + y * y * series
    return 0.5 * math.log(2.0 * math.pi) + (total + y * series)


def student_t_nll(
    predictions: jax.Array,
    targets: jax.Array,
    scales: jax.Array,
    *,
    degrees_of_freedom: ArrayLike = 4.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood of Student's t: a normal likelihood in which outliers lose their say.

    .. math::
      \ell = \frac{\nu + 1}{2} \log\left(1 + \frac{(\hat y - y)^2}{\nu s^2}\right) + \log s
      + \log \frac{\sqrt{\nu \pi}\; \Gamma(\nu / 2)}{\Gamma((\nu + 1) / 2)}

    The pull of an error falls again beyond :math:`\sqrt\nu s`, unlike `huber`, so gross errors are ignored in the end.
    One degree of freedom is the Cauchy distribution; many give `gaussian_nll(variances=scales**2, full=True)`.

    Args:
      predictions: Locations, float `[...]`.
      targets: True values, real `[...]`.
      scales: Scales s, float `[...]`, positive; the variance is larger, by dof / (dof - 2).
      degrees_of_freedom: Lightness of the tails, positive; 4 is the usual fixed choice.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign.

    Raises:
      TypeError: if `predictions` or `scales` are not floating point.
      ValueError: if shapes differ, or a known scale or `degrees_of_freedom` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> zero, one = jnp.zeros(1), jnp.ones(1)
      >>> cauchy = student_t_nll(one, zero, one, degrees_of_freedom=1.0)
      >>> round(cauchy.item(), 4)  # log(2 pi)
      1.8379

    Reference:
      Lange, Little and Taylor, *Robust statistical modeling using the t distribution*, 1989.
    """
    _check.floating(predictions=predictions, scales=scales)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets, scales=scales)
    _check.positive(degrees_of_freedom=degrees_of_freedom)
    predictions, targets, scales, dof = masked(where, predictions, targets, scales, degrees_of_freedom, fill=1.0)
    scales = _check.domain("positive", lambda s: s > 0, scales=scales)
    values = _student_t(_half_error(predictions, targets), scales, dof) + _student_t_constant(dof)
    return reduce(values, where, weights, reduction)
