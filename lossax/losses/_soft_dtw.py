"""Sequences that run at different speeds: one unit per pair of sequences."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _double
from lossax._numerics import quotient
from lossax._pairs import each_pair, length
from lossax._reduction import masked, reduce
from lossax._sampled import samples
from lossax._sequences import existing
from lossax._tile import over_sets
from lossax._types import Reduction

# Costs of alignments are pairs (high, low) of numbers: they grow with the sequences, while what counts is how those of
# neighbours differ, in units of gamma. What cannot be reached costs infinity.


def _step(cost: jax.Array, high: jax.Array, low: jax.Array, gamma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cost - gamma log sum exp(-previous / gamma) over the three `[3, n]` that a cell can be reached from."""
    best = jnp.min(high, axis=0, keepdims=True)
    best = jnp.where(jnp.isfinite(best), best, 0)
    rest = jnp.min(jnp.where(high == best, low, jnp.inf), axis=0, keepdims=True)
    rest = jnp.where(jnp.isfinite(rest), rest, 0)
    gap = (high - best) + (low - rest)
    # Where gamma is all but 0 the best alone counts. No derivative is to see infinity over gamma.
    blurred = gamma >= float(jnp.finfo(gamma.dtype).tiny) ** 0.5
    soft = blurred & (gap < 800.0 * gamma)
    ratio = quotient(jnp.where(soft, gap, 0), jnp.where(blurred, gamma, 1))
    mass = jnp.where(soft | (gap <= 0), jnp.exp(-ratio), 0)
    total = mass[0] + (mass[1] + mass[2])  # in an order that is the same for a pair of sequences either way round
    spread = gamma * jnp.log(jnp.where(total > 0, total, 1))
    first, error = _double.add(cost, best[0])
    first, error = _double.add(first, error + (rest[0] - spread))
    return jnp.where(total > 0, first, jnp.inf), jnp.where(total > 0, error, 0)


def _filled(x: jax.Array, value: float) -> jax.Array:
    """`value` in the shape of x, also where that is an axis of `jax.vmap` that is spread over devices."""
    full = jnp.full_like(x, value)
    return jnp.where(x == x, full, full)


def _fronted(first: jax.Array, array: jax.Array) -> jax.Array:
    """The array, one place further, behind `first`."""
    return jnp.concatenate([first[None], array[:-1]])


def _aligned(costs: jax.Array, rows: jax.Array, columns: jax.Array, gamma: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Soft minimum over the alignments of the first `rows` with the first `columns`, 0 if one has none, as a pair.

    Cell (i, j) needs (i - 1, j - 1), (i - 1, j) and (i, j - 1), so that a whole anti-diagonal is made at once.
    """
    n, m = costs.shape
    turned = jnp.pad(costs, ((0, 0), (0, n)), constant_values=jnp.inf).ravel()[: n * (n + m - 1)]
    turned = turned.reshape(n, n + m - 1).T  # cell (i, j) is at [i + j, i]
    place, diagonals = lax.iota(jnp.int32, n), lax.iota(jnp.int32, n + m - 1)
    far, zero = _filled(turned[0], jnp.inf), _filled(turned[0], 0.0)

    @jax.checkpoint  # a gradient holds the costs of two anti-diagonals for each step, and nothing else
    def step(state, this):
        (high, low), (high_before, low_before), found = state
        costs, diagonal = this
        begin = jnp.where(diagonal == 0, 0, far[0])
        high_from = jnp.stack([_fronted(begin, high_before), _fronted(far[0], high), high])
        low_from = jnp.stack([_fronted(zero[0], low_before), _fronted(zero[0], low), low])
        new = _step(costs, high_from, low_from, gamma)
        end = (place == rows - 1) & (diagonal == rows + columns - 2) & (columns > 0)
        found = tuple(a + jnp.sum(jnp.where(end, b, 0)) for a, b in zip(found, new, strict=True))
        return (new, (high, low), found), None

    nothing = (far, zero)
    (*_, found), _ = lax.scan(step, (nothing, nothing, (zero[0], zero[0])), (turned, diagonals))
    return found


def _together(x: jax.Array, keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The steps `[n, d]` that exist, in order, before all others, and their number."""
    order = jnp.argsort(~keep, stable=True)
    return jnp.take_along_axis(x, order[:, None], axis=0, mode="clip"), jnp.sum(keep, dtype=jnp.int32)


def _warped(
    x: jax.Array, y: jax.Array, of_x: jax.Array, of_y: jax.Array, gamma: jax.Array, squared: bool
) -> tuple[jax.Array, jax.Array]:
    """Soft-DTW of `[n, d]` and `[m, d]` as a pair of numbers."""
    if len(x) > len(y):
        x, y, of_x, of_y = y, x, of_y, of_x
    (x, rows), (y, columns) = _together(x, of_x), _together(y, of_y)
    costs = each_pair((lambda d: jnp.sum(d * d, axis=-1)) if squared else length, x, y)
    return _aligned(costs, rows, columns, gamma)


def _between(
    x: jax.Array, y: jax.Array, of_x: jax.Array, of_y: jax.Array, gamma: jax.Array, squared: bool
) -> jax.Array:
    """Soft-DTW as a number."""
    high, low = _warped(x, y, of_x, of_y, gamma, squared)
    return high + low


def _apart(x: jax.Array, y: jax.Array, of_x: jax.Array, of_y: jax.Array, gamma: jax.Array, squared: bool) -> jax.Array:
    """The divergence of `[n, d]` and `[m, d]`."""

    def padded(array):
        return jnp.pad(array, [(0, max(len(of_x), len(of_y)) - len(array))] + [(0, 0)] * (array.ndim - 1))

    # One program for all three: equal sequences are rounded alike.
    sides = ((x, x, y), (y, x, y), (of_x, of_x, of_y), (of_y, of_x, of_y))
    stacked = (jnp.stack([padded(array) for array in side]) for side in sides)
    high, low = jax.vmap(lambda x, y, of_x, of_y: _warped(x, y, of_x, of_y, gamma, squared))(*stacked)
    high = 0.5 * high
    raw = ((high[0] - high[1]) + (high[0] - high[2])) + (low[0] - 0.5 * low[1] - 0.5 * low[2])
    raw = jnp.where(jnp.any(of_x) & jnp.any(of_y), raw, 0)
    return jnp.where(raw < 0, raw - lax.stop_gradient(raw), raw)


@partial(jax.jit, static_argnums=(0, 3))  # the loop is compiled once, not at every call outside of jit
def _each(
    f: Callable[..., jax.Array],
    sequences: tuple[jax.Array, ...],
    gamma: jax.Array,
    squared: bool,
) -> jax.Array:
    """`f` of two sequences and which of their steps exist, for each unit."""
    return over_sets(lambda *one: f(*one, gamma, squared), sequences[0].ndim - 2)(*sequences)


def _units(
    f: Callable[..., jax.Array],
    predictions: Any,
    targets: Any,
    gamma: Any,
    squared: bool,
    prediction_where: Any,
    target_where: Any,
    where: Any,
) -> jax.Array:
    """Check, mask, and `f` of each unit."""
    _check.nonnegative(gamma=gamma)
    predictions, targets = samples(where, predictions, targets, 2)
    predictions, of_predictions = existing(predictions, prediction_where=prediction_where)
    targets, of_targets = existing(targets, target_where=target_where)
    _, gamma = masked(None, predictions, gamma)
    return _each(f, (predictions, targets, of_predictions, of_targets), gamma, squared)


def soft_dtw(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    gamma: ArrayLike = 1.0,
    squared: bool = True,
    prediction_where: ArrayLike | None = None,
    target_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Dynamic time warping with a soft minimum over alignments: a distance that forgives differences in speed.

    .. math:: -\gamma \log \sum_{A} \exp\Big(-\frac 1\gamma \sum_{(i, j) \in A} \|x_i - y_j\|^2\Big)

    over all alignments, paths from the first pair of steps to the last that go on by a step in one or both sequences.
    For trajectories, gestures and speech whose shape counts and not the time of each part. As gamma falls it tends to
    DTW, which it is at 0; as it grows it blurs. It is negative, and not least at equal sequences, where gamma is not
    small: as a loss of a forecast prefer `soft_dtw_divergence`, for means and clusters it serves as it is.

    All n m pairs are evaluated by anti-diagonals, n + m steps one after the other, in O(n m) memory: about 4 floats for
    each pair, 15 with a gradient. Costs are summed with twice the digits, so that gradients are right for long
    sequences and a small gamma too. gamma is 1 as in tslearn and the paper's `sdtw`; the authors'
    later `sdtw_div` halves the squared distances, so that it is half of this at twice its gamma.

    Args:
      predictions: Estimated sequence, float `[..., n, d]`.
      targets: True sequence, real `[..., m, d]`; of another length, if need be.
      gamma: Cost that alignments may differ by and still count, in units of the squared distance, nonnegative.
      squared: Whether a pair costs the square of its distance, or the distance.
      prediction_where: Steps of the predictions that exist, bool `[..., n]`; others, be they NaN, are left out.
      target_where: Steps of the targets that exist, bool `[..., m]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; of either sign, 0 where a sequence has no steps.

    Raises:
      TypeError: if `predictions` are not floating point or a mask is not bool.
      ValueError: if shapes do not fit, a sequence is empty or `gamma` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [0.0], [1.0]])
      >>> soft_dtw(x, y, gamma=0.0).item()  # the 0 of x is held for two steps
      0.0
      >>> round(soft_dtw(jnp.zeros((2, 1)), jnp.zeros((2, 1))).item(), 4)  # three alignments of cost 0: -log 3
      -1.0986

    Reference:
      Sakoe and Chiba, *Dynamic programming algorithm optimization for spoken word recognition*, 1978; Cuturi and
      Blondel, *Soft-DTW: a differentiable loss function for time-series*, 2017.
    """
    values = _units(_between, predictions, targets, gamma, squared, prediction_where, target_where, where)
    return reduce(values, where, weights, reduction)


def soft_dtw_divergence(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    gamma: ArrayLike = 1.0,
    squared: bool = True,
    prediction_where: ArrayLike | None = None,
    target_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Soft-DTW without its bias: nonnegative, and 0 for equal sequences.

    .. math:: D(x, y) = \mathrm{dtw}_\gamma(x, y) - \tfrac12\,\mathrm{dtw}_\gamma(x, x)
        - \tfrac12\,\mathrm{dtw}_\gamma(y, y)

    For forecasts and generated sequences that should come to equal the truth, whose shape counts more than the time of
    each part; `soft_dtw` itself is least at a sequence that is smoother than the truth. At gamma = 0 it is DTW, to
    which sequences are equal that differ in speed alone; with it, these cost a little. It takes three times as long as
    `soft_dtw` for sequences of one length, in one batch.

    It is proven to be nonnegative for a cost that differs a little from the squared distance, and no exception is known
    for the latter; what rounding leaves below 0 is 0 here, with the derivative that it has.

    Args:
      predictions: Estimated sequence, float `[..., n, d]`.
      targets: True sequence, real `[..., m, d]`; of another length, if need be.
      gamma: Cost that alignments may differ by and still count, in units of the squared distance, nonnegative.
      squared: Whether a pair costs the square of its distance, or the distance.
      prediction_where: Steps of the predictions that exist, bool `[..., n]`; others, be they NaN, are left out.
      target_where: Steps of the targets that exist, bool `[..., m]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, 0 where a sequence has no steps.

    Raises:
      TypeError: if `predictions` are not floating point or a mask is not bool.
      ValueError: if shapes do not fit, a sequence is empty or `gamma` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[0.0], [3.0]])
      >>> soft_dtw_divergence(x, x).item()
      0.0
      >>> round(soft_dtw_divergence(x[:1], x[1:]).item(), 4)  # one alignment: 3^2
      9.0

    Reference:
      Blondel, Mensch and Vert, *Differentiable divergences between time series*, 2021.
    """
    values = _units(_apart, predictions, targets, gamma, squared, prediction_where, target_where, where)
    return reduce(values, where, weights, reduction)
