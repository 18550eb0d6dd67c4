"""Divergences between distributions: one unit per row; the classes are the last axis."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics, _ratios
from lossax._numerics import atanh_tail, divide, scaled
from lossax._ratios import Pair, Values
from lossax._reduction import masked, reduce
from lossax._special import relative_expm1
from lossax._types import Reduction

Of = Literal["probabilities", "logits"]


def _rows(where: Any, predictions: Any, targets: Any, of: str) -> tuple[jax.Array, jax.Array]:
    """Check and mask, the same for every divergence."""
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.units_of({"predictions": predictions})
    _check.choice(("probabilities", "logits"), of=of)
    predictions, targets = masked(where, predictions, targets, event=1, fill=1.0)
    if of == "probabilities":
        predictions = _check.domain("nonnegative", lambda p: p >= 0, predictions=predictions)
        targets = _check.domain("nonnegative", lambda p: p >= 0, targets=targets)
    return predictions, targets


def kl_divergence(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    reverse: bool = False,
    of: Of = "probabilities",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Kullback-Leibler divergence: what it costs to take one distribution for another.

    .. math:: \mathrm{KL}(t \,\|\, q) = \sum_j t_j \log \frac{t_j}{q_j} - t_j + q_j, \qquad
        \text{reverse: } \mathrm{KL}(q \,\|\, t)

    The default, truth first, makes the estimate q cover all that the targets t do, and has the gradient of
    cross-entropy; `reverse` makes it settle on one mode and is the direction of variational inference and of on-policy
    distillation. Where the first of the two has mass and the second has none the value is infinite, and the slope
    there 0; elsewhere 0 log 0 = 0. No digits are lost where the two are close, and the result is never negative.

    Rows that sum to 1 give the numbers of torch's `kl_div` (which takes log q; its `"mean"` divides by the classes
    too, `"batchmean"` is the mean here), of Optax' `kl_divergence` and of Keras' `KLDivergence` (which clips). Others
    give the generalised divergence, Optax' `generalized_kl_divergence`; by it the slope is 1 - t / q, where the former
    have -t / q: a constant, which a softmax takes away. Log-probabilities are logits. For distillation at a temperature
    T, divide both logits by it and the result by 1 / T^2, as below.

    Args:
      predictions: Estimated distributions q, float `[..., classes]`.
      targets: True distributions t, real `[..., classes]`.
      reverse: Whether the estimate comes first.
      of: What both are: `"probabilities"`, or `"logits"` of a softmax, where -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `of` is unknown or a known probability is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> q, t = jnp.array([0.5, 0.25, 0.25]), jnp.array([0.5, 0.5, 0.0])
      >>> round(kl_divergence(q, t).item(), 4), kl_divergence(q, t, reverse=True).item()  # log(2) / 2
      (0.3466, inf)
      >>> student, teacher, temperature = jnp.log(q), jnp.log(t), 2.0
      >>> loss = temperature**2 * kl_divergence(student / temperature, teacher / temperature, of="logits")

    Reference:
      Kullback and Leibler, *On information and sufficiency*, 1951; Hinton, Vinyals and Dean, *Distilling the knowledge
      in a neural network*, 2015.
    """
    predictions, targets = _rows(where, predictions, targets, of)
    values = _ratios.divergence(_ratios.reverse_kl if reverse else _ratios.kl, of, predictions, targets)
    return reduce(values, where, weights, reduction)


def _jeffreys(pair: Pair) -> Values:
    q, t, gap, log, *_ = pair
    by_q = -(pair.times(q, pair.from_q) + pair.over(q, gap))
    return jnp.sum(scaled(gap, log), axis=-1), by_q, pair.times(t, pair.from_t) + pair.over(t, gap)


def jeffreys(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    of: Of = "probabilities",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Symmetric Kullback-Leibler divergence: both directions, added.

    .. math:: \sum_j (t_j - q_j) \log \frac{t_j}{q_j} = \mathrm{KL}(t \,\|\, q) + \mathrm{KL}(q \,\|\, t)

    For two estimates of equal standing, such as one network under two dropout masks; infinite where only one of them
    has mass, unlike `jensen_shannon`. Others halve it.

    R-Drop is the mean cross-entropy of two passes and alpha / 2 of this, as below. The factors differ: its paper adds
    the two cross-entropies, so that the same alpha weighs half as much, its authors' page takes that of one pass. Alpha
    is 1 to 5.

    Args:
      predictions: Estimated distributions q, float `[..., classes]`.
      targets: True distributions t, real `[..., classes]`.
      of: What both are: `"probabilities"`, or `"logits"` of a softmax, where -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `of` is unknown or a known probability is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> round(jeffreys(jnp.array([0.5, 0.5]), jnp.array([0.75, 0.25])).item(), 4)  # log(3) / 4
      0.2747
      >>> from lossax.losses import softmax_cross_entropy_with_integer_labels as cross_entropy
      >>> first, second, labels, alpha = jnp.zeros((1, 2)), jnp.log(jnp.array([[3.0, 1.0]])), jnp.array([0]), 2.0
      >>> misfit = (cross_entropy(first, labels) + cross_entropy(second, labels)) / 2
      >>> r_drop = misfit + alpha / 2 * jeffreys(first, second, of="logits")
      >>> round(r_drop.item(), 4)  # log(8 / 3) / 2 + log(3) / 4
      0.7651

    Reference:
      Jeffreys, *An invariant form for the prior probability in estimation problems*, 1946; Liang et al., *R-Drop:
      regularized dropout for neural networks*, 2021.
    """
    predictions, targets = _rows(where, predictions, targets, of)
    return reduce(_ratios.divergence(_jeffreys, of, predictions, targets), where, weights, reduction)


def jensen_shannon(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    share: ArrayLike = 0.5,
    of: Of = "probabilities",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Jensen-Shannon divergence: of both distributions from their mixture, finite whatever their supports.

    .. math:: \pi\,\mathrm{KL}(t \,\|\, m) + (1 - \pi)\,\mathrm{KL}(q \,\|\, m), \qquad m = \pi\,t + (1 - \pi)\,q

    At most log 2. Its root at `share=0.5` is a metric, SciPy's `jensenshannon`. The generalised form is the loss of
    on-policy distillation, `share` being the `beta` of its authors and of TRL and Liger; for a small share, divide by
    it to have `kl_divergence(q, t)`, and by 1 - share for a large one to have the reverse.

    Args:
      predictions: Estimated distributions q, float `[..., classes]`.
      targets: True distributions t, real `[..., classes]`.
      share: Share of the targets in the mixture, in [0, 1].
      of: What both are: `"probabilities"`, or `"logits"` of a softmax, where -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `of` is unknown, `share` is outside [0, 1] or a known probability is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> q, t = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
      >>> round(jensen_shannon(q, t).item(), 4)  # log 2
      0.6931

    Reference:
      Lin, *Divergence measures based on the Shannon entropy*, 1991; Agarwal et al., *On-policy distillation of language
      models*, 2024.
    """
    _check.fraction(share=share)
    predictions, targets = _rows(where, predictions, targets, of)
    # 1 - share before it is rounded to the dtype of the predictions.
    _, share, rest = masked(None, predictions, share, 1.0 - share)
    values = _ratios.divergence(_ratios.mixed, of, predictions, targets, share, rest, share, rest)
    return reduce(values, where, weights, reduction)


def _tilted(pair: Pair, alpha: jax.Array, rest: jax.Array) -> tuple[jax.Array, ...]:
    """t^alpha q^(1 - alpha), and what it is over q and over t if slopes are by these."""
    q, t, _, log, *_ = pair
    tiny = jnp.finfo(q.dtype).tiny
    inside = (q >= tiny) & (t >= tiny)
    ratio = jnp.where(inside, t / jnp.where(inside, q, 1), 1)
    outside = jnp.clip(log, -1e30, 1e30)

    def root(power):  # the ratio has more digits than the logarithm of a large one
        return jnp.where(inside, jnp.power(ratio, 0.5 * power), jnp.exp(0.5 * power * outside))

    by_q, by_t = root(alpha), root(-rest)  # twice: the square may overflow where the product does not
    mass = jnp.where(log > 0, scaled(scaled(t, by_t), by_t), scaled(scaled(q, by_q), by_q))
    return (mass, mass, mass) if pair.by_log else (mass, by_q * by_q, by_t * by_t)


def _growth(x: jax.Array, power: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether |power x| is small, and (exp(power x) - 1) / power there: x for power 0."""
    step = jnp.where((power == 0) & jnp.isinf(x), 0, power * x)
    near = jnp.abs(step) <= 1.0
    return near, x * relative_expm1(jnp.where(near, step, 0))


def _alpha(pair: Pair, alpha: jax.Array, rest: jax.Array) -> Values:
    r"""Sum of (t^a q^(1 - a) - a t + (a - 1) q) / (a (a - 1)), smooth in a, through 0 and 1 too.

    With r = log(t / q) and E(a) = (exp(a r) - 1) / a the slopes are -E(a) and E(a - 1), and so the value is the sum of
    t E(a - 1) - q E(a); where these nearly cancel, a series of q r^2.
    """
    q, t, _, log, *_ = pair
    mass, of_q, of_t = _tilted(pair, alpha, rest)
    one = jnp.ones_like(q)
    nonzero, nonone = jnp.where(alpha == 0, 1.0, alpha), jnp.where(rest == 0, 1.0, rest)
    near_q, small_q = _growth(log, alpha)
    near_t, small_t = _growth(log, -rest)
    by_q = jnp.where(near_q, pair.times(q, -small_q), (pair.times(q, one) - of_q) / nonzero)
    by_t = jnp.where(near_t, pair.times(t, small_t), (pair.times(t, one) - of_t) / nonone)
    down = jnp.where(near_q, scaled(q, -small_q), (q - mass) / nonzero)
    up = jnp.where(near_t, scaled(t, small_t), (t - mass) / nonone)
    size = jnp.maximum(jnp.maximum(jnp.abs(alpha), jnp.abs(rest)), 1.0)
    near = jnp.abs(log) * size <= 1.5
    step = jnp.where(near, log, 0)
    series, powers, term = jnp.zeros_like(step), jnp.ones_like(alpha), jnp.full_like(step, 0.5)
    for k in range(3, 26):
        series = series + term * powers
        powers = 1.0 + alpha * powers
        term = term * step / float(k)
    far = jnp.where(jnp.isposinf(mass), mass, down + up)
    value = jnp.where(near, q * step * step * series, far)
    return jnp.sum(value, axis=-1), by_q, by_t


def alpha_divergence(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike,
    of: Of = "probabilities",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""A family from one direction of the Kullback-Leibler divergence to the other, and beyond both.

    .. math:: \frac{1}{\alpha\,(\alpha - 1)} \sum_j \left(t_j^\alpha\, q_j^{1 - \alpha} - \alpha\, t_j
        + (\alpha - 1)\, q_j\right)

    At alpha 1 it is `kl_divergence`, at 0 its reverse; at 1/2 four times the square of `hellinger`, at 2 half of
    `chi_squared`, at -1 half of its reverse. The larger alpha, the more the estimate must cover all of the targets.
    Alpha may be traced, swept or trained, through 0 and 1 too.

    Conventions differ. Amari's own parameter is 1 - 2 alpha. Cressie and Read's is alpha - 1, and of counts with equal
    totals their statistic, SciPy's `power_divergence`, is twice this. Tsallis' relative entropy of order alpha is alpha
    times this, and `renyi` a logarithm of it. Others call 1 - alpha alpha.

    Args:
      predictions: Estimated distributions q, float `[..., classes]`.
      targets: True distributions t, real `[..., classes]`.
      alpha: Member of the family, any real number.
      of: What both are: `"probabilities"`, or `"logits"` of a softmax, where -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, and infinite where a class is missing on one side and counts.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `of` is unknown, `alpha` is not finite or a known probability is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> q, t, alpha = jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0]), 2.0
      >>> alpha_divergence(q, t, alpha=alpha).item()  # (1 / 0.5 - 1) / 2
      0.5
      >>> tsallis = alpha * alpha_divergence(q, t, alpha=alpha)

    Reference:
      Amari, *Differential-geometrical methods in statistics*, 1985; Cressie and Read, *Multinomial goodness-of-fit
      tests*, 1984; Minka, *Divergence measures and message passing*, 2005.
    """
    _check.number(alpha=alpha)
    predictions, targets = _rows(where, predictions, targets, of)
    _, alpha, rest = masked(None, predictions, alpha, 1.0 - alpha)
    values = _ratios.divergence(_alpha, of, predictions, targets, alpha, rest)
    return reduce(values, where, weights, reduction)


def _renyi(pair: Pair, alpha: jax.Array, rest: jax.Array) -> Values:
    r"""log S / (a - 1) with S = sum t^a q^(1 - a), of normalised masses.

    Where S is near 1 it comes from S - 1 = a (a - 1) A with the divergence A above; elsewhere from S itself, and
    where that leaves the range of the dtype from the logarithms of its terms.
    """
    q, t, _, log, *_ = pair
    value, by_q, by_t = _alpha(pair, alpha, rest)
    excess = -rest * alpha * value
    near = (excess >= -0.5) & (excess <= 1.0)
    excess = jnp.where(near, excess, 0)
    r = excess / (2.0 + excess)
    close = alpha * jnp.where(near, value, 0) * (1.0 - r) * (1.0 + r * r * atanh_tail(r * r))

    mass, _, _ = _tilted(pair, alpha, rest)
    total = jnp.sum(mass, axis=-1)
    inside = (total > 1e-30) & (total < 1e30)
    up = log > 0
    larger = jnp.where(up, t, q)
    finite = jnp.isfinite(log) & (larger > 0)
    powers = jnp.where(up, -rest, alpha) * jnp.where(finite, log, 0)
    logs = jnp.log(jnp.where(finite, larger, 1)) + powers
    blocked = jnp.where(up & (alpha > 1), jnp.inf, -jnp.inf) * jnp.ones_like(logs)
    logs = jnp.where(finite, logs, jnp.where(larger > 0, blocked, -jnp.inf * jnp.ones_like(logs)))
    top = jnp.max(logs, axis=-1, keepdims=True)
    base = jnp.where(jnp.isfinite(top), top, 0)
    parts = jnp.exp(logs - base)
    sums = jnp.sum(parts, axis=-1, keepdims=True)
    far = jnp.where(inside, jnp.log(jnp.where(inside, total, 1)), (base + jnp.log(sums))[..., 0])
    far = jnp.where((rest == 0) | jnp.isnan(value), value, far / -jnp.where(rest == 0, 1.0, rest))

    beside, rows = near[..., None], jnp.where(near, 1.0 + excess, 1)[..., None]
    share = jnp.where(jnp.isfinite(sums), divide(parts, sums), 0)
    slope_t = -alpha * share / jnp.where(rest == 0, 1.0, rest)
    slope_q = jnp.where(beside, alpha * by_q / rows, -share)
    return jnp.where(near, close, far), slope_q, jnp.where(beside, alpha * by_t / rows, slope_t)


def renyi(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: ArrayLike,
    of: Of = "probabilities",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Rényi divergence: of order 1 it is the Kullback-Leibler divergence, of high orders the worst ratio decides.

    .. math:: D_\alpha(t \,\|\, q) = \frac{1}{\alpha - 1} \log \sum_j t_j^\alpha\, q_j^{1 - \alpha}

    It grows with alpha from -log of the mass that q has where t has any to log max(t / q). For privacy accounting and
    for bounds; as a loss the gradient of rows far apart is milder than that of `alpha_divergence`. Rows are taken
    relative to their sums, and alpha may be traced, swept or trained, through 1 too. Infinite where only q is 0 if
    alpha is 1 or more, below 1 for distributions without a common class.

    Args:
      predictions: Estimated distributions q, float `[..., classes]`.
      targets: True distributions t, real `[..., classes]`.
      alpha: Order, positive.
      of: What both are: `"probabilities"`, or `"logits"` of a softmax, where -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `of` is unknown, `alpha` is not positive or a known probability is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> q, t = jnp.array([0.25, 0.75]), jnp.array([1.0, 0.0])
      >>> round(renyi(q, t, alpha=2.0).item(), 4)  # log 4
      1.3863

    Reference:
      Rényi, *On measures of entropy and information*, 1961; van Erven and Harremoës, *Rényi divergence and
      Kullback-Leibler divergence*, 2014.
    """
    _check.positive(alpha=alpha)
    predictions, targets = _rows(where, predictions, targets, of)
    _, alpha, rest = masked(None, predictions, alpha, 1.0 - alpha)
    kind = "logits" if of == "logits" else "masses"
    values = _ratios.divergence(_renyi, kind, predictions, targets, alpha, rest)
    return reduce(values, where, weights, reduction)


def _squared_hellinger(pair: Pair) -> Values:
    q, t, gap, *_ = pair
    root_q, root_t = _numerics.sqrt(q), _numerics.sqrt(t)
    root = divide(gap, root_q + root_t)
    by_q, by_t = pair.over(q, -0.5 * root * root_q), pair.over(t, 0.5 * root * root_t)
    return 0.5 * jnp.sum(root * root, axis=-1), by_q, by_t


def hellinger(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    squared: bool = False,
    of: Of = "probabilities",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Hellinger distance, a metric between 0 and 1.

    .. math:: H = \sqrt{\tfrac12 \sum_j \left(\sqrt{t_j} - \sqrt{q_j}\right)^2} = \sqrt{1 - \sum_j \sqrt{t_j\, q_j}}

    Bounded and finite whatever the supports. To train on, take it `squared`, which is smooth where the two agree; the
    distance has slope 0 there, as the tip of a cone. Some leave out the factor 1/2.

    Args:
      predictions: Estimated distributions q, float `[..., classes]`.
      targets: True distributions t, real `[..., classes]`.
      squared: Whether to leave out the root.
      of: What both are: `"probabilities"`, or `"logits"` of a softmax, where -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `of` is unknown or a known probability is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> q, t = jnp.array([0.75, 0.25]), jnp.array([0.0, 1.0])
      >>> hellinger(q, t, squared=True).item()  # (0.75 + 0.25) / 2
      0.5

    Reference:
      Hellinger, *Neue Begründung der Theorie quadratischer Formen von unendlichvielen Veränderlichen*, 1909.
    """
    predictions, targets = _rows(where, predictions, targets, of)
    values = _ratios.divergence(_squared_hellinger, of, predictions, targets)
    return reduce(values if squared else _numerics.sqrt(values), where, weights, reduction)


def total_variation(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    of: Of = "probabilities",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Total variation distance: the mass that would have to move, between 0 and 1.

    .. math:: \tfrac12 \sum_j |t_j - q_j|

    It is the largest difference in probability of any event. As a loss it forgives outliers, and its slope does not
    shrink near the target. It is not the regulariser of images of that name.

    Args:
      predictions: Estimated distributions q, float `[..., classes]`.
      targets: True distributions t, real `[..., classes]`.
      of: What both are: `"probabilities"`, or `"logits"` of a softmax, where -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `of` is unknown or a known probability is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> total_variation(jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.5, 0.25])).item()
      0.25

    Reference:
      Levin, Peres and Wilmer, *Markov chains and mixing times*, 2009.
    """
    predictions, targets = _rows(where, predictions, targets, of)
    return reduce(_ratios.divergence(_ratios.total_variation, of, predictions, targets), where, weights, reduction)


def _chi_squared(pair: Pair) -> Values:
    q, t, gap, *_ = pair
    excess = divide(gap, q)
    excess = jnp.where((q == 0) & (gap != 0), jnp.inf * jnp.ones_like(q), excess)
    by_q = pair.over(q, -gap * (2.0 + excess))
    return jnp.sum(scaled(gap, excess), axis=-1), by_q, pair.times(t, 2.0 * excess)


def _reverse_chi_squared(pair: Pair) -> Values:
    value, by_t, by_q = _chi_squared(pair.swapped())
    return value, by_q, by_t


def chi_squared(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    reverse: bool = False,
    of: Of = "probabilities",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Chi-squared divergence: squared differences relative to what is expected.

    .. math:: \chi^2(t \,\|\, q) = \sum_j \frac{(t_j - q_j)^2}{q_j}, \qquad
        \text{reverse: } \chi^2(q \,\|\, t) = \sum_j \frac{(t_j - q_j)^2}{t_j}

    The default is Pearson's, the denominator the estimate, and SciPy's `chisquare` of observed targets; `reverse` is
    Neyman's, the denominator the observation. Infinite where only the denominator is 0. It looks at small expected
    masses hardest of all; `jensen_shannon` is the bounded choice.

    Args:
      predictions: Estimated distributions q, float `[..., classes]`.
      targets: True distributions t, real `[..., classes]`.
      reverse: Whether the targets are the denominator.
      of: What both are: `"probabilities"`, or `"logits"` of a softmax, where -inf is a class that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes differ, `of` is unknown or a known probability is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> q, t = jnp.array([0.5, 0.5]), jnp.array([0.75, 0.25])
      >>> chi_squared(q, t).item()  # 2 (1/4)^2 / (1/2)
      0.25

    Reference:
      Pearson, *On the criterion that a given system of deviations from the probable can be reasonably supposed to have
      arisen from random sampling*, 1900; Neyman, *Contribution to the theory of the chi-squared test*, 1949.
    """
    predictions, targets = _rows(where, predictions, targets, of)
    values = _ratios.divergence(_reverse_chi_squared if reverse else _chi_squared, of, predictions, targets)
    return reduce(values, where, weights, reduction)
