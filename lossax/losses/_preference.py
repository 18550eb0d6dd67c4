"""Which of two answers is better, by a reward or beside a reference policy: one unit per pair, or per answer (KTO)."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._numerics import positive_part, scaled, sigmoid_pair
from lossax._preferences import (
    bernoulli_kl,
    difference,
    lengths,
    log_sigmoid_gap,
    noisy_surprise,
    power_gap,
    surprise,
)
from lossax._reduction import masked, reduce
from lossax._types import Reduction

_Objective = Literal[
    "logistic",
    "robust",
    "hinge",
    "ipo",
    "exo",
    "discopop",
    "nca",
    "bco",
    "sppo",
    "apo_zero",
    "apo_down",
]
_NOISY = ("logistic", "robust", "exo")
_ABSOLUTE = ("nca", "bco", "sppo", "apo_zero", "apo_down")
_Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]


def bradley_terry(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    margin: ArrayLike = 0.0,
    centering: ArrayLike = 0.0,
    label_smoothing: ArrayLike = 0.0,
    ties: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log-likelihood of preferences by the law of Bradley and Terry: the loss of reward models.

    .. math:: -\log \sigma(r_w - r_l - m) + c\,(r_w + r_l)^2

    For comparisons of two; orders of more are for `plackett_luce`. Rewards are any scores, such as those of a head at
    the last token. Only differences are learned: `centering` (0.01 to 0.001) keeps their level at 0. A `margin` of each
    pair, larger where the preference is clear, is Llama 2's (1, 2/3, 1/3, 0 or 3, 2, 1, 0 for its four grades). Labels
    that are wrong with probability e want `label_smoothing=e`.

    Where the two may be equally good, `ties` tells which are, and the law is that of Rao and Kupper: `margin` is the
    lead from which a difference is felt (the log of their threshold), which may be learned, and a tie costs

    .. math:: -\log \big(e^{2m} - 1\big) - \log \sigma(r_w - r_l - m) - \log \sigma(r_l - r_w - m)

    It is TRL's reward trainer, whose `center_rewards_coefficient` is `centering`.

    Args:
      chosen: Reward of the better answer, r_w, float `[...]`.
      rejected: Reward of the other one, r_l, float `[...]`.
      margin: Lead m that is asked for, `[]` or of each pair `[...]`; positive with `ties`.
      centering: Weight c of the square of the sum, nonnegative.
      label_smoothing: Probability that a label is wrong, in [0, 1/2).
      ties: Pairs without a preference, bool `[...]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if rewards are not floating point or `ties` not bool.
      ValueError: if shapes differ or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = bradley_terry(jnp.log(jnp.array([3.0, 1.0])), jnp.zeros(2), reduction="none")
      >>> [round(x, 4) for x in loss.tolist()]  # log 4/3, log 2
      [0.2877, 0.6931]

    Reference:
      Bradley and Terry, *Rank analysis of incomplete block designs*, 1952; Rao and Kupper, *Ties in paired-comparison
      experiments*, 1967; Touvron et al., *Llama 2: open foundation and fine-tuned chat models*, 2023 (margin);
      Eisenstein et al., *Helping or herding? Reward model ensembles mitigate but do not eliminate reward hacking*, 2023
      (centring).
    """
    _check.floating(chosen=chosen, rejected=rejected)
    _check.same_shape(chosen=chosen, rejected=rejected)
    _check.nonnegative(centering=centering)
    _check.flip(label_smoothing=label_smoothing)
    uncentred = _hyper.is_zero(centering)
    chosen, rejected, margin, centering, flip = masked(where, chosen, rejected, margin, centering, label_smoothing)
    zero = jnp.zeros((), chosen.dtype)
    loss = noisy_surprise(difference(chosen, rejected, margin, zero), flip)
    if ties is not None:
        _check.boolean(ties=ties)
        _check.same_shape(chosen=chosen, ties=ties)
        (even,) = masked(where, ties)
        felt = jnp.where(even, margin, 1)
        felt = _check.domain("positive where there are ties", lambda m: m > 0, margin=felt)
        lead = difference(chosen, rejected, zero, zero)
        tie = surprise(felt - lead) + surprise(felt + lead) - jnp.log(-jnp.expm1(-2.0 * felt))
        loss = jnp.where(even, tie, loss)
    if not uncentred:
        loss = loss + scaled(centering, jnp.square(chosen + rejected))
    return reduce(loss, where, weights, reduction)


def _gap(divergence: str, alpha: jax.Array, a: jax.Array, b: jax.Array, gap: jax.Array) -> jax.Array:
    """Score of the log-ratio a less that of b, where `gap` is a - b with all its digits."""
    if divergence == "reverse_kl":
        return gap
    if divergence == "jensen_shannon":
        return log_sigmoid_gap(a, b, gap)
    return power_gap(a, b, gap, jnp.ones_like(alpha) if divergence == "forward_kl" else alpha)


def dpo(
    chosen: jax.Array,
    rejected: jax.Array,
    reference_chosen: jax.Array,
    reference_rejected: jax.Array,
    *,
    beta: ArrayLike = 0.1,
    objective: _Objective = "logistic",
    divergence: _Divergence = "reverse_kl",
    margin: ArrayLike = 0.0,
    label_smoothing: ArrayLike | None = None,
    alpha: ArrayLike = 0.5,
    tau: ArrayLike = 0.05,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Direct preference optimisation and its family: a policy learns from pairs of answers, kept near a reference.

    .. math:: -\log \sigma(h), \qquad h = \beta\,(s_w - s_l) - m, \qquad
        s = f'\Big(\frac{\pi(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)}\Big)

    Scores s are log-ratios, :math:`\log \pi - \log \pi_{\mathrm{ref}}`, unless another divergence keeps the policy near
    the reference. Begin with the logistic objective and a beta of 0.01 to 0.5; it drives even certain pairs further
    apart, which `"ipo"` does not. What each `objective` is of h, of a = beta s_w and of b = beta s_l:

    * `"logistic"`: :math:`-(1 - \epsilon) \log \sigma(h) - \epsilon \log \sigma(-h)`, conservative DPO if labels are
      wrong with probability :math:`\epsilon`, the `label_smoothing`.
    * `"robust"`: :math:`-\frac{1 - \epsilon}{1 - 2\epsilon} \log \sigma(h) + \frac{\epsilon}{1 - 2\epsilon} \log
      \sigma(-h)`, the clean loss on average; unbounded below, as the only one.
    * `"hinge"`: :math:`(1 - h)_+`, as in SLiC and RSO. `"ipo"`: :math:`(h / \beta - 1 / (2 \beta))^2`.
    * `"exo"`: :math:`\mathrm{KL}\big(\sigma(h)\,\|\,1 - \epsilon\big)`, of two Bernoulli distributions.
    * `"discopop"`: :math:`(1 - g)\,\ell(h) + g\,e^{-h}` of the logistic :math:`\ell` and :math:`g = \sigma(h / \tau)`.
    * `"nca"`: :math:`-\log \sigma(a) - \frac12 \log \sigma(-a) - \frac12 \log \sigma(-b)`, and `"bco"`: :math:`-\log
      \sigma(a) - \log \sigma(-b)`; both hold the likelihood of the chosen up. For answers that come one by one see
      `kto` and `objectives.reward_shift`.
    * `"sppo"`: :math:`(s_w - \frac1{2 \beta})^2 + (s_l + \frac1{2 \beta})^2`.
    * `"apo_zero"`: :math:`\sigma(-a) + \sigma(b)`, where the chosen are better than what the policy says by itself;
      `"apo_down"`: :math:`\sigma(a) + \sigma(-h)`, where they are worse.

    Log-probabilities are sums over tokens (`activations.sequence_log_probs`). With lengths, log-ratios are means:
    length-normalised DPO, and IPO as its authors ran it; take them, and a larger beta, where the preference is about a
    rate and not about a total. Length-regularised DPO is
    `margin=alpha * (rejected_lengths - chosen_lengths)`; length-desensitised DPO weighs tokens in `sequence_log_probs`.
    A `margin` from rewards is an offset. beta-DPO has its beta from `objectives.dynamic_beta`, or one for each pair.
    For TR-DPO the reference follows outside of the gradient, `reference = optax.incremental_update(params, reference,
    0.6)` every 512 steps, or by a small share at each. RPO adds `-eta * chosen.mean()` (or that of the means over
    tokens), MPO other terms likewise; WPO's factors are `weights`. More than two answers in order are for
    `plackett_luce(beta * (log_probs - reference_log_probs), ranks)`. AOT sorts the batch: `aot`. Without reference:
    `simpo`, `cpo`, `orpo`.

    TRL's names are `sigmoid` (its label smoothing is gone), `exo_pair`, `nca_pair`, `bco_pair`, `sppo_hard`;
    `sigmoid_norm` is logistic with lengths, and its `ipo` always has them. Its `alpha_divergence` has
    :math:`t^{\alpha - 1}` for :math:`t^{-\alpha}` here and in the paper, so its coefficient is `1 - alpha`, and it
    clamps exponents at 80. Its scores are not 0 at the reference, which matters for `"nca"`, `"bco"` and `"sppo"` only,
    and its APO takes log-ratios whatever the divergence. Liger has most of these under TRL's names, and no IPO.

    Args:
      chosen: Log-probability of the better answer, float `[...]`.
      rejected: Log-probability of the other one, float `[...]`.
      reference_chosen: Log-probability of the better answer by the reference policy, float `[...]`.
      reference_rejected: Log-probability of the other one by it, float `[...]`.
      beta: How strongly the policy is held at the reference, positive, `[]` or of each pair `[...]`.
      objective: What is made of the scores, see above.
      divergence: `"reverse_kl"` for s = log t of the ratio t, `"forward_kl"` for 1 - 1 / t, `"jensen_shannon"` for
        log(2 t / (1 + t)), or `"alpha"` for :math:`(1 - t^{-\alpha}) / \alpha`.
      margin: Lead m that is asked for, in units of beta s, `[]` or `[...]`; not for objectives without h.
      label_smoothing: Probability that a label is wrong, in [0, 1/2), for `"logistic"`, `"robust"` and, positive,
        `"exo"`. None is 0, and for `"exo"` 0.001.
      alpha: Of the divergence; between 0, the reverse KL, and 1, the forward one.
      tau: Width of the transition of `"discopop"`, positive.
      chosen_lengths: Number of tokens of the better answer, real `[...]`, positive; None for sums.
      rejected_lengths: Number of tokens of the other one, real `[...]`, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative unless robust.

    Raises:
      TypeError: if log-probabilities are not floating point.
      ValueError: if shapes differ, a choice is unknown, a hyperparameter is outside its range or has no meaning for the
        objective, or one of the lengths is missing.

    Example:
      >>> import jax.numpy as jnp
      >>> chosen, rejected = jnp.array([-5.0]), jnp.array([-9.0])
      >>> loss = dpo(chosen, rejected, jnp.array([-6.0]), jnp.array([-8.0]), beta=0.5)
      >>> round(loss.item(), 4)  # -log sigmoid((1 + 1) / 2)
      0.3133
      >>> dpo(chosen, rejected, jnp.array([-6.0]), jnp.array([-8.0]), beta=0.5, objective="ipo").item()  # (2 - 1)^2
      1.0

    Reference:
      Rafailov et al., *Direct preference optimization: your language model is secretly a reward model*, 2023; Mitchell,
      *A note on DPO with noisy preferences and relationship to IPO*, 2023; Chowdhury et al., *Provably robust DPO*,
      2024; Azar et al., *A general theoretical paradigm to understand learning from human preferences*, 2023; Zhao et
      al., *SLiC-HF: sequence likelihood calibration with human feedback*, 2023; Ji et al., *Towards efficient exact
      optimization of language model alignment*, 2024; Lu et al., *Discovering preference optimization algorithms with
      and for large language models*, 2024; Chen et al., *Noise contrastive alignment of language models with explicit
      rewards*, 2024; Jung et al., *Binary classifier optimization for large language model alignment*, 2024; Wu et al.,
      *Self-play preference optimization for language model alignment*, 2024; D'Oosterlinck et al., *Anchored preference
      optimization and contrastive revisions*, 2024; Wang et al., *Beyond reverse KL*, 2023 (divergences); Park et al.,
      *Disentangling length from quality in direct preference optimization*, 2024; Gorbatovski et al., *Learn your
      reference model for real good alignment*, 2024; Liu et al., *Provably mitigating overoptimization in RLHF*, 2024.
    """
    names = {"chosen": chosen, "rejected": rejected}
    references = {"reference_chosen": reference_chosen, "reference_rejected": reference_rejected}
    _check.floating(**names, **references)
    _check.same_shape(**names, **references)
    _check.positive(beta=beta, tau=tau)
    _check.choice(get_args(_Objective), objective=objective)
    _check.choice(get_args(_Divergence), divergence=divergence)
    flip = (1e-3 if objective == "exo" else 0.0) if label_smoothing is None else label_smoothing
    _check.flip(label_smoothing=flip)
    if objective == "exo":
        _check.positive(label_smoothing=flip)
    elif objective not in _NOISY and not _hyper.is_zero(flip):
        raise ValueError(f"label_smoothing is for {list(_NOISY)}, got objective {objective!r}")
    if objective in _ABSOLUTE[:-1] and not _hyper.is_zero(margin):
        raise ValueError(f"margin must be 0 for objective {objective!r}, which does not compare the two answers")
    arrays = masked(where, chosen, rejected, reference_chosen, reference_rejected)
    _, beta, margin, flip, alpha, tau = masked(None, arrays[0], beta, margin, flip, alpha, tau)
    chosen, rejected, reference_chosen, reference_rejected = arrays
    zero = jnp.zeros((), chosen.dtype)
    good, bad = (difference(*pair, zero, zero) for pair in ((chosen, reference_chosen), (rejected, reference_rejected)))
    gap = difference(chosen, reference_chosen, rejected, reference_rejected)
    if chosen_lengths is not None or rejected_lengths is not None:
        tokens = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
        good, bad = (x / n for x, n in zip((good, bad), lengths(where, chosen, **tokens), strict=True))
        gap = good - bad

    def score(x: jax.Array) -> jax.Array:
        return _gap(divergence, alpha, x, zero, x)

    lead = _gap(divergence, alpha, good, bad, gap)
    h = beta * lead - margin
    if objective == "logistic":
        loss = noisy_surprise(h, flip)
    elif objective == "robust":
        loss = noisy_surprise(h, -flip / (1.0 - 2.0 * flip))
    elif objective == "hinge":
        loss = positive_part(1.0 - h)
    elif objective == "ipo":
        loss = jnp.square(lead - (0.5 + margin) / beta)
    elif objective == "exo":
        loss = bernoulli_kl(h, flip)
    elif objective == "discopop":
        loss = sigmoid_pair(h / tau)[1] * surprise(h) + jnp.exp(-h - surprise(h / tau))
    elif objective == "nca":
        a = beta * score(good)
        loss = surprise(a) + 0.5 * (surprise(-a) + surprise(-beta * score(bad)))
    elif objective == "bco":
        loss = surprise(beta * score(good)) + surprise(-beta * score(bad))
    elif objective == "sppo":
        loss = jnp.square(score(good) - 0.5 / beta) + jnp.square(score(bad) + 0.5 / beta)
    elif objective == "apo_zero":
        loss = sigmoid_pair(beta * score(good))[1] + sigmoid_pair(beta * score(bad))[0]
    else:
        loss = sigmoid_pair(beta * score(good))[0] + sigmoid_pair(h)[1]
    return reduce(loss, where, weights, reduction)


def kto(
    log_probs: jax.Array,
    reference_log_probs: jax.Array,
    desirable: jax.Array,
    *,
    beta: ArrayLike = 0.1,
    reference_point: ArrayLike = 0.0,
    desirable_weight: ArrayLike = 1.0,
    undesirable_weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Kahneman-Tversky optimisation: a policy learns from single answers that were liked or not.

    .. math:: \lambda_D\,\sigma\big(\beta\,(z_0 - r)\big) \ \text{or}\ \lambda_U\,\sigma\big(\beta\,(r - z_0)\big),
        \qquad r = \log \frac{\pi(y \mid x)}{\pi_{\mathrm{ref}}(y \mid x)}

    Where there are no pairs, and where one side is rare: weights are chosen so that the ratio of
    :math:`\lambda_D` times the desirable to :math:`\lambda_U` times the undesirable is 1 to 4/3. An answer that is
    already far on its side has no gradient, so noise is forgotten, and so are hard examples.

    The reference point z_0 is what `targets.kl_reference_point` makes of answers to other prompts, over all devices;
    it has no gradient. No answer is compared with another one, so batches may be of one side or of a single answer.
    TRL's `KTOTrainer` is this, and with `loss_type="apo_zero_unpaired"` that at `reference_point=0`; Liger has no
    weights. Its cousin BCO is `sigmoid_binary_cross_entropy(beta * (log_probs - reference_log_probs) - shift,
    desirable)`, with a shift from `objectives.reward_shift`.

    Args:
      log_probs: Log-probability of the answer, float `[...]`.
      reference_log_probs: Log-probability of it by the reference policy, float `[...]`.
      desirable: Whether it was liked, bool `[...]`.
      beta: How strongly the policy is held at the reference, positive.
      reference_point: z_0, nonnegative, `[]` or `[...]`; 0 in APO.
      desirable_weight: :math:`\lambda_D`, nonnegative.
      undesirable_weight: :math:`\lambda_U`, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if log-probabilities are not floating point or `desirable` is not bool.
      ValueError: if shapes differ or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> log_probs, reference = jnp.array([-2.0, -2.0]), jnp.array([-2.0, -3.0])
      >>> loss = kto(log_probs, reference, jnp.array([True, False]), beta=1.0, reference_point=1.0, reduction="none")
      >>> [round(x, 4) for x in loss.tolist()]  # sigmoid(1), sigmoid(0)
      [0.7311, 0.5]

    Reference:
      Ethayarajh et al., *KTO: model alignment as prospect theoretic optimization*, 2024.
    """
    _check.floating(log_probs=log_probs, reference_log_probs=reference_log_probs)
    _check.boolean(desirable=desirable)
    _check.same_shape(log_probs=log_probs, reference_log_probs=reference_log_probs, desirable=desirable)
    _check.positive(beta=beta)
    _check.nonnegative(
        reference_point=reference_point, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
    )
    log_probs, reference_log_probs, point = masked(where, log_probs, reference_log_probs, reference_point)
    _, beta, liked, disliked = masked(None, log_probs, beta, desirable_weight, undesirable_weight)
    (good,) = masked(where, desirable)
    lead = beta * difference(log_probs, reference_log_probs, lax.stop_gradient(point), jnp.zeros((), log_probs.dtype))
    wrong = sigmoid_pair(jnp.where(good, -lead, lead))[0]
    return reduce(jnp.where(good, liked, disliked) * wrong, where, weights, reduction)
