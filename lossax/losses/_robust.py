"""Robust regression: errors that grow too large lose their say; one unit per element of the predictions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from lossax import _check, _double
from lossax._numerics import absolute, hypot, log_ratio, surprise_excess, with_slopes, x_minus_log1p
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _half_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """(predictions - targets) / 2: unlike the difference itself, it cannot overflow."""
    return 0.5 * predictions - 0.5 * targets


def _doubled_power(length, exponent):
    """(2 length) ** exponent, where 2 length may overflow."""
    return jnp.exp2(exponent) * length**exponent


def _charbonnier_slopes(half, epsilon, exponent):
    side = 0.5 * epsilon
    length = hypot(half, side)
    tilt = 2.0 * exponent * _doubled_power(length, 2.0 * exponent - 1.0)
    by_exponent = 2.0 * _doubled_power(length, 2.0 * exponent) * (jnp.log(length) + 0.6931471805599453)
    return 2.0 * tilt * (half / length), tilt * (side / length), by_exponent


@with_slopes(_charbonnier_slopes)
def _charbonnier(half, epsilon, exponent):
    return _doubled_power(hypot(half, 0.5 * epsilon), 2.0 * exponent)


def charbonnier(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    epsilon: ArrayLike = 1e-3,
    exponent: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Absolute error with a tip rounded over a tiny width; or another power of the error, rounded alike.

    .. math:: \ell(e) = (e^2 + \epsilon^2)^a, \qquad e = \hat y - y

    The usual loss of image restoration and optical flow: as sharp as `absolute_error`, yet smooth. An exponent below
    1/2 (0.45 in optical flow) lets outliers matter less and is not convex. It is not 0 at a perfect fit, but
    :math:`\epsilon^{2a}`; `pseudo_huber(delta=epsilon) / epsilon` is the loss of exponent 1/2 without that constant.
    Papers differ in `epsilon` (1e-3, 1e-6, 1e-9), and where one writes :math:`\sqrt{e^2 + \epsilon}`, take its root.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      epsilon: Width of the rounded tip, in units of `targets`; positive.
      exponent: Power a of the squared error; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; positive.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, or `epsilon` or `exponent` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> charbonnier(jnp.array([4.0]), jnp.zeros(1), epsilon=3.0).item()
      5.0

    Reference:
      Charbonnier, Blanc-Féraud, Aubert and Barlaud, *Two deterministic half-quadratic regularization algorithms for
      computed imaging*, 1994; the exponent: Sun, Roth and Black, *A quantitative analysis of current practices in
      optical flow estimation and the principles behind them*, 2014.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(epsilon=epsilon, exponent=exponent)
    predictions, targets, epsilon, exponent = masked(where, predictions, targets, epsilon, exponent, fill=1.0)
    return reduce(_charbonnier(_half_error(predictions, targets), epsilon, exponent), where, weights, reduction)


# ---- the family of Barron --------------------------------------------------------------------------------------------
#
# With u = e / c, b = |alpha - 2|, x = u^2 / b and L = log(1 + x) the loss is (b / alpha) (exp(s) - 1), s = alpha L / 2.
# B = b L (u^2 where b is infinite) and s = alpha B / (2 b) have a limit at every alpha, and so has the loss, written as
# (B / 2) (exp(s) - 1) / s for a small s. Its derivative by u^2 is Q / 2 with Q = (1 + x)^(alpha / 2 - 1).


def _exprel(s):
    """(exp(s) - 1) / s, and 1 at 0."""
    tiny = jnp.abs(s) < 1e-9
    safe = jnp.where(tiny, 1, s)
    return jnp.where(tiny, 1.0 + 0.5 * s, jnp.expm1(safe) / safe)


def _held(constant, x):
    """A constant that XLA does not add to others: (x + 2) - 2 is not x."""
    return lax.optimization_barrier(jnp.asarray(constant, x.dtype))


def _barron_parts(half, alpha, scale):
    """b (1 where it is infinite), alpha / b, s, B, the square root R of Q, and u R."""
    # u = e / c may overflow where the loss does not. Far out, where 1 + x is x, u / 2^11 stands for it, of which only
    # logarithms and powers are taken.
    largest = float(jnp.finfo(half.dtype).max)
    shrunk = jnp.clip(2.0**-10 * half / scale, -largest, largest)
    one, endless = jnp.ones_like(shrunk), jnp.isinf(alpha)
    side = jnp.where(endless, jnp.sign(alpha), jnp.sign(alpha - 2.0))
    alpha = jnp.where(endless, 0, alpha)
    b = jnp.where(endless, 1, jnp.abs(alpha - 2.0))
    safe = jnp.where(b > 0, b, 1)
    ratio = jnp.where(endless, side, alpha / safe)
    distance = jnp.clip(jnp.abs(shrunk) / jnp.sqrt(safe), 0.0, largest)
    far = (distance > 1e6) & ~endless
    distance = jnp.where(far, distance, one)
    u = 2.0 * (jnp.where(far, 0.0 * half, half) / scale)
    x = jnp.where(far, one, jnp.where(endless, 0.0 * one, jnp.square(u / jnp.sqrt(safe))))
    flat = x < 1e-15
    log = jnp.log1p(jnp.where(flat, one, x))
    near = jnp.square(jnp.clip(jnp.where(x < 1, u, 0.0 * one), -1e9, 1e9))
    near = near * jnp.where(flat, 1.0 - 0.5 * x, log / jnp.where(flat, one, x))
    beyond = 2.0 * b * (jnp.log(distance) + 7.6246189861593985)  # 11 log 2
    grown = jnp.where(far, beyond, jnp.where(x < 1, near, b * log))
    # (1 + x)^k with the rounding errors of 1 + x and k put back; for a k so large that this is not enough, exp.
    moderate = (b < 64.0) & ~endless
    less, less_rest = _double.add(_held(-2.0, alpha), alpha)
    k = jnp.where(moderate, 0.25 * less, 0)
    total, total_rest = _double.add(_held(1.0, x), x)
    factor = jnp.exp2(22.0 * jnp.where(far, k, 0.0 * one))
    root = jnp.where(far, distance, total) ** jnp.where(far, 2.0 * k, k)
    root = root * (1.0 + k * jnp.where(far, 0.0 * one, total_rest / total)) * (1.0 + 0.25 * less_rest * (grown / safe))
    root = jnp.where(moderate, root, jnp.exp(0.25 * side * jnp.where(moderate, 0.0 * one, grown)))
    pull = jnp.where(far, (2048.0 * factor) * (shrunk * root), u * root)
    return b, ratio, 0.5 * ratio * grown, grown, factor * root, pull


def _barron_value(half, alpha, scale):
    b, ratio, s, grown, root, pull = _barron_parts(half, alpha, scale)
    one = jnp.ones_like(s)
    large = ((s > 1) & (b < 64.0) & ~jnp.isinf(alpha)) | (alpha == 2)
    bent = (jnp.square(pull) - b * (1.0 - jnp.square(root))) / jnp.where(large, alpha, one)
    small = jnp.abs(s) < 0.5
    gentle = 0.5 * grown * _exprel(jnp.where(small, s, 0.0 * one))
    other = jnp.expm1(s) / jnp.where(ratio == 0, one, ratio)
    return jnp.where(large, bent, jnp.where(small, gentle, other))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)  # on [-1, 1]


def _kappa(y):
    """(y - 1 + exp(-y)) / y^2 for 0 <= y <= 2."""
    total = jnp.zeros_like(y)
    for n in range(20, 1, -1):
        total = (1.0 - y * total) / n
    return total


def _barron_by_alpha(half, alpha, scale):
    """The derivative by alpha, (b / 4) times the integral of exp(alpha y / 2) (y - 1 + exp(-y)) for y from 0 to L.

    A small s: by quadrature, all terms positive. A large one: in closed form. At alpha = 2, where it grows as log b
    does, it is that of the number next to 2.
    """
    highest = float(np.log(jnp.finfo(half.dtype).max))
    alpha = jnp.where(alpha == 2, jnp.asarray(2.0 - float(jnp.finfo(half.dtype).eps), alpha.dtype), alpha)
    b, _, s, grown, root, pull = _barron_parts(half, alpha, scale)
    endless = jnp.isinf(alpha)
    alpha = jnp.where(endless, 1, alpha)
    log = jnp.where(endless, 0, grown / b)
    side = jnp.sign(alpha - 2.0)
    zero, one = jnp.zeros_like(s), jnp.ones_like(s)
    middle, short = jnp.abs(s) <= 4, log < 2

    short_log = jnp.where(short, log, zero)
    middle_s = jnp.where(middle, s, zero)
    nodes = jnp.asarray(0.5 + 0.5 * _NODES, s.dtype).reshape(-1, *[1] * s.ndim)
    growth = jnp.asarray(0.5 * _WEIGHTS, s.dtype).reshape(nodes.shape) * jnp.exp(nodes * middle_s[None])
    by_series = jnp.sum(growth * jnp.square(nodes) * _kappa(nodes * short_log[None]), axis=0)
    by_line = jnp.sum(growth * (nodes * log[None] - 1.0), axis=0)
    tail = _exprel(jnp.clip(0.5 * side * grown, -1e3, highest))
    middle_value = 0.25 * grown * jnp.where(short, jnp.square(short_log) * by_series, by_line + tail)

    half_alpha = 0.5 * jnp.where(alpha == 0, 1, alpha)
    inverse = 1.0 / half_alpha
    s_far = jnp.clip(jnp.where(middle, 4.0 * one, s), -1e3, highest)
    kappa = jnp.where(short, _kappa(short_log), surprise_excess(log) / jnp.square(jnp.where(short, one, log)))
    root_far = inverse * jnp.exp(0.5 * s_far)
    bent = 1.0 - s_far + jnp.square(s_far) * kappa
    far_value = -0.5 * side * (jnp.square(inverse) - root_far * (root_far * bent))
    power = jnp.square(pull) + b * jnp.square(root)  # b exp(s)
    high = 0.25 * (inverse * (power * (log - 1.0 - inverse) + b * (1.0 + inverse)) + grown * tail)
    value = jnp.where(middle, middle_value, jnp.where((s > 0) & ~short, high, far_value))
    return jnp.where(endless, zero, value)


def _barron_jvp(primals, tangents):
    *_, root, pull = _barron_parts(*primals)
    half, alpha, scale = primals
    dhalf, dalpha, dscale = tangents
    terms = []
    if not isinstance(dhalf, SymbolicZero):
        terms.append(2.0 * (pull * root / scale) * dhalf)
    if not isinstance(dalpha, SymbolicZero):  # costs more than all the rest
        terms.append(_barron_by_alpha(half, alpha, scale) * dalpha)
    if not isinstance(dscale, SymbolicZero):
        terms.append(-(jnp.square(pull) / scale) * dscale)
    value = _barron(*primals)
    return value, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(value)


_barron = jax.custom_jvp(_barron_value)
_barron.defjvp(_barron_jvp, symbolic_zeros=True)


def barron(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike = 1.0,
    scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""The general robust loss: one number, `alpha`, says how much outliers count.

    .. math::
      \ell(e) = \frac{b}{\alpha} \left(\left(\frac{(e / c)^2}{b} + 1\right)^{\alpha / 2} - 1\right),
      \qquad e = \hat y - y, \quad b = |\alpha - 2|

    Use it to sweep or to train robustness itself. The values at 0, 2 and both infinities are the limits, and value and
    derivatives by the error, `alpha` and `scale` keep their digits on the way there. An `alpha` of

    - 2 is half of `squared_error(e / scale)`;
    - 1 is `pseudo_huber(delta=scale) / scale**2`;
    - 0 is `cauchy(c=2**0.5 * scale) / scale**2`;
    - -2 is `geman_mcclure(c=2 * scale) / scale**2`;
    - -inf is `welsch(c=2**0.5 * scale) / scale**2`.

    To train `alpha` with the weights, use `adaptive_barron`: this loss alone falls with `alpha` and with the inverse of
    `scale`, so that they run away. The derivative by `alpha` is infinite at 2; there, it is that of the number next to
    it.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      alpha: Shape, any number or infinity; a number or an array that broadcasts to `[...]`.
      scale: Error c up to which the loss is about quadratic, in units of `targets`; positive, a number or an array that
        broadcasts to `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `alpha` is NaN or `scale` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> round(barron(jnp.array([0.75]), jnp.zeros(1)).item(), 6)  # sqrt(1 + 0.75^2) - 1
      0.25
      >>> barron(jnp.full(2, 2.0), jnp.zeros(2), alpha=jnp.array([2.0, -2.0]), reduction="none").tolist()
      [2.0, 1.0]

    Reference:
      Barron, *A general and adaptive robust loss function*, 2019.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.at_least(-np.inf, alpha=alpha)
    _check.positive(scale=scale)
    predictions, targets, alpha, scale = masked(where, predictions, targets, alpha, scale, fill=1.0)
    return reduce(_barron(_half_error(predictions, targets), alpha, scale), where, weights, reduction)


# log Z(alpha) = log of the integral of exp(-barron(x, alpha)) over all x, fitted by least squares in value and
# derivative to the trapezoidal rule in t, x^2 = (2 - alpha) (exp(t^2) - 1), in 30 digits. Chebyshev series, whose
# argument is in [-1, 1]: for alpha <= 1 in 2.6 alpha / (alpha + 0.3) - 1, which is dense around 0, where log Z has
# all derivatives but no convergent power series; for alpha >= 1 in 1 - 2 b, b = 2 - alpha, one for each power of
# b log b, which is what log Z has at 2, with small coefficients (ridge). Off by less than 3e-10, and by 1e-8 in the
# derivative.
_LOG_PARTITION_LOW = (
    1.3656696877393988,
    -0.14294208793573518,
    -0.024091485374083604,
    -0.008712246596704385,
    -0.0027124301958481095,
    -0.0010580369010910506,
    -0.0003895707656389005,
    -0.00015919697004759088,
    -6.325936822475362e-05,
    -2.6672602586544825e-05,
    -1.106747309729247e-05,
    -4.77231189418114e-06,
    -2.0363165383947597e-06,
    -8.929801274112745e-07,
    -3.885686425025854e-07,
    -1.7265152865447937e-07,
    -7.623086003115878e-08,
    -3.4236512366540333e-08,
    -1.529763591278465e-08,
    -6.946702038161304e-09,
    -3.155481770024084e-09,
    -1.4709670340589388e-09,
    -6.916441295550342e-10,
    -3.0875586989074023e-10,
    -8.431085705531962e-11,
)
_LOG_PARTITION_HIGH = (
    (
        1.0078908306364975,
        -0.13573214455521757,
        0.045258257731730346,
        0.0035047417434044895,
        -0.0007857995626889845,
        -0.001095447456220483,
        -0.00014643929266212945,
        4.450069418382913e-05,
        3.3265654725034974e-08,
    ),
    (
        -0.3458058051292188,
        0.0675534011179456,
        0.025661068671955962,
        0.0038589735540995747,
        -0.0010478344155347146,
        -0.0002617133030408278,
        4.189969188377942e-05,
    ),
    (
        -0.039548890202308784,
        0.05476391032608317,
        -0.0051760342650574755,
        -0.011323848507870563,
        0.0017152789812430323,
    ),
)


def _chebyshev(u, coefficients):
    """The sum of coefficient times Chebyshev polynomial at u in [-1, 1], by Clenshaw's recurrence."""
    last, before = jnp.zeros_like(u), jnp.zeros_like(u)
    for coefficient in coefficients[:0:-1]:
        last, before = 2.0 * u * last - before + coefficient, last
    return u * last - before + coefficients[0]


@with_slopes(lambda b: (1.0 + jnp.log(jnp.maximum(b, float(jnp.finfo(b.dtype).eps))),))
def _b_log_b(b):
    return b * jnp.log(jnp.where(b > 0, b, 1))


def _log_partition(alpha):
    """Log of the integral of exp(-barron(x, alpha)) over x, for 0 <= alpha <= 2."""
    one = jnp.ones_like(alpha)
    low, high = jnp.where(alpha < 1, alpha, one), jnp.where(alpha < 1, one, alpha)
    b = 2.0 - high
    s = _b_log_b(b)
    first, second, third = (_chebyshev(1.0 - 2.0 * b, row) for row in _LOG_PARTITION_HIGH)
    by_logs = first + s * (second + s * third)
    return jnp.where(alpha < 1, _chebyshev(2.6 * low / (low + 0.3) - 1.0, _LOG_PARTITION_LOW), by_logs)


def adaptive_barron(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike,
    scale: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log likelihood whose density is `barron`'s, so that its robustness can be trained with the weights.

    .. math:: \ell(e) = \mathrm{barron}(e; \alpha, c) + \log c + \log Z(\alpha), \qquad
      Z(\alpha) = \int \exp(-\mathrm{barron}(x; \alpha, 1))\, dx

    `log Z` pays for heavy tails: a small `alpha` forgives outliers but costs on every ordinary error. An `alpha` of 2
    is `gaussian_nll(variances=scale**2, full=True)`; 0 is a Cauchy likelihood. Train `alpha = 2 * sigmoid(a)` and
    `scale = softplus(s)`, one pair in all or one for each output, as arrays that broadcast; where both should stay
    fixed, `barron` is the same loss up to a constant.

    Args:
      predictions: Locations, float `[...]`.
      targets: True values, real `[...]`.
      alpha: Shape, in [0, 2]; a number or an array that broadcasts to `[...]`.
      scale: Error c up to which the loss is about quadratic, in units of `targets`; positive, a number or an array that
        broadcasts to `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign. NaN where a traced `alpha` is outside [0, 2].

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `alpha` is outside [0, 2] or `scale` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> likelihood = adaptive_barron(jnp.array([2.0]), jnp.zeros(1), alpha=2.0, scale=1.0)
      >>> round(likelihood.item(), 4)  # 2 + log(2 pi) / 2
      2.9189

    Reference:
      Barron, *A general and adaptive robust loss function*, 2019.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.within(0.0, 2.0, alpha=alpha)
    _check.positive(scale=scale)
    predictions, targets, alpha, scale = masked(where, predictions, targets, alpha, scale, fill=1.0)
    alpha = _check.domain("in [0, 2]", lambda a: (a >= 0) & (a <= 2), alpha=alpha)
    values = _barron(_half_error(predictions, targets), alpha, scale) + (jnp.log(scale) + _log_partition(alpha))
    return reduce(values, where, weights, reduction)


# ---- the classical redescending losses -------------------------------------------------------------------------------
#
# All are about e^2 / 2 for errors far below c. What is written as a function of x = (e / c)^2 for errors below c is
# written as one of y = 1 / x for those above, so that neither squares a number without bound.


def _inside(half, c):
    """The half error, no further out than c / 2, and x for it."""
    side = 0.5 * c
    inside = jnp.clip(half, -side, side)
    return inside, jnp.square(inside / side)


def _outside(half, c):
    """Whether the error is c or more, and c / e where it is."""
    side = 0.5 * c
    far = jnp.abs(half) >= side
    return far, jnp.where(far, side / jnp.where(far, half, 1), 1)


@with_slopes(lambda x: (x / (1.0 + x) / (1.0 + x),))
def _log1p_excess(x):
    """log(1 + x) - x / (1 + x) for x >= 0, which is about x^2 / 2."""
    small = x < 1
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    return jnp.where(small, x_minus_log1p(-near / (1.0 + near)), jnp.log1p(far) - far / (1.0 + far))


def _log_growth(half, c, y):
    """log(1 + 1 / y), where y is (c / e)^2 and at most 1."""
    side = 0.5 * c
    return 2.0 * log_ratio(jnp.maximum(jnp.abs(half), side), side) + jnp.log1p(y)


def _cauchy_slopes(half, c):
    inside, x = _inside(half, c)
    far, ratio = _outside(half, c)
    y = jnp.square(ratio)
    by_half = jnp.where(far, 2.0 * c * (ratio / (1.0 + y)), 4.0 * (inside / (1.0 + x)))
    return by_half, c * jnp.where(far, _log_growth(half, c, y) - 1.0 / (1.0 + y), _log1p_excess(x))


@with_slopes(_cauchy_slopes)
def _cauchy(half, c):
    inside, x = _inside(half, c)
    far, ratio = _outside(half, c)
    tiny = x < 1e-30
    share = jnp.where(tiny, 1, jnp.log1p(x) / jnp.where(tiny, 1, x))
    grown = _log_growth(half, c, jnp.square(ratio))
    return jnp.where(far, 0.5 * c * (c * grown), 2.0 * inside * (inside * share))


def cauchy(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    c: ArrayLike = 2.385,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared error near zero, its logarithm in the tails: the negative log likelihood of a Cauchy distribution.

    .. math:: \ell(e) = \frac{c^2}{2} \log\left(1 + (e / c)^2\right), \qquad e = \hat y - y

    The pull of an error falls as 1 / e beyond `c`, but none is ever ignored: the mildest of the losses here that are
    not convex. Start from a fit by `huber`, and scale errors to a standard deviation of 1 (1.4826 times their median
    absolute value): at that scale the default is 95% as efficient as least squares on normal errors. It is
    `c**2 / 2 * barron(alpha=0, scale=c / 2**0.5)`, and `student_t_nll` of one degree of freedom with a fixed scale; the
    cost of `scipy.optimize.least_squares(loss="cauchy", f_scale=c)`.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      c: Error at which the pull is greatest, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `c` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> round(cauchy(jnp.array([2.0]), jnp.zeros(1), c=2.0).item(), 4)  # 2 log 2
      1.3863

    Reference:
      Black and Anandan, *The robust estimation of multiple motions*, 1996; the default: Holland and Welsch, *Robust
      regression using iteratively reweighted least-squares*, 1977.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(c=c)
    predictions, targets, c = masked(where, predictions, targets, c, fill=1.0)
    return reduce(_cauchy(_half_error(predictions, targets), c), where, weights, reduction)


def _geman_mcclure_slopes(half, c):
    inside, x = _inside(half, c)
    far, ratio = _outside(half, c)
    y = jnp.square(ratio)
    by_half = jnp.where(far, 2.0 * c * (ratio * y / jnp.square(1.0 + y)), 4.0 * (inside / jnp.square(1.0 + x)))
    return by_half, c * jnp.square(jnp.where(far, 1.0 / (1.0 + y), x / (1.0 + x)))


@with_slopes(_geman_mcclure_slopes)
def _geman_mcclure(half, c):
    inside, x = _inside(half, c)
    far, ratio = _outside(half, c)
    return jnp.where(far, 0.5 * c * (c / (1.0 + jnp.square(ratio))), 2.0 * inside * (inside / (1.0 + x)))


def geman_mcclure(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    c: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared error near zero that levels off as the error grows.

    .. math:: \ell(e) = \frac12 \frac{c^2 e^2}{c^2 + e^2}, \qquad e = \hat y - y

    The pull of an error falls as 1 / e^3, between `cauchy` and `welsch`. No loss exceeds c^2 / 2, so gross errors are
    all alike; start from a fit by `huber`, or lower `c` while training. Conventions of the scale abound: this is
    `c**2 / 4 * barron(alpha=-2, scale=c / 2)`, and twice this divided by c^2 is the form in [0, 1].

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      c: Error at which half of the largest loss is reached, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, at most c^2 / 2.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `c` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> geman_mcclure(jnp.array([1.0]), jnp.zeros(1)).item()
      0.25

    Reference:
      Geman and McClure, *Bayesian image analysis: an application to single photon emission tomography*, 1985.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(c=c)
    predictions, targets, c = masked(where, predictions, targets, c, fill=1.0)
    return reduce(_geman_mcclure(_half_error(predictions, targets), c), where, weights, reduction)


def _ratio_squared(half, c):
    """(e / c)^2, no larger than where exp(-x) is 0."""
    return jnp.square(jnp.clip(half / (0.5 * c), -40.0, 40.0))


def _welsch_slopes(half, c):
    x = _ratio_squared(half, c)
    small = x < 1
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    excess = jnp.where(small, jnp.exp(-near) * (jnp.square(near) * _kappa(-near)), 1.0 - jnp.exp(-far) * (1.0 + far))
    return 4.0 * (half * jnp.exp(-x)), c * excess


@with_slopes(_welsch_slopes)
def _welsch(half, c):
    inside, near = _inside(half, c)
    far = -0.5 * c * (c * jnp.expm1(-_ratio_squared(half, c)))
    return jnp.where(near >= 1, far, 2.0 * inside * (inside * _exprel(-near)))


def welsch(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    c: ArrayLike = 2.985,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared error near zero that saturates as one minus a Gaussian: the correntropy loss.

    .. math:: \ell(e) = \frac{c^2}{2} \left(1 - e^{-(e / c)^2}\right), \qquad e = \hat y - y

    Errors of a few `c` have no pull at all, smoothly; `tukey` cuts them off at a known size. Start from a fit by
    `huber`, and scale errors to a standard deviation of 1: at that scale the default is 95% as efficient as least
    squares on normal errors. It is `c**2 / 2 * barron(alpha=-inf, scale=c / 2**0.5)`, also called Leclerc's loss.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      c: Error at which the loss is 63% of its largest, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, at most c^2 / 2.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `c` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> round(welsch(jnp.array([1.0]), jnp.zeros(1), c=1.0).item(), 4)  # (1 - 1 / e) / 2
      0.3161

    Reference:
      Dennis and Welsch, *Techniques for nonlinear least squares and robust regression*, 1978.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(c=c)
    predictions, targets, c = masked(where, predictions, targets, c, fill=1.0)
    return reduce(_welsch(_half_error(predictions, targets), c), where, weights, reduction)


def _tukey_slopes(half, c):
    inside, x = _inside(half, c)
    side = 0.5 * c
    room = ((side - inside) / side) * ((side + inside) / side)  # 1 - x, exact near the cut
    return 4.0 * inside * jnp.square(room), c * (jnp.square(x) * (1.0 - x / 1.5))


@with_slopes(_tukey_slopes)
def _tukey(half, c):
    inside, x = _inside(half, c)
    return 2.0 * inside * (inside * (1.0 - x * (1.0 - x / 3.0)))


def tukey(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    c: ArrayLike = 4.685,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Tukey's biweight: squared error near zero, constant beyond a cut, where errors have no pull at all.

    .. math:: \ell(e) = \frac{c^2}{6} \left(1 - \left(1 - m^2\right)^3\right), \qquad
      m = \min(|e| / c, 1), \quad e = \hat y - y

    For outliers that are to be ignored altogether. A fit that starts with all errors beyond `c` never moves: start from
    one by `huber`, and scale errors to a standard deviation of 1 (1.4826 times their median absolute value). At that
    scale the default is 95% as efficient as least squares on normal errors. It is in no family with the others.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      c: Error beyond which the loss is constant, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, at most c^2 / 6.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `c` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> units = tukey(jnp.array([3.0, 9.0]), jnp.zeros(2), c=6.0, reduction="none")
      >>> [round(unit, 4) for unit in units.tolist()]  # 6 (1 - (3/4)^3) and 6
      [3.4688, 6.0]

    Reference:
      Beaton and Tukey, *The fitting of power series, meaning polynomials, illustrated on band-spectroscopic data*,
      1974.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(c=c)
    predictions, targets, c = masked(where, predictions, targets, c, fill=1.0)
    return reduce(_tukey(_half_error(predictions, targets), c), where, weights, reduction)


# ---- losses of localisation ------------------------------------------------------------------------------------------


def _split(error, width):
    """The part of an absolute error up to `width`, and the part beyond; at `width` itself the latter grows."""
    inside = error < width
    return jnp.where(inside, error, width), jnp.where(inside, 0, error - width)


def wing(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    width: ArrayLike = 10.0,
    curvature: ArrayLike = 2.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Absolute error with a logarithmic centre, whose pull grows as the error shrinks.

    .. math:: \ell(e) = w \log\left(1 + \frac{\min(|e|, w)}{\epsilon}\right) + \max(|e| - w, 0),
      \qquad e = \hat y - y

    For landmarks that are nearly right and should become exact: small errors weigh more than in `absolute_error`, which
    it is, up to a constant, for errors beyond `width`. The opposite of robustness near zero: with noisy targets use
    `huber`. The gradient at `e = 0` is 0 and jumps to w / epsilon beside it. The defaults are the paper's, for pixels;
    segmentation_models_pytorch has `width=5, curvature=0.5`.

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      width: Error w at which the loss turns linear, in units of `targets`; positive.
      curvature: Error epsilon at which the centre bends, in units of `targets`; positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `width` or `curvature` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> units = wing(jnp.array([2.0, 12.0]), jnp.zeros(2), reduction="none")
      >>> [round(unit, 3) for unit in units.tolist()]  # 10 log 2 and 10 log 6 + 2
      [6.931, 19.918]

    Reference:
      Feng, Kittler, Awais, Huber and Wu, *Wing loss for robust facial landmark localisation with convolutional neural
      networks*, 2018.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(width=width, curvature=curvature)
    predictions, targets, width, curvature = masked(where, predictions, targets, width, curvature, fill=1.0)
    near, beyond = _split(absolute(predictions - targets), width)
    return reduce(width * jnp.log1p(near / curvature) + beyond, where, weights, reduction)


def balanced_l1(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike = 0.5,
    gamma: ArrayLike = 1.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Absolute error whose tip is rounded so that nearly right estimates pull more than in `smooth_l1`.

    .. math::
      \ell(e) = \frac{\alpha}{b} (b m + 1) \log(b m + 1) - \alpha m + \gamma\, (|e| - m),
      \qquad m = \min(|e|, 1), \quad b = e^{\gamma / \alpha} - 1

    For box offsets, where a few hard examples would drown the many easy ones: the pull is alpha log(b |e| + 1) up to an
    error of 1, where it has grown to `gamma`. The turn stands at 1; with predictions and targets divided by another
    length, and the loss multiplied by it, it moves there (the `beta` of MMDetection).

    Args:
      predictions: Estimates, float `[...]`.
      targets: True values, real `[...]`.
      alpha: Pull of small errors; the smaller, the larger is their share. Positive.
      gamma: Pull of errors beyond 1, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ or `alpha` or `gamma` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> units = balanced_l1(jnp.array([1.0, 2.0]), jnp.zeros(2), reduction="none")
      >>> round((units[1] - units[0]).item(), 6)  # gamma
      1.5

    Reference:
      Pang, Chen, Shi, Feng, Ouyang and Lin, *Libra R-CNN: towards balanced learning for object detection*, 2019.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.positive(alpha=alpha, gamma=gamma)
    predictions, targets, alpha, gamma = masked(where, predictions, targets, alpha, gamma, fill=1.0)
    near, beyond = _split(absolute(predictions - targets), jnp.ones((), predictions.dtype))
    b = jnp.expm1(gamma / alpha)
    bent = b * near
    # (1 + x) log(1 + x) - x, whose two terms cancel, is (1 + x) times a sum that keeps its digits.
    tip = alpha / b * ((1.0 + bent) * _log1p_excess(bent))
    return reduce(tip + gamma * beyond, where, weights, reduction)
