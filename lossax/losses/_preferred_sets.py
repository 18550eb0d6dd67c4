"""Preferences of more than a pair: of the distributions of a batch (AOT), of the answers to a prompt (RRHF)."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _ranking, _sampled
from lossax._numerics import divide, positive_part, scaled
from lossax._preferences import difference, lengths, noisy_surprise
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import over_sets, whole
from lossax._types import Reduction


def aot(
    chosen: jax.Array,
    rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: ArrayLike = 0.1,
    paired: bool = True,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Alignment by optimal transport: the whole distribution of rewards above the other one, not each pair.

    .. math:: \frac1n \sum_i -\log \sigma\big(\beta\,(u_{(i)} - v_{(i)})\big), \qquad
        u = \log \frac{\pi(y_w)}{\pi(y_l)}, \quad v = \log \frac{\pi_{\mathrm{ref}}(y_w)}{\pi_{\mathrm{ref}}(y_l)}

    both in ascending order: first-order stochastic dominance over the batch, at every quantile. The policy's preference
    for the better answers is to dominate the reference's; or, not `paired`, the log-ratios of better answers those of
    worse ones, :math:`u = \log \pi(y_w) - \log \pi_{\mathrm{ref}}(y_w)` and v likewise of :math:`y_l`, which need not
    be answers to the same prompts. It says the more the larger the batch, which is all of a set here; `dpo` compares
    pair by pair. One sort of each side.

    TRL's `aot` and `aot_unpaired`, with their `label_smoothing`.

    Args:
      chosen: Log-probability of the better answers, float `[..., n]`.
      rejected: Log-probability of the other ones, float `[..., n]`.
      reference_chosen: Log-probability of the better answers by the reference policy, float `[..., n]`.
      reference_rejected: Log-probability of the other ones by it, float `[..., n]`.
      beta: How strongly the policy is held at the reference, positive.
      paired: Whether the two answers are to one prompt.
      label_smoothing: Probability that a label is wrong, in [0, 1/2).
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if log-probabilities are not floating point.
      ValueError: if shapes differ or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> u, zero = jnp.array([1.0, 0.0]), jnp.zeros(2)
      >>> loss = aot(u, zero, jnp.array([0.0, 1.0]), zero)  # the same two, in another order
      >>> round(loss.item(), 4)  # log 2
      0.6931

    Reference:
      Melnyk et al., *Distributional preference alignment of LLMs via optimal transport*, 2024.
    """
    names = {"chosen": chosen, "rejected": rejected}
    references = {"reference_chosen": reference_chosen, "reference_rejected": reference_rejected}
    _check.floating(**names, **references)
    _check.same_shape(**names, **references)
    _check.units_of({"chosen": chosen})
    _check.positive(beta=beta)
    _check.flip(label_smoothing=label_smoothing)
    arrays, where, weights = whole(((chosen, rejected, reference_chosen, reference_rejected), where, weights))
    chosen, rejected, reference_chosen, reference_rejected = masked(where, *arrays)
    _, beta, flip = masked(None, chosen, beta, label_smoothing)
    kept = unit_weights(chosen.shape, where, weights, dtype=chosen.dtype)
    counted = jnp.any(kept != 0, axis=-1)
    if not chosen.shape[-1]:
        return reduce(jnp.zeros(counted.shape, chosen.dtype), counted, None, reduction)
    zero = jnp.zeros((), chosen.dtype)
    sides = ((chosen, rejected), (reference_chosen, reference_rejected))
    if not paired:
        sides = ((chosen, reference_chosen), (rejected, reference_rejected))
    u, v = (jnp.where(kept > 0, difference(*pair, zero, zero), zero) for pair in sides)

    def of_set(u, v, kept):
        u, v, share = _sampled.plan(u, v, kept, kept)
        return jnp.sum(scaled(share, noisy_surprise(beta * (u - v), flip)))

    return reduce(over_sets(of_set, kept.ndim - 1)(u, v, kept), counted, None, reduction)


def rrhf(
    log_probs: jax.Array,
    rewards: jax.Array,
    tokens: jax.Array,
    *,
    nll_weight: ArrayLike = 1.0,
    tile: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Rank responses to align with human feedback: likelier answers for higher rewards, and the best one by heart.

    .. math:: \sum_{r_i < r_j} (p_i - p_j)_+ - \lambda \log \pi(y_{j^*} \mid x), \qquad
        p = \frac{\log \pi(y \mid x)}{|y|}, \quad j^* = \operatorname{argmax}_j r_j

    For prompts with several answers that have rewards. There is no margin and no scale; where there are only two
    answers see `simpo` or `cpo`, and for a likelihood of the whole order `plackett_luce(log_probs / tokens, ranks)`,
    which with the likelihood of the best one added is PRO.

    The log-likelihood of the best answer is a sum over its tokens, as in the paper; the official code divides it by the
    padded length. Answers that are best together share it.

    Args:
      log_probs: Log-probability of each answer to a prompt, a sum over its tokens, float `[..., n]`.
      rewards: How good each answer is, real `[..., n]`; only their order matters.
      tokens: Number of tokens of each answer, real `[..., n]`, positive.
      nll_weight: Weight :math:`\lambda` of the negative log-likelihood of the best answer, nonnegative.
      tile: Rows of the matrix held at once; by size if None.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `log_probs` are not floating point or `tile` is no int.
      ValueError: if shapes differ, a known reward is NaN, a known number of tokens is not positive or `nll_weight` is
        negative.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = rrhf(jnp.array([-4.0, -2.0]), jnp.array([1.0, 0.0]), jnp.array([2, 2]))
      >>> loss.item()  # (-1 + 2) + 4
      5.0

    Reference:
      Yuan et al., *RRHF: rank responses to align language models with human feedback without tears*, 2023.
    """
    _check.floating(log_probs=log_probs)
    _check.real(rewards=rewards)
    _check.same_shape(log_probs=log_probs, rewards=rewards, tokens=tokens)
    _check.units_of({"log_probs": log_probs})
    _check.nonnegative(nll_weight=nll_weight)
    if tile is not None:
        _check.count(tile=tile)
    log_probs, rewards, tokens, where, weights = whole((log_probs, rewards, tokens, where, weights))
    log_probs, nll = masked(where, log_probs, nll_weight)
    (rewards,) = masked(where, rewards)
    rewards = _check.domain("numbers", lambda r: r == r, rewards=lax.stop_gradient(rewards.astype(log_probs.dtype)))
    missing = jnp.any(rewards != rewards, axis=-1)
    (n,) = lengths(where, log_probs, tokens=tokens)
    kept = unit_weights(log_probs.shape, where, weights, dtype=log_probs.dtype)

    def pairs(first, second):
        wrong = positive_part(second["scores"] - first["scores"])
        ordered = first["rewards"] > second["rewards"]
        return jnp.where(ordered, wrong, 0) * (first["kept"] * second["kept"])

    ranking = _ranking.sum_of_pairs(pairs, {"scores": log_probs / n, "rewards": rewards, "kept": kept}, tile)
    top = jnp.max(jnp.where(kept > 0, rewards, -jnp.inf), axis=-1, keepdims=True, initial=-jnp.inf)
    best = jnp.where(rewards == top, kept, 0)
    best = divide(best, jnp.sum(best, axis=-1, keepdims=True))
    loss = ranking - nll * jnp.sum(scaled(best, log_probs), axis=-1)
    loss = jnp.where(missing, jnp.nan, loss)
    return reduce(loss, jnp.any(kept != 0, axis=-1), None, reduction)
