"""Distributions over ordered classes: one unit per row; the classes are the last axis, in their order."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _double
from lossax._numerics import divide
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _below_above(masses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each threshold between two classes, the sum of the masses below it and that of those above it."""
    below = jnp.cumsum(masses[..., :-1], axis=-1)
    return below, jnp.cumsum(masses[..., :0:-1], axis=-1)[..., ::-1]


@jax.custom_jvp
def _cumulative(logits: jax.Array) -> tuple[jax.Array, ...]:
    """Probability of each class, and of being below and above each threshold."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    gap, error = _double.add(logits, -jnp.where(jnp.isneginf(top), 0, top))
    mass = jnp.exp(gap) * (1.0 + error)
    p = divide(mass, jnp.sum(mass, axis=-1, keepdims=True))
    return p, *_below_above(p)


@_cumulative.defjvp
def _(primals, tangents):
    (logits,), (dlogits,) = primals, tangents
    p, below, above = _cumulative(logits)
    # Mass moves over a threshold from either side: nothing of it is added to the rest and taken off again.
    from_below, from_above = _below_above(p * dlogits)
    moved = above * from_below - below * from_above
    return (p, below, above), (p * (dlogits - jnp.sum(p * dlogits, axis=-1, keepdims=True)), moved, -moved)


def squared_emd(
    logits: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared distance of cumulative distributions: cross-entropy that knows the order of the classes.

    .. math:: \sum_{k < K} \Big(\sum_{j \le k} (p_j - t_j)\Big)^2, \qquad p = \mathrm{softmax}(z)

    A mistake costs the more the further it is away. For ratings (as distributions of votes, or from
    `targets.ordinal_soft_labels`), ages, counts in bins. It is the ranked probability score of forecasting, a proper
    score, and the squared earth mover's distance between neighbouring bins. Unlike cross-entropy it hardly moves when
    it is certain and far off: start from a trained network, or add cross-entropy, as Hou et al. do.

    Integer labels are `jax.nn.one_hot(labels, classes)`, and keep all digits of a confident row. The distance of NIMA
    is `sqrt(loss / classes)` of each unit. Where targets do not sum to 1, p is scaled to their sum. A class that does
    not exist, with a logit of -inf and no target, is no step on the way between its neighbours.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      targets: True probabilities, real `[..., classes]`, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, classes - 1].

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ or a known target is negative.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
      >>> squared_emd(logits, jax.nn.one_hot(jnp.array([0]), 3)).item()  # (1/2)^2 + (1/4)^2
      0.3125
      >>> squared_emd(logits, jax.nn.one_hot(jnp.array([2]), 3)).item()  # (1/2)^2 + (3/4)^2
      0.8125

    Reference:
      Hou, Yu and Samaras, *Squared earth mover's distance-based loss for training deep neural networks*, 2016; Epstein,
      *A scoring system for probability forecasts of ranked categories*, 1969; Talebi and Milanfar, *NIMA: neural image
      assessment*, 2018.
    """
    _check.floating(logits=logits)
    _check.real(targets=targets)
    _check.same_shape(logits=logits, targets=targets)
    _check.units_of({"logits": logits})
    logits, targets = masked(where, logits, targets, event=1)
    targets = _check.domain("nonnegative", lambda t: t >= 0, targets=targets)
    (_, below, above), (target_below, target_above) = _cumulative(logits), _below_above(targets)
    gap = below * target_above - above * target_below
    exists = ~jnp.isneginf(logits) | (targets > 0)  # no way between two neighbours leads over a class that does not
    gap = jnp.where(exists[..., :-1], gap, 0)
    return reduce(jnp.sum(gap * gap, axis=-1), where, weights, reduction)
