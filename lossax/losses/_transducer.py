"""Labels without times, each given those before it: the transducer; one unit per sequence."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _double, _exponents, _numerics
from lossax._exponents import Pair
from lossax._reduction import masked, reduce
from lossax._sequences import existing
from lossax._types import Reduction

# Nodes [..., frames, labels + 1] are joined by blanks, to the next frame, and by labels, to the next label. A step of
# the recursion takes all nodes of one antidiagonal: arrays [labels + 1, ...] whose frames fall where labels rise, so
# that neighbouring labels are blocks of memory. There are frames + labels steps.


class _Lattice(NamedTuple):
    """Antidiagonals `[steps, labels + 1, ...]` of arcs; those of frames that do not exist are free, into the next."""

    blank: Pair
    label: Pair
    end: jax.Array  # at how many labels the sequence ends, bool [labels + 1, ...]


def _padded(x: jax.Array, axis: int, more: int, fill: float) -> jax.Array:
    return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, more if i == axis else 0, 0) for i in range(x.ndim)])


def _skewed(x: jax.Array, fill: float) -> jax.Array:
    """`[..., frames, n]` as `[frames + n - 1, n, ...]` with a later start for each of the n, `fill` around."""
    x = jnp.moveaxis(x, (-1, -2), (0, 1))
    n, frames, *units = x.shape
    steps = frames + n - 1
    x = _padded(x, 1, n, fill)  # rows that are one too long
    return jnp.swapaxes(x.reshape(n * (steps + 1), *units)[: n * steps].reshape(n, steps, *units), 0, 1)


def _straight(x: jax.Array, frames: int) -> jax.Array:
    """What `_skewed` was made of, whatever steps come after."""
    n = x.shape[1]
    x = jnp.swapaxes(x[: frames + n - 1], 0, 1)
    n, steps, *units = x.shape
    x = x.reshape(n * steps, *units)
    x = _padded(x, 0, n, 0.0).reshape(n, steps + 1, *units)
    return jnp.moveaxis(x[:, :frames], (0, 1), (-1, -2))


def _before(pair: Pair) -> Pair:
    """What stands at one label fewer."""
    fills = 1.0, _exponents.lowest(pair[1].dtype)
    mantissa, exponent = (
        jnp.concatenate([jnp.full_like(x[:1], fill), x[:-1]]) for x, fill in zip(pair, fills, strict=True)
    )
    return mantissa, exponent


def _after(pair: Pair) -> Pair:
    """What stands at one label more."""
    fills = 1.0, _exponents.lowest(pair[1].dtype)
    mantissa, exponent = (
        jnp.concatenate([x[1:], jnp.full_like(x[:1], fill)]) for x, fill in zip(pair, fills, strict=True)
    )
    return mantissa, exponent


def _lattice(blank: Pair, label: Pair, frames: jax.Array, count: jax.Array) -> _Lattice:
    """The arcs `[..., frames, labels + 1]` where they exist: `frames` bool `[..., frames]`, labels below `count`."""
    place = lax.broadcasted_iota(count.dtype, blank[0].shape, blank[0].ndim - 1)
    frames = frames[..., None]
    one, zero = (1.0, 0.0), (1.0, _exponents.lowest(blank[0].dtype))
    blank = jnp.where(frames, blank[0], 1), jnp.where(frames, blank[1], 0)
    label = _exponents.where(frames & (place < count[..., None, None]), label)
    ends = lax.broadcasted_iota(count.dtype, (*count.shape, blank[0].shape[-1]), count.ndim) == count[..., None]

    def arcs(pair, fill):
        return _exponents.steps_of(tuple(_skewed(x, y) for x, y in zip(pair, fill, strict=True)), fill)

    return _Lattice(arcs(blank, one), arcs(label, zero), jnp.moveaxis(ends, -1, 0))


def _forward(lattice: _Lattice, visit: Callable[[Pair], Any]) -> tuple[Pair, Any]:
    """The probability of the labels, and what `visit` makes of that of coming to the nodes of each antidiagonal."""

    def step(state, arcs):
        (nodes,), (blank, label) = state, arcs
        stay, go = _exponents.times(nodes, blank), _exponents.times(nodes, label)
        return (_exponents.add(stay, _before(go)),), visit(nodes)

    first = lax.broadcasted_iota(jnp.int32, lattice.end.shape, 0) == jnp.zeros_like(lattice.end, jnp.int32)
    start = (_exponents.one(first, lattice.blank[0].dtype),)
    (last,), seen = _exponents.scan(step, start, (lattice.blank, lattice.label))
    mantissa, exponent = (jnp.sum(jnp.where(lattice.end, x, 0), axis=0) for x in last)
    return (mantissa, exponent), seen


def _shares(lattice: _Lattice) -> tuple[Pair, Pair, jax.Array, jax.Array]:
    """The probability of the labels, that of coming to each node, and of its arcs, given that the labels are emitted.

    What is given cannot be more than 1: where labels are impossible it is 0.
    """
    whole, nodes = _forward(lattice, lambda nodes: nodes)
    of = jax.tree.map(lambda x: x[None], whole)

    def step(state, arcs):
        (rest,), (nodes, blank, label) = state, arcs
        stay, go = _exponents.times(rest, blank), _exponents.times(_after(rest), label)
        return (_exponents.add(stay, go),), (_exponents.share(nodes, stay, of), _exponents.share(nodes, go, of))

    end = (_exponents.one(lattice.end, lattice.blank[0].dtype),)
    _, (stay, go) = _exponents.scan(step, end, (nodes, lattice.blank, lattice.label), reverse=True)
    return whole, nodes, stay, go


# ---- of log-probabilities --------------------------------------------------------------------------------------------


def _of_log_probs(blank: jax.Array, label: jax.Array, frames: jax.Array, count: jax.Array) -> _Lattice:
    exact = jnp.zeros_like(blank)
    return _lattice(_exponents.exp(blank, exact), _exponents.exp(label, exact), frames, count)


@jax.custom_jvp
def _surprise_of_arcs(blank: jax.Array, label: jax.Array, frames: jax.Array, count: jax.Array) -> jax.Array:
    """-log of the sum over all ways through arcs of log-probabilities `[..., frames, labels + 1]`."""
    whole, _ = _forward(_of_log_probs(blank, label, frames, count), lambda _: None)
    return -_exponents.log(whole)


@_surprise_of_arcs.defjvp
def _(primals, tangents):
    blank, label, frames, count = primals
    whole, _, *shares = _shares(_of_log_probs(blank, label, frames, count))
    stay, go = (_straight(x, blank.shape[-2]) for x in shares)
    return -_exponents.log(whole), -jnp.sum(stay * tangents[0] + go * tangents[1], axis=(-2, -1))


_compiled_of_arcs = jax.jit(_surprise_of_arcs)  # loops are compiled once, not at every call outside of jit


# ---- of logits -------------------------------------------------------------------------------------------------------


def _probability(logits: jax.Array, chosen: jax.Array) -> Pair:
    """Of the chosen logits `[...]` of rows `[..., classes]`."""
    top, remainder = _numerics.log_partition(logits)
    total, rounded = _double.add(top, jnp.maximum(remainder, 0.0))
    high, low = _double.add(chosen, -total)
    return _exponents.exp(high, low - rounded)


def _of_logits(logits: jax.Array, labels: jax.Array, frames: jax.Array, count: jax.Array, blank: int) -> _Lattice:
    own = jnp.take_along_axis(logits, labels[..., None, :, None], axis=-1, mode="clip")[..., 0]
    return _lattice(_probability(logits, logits[..., blank]), _probability(logits, own), frames, count)


def _which(logits: jax.Array, labels: jax.Array, count: jax.Array, blank: int) -> tuple[jax.Array, jax.Array]:
    """Which classes are the blank, and which the next label, in the shape of the logits."""
    classes = lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    place = lax.broadcasted_iota(count.dtype, labels.shape, labels.ndim - 1)
    own = jnp.where(place < count[..., None], labels, -jnp.ones_like(labels))[..., None, :, None]
    return classes == blank, classes == own


def _missing(
    logits: jax.Array, labels: jax.Array, frames: jax.Array, count: jax.Array, blank: int, lattice: _Lattice
) -> tuple[jax.Array, Any, jax.Array]:
    """The probability of other labels, its excess by both arcs of each node, and the probability of neither arc.

    The excess is p (m - mean of m), where m is the probability of other labels after the arc. What is neither arc is a
    sum over all symbols that do not belong there: where it is small, a difference from 1 would have no digits.
    """
    is_blank, is_label = _which(logits, labels, count, blank)
    others = jnp.where(is_blank | is_label, 0, _numerics.softmax(logits))
    lost = jnp.sum(jnp.where(frames[..., None, None], others, 0), axis=-1)

    def step(rest, arcs):
        blank, label, lost = arcs
        blank, label = _exponents.number(blank), _exponents.number(label)
        more = jnp.concatenate([rest[1:], jnp.zeros_like(rest[:1])])
        mean = lost + blank * rest + label * more
        return mean, (blank * (rest - mean), label * (more - mean))

    end = 1.0 - lattice.end.astype(logits.dtype)
    outside = _exponents.steps_of(_skewed(lost, 0.0), 0.0)
    first, excess = lax.scan(step, end, (lattice.blank, lattice.label, outside), reverse=True)
    return first[0], excess, lost


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _surprise(logits: jax.Array, labels: jax.Array, frames: jax.Array, count: jax.Array, blank: int) -> jax.Array:
    """-log of the probability of the labels.

    Args:
      logits: Float `[..., frames, labels + 1, classes]`.
      labels: Integer `[..., labels + 1]`, of which the first are labels.
      frames: Which frames exist, bool `[..., frames]`.
      count: How many labels there are, integer `[...]`.
      blank: Class of the blank.

    Returns:
      Float `[...]`.
    """
    lattice = _of_logits(logits, labels, frames, count, blank)
    whole, _ = _forward(lattice, lambda _: None)
    loss = -_exponents.log(whole)

    def certain():
        return _exponents.surprise_from(_missing(logits, labels, frames, count, blank, lattice)[0], loss)

    return lax.cond(jnp.any(loss < _exponents.SURE), certain, lambda: loss)


def _along(
    blank: int,
    logits: jax.Array,
    labels: jax.Array,
    count: jax.Array,
    visits: jax.Array,
    slopes: Any,
    tangent: jax.Array,
) -> jax.Array:
    """The derivative along a tangent of the logits, from slopes at the nodes `[..., frames, labels + 1]`."""
    of_blank, of_label = slopes
    is_blank, is_label = _which(logits, labels, count, blank)
    slope = jnp.where(is_label, of_label[..., None], visits[..., None] * _numerics.softmax(logits))
    return jnp.sum(jnp.where(is_blank, of_blank[..., None], slope) * tangent, axis=(-3, -2, -1))


@_surprise.defjvp
def _(blank, primals, tangents):
    logits, labels, frames, count = primals
    lattice = _of_logits(logits, labels, frames, count, blank)
    whole, nodes, *shares = _shares(lattice)
    loss = -_exponents.log(whole)
    stay, go = (_straight(x, logits.shape[-3]) for x in shares)
    p_blank, p_label = (_straight(_exponents.number(x), logits.shape[-3]) for x in (lattice.blank, lattice.label))
    visits = stay + go
    slopes = visits * p_blank - stay, visits * p_label - go

    def certain():
        miss, excess, lost = _missing(logits, labels, frames, count, blank, lattice)
        sure = loss < _exponents.SURE
        mantissa, exponent = _exponents.where(sure[None, None], nodes)
        ways = _exponents.number((mantissa / whole[0][None, None], exponent - whole[1][None, None]))
        to_blank, to_label = (_straight(ways * x, logits.shape[-3]) for x in excess)
        # What makes the sum of a node 0 is the slope of its most probable symbol, whose own would cancel.
        of_blank = jnp.where(p_blank > 0.5, -(visits * lost + to_label), to_blank)
        of_label = jnp.where(p_label > 0.5, -(visits * lost + to_blank), to_label)
        sure = sure[..., None, None]
        return _exponents.surprise_from(miss, loss), *(
            jnp.where(sure, a, b) for a, b in zip((of_blank, of_label), slopes, strict=True)
        )

    loss, *slopes = lax.cond(jnp.any(loss < _exponents.SURE), certain, lambda: (loss, *slopes))
    # Recomputed where the gradient is: so it is the only array of the size of the logits.
    along = jax.checkpoint(_along, static_argnums=0)
    return loss, along(blank, logits, labels, count, visits, slopes, tangents[0])


_compiled = jax.jit(_surprise, static_argnums=4)


def _existing_frames(of_frames: jax.Array, frame_where: Any) -> jax.Array:
    """Which frames exist, bool in the shape of an array `[..., frames]`."""
    return existing(of_frames, 0, frame_where=frame_where)[1]


def _count(keep: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many labels there are, and whether they come first; raises where they are known not to."""
    fits = jnp.all(keep[..., :-1] | ~keep[..., 1:], axis=-1)
    known = _check.concrete(fits)
    if known is not None and not known.all():
        raise ValueError(
            "label_where must keep the first labels of each sequence, and no other after one that it drops"
        )
    return jnp.sum(keep, axis=-1, dtype=jnp.int32), fits


def _nodes(frames: jax.Array, count: jax.Array, n: int) -> jax.Array:
    """Which nodes exist, bool `[..., frames, n]`: those of frames that exist, up to the last label."""
    place = lax.broadcasted_iota(count.dtype, (*frames.shape, n), frames.ndim)
    return frames[..., None] & (place <= count[..., None, None])


def transducer(
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
    r"""Transducer (RNN-T): labels in order over frames, each predicted from the frame and the labels before it.

    .. math:: -\log \alpha_{T, U}, \qquad \alpha_{t + 1, u} \mathrel{+}= \alpha_{t, u}\, p_{t, u}(\varnothing), \quad
        \alpha_{t, u + 1} \mathrel{+}= \alpha_{t, u}\, p_{t, u}(y_{u + 1}), \qquad
        p_{t, u} = \operatorname{softmax}(z_{t, u}), \quad \alpha_{0, 0} = 1

    For streaming speech recognition. At each node a blank goes to the next frame and a label to the next label, so a
    frame may have several, unlike in `ctc`, which needs no network of the labels. All ways are summed up, one
    antidiagonal after the other: frames + labels steps. The same as torchaudio's `rnnt_loss`, which by default takes
    the last class as the blank: `blank=classes - 1`. A loss near 0 is summed up from all that would be misread, and is
    never negative.

    Memory beside the logits is their gradient, in one array, and some of `[..., frames + labels, labels + 1]`. Where
    the logits do not fit, give log-probabilities of the blank and of the next label alone to
    `transducer_with_log_probs`.

    Args:
      logits: Unnormalised log-probabilities, float `[..., frames, labels + 1, classes]`, after 0, 1, ... labels; -inf
        is a class that does not exist.
      labels: True labels, integer `[..., labels]`, in [0, classes) without the blank.
      blank: The class that is no label.
      frame_where: Frames that exist, bool `[..., frames]`; others, at the ends or between, are left out.
      label_where: Labels that exist, bool `[..., labels]`; others come last.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, infinite, without gradient, for labels that cannot be read.

    Raises:
      TypeError: if `logits` are not floating point, `labels` not integer, masks not bool or `blank` no Python int.
      ValueError: if shapes do not fit, `blank` is no class, a known label names no class or the blank, or known labels
        do not come first.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.25, 0.25])), (1, 2, 2, 3))
      >>> loss = transducer(logits, jnp.array([[1]]))
      >>> round(jnp.exp(-loss).item(), 4)  # in the first frame or in the second, and two blanks: 2/16
      0.125

    Reference:
      Graves, *Sequence transduction with recurrent neural networks*, 2012.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    shape, own = _check.spec(logits)[0], _check.spec(labels)[0]
    if len(shape) < 3 or not own or shape[:-3] != own[:-1] or shape[-2] != own[-1] + 1:
        expected = "expected logits [..., frames, labels + 1, classes] and labels [..., labels]"
        raise ValueError(f"{expected}, got logits{list(shape)}, labels{list(own)}")
    _check.position(shape[-1], blank=blank)
    (logits,), (labels,) = masked(where, logits, event=3), masked(where, labels, event=1)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    frames = _existing_frames(logits[..., 0, 0], frame_where)
    labels, keep = existing(labels, 0, label_where=label_where)
    if where is not None:
        (keep,) = masked(where, keep, event=1)
    count, first = _count(keep)
    known = first & jnp.all(_check.symbols(labels, keep, shape[-1], int(blank)), axis=-1)
    if frame_where is not None or label_where is not None:
        (logits,) = masked(_nodes(frames, count, shape[-2]), logits, event=1)
    values = _compiled(logits, _padded(labels, labels.ndim - 1, 1, 0), frames, count, int(blank))
    return reduce(jnp.where(known, values, jnp.nan), where, weights, reduction)


def transducer_with_log_probs(
    blank_log_probs: jax.Array,
    label_log_probs: jax.Array,
    *,
    frame_where: ArrayLike | None = None,
    label_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Transducer from the log-probabilities of the blank and of the next label alone, without those of other classes.

    .. math:: -\log \alpha_{T, U}, \qquad \alpha_{t + 1, u} \mathrel{+}= \alpha_{t, u}\, e^{b_{t, u}}, \quad
        \alpha_{t, u + 1} \mathrel{+}= \alpha_{t, u}\, e^{l_{t, u}}, \qquad \alpha_{0, 0} = 1

    What `transducer` computes of logits, where those of all classes are too many to hold. If they are sums of a part of
    the frame and a part of the labels, their partition sums are one product of matrices, below, and memory is
    O(frames labels + (frames + labels) classes). It also takes models whose blank is apart from the labels: factored
    transducers, and hybrid autoregressive ones. The gradients are minus the probabilities that the arcs are taken.

    FastEmit, which makes a model emit earlier, scales the gradient of the labels by 1 + lambda (0.001 to 0.01) and
    leaves the value as it is, which is the gradient of no function: as `label_log_probs` give it
    `(1 + lam) * label_log_probs - lam * jax.lax.stop_gradient(label_log_probs)`.

    Args:
      blank_log_probs: Log-probability of going on to the next frame, float `[..., frames, labels + 1]`, after 0, 1, ...
        labels; -inf is impossible.
      label_log_probs: Log-probability of the next true label, float `[..., frames, labels]`.
      frame_where: Frames that exist, bool `[..., frames]`; others, at the ends or between, are left out.
      label_where: Labels that exist, bool `[..., labels]`; others come last.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative for probabilities, infinite, without gradient, if there is no way.

    Raises:
      TypeError: if log-probabilities are not floating point or masks not bool.
      ValueError: if shapes do not fit or known labels do not come first.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from lossax import losses
      >>> loss = transducer_with_log_probs(jnp.log(jnp.full((1, 2, 2), 0.5)), jnp.log(jnp.full((1, 2, 1), 0.25)))
      >>> round(jnp.exp(-loss).item(), 4)  # in the first frame or in the second, and two blanks: 2/16
      0.125
      >>> frames, texts = jnp.arange(6.0).reshape(2, 3), jnp.array([[0.0, 1.0, 0.5], [2.0, 0.0, 1.0]])  # of 3 classes
      >>> logits, labels = frames[:, None] + texts[None], jnp.array([2])
      >>> sums = jnp.log(jnp.exp(frames - frames.max()) @ jnp.exp(texts - texts.max()).T) + frames.max() + texts.max()
      >>> blank = frames[:, None, 0] + texts[None, :, 0] - sums
      >>> label = frames[:, labels] + texts[None, 0, labels] - sums[:, :-1]
      >>> round(transducer_with_log_probs(blank, label).item(), 4) == round(losses.transducer(logits, labels).item(), 4)
      True

    Reference:
      Graves, *Sequence transduction with recurrent neural networks*, 2012; sums of parts: Kuang et al., *Pruned RNN-T
      for fast, memory-efficient ASR training*, 2022; Yu et al., *FastEmit: low-latency streaming ASR with
      sequence-level emission regularization*, 2021.
    """
    _check.floating(blank_log_probs=blank_log_probs, label_log_probs=label_log_probs)
    shape, own = _check.spec(blank_log_probs)[0], _check.spec(label_log_probs)[0]
    if len(shape) < 2 or own != (*shape[:-1], shape[-1] - 1):
        expected = "expected blank_log_probs [..., frames, labels + 1] and label_log_probs [..., frames, labels]"
        raise ValueError(f"{expected}, got blank_log_probs{list(shape)}, label_log_probs{list(own)}")
    (blank,), (label,) = masked(where, blank_log_probs, event=2), masked(where, label_log_probs, event=2)
    label = label.astype(blank.dtype)
    frames = _existing_frames(blank[..., 0], frame_where)
    _, keep = existing(jnp.sum(jnp.zeros_like(label), axis=-2), 0, label_where=label_where)
    if where is not None:
        (keep,) = masked(where, keep, event=1)
    count, known = _count(keep)
    (blank,) = masked(_nodes(frames, count, shape[-1]), blank)
    (label,) = masked(_nodes(frames, count - 1, own[-1]), label)
    values = _compiled_of_arcs(blank, _padded(label, label.ndim - 1, 1, 0.0), frames, count)
    return reduce(jnp.where(known, values, jnp.nan), where, weights, reduction)
