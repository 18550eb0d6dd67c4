"""Positive examples and examples without a label: one unit per set of both."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._numerics import divide
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import spread_like
from lossax._types import Reduction

Surrogate = Literal["sigmoid", "logistic"]


@jax.custom_jvp
def _with_slope_of(other: jax.Array, value: jax.Array) -> jax.Array:
    """The value, with the derivative of another."""
    del other
    return value


@_with_slope_of.defjvp
def _(primals, tangents):
    return _with_slope_of(*primals), tangents[0]


def _softplus(x: jax.Array) -> jax.Array:
    one = jnp.ones((), x.dtype)
    return _numerics.binary_cross_entropy(x, jnp.zeros_like(x), one, 0.0 * one)


def non_negative_pu(
    logits: jax.Array,
    labelled: jax.Array,
    *,
    prior: ArrayLike,
    surrogate: Surrogate = "sigmoid",
    beta: ArrayLike = 0.0,
    gamma: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Binary classification from positives and unlabelled examples (nnPU), whose risk for negatives is kept above 0.

    .. math:: \pi R_P^+ + \max(r, -\beta), \qquad r = R_U^- - \pi R_P^-, \quad
        R_P^\pm = \operatorname*{mean}_{P} \ell(\pm z), \quad R_U^- = \operatorname*{mean}_{U} \ell(-z)

    For data where nothing is known to be negative: clicks, curated genes, anomalies found so far. The unlabelled have
    to be drawn from all examples, of which a share `prior` is positive; estimate it, as the result depends on it. The
    risk of the negatives is that of the unlabelled less that of the positives among them, which overfitting drives
    below 0.

    Where r is below -beta the value and the gradient are, on purpose, not of one function: the value is that above,
    the gradient that of `-gamma * r`, a step back up. `beta=jnp.inf` never takes it and is the unbiased uPU. Defaults
    are those of the authors' code, the surrogate among them.

    Args:
      logits: Decision values, float `[..., n]`; positive is the positive class.
      labelled: Whether each element is a labelled positive, bool `[..., n]`; the others are unlabelled.
      prior: Share of positives in the population, in [0, 1].
      surrogate: The loss of a decision, `"sigmoid"` for `sigmoid(-z)` or `"logistic"` for `log(1 + exp(-z))`.
      beta: How far below 0 the risk of the negatives may go, nonnegative.
      gamma: Size of the step back, relative to an ordinary one, nonnegative.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative at `beta=0`. A mean over no elements is 0.

    Raises:
      TypeError: if `logits` are not floating point or `labelled` not bool.
      ValueError: if shapes differ, `surrogate` is unknown or a hyperparameter is outside its range.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> logits, labelled = jnp.log(jnp.array([3.0, 1.0, 3.0])), jnp.array([True, False, False])
      >>> round(non_negative_pu(logits, labelled, prior=0.5).item(), 4)  # 1/2 * 1/4 + (1/2 + 3/4) / 2 - 1/2 * 3/4
      0.375
      >>> sure = jnp.log(jnp.array([9.0, 1.0, 1.0]) / 3.0)  # 3/4 * 1/4, and r = 1/4 - 3/4 * 3/4
      >>> [round(non_negative_pu(sure, labelled, prior=0.75, beta=beta).item(), 4) for beta in (0.0, jnp.inf)]
      [0.1875, -0.125]
      >>> gradient = jax.grad(lambda z: non_negative_pu(z, labelled, prior=0.75))(sure)
      >>> [round(x, 4) for x in gradient.tolist()]  # that of -r: the unlabelled are pushed up
      [0.1406, -0.0938, -0.0938]

    Reference:
      Kiryo, Niu, du Plessis and Sugiyama, *Positive-unlabeled learning with non-negative risk estimator*, 2017; du
      Plessis, Niu and Sugiyama, *Convex formulation for learning from positive and unlabeled data*, 2015.
    """
    _check.floating(logits=logits)
    _check.boolean(labelled=labelled)
    _check.same_shape(logits=logits, labelled=labelled)
    _check.units_of({"logits": logits})
    _check.fraction(prior=prior)
    _check.choice(("sigmoid", "logistic"), surrogate=surrogate)
    _check.nonnegative(beta=beta, gamma=gamma)
    (logits,), (labelled,) = masked(where, logits), masked(where, labelled)
    _, prior, beta, gamma = masked(None, logits, prior, beta, gamma)
    kept = spread_like(unit_weights(logits.shape, where, weights, dtype=logits.dtype), logits)
    zero = jnp.zeros_like(kept)
    known, unknown = jnp.where(labelled, kept, zero), jnp.where(labelled, zero, kept)
    as_negative, as_positive = (
        _numerics.sigmoid_pair(logits) if surrogate == "sigmoid" else (_softplus(logits), _softplus(-logits))
    )

    def mean(values, weight):
        return divide(jnp.sum(weight * values, axis=-1), jnp.sum(weight, axis=-1))

    positive = prior * mean(as_positive, known)
    negative = mean(as_negative, unknown) - prior * mean(as_negative, known)
    back = negative < -beta
    value = positive + jnp.where(back, -beta * jnp.ones_like(negative), negative)
    slope = jnp.where(back, -gamma * negative, positive + negative)
    values = _with_slope_of(slope, value)
    counts = jnp.sum(kept, axis=-1) > 0
    return reduce(jnp.where(counts, values, 0), counts, None, reduction)
