"""Tokens of a language model and of its router, beside their cross-entropy: one unit per row."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import label_surprise, log_partition, rivals, softmax_pair
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _best(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The class with the largest logit, the first of equal ones, and its logit."""
    best = jnp.argmax(logits, axis=-1)
    return best, jnp.take_along_axis(logits, best[..., None], axis=-1, mode="clip")[..., 0]


def _denials(logits: jax.Array) -> jax.Array:
    """-log(1 - p) of each class, also where p is so close to 1 that what is left has vanished."""
    p, _ = softmax_pair(logits)
    best, own = _best(logits)
    top, remainder = log_partition(rivals(logits, best))
    lead = (own - top) - remainder
    sure = (lead + label_surprise(logits, best))[..., None]
    likely = p > 0.5  # the best alone
    return jnp.where(likely, sure, -jnp.log1p(-jnp.where(likely, 0, p)))


def unlikelihood(
    logits: jax.Array,
    negatives: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Pushes the probability of what should not be said down: against repetition, contradiction, known mistakes.

    .. math:: -\sum_j n_j \log(1 - p_j), \qquad p = \mathrm{softmax}(z)

    Added to the cross-entropy of a language model, where its text repeats itself. At the level of tokens the negatives
    are those of the context, `targets.context_negatives`, with weight 1 as in the paper; at the level of sequences they
    are the tokens of n-grams that a generated text has repeated, `jax.nn.one_hot(tokens, classes)` with `where` at the
    repeats. A negative that the model is sure of costs its lead, with a slope of 1, however sure it is; the code of
    the paper floors 1 - p at 1e-5, below which nothing is learned.

    Args:
      logits: Unnormalised log-probabilities, float `[..., classes]`; -inf is a class that does not exist.
      negatives: Which classes should not come, bool or as weights, real `[..., classes]`, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if shapes differ or a known negative is below 0.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.75, 0.125, 0.125]]))
      >>> loss = unlikelihood(logits, jnp.array([[True, False, False]]))
      >>> round(loss.item(), 4)  # -log(1 - 3/4)
      1.3863

    Reference:
      Welleck et al., *Neural text generation with unlikelihood training*, 2020.
    """
    _check.floating(logits=logits)
    _check.real(negatives=negatives)
    _check.same_shape(logits=logits, negatives=negatives)
    _check.units_of({"logits": logits})
    logits, negatives = masked(where, logits, negatives, event=1)
    negatives = _check.domain("nonnegative", lambda n: n >= 0, negatives=negatives)
    costs = _denials(logits)
    costs = jnp.where((negatives == 0) & jnp.isinf(costs), 0, costs)
    return reduce(jnp.sum(negatives * costs, axis=-1), where, weights, reduction)


def router_z(
    logits: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Squared log partition of the logits of a router: keeps them small, so that 16 bits will do.

    .. math:: \Big(\log \sum_j e^{z_j}\Big)^2

    Added to the loss of a mixture of experts, with 1e-3 as in the paper, beside `load_balance`. For the logits of a
    classifier or language model it is the argument `z_loss` of the cross-entropies. It is least, 0, where the sum is 1,
    and draws logits that are all alike to -log of their number.

    Args:
      logits: Logits of the router, float `[..., experts]`; -inf is an expert that does not exist.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, 0 for a row without experts.

    Raises:
      TypeError: if `logits` are not floating point.
      ValueError: if `logits` have no axis of experts.

    Example:
      >>> import jax.numpy as jnp
      >>> round(router_z(jnp.zeros((1, 4))).item(), 4)  # (log 4)^2
      1.9218

    Reference:
      Zoph et al., *ST-MoE: designing stable and transferable sparse expert models*, 2022.
    """
    _check.floating(logits=logits)
    _check.units_of({"logits": logits})
    (logits,) = masked(where, logits, event=1)
    best, top = _best(logits)
    exists = ~jnp.isneginf(top)
    # The best is left out of the sum and added again: next to 1 the others would lose their digits.
    total = jnp.where(exists, top, 0) + label_surprise(logits, best)
    return reduce(jnp.square(jnp.where(exists, total, 0)), where, weights, reduction)
