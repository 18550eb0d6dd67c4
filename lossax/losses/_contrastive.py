"""Losses in which each element of a batch finds its own among the others; one unit per element.

Similarities are made a block of rows at a time: memory is that of a few blocks, whatever the batch.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _coupled
from lossax._coupled import Elements, Similarity, everyone, prepared, scores
from lossax._numerics import divide, log_partition
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import by_rows, gathered, inner, logsumexps, over_sets, spread_like
from lossax._types import Reduction


def _more(negatives, negatives_where, similarity: Similarity, like: jax.Array):
    """Columns that are nobody's own, if there are any."""
    if negatives is None:
        return []
    _check.floating(negatives=negatives)
    _check.points(like.shape[-1], negatives=negatives)
    (negatives,) = masked(negatives_where, negatives, event=1)
    there = unit_weights(negatives.shape[:1], negatives_where) > 0
    nowhere = jnp.full(there.shape, -1, jnp.int32)
    return [Elements(prepared(similarity, negatives.astype(like.dtype)), nowhere, there)]


def _own_and_scores(rows: Elements, columns: Elements) -> tuple[jax.Array, jax.Array]:
    """`scores`, and before it the similarity of each row to its own column."""
    every = inner(rows.embeddings, columns.embeddings)
    own = rows.places[:, None] == columns.places[None, :]
    own = jnp.sum(jnp.where(own, every, 0), axis=-1)
    return own, jnp.where(_coupled.pairs(rows, columns), every, -jnp.inf)


def _log_sums(matrix: jax.Array) -> jax.Array:
    """Log of the sum of exponentials of each row."""
    top, rest = log_partition(matrix)
    return top + rest


def _both_rivals(rows: Elements, columns: Elements, tile: int | None, axis_name: str | None):
    """Log of the sum of exponentials of each row and of each column; the matrix is made once."""
    by_row, by_column = logsumexps(scores, len(columns.places), tile, rows, columns)
    if axis_name is not None:
        by_column = _log_sums(lax.all_gather(by_column, axis_name, axis=1))[rows.places]
    return by_row, spread_like(by_column, by_row)


def _surprise(rivals: jax.Array, own: jax.Array, decoupled: bool) -> jax.Array:
    """-log of the share of `own` beside its rivals, of which the log of the sum is given; beside none it is 0."""
    alone = jnp.isneginf(rivals)
    gap = jnp.where(alone, 0, rivals - own)
    return jnp.where(alone, 0, gap if decoupled else jax.nn.softplus(gap))


def info_nce(
    anchors: jax.Array,
    positives: jax.Array,
    *,
    temperature: ArrayLike = 0.07,
    symmetric: bool = False,
    within: bool = False,
    decoupled: bool = False,
    similarity: Similarity = "cosine",
    negatives: ArrayLike | None = None,
    negatives_where: ArrayLike | None = None,
    log_q: ArrayLike | None = None,
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""InfoNCE: which of all positives belongs to an anchor.

    .. math:: \ell_i = -\log \frac{e^{s(a_i, b_i) / \tau}}
        {e^{s(a_i, b_i) / \tau} + \sum_{j \ne i} e^{s(a_i, b_j) / \tau} + \sum_k e^{s(a_i, c_k) / \tau}}

    The loss of contrastive pre-training, with negatives c besides those in the batch, if any. Large batches and hard
    negatives matter more than the variant; pairs that are nearly the same are false negatives, for which
    `supervised_contrastive` knows labels. Its names:

    * CLIP: `symmetric` and a learned temperature, as below; the scale is held to 100.
    * SimCLR (NT-Xent): `symmetric` and `within`, `temperature` 0.1 to 0.5.
    * MoCo: `negatives` from a memory of keys (`objectives.memory`).
    * Decoupled contrastive learning: SimCLR with `decoupled`, which leaves the positive out of the sum.
    * Multiple negatives ranking: `temperature=0.05`. N-pair: `similarity="dot"`, `temperature=1.0`; the paper adds 0.02
      times the squared length of embeddings.
    * In-batch softmax of two towers: `similarity="dot"`, and `log_q`, since popular items are in more batches.

    Where the loss is small it keeps its digits: the positive is never added to its rivals and taken off again. Optax's
    `ntxent` is undefined without a pair, and wrong where norms are below its epsilon.

    Args:
      anchors: Embeddings a, float `[..., n, d]`.
      positives: What belongs to each, b, float `[..., n, d]`.
      temperature: Divides similarities; positive.
      symmetric: Whether positives look for their anchors too; a unit is the mean of the two.
      within: Whether the other anchors are rivals too (for positives: the other positives).
      decoupled: Whether the positive is left out of the denominator.
      similarity: `"cosine"`, or `"dot"` for embeddings as they are.
      negatives: More rivals c of all anchors, float `[k, d]`.
      negatives_where: Which of them to keep, bool `[k]`.
      log_q: Log-probability with which each positive is in a batch, float `[..., n]`; it is taken off similarities over
        the temperature. Not with `symmetric`.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all are rivals of all.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`; nonnegative unless decoupled.

    Raises:
      TypeError: if `anchors` or `positives` are not floating point.
      ValueError: if shapes differ, `temperature` is not positive or `log_q` is given with `symmetric`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = texts = jnp.eye(3)
      >>> round(info_nce(images, texts, temperature=1.0).item(), 4)  # log(1 + 2 exp(0 - 1))
      0.5514
      >>> log_scale = jnp.log(1 / 0.07)  # a parameter; CLIP
      >>> scale = jnp.minimum(jnp.exp(log_scale), 100.0)
      >>> loss = info_nce(images, texts, temperature=1 / scale, symmetric=True)

    Reference:
      van den Oord, Li and Vinyals, *Representation learning with contrastive predictive coding*, 2018; Radford et al.,
      *Learning transferable visual models from natural language supervision*, 2021; Chen et al., *A simple framework
      for contrastive learning of visual representations*, 2020; Yeh et al., *Decoupled contrastive learning*, 2022; Yi
      et al., *Sampling-bias-corrected neural modeling for large corpus item recommendations*, 2019 (`log_q`).
    """
    _check.floating(anchors=anchors, positives=positives)
    _check.same_shape(anchors=anchors, positives=positives)
    _check.positive(temperature=temperature)
    _check.choice(("cosine", "dot"), similarity=similarity)
    anchors, positives, temperature = masked(where, anchors, positives, temperature, event=1)
    kept = _coupled.kept_elements({"anchors": anchors}, where, weights)
    more = _more(negatives, negatives_where, similarity, anchors)
    rarity = jnp.zeros_like(kept)
    if log_q is not None:
        if symmetric:
            raise ValueError("log_q is about positives as rivals of anchors: it must be None if symmetric")
        _check.floating(log_q=log_q)
        _check.units_of({"anchors": anchors}, log_q=log_q)
        rarity = -masked(where, log_q)[0].astype(kept.dtype)

    def lifted(x, height):
        """With one more number, whose product is added to similarities."""
        return x if log_q is None else jnp.concatenate([x, height[:, None]], axis=-1)

    def own_and_all(x, kept):
        own = _coupled.elements(prepared(similarity, x), kept, axis_name)
        return own, everyone(own, axis_name)

    if not symmetric:

        def of_set(a, b, rarity, kept):
            columns = [own_and_all(b, kept)[1], *([own_and_all(a, kept)[1]] if within else []), *more]
            heights = [gathered(rarity, axis_name), *(jnp.zeros_like(part.embeddings[:, 0]) for part in columns[1:])]
            columns = [x._replace(embeddings=lifted(x.embeddings, h)) for x, h in zip(columns, heights, strict=True)]
            rows = _coupled.elements(a, kept, axis_name)
            return rows, (columns, temperature), sum(len(part.places) for part in columns)

        def row(rows, shared):
            columns, temperature = shared
            x = prepared(similarity, rows.embeddings) / temperature
            rows = rows._replace(embeddings=lifted(x, jnp.ones_like(x[:, 0])))
            own, others = _own_and_scores(rows, columns[0])
            rivals = (_log_sums(others), *(_log_sums(scores(rows, part)) for part in columns[1:]))
            rivals = functools.reduce(jnp.logaddexp, rivals)
            return _surprise(rivals, own, decoupled), rows.exist

        return _coupled.reduced(row, of_set, (anchors, positives, rarity), axis_name, tile, kept, weights, reduction)

    def both(a, b, kept):
        (a, all_a), (b, all_b) = own_and_all(a, kept), own_and_all(b, kept)
        own = jnp.sum(a.embeddings * b.embeddings, axis=-1) / temperature
        a, b = (x._replace(embeddings=x.embeddings / temperature) for x in (a, b))
        rivals = _both_rivals(a, all_b, tile, axis_name)
        found = []
        for rows, all_rows, rival in ((a, all_a, rivals[0]), (b, all_b, rivals[1])):
            for other in ([all_rows] if within else []) + more:
                f = lambda x, y: (_log_sums(scores(x, y)), ())  # noqa: E731
                rival = jnp.logaddexp(rival, by_rows(f, rows, other, width=len(other.places), tile=tile)[0])
            found.append(_surprise(rival, own, decoupled))
        return 0.5 * (found[0] + found[1])

    values = over_sets(both, kept.ndim - 1)(anchors, positives, kept)
    return reduce(values, kept > 0, weights, reduction, axis_name)


def siglip(
    anchors: jax.Array,
    positives: jax.Array,
    *,
    scale: ArrayLike = 10.0,
    bias: ArrayLike = -10.0,
    similarity: Similarity = "cosine",
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Sigmoid loss of pairs: for each pair alone, whether the two belong together.

    .. math:: \ell_i = \operatorname{softplus}\big(-(t\, s(a_i, b_i) + \beta)\big)
        + \sum_{j \ne i} \operatorname{softplus}\big(t\, s(a_i, b_j) + \beta\big)

    Like CLIP's loss without its normalisation over the batch, so that it works in small batches too. The mean is over
    elements, not over pairs, as in the paper; both numbers are parameters to be learned, scale by its logarithm.

    Args:
      anchors: Embeddings a, float `[..., n, d]`.
      positives: What belongs to each, b, float `[..., n, d]`.
      scale: Factor t of similarities.
      bias: Added to them; minus the log of the odds against a pair, at the start.
      similarity: `"cosine"`, or `"dot"` for embeddings as they are.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all are pairs with all.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `anchors` or `positives` are not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> embeddings = jnp.eye(2)
      >>> round(siglip(embeddings, embeddings, scale=1.0, bias=0.0).item(), 4)  # log(1 + 1 / e) + log 2
      1.0064

    Reference:
      Zhai et al., *Sigmoid loss for language image pre-training*, 2023.
    """
    _check.floating(anchors=anchors, positives=positives)
    _check.same_shape(anchors=anchors, positives=positives)
    _check.choice(("cosine", "dot"), similarity=similarity)
    anchors, positives, scale, bias = masked(where, anchors, positives, scale, bias, event=1)
    kept = _coupled.kept_elements({"anchors": anchors}, where, weights)

    def row(rows, shared):
        columns, scale, bias = shared
        rows = rows._replace(embeddings=scale * prepared(similarity, rows.embeddings))
        own, others = _own_and_scores(rows, columns)
        others = jax.nn.softplus(others + bias)  # of what does not exist softplus(-inf) = 0
        return jax.nn.softplus(-(own + bias)) + jnp.sum(others, axis=-1), rows.exist

    def of_set(a, b, kept):
        rows = _coupled.elements(a, kept, axis_name)
        columns = everyone(rows._replace(embeddings=prepared(similarity, b)), axis_name)
        return rows, (columns, scale, bias), len(columns.places)

    return _coupled.reduced(row, of_set, (anchors, positives), axis_name, tile, kept, weights, reduction)


def angular(
    anchors: jax.Array,
    positives: jax.Array,
    *,
    angle: ArrayLike = 45.0,
    similarity: Similarity = "cosine",
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Angular loss: in the triangle of anchor, positive and negative, the angle at the negative shall be small.

    .. math:: \ell_i = \log\Big(1 + \sum_{j \ne i} \exp\big(4 \tan^2\!\alpha\, \langle a_i + b_i, b_j \rangle
        - 2 (1 + \tan^2\!\alpha) \langle a_i, b_i \rangle\big)\Big)

    A batch holds one pair of each label, as for N-pair losses. Angles do not depend on how large distances are, so one
    bound suits all labels. The paper adds it, times 2, to the N-pair loss, `info_nce(similarity="dot",
    temperature=1.0)`; PyTorch Metric Learning's angle is 40.

    Args:
      anchors: Embeddings a, float `[..., n, d]`.
      positives: What belongs to each, b, float `[..., n, d]`.
      angle: Bound alpha, in degrees, in (0, 90).
      similarity: `"cosine"`, or `"dot"` for embeddings as they are.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all are rivals of all.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `anchors` or `positives` are not floating point.
      ValueError: if shapes differ or `angle` is not in (0, 90).

    Example:
      >>> import jax.numpy as jnp
      >>> embeddings = jnp.eye(2)
      >>> round(angular(embeddings, embeddings).item(), 4)  # log(1 + exp(4 * 0 - 2 * 2 * 1))
      0.0181

    Reference:
      Wang et al., *Deep metric learning with angular loss*, 2017.
    """
    _check.floating(anchors=anchors, positives=positives)
    _check.same_shape(anchors=anchors, positives=positives)
    _check.positive(angle=angle)
    _check.within(0.0, 90.0, angle=angle)
    _check.choice(("cosine", "dot"), similarity=similarity)
    anchors, positives, angle = masked(where, anchors, positives, angle, event=1)
    kept = _coupled.kept_elements({"anchors": anchors}, where, weights)
    steepness = jnp.square(jnp.tan(jnp.deg2rad(angle)))

    def row(rows, shared):
        (rows, partners), (columns, steepness) = rows, shared
        a, b = prepared(similarity, rows.embeddings), prepared(similarity, partners)
        near = 2.0 * (1.0 + steepness) * jnp.sum(a * b, axis=-1)
        rivals = _log_sums(scores(rows._replace(embeddings=4.0 * steepness * (a + b)), columns))
        return _surprise(rivals, near, False), rows.exist

    def of_set(a, b, kept):
        rows = _coupled.elements(a, kept, axis_name)
        columns = everyone(rows._replace(embeddings=prepared(similarity, b)), axis_name)
        return (rows, b), (columns, steepness), len(columns.places)

    return _coupled.reduced(row, of_set, (anchors, positives), axis_name, tile, kept, weights, reduction)


def supervised_contrastive(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    temperature: ArrayLike = 0.1,
    aggregation: Literal["out", "in"] = "out",
    similarity: Literal["cosine", "dot", "euclidean"] = "cosine",
    tile: int | None = None,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Supervised contrastive loss: which of the others have the label of an element.

    .. math:: \ell_i = -\frac 1 {|P_i|} \sum_{p \in P_i} \log p_{ip} \;\text{ (out)}, \qquad
        \ell_i = -\log \sum_{p \in P_i} p_{ip} \;\text{ (in)}, \qquad
        p_{ij} = \frac{e^{s_{ij} / \tau}}{\sum_{k \ne i} e^{s_{ik} / \tau}}, \quad P_i = \{p \ne i: y_p = y_i\}

    For embeddings by which labels are found again; the outer sum is the paper's choice and the better one for a common
    encoder, since it asks for every positive. With two views of each element and its index as label it is SimCLR's.
    Elements of which nobody else has the label have no loss and do not count in the mean. The authors' code multiplies
    by the temperature over 0.07; their inner form also adds log of the number of positives.
    Neighbourhood components analysis is `aggregation="in"` by `similarity="euclidean"`, minus the squared distance, at
    `temperature=1.0`.

    Args:
      embeddings: Float `[..., n, d]`.
      labels: What each belongs to, integer `[..., n]`; only equality counts.
      temperature: Divides similarities; positive.
      aggregation: `"out"`: the mean of the surprises of all positives; `"in"`: the surprise of their total share.
      similarity: `"cosine"`, `"dot"`, or `"euclidean"` for minus the squared distance.
      tile: Rows of the matrix held at once; by size if None.
      axis_name: Mesh axis over which the elements are spread, inside `jax.shard_map`: all see all.
      where: Elements to keep, bool `[..., n]`; nobody sees those left out.
      weights: Weight of each element, float `[..., n]`; 0 leaves it out.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[..., n]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `embeddings` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit or `temperature` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> embeddings, labels = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0, 1])
      >>> round(supervised_contrastive(embeddings, labels, temperature=1.0).item(), 4)  # log(1 + exp(0 - 1))
      0.3133

    Reference:
      Khosla et al., *Supervised contrastive learning*, 2020; Goldberger et al., *Neighbourhood components analysis*,
      2004.
    """
    _check.floating(embeddings=embeddings)
    _check.integer(labels=labels)
    _check.units_of({"embeddings": embeddings}, labels=labels)
    _check.positive(temperature=temperature)
    _check.choice(("out", "in"), aggregation=aggregation)
    _check.choice(("cosine", "dot", "euclidean"), similarity=similarity)
    embeddings, temperature = masked(where, embeddings, temperature, event=1)
    kept = _coupled.kept_elements({"embeddings": embeddings}, where, weights)
    euclidean = similarity == "euclidean"

    def row(logits, same, others, _):
        nothing = jnp.zeros((), logits.dtype)
        top, rest = log_partition(jnp.where(same, logits, -jnp.inf))
        count = jnp.sum(same, axis=-1)
        rivals = _log_sums(jnp.where(others, logits, -jnp.inf))
        found = _surprise(rivals, jnp.where(count > 0, top + rest, nothing), False)
        if aggregation == "out":
            below = jnp.sum(jnp.where(same, top[:, None] - logits, nothing), axis=-1)
            found = found + rest + divide(below, count.astype(below.dtype))
        return jnp.where(count > 0, found, nothing), count > 0

    return _coupled.by_labels(
        row,
        "squared_euclidean" if euclidean else similarity,
        embeddings,
        labels,
        (),
        kept,
        weights,
        reduction,
        scale=(-1.0 if euclidean else 1.0) / temperature,
        tile=tile,
        axis_name=axis_name,
    )
