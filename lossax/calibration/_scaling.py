"""Scalings of outputs, fitted on held-out data by convex problems.

Every fit returns a named tuple of arrays that is a function too: it goes through `jit`, `vmap` and checkpoints, and
calling it calibrates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._reduction import labelled, masked, unit_weights
from lossax.losses import sigmoid_binary_cross_entropy, softmax_cross_entropy_with_integer_labels


def _wide(logits: jax.Array) -> jax.Array:
    _check.floating(logits=logits)
    logits = jnp.asarray(logits)
    return logits.astype(_numerics.wide_dtype(logits.dtype))


class TemperatureScaling(NamedTuple):
    """Divides logits by `temperature`, a float `[]`."""

    temperature: jax.Array

    def __call__(self, logits: jax.Array) -> jax.Array:
        """Calibrated logits of logits `[..., classes]`."""
        return _wide(logits) / self.temperature


class VectorScaling(NamedTuple):
    """Multiplies the logit of each class by one of `scales` and adds one of `shifts`, float `[classes]` both."""

    scales: jax.Array
    shifts: jax.Array

    def __call__(self, logits: jax.Array) -> jax.Array:
        """Calibrated logits of logits `[..., classes]`."""
        logits = _wide(logits)
        shape = (1,) * (logits.ndim - 1) + self.scales.shape
        return self.scales.reshape(shape) * logits + self.shifts.reshape(shape)


class PlattScaling(NamedTuple):
    """A straight line for log-odds: `scale` and `shift`, float `[]` both."""

    scale: jax.Array
    shift: jax.Array

    def __call__(self, logits: jax.Array) -> jax.Array:
        """Calibrated log-odds of scores `[...]`."""
        return self.scale * _wide(logits) + self.shift


class BetaScaling(NamedTuple):
    """Log-odds of `a log p - b log(1 - p) + c` where p is the sigmoid of a logit; float `[]` each, a and b >= 0."""

    a: jax.Array
    b: jax.Array
    c: jax.Array

    def __call__(self, logits: jax.Array) -> jax.Array:
        """Calibrated log-odds of log-odds `[...]`."""
        logits = _wide(logits)
        return self.c + self.b * jax.nn.softplus(logits) - self.a * jax.nn.softplus(-logits)


def _rows(
    logits: jax.Array, labels: jax.Array, where: Any, weights: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Flat rows, labels and weights that add up to 1, and a number that is NaN where a traced label names no class."""
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    rows, labels, known = labelled(where, logits, labels)
    weight = unit_weights(labels.shape, where, weights, dtype=rows.dtype)
    weight = weight / jnp.maximum(jnp.sum(weight), jnp.finfo(rows.dtype).tiny)
    return rows.reshape(-1, rows.shape[-1]), labels.reshape(-1), weight.reshape(-1), jnp.min(known, initial=1.0)


def fit_temperature(
    logits: jax.Array, labels: jax.Array, *, where: ArrayLike | None = None, weights: ArrayLike | None = None
) -> TemperatureScaling:
    r"""The temperature at which held-out data are most likely: the first thing to do against overconfidence.

    .. math:: T = \arg\min_T \sum_i -\log \mathrm{softmax}(z_i / T)_{y_i}

    One number, so that a hundred examples are enough, and no prediction changes its class. The problem is convex in
    1 / T, solved by Newton's method between bounds. Where every prediction is right T goes to 0, and where the logits
    tell nothing to infinity; both end at bounds, a thousandth and a thousand times the spread of the logits.

    Args:
      logits: Of held-out examples, float `[..., classes]`.
      labels: True classes, integer `[...]`, in [0, classes).
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.

    Returns:
      `TemperatureScaling(temperature)`: call it on logits.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit or a known label names no class.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[2.0, 0.0]] * 4)  # 88 % sure, right 3 times of 4: sigmoid(2 / T) = 3 / 4
      >>> scaling = fit_temperature(logits, jnp.array([0, 0, 0, 1]))
      >>> round(scaling.temperature.item(), 3)  # 2 / log 3
      1.82

    Reference:
      Guo et al., *On calibration of modern neural networks*, 2017.
    """
    rows, labels, weight, known = _rows(logits, labels, where, weights)
    top = jnp.max(rows, axis=-1, keepdims=True)
    gaps = jnp.where(jnp.isneginf(rows), rows, rows - jnp.where(jnp.isneginf(top), 0.0, top))
    finite = jnp.where(jnp.isneginf(rows), 0, gaps)
    spread = jnp.sqrt(jnp.sum(weight[:, None] * jnp.square(finite / jnp.maximum(jnp.max(-finite), 1e-30))))
    spread = jnp.maximum(spread * jnp.max(-finite), 1e-30)
    chosen = jnp.take_along_axis(finite, labels[:, None], axis=-1, mode="clip")

    def slopes(sharpness: jax.Array) -> tuple[jax.Array, jax.Array]:
        """First and second derivative of the mean loss by 1 / T."""
        p = jax.nn.softmax(gaps * sharpness, axis=-1)
        mean = jnp.sum(p * finite, axis=-1, keepdims=True)
        first = jnp.sum(weight * (mean - chosen)[:, 0])
        return first, jnp.sum(weight * jnp.sum(p * jnp.square(finite - mean), axis=-1))

    def step(_: Any, bounds: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """In u = log(1 / T), where the first derivative changes its sign once."""
        u, low, high = bounds
        sharpness = jnp.exp(u)
        first, second = slopes(sharpness)
        low, high = jnp.where(first < 0, u, low), jnp.where(first < 0, high, u)
        newton = u - _numerics.divide(first, second * sharpness)
        return jnp.where((newton > low) & (newton < high), newton, 0.5 * (low + high)), low, high

    low, high = (jnp.log(x / spread) for x in (1e-3, 1e3))
    u, _, _ = jax.lax.fori_loop(0, 40, step, (0.5 * (low + high), low, high))
    return TemperatureScaling(known * jnp.exp(-u))


def _newton(loss: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    """Minimum of a convex function of a few numbers: Newton's method, halving steps that do not go down."""

    def step(_: Any, x: jax.Array) -> jax.Array:
        gradient, curvature = jax.grad(loss)(x), jax.hessian(loss)(x)
        ridge = 1e-6 * jnp.trace(curvature) + jnp.finfo(x.dtype).tiny
        direction = jnp.linalg.solve(curvature + ridge * jnp.eye(x.size, dtype=x.dtype), gradient)
        lengths = 0.5 ** jnp.arange(12, dtype=x.dtype)
        tried = x[None] - lengths[:, None] * direction[None]
        values = jax.vmap(loss)(tried)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        return jnp.where(values[best] <= loss(x), tried[best], x)

    return jax.lax.fori_loop(0, 50, step, start)


def _binary(
    logits: jax.Array, targets: jax.Array, prior: ArrayLike, where: Any, weights: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flat log-odds, targets smoothed by what is not seen yet, and weights that add up to 1."""
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.same_shape(logits=logits, targets=targets)
    _check.nonnegative(prior=prior)
    logits, targets, prior = masked(where, logits, jnp.asarray(targets).astype(jnp.float32), prior)
    targets = _check.domain("in [0, 1]", lambda t: (t >= 0) & (t <= 1), targets=targets)
    weight = unit_weights(targets.shape, where, weights, dtype=logits.dtype)
    tiny = jnp.finfo(logits.dtype).tiny
    positive, negative = jnp.sum(weight * targets), jnp.sum(weight * (1.0 - targets))
    high = (positive + prior) / jnp.maximum(positive + 2.0 * prior, tiny)
    low = prior / jnp.maximum(negative + 2.0 * prior, tiny)
    smooth = targets * high + (1.0 - targets) * low
    return logits.ravel(), smooth.ravel(), (weight / jnp.maximum(jnp.sum(weight), tiny)).ravel()


def fit_platt(
    logits: jax.Array,
    targets: jax.Array,
    *,
    prior: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> PlattScaling:
    r"""A logistic curve through the scores of a binary classifier: of a margin, a distance, or log-odds.

    .. math:: \hat p = \sigma(a z + b)

    Targets are smoothed to :math:`(N_+ + \pi) / (N_+ + 2 \pi)` and :math:`\pi / (N_- + 2 \pi)` as in the paper, so
    that the curve stays finite where the classes do not overlap; `prior=0` leaves them.

    Args:
      logits: Scores of held-out examples, float `[...]`.
      targets: 1 for yes and 0 for no, real or bool `[...]`.
      prior: Examples of each class that were not seen, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.

    Returns:
      `PlattScaling(scale, shift)`: call it on scores, it gives log-odds.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1] or `prior` is negative.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> scores = jnp.array([-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0])
      >>> scaling = fit_platt(scores, jnp.array([0, 0, 0, 1, 0, 1, 1, 1]), prior=0.0)
      >>> [round(x, 4) for x in jax.nn.sigmoid(scaling(jnp.array([-1.0, 1.0]))).tolist()]
      [0.25, 0.75]

    Reference:
      Platt, *Probabilistic outputs for support vector machines*, 1999.
    """
    z, y, weight = _binary(logits, targets, prior, where, weights)
    size = jnp.sqrt(jnp.sum(weight * jnp.square(z)))
    size = jnp.where(size > 0, size, 1)

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(weight * sigmoid_binary_cross_entropy(x[0] * (z / size) + x[1], y, reduction="none"))

    x = _newton(loss, jnp.zeros((2,), z.dtype))
    return PlattScaling(x[0] / size, x[1])


def fit_beta(
    logits: jax.Array,
    targets: jax.Array,
    *,
    prior: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> BetaScaling:
    r"""Three numbers that bend probabilities: Platt's curve for what is a probability already.

    .. math:: \hat p = \sigma\big(a \log p - b \log(1 - p) + c\big), \qquad a, b \ge 0

    Contains the identity (1, 1, 0), which Platt's curve on probabilities does not. Takes log-odds, so that no digit of
    a probability near 1 is lost. A coefficient that would be negative is 0 and the others are fitted anew. Targets are
    smoothed as in `fit_platt`.

    Args:
      logits: Log-odds of held-out examples, float `[...]`.
      targets: 1 for yes and 0 for no, real or bool `[...]`.
      prior: Examples of each class that were not seen, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.

    Returns:
      `BetaScaling(a, b, c)`: call it on log-odds, it gives log-odds.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ, a known target is outside [0, 1] or `prior` is negative.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> logits = jnp.array([-2.0] * 4 + [0.0] * 4 + [2.0] * 4)
      >>> targets = jnp.array([0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1])
      >>> scaling = fit_beta(logits, targets, prior=0.0)
      >>> [round(x, 3) for x in jax.nn.sigmoid(scaling(jnp.array([-2.0, 0.0, 2.0]))).tolist()]
      [0.25, 0.5, 0.75]

    Reference:
      Kull et al., *Beta calibration: a well-founded and easily implemented improvement on logistic calibration for
      binary classifiers*, 2017.
    """
    z, y, weight = _binary(logits, targets, prior, where, weights)
    features = jnp.stack([-jax.nn.softplus(-z), jax.nn.softplus(z)])

    def fit(use: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(x: jax.Array) -> jax.Array:
            bent = (use[0] * x[0]) * features[0] + (use[1] * x[1]) * features[1] + x[2]
            idle = 0.5 * jnp.sum((1.0 - use) * jnp.square(x[:2]))
            return jnp.sum(weight * sigmoid_binary_cross_entropy(bent, y, reduction="none")) + idle

        x = _newton(loss, jnp.zeros((3,), z.dtype))
        x = x * jnp.append(use, 1.0)
        return jnp.where(jnp.min(x[:2]) < 0, jnp.inf, loss(x)), x

    uses = jnp.array([[1, 1], [1, 0], [0, 1], [0, 0]], z.dtype)
    values, fitted = jax.lax.map(fit, uses)
    a, b, c = fitted[jnp.argmin(values)]
    return BetaScaling(a, b, c)


def fit_vector(
    logits: jax.Array,
    labels: jax.Array,
    *,
    l2: ArrayLike = 0.0,
    iterations: int = 200,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> VectorScaling:
    r"""A scale and a shift for each class, where held-out data are most likely.

    .. math:: \arg\min_{w, b} \frac1n \sum_i -\log \mathrm{softmax}(w \odot z_i + b)_{y_i}
        + \frac\lambda2 \big(\|w - 1\|^2 + \|b\|^2\big)

    Where classes are overconfident by different amounts, or their shares have changed. It has two numbers for each
    class, so it needs more data than `fit_temperature`, and predictions may change. Solved by L-BFGS from the identity.

    Args:
      logits: Of held-out examples, float `[..., classes]`, finite.
      labels: True classes, integer `[...]`, in [0, classes).
      l2: Pull towards the identity, nonnegative; keeps classes that are always right finite.
      iterations: Steps at most; it ends before where the gradient is rounding error.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.

    Returns:
      `VectorScaling(scales, shifts)`: call it on logits.

    Raises:
      TypeError: if `logits` are not floating point, `labels` not integer or `iterations` no Python int.
      ValueError: if shapes do not fit, a known label names no class or `l2` is negative.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> scaling = fit_vector(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1]))
      >>> [round(x, 3) for x in jax.nn.softmax(scaling(jnp.zeros(2))).tolist()]  # the shares of the classes
      [0.75, 0.25]

    Reference:
      Guo et al., *On calibration of modern neural networks*, 2017.
    """
    _check.nonnegative(l2=l2)
    _check.count(iterations=iterations)
    rows, labels, weight, known = _rows(logits, labels, where, weights)
    pull = jnp.asarray(l2).astype(rows.dtype)
    classes = rows.shape[-1]

    def loss(x: VectorScaling) -> jax.Array:
        unit = softmax_cross_entropy_with_integer_labels(x(rows), labels, reduction="none")
        penalty = jnp.sum(jnp.square(x.scales - 1.0)) + jnp.sum(jnp.square(x.shifts))
        return jnp.sum(weight * unit) + 0.5 * pull * penalty

    start = VectorScaling(jnp.ones((classes,), rows.dtype), jnp.zeros((classes,), rows.dtype))
    fitted = _lbfgs(loss, start, iterations)
    return VectorScaling(known * fitted.scales, known * fitted.shifts)


def _lbfgs(loss: Callable[[Any], jax.Array], start: Any, iterations: int) -> Any:
    """Minimum of a smooth function of many numbers."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def proceed(carry: tuple[Any, Any, jax.Array, jax.Array]) -> jax.Array:
        return (carry[2] < iterations) & (carry[3] > 1e-7)

    def step(carry: tuple[Any, Any, jax.Array, jax.Array]) -> tuple[Any, Any, jax.Array, jax.Array]:
        x, state, count, _ = carry
        value, gradient = value_and_grad(x, state=state)
        updates, state = solver.update(gradient, state, x, value=value, grad=gradient, value_fn=loss)
        x = optax.apply_updates(x, updates)
        return x, state, count + 1, optax.tree.norm(gradient)

    largest = jnp.full((), jnp.inf, jax.tree.leaves(start)[0].dtype)
    x, *_ = jax.lax.while_loop(proceed, step, (start, solver.init(start), jnp.zeros((), jnp.int32), largest))
    return x
