"""Similarities of pairs that are to be in the order of what is known of them; one unit per set of pairs `[..., n]`."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _double, _exponents, _numerics, _ranking, _running
from lossax._excess import finite
from lossax._exponents import Pair
from lossax._numerics import divide
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _masses(x: jax.Array, low: jax.Array, kept: jax.Array) -> Pair:
    """Weights times exp(x + low), as numbers of any size."""
    mantissa, exponent = _exponents.exp(x, low)
    return _exponents.where(kept > 0, _exponents.normal((kept * mantissa, exponent)))


def _before(masses: Pair, place: jax.Array) -> Pair:
    """The sum of those before a place, for each element."""
    nothings = (0.0, _exponents.lowest(masses[0].dtype))
    sums = _running.running(lambda a, b: _exponents.add((a[0], a[1]), (b[0], b[1])), masses, nothings)
    found = []
    for array, nothing in zip(sums, nothings, strict=True):
        padded = jnp.concatenate([jnp.full_like(array[..., :1], nothing), array], axis=-1)
        found.append(jnp.take_along_axis(padded, place, axis=-1))
    return found[0], found[1]


def _behind(masses: Pair, place: jax.Array) -> Pair:
    """The sum of those from a place on."""
    return _before((jnp.flip(masses[0], axis=-1), jnp.flip(masses[1], axis=-1)), place.shape[-1] - place)


def _sums(x: jax.Array, low: jax.Array, kept: jax.Array, start: jax.Array) -> tuple[Pair, Pair, Pair]:
    """For each element exp(-x) of those before its group, the sum of its pairs with them, and 1 + all."""
    above = _before(_masses(-x, -low, kept), start)
    pairs = _exponents.times(_masses(x, low, kept), above)
    total = _exponents.total(pairs)
    return above, pairs, total


def _and_one(total: Pair) -> Pair:
    return _exponents.add(total, (jnp.ones_like(total[0]), jnp.zeros_like(total[1])))


@jax.custom_jvp
def _disorder(x: jax.Array, low: jax.Array, kept: jax.Array, groups: tuple[jax.Array, jax.Array]) -> jax.Array:
    """log(1 + sum of exp(x_j - x_i)) over all j behind the group of i, by the weights of both.

    Args:
      x: Exponents x + low, float `[..., n]`.
      low: What was rounded off from x.
      kept: Weight of each element, float `[..., n]`; what has none does not exist.
      groups: First place of the group of each element and the one behind its last, integer `[..., n]`.

    Returns:
      Float `[...]`.
    """
    *_, total = _sums(x, low, kept, groups[0])
    few = _exponents.number((total[0], jnp.minimum(total[1], 8.0)))
    return jnp.where(total[1] < 8.0, jnp.log1p(few), _exponents.log(_and_one(total)))


def _disorder_jvp(primals, tangents):
    x, low, kept, (start, end) = primals
    above, pairs, total = _sums(x, low, kept, start)
    # The share of an element's pairs with those before, and of these what is another one's: nothing far from 1 is left.
    whole = _and_one(total)
    ratio = pairs[0] / whole[0][..., None], pairs[1] - whole[1][..., None]
    share = jnp.minimum(_exponents.number(ratio), 1.0)
    some = share > 0
    part = _exponents.normal((share, jnp.where(some, -above[1], 0)))
    part = _exponents.where(some, (divide(part[0], above[0]), part[1]))
    others = _exponents.number(_exponents.times(_masses(-x, -low, kept), _behind(part, end)))
    value = _disorder(*primals)
    slopes = (share - others, tangents[0]), (divide(share + others, kept), tangents[2])
    return value, _numerics.tangent(value, *slopes, axis=(-1,))


_disorder.defjvp(_disorder_jvp, symbolic_zeros=True)


@jax.jit  # one program, not a hundred calls outside of jit
def _of_sets(scores: jax.Array, targets: jax.Array, kept: jax.Array, scale: jax.Array) -> jax.Array:
    x, low = _double.multiply(scores, jnp.broadcast_to(scale, scores.shape))
    _, start, end, x, low, kept = _ranking.in_order(targets, kept > 0, finite(x), low, kept)
    return _disorder(x, lax.stop_gradient(low), kept, (start, end))


def cosent(
    scores: jax.Array,
    targets: jax.Array,
    *,
    scale: ArrayLike = 20.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Puts pairs of texts in the order of how similar they are known to be: CoSENT, and AnglE.

    .. math:: \log\Big(1 + \sum_{y_i > y_j} e^{\lambda (s_j - s_i)}\Big)

    For embeddings that are trained on graded similarities (semantic textual similarity), whose cosines need not become
    the grades: only their order is asked for, which is what rank correlation measures. It is about the worst of the
    inversions in a set, `pairwise_logistic` about all of them. Pairs of one grade are not compared, so a set needs at
    least two grades; batches are to be large. Scores are similarities, an element is a pair of embeddings:

    * CoSENT: `cosent(activations.cosine_similarity(x, y), targets)`
    * AnglE's angle objective: `cosent(activations.angle_similarity(x, y), targets, scale=1.0)`. The whole of AnglE
      is the sum of the two and of `info_nce(x, y, temperature=0.05, symmetric=True, within=True)` for the pairs that
      belong together. (Sentence Transformers' `AnglELoss` is the angle alone, with a scale of 20.)

    Exact without any two elements being looked at: one sort, O(n log n) in time and O(n) in memory, where the peers
    hold an n x n matrix and take 1e12 off what is not to be in it. An element of weight 2 is there twice.

    Args:
      scores: Similarity s of each pair of embeddings, float `[..., n]`; -inf is a pair that does not exist.
      targets: How similar they are, y, real `[..., n]`; only their order matters.
      scale: Inverse temperature lambda; positive.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `scores` are not floating point.
      ValueError: if shapes differ, a known target is NaN or `scale` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = cosent(jnp.log(jnp.array([3.0, 1.0, 2.0])), jnp.array([5.0, 1.0, 1.0]), scale=1.0)
      >>> round(loss.item(), 4)  # log(1 + 1/3 + 2/3)
      0.6931

    Reference:
      Su, *CoSENT: a more efficient sentence vector scheme than Sentence-BERT*, 2022; Li and Li, *AnglE-optimized text
      embeddings*, 2023.
    """
    _check.positive(scale=scale)
    scores, targets, kept, known = _ranking.lists(scores, targets, where, weights, name="targets")
    _, scale = masked(None, scores, scale)
    exists = ~jnp.isneginf(scores)
    scores, kept = (jnp.where(exists, x, 0) for x in (scores, kept))
    values = _of_sets(scores, targets, kept, scale)
    return reduce(known * values, jnp.any(kept != 0, axis=-1), None, reduction)
