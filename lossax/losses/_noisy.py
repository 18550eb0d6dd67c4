"""Classification with labels that may be wrong: one unit per row; the classes are the last axis."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _double, _hyper, _numerics, _tempered
from lossax._reduction import labelled, masked, reduce
from lossax._types import Reduction


def generalized_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    q: ArrayLike = 0.7,
    truncation: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Between cross-entropy, which fits fast, and absolute error, which wrong labels hardly move.

    .. math:: \frac{1 - \max(p_y, k)^q}{q}, \qquad p = \mathrm{softmax}(z)

    The first thing to try where labels are wrong at random. At `q=0` it is cross-entropy, at `q=1` it is 1 - p (half of
    the absolute error), and it is smooth in between. The nearer to 1, the more robust and the slower, with many classes
    too slow. The default is the paper's; Keras' `CategoricalGeneralizedCrossEntropy` has `q=0.5`. Above 0, `truncation`
    is the paper's truncated loss (there 0.5): a label less probable than that costs a constant and teaches nothing.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      labels: Given classes, integer `[...]`, in [0, classes).
      q: How much robustness, in [0, 1].
      truncation: Probability k below which the loss is constant, in [0, 1]; 0 truncates nothing.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, at most 1 / q.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
      >>> round(generalized_cross_entropy(logits, jnp.array([0]), q=0.5).item(), 4)  # (1 - 1/2) / 0.5
      1.0

    Reference:
      Zhang and Sabuncu, *Generalized cross entropy loss for training deep neural networks with noisy labels*, 2018.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.fraction(q=q, truncation=truncation)
    logits, labels, known = labelled(where, logits, labels)
    _, q, truncation = masked(None, logits, q, truncation)
    surprise = _numerics.label_surprise(logits, labels)
    limit = jnp.where(truncation > 0, -jnp.log(jnp.where(truncation > 0, truncation, 1.0)), jnp.inf)
    surprise = jnp.where(surprise < limit, surprise, jnp.where(jnp.isinf(limit), surprise, limit))
    return reduce(known * _tempered.expm1_over(-q, surprise), where, weights, reduction)


def reverse_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    log_zero: ArrayLike = -4.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy with prediction and label exchanged, where log 0 is a number: bounded, so robust to wrong labels.

    .. math:: -\sum_j p_j \log t_j = -A\,(1 - p_y), \qquad p = \mathrm{softmax}(z), \quad \log 0 := A

    Alone it learns slowly; it is half of symmetric cross-entropy, which is a weighted sum (below, with the paper's
    weights for CIFAR-10; 6 and 0.1 for CIFAR-100). The paper has A = -4; the official code, and the code of active
    passive losses, clip the label at 1e-4, which is `log_zero=math.log(1e-4)`, about -9.2. At -2 it is the absolute
    error of the probabilities.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      labels: Given classes, integer `[...]`, in [0, classes).
      log_zero: What stands for log 0, zero or less.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; between 0 and -A.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `log_zero` is positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import losses
      >>> logits, labels = jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])
      >>> round(reverse_cross_entropy(logits, labels).item(), 4)  # 4 * 3/4
      3.0
      >>> def symmetric_cross_entropy(logits, labels, alpha=0.1, beta=1.0):
      ...     forward = losses.softmax_cross_entropy_with_integer_labels(logits, labels)
      ...     return alpha * forward + beta * losses.reverse_cross_entropy(logits, labels)
      >>> round(symmetric_cross_entropy(logits, labels).item(), 4)  # 0.1 log 4 + 3
      3.1386

    Reference:
      Wang et al., *Symmetric cross entropy for robust learning with noisy labels*, 2019.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.nonpositive(log_zero=log_zero)
    logits, labels, known = labelled(where, logits, labels)
    _, log_zero = masked(None, logits, log_zero)
    return reduce(known * (-log_zero * _numerics.label_miss(logits, labels)), where, weights, reduction)


def _costs(logits: jax.Array, gamma: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(1 - p)^gamma (-log p) of each class, 0 of those that do not exist, its derivative by -log p, and 1 - p."""
    top, rest = _numerics.log_partition(logits)
    exists = ~jnp.isneginf(logits)
    surprise = jnp.where(exists, (top[..., None] - logits) + rest[..., None], 0.0)
    _, miss = _numerics.softmax_pair(logits)
    ones = jnp.ones_like(surprise)
    cost, slope = jax.jvp(lambda s: _numerics.focal_surprise(s, miss, gamma), (surprise,), (ones,))
    return jnp.where(exists, cost, 0.0), jnp.where(exists, slope, 0.0), miss


def _quarter(f: Callable[[jax.Array], jax.Array], logits: jax.Array) -> jax.Array:
    """A quarter of f(logits), which may itself overflow: where it is huge it is as good as linear."""
    value = f(logits)
    return jnp.where(value < 1e30, 0.25 * value, f(0.25 * logits))


def _own_cost(logits: jax.Array, labels: jax.Array, gamma: jax.Array) -> jax.Array:
    surprise = _numerics.label_surprise(logits, labels)
    return _numerics.focal_surprise(surprise, _numerics.label_miss(logits, labels), gamma)


def _mean_cost(logits: jax.Array, gamma: jax.Array) -> jax.Array:
    """A quarter of what the labels cost on average, where their sum would overflow; 1 where nothing costs anything."""
    mean = _quarter(lambda z: jnp.sum(_costs(z, gamma)[0] / z.shape[-1], axis=-1), logits)
    return jnp.where(mean > 0, mean, 1.0)


@jax.custom_jvp
def _share(logits: jax.Array, labels: jax.Array, gamma: jax.Array) -> jax.Array:
    """The cost of the label over that of all labels."""
    own = _quarter(lambda z: _own_cost(z, labels, gamma), logits)
    return own / logits.shape[-1] / _mean_cost(logits, gamma)


@_share.defjvp
def _(primals, tangents):
    logits, labels, gamma = primals
    classes = logits.shape[-1]
    value, mean = _share(logits, labels, gamma), _mean_cost(logits, gamma)
    cost, slopes, miss = _costs(logits, gamma)
    p, _ = _numerics.softmax_pair(logits)
    surprise, own_miss = _numerics.label_surprise(logits, labels), _numerics.label_miss(logits, labels)
    own, slope = jax.jvp(
        lambda s: _numerics.focal_surprise(s, own_miss, gamma), (surprise,), (jnp.ones_like(surprise),)
    )
    # The difference is taken before a tangent comes in: what is left of a small value must not underflow on the way.
    mine = slope[..., None] * jnp.where(_numerics.one_hot(labels, logits), -own_miss[..., None], p)
    all_of_them = p * jnp.sum(slopes, axis=-1, keepdims=True) - slopes
    by_logits = 0.25 / classes * (mine - value[..., None] * all_of_them) / mean[..., None]
    mine = _numerics.xlogy(own, own_miss)
    by_gamma = 0.25 / classes * (mine - value * jnp.sum(_numerics.xlogy(cost, miss), axis=-1)) / mean
    return value, jnp.sum(by_logits * tangents[0], axis=-1) + by_gamma * tangents[2]


def normalized_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy as a share of what all labels together would cost: provably robust to evenly wrong labels.

    .. math:: \frac{(1 - p_y)^\gamma \log p_y}{\sum_j (1 - p_j)^\gamma \log p_j}, \qquad p = \mathrm{softmax}(z)

    Alone it underfits. The paper adds a loss that works on the other classes, `reverse_cross_entropy` or the absolute
    error (its half is `generalized_cross_entropy` at `q=1`): active and passive, a weighted sum (below). `gamma`
    above 0 is normalised focal loss (there 0.5). A row with one class costs nothing.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      labels: Given classes, integer `[...]`, in [0, classes).
      gamma: How fast the weight falls with confidence, nonnegative; 0 is normalised cross-entropy.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `gamma` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import losses
      >>> logits, labels = jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.array([0])
      >>> round(normalized_cross_entropy(logits, labels).item(), 4)  # log 2 / (log 2 + log 4 + log 4)
      0.2
      >>> def active_passive(logits, labels, alpha=1.0, beta=1.0):
      ...     active = losses.normalized_cross_entropy(logits, labels)
      ...     return alpha * active + beta * losses.reverse_cross_entropy(logits, labels)
      >>> round(active_passive(logits, labels).item(), 4)  # 1/5 + 4 * 1/2
      2.2

    Reference:
      Ma et al., *Normalized loss functions for deep learning with noisy labels*, 2020.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.nonnegative(gamma=gamma)
    logits, labels, known = labelled(where, logits, labels)
    _, gamma = masked(None, logits, gamma)
    return reduce(known * _share(logits, labels, gamma), where, weights, reduction)


def taylor_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    order: int = 2,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy cut off after a few terms of its series, so that one wrong label costs a bounded amount.

    .. math:: \sum_{i=1}^{n} \frac{(1 - p_y)^i}{i}, \qquad p = \mathrm{softmax}(z)

    At order 1 it is 1 - p (half of the absolute error of the probabilities), robust and slow; as the order grows it
    becomes cross-entropy. A dial like `generalized_cross_entropy`, in steps. The default is the paper's.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      labels: Given classes, integer `[...]`, in [0, classes).
      order: Number of terms, a Python int, 1 or more.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, at most 1 + 1/2 + ... + 1/n.

    Raises:
      TypeError: if `logits` are not floating point, `labels` not integer or `order` no Python int.
      ValueError: if shapes do not fit, a known label names no class or `order` is under 1.

    Example:
      >>> import jax.numpy as jnp
      >>> taylor_cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).item()  # 1/2 + 1/8
      0.625

    Reference:
      Feng et al., *Can cross entropy loss be robust to label noise?*, 2020.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.count(order=order)
    logits, labels, known = labelled(where, logits, labels)
    miss = _numerics.label_miss(logits, labels)
    total = jnp.zeros_like(miss)
    for i in range(order, 0, -1):
        total = miss * (1.0 / i + total)
    return reduce(known * total, where, weights, reduction)


def _excess(x: jax.Array, rate: jax.Array) -> jax.Array:
    """The integral of exp(rate * s) (1 - exp(s)) from x to 0, which is x^2 / 2 near 0; nonnegative."""
    near = jnp.abs(x) < 0.5
    small = jnp.where(near, x, 0)
    term, before, now, series = 0.5 * small * small, 0.0 * rate, 0.0 * rate + 1.0, jnp.zeros_like(x)
    for n in range(2, 19):  # the n-th coefficient is (rate + 1)^(n - 1) - rate^(n - 1), over n!
        series = series + now * term
        term = term * small / (n + 1.0)
        before, now = now, (2.0 * rate + 1.0) * now - rate * (rate + 1.0) * before
    return jnp.where(near, series, _tempered.expm1_over(rate + 1.0, x) - _tempered.expm1_over(rate, x))


def _divergence(logits: jax.Array, targets: jax.Array, t1: jax.Array, t2: jax.Array, most: float) -> jax.Array:
    """Sum over classes of the integral of (y - u) u^(-t1) from p = exp(-s) to y, with s no more than `most`."""
    surprise, low = _tempered.surprises(logits, t2)
    some, s = targets > 0, jnp.minimum(surprise, most)
    y = jnp.where(some, targets, 1.0)
    given = jnp.exp((2.0 - t1) * jnp.log(y)) * _excess((-s - jnp.log(y)) - low, 1.0 - t1)
    given = jnp.where(jnp.isinf(surprise) & (t1 >= 1.0), jnp.inf, given)
    exponent, rest = _double.add(1.0 - t1, jnp.ones_like(t1))  # 2 - t1 is rounded, 1 - t1 need not be
    high, lower = _double.multiply(jnp.broadcast_to(exponent, s.shape), s)
    other = jnp.exp(-high) * (1.0 - (lower + (rest * jnp.minimum(s, 1e4) + exponent * low))) / exponent
    return jnp.sum(jnp.where(some, given, other), axis=-1)


@jax.custom_jvp
def _bi_tempered(logits: jax.Array, targets: jax.Array, t1: jax.Array, t2: jax.Array) -> jax.Array:
    """The tempered Bregman divergence between each row of targets and its tempered softmax."""
    return _divergence(logits, targets, t1, t2, 0.125 * float(jnp.finfo(logits.dtype).max))


@_bi_tempered.defjvp
def _(primals, tangents):
    """By the logits: e_i (u_i - sum_j e_j u_j) sum_j p_j^t2, with e the escort distribution and u = (p - y) p^(-t1).

    Counted from the best class, so that nothing is left where the best are equal or one has nearly all.
    """
    logits, targets, t1, t2 = primals
    surprise, low = _tempered.surprises(logits, t2)
    on = jnp.isfinite(surprise)
    s = jnp.where(on, surprise, 0.0)
    p, tail = jnp.where(on, jnp.exp(-s) * (1.0 - low), 0.0), jnp.where(on, jnp.exp(-t2 * s), 0.0)
    total = jnp.sum(tail, axis=-1, keepdims=True)
    escort = _numerics.divide(tail, total)
    some = targets > 0
    y = jnp.where(some, targets, 1.0)
    less = jnp.where(some, y * jnp.expm1((-s - jnp.log(y)) - low), p)
    best = _numerics.one_hot(jnp.argmax(logits, axis=-1), logits)
    pull = less * jnp.exp(jnp.minimum(t1 * s, 60.0))
    lead = jnp.sum(jnp.where(best, pull, 0.0), axis=-1, keepdims=True)
    apart = jnp.where(on, less * jnp.exp((t1 - t2) * s), 0.0) - tail * lead
    apart = jnp.where(t1 * s < 60.0, tail * (pull - lead), apart)
    slope = apart - escort * jnp.sum(apart, axis=-1, keepdims=True)
    _, rest = jax.jvp(lambda y, a, b: _divergence(logits, y, a, b, 1e18), primals[1:], tangents[1:])
    return _bi_tempered(*primals), jnp.sum(slope * tangents[0], axis=-1) + rest


def bi_tempered_logistic(
    logits: jax.Array,
    labels: jax.Array,
    *,
    t1: ArrayLike = 0.8,
    t2: ArrayLike = 1.2,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy with two temperatures: `t1` bounds what an outlier costs, `t2` gives the softmax a heavy tail.

    .. math:: \sum_j \int_{p_j}^{y_j} (y_j - u)\,u^{-t_1} du
        = \sum_j y_j (\log_{t_1} y_j - \log_{t_1} p_j) - \frac{y_j^{2 - t_1} - p_j^{2 - t_1}}{2 - t_1}, \qquad
        p = \exp_{t_2}(z - \lambda(z))

    where :math:`\log_t x = (x^{1 - t} - 1) / (1 - t)`, :math:`\exp_t` is its inverse and :math:`\lambda` makes the sum
    of p one. For labels wrong far from the boundary (`t1`) and close to it (`t2`). At `t1=t2=1` it is cross-entropy
    less the entropy of the smoothed label; below 1, `t2` gives probabilities that reach 0. Bounded for t1 < 1.
    `activations.tempered_softmax` gives the probabilities.

    The normaliser is solved to the last digit, whatever the number of classes, and the gradient is exact: it needs the
    escort probabilities alone. The authors' code stops after 5 fixed-point iterations and smooths by
    :math:`s / (K - 1)` for each other class, which is `label_smoothing = s * K / (K - 1)` here.

    Args:
      logits: Activations, float `[..., classes]`; -inf is a class that does not exist.
      labels: Given classes, integer `[...]`, in [0, classes).
      t1: Temperature of the logarithm, in [0, 1].
      t2: Temperature of the gammaial, nonnegative; 1 or more in the paper.
      label_smoothing: Share of the label that is spread evenly over all classes, in [0, 1].
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = bi_tempered_logistic(jnp.zeros((1, 4)), jnp.array([0]), t1=0.0)
      >>> round(loss.item(), 4)  # (1 - 1/4)^2 / 2 + 3 (1/4)^2 / 2
      0.375

    Reference:
      Amid et al., *Robust bi-tempered logistic loss based on Bregman divergences*, 2019.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.fraction(t1=t1, label_smoothing=label_smoothing)
    _check.nonnegative(t2=t2)
    logits, labels, known = labelled(where, logits, labels)
    _, t1, t2, smoothing = masked(None, logits, t1, t2, label_smoothing)
    targets = _numerics.one_hot(labels, logits).astype(logits.dtype)
    if not _hyper.is_zero(label_smoothing):
        targets = (1.0 - smoothing) * targets + smoothing * _numerics.uniform(logits)
    return reduce(known * _bi_tempered(logits, targets, t1, t2), where, weights, reduction)


def bootstrapped(
    logits: jax.Array,
    labels: jax.Array,
    *,
    beta: ArrayLike = 0.95,
    kind: Literal["soft", "hard"] = "soft",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy with a target that is in part what the model says itself, so that it may overrule a label.

    .. math:: -\beta \log p_y - (1 - \beta) \sum_j p_j \log p_j \quad\text{(soft)}, \qquad
        -\beta \log p_y - (1 - \beta) \log \max_j p_j \quad\text{(hard)}, \qquad p = \mathrm{softmax}(z)

    The softer kind is cross-entropy with minimum-entropy regularisation; its gradient goes through both p. The paper
    has `beta=0.95` for the soft kind and `beta=0.8` for the hard one. Start it from a model that has learned something:
    one that knows nothing confirms itself. In the hard kind the first of several equal maxima counts.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      labels: Given classes, integer `[...]`, in [0, classes).
      beta: Share of the given label in the target, in [0, 1]; 1 is cross-entropy.
      kind: Whether the rest of the target is the distribution, `"soft"`, or its best class, `"hard"`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class, `beta` is outside its range or `kind` unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.25, 0.75]]))
      >>> loss = bootstrapped(logits, jnp.array([0]), beta=0.5, kind="hard")
      >>> round(loss.item(), 4)  # (log 4 + log 4/3) / 2
      0.837

    Reference:
      Reed et al., *Training deep neural networks on noisy labels with bootstrapping*, 2014.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.fraction(beta=beta)
    _check.choice(("soft", "hard"), kind=kind)
    logits, labels, known = labelled(where, logits, labels)
    _, beta = masked(None, logits, beta)
    own = _numerics.entropy(logits) if kind == "soft" else _numerics.label_surprise(logits, jnp.argmax(logits, axis=-1))
    given = _numerics.label_surprise(logits, labels)
    return reduce(known * (_numerics.scaled(beta, given) + (1.0 - beta) * own), where, weights, reduction)
