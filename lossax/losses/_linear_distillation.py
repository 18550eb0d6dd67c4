"""Distillation from hidden states and output embeddings, whose logits are never whole. One unit per token."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._distilled import Divergence, Tail, distilled, listed_classes, mixture_of, top_k_distilled
from lossax._heads import capped, classes_of, made, token_loss
from lossax._reduction import masked
from lossax._types import Reduction


def _cap(soft_cap: Any, like: jax.Array) -> jax.Array | None:
    """The cap in the dtype of the computation."""
    if soft_cap is None:
        return None
    _check.positive(soft_cap=soft_cap)
    return masked(None, like, soft_cap)[1]


def linear_distillation(
    hidden: jax.Array,
    teacher_hidden: jax.Array,
    *,
    embedding: ArrayLike,
    teacher_embedding: ArrayLike,
    bias: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    divergence: Divergence = "forward_kl",
    mixture: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    rescale: bool = True,
    soft_cap: ArrayLike | None = None,
    teacher_soft_cap: ArrayLike | None = None,
    tile: int | None = None,
    axis_name: str | None = None,
    class_axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""`distillation` of a language model from the last hidden states of student and teacher, without their logits.

    .. math:: T^2\, D\big(\mathrm{softmax}((h' W' + b') / T),\; \mathrm{softmax}((h W + b) / T)\big)

    It is `distillation(hidden @ embedding + bias, teacher_hidden @ teacher_embedding + teacher_bias)`, with the same
    choices: the logits of both are made for a block of tokens at a time and used up. Of a mean or a sum the student's
    gradient is made along with the value; with `reduction="none"` logits are made again, in reverse mode alone. The
    teacher gives no gradient and costs one matrix product. The two may differ in width but not in vocabulary.

    Liger's fused JSD is `"jensen_shannon"` with `mixture=beta` and `rescale=False`, except that it divides by the
    number of all tokens and not only of those that are kept, and adds half of the cross-entropy of labels to half of
    it: `linear_cross_entropy`.

    Args:
      hidden: Last hidden states h of the student, float `[..., d]`.
      teacher_hidden: Those of the teacher h', float `[..., e]`.
      embedding: Output embedding W of the student, float `[d, classes]`; transpose one that is tied to the input.
      teacher_embedding: That of the teacher W', float `[e, classes]`.
      bias: Added to the student's logits, float `[classes]`; -inf forbids a token.
      teacher_bias: Added to the teacher's logits, float `[classes]`.
      divergence: `"forward_kl"`, `"reverse_kl"`, `"jensen_shannon"` or `"total_variation"`.
      mixture: Share of the first distribution in what it is compared with, in [0, 1]; `None` is 0, and 0.5 for
        `"jensen_shannon"`.
      temperature: What the logits of both are divided by, positive.
      rescale: Whether to multiply by the squared temperature, with which gradients keep their size.
      soft_cap: Bound that the student's logits are bent towards before all else, positive; `None` leaves them.
      teacher_soft_cap: That of the teacher's logits.
      tile: Tokens of a block; by the number of classes if None.
      axis_name: Mesh axis over which the tokens are spread, inside `jax.shard_map`: the mean is over all of them.
      class_axis_name: Mesh axis over which the columns of the embedding and the bias are spread, in order, inside a
        `jax.shard_map` that is manual over it; what else is given by class is whole, and labels count all classes.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, and infinite where a class is missing on one side and counts.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes do not fit, `divergence` is unknown or has no mixture, or a hyperparameter is outside its
        range.

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.75, 0.25]]))
      >>> head = jnp.eye(2)
      >>> loss = linear_distillation(student, teacher, embedding=head, teacher_embedding=head)
      >>> round(loss.item(), 4)  # 3/4 log(3/2) + 1/4 log(1/2)
      0.1308

    Reference:
      Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015; Hsu et al., *Liger kernel:
      efficient Triton kernels for LLM training*, 2024.
    """
    head, teacher = made(hidden, embedding, bias), made(teacher_hidden, teacher_embedding, teacher_bias, "teacher_")
    hidden, teacher_hidden = jnp.asarray(hidden), jnp.asarray(teacher_hidden)
    if hidden.shape[:-1] != teacher_hidden.shape[:-1]:
        own, other = list(hidden.shape), list(teacher_hidden.shape)
        raise ValueError(f"expected shapes equal but for the last axis, got hidden{own}, teacher_hidden{other}")
    _check.of_classes(len(head.bias), teacher_bias=teacher.bias)
    _check.positive(temperature=temperature)
    options = {
        "temperature": masked(None, head.bias, temperature)[1],
        "mixture": mixture_of(divergence, mixture, head.bias),
        "caps": (_cap(soft_cap, head.bias), _cap(teacher_soft_cap, teacher.bias)),
    }

    def loss(logits, _, options):
        own, other = map(capped, logits, options["caps"])
        other = other.astype(own.dtype)
        return distilled(own, other, options["temperature"], options["mixture"], divergence, rescale)

    states, heads = (hidden, lax.stop_gradient(teacher_hidden)), (head, lax.stop_gradient(teacher))
    tail = {
        "tile": tile,
        "axis_name": axis_name,
        "class_axis_name": class_axis_name,
        "where": where,
        "weights": weights,
        "reduction": reduction,
    }
    return token_loss(loss, states, heads, (), options, **tail)


def linear_top_k_distillation(
    hidden: jax.Array,
    teacher_log_probs: jax.Array,
    teacher_indices: jax.Array,
    *,
    embedding: ArrayLike,
    bias: ArrayLike | None = None,
    tail: Tail = "bucket",
    divergence: Divergence = "forward_kl",
    mixture: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    rescale: bool = True,
    soft_cap: ArrayLike | None = None,
    tile: int | None = None,
    axis_name: str | None = None,
    class_axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""`top_k_distillation` of a language model from its last hidden states, without its logits.

    .. math:: T^2\, D(t, s), \qquad t = (t_1, \dots, t_k, 1 - \textstyle\sum_i t_i), \quad
        s = (s_{c_1}, \dots, s_{c_k}, 1 - \textstyle\sum_i s_{c_i}), \quad s = \mathrm{softmax}((h W + b) / T)

    It is `top_k_distillation(hidden @ embedding + bias, teacher_log_probs, teacher_indices)`, with the same choices and
    conventions, for a teacher of which k log-probabilities of each token were kept; the student's logits are made for a
    block of tokens at a time. TRL's `loss_top_k` trainers, which make them so too, have `rescale=False`.

    Args:
      hidden: Last hidden states h of the student, float `[..., d]`.
      teacher_log_probs: Log-probabilities of the teacher's best classes, float `[..., k]`, 0 or below; -inf is an empty
        place.
      teacher_indices: Which classes these are, integer `[..., k]`, in [0, classes), each once.
      embedding: Output embedding W of the student, float `[d, classes]`; transpose one that is tied to the input.
      bias: Added to logits, float `[classes]`; -inf forbids a token.
      tail: What stands for the other classes: `"bucket"`, one class in place of them, or `"renormalize"`, none.
      divergence: `"forward_kl"`, `"reverse_kl"`, `"jensen_shannon"` or `"total_variation"`.
      mixture: Share of the first distribution in what it is compared with, in [0, 1]; `None` is 0, and 0.5 for
        `"jensen_shannon"`.
      temperature: What the logits of the student are divided by, positive.
      rescale: Whether to multiply by the squared temperature, with which gradients keep their size.
      soft_cap: Bound that logits are bent towards before all else, positive; `None` leaves them.
      tile: Tokens of a block; by the number of classes if None.
      axis_name: Mesh axis over which the tokens are spread, inside `jax.shard_map`: the mean is over all of them.
      class_axis_name: Mesh axis over which the columns of the embedding and the bias are spread, in order, inside a
        `jax.shard_map` that is manual over it; what else is given by class is whole, and labels count all classes.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, and infinite where a class is missing on one side and counts.

    Raises:
      TypeError: if `hidden`, `embedding`, `bias` or `teacher_log_probs` are not floating point or `teacher_indices` not
        integer.
      ValueError: if shapes do not fit, a known index names no class or one twice, a known log-probability is above 0, a
        choice is unknown or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> hidden, best, classes = jnp.zeros((1, 2)), jnp.log(jnp.array([[0.5]])), jnp.array([[2]])
      >>> loss = linear_top_k_distillation(hidden, best, classes, embedding=jnp.ones((2, 4)))
      >>> round(loss.item(), 4)  # of four equal classes: log(2) / 2 + log(2 / 3) / 2
      0.1438

    Reference:
      Hinton, Vinyals and Dean, *Distilling the knowledge in a neural network*, 2015; Peng et al., *Pre-training
      distillation for large language models: a design space exploration*, 2024.
    """
    head, hidden = made(hidden, embedding, bias), jnp.asarray(hidden)
    _check.positive(temperature=temperature)
    options = {
        "temperature": masked(None, head.bias, temperature)[1],
        "mixture": mixture_of(divergence, mixture, head.bias),
        "cap": _cap(soft_cap, head.bias),
    }
    units, dtype, classes = hidden.shape[:-1], head.bias.dtype, classes_of(head, class_axis_name)
    listed = listed_classes(units, dtype, classes, teacher_log_probs, teacher_indices, tail, where)

    def loss(logits, listed, options):
        own, (log_probs, indices) = capped(logits[0], options["cap"]), listed
        choices = options["temperature"], options["mixture"], divergence, rescale, tail
        return top_k_distilled(own, log_probs, indices, *choices)

    ends = {
        "tile": tile,
        "axis_name": axis_name,
        "class_axis_name": class_axis_name,
        "where": where,
        "weights": weights,
        "reduction": reduction,
    }
    return token_loss(loss, (hidden,), (head,), listed, options, **ends)
