"""Ordered classes from the logits of the thresholds between them."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _check, _numerics
from lossax._numerics import sigmoid_pair

Form = Literal["cumulative", "conditional"]


def _checked(logits: jax.Array, form: str) -> jax.Array:
    _check.floating(logits=logits)
    _check.units_of({"logits": logits})
    _check.choice(("cumulative", "conditional"), form=form)
    shape, dtype = _check.spec(logits)
    if not shape[-1]:
        raise ValueError(f"logits need at least one threshold, got {list(shape)}")
    return jnp.asarray(logits, _numerics.wide_dtype(dtype))


def _falling(logits: jax.Array) -> jax.Array:
    """The logits with each that is above an earlier one lowered to it."""
    return lax.cummin(logits, axis=logits.ndim - 1)


def ordinal_probabilities(logits: jax.Array, *, form: Form = "cumulative") -> jax.Array:
    r"""Probability of each of the ordered classes, from one logit for each threshold between them.

    .. math:: \text{cumulative: } p_k = \sigma(z_{k - 1}) - \sigma(z_k), \qquad
        \text{conditional: } p_k = \sigma(-z_k) \prod_{j < k} \sigma(z_j)

    Cumulative logits are log-odds of being above each threshold: those of `losses.coral`, and of
    `losses.proportional_odds` as `predictions[..., None] - thresholds`. Those of `losses.corn` are conditional on
    having come to the class. Cumulative logits have to fall; one that rises counts as the lowest before it, so that the
    result is a distribution whatever was learned. Small probabilities keep their digits.

    Args:
      logits: One for each threshold, float `[..., classes - 1]`.
      form: `"cumulative"` or `"conditional"`.

    Returns:
      Distributions, float `[..., classes]`; float32 for 16-bit logits.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if `logits` have no threshold or `form` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([3.0, 1.0]))
      >>> [round(p, 3) for p in ordinal_probabilities(logits).tolist()]  # above at 3/4 and at 1/2
      [0.25, 0.25, 0.5]
      >>> [round(p, 3) for p in ordinal_probabilities(logits, form="conditional").tolist()]  # 3/4, and 1/2 of those
      [0.25, 0.375, 0.375]

    Reference:
      McCullagh, *Regression models for ordinal data*, 1980; Shi, Cao and Raschka, *Deep neural networks for
      rank-consistent ordinal regression based on conditional probabilities*, 2021.
    """
    logits = _checked(logits, form)
    edge = jnp.ones_like(logits[..., :1])
    if form == "conditional":
        above, below = sigmoid_pair(logits)
        reached = jnp.concatenate([edge, jnp.cumprod(above, axis=-1)], axis=-1)
        return reached * jnp.concatenate([below, edge], axis=-1)
    logits = _falling(logits)
    above, below = sigmoid_pair(logits)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), and at either end one factor is left.
    high, low = logits[..., :-1], logits[..., 1:]
    gap = jnp.where(high == low, 0, low - high)
    inside = jnp.concatenate([edge, -jnp.expm1(gap), edge], axis=-1)
    return jnp.concatenate([edge, above], axis=-1) * jnp.concatenate([below, edge], axis=-1) * inside


def ordinal_labels(logits: jax.Array, *, form: Form = "cumulative") -> jax.Array:
    r"""The median class: the number of thresholds that are passed with a probability above 1/2.

    .. math:: \hat y = \sum_k \left[P(Y > k) > 1/2\right]

    The decision of CORAL and CORN, which makes the absolute error least; the most probable class is the `argmax` of
    `ordinal_probabilities`. For logits as in `ordinal_probabilities`.

    Args:
      logits: One for each threshold, float `[..., classes - 1]`.
      form: `"cumulative"` or `"conditional"`.

    Returns:
      Classes, int32 `[...]`, in [0, classes).

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if `logits` have no threshold or `form` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([2.0, 0.5, -1.0])
      >>> ordinal_labels(logits).item()
      2
      >>> ordinal_labels(logits, form="conditional").item()  # 0.88, 0.88 * 0.62, 0.88 * 0.62 * 0.27
      2

    Reference:
      Cao, Mirjalili and Raschka, *Rank consistent ordinal regression for neural networks with application to age
      estimation*, 2020.
    """
    logits = _checked(logits, form)
    passed = _falling(logits) > 0 if form == "cumulative" else jnp.cumprod(sigmoid_pair(logits)[0], axis=-1) > 0.5
    return jnp.sum(passed, axis=-1, dtype=jnp.int32)
