"""Labels without times: connectionist temporal classification; one unit per sequence."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _double, _exponents, _numerics
from lossax._reduction import masked, reduce
from lossax._sequences import existing
from lossax._types import Reduction

# A sequence is read through states b_0, l_1, b_1, ..., l_n, b_n: l_i has just emitted label i, b_i a blank after it.
# Both are arrays [labels + 1, ...], with an l_0 that is never reached; frames come before. So neighbouring labels are
# blocks of memory, and a step of the recursion is a few sums of arrays, some of them shifted by a block.


class _Arithmetic(NamedTuple):
    """What the recursions compute with."""

    add: Callable[..., Any]
    times: Callable[..., Any]
    where: Callable[..., Any]
    one: Callable[..., Any]
    zero: Any
    scan: Callable[..., Any]


def _floats(dtype: Any) -> _Arithmetic:
    """Floats, for sequences whose probability is above 1/2."""
    return _Arithmetic(
        add=lambda *x: sum(x[1:], x[0]),
        times=jnp.multiply,
        where=lambda keep, x: jnp.where(keep, x, 0),
        one=lambda where: where.astype(dtype),
        zero=0.0,
        scan=lax.scan,
    )


def _pairs(dtype: Any) -> _Arithmetic:
    """Pairs with an exponent, whose range no product of probabilities leaves."""
    return _Arithmetic(
        add=_exponents.add,
        times=_exponents.times,
        where=_exponents.where,
        one=lambda where: _exponents.one(where, dtype),
        zero=(1.0, _exponents.lowest(dtype)),
        scan=_exponents.scan,
    )


class _Text(NamedTuple):
    """The labels of a sequence, and how probable its symbols are in each frame."""

    start: jax.Array  # where the sequence starts, bool [labels + 1, ...]
    end: jax.Array  # which label is the last, bool [labels + 1, ...]
    repeat: jax.Array  # whether the next label is the same, so that a blank must come between, bool [labels + 1, ...]
    frames: jax.Array | None  # which frames exist, bool [frames, 1, ...]
    label: Any  # probability of each label, [frames, labels + 1, ...]
    blank: Any  # probability of the blank, [frames, 1, ...]


def _front(x: jax.Array) -> jax.Array:
    """`[..., frames, labels]` as `[frames, labels, ...]`."""
    return jnp.moveaxis(x, (-2, -1), (0, 1))


def _back(x: jax.Array) -> jax.Array:
    """`[frames, labels, ...]` as `[..., frames, labels]`."""
    return jnp.moveaxis(x, (0, 1), (-2, -1))


def _next(symbols: jax.Array, classes: int) -> jax.Array:
    """The label after each, and no class after the last."""
    return jnp.concatenate([symbols[..., 1:], jnp.full_like(symbols[..., :1], classes)], axis=-1)


def _text(
    ops: _Arithmetic, symbols: jax.Array, frames: jax.Array | None, classes: int, label: Any, blank: Any
) -> _Text:
    """`_Text` of symbols with the axes of the data, and of probabilities."""
    exists = symbols < classes
    place = lax.broadcasted_iota(symbols.dtype, symbols.shape, symbols.ndim - 1) + jnp.zeros_like(
        symbols
    )  # sharded like them
    end = place == jnp.sum(exists, axis=-1, dtype=symbols.dtype, keepdims=True)
    repeat = exists & (symbols == _next(symbols, classes))
    start, end, repeat, exists = (jnp.moveaxis(x, -1, 0) for x in (place == 0, end, repeat, exists))
    frames = None if frames is None else _front(frames[..., None])
    return _Text(start, end, repeat, frames, ops.where(exists[None], label), blank)


def _before(x: Any, zero: Any) -> Any:
    """What stands at the label before."""
    return jax.tree.map(lambda x, zero: jnp.concatenate([jnp.full_like(x[:1], zero), x[:-1]]), x, zero)


def _after(x: Any, zero: Any) -> Any:
    """What stands at the label after."""
    return jax.tree.map(lambda x, zero: jnp.concatenate([x[1:], jnp.full_like(x[:1], zero)]), x, zero)


def _arrivals(ops: _Arithmetic, text: _Text, state: Any) -> tuple[Any, Any]:
    """The sum over the states after which a blank, and each label, may come."""
    blanks, labels = state
    skipping = _before(ops.where(~text.repeat, labels), ops.zero)
    return ops.add(blanks, labels), ops.add(labels, _before(blanks, ops.zero), skipping)


def _kept(frames: jax.Array | None, new: Any, old: Any) -> Any:
    """A frame that does not exist changes nothing."""
    return new if frames is None else jax.tree.map(lambda a, b: jnp.where(frames, a, b), new, old)


def _forward(ops: _Arithmetic, text: _Text, visit: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """The probability of being in each state after the last frame, and what `visit` sees before and after each."""

    def step(state, now):
        frames, label, blank = now
        blanks, labels = _arrivals(ops, text, state)
        new = _kept(frames, (ops.times(blanks, blank), ops.times(labels, label)), state)
        return new, visit(state, new)

    start = (ops.one(text.start), ops.one(text.start & False))
    return ops.scan(step, start, (text.frames, text.label, text.blank))


def _departures(ops: _Arithmetic, text: _Text, state: Any) -> tuple[Any, Any]:
    """The sum over the states that may come after a blank, and after each label."""
    blanks, labels = state
    following = _after(labels, ops.zero)
    return ops.add(blanks, following), ops.add(blanks, labels, ops.where(~text.repeat, following))


def _backward(ops: _Arithmetic, text: _Text, visit: Callable[[Any, Any], Any], seen: Any) -> Any:
    """What `visit` makes of the probability of the rest after each state and frame, and of what was seen there."""

    def step(state, now):
        frames, label, blank, seen = now
        blanks, labels = rest = _departures(ops, text, state)
        new = _kept(frames, (ops.times(blanks, blank), ops.times(labels, label)), state)
        return new, visit(rest, seen)

    end = (ops.one(text.end), ops.one(text.end & False))  # a blank after the last frame
    return ops.scan(step, end, (text.frames, text.label, text.blank, seen), reverse=True)[1]


def _missing(text: _Text, lost: Any, visit: Callable[..., Any], seen: Any) -> tuple[jax.Array, Any]:
    """The probability of another text, and what `visit` makes of that before and after each state and frame."""
    ops = _floats(text.label.dtype)

    def step(after, now):
        frames, label, blank, lost, seen = now
        rest = _departures(ops, text, (after[0] * blank, after[1] * label))
        before = _kept(frames, jax.tree.map(jnp.add, rest, lost), after)
        return before, visit(before, after, seen)

    short = ops.one(~text.end)
    (blanks, _), result = lax.scan(
        step, (short, short), (text.frames, text.label, text.blank, lost, seen), reverse=True
    )
    return blanks[0], result


def _of_end(text: _Text, x: Any) -> Any:
    """What stands at the last label."""
    return jax.tree.map(lambda x: jnp.sum(jnp.where(text.end, x, 0), axis=0), x)


def _pick(rows: jax.Array, symbols: jax.Array) -> jax.Array:
    """Of each frame what stands at the labels; anything where there is none."""
    return jnp.take_along_axis(rows, symbols[..., None, :], axis=-1, mode="clip")


def _sum_by(weights: jax.Array, mask: jax.Array) -> jax.Array:
    """Weights `[frames, labels + 1, ...]` added up for each class by a mask `[..., labels + 1, classes]`."""
    mask = mask.astype(weights.dtype)
    return jnp.einsum("...ti,...ik->...tk", _back(weights), mask, precision=lax.Precision.HIGHEST)


def _ranged(logits: jax.Array, symbols: jax.Array, frames: jax.Array | None, blank: int) -> tuple[_Arithmetic, _Text]:
    """The text in pairs, with sure blanks after it that make the frames a multiple of the steps of a scan."""
    ops, (top, remainder) = _pairs(logits.dtype), _numerics.log_partition(logits)
    total, rounded = (_front(x[..., None]) for x in _double.add(top, jnp.maximum(remainder, 0.0)))

    def probability(z):
        z = _front(z)
        high, low = _double.add(z, jnp.zeros_like(z) - total)
        return _exponents.exp(high, low - rounded)

    of_labels, of_blank = probability(_pick(logits, symbols)), probability(logits[..., blank : blank + 1])
    text = _text(ops, symbols, frames, logits.shape[-1], of_labels, of_blank)
    more = None if frames is None else True, ops.zero, (1.0, 0.0)
    frames, label, blank = _exponents.steps_of((text.frames, text.label, text.blank), more)
    return ops, text._replace(frames=frames, label=label, blank=blank)


def _masks(symbols: jax.Array, classes: int, blank: int) -> tuple[jax.Array, jax.Array]:
    """Which class is each label, and which is neither that nor the next one nor the blank, `[..., labels, classes]`."""
    at = lax.broadcasted_iota(symbols.dtype, (*symbols.shape, classes), symbols.ndim)
    own = at == symbols[..., None]
    return own, ~own & (at != _next(symbols, classes)[..., None]) & (at != blank)


def _plain(logits: jax.Array, symbols: jax.Array, frames: jax.Array | None, blank: int) -> tuple[_Text, jax.Array, Any]:
    """The text in floats, probabilities of all classes, and that of leaving each state by a symbol that does not fit.

    That is a sum of all such symbols: as a difference from 1 it would have no digits where it is small.
    """
    p = _numerics.softmax(logits)
    ops, classes = _floats(logits.dtype), logits.shape[-1]
    text = _text(ops, symbols, frames, classes, _front(_pick(p, symbols)), _front(p[..., blank : blank + 1]))
    other = _masks(symbols, classes, blank)[1].astype(p.dtype)
    lost = _front(jnp.einsum("...tk,...ik->...ti", p, other, precision=lax.Precision.HIGHEST))
    return text, p, (lost + jnp.where(text.repeat, 0, text.label), lost)


def _miss(logits: jax.Array, symbols: jax.Array, frames: jax.Array | None, blank: int) -> jax.Array:
    """The probability of all other texts."""
    text, _, lost = _plain(logits, symbols, frames, blank)
    return _missing(text, lost, lambda *_: None, None)[0]


def _miss_and_slope(logits: jax.Array, symbols: jax.Array, frames: jax.Array | None, blank: int):
    """The probability of all other texts, and its derivative by the logits over 1 minus it.

    In each frame that is p_k (m_k - m), where m_k is the probability of missing after symbol k there and m the mean
    over k: what is common to both, that all is lost already, is left out. That of the most probable symbol is what
    makes the sum 0.
    """
    text, p, lost = _plain(logits, symbols, frames, blank)
    ops = _floats(logits.dtype)
    _, seen = _forward(ops, text, lambda before, _: before)

    def visit(before, after, seen):
        blanks, labels = seen
        to_blank, to_label = _arrivals(ops, text, seen)
        mean = jnp.sum(blanks * before[0] + labels * before[1], axis=0)
        by_label = jnp.where(text.repeat, 0, blanks) + to_label * after[1]
        return mean, jnp.sum(to_blank * after[0], axis=0), blanks + labels, by_label

    miss, (mean, by_blank, by_other, by_label) = _missing(text, lost, visit, seen)
    mean, by_blank = (jnp.moveaxis(x, 0, -1)[..., None] for x in (mean, by_blank))
    own, other = _masks(symbols, logits.shape[-1], blank)
    classes = lax.broadcasted_iota(jnp.int32, p.shape, p.ndim - 1)
    after = jnp.where(classes == blank, by_blank, _sum_by(by_other, other) + _sum_by(by_label, own))
    slope = p * (after - mean) / jnp.maximum(1.0 - miss, 0.25)[..., None, None]
    best = classes == jnp.argmax(p, axis=-1, keepdims=True).astype(jnp.int32)
    slope = jnp.where(best, 0, slope)
    return miss, slope - jnp.where(best, jnp.sum(slope, axis=-1, keepdims=True), 0)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _surprise(logits: jax.Array, symbols: jax.Array, frames: jax.Array | None, blank: int) -> jax.Array:
    """-log of the probability that the frames read as the text.

    Args:
      logits: Float `[..., frames, classes]`.
      symbols: Integer `[..., labels + 1]`: a class that there is not, then labels, then none again.
      frames: Which frames exist, bool `[..., frames]`, or `None` for all.
      blank: Class of the blank.

    Returns:
      Float `[...]`.
    """
    ops, text = _ranged(logits, symbols, frames, blank)
    last, _ = _forward(ops, text, lambda *_: None)
    loss = -_exponents.log(ops.add(*_of_end(text, last)))
    return lax.cond(
        jnp.any(loss < _exponents.SURE),
        lambda: _exponents.surprise_from(_miss(logits, symbols, frames, blank), loss),
        lambda: loss,
    )


@_surprise.defjvp
def _(blank, primals, tangents):
    logits, symbols, frames = primals
    ops, text = _ranged(logits, symbols, frames, blank)
    last, seen = _forward(ops, text, lambda _, after: after[1])
    whole = ops.add(*_of_end(text, last))
    loss, feasible = -_exponents.log(whole), ~_exponents.is_zero(whole)
    whole = jax.tree.map(lambda x: x[None], whole)
    shares = _backward(ops, text, lambda rest, seen: _exponents.share(seen, rest[1], whole), seen)
    # The share of the readings that have each label, and so each class, in a frame; the others have the blank.
    read = _sum_by(shares[: logits.shape[-2]], _masks(symbols, logits.shape[-1], blank)[0])
    classes = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    read = jnp.where(classes == blank, 1.0 - jnp.sum(read, axis=-1, keepdims=True), read)
    top, remainder = _numerics.log_partition(logits)
    p = jnp.exp((logits - top[..., None]) - jnp.maximum(remainder, 0.0)[..., None])
    slope = jnp.where(feasible[..., None, None], p - read, 0)

    def certain():
        miss, other = _miss_and_slope(logits, symbols, frames, blank)
        return _exponents.surprise_from(miss, loss), jnp.where((loss < _exponents.SURE)[..., None, None], other, slope)

    value, slope = lax.cond(jnp.any(loss < _exponents.SURE), certain, lambda: (loss, slope))
    return value, jnp.sum(slope * tangents[0], axis=(-2, -1))


_compiled = jax.jit(_surprise, static_argnums=3)  # loops are compiled once, not at every call outside of jit


def _symbols(labels: jax.Array, keep: jax.Array, classes: int) -> jax.Array:
    """The labels that are kept, moved together, after one and before others that are no class."""
    order = (~keep).astype(jnp.int32)
    _, labels = lax.sort((order, jnp.where(keep, labels, jnp.full_like(labels, classes))), num_keys=1)
    first = jnp.full_like(jnp.sum(keep, axis=-1, keepdims=True), classes, labels.dtype)
    return jnp.concatenate([first, labels], axis=-1)


def ctc(
    logits: jax.Array,
    labels: jax.Array,
    *,
    blank: int = 0,
    frame_where: ArrayLike | None = None,
    label_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Connectionist temporal classification: the labels of a sequence of frames, in order, but not when.

    .. math:: -\log \sum_{\pi:\, \mathcal B(\pi) = y} \prod_t \operatorname{softmax}(z_t)_{\pi_t}

    For speech, handwriting and other signals with fewer labels than frames. The sum is over all sequences of one symbol
    for each frame that read as the labels: repeated symbols are one, then blanks are left out. A blank must stand
    between equal labels. Frames are independent given the signal; `transducer` also models the labels.
    `activations.ctc_best_path` decodes. Probabilities are kept as floats with an exponent of their own, so that no
    digit is lost to the size of their logarithms, and a loss near 0 is summed up from all that would be misread: it is
    small, not rounded, and never negative. Memory is O(frames (labels + classes)) with the gradient. Give sequences as
    leading axes and not by `vmap`, which sums both ways always.

    Labels that cannot be read from the frames, too many or made of classes that do not exist, cost exactly infinity,
    with a gradient of 0: drop them by `where=jnp.isfinite(ctc(..., reduction="none"))`, which is torch's
    `zero_infinity`; `optax.losses.ctc_loss` gives 1e5. Each sequence counts as it is, as in Optax, whose arguments are
    `frame_where=logit_paddings == 0, label_where=label_paddings == 0`; the mean of torch's `ctc_loss` divides each by
    its number of labels: `ctc(..., weights=1 / lengths, reduction="sum") / batch`. Logits may be log-probabilities, as
    torch's are.

    Args:
      logits: Unnormalised log-probabilities, float `[..., frames, classes]`; -inf is a class that does not exist.
      labels: True labels, integer `[..., labels]`, in [0, classes) without the blank.
      blank: The class that is no label.
      frame_where: Frames that exist, bool `[..., frames]`; others, at the ends or between, are left out.
      label_where: Labels that exist, bool `[..., labels]`; others, at the ends or between, are left out.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, infinite for labels that cannot be read.

    Raises:
      TypeError: if `logits` are not floating point, `labels` not integer, masks not bool or `blank` no Python int.
      ValueError: if shapes do not fit, `blank` is no class, or a known label names no class or the blank.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]]))
      >>> loss = ctc(logits, jnp.array([[1]]))
      >>> round(jnp.exp(-loss).item(), 4)  # 11, 01 and 10: 1/16 + 1/8 + 1/8
      0.3125
      >>> ctc(logits, jnp.array([[1, 1]])).item()  # takes a blank between
      inf

    Reference:
      Graves, Fernandez, Gomez and Schmidhuber, *Connectionist temporal classification: labelling unsegmented sequence
      data with recurrent neural networks*, 2006.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    shape, own = _check.spec(logits)[0], _check.spec(labels)[0]
    if len(shape) < 2 or not own or shape[:-2] != own[:-1]:
        expected = "expected logits [..., frames, classes] and labels [..., labels]"
        raise ValueError(f"{expected}, got logits{list(shape)}, labels{list(own)}")
    _check.position(shape[-1], blank=blank)
    (logits,), (labels,) = masked(where, logits, event=2), masked(where, labels, event=1)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    logits, frames = existing(logits, frame_where=frame_where)
    labels, keep = existing(labels, 0, label_where=label_where)
    if where is not None:
        (keep,) = masked(where, keep, event=1)
    known = jnp.all(_check.symbols(labels, keep, shape[-1], int(blank)), axis=-1)
    values = _compiled(logits, _symbols(labels, keep, shape[-1]), None if frame_where is None else frames, int(blank))
    return reduce(jnp.where(known, values, jnp.nan), where, weights, reduction)
