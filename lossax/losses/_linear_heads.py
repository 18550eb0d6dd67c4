"""Losses of hidden states and an output embedding, whose logits are never whole. One unit per token."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._heads import classes_of, known_labels, label_loss, made, token_loss
from lossax._reduction import masked, unit_weights
from lossax._types import Reduction


def linear_cross_entropy(
    hidden: jax.Array,
    labels: jax.Array,
    *,
    embedding: ArrayLike,
    bias: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    gamma: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    soft_cap: ArrayLike | None = None,
    tile: int | None = None,
    axis_name: str | None = None,
    class_axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy of a language model from its last hidden states, without its logits.

    .. math:: -(1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(h W + b)

    It is `softmax_cross_entropy_with_integer_labels(hidden @ embedding + bias, labels)`, for vocabularies whose logits
    are most of the memory of a step: they are made for a block of tokens at a time and used up. Of a mean or a sum the
    gradient is made along with the value, from the same logits, in three matrix products as in the plain form; with
    `reduction="none"` it makes them again, in reverse mode alone. Sums are float32 for 16-bit inputs.

    Next tokens, packed sequences and masks come from `targets.next_tokens`. A forbidden token has a bias of -inf. What
    is not differentiated costs nothing: a frozen embedding is one outside the differentiation or under
    `jax.lax.stop_gradient`.

    An embedding whose classes are spread over devices stays so, whether by the compiler, which exchanges a few numbers
    for each token, or by hand, where `class_axis_name` gathers the logits of a block. Where tokens are spread, let
    `jax.shard_map` do that (`axis_names` of the tokens alone leaves the classes to the compiler), and gradients of the
    embedding are added up over devices once, not once a block.

    Args:
      hidden: Last hidden states h, float `[..., d]`.
      labels: True tokens, integer `[...]`, in [0, classes).
      embedding: Output embedding W, float `[d, classes]`; transpose one that is tied to the input.
      bias: Added to logits, float `[classes]`.
      label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1].
      class_weights: Weight of the units of each class, real `[classes]`; `None` is 1.
      gamma: Exponent of the focal factor, nonnegative.
      z_loss: Weight of the squared log-partition, nonnegative; 1e-4 in PaLM.
      soft_cap: Bound that logits are bent towards before all else, positive; `None` leaves them.
      tile: Tokens of a block; by the number of classes if None.
      axis_name: Mesh axis over which the tokens are spread, inside `jax.shard_map`: the mean is over all of them.
      class_axis_name: Mesh axis over which the columns of the embedding and the bias are spread, in order, inside a
        `jax.shard_map` that is manual over it; what else is given by class is whole, and labels count all classes.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `hidden`, `embedding` or `bias` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> hidden, embedding = jnp.log(jnp.array([[2.0, 1.0]])), jnp.eye(2)
      >>> round(linear_cross_entropy(hidden, jnp.array([0]), embedding=embedding).item(), 4)  # -log(2/3)
      0.4055

    Reference:
      Hsu et al., *Liger kernel: efficient Triton kernels for LLM training*, 2024; Wijmans et al., *Cut your losses in
      large-vocabulary language models*, 2024.
    """
    _check.integer(labels=labels)
    head = made(hidden, embedding, bias)
    classes, hidden = classes_of(head, class_axis_name), jnp.asarray(hidden)
    _check.units_of({"hidden": hidden}, labels=labels)
    _check.fraction(label_smoothing=label_smoothing)
    _check.nonnegative(gamma=gamma, z_loss=z_loss)
    given = {"smoothing": label_smoothing, "gamma": gamma, "z_loss": z_loss}
    given = {name: None if _hyper.is_zero(x) else x for name, x in given.items()} | {"soft_cap": soft_cap}
    if soft_cap is not None:
        _check.positive(soft_cap=soft_cap)
    options = {name: None if x is None else masked(None, head.bias, x)[1] for name, x in given.items()}
    labels, known = known_labels(where, labels, head, class_axis_name)
    if class_weights is not None:
        _check.real(class_weights=class_weights)
        _check.of_classes(classes, class_weights=class_weights)
        of_label = jnp.take(jnp.asarray(class_weights).astype(known.dtype), labels, mode="clip")
        weights = unit_weights(labels.shape, where, weights, dtype=known.dtype) * of_label

    def loss(logits, rows, options):
        (logits,), (labels, known) = logits, rows
        return known * label_loss(logits, labels, **options)

    tail = {
        "tile": tile,
        "axis_name": axis_name,
        "class_axis_name": class_axis_name,
        "where": where,
        "weights": weights,
        "reduction": reduction,
    }
    return token_loss(loss, (hidden,), (head,), (labels, known), options, **tail)
