"""Softmax over more classes than one wants to evaluate: one unit per row."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _double, _numerics
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _candidates(
    where: Any, true_logits: jax.Array, sampled_logits: jax.Array, hits: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both after the mask, in one dtype, and which of the samples count."""
    _check.floating(true_logits=true_logits, sampled_logits=sampled_logits)
    _check.units_of({"sampled_logits": sampled_logits}, true_logits=true_logits)
    (true_logits,) = masked(where, true_logits)
    (sampled_logits,) = masked(where, sampled_logits, event=1)
    sampled_logits = sampled_logits.astype(true_logits.dtype)
    shape = sampled_logits.shape
    if hits is None:
        return true_logits, sampled_logits, jnp.ones((1,) * len(shape), bool)
    _check.boolean(hits=hits)
    _check.broadcasts_to(shape, hits=hits)
    return true_logits, sampled_logits, jnp.broadcast_to(~jnp.asarray(hits), shape)


def _log_q(where: Any, logits: jax.Array, event: int, **log_q: Any) -> jax.Array:
    """The logarithm of the sampler in the dtype of the logits, 0 where it is not given."""
    ((name, value),) = log_q.items()
    if value is None:
        return jnp.zeros((), logits.dtype)
    _check.real(**log_q)
    _check.broadcasts_to(logits.shape, **{name: value})
    return masked(where, logits, value, event=event)[1]


def _surprise(logits: jax.Array, target: float) -> jax.Array:
    """Binary cross-entropy of each logit with one target."""
    one = jnp.ones((), logits.dtype)
    return _numerics.binary_cross_entropy(logits, jnp.full_like(logits, target), one, 0.0 * one)


def sampled_softmax(
    true_logits: jax.Array,
    sampled_logits: jax.Array,
    *,
    true_log_q: ArrayLike | None = None,
    sampled_log_q: ArrayLike | None = None,
    hits: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy of the true class among a sample of the others: to train on millions of classes or items.

    .. math:: -\log \frac{e^{z_y - \log q_y}}{e^{z_y - \log q_y} + \sum_{j \in S} e^{z_j - \log q_j}}

    The correction by the sampler's q makes it tend to the full softmax as the sample grows, with popular classes as
    with rare ones; a factor common to all q cancels, so with uniform samples leave it out. For a few hundred thousand
    classes the full cross-entropy in tiles may be affordable, and has no bias. A sample that is the true class is an
    accidental hit: it would be pushed down and up at once, so name it in `hits`, `sampled == labels[..., None]`.

    In TensorFlow's `sampled_softmax_loss` the correction is `subtract_log_q` and hits are removed by lowering them by
    1e37; here they leave the program's arithmetic. For retrieval with a batch's own items as the sample, q is the
    estimated frequency of the item in batches.

    Args:
      true_logits: Logit of the true class, float `[...]`.
      sampled_logits: Logits of the sampled classes, float `[..., samples]`; -inf is a sample that does not count.
      true_log_q: Log-probability (or log expected count) of the true class in the sampler, real, broadcasting to
        `[...]`; `None` is 0.
      sampled_log_q: The same of the samples, real, broadcasting to `[..., samples]`; `None` is 0.
      hits: Samples to leave out, bool, broadcasting to `[..., samples]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if logits are not floating point or `hits` not bool.
      ValueError: if shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = sampled_softmax(jnp.zeros(1), jnp.zeros((1, 3)), hits=jnp.array([[True, False, False]]))
      >>> round(loss.item(), 4)  # log 3
      1.0986

    Reference:
      Bengio and Senécal, *Quick training of probabilistic neural nets by importance sampling*, 2003; Jean et al., *On
      using very large target vocabulary for neural machine translation*, 2015; Yi et al., *Sampling-bias-corrected
      neural modeling for large corpus item recommendations*, 2019.
    """
    true_logits, sampled_logits, counts = _candidates(where, true_logits, sampled_logits, hits)
    own = _log_q(where, true_logits, 0, true_log_q=true_log_q)
    others = _log_q(where, sampled_logits, 1, sampled_log_q=sampled_log_q)
    first, sampled_logits = true_logits[..., None], jnp.where(counts, sampled_logits, -jnp.inf)
    if not (true_log_q is None and sampled_log_q is None):
        # The difference first: next to a large logit the correction would be rounded away.
        gap, lost = _double.add(sampled_logits, jnp.broadcast_to(-first, sampled_logits.shape))
        gap = gap + (lost + ((own[..., None] if own.ndim else own) - others))
        first, sampled_logits = jnp.zeros_like(first), jnp.where(jnp.isposinf(gap), jnp.finfo(gap.dtype).max, gap)
    row = jnp.concatenate([first, sampled_logits], axis=-1)
    return reduce(_numerics.label_surprise(row, jnp.zeros(row.shape[:-1], jnp.int32)), where, weights, reduction)


def noise_contrastive(
    true_logits: jax.Array,
    sampled_logits: jax.Array,
    *,
    true_log_q: ArrayLike,
    sampled_log_q: ArrayLike,
    hits: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Noise-contrastive estimation: tells the true class from k samples of a known noise.

    .. math:: -\log \sigma(z_y - \log k q_y) - \sum_{j \in S} \log \sigma(\log k q_j - z_j), \qquad k = |S|

    Its logits become normalised log-probabilities by themselves, so no partition sum is needed later either: for
    language models and energy-based densities. For ranking alone `sampled_softmax` is usually better;
    `negative_sampling` is this without q, and estimates no probability. A sample that happens to be the true class is
    part of the theory; `hits` is for samplers that should not have drawn it.

    TensorFlow's `nce_loss` takes expected counts, which are k q.

    Args:
      true_logits: Unnormalised log-probability of the true class, float `[...]`.
      sampled_logits: The same of the samples, float `[..., samples]`; -inf is a sample that does not count.
      true_log_q: Log-probability of the true class under the noise, real, broadcasting to `[...]`.
      sampled_log_q: The same of the samples, real, broadcasting to `[..., samples]`.
      hits: Samples to leave out, bool, broadcasting to `[..., samples]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if logits are not floating point or `hits` not bool.
      ValueError: if shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> q = jnp.log(0.5)
      >>> loss = noise_contrastive(jnp.zeros(1), jnp.zeros((1, 2)), true_log_q=q, sampled_log_q=q)
      >>> round(loss.item(), 4)  # 2 q = 1: 3 log 2
      2.0794

    Reference:
      Gutmann and Hyvärinen, *Noise-contrastive estimation: a new estimation principle for unnormalized statistical
      models*, 2010; Mnih and Teh, *A fast and simple algorithm for training neural probabilistic language models*,
      2012.
    """
    true_logits, sampled_logits, counts = _candidates(where, true_logits, sampled_logits, hits)
    own = _log_q(where, true_logits, 0, true_log_q=true_log_q)
    others = _log_q(where, sampled_logits, 1, sampled_log_q=sampled_log_q)
    log_samples = math.log(max(sampled_logits.shape[-1], 1))
    yes = _surprise(true_logits - (own + log_samples), 1.0)
    no = _surprise(jnp.where(counts, sampled_logits - (others + log_samples), -jnp.inf), 0.0)
    return reduce(yes + jnp.sum(no, axis=-1), where, weights, reduction)


def negative_sampling(
    true_logits: jax.Array,
    sampled_logits: jax.Array,
    *,
    hits: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Pushes the true pair up and sampled pairs down, each on its own: the loss of word2vec and of graph embeddings.

    .. math:: -\log \sigma(z_y) - \sum_{j \in S} \log \sigma(-z_j)

    For embeddings and not for probabilities: the logits tend to log p / q up to a constant. Samples are drawn from the
    frequencies to the power 3/4 in the paper, 5 to 20 for a small corpus, 2 to 5 for a large one, and summed.

    Args:
      true_logits: Score of the true pair, float `[...]`.
      sampled_logits: Scores of the sampled pairs, float `[..., samples]`; -inf is a sample that does not count.
      hits: Samples to leave out, bool, broadcasting to `[..., samples]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if logits are not floating point or `hits` not bool.
      ValueError: if shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> round(negative_sampling(jnp.zeros(1), jnp.zeros((1, 2))).item(), 4)  # 3 log 2
      2.0794

    Reference:
      Mikolov et al., *Distributed representations of words and phrases and their compositionality*, 2013.
    """
    true_logits, sampled_logits, counts = _candidates(where, true_logits, sampled_logits, hits)
    no = _surprise(jnp.where(counts, sampled_logits, -jnp.inf), 0.0)
    return reduce(_surprise(true_logits, 1.0) + jnp.sum(no, axis=-1), where, weights, reduction)


def _matrix(array: ArrayLike, rows: int, name: str, hidden: jax.Array) -> jax.Array:
    """A matrix of parameters with `rows` rows in the dtype of the hidden vectors."""
    shape, _ = _check.spec(array)
    _check.floating(**{name: array})
    if len(shape) != 2 or shape[0] != rows:
        raise ValueError(f"{name} must be [{rows}, ...], got {list(shape)} with hidden{list(hidden.shape)}")
    return jnp.asarray(array).astype(hidden.dtype)


def adaptive_softmax(
    hidden: jax.Array,
    labels: jax.Array,
    *,
    head: ArrayLike,
    tails: Sequence[tuple[ArrayLike, ArrayLike]],
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy over classes sorted by frequency, the rare ones in clusters with fewer parameters each.

    .. math:: -\log \mathrm{softmax}(h W)_y \ \ (y < c_0), \qquad
        -\log \mathrm{softmax}(h W)_{c_0 + i} - \log \mathrm{softmax}(h D_i U_i)_{y - c_i} \ \ (c_i \le y < c_{i + 1})

    For vocabularies with a long tail where the parameters of the full softmax are too many, or its products too slow.
    Label 0 is the most frequent class. The c_0 first classes and one entry for each cluster are columns of the head;
    sizes are read off the shapes: torch's `cutoffs` are c_0, c_0 plus the size of the first tail, and so on. The rank
    of a cluster is usually a quarter of the one before (torch's `div_value=4`).

    Shapes are static, so every tail is evaluated for every row and masked after: the saving is that of the low ranks,
    not of the rows that do not need a tail, and all tails' logits are held for the gradient. torch's
    `AdaptiveLogSoftmaxWithLoss` is the same function with `head.weight.T` and `(tail[0].weight.T, tail[1].weight.T)`;
    its `head_bias` is a column of ones in `hidden` with a zero row in each D.

    Args:
      hidden: What the last layer takes, float `[..., d]`.
      labels: True classes by falling frequency, integer `[...]`.
      head: W, float `[d, c_0 + clusters]`.
      tails: D and U of each cluster, float `[d, rank]` and `[rank, size]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `hidden` or a matrix is not floating point or `labels` not integer.
      ValueError: if shapes do not fit or a known label names no class.

    Example:
      >>> import jax.numpy as jnp
      >>> tail = (jnp.zeros((2, 1)), jnp.zeros((1, 4)))  # 4 rare classes behind 1 frequent one
      >>> loss = adaptive_softmax(jnp.ones((1, 2)), jnp.array([3]), head=jnp.zeros((2, 2)), tails=(tail,))
      >>> round(loss.item(), 4)  # log 2 + log 4
      2.0794

    Reference:
      Grave et al., *Efficient softmax approximation for GPUs*, 2017.
    """
    _check.floating(hidden=hidden)
    _check.integer(labels=labels)
    _check.units_of({"hidden": hidden}, labels=labels)
    (hidden,), (labels,) = masked(where, hidden, event=1), masked(where, labels)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    head = _matrix(head, hidden.shape[-1], "head", hidden)
    pairs = []
    for i, (down, up) in enumerate(tails):
        down = _matrix(down, hidden.shape[-1], f"tails[{i}][0]", hidden)
        pairs.append((down, _matrix(up, down.shape[1], f"tails[{i}][1]", hidden)))
    first = start = head.shape[1] - len(pairs)
    if first < 0:
        raise ValueError(f"head{list(head.shape)} has fewer columns than there are tails, {len(pairs)}")
    classes = first + sum(up.shape[1] for _, up in pairs)
    known = jnp.where(_check.labels(labels, classes), jnp.ones((), hidden.dtype), jnp.nan)
    entry, loss = jnp.minimum(labels, max(first - 1, 0)), jnp.zeros(labels.shape, hidden.dtype)
    for i, (down, up) in enumerate(pairs):
        stop = start + up.shape[1]
        inside = (labels >= start) & (labels < stop)
        surprise = _numerics.label_surprise(hidden @ down @ up, jnp.clip(labels - start, 0, up.shape[1] - 1))
        loss = loss + jnp.where(inside, surprise, 0)
        entry, start = jnp.where(inside, first + i, entry), stop
    return reduce(known * (loss + _numerics.label_surprise(hidden @ head, entry)), where, weights, reduction)
