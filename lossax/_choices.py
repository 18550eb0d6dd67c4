"""Choices one after the other, each among those that are left, with probabilities as their exponentials.

The law of Plackett and Luce for orders, and Cox's partial likelihood for times.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _running
from lossax._numerics import divide, exp_difference, with_slopes
from lossax._tile import numbered

Pair = tuple[jax.Array, jax.Array]
"""A sum of exponentials, as in `_running.add_exponentials`."""


def _merge_all(a, b):
    """Sums of exponentials, weights and numbers."""
    return *_running.add_exponentials(a[:2], b[:2]), *_running.add(a[2:], b[2:])


def _both_ways(first, last, *arrays):
    """Totals within groups from the left and from the right, itself left out, and over all from the right."""
    arrays = (*arrays, jnp.ones_like(arrays[0]))
    nothings = (jnp.finfo(arrays[0].dtype).min, 0.0, 0.0, 0.0)
    starts = jnp.stack([first, jnp.flip(last, axis=-1), jnp.zeros_like(first)])
    stacked = [jnp.stack([a, jnp.flip(a, axis=-1), jnp.flip(a, axis=-1)]) for a in arrays]
    _, *totals = _running.running(_running.within(_merge_all), (starts, *stacked), (True, *nothings))
    before, after, later = [], [], []
    for total, nothing in zip(totals, nothings, strict=True):
        one = jnp.where(starts, jnp.full_like(total, nothing), _running.moved(total, jnp.int32(1), nothing))
        before.append(one[0])
        after.append(jnp.flip(one[1], axis=-1))
        later.append(jnp.flip(total[2], axis=-1))
    return before, after, later


def _parts(mass, top, log_hazard):
    """Both parts of own * exp(log_hazard) + mass * exp(top) over the larger exponential."""
    large = top > log_hazard
    one = jnp.ones_like(mass)
    others = jnp.where(large, one, exp_difference(jnp.where(large, log_hazard, top), log_hazard))
    return large, others, jnp.where(large, exp_difference(jnp.where(large, log_hazard, top), top), one)


def _surprise_slopes(mass, log_hazard, own, top):
    _, others, self = _parts(mass, top, log_hazard)
    total = own * self + mass * others
    share = mass * others / total
    return others / total, -share, self / total, share


@with_slopes(_surprise_slopes)
def surprise(mass: jax.Array, log_hazard: jax.Array, own: jax.Array, top: jax.Array) -> jax.Array:
    """log(own + mass * exp(top - log_hazard)), with all its digits where own is 1 and the others are nothing to it."""
    large, others, self = _parts(mass, top, log_hazard)
    sure = jnp.log(own) + jnp.log1p(mass * others / own)
    return jnp.where(large, (top - log_hazard) + jnp.log(own * self + jnp.where(large, mass, 1)), sure)


def exponentials(log_hazards: jax.Array, weights: jax.Array) -> Pair:
    """weights * exp(log_hazards) of each."""
    exists = (weights > 0) & ~jnp.isneginf(log_hazards)
    safe = jnp.where(exists, log_hazards, 0)
    offset = lax.stop_gradient(safe)
    mass = jnp.where(exists, weights, 0) * jnp.exp(safe - offset)
    return jnp.where(exists, offset, jnp.full_like(offset, jnp.finfo(offset.dtype).min)), mass


def beyond(totals: Any, end: jax.Array) -> Pair:
    """Of running sums from the right, those of the elements from `end` on."""
    rest = []
    for array, nothing in zip(totals, (jnp.finfo(totals[0].dtype).min, 0.0), strict=True):
        padded = jnp.concatenate([array, jnp.full_like(array[..., :1], nothing)], axis=-1)
        rest.append(jnp.take_along_axis(padded, end, axis=-1))
    return rest[0], rest[1]


def negative_log_likelihood(
    log_hazards: jax.Array,
    times: jax.Array,
    events: jax.Array,
    weights: jax.Array,
    *,
    efron: bool,
    discount: Callable[[jax.Array], jax.Array] | None = None,
    total: jax.Array | None = None,
) -> jax.Array:
    """Sum over events, in the order of their times, of the surprise that it was this one of those still there.

    Args:
      log_hazards: Float `[..., n]`; -inf is never chosen.
      times: Real `[..., n]`.
      events: Whether each is chosen at its time, or only known to be there until then, bool `[..., n]`.
      weights: Float `[..., n]`; what has none does not exist.
      efron: Whether events of one time come in random order, on average, or each is chosen among them all (Breslow).
      discount: Weight of the first choice, the second, ..., from their numbers, beginning with 1; tied ones share it.
      total: What the sum is divided by, `[..., 1]`, term by term; nothing if 0.

    Returns:
      Float `[...]`.
    """
    events = events & (weights > 0)
    times, censored, order = lax.sort((times, (~events).astype(jnp.int32), numbered(times)), num_keys=2)
    log_hazards, weights = (jnp.take_along_axis(x, order, axis=-1) for x in (log_hazards, weights))
    events = censored == 0

    lowest = jnp.finfo(log_hazards.dtype).min
    top, mass = exponentials(log_hazards, weights)

    # A group is the events of one time, or one who was censored; those censored at that time come right after it.
    same = events[..., 1:] & events[..., :-1] & (times[..., 1:] == times[..., :-1])
    edge = jnp.zeros_like(events[..., :1])
    first = ~jnp.concatenate([edge, same], axis=-1) if times.shape[-1] else events
    last = ~jnp.concatenate([same, edge], axis=-1) if times.shape[-1] else events
    _, end = _running.bounds(first)
    before, after, later = _both_ways(first, last, top, mass, weights)
    *tied_before, weight_before, rank = before
    *tied_after, weight_after, behind = after
    size = rank + 1.0 + behind
    weight = (weight_before + weights + weight_after) / size if efron else weights
    left = 1.0 - rank / size if efron else jnp.ones_like(rank)
    weight_of_own = weights
    if discount is not None:
        number = jnp.cumsum(events.astype(rank.dtype), axis=-1)
        place = jnp.asarray(discount(jnp.maximum(number, 1.0))).astype(number.dtype)
        place = jnp.where(events, place, 0)
        (shared,) = (x / size for x in _running.group_sums(first, end, place))
        weight, weight_of_own = weight * (place if efron else shared), weights * shared

    rest = beyond(later[:2], end)  # those at risk beyond the group
    tied_top, tied_mass = _running.add_exponentials(tied_before, tied_after)
    others_top, others_mass = _running.add_exponentials((tied_top, left * tied_mass), rest)
    others_mass = jnp.where(events, others_mass, 0)
    others_top = jnp.where(events, others_top, jnp.full_like(others_top, lowest))
    own = jnp.where(events, left * weights, 1)
    hazards = jnp.where(events, log_hazards, 0)
    each = surprise(others_mass, hazards, own, others_top)
    # Tied weights that differ share what is at risk evenly: the rest of each goes to its own hazard.
    shift = jnp.where(events, log_hazards - jnp.maximum(tied_top, top), 0)
    unequal = jnp.where(weight == weight_of_own, 0, (weight - weight_of_own) * shift)
    weight = jnp.where(events, weight, 0)
    terms = weight * each + unequal if total is None else divide(weight, total) * each + divide(unequal, total)
    return jnp.sum(jnp.where(events, terms, 0), axis=-1)
