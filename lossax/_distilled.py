"""What a student's logits lack of a teacher's, row by row: one function for logits that are whole or made in blocks."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _check, _hyper, _numerics, _ratios
from lossax._reduction import masked
from lossax._tile import by_rows, over_sets

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon", "total_variation"]
Tail = Literal["bucket", "renormalize"]
Mixture = tuple[jax.Array, jax.Array] | None
"""A share, and 1 less it before it was rounded."""

_NUMBERS = 2**20
"""Logits of a block."""

_PLAIN = {"forward_kl": _ratios.kl, "reverse_kl": _ratios.reverse_kl, "total_variation": _ratios.total_variation}


def in_blocks(f: Callable[..., jax.Array], rows: tuple[jax.Array, ...], shared: Any) -> jax.Array:
    """`f` of rows `[..., *]` and what they share, of some rows at a time: it holds a dozen times what it takes."""
    *units, width = rows[0].shape
    if math.prod(units) * width <= _NUMBERS:
        return f(*rows, *shared)
    flat = tuple(x.reshape(-1, *x.shape[len(units) :]) for x in rows)
    found, _ = by_rows(lambda rows, shared: (f(*rows, *shared), ()), flat, shared, width=width, tile=_NUMBERS // width)
    return found.reshape(units)


def mixture_of(divergence: Divergence, mixture: Any, like: jax.Array) -> Mixture:
    """Check the choice of a divergence; the mixture in the dtype of `like`, None where it is left out."""
    _check.choice((*_PLAIN, "jensen_shannon"), divergence=divergence)
    if divergence == "jensen_shannon":
        mixture = 0.5 if mixture is None else mixture
    elif mixture is None or _hyper.is_zero(mixture):
        return None
    if divergence == "total_variation":
        raise ValueError(f"total_variation has no mixture, got mixture={mixture!r}")
    _check.fraction(mixture=mixture)
    _, share, rest = masked(None, like, mixture, 1.0 - mixture)
    return share, rest


def row_divergence(logits: jax.Array, teacher_logits: jax.Array, divergence: Divergence, mixture: Mixture) -> jax.Array:
    """The divergence of each row `[..., classes]` of a student from a teacher."""
    if mixture is None:
        return _ratios.divergence(_PLAIN[divergence], "logits", logits, teacher_logits)
    share, rest = mixture
    one, nothing = jnp.ones_like(share), jnp.zeros_like(share)
    hyper = {
        "forward_kl": (share, rest, one, nothing),
        "reverse_kl": (rest, share, nothing, one),
        # Where a share vanishes, the limit of the divergence over it.
        "jensen_shannon": (share, rest, jnp.where(share == 0, one, share), jnp.where(rest == 0, one, rest)),
    }[divergence]
    return _ratios.divergence(_ratios.mixed, "logits", logits, teacher_logits, *hyper)


def tempered(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    """Logits over the temperature; -inf stays, and has no part in the derivative by the temperature."""
    gone = jnp.isneginf(logits)
    return jnp.where(gone, logits, jnp.where(gone, 0, logits) / temperature)


def rescaled(values: jax.Array, temperature: jax.Array) -> jax.Array:
    """Values times the squared temperature, which may overflow by itself beside a value of 0."""
    return temperature * (temperature * values)


def distilled(
    logits: jax.Array,
    teacher_logits: jax.Array,
    temperature: jax.Array,
    mixture: Mixture,
    divergence: Divergence,
    rescale: bool,
) -> jax.Array:
    """The divergence of each row at a temperature."""
    rows = tempered(logits, temperature), tempered(teacher_logits, temperature)
    values = row_divergence(*rows, divergence, mixture)
    return rescaled(values, temperature) if rescale else values


def listed_classes(
    shape: tuple[int, ...], dtype: Any, classes: int, log_probs: Any, indices: Any, tail: Tail, where: Any
) -> tuple[jax.Array, jax.Array]:
    """Check and mask what a teacher lists of each unit of `shape`: log-probabilities `[..., k]`, and indices."""
    _check.floating(teacher_log_probs=log_probs)
    _check.integer(teacher_indices=indices)
    _check.choice(("bucket", "renormalize"), tail=tail)
    _check.same_shape(teacher_log_probs=log_probs, teacher_indices=indices)
    own, _ = _check.spec(log_probs)
    if own[:-1] != shape or len(own) != len(shape) + 1:
        raise ValueError(f"expected teacher_log_probs {[*shape, 'k']}, got {list(own)}")
    (log_probs,) = masked(where, log_probs, event=1, fill=-jnp.inf)
    (indices,) = masked(where, indices, event=1)
    log_probs = lax.stop_gradient(log_probs.astype(dtype))
    # A logarithm that is above 0 by a rounding is forgiven.
    log_probs = _check.domain("0 or below", lambda x: x <= 1e-2, teacher_log_probs=log_probs)
    present = ~jnp.isneginf(log_probs)
    indices = indices.astype(jnp.int32) if indices.dtype.itemsize < 4 else indices
    indices = jnp.where(present, indices, 0)
    known = _check.indices(classes, teacher_indices=indices) & _check.distinct(present, teacher_indices=indices)
    return jnp.where(known, log_probs, jnp.nan), indices


def _without(logits: jax.Array, indices: jax.Array, present: jax.Array) -> jax.Array:
    """Each row without the classes of its indices `[..., k]` that are present."""
    indices = jnp.where(present, indices, jnp.full_like(indices, logits.shape[-1]))  # out of range: dropped

    def of_row(row, places):
        return row.at[places].set(-jnp.inf, mode="drop")

    return over_sets(of_row, logits.ndim - 1)(logits, indices)


def _above(logits: jax.Array, base: jax.Array) -> jax.Array:
    """How far logits are above a finite base, no further than the largest number; -inf stays."""
    largest = float(jnp.finfo(logits.dtype).max)
    return jnp.where(jnp.isneginf(logits), logits, jnp.clip(logits - base, -largest, largest))


def _log_rest(log_probs: jax.Array) -> jax.Array:
    """Log of 1 less the probabilities of each row, which are known to a rounding: -inf where that leaves nothing.

    From the largest of them, so that what is left beside one near 1 has its digits.
    """
    first = _numerics.one_hot(jnp.argmax(log_probs, axis=-1), log_probs)
    largest = jnp.minimum(jnp.max(log_probs, axis=-1), 0.0)
    others = jnp.sum(jnp.where(first, 0.0, jnp.exp(log_probs)), axis=-1)
    rest = -jnp.expm1(largest) - others
    some = rest > 0
    return jnp.where(some, jnp.log(jnp.where(some, rest, 1)), -jnp.inf)


def _listed(
    logits: jax.Array, teacher_log_probs: jax.Array, teacher_indices: jax.Array, tail: Tail
) -> tuple[jax.Array, jax.Array]:
    """Rows of logits `[..., k]` or `[..., k + 1]` of both, of the classes that the teacher lists and of all others.

    A log-probability of -inf is no entry of the list: its class is one of the others.
    """
    present = ~jnp.isneginf(teacher_log_probs)
    own = jnp.take_along_axis(logits, teacher_indices, axis=-1, mode="clip")
    own = jnp.where(present, own, -jnp.inf)
    if tail == "renormalize":
        return own, teacher_log_probs
    top, remainder = _numerics.log_partition(_without(logits, teacher_indices, present))
    # Counted from the largest logit of all: what matters is small then, and keeps its digits.
    base = jnp.maximum(jnp.max(own, axis=-1, initial=-jnp.inf), jnp.where(jnp.isneginf(remainder), -jnp.inf, top))
    base = lax.stop_gradient(jnp.where(jnp.isneginf(base), 0, base))
    others = (top - base) + remainder
    # Up to a rounding a list may be all of a teacher: if there are other classes it has left them something, else not.
    rest = jnp.maximum(_log_rest(teacher_log_probs), jnp.log(jnp.finfo(others.dtype).tiny))
    rest = jnp.where(jnp.isneginf(others), -jnp.inf, rest)
    student = jnp.concatenate([_above(own, base[..., None]), others[..., None]], axis=-1)
    return student, jnp.concatenate([teacher_log_probs, rest[..., None]], axis=-1)


def top_k_distilled(
    logits: jax.Array,
    teacher_log_probs: jax.Array,
    teacher_indices: jax.Array,
    temperature: jax.Array,
    mixture: Mixture,
    divergence: Divergence,
    rescale: bool,
    tail: Tail,
) -> jax.Array:
    """`distilled` of the classes that the teacher lists, with log-probabilities at the temperature."""
    rows = _listed(tempered(logits, temperature), teacher_log_probs, teacher_indices, tail)
    values = row_divergence(*rows, divergence, mixture)
    return rescaled(values, temperature) if rescale else values


def _chosen_or_not(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits `[..., 2]` of the label of each row and of all other classes together, and the row without the label."""
    others = _numerics.rivals(logits, labels)
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="clip")
    top, remainder = _numerics.log_partition(others)
    return jnp.concatenate([_above(own, top[..., None]), remainder[..., None]], axis=-1), others


def decoupled(
    logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    target_weight: jax.Array,
    rival_weight: jax.Array,
    temperature: jax.Array,
) -> jax.Array:
    """Weighted divergences of each row: of its label against all else, and of all else by itself."""
    target, rivals = _chosen_or_not(tempered(logits, temperature), labels)
    teacher_target, teacher_rivals = _chosen_or_not(tempered(teacher_logits, temperature), labels)
    of_target = row_divergence(target, teacher_target, "forward_kl", None)
    of_rivals = row_divergence(rivals, teacher_rivals, "forward_kl", None)
    values = _numerics.scaled(target_weight, of_target) + _numerics.scaled(rival_weight, of_rivals)
    return rescaled(values, temperature)
