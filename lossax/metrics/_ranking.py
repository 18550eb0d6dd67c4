"""How good an order is: one unit per list `[..., n]`.

Items of one score have no order. Every metric is its mean over all orders of tied items, in closed form, where peers
take the order of the data or a random one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _ranking, _running
from lossax._numerics import divide
from lossax._reduction import reduce
from lossax._types import Reduction


class _Items(NamedTuple):
    """Items by falling scores; those that do not exist are behind, without weight."""

    relevances: jax.Array
    weights: jax.Array
    relevant: jax.Array  # 1 or 0
    place: jax.Array  # 1, 2, ...
    counted: jax.Array  # 1 for the places that are looked at, 0 beyond
    new: jax.Array  # the first of its score
    start: jax.Array  # how many are above that score
    end: jax.Array  # how many are not below it
    known: jax.Array  # a factor for each list, NaN if a relevance is no number


def _items(
    scores: Any, relevances: Any, where: Any, weights: Any, topn: int | None = None, *, nonnegative: bool = False
) -> _Items:
    if topn is not None:
        _check.count(topn=topn)
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights, nonnegative=nonnegative)
    new, start, end, relevances, kept = _ranking.in_order(scores, kept > 0, relevances, kept)
    place = _ranking.ranks(kept)
    counted = jnp.ones_like(kept) if topn is None else (place <= topn).astype(kept.dtype)
    relevant = ((relevances > 0) & (kept > 0)).astype(kept.dtype)
    return _Items(relevances, kept, relevant, place, counted, new, start, end, known)


def _mean_of_ties(items: _Items, values: jax.Array) -> jax.Array:
    """Numbers of places, each the mean over the places of its score."""
    (total,) = _running.group_sums(items.new, items.end, values)
    return total / (items.end - items.start).astype(values.dtype)


def _reduced(items: _Items, values: jax.Array, reduction: Reduction) -> jax.Array:
    return reduce(items.known * values, jnp.any(items.weights != 0, axis=-1), None, reduction)


def _first_relevant(items: _Items) -> jax.Array:
    """The probability that the first relevant item is at each place."""
    (relevant,) = _running.group_sums(items.new, items.end, items.relevant)
    found = jnp.cumsum(items.relevant, axis=-1)
    earlier = jnp.take_along_axis(jnp.concatenate([jnp.zeros_like(found[..., :1]), found], axis=-1), items.start, -1)
    left = items.end.astype(relevant.dtype) - items.place + 1.0  # places of that score from here on
    miss = jnp.maximum(left - relevant, 0.0) / left

    def product(a, b):
        return (a[0] * b[0],)

    _, missed = _running.running(_running.within(product), (items.new, miss), (True, 1.0))
    before = jnp.where(items.new, 1.0, jnp.concatenate([jnp.ones_like(missed[..., :1]), missed[..., :-1]], axis=-1))
    return jnp.where(earlier == 0, before * jnp.minimum(relevant / left, 1.0), 0.0)


def dcg(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    topn: int | None = None,
    gain: _ranking.Gain = "exponential",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Discounted cumulative gain.

    .. math:: \sum_i \frac{w_i\,g(y_i)}{\log_2(1 + r_i)}

    with places :math:`r_i` by falling scores. It grows with the length of the list and its grades: `ndcg` compares.
    Scikit-learn's `dcg_score` has linear gains, and treats ties as this does.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`, nonnegative.
      topn: Places that count; all if None.
      gain: What an item of relevance y is worth: `"exponential"` for 2^y - 1, or `"linear"` for y.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: a factor of its gain; without one it takes no place.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.

    Raises:
      TypeError: if `scores` are not floating point or `topn` is no int.
      ValueError: if shapes differ, a known relevance is negative or `gain` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> dcg(jnp.array([3.0, 2.0, 1.0]), jnp.array([2, 0, 1])).item()  # 3 / 1 + 1 / 2
      3.5

    Reference:
      Jarvelin and Kekalainen, *Cumulated gain-based evaluation of IR techniques*, 2002; McSherry and Najork, *Computing
      information retrieval performance measures efficiently in the presence of tied scores*, 2008.
    """
    _check.choice(("exponential", "linear"), gain=gain)
    items = _items(scores, relevances, where, weights, topn, nonnegative=True)
    return _reduced(items, _discounted(items, _worth(items, gain), topn), reduction)


def _worth(items: _Items, gain: str) -> jax.Array:
    return jnp.where(items.weights > 0, items.weights * _ranking.gains(items.relevances, gain), 0.0)


def _discounted(items: _Items, worth: jax.Array, topn: int | None) -> jax.Array:
    return jnp.sum(worth * _mean_of_ties(items, _ranking.discounts(items.place, topn)), axis=-1)


def ndcg(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    topn: int | None = None,
    gain: _ranking.Gain = "exponential",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Discounted cumulative gain over the largest that any order has.

    .. math:: \mathrm{DCG}(s, y) / \mathrm{DCG}(w\,g(y), y)

    For graded relevance, the metric of web search. A list with nothing relevant has 0; leave it out by
    `where=jnp.any(relevances > 0, axis=-1, keepdims=True)`. Scikit-learn's `ndcg_score` has linear gains; rax'
    `ndcg_metric` has these and the order of the data for ties.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`, nonnegative.
      topn: Places that count; all if None.
      gain: What an item of relevance y is worth: `"exponential"` for 2^y - 1, or `"linear"` for y.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: a factor of its gain; without one it takes no place.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `topn` is no int.
      ValueError: if shapes differ, a known relevance is negative or `gain` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> round(ndcg(jnp.array([3.0, 2.0, 1.0]), jnp.array([2, 0, 1])).item(), 4)  # 3.5 / (3 + 1 / log2(3))
      0.9639
      >>> round(ndcg(jnp.zeros(3), jnp.array([1, 0, 0]), topn=1).item(), 4)  # first in one of three orders
      0.3333

    Reference:
      Jarvelin and Kekalainen, *Cumulated gain-based evaluation of IR techniques*, 2002; Burges et al., *Learning to
      rank using gradient descent*, 2005.
    """
    _check.choice(("exponential", "linear"), gain=gain)
    items = _items(scores, relevances, where, weights, topn, nonnegative=True)
    worth = _worth(items, gain)
    share = divide(_discounted(items, worth, topn), _ranking.ideal(worth, topn))
    return _reduced(items, jnp.minimum(share, 1.0), reduction)


def reciprocal_rank(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    topn: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One over the place of the first relevant item; MRR is its mean over lists.

    .. math:: \max_{i:\, y_i > 0} 1 / r_i

    For questions with one answer. A list with nothing relevant (among the `topn`) has 0.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`; above 0 is relevant.
      topn: Places that are looked at; all if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: above 0 it is there, no more.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `topn` is no int.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> reciprocal_rank(jnp.array([3.0, 2.0, 1.0]), jnp.array([0, 1, 1])).item()
      0.5
      >>> reciprocal_rank(jnp.zeros(2), jnp.array([0, 1])).item()  # (1 + 1/2) / 2
      0.75

    Reference:
      Voorhees, *The TREC-8 question answering track report*, 1999.
    """
    items = _items(scores, relevances, where, weights, topn)
    return _reduced(items, jnp.sum(items.counted * _first_relevant(items) / items.place, axis=-1), reduction)


def hit_rate(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    topn: int,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Whether anything relevant is among the first, 1 or 0.

    .. math:: 1[\min_{i:\, y_i > 0} r_i \le k]

    Recommendation with one item held out, where it is the same as `recall`.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`; above 0 is relevant.
      topn: Places that are looked at.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: above 0 it is there, no more.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `topn` is no int.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> hit_rate(jnp.array([3.0, 2.0, 1.0]), jnp.array([0, 1, 0]), topn=2).item()
      1.0

    Reference:
      Cremonesi, Koren and Turrin, *Performance of recommender algorithms on top-N recommendation tasks*, 2010.
    """
    items = _items(scores, relevances, where, weights, topn)
    return _reduced(items, jnp.minimum(jnp.sum(items.counted * _first_relevant(items), axis=-1), 1.0), reduction)


def precision(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    topn: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Share of the first places that are relevant.

    .. math:: \frac 1 k \sum_i w_i\,1[y_i > 0]\,1[r_i \le k]

    For a page of results. The places of a list shorter than k that stay empty count too, as in trec_eval and
    torchmetrics; rax divides by the length of the list.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`; above 0 is relevant.
      topn: Places k that are looked at; as many as there are items if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: a factor of its relevance; without one it takes no place.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1] without weights.

    Raises:
      TypeError: if `scores` are not floating point or `topn` is no int.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> precision(jnp.array([3.0, 2.0, 1.0]), jnp.array([0, 1, 1]), topn=2).item()
      0.5

    Reference:
      Manning, Raghavan and Schutze, *Introduction to information retrieval*, 2008.
    """
    items = _items(scores, relevances, where, weights, topn)
    found = jnp.sum(items.weights * items.relevant * _mean_of_ties(items, items.counted), axis=-1)
    number = jnp.sum((items.weights > 0).astype(found.dtype), axis=-1) if topn is None else jnp.full_like(found, topn)
    return _reduced(items, divide(found, number), reduction)


def recall(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    topn: int,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Share of what is relevant that is among the first places.

    .. math:: \frac{\sum_i w_i\,1[y_i > 0]\,1[r_i \le k]}{\sum_i w_i\,1[y_i > 0]}

    For the stage that collects candidates, where what is missed is lost. A list with nothing relevant has 0.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`; above 0 is relevant.
      topn: Places k that are looked at.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: a factor of its relevance; without one it takes no place.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `topn` is no int.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> recall(jnp.array([3.0, 2.0, 1.0]), jnp.array([0, 1, 1]), topn=2).item()
      0.5

    Reference:
      Manning, Raghavan and Schutze, *Introduction to information retrieval*, 2008.
    """
    items = _items(scores, relevances, where, weights, topn)
    relevant = items.weights * items.relevant
    found = jnp.sum(relevant * _mean_of_ties(items, items.counted), axis=-1)
    return _reduced(items, jnp.minimum(divide(found, jnp.sum(relevant, axis=-1)), 1.0), reduction)


def average_precision(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    topn: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Mean over the relevant items of the precision down to each; MAP is its mean over lists.

    .. math:: \frac 1 R \sum_{i:\, y_i > 0} \frac{\#\{j: y_j > 0,\ r_j \le r_i\}}{r_i}

    The area under the precision-recall curve, for retrieval with several answers; relevant items beyond `topn` count as
    misses. Scikit-learn's `average_precision_score` is the same without ties, which it takes as one step. The loss is
    `losses.average_precision`.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`; above 0 is relevant.
      topn: Places that are looked at; all if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: above 0 it is there, no more.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `topn` is no int.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> average_precision(jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([1, 0, 0, 1])).item()  # (1 + 2/4) / 2
      0.75

    Reference:
      Manning, Raghavan and Schutze, *Introduction to information retrieval*, 2008; McSherry and Najork, *Computing
      information retrieval performance measures efficiently in the presence of tied scores*, 2008.
    """
    return _average_precision(_items(scores, relevances, where, weights, topn), reduction)


def _average_precision(items: _Items, reduction: Reduction) -> jax.Array:
    (relevant,) = _running.group_sums(items.new, items.end, items.relevant)
    found = jnp.cumsum(items.relevant, axis=-1)
    earlier = jnp.take_along_axis(jnp.concatenate([jnp.zeros_like(found[..., :1]), found], axis=-1), items.start, -1)
    start, size = items.start.astype(found.dtype), (items.end - items.start).astype(found.dtype)
    # Of a relevant item at a place among ties: how many of the others of its score are before it, on average.
    ahead = divide((relevant - 1.0) * (items.place - start - 1.0), size - 1.0)
    each = items.counted * (relevant / size) * (earlier + 1.0 + ahead) / items.place
    return _reduced(items, divide(jnp.sum(each, axis=-1), jnp.sum(items.relevant, axis=-1)), reduction)


def _to_r(items: _Items) -> _Items:
    """Only as many places are looked at as there are relevant items."""
    number = jnp.sum(items.relevant, axis=-1, keepdims=True)
    return items._replace(counted=(items.place <= number).astype(items.place.dtype))


def average_precision_at_r(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Average precision of the first R places, where R is the number of relevant items; MAP@R is its mean over lists.

    .. math:: \frac 1 R \sum_{i:\, y_i > 0,\ r_i \le R} \frac{\#\{j: y_j > 0,\ r_j \le r_i\}}{r_i}

    For embeddings (`retrieval`) and wherever lists differ in how much there is to find: 1 if and only if all that is
    relevant comes first, and, unlike `r_precision`, the more the higher up it is. A list with nothing relevant has 0.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`; above 0 is relevant.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: above 0 it is there, no more.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([4.0, 3.0, 2.0, 1.0])
      >>> average_precision_at_r(scores, jnp.array([1, 0, 0, 1])).item()  # (1 + 0) / 2
      0.5
      >>> average_precision_at_r(scores, jnp.array([0, 1, 0, 1])).item()  # (0 + 1/2) / 2
      0.25

    Reference:
      Musgrave, Belongie and Lim, *A metric learning reality check*, 2020.
    """
    return _average_precision(_to_r(_items(scores, relevances, where, weights)), reduction)


def r_precision(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Share of the first R places that are relevant, where R is the number of relevant items.

    .. math:: \frac 1 R \sum_i 1[y_i > 0]\,1[r_i \le R]

    Precision and recall at the place where they are the same, so that a perfect order has 1 however much there is to
    find. A list with nothing relevant has 0.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`; above 0 is relevant.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`: above 0 it is there, no more.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> r_precision(jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([0, 1, 0, 1])).item()
      0.5

    Reference:
      Manning, Raghavan and Schutze, *Introduction to information retrieval*, 2008.
    """
    items = _to_r(_items(scores, relevances, where, weights))
    found = jnp.sum(items.relevant * _mean_of_ties(items, items.counted), axis=-1)
    return _reduced(items, jnp.minimum(divide(found, jnp.sum(items.relevant, axis=-1)), 1.0), reduction)


def ordered_pair_accuracy(
    scores: jax.Array,
    relevances: jax.Array,
    *,
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Share of the pairs that differ in relevance which are in the right order; ties count a half.

    .. math:: \operatorname*{mean}_{y_i > y_j}\ 1[s_i > s_j] + \tfrac 1 2\,1[s_i = s_j]

    For orders that matter from top to bottom; of two grades it is the area under the ROC curve. A list without pairs
    has 0. Rax' `opa_metric` counts ties as wrong. A pair has the product of the weights of its items.

    Args:
      scores: What orders the items, the largest first, float `[..., n]`.
      relevances: How relevant each item is, real `[..., n]`; only their order matters.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 1].

    Raises:
      TypeError: if `scores` are not floating point or `tile` is no int.
      ValueError: if shapes differ or a known relevance is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> right = ordered_pair_accuracy(jnp.array([2.0, 2.0, 1.0]), jnp.array([2, 1, 0]))
      >>> round(right.item(), 4)  # (1/2 + 1 + 1) / 3
      0.8333

    Reference:
      Fawcett, *An introduction to ROC analysis*, 2006.
    """
    if tile is not None:
        _check.count(tile=tile)
    scores, relevances, kept, known = _ranking.lists(scores, relevances, where, weights)
    shares = divide(kept, jnp.sum(kept, axis=-1, keepdims=True))

    def pairs(first, second):
        apart = first["relevances"] > second["relevances"]
        weight = jnp.where(apart, first["shares"] * second["shares"], 0.0)
        right = 0.5 * (1.0 + jnp.sign(first["scores"] - second["scores"]))
        return weight * right, weight

    items = {"scores": lax.stop_gradient(scores), "relevances": relevances, "shares": shares}
    right, total = _ranking.sum_of_pairs(pairs, items, tile)
    return reduce(known * divide(right, total), jnp.any(kept != 0, axis=-1), None, reduction)
