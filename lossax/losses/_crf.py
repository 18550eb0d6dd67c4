"""Sequences of tags that depend on their neighbours: one unit per sequence."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import label_surprise
from lossax._reduction import masked, reduce
from lossax._sequences import chain, existing
from lossax._tile import over_sets
from lossax._types import Reduction


def _finite(x: jax.Array) -> jax.Array:
    """No larger than the largest number."""
    return jnp.minimum(x, float(jnp.finfo(x.dtype).max))


def _log_sum(x: jax.Array) -> jax.Array:
    """Log sum exp of each row, -inf for one of -inf: without a rule of its own, which a scan forgets after the first
    derivative.
    """
    top = lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    top = jnp.where(jnp.isneginf(top), 0, top)
    total = jnp.sum(jnp.exp(x - top), axis=-1)
    some = total > 0
    return jnp.where(some, top[..., 0] + jnp.log(jnp.where(some, total, 1)), -jnp.inf)


def _surprise(
    logits: jax.Array,
    labels: jax.Array,
    keep: jax.Array,
    transitions: jax.Array,
    starts: jax.Array,
    ends: jax.Array,
) -> jax.Array:
    """The sum over steps of -log p(label | label before it, all logits), of one sequence.

    Every term is one of a softmax and has its digits, also where the sequence is nearly sure; a difference between the
    log partition and the score of the labels would have lost them.
    """
    tags = lax.iota(labels.dtype, logits.shape[-1])
    steps = lax.iota(jnp.int32, len(logits))
    last = lax.cummax(jnp.where(keep, steps, -1))
    before = jnp.concatenate([jnp.full_like(last[:1], -1), last[:-1]])
    previous = jnp.take_along_axis(labels, jnp.maximum(before, 0), axis=0, mode="clip")

    @jax.checkpoint  # no [steps, tags, tags] is held for the gradient
    def back(rest, step):
        """`rest` is the log weight of all that may follow each tag, but for a constant."""
        logits, keep, previous, first = step
        ahead = logits + rest
        pairs = _finite(transitions + ahead[None, :])
        own = jnp.sum(jnp.where((tags == previous)[:, None], pairs, 0), axis=0)
        own = jnp.where(first, _finite(starts + ahead), own)
        reached = _log_sum(pairs)
        most = lax.stop_gradient(jnp.max(reached))
        reached = reached - jnp.where(jnp.isneginf(most), 0, most)
        return jnp.where(keep, reached, rest), own

    rest = ends + jnp.zeros_like(logits[0])  # sharded like the logits
    _, rows = lax.scan(back, rest, (logits, keep, previous, before < 0), reverse=True)
    each = label_surprise(rows, labels)
    total = jnp.sum(jnp.where(keep, each, 0))
    return jnp.where(jnp.isposinf(total), jnp.inf, total)  # a path that is impossible has no gradient


@jax.jit  # the loop is compiled once, not at every call outside of jit
def _surprises(logits: jax.Array, labels: jax.Array, keep: jax.Array, scores: tuple[jax.Array, ...]) -> jax.Array:
    return over_sets(lambda *sequence: _surprise(*sequence, *scores), labels.ndim - 1)(logits, labels, keep)


def linear_chain_crf(
    logits: jax.Array,
    labels: jax.Array,
    *,
    transitions: ArrayLike,
    starts: ArrayLike | None = None,
    ends: ArrayLike | None = None,
    step_where: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of a sequence of tags that depend on their neighbours: a conditional random field.

    .. math:: \log \sum_{u} e^{s(u)} - s(y), \qquad
        s(u) = a_{u_1} + \sum_t z_{t, u_t} + \sum_{t > 1} A_{u_{t - 1}, u_t} + b_{u_T}

    For named entities, segmentation of text or signals, and whatever has a grammar of tags: where a softmax at every
    step would choose tags that cannot follow each other. Decode with `activations.viterbi`. Without transitions it is
    the sum of the cross-entropies of the steps. Scores of -inf are forbidden; a sequence that has to use one costs
    infinity and has no gradient.

    It is evaluated as the sum of -log p(tag | tag before it), each with all its digits, in O(steps tags^2) time, one
    step after the other, and O(steps tags) memory. Its gradient by the logits is the posterior probability of each tag
    less one at the label, so the marginals are `one_hot(labels) + gradient` of the sum. Optax has no such loss;
    pytorch-crf's `CRF` returns the log likelihood itself, summed, and its start, end and mask are `starts`, `ends` and
    `step_where` here. In AllenNLP's and TensorFlow Addons' too `transitions[i, j]` leads from i to j.

    Args:
      logits: Score of each tag at each step, float `[..., steps, tags]`; -inf is a tag that cannot be there.
      labels: True tags, integer `[..., steps]`, in [0, tags).
      transitions: Score of each tag (second axis) after another (first axis), real `[tags, tags]`; learned as a rule.
      starts: Score of each tag as the first, real `[tags]`; `None` is 0.
      ends: Score of each tag as the last, real `[tags]`; `None` is 0.
      step_where: Steps that exist, bool `[..., steps]`; others, at the ends or between, are left out of the sequence.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point, `labels` not integer or `step_where` not bool.
      ValueError: if shapes do not fit, there is no step or a known label names no tag.

    Example:
      >>> import jax.numpy as jnp
      >>> logits, labels = jnp.zeros((2, 2)), jnp.array([0, 1])
      >>> transitions = jnp.array([[0.0, 0.0], [-jnp.inf, 0.0]])  # 1 is never followed by 0
      >>> loss = linear_chain_crf(logits, labels, transitions=transitions)
      >>> round(loss.item(), 4)  # one of the paths 00, 01 and 11: log 3
      1.0986

    Reference:
      Lafferty, McCallum and Pereira, *Conditional random fields: probabilistic models for segmenting and labeling
      sequence data*, 2001.
    """
    _check.floating(logits=logits)
    _check.integer(labels=labels)
    _check.units_of({"logits": logits}, labels=labels)
    _check.units_of({"labels": labels})
    (logits,), (labels,) = masked(where, logits, event=2), masked(where, labels, event=1)
    labels, _ = existing(labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels, 0, step_where=step_where)
    logits, keep, scores = chain(logits, step_where, transitions, starts, ends)
    known = jnp.all(_check.labels(labels, logits.shape[-1]), axis=-1)
    values = _surprises(logits, labels, keep, scores)
    return reduce(jnp.where(known, values, jnp.nan), where, weights, reduction)
