"""Isotonic regression: the monotone curve next to the data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._reduction import masked, unit_weights


class IsotonicScaling(NamedTuple):
    """A nondecreasing curve: `values` at the increasing `thresholds`, float `[n]` both."""

    thresholds: jax.Array
    values: jax.Array

    def __call__(self, scores: jax.Array) -> jax.Array:
        """The curve at scores `[...]`: linear between thresholds, constant outside."""
        _check.floating(scores=scores)
        scores = jnp.asarray(scores)
        wide = scores.astype(jnp.promote_types(_numerics.wide_dtype(scores.dtype), self.values.dtype))
        return jnp.interp(wide, self.thresholds.astype(wide.dtype), self.values.astype(wide.dtype))


def fit_isotonic(
    scores: jax.Array, targets: jax.Array, *, where: ArrayLike | None = None, weights: ArrayLike | None = None
) -> IsotonicScaling:
    r"""The nondecreasing function of the score that is nearest to the targets: calibration without a formula.

    .. math:: \arg\min_{f \text{ nondecreasing}} \sum_i w_i \big(y_i - f(s_i)\big)^2

    Bends any way the data do, so it needs about a thousand of them; with fewer, `fit_platt` or `fit_beta`. Found by
    pooling adjacent violators: a sort, then one pass over the examples. Equal scores have one value.

    Args:
      scores: Of held-out examples, any monotone function of the probability, float `[n]`.
      targets: 0 or 1, or any number to be predicted, real or bool `[n]`.
      where: Units to keep, bool `[n]`.
      weights: Weight of each unit, float `[n]`.

    Returns:
      `IsotonicScaling(thresholds, values)`: call it on scores, it gives probabilities.

    Raises:
      TypeError: if `scores` are not floating point.
      ValueError: if shapes differ or `scores` are not `[n]`.

    Example:
      >>> import jax.numpy as jnp
      >>> curve = fit_isotonic(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([0, 1, 0, 1]))
      >>> curve(jnp.array([0.0, 2.0, 3.5, 9.0])).tolist()  # 1, 0 are pooled to 1/2
      [0.0, 0.5, 0.75, 1.0]

    Reference:
      Barlow et al., *Statistical inference under order restrictions*, 1972; Zadrozny and Elkan, *Transforming
      classifier scores into accurate multiclass probability estimates*, 2002.
    """
    _check.floating(scores=scores)
    _check.real(targets=targets)
    _check.same_shape(scores=scores, targets=targets)
    if jnp.ndim(scores) != 1:
        raise ValueError(f"scores must be [n], got {list(jnp.shape(scores))}")
    targets = jnp.asarray(targets)
    targets = targets if jnp.issubdtype(targets.dtype, jnp.floating) else targets.astype(jnp.float32)
    scores, targets = masked(where, scores, targets)
    weight = unit_weights(targets.shape, where, weights, dtype=scores.dtype)
    if not scores.size:
        return IsotonicScaling(jnp.zeros((1,), scores.dtype), jnp.zeros((1,), scores.dtype))
    # What has no weight goes to the largest score that has some, where it changes nothing.
    last = jnp.max(jnp.where(weight > 0, scores, -jnp.inf))
    scores = jnp.where(weight > 0, scores, jnp.where(jnp.isneginf(last), 0, last))
    order = jnp.argsort(scores)
    x, w = scores[order], weight[order]
    n = x.size
    first = jnp.searchsorted(x, x)  # equal scores are one example, where the first of them stands
    mass = jnp.zeros((n,), x.dtype).at[first].add(w)
    level = _numerics.divide(jnp.zeros((n,), x.dtype).at[first].add(w * targets[order]), mass)

    def push(carry: tuple[Any, ...], item: tuple[jax.Array, ...]) -> tuple[tuple[Any, ...], None]:
        """A new block, merged with those before it that are not below it."""
        i, own_level, own_mass = item

        def violates(state: tuple[Any, ...]) -> jax.Array:
            (levels, masses, _), top, (own_level, own_mass) = state
            before = jnp.maximum(top - 1, 0)
            empty = (masses[before] == 0) | (own_mass == 0)
            return (top > 0) & (empty | (levels[before] >= own_level))

        def merge(state: tuple[Any, ...]) -> tuple[Any, ...]:
            blocks, top, (own_level, own_mass) = state
            joint = blocks[1][top - 1] + own_mass
            total = blocks[0][top - 1] * blocks[1][top - 1] + own_level * own_mass
            return blocks, top - 1, (_numerics.divide(total, joint), joint)

        blocks, top = carry
        blocks, top, (own_level, own_mass) = jax.lax.while_loop(violates, merge, (blocks, top, (own_level, own_mass)))
        levels, masses, ends = blocks
        blocks = levels.at[top].set(own_level), masses.at[top].set(own_mass), ends.at[top].set(i)
        return (blocks, top + 1), None

    zeros = jnp.zeros((n,), x.dtype)
    start = ((zeros, zeros, jnp.zeros((n,), jnp.int32)), jnp.zeros((), jnp.int32))
    index = jnp.arange(n, dtype=jnp.int32)
    ((levels, _, ends), count), _ = jax.lax.scan(push, start, (index, level, mass))
    ends = jnp.where(index < count, ends, n)
    return IsotonicScaling(x, levels[jnp.searchsorted(ends, index)])
