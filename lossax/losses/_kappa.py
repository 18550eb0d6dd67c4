"""Agreement beyond chance: the classes of all items together, one unit per set of items."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _maps, _numerics
from lossax._numerics import divide, quotient
from lossax._reduction import labelled, masked, reduce, unit_weights
from lossax._types import Reduction


def _costs(apart: jax.Array, classes: int, power: jax.Array) -> jax.Array:
    """Cost of being some classes apart, at most 1; nothing for none, whatever the power."""
    share = jnp.abs(apart).astype(power.dtype) / max(classes - 1, 1)
    return jnp.where(apart == 0, 0, _numerics.power(share, power))


def weighted_kappa(
    logits: jax.Array,
    labels: jax.Array,
    *,
    power: ArrayLike = 2.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""1 - kappa of ordered classes (QWK): the disagreement of a set of items over that of chance.

    .. math:: 1 - \kappa = \frac{\sum_n w_n \sum_j p_{nj} |j - y_n|^q}
        {\sum_n w_n \sum_j p_{nj} \sum_i f_i |j - i|^q}, \qquad
        f_i = \frac{\sum_n w_n [y_n = i]}{\sum_n w_n}, \quad p = \mathrm{softmax}(z)

    Trains what graders of essays and of retinas are judged by. Kappa is a number of the whole set and not a mean over
    items: take sets as large as fit, with all classes in them, and start from a network trained by cross-entropy or
    `coral`. The paper minimises the logarithm: `jnp.log(loss)` of sets of some disagreement, the same minimum with
    steeper slopes near it.

    With certain predictions 1 - loss is scikit-learn's `cohen_kappa_score` with `weights="quadratic"`, or `"linear"`
    for `power=1` and `None` for `power=0`. A set whose labels are all of one class has loss 1 and no gradient, also
    where every prediction is right, which is 0 / 0 (scikit-learn gives NaN).

    Args:
      logits: Unnormalised log-probabilities, float `[..., n, classes]`; -inf is a class that does not exist.
      labels: True classes in their order, integer `[..., n]`, in [0, classes).
      power: How cost grows with distance, nonnegative: 2 is quadratic, 1 linear, 0 the same for every mistake.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; 0 is agreement, 1 chance, and more is worse than chance.

    Raises:
      TypeError: if `logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or `power` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.where(jnp.eye(3) == 1, 0.0, -jnp.inf)[jnp.array([0, 1, 2, 1])]  # certain of 0, 1, 2, 1
      >>> loss = weighted_kappa(logits, jnp.array([0, 1, 2, 2]))
      >>> round(loss.item(), 4)  # 1/4, over (9/4 + 3/4 + 5/4 + 3/4) / 4 by chance
      0.2

    Reference:
      de la Torre, Puig and Valls, *Weighted kappa loss function for multi-class classification of ordinal data in deep
      learning*, 2018; Cohen, *Weighted kappa: nominal scale agreement with provision for scaled disagreement or partial
      credit*, 1968.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.nonnegative(power=power)
    _check.units_of({"labels": labels})
    logits, labels, known = labelled(where, logits, labels)
    _, power = masked(None, logits, power)
    kept = unit_weights(labels.shape, where, weights, dtype=logits.dtype)
    of_label = _numerics.one_hot(labels, logits)
    shares = divide(jnp.sum(kept[..., None] * of_label.astype(kept.dtype), axis=-2), jnp.sum(kept, axis=-1)[..., None])
    places = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    actual = _costs(places.reshape((1,) * labels.ndim + (-1,)) - labels[..., None], places.size, power)
    table = _costs(places[:, None] - places[None, :], places.size, power)
    by_chance = jnp.sum(shares[..., None] * table.reshape((1,) * (labels.ndim - 1) + table.shape), axis=-2)
    p, _ = _maps.softmax(logits)
    weight = kept * known
    observed = jnp.sum(weight * jnp.sum(p * actual, axis=-1), axis=-1)
    expected = jnp.sum(weight * jnp.sum(p * by_chance[..., None, :], axis=-1), axis=-1)
    mixed = (jnp.sum(shares > 0, axis=-1) > 1) & ~(expected < jnp.finfo(expected.dtype).tiny)
    one = jnp.ones_like(observed)
    values = jnp.where(mixed, quotient(observed, jnp.where(mixed, expected, one)), one + 0.0 * jnp.sum(weight, axis=-1))
    counts = jnp.sum(kept, axis=-1) > 0
    return reduce(jnp.where(counts, values, 0), counts, None, reduction)
