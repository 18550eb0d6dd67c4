"""Preferences without a reference policy: one unit per pair of answers."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._numerics import positive_part, scaled
from lossax._preferences import difference, lengths, noisy_surprise, odds_surprise, power_gap
from lossax._reduction import masked, reduce
from lossax._types import Reduction

_Objective = Literal["logistic", "hinge", "ipo"]


def _means(chosen: jax.Array, rejected: jax.Array, where: Any, **tokens: Any) -> tuple[jax.Array, jax.Array]:
    """Mean log-probabilities over tokens, after checks and the mask."""
    _check.floating(chosen=chosen, rejected=rejected)
    _check.same_shape(chosen=chosen, rejected=rejected, **tokens)
    chosen, rejected = masked(where, chosen, rejected)
    of_chosen, of_rejected = lengths(where, chosen, **tokens)
    return chosen / of_chosen, rejected / of_rejected


def simpo(
    chosen: jax.Array,
    rejected: jax.Array,
    chosen_lengths: jax.Array,
    rejected_lengths: jax.Array,
    *,
    beta: ArrayLike = 2.0,
    margin: ArrayLike = 1.0,
    alpha: ArrayLike = 0.0,
    label_smoothing: ArrayLike = 0.0,
    nll_weight: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Simple preference optimisation: the likelier token by token, by a margin, shall be the better answer.

    .. math:: -\log \sigma\big(\beta\,(s_w - s_l) - \gamma\big), \qquad
        s = \frac{1 - e^{-\alpha \ell}}{\alpha}, \quad \ell = \frac{\log \pi(y \mid x)}{|y|}

    No reference model has to be run, and what is compared is what decodes: the mean log-probability, which s is at an
    `alpha` of 0. Nothing holds the policy where it was, so rates are small (3e-7 to 1e-6). The paper has a `beta` of 2
    to 2.5 and a `margin` of 0.3 to 1.6; AlphaPO has an `alpha` of about 0.25, which holds likelihoods up, and CPO-SimPO
    adds the mean negative log-likelihood of the chosen answer by `nll_weight`.

    TRL's `CPOTrainer` with `loss_type="simpo"` and Liger's are this; their defaults, a `beta` of 0.1 and a margin of
    0.5, are far from the paper's, and their likelihood is a mean over the tokens of the batch, here over those of each
    sequence.

    Args:
      chosen: Log-probability of the better answer, a sum over its tokens, float `[...]`.
      rejected: Log-probability of the other one, likewise, float `[...]`.
      chosen_lengths: Number of tokens of the better answer, real `[...]`, positive.
      rejected_lengths: Number of tokens of the other one, real `[...]`, positive.
      beta: Scale of the difference, positive.
      margin: Lead :math:`\gamma` that is asked for, `[]` or of each pair `[...]`.
      alpha: Bends scores, real: 0 for the mean log-probability.
      label_smoothing: Probability that a label is wrong, in [0, 1/2).
      nll_weight: Weight of the mean negative log-likelihood of the better answer, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if log-probabilities are not floating point.
      ValueError: if shapes differ, a known length is not positive or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> sums, lengths = (jnp.array([-4.0]), jnp.array([-6.0])), (jnp.array([4]), jnp.array([4]))
      >>> round(simpo(*sums, *lengths).item(), 4)  # 2 (-1 + 1.5) - 1 = 0: log 2
      0.6931

    Reference:
      Meng, Xia and Chen, *SimPO: simple preference optimization with a reference-free reward*, 2024; Gupta et al.,
      *AlphaPO: reward shape matters for LLM alignment*, 2025.
    """
    _check.positive(beta=beta)
    _check.nonnegative(nll_weight=nll_weight)
    _check.flip(label_smoothing=label_smoothing)
    straight, alone = _hyper.is_zero(alpha), _hyper.is_zero(nll_weight)
    tokens = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    good, bad = _means(chosen, rejected, where, **tokens)
    _, beta, margin, alpha, flip, nll = masked(None, good, beta, margin, alpha, label_smoothing, nll_weight)
    gap = good - bad
    if not straight:
        gap = power_gap(good, bad, gap, alpha)
    loss = noisy_surprise(beta * gap - margin, flip)
    return reduce(loss if alone else loss - nll * good, where, weights, reduction)


def cpo(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    beta: ArrayLike = 0.1,
    objective: _Objective = "logistic",
    margin: ArrayLike = 0.0,
    label_smoothing: ArrayLike = 0.0,
    nll_weight: ArrayLike = 1.0,
    chosen_lengths: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Contrastive preference optimisation: the better answer likelier than the other one, and likely at all.

    .. math:: -\log \sigma(h) - \lambda \log \pi(y_w \mid x), \qquad
        h = \beta \log \frac{\pi(y_w \mid x)}{\pi(y_l \mid x)} - m

    DPO with a uniform reference, which takes half the memory and time; the likelihood keeps the policy near its data.
    Instead of the logistic objective, `"hinge"` is :math:`(1 - h)_+`, and `"ipo"` :math:`(h / \beta - 1 / (2\beta))^2`.
    SLiC-HF, :math:`(\delta - \log \pi(y_w \mid x) + \log \pi(y_l \mid x))_+` with likelihood, is `objective="hinge",
    beta=1.0, margin=delta - 1.0`.

    The likelihood is that of the paper, of all tokens. With `chosen_lengths` it is the mean over tokens, as in the
    official code, TRL and Liger (who take it over the tokens of the batch). TRL's `ipo` compares means over tokens:
    `activations.SequenceLogProbs.means` in place of sums.

    Args:
      chosen: Log-probability of the better answer, float `[...]`.
      rejected: Log-probability of the other one, float `[...]`.
      beta: Scale of the difference, positive.
      objective: What is made of h, `"logistic"`, `"hinge"` or `"ipo"`.
      margin: Lead m that is asked for, `[]` or of each pair `[...]`.
      label_smoothing: Probability that a label is wrong, in [0, 1/2); for the logistic objective.
      nll_weight: Weight :math:`\lambda` of the negative log-likelihood of the better answer, nonnegative.
      chosen_lengths: Number of tokens of the better answer, real `[...]`, positive; None for a sum over tokens.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if log-probabilities are not floating point.
      ValueError: if shapes differ, `objective` is unknown or a hyperparameter is outside its range or has no meaning
        for the objective.

    Example:
      >>> import jax.numpy as jnp
      >>> round(cpo(jnp.array([-2.0]), jnp.array([-2.0])).item(), 4)  # log 2 + 2
      2.6931
      >>> hinge = cpo(jnp.array([-2.0]), jnp.array([-3.0]), objective="hinge", beta=0.5, nll_weight=0.0)
      >>> hinge.item()  # 1 - 1/2
      0.5

    Reference:
      Xu et al., *Contrastive preference optimization: pushing the boundaries of LLM performance in machine
      translation*, 2024; Zhao et al., *SLiC-HF: sequence likelihood calibration with human feedback*, 2023.
    """
    _check.floating(chosen=chosen, rejected=rejected)
    _check.same_shape(chosen=chosen, rejected=rejected)
    _check.positive(beta=beta)
    _check.choice(get_args(_Objective), objective=objective)
    _check.nonnegative(nll_weight=nll_weight)
    _check.flip(label_smoothing=label_smoothing)
    if objective != "logistic" and not _hyper.is_zero(label_smoothing):
        raise ValueError(f"label_smoothing is for the logistic objective, got objective {objective!r}")
    chosen, rejected, beta, margin, flip, nll = masked(
        where, chosen, rejected, beta, margin, label_smoothing, nll_weight
    )
    zero = jnp.zeros((), chosen.dtype)
    lead = difference(chosen, rejected, zero, zero)
    if objective == "logistic":
        loss = noisy_surprise(beta * lead - margin, flip)
    elif objective == "hinge":
        loss = positive_part((1.0 + margin) - beta * lead)
    else:
        loss = jnp.square(lead - (0.5 + margin) / beta)
    likelihood = chosen
    if chosen_lengths is not None:
        likelihood = chosen / lengths(where, chosen, chosen_lengths=chosen_lengths)[0]
    return reduce(loss - scaled(nll, likelihood), where, weights, reduction)


def orpo(
    chosen: jax.Array,
    rejected: jax.Array,
    chosen_lengths: jax.Array,
    rejected_lengths: jax.Array,
    *,
    odds_weight: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Odds ratio preference optimisation: fine-tuning on the better answer, with the odds against the other one.

    .. math:: -\ell_w - \lambda \log \sigma\Big(\log \frac{o(\ell_w)}{o(\ell_l)}\Big), \qquad
        o(\ell) = \frac{e^{\ell}}{1 - e^{\ell}}, \quad \ell = \frac{\log \pi(y \mid x)}{|y|}

    Takes the place of supervised fine-tuning: one stage, one model. The odds ratio pushes where likelihoods are low and
    lets go where they are right.

    Nothing is lost where all tokens are almost sure, and where they are sure all is finite. In Liger 1 - exp cancels,
    and is 0 from -3e-8 on; in TRL its logarithm is infinite at 0. A mean log-probability that rounding has put above 0
    counts as 0. Their likelihood is a mean over the tokens of the batch, here over those of each sequence.

    Args:
      chosen: Log-probability of the better answer, a sum over its tokens, float `[...]`, 0 or below.
      rejected: Log-probability of the other one, likewise, float `[...]`.
      chosen_lengths: Number of tokens of the better answer, real `[...]`, positive.
      rejected_lengths: Number of tokens of the other one, real `[...]`, positive.
      odds_weight: Weight :math:`\lambda` of the odds ratio, nonnegative.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if log-probabilities are not floating point.
      ValueError: if shapes differ, a known mean log-probability is above 0 by more than rounding, a known length is not
        positive or `odds_weight` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> sums = jnp.log(jnp.array([0.75])), jnp.log(jnp.array([0.5]))
      >>> loss = orpo(*sums, jnp.array([1]), jnp.array([1]), odds_weight=1.0)
      >>> round(loss.item(), 4)  # log 4/3 + log(1 + 1/3)
      0.5754

    Reference:
      Hong, Lee and Thorne, *ORPO: monolithic preference optimization without reference model*, 2024.
    """
    _check.nonnegative(odds_weight=odds_weight)
    tokens = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    good, bad = _means(chosen, rejected, where, **tokens)
    good, bad = (
        positive_part(-_check.domain("a log-probability, 0 or below", lambda x: x <= 1e-3, **{name: mean}))
        for name, mean in (("chosen", good), ("rejected", bad))
    )
    _, odds = masked(None, good, odds_weight)
    return reduce(good + scaled(odds, odds_surprise(good, bad)), where, weights, reduction)
