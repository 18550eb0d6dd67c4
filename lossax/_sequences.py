"""Sequences: steps of one unit, some of which may not exist, and the scores of chains of tags."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _check
from lossax._numerics import scaled
from lossax._reduction import masked


def existing(array: jax.Array, event: int = 1, **where: Any) -> tuple[jax.Array, jax.Array]:
    """The array, 0 at steps that do not exist, and which do; the last `event` axes belong to one step."""
    ((name, given),) = where.items()
    steps = array.shape[: array.ndim - event]
    if given is not None:
        _check.boolean(**where)
        _check.broadcasts_to(steps, **{name: given})
    (array,) = masked(given, array, event=event)
    one = array[..., 0] if event else array
    return array, masked(given, jnp.ones_like(one, bool))[0]  # sharded like the array


def recursion(decay: jax.Array, x: jax.Array, last: jax.Array | None = None) -> jax.Array:
    """y_t = x_t + decay_t y_(t + 1) along the last axis, from its end, behind which there is `last`, or 0.

    A decay of 0 cuts: whatever there is behind it, NaN too.
    """

    def join(later: tuple[jax.Array, jax.Array], own: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return own[0] * later[0], own[1] + scaled(own[0], later[1])

    if 0 in x.shape:
        return x
    product, total = lax.associative_scan(join, (decay, x), reverse=True, axis=x.ndim - 1)
    return total if last is None else total + scaled(product, jnp.zeros_like(x) + last[..., None])


def chain(
    logits: jax.Array, step_where: Any, transitions: Any, starts: Any, ends: Any
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """Logits `[..., steps, tags]`, which steps exist, and the other scores in the dtype of the logits, 0 for `None`."""
    _check.units_of({"logits": logits}, axes=2)
    logits = jnp.asarray(logits)
    if 0 in logits.shape[-2:]:
        raise ValueError(f"each sequence needs at least one step and one tag, got logits{list(logits.shape)}")
    logits, keep = existing(logits, step_where=step_where)
    tags, scores = logits.shape[-1], []
    for name, array in (("transitions", transitions), ("starts", starts), ("ends", ends)):
        axes = 2 if name == "transitions" else 1
        if array is None:
            array = jnp.zeros((tags,) * axes, logits.dtype)
        _check.real(**{name: array})
        _check.of_classes(tags, axes, **{name: array})
        scores.append(jnp.asarray(array).astype(logits.dtype))
    return logits, keep, tuple(scores)
