"""Calibration as a training loss: sets of examples whose confidence is compared with how often they are right."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics, _running
from lossax._reduction import labelled, masked, reduce, unit_weights
from lossax._tile import over_sets, whole
from lossax._types import Reduction


def _answers(
    logits: jax.Array, labels: jax.Array, where: Any, weights: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Confidence of the answer, by how much it falls short of what happened, the share of each element, and its set."""
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, 2)
    _check.units_of({"logits": logits}, labels=labels)
    logits, (labels, where, weights) = whole(logits, 2), whole((labels, where, weights), 1)
    rows, labels, known = labelled(where, logits, labels)
    p, others = _numerics.softmax_pair(rows)
    answer = jnp.argmax(rows, axis=-1)
    confidence, doubt = (jnp.take_along_axis(x, answer[..., None], axis=-1)[..., 0] for x in (p, others))
    short = jnp.where(answer == labels, doubt, -confidence)
    weight = unit_weights(labels.shape, where, weights, dtype=rows.dtype)
    total = jnp.sum(weight, axis=-1, keepdims=True)
    return confidence, known * short, _numerics.divide(weight, total), total[..., 0] > 0


def _filter(decay: jax.Array, x: jax.Array, *, reverse: bool) -> jax.Array:
    """y with y_i = x_i + decay_i y_(i - 1), or y_(i + 1)."""

    def after(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return first[0] * second[0], second[1] + second[0] * first[1]

    return jax.lax.associative_scan(after, (decay, x), reverse=reverse)[1]


@jax.custom_jvp
def _laplace_form(a: jax.Array, x: jax.Array) -> jax.Array:
    """sum_ij a_i a_j exp(-|x_i - x_j|) of one set, as a sum of squares, in O(n log n).

    The kernel is the covariance of a process without memory beyond its last point, so that its root is a filter.
    """
    order = jnp.argsort(x)
    x, a = x[order], a[order]
    gap, edge = x[1:] - x[:-1], jnp.ones_like(x[:1])
    total = _filter(jnp.concatenate([jnp.exp(-gap), edge]), a, reverse=True)
    return jnp.sum(jnp.concatenate([edge, -jnp.expm1(-2.0 * gap)]) * jnp.square(total))


@_laplace_form.defjvp
def _(primals, tangents):
    a, x = primals
    da, dx = tangents
    order = jax.lax.stop_gradient(jnp.argsort(x))
    place = jnp.argsort(order)
    ranked, b = x[order], a[order]
    gap, edge = ranked[1:] - ranked[:-1], jnp.ones_like(x[:1])
    decay = jnp.exp(-gap)
    below = _filter(jnp.concatenate([edge, decay]), b, reverse=False)
    above = _filter(jnp.concatenate([decay, edge]), b, reverse=True)
    by_a = 2.0 * (below + above - b)
    # Equals neither push nor pull: the sums over what is strictly smaller and strictly larger.
    first, end = _running.bounds(jnp.concatenate([edge > 0, gap > 0]))
    smaller, larger = (below - b)[first], (above - b)[end - 1]
    by_x = 2.0 * b * (larger - smaller)
    return _laplace_form(a, x), jnp.sum(by_a[place] * da) + jnp.sum(by_x[place] * dx)


def mmce(
    logits: jax.Array,
    labels: jax.Array,
    *,
    bandwidth: ArrayLike = 0.2,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Maximum mean calibration error: what a kernel sees of confidence that is not accuracy. Add it to cross-entropy.

    .. math:: \Big(\frac{1}{n^2} \sum_{ij} (c_i - r_i)(c_j - r_j)\, e^{-|r_i - r_j| / h}\Big)^{1/2}

    r is the probability of the answer, the likeliest class, and c whether it was right. 0 only for what is calibrated
    at every confidence, without bins. The double sum is one sort and one scan. The answer itself has no gradient. Alone
    it teaches nothing about the labels; the paper adds 2 to 8 times of it to the mean cross-entropy of the same batch.

    Args:
      logits: Unnormalised log-probabilities, float `[..., n, classes]`.
      labels: True classes, integer `[..., n]`, in [0, classes).
      bandwidth: h, the difference in confidence at which two examples have less to do with each other, positive.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`, in [0, 1].

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `bandwidth` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
      >>> round(mmce(logits, jnp.array([0, 0])).item(), 4)  # twice 75 % sure, twice right
      0.25

    Reference:
      Kumar et al., *Trainable calibration measures for neural networks from kernel mean embeddings*, 2018.
    """
    _check.positive(bandwidth=bandwidth)
    confidence, short, share, kept = _answers(logits, labels, where, weights)
    _, bandwidth = masked(None, confidence, bandwidth)
    n = confidence.shape[-1]
    if not n:
        return reduce(jnp.zeros(kept.shape, confidence.dtype), kept, None, reduction)
    squared = over_sets(_laplace_form, kept.ndim)(share * short, confidence / bandwidth)
    return reduce(_numerics.sqrt(squared), kept, None, reduction)


def _ratio(gap: jax.Array, mass: jax.Array) -> jax.Array:
    """Gap / mass, and 0 in a bin that nothing falls into."""
    return _numerics.divide(gap, jnp.where(mass < jnp.finfo(mass.dtype).tiny, 0, mass))


@_numerics.with_slopes(lambda gap, mass: (2.0 * _ratio(gap, mass), -jnp.square(_ratio(gap, mass))))
def _square_per_mass(gap: jax.Array, mass: jax.Array) -> jax.Array:
    """Gap^2 / mass for |gap| <= mass."""
    return gap * _ratio(gap, mass)


def soft_calibration_error(
    logits: jax.Array,
    labels: jax.Array,
    *,
    bins: int = 15,
    temperature: ArrayLike = 0.01,
    norm: Literal["l2", "l1"] = "l2",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""The expected calibration error with bins that have soft borders, so that it can be trained with.

    .. math:: \Big(\sum_b \frac{1}{n} \frac{|\sum_i u_{ib} (c_i - r_i)|^p}{(\sum_i u_{ib})^{p - 1}}\Big)^{1/p}, \qquad
        u_{ib} = \mathrm{softmax}_b\big(-(r_i - \xi_b)^2 / T\big)

    r is the probability of the answer, c whether it was right, :math:`\xi` the centres of bins of equal width. Towards
    a temperature of 0 it is `calibration.calibration_error`. Added to cross-entropy, as `mmce`.

    Args:
      logits: Unnormalised log-probabilities, float `[..., n, classes]`.
      labels: True classes, integer `[..., n]`, in [0, classes).
      bins: Number of bins.
      temperature: T, softness of the borders, positive.
      norm: `"l2"`, the paper's, or `"l1"`.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`, in [0, 1].

    Raises:
      TypeError: if `logits` are not floating point, `labels` not integer or `bins` no Python int.
      ValueError: if shapes do not fit, a known label names no class or an option is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
      >>> round(soft_calibration_error(logits, jnp.array([0, 0])).item(), 4)  # twice 75 % sure, twice right
      0.25

    Reference:
      Karandikar et al., *Soft calibration objectives for neural networks*, 2021.
    """
    _check.count(bins=bins)
    _check.positive(temperature=temperature)
    _check.choice(("l2", "l1"), norm=norm)
    confidence, short, share, kept = _answers(logits, labels, where, weights)
    _, temperature = masked(None, confidence, temperature)
    centres = (jnp.arange(bins, dtype=confidence.dtype) + 0.5) / bins
    centres = centres.reshape((1,) * confidence.ndim + (bins,))
    near = jax.nn.softmax(-jnp.square(confidence[..., None] - centres) / temperature, axis=-1)
    mass = jnp.sum(share[..., None] * near, axis=-2)
    gap = jnp.sum((share * short)[..., None] * near, axis=-2)
    if norm == "l1":
        return reduce(jnp.sum(_numerics.absolute(gap), axis=-1), kept, None, reduction)
    return reduce(_numerics.sqrt(jnp.sum(_square_per_mass(gap, mass), axis=-1)), kept, None, reduction)
