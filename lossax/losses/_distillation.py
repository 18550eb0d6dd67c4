"""A student that learns what a teacher's logits say: one unit per row; the classes are the last axis."""

from functools import partial

import jax
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._distilled import (
    Divergence,
    Tail,
    decoupled,
    distilled,
    in_blocks,
    listed_classes,
    mixture_of,
    top_k_distilled,
)
from lossax._reduction import labelled, masked, reduce
from lossax._types import Reduction


def distillation(
    logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    divergence: Divergence = "forward_kl",
    mixture: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    rescale: bool = True,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Divergence of a student's classes from those of a teacher, at a temperature.

    .. math:: T^2\, D(t, s), \qquad t = \mathrm{softmax}(z' / T), \quad s = \mathrm{softmax}(z / T)

    with one of

    .. math::
      \text{forward: } \mathrm{KL}\big(t \,\|\, \alpha t + (1 - \alpha) s\big), \qquad
      \text{reverse: } \mathrm{KL}\big(s \,\|\, \alpha s + (1 - \alpha) t\big), \\
      \text{Jensen-Shannon: } \beta\,\mathrm{KL}(t \,\|\, m) + (1 - \beta)\,\mathrm{KL}(s \,\|\, m), \quad
      m = \beta t + (1 - \beta) s, \qquad
      \text{total variation: } \tfrac12 \textstyle\sum_j |t_j - s_j|

    Forward makes the student cover all that the teacher does, as cross-entropy would; reverse makes it settle where it
    can follow, for text that it has written itself. A little mixture bounds either, so that neither value nor slope
    blows up where one of the two has no mass. The teacher gives no gradient. Add it to a loss of labels:

    `(1 - alpha) * softmax_cross_entropy_with_integer_labels(logits, labels) + alpha * distillation(logits, teacher)`

    With it come Hinton's distillation (a temperature of 2 to 20); torch's `kl_div` of log-probabilities with
    `"batchmean"`, times T^2; MiniLLM's divergence (`"reverse_kl"`); DistiLLM's skewed ones (either, `mixture=0.1`);
    GKD, TRL's trainers and Liger's JSD (`"jensen_shannon"`, `mixture=beta`, `rescale=False`), where 0 and 1 are forward
    and reverse, the limits of the formula over the share that vanishes, as they are here; f-distillation and Liger's
    TVD (`"total_variation"`, `rescale=False`). From hidden states it is `linear_distillation`, from a teacher's best
    classes `top_k_distillation`. What teaches through features has `relational_distance` and its family, or is a loss
    by another name: FitNets are `squared_error`, CRD is `info_nce`.

    Args:
      logits: Unnormalised log-probabilities z of the student, float `[..., classes]`; -inf is a class that does not
        exist.
      teacher_logits: Those of the teacher z', float `[..., classes]`.
      divergence: `"forward_kl"`, `"reverse_kl"`, `"jensen_shannon"` or `"total_variation"`.
      mixture: Share alpha, or beta, of the first distribution in what it is compared with, in [0, 1]; `None` is 0, and
        0.5 for `"jensen_shannon"`.
      temperature: What the logits of both are divided by, positive.
      rescale: Whether to multiply by the squared temperature, with which gradients keep their size.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, and infinite where a class is missing on one side and counts.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ, `divergence` is unknown or has no mixture, or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([1.0, 0.0]))
      >>> round(distillation(student, teacher).item(), 4)  # log 2
      0.6931
      >>> distillation(student, teacher, divergence="reverse_kl").item()
      inf
      >>> skewed = distillation(student, teacher, divergence="reverse_kl", mixture=0.5)
      >>> round(skewed.item(), 4)  # log(2 / 3) / 2 + log(2) / 2
      0.1438

    Reference:
      Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015; Agarwal et al., *On-policy
      distillation of language models*, 2024 (Jensen-Shannon); Gu et al., *MiniLLM: knowledge distillation of large
      language models*, 2024 (reverse); Ko et al., *DistiLLM: towards streamlined distillation for large language
      models*, 2024 (mixture); Wen et al., *f-divergence minimization for sequence-level knowledge distillation*, 2023.
    """
    _check.floating(logits=logits, teacher_logits=teacher_logits)
    _check.same_shape(logits=logits, teacher_logits=teacher_logits)
    _check.units_of({"logits": logits})
    _check.positive(temperature=temperature)
    logits, teacher_logits = masked(where, logits, teacher_logits, event=1)
    _, temperature = masked(None, logits, temperature)
    shares = mixture_of(divergence, mixture, logits)
    teacher_logits = lax.stop_gradient(teacher_logits)
    of_rows = partial(distilled, divergence=divergence, rescale=rescale)
    values = in_blocks(of_rows, (logits, teacher_logits), (temperature, shares))
    return reduce(values, where, weights, reduction)


def top_k_distillation(
    logits: jax.Array,
    teacher_log_probs: jax.Array,
    teacher_indices: jax.Array,
    *,
    tail: Tail = "bucket",
    divergence: Divergence = "forward_kl",
    mixture: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    rescale: bool = True,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""`distillation` from the few best classes of a teacher, which are all that was kept of it.

    .. math:: T^2\, D(t, s), \qquad t = (t_1, \dots, t_k, 1 - \textstyle\sum_i t_i), \quad
        s = (s_{c_1}, \dots, s_{c_k}, 1 - \textstyle\sum_i s_{c_i})

    For stored log-probabilities of a large teacher, or those that a server sends. The bucket for all other classes
    makes both rows distributions, so that the student is not free to put what is left where it likes; it is worked out
    from the other classes, not as what is missing from 1. With `"renormalize"` both rows are those of the k classes
    over their sums, and the student may do with the others what it likes. It is never more than `distillation`.

    A log-probability of -inf is an empty place in a list of fewer than k, whatever its index. They belong to the
    temperature: divide a teacher's logits by it first, or with `"renormalize"` its log-probabilities. TRL's trainers
    have both tails (`loss_add_tail`), `rescale=False`, `mixture=beta` with `"jensen_shannon"`, and let no tail be under
    1e-7; here a teacher's that has gone in rounding is the smallest normal number. From hidden states it is
    `linear_top_k_distillation`.

    Args:
      logits: Unnormalised log-probabilities of the student, float `[..., classes]`; -inf is a class that does not
        exist.
      teacher_log_probs: Log-probabilities of the teacher's best classes, float `[..., k]`, 0 or below.
      teacher_indices: Which classes these are, integer `[..., k]`, in [0, classes), each once.
      tail: What stands for the other classes: `"bucket"`, one class in place of them, or `"renormalize"`, none.
      divergence: `"forward_kl"`, `"reverse_kl"`, `"jensen_shannon"` or `"total_variation"`.
      mixture: Share of the first distribution in what it is compared with, in [0, 1]; `None` is 0, and 0.5 for
        `"jensen_shannon"`.
      temperature: What the logits of the student are divided by, positive.
      rescale: Whether to multiply by the squared temperature, with which gradients keep their size.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, and infinite where a class is missing on one side and counts.

    Raises:
      TypeError: if `logits` or `teacher_log_probs` are not floating point or `teacher_indices` not integer.
      ValueError: if shapes do not fit, a known index names no class or one twice, a known log-probability is above 0, a
        choice is unknown or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> student = jnp.log(jnp.array([0.25, 0.25, 0.25, 0.25]))
      >>> best, classes = jnp.log(jnp.array([0.5])), jnp.array([2])
      >>> loss = top_k_distillation(student, best, classes)
      >>> round(loss.item(), 4)  # log(2) / 2 + log(2 / 3) / 2
      0.1438

    Reference:
      Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015; Peng et al., *Pre-training
      distillation for large language models: a design space exploration*, 2024.
    """
    _check.floating(logits=logits)
    _check.units_of({"logits": logits})
    _check.positive(temperature=temperature)
    (logits,) = masked(where, logits, event=1)
    _, temperature = masked(None, logits, temperature)
    shares = mixture_of(divergence, mixture, logits)
    *shape, classes = logits.shape
    listed = listed_classes(tuple(shape), logits.dtype, classes, teacher_log_probs, teacher_indices, tail, where)
    of_rows = partial(top_k_distilled, divergence=divergence, rescale=rescale, tail=tail)
    values = in_blocks(of_rows, (logits, *listed), (temperature, shares))
    return reduce(values, where, weights, reduction)


def decoupled_distillation(
    logits: jax.Array,
    teacher_logits: jax.Array,
    labels: jax.Array,
    *,
    target_weight: ArrayLike = 1.0,
    rival_weight: ArrayLike = 8.0,
    temperature: ArrayLike = 4.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Distillation in two parts: how sure the teacher is of the label, and what it thinks of the other classes.

    .. math::
      T^2 \Big(\alpha\,\mathrm{KL}\big((t_y, 1 - t_y) \,\|\, (s_y, 1 - s_y)\big)
        + \beta\,\mathrm{KL}\big(\hat t \,\|\, \hat s\big)\Big), \qquad
      \hat t_j = \frac{t_j}{1 - t_y}, \quad \hat s_j = \frac{s_j}{1 - s_y} \quad (j \ne y)

    `distillation` by the forward divergence is the same with alpha 1 and beta 1 - t_y: what a sure teacher thinks of
    the other classes hardly counts there. For classifiers of images, beside cross-entropy of labels; `rival_weight` is
    larger for teachers that are surer, 8 on CIFAR-100 and 0.5 to 2 on ImageNet. The teacher gives no gradient. The
    authors' code takes logits by -1000 out of the second part and logarithms of rounded sums in the first, which is
    infinite for a sure student; here both keep their digits.

    Args:
      logits: Unnormalised log-probabilities of the student, float `[..., classes]`; -inf is a class that does not
        exist.
      teacher_logits: Those of the teacher, float `[..., classes]`.
      labels: True classes, integer `[...]`, in [0, classes).
      target_weight: Weight alpha of the part of the label, nonnegative.
      rival_weight: Weight beta of the part of the other classes, nonnegative.
      temperature: What the logits of both are divided by, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `logits` or `teacher_logits` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.log(jnp.array([0.5, 0.25, 0.25])), jnp.log(jnp.array([0.5, 0.5, 0.0]))
      >>> loss = decoupled_distillation(student, teacher, jnp.array(0), temperature=1.0)
      >>> round(loss.item(), 4)  # 0 + 8 log 2
      5.5452

    Reference:
      Zhao et al., *Decoupled knowledge distillation*, 2022.
    """
    _check.floating(logits=logits, teacher_logits=teacher_logits)
    _check.integer(labels=labels)
    _check.same_shape(logits=logits, teacher_logits=teacher_logits)
    _check.units_of({"logits": logits}, labels=labels)
    _check.nonnegative(target_weight=target_weight, rival_weight=rival_weight)
    _check.positive(temperature=temperature)
    logits, teacher_logits = masked(where, logits, teacher_logits, event=1)
    logits, labels, known = labelled(where, logits, labels)
    _, target_weight, rival_weight, temperature = masked(None, logits, target_weight, rival_weight, temperature)
    teacher_logits = lax.stop_gradient(teacher_logits)
    values = in_blocks(decoupled, (logits, teacher_logits, labels), (target_weight, rival_weight, temperature))
    return reduce(known * values, where, weights, reduction)
