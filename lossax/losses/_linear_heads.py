"""Losses of hidden states and an output embedding, whose logits are never whole. One unit per token."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._heads import Head, label_loss, of_each_token, over_tokens
from lossax._numerics import divide, scaled, wide_dtype
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import spread_like
from lossax._types import Reduction


def _head(hidden: jax.Array, embedding: Any, bias: Any) -> Head:
    """The head in the dtype of the computation."""
    _check.floating(hidden=hidden, embedding=embedding)
    _check.units_of({"hidden": hidden})
    own, shape = _check.spec(hidden)[0], _check.spec(embedding)[0]
    if len(shape) != 2 or shape[0] != own[-1]:
        raise ValueError(f"embedding must be [{own[-1]}, classes] for hidden{list(own)}, got {list(shape)}")
    dtype = jnp.promote_types(*(wide_dtype(_check.spec(x)[1]) for x in (hidden, embedding)))
    embedding = jnp.asarray(embedding).astype(dtype)
    if bias is None:
        return Head(embedding, jnp.zeros(shape[1], embedding.dtype))
    _check.floating(bias=bias)
    _check.of_classes(shape[1], bias=bias)
    return Head(embedding, jnp.asarray(bias).astype(embedding.dtype))


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
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Cross-entropy of a language model from its last hidden states, without its logits.

    .. math:: -(1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(h W + b)

    It is `softmax_cross_entropy_with_integer_labels(hidden @ embedding + bias, labels)`, for vocabularies whose logits
    are most of the memory of a step: they are made for a block of tokens at a time and used up. Of a mean or a sum the
    gradient is made along with the value, from the same logits, in three matrix products as in the plain form; with
    `reduction="none"` it makes them again. All is computed in float32 for 16-bit inputs, and exact otherwise.

    Next tokens, packed sequences and masks come from `targets.next_tokens`. A forbidden token has a bias of -inf. A
    gradient for an embedding that is not trained is not made: use `jax.lax.stop_gradient` or leave it out of the
    differentiation.

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
    head = _head(hidden, embedding, bias)
    classes = len(head.bias)
    _check.units_of({"hidden": hidden}, labels=labels)
    _check.fraction(label_smoothing=label_smoothing)
    _check.nonnegative(gamma=gamma, z_loss=z_loss)
    _check.choice(("mean", "sum", "none"), reduction=reduction)
    given = {"smoothing": label_smoothing, "gamma": gamma, "z_loss": z_loss}
    given = {name: None if _hyper.is_zero(x) else x for name, x in given.items()} | {"soft_cap": soft_cap}
    if soft_cap is not None:
        _check.positive(soft_cap=soft_cap)
    if tile is not None:
        _check.count(tile=tile)
    (hidden,), (labels,) = masked(where, hidden, event=1), masked(where, labels)
    hidden = hidden.astype(head.embedding.dtype)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    known = jnp.where(_check.labels(labels, classes), jnp.ones((), hidden.dtype), jnp.nan)
    options = {name: None if x is None else masked(None, hidden, x)[1] for name, x in given.items()}
    if class_weights is not None:
        _check.real(class_weights=class_weights)
        _check.of_classes(classes, class_weights=class_weights)
        of_label = jnp.take(jnp.asarray(class_weights).astype(hidden.dtype), labels, mode="clip")
        weights = unit_weights(labels.shape, where, weights, dtype=hidden.dtype) * of_label

    def loss(logits, rows, options):
        labels, known, weight = rows
        return scaled(weight * known, label_loss(logits, labels, **options))  # one left out may be a forbidden token

    tokens, shape = hidden.reshape(-1, hidden.shape[-1]), labels.shape
    like = jnp.sum(tokens, axis=1)  # for its type alone
    labels, known = (spread_like(x.reshape(-1), like) for x in (labels, known))
    if reduction == "none" or not labels.size:
        values = of_each_token(loss, tile, tokens, (labels, known, jnp.ones_like(known)), options, head)
        return reduce(values.reshape(shape), where, weights, reduction, axis_name)
    shrink = 2.0 ** -labels.size.bit_length()  # a sum of finite losses shall not overflow
    weight = shrink * unit_weights(shape, where, weights, dtype=hidden.dtype).reshape(-1)
    total = over_tokens(loss, tile, tokens, (labels, known, spread_like(weight, like)), options, head)
    weight = jnp.sum(weight)
    mean = divide(total, weight)
    return reduce(mean, None, weight if reduction == "mean" else weight / shrink, reduction, axis_name)
