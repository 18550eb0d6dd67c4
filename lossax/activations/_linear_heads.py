"""What a language model says of given tokens, from its last hidden states and without its logits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._heads import capped, each_token, known_labels, made
from lossax._reduction import masked


class LinearStatistics(NamedTuple):
    """What `linear_statistics` says of each token."""

    log_probs: jax.Array
    log_partition: jax.Array
    entropy: jax.Array
    correct: jax.Array


def _of_each(f: Any, hidden, labels, embedding, bias, temperature, soft_cap, tile, class_axis_name, where) -> Any:
    """`f` of blocks of logits and labels; 0 where tokens are masked, NaN where labels name no class."""
    _check.integer(labels=labels)
    head = made(hidden, embedding, bias)
    hidden = jnp.asarray(hidden)
    _check.units_of({"hidden": hidden}, labels=labels)
    _check.positive(temperature=temperature)
    if soft_cap is not None:
        _check.positive(soft_cap=soft_cap)
    labels, known = known_labels(where, labels, head, class_axis_name)
    bends = tuple(None if x is None else masked(None, head.bias, x)[1] for x in (soft_cap, temperature))

    def block(logits, rows, bends):
        (logits,), (labels, known), (cap, temperature) = logits, rows, bends
        logits = capped(logits, cap) / temperature
        return jax.tree.map(lambda x: x if x.dtype == bool else known * x, f(logits, labels))

    tail = {"tile": tile, "class_axis_name": class_axis_name, "where": where}
    found = each_token(block, (hidden,), (head,), (labels, known), bends, **tail)
    return jax.tree.map(lambda x: masked(where, x)[0], found)


def linear_log_probs(
    hidden: jax.Array,
    labels: jax.Array,
    *,
    embedding: ArrayLike,
    bias: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    soft_cap: ArrayLike | None = None,
    tile: int | None = None,
    class_axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Log-probability of each token under a language model, from its last hidden states and without its logits.

    .. math:: \log p_y, \qquad p = \mathrm{softmax}\big((h W + b) / T\big)

    What preference and policy losses take. Logits are made for a block of tokens at a time and used up; the gradient
    makes them a second time, in reverse mode alone. Of logits that are there, as in a sampler, the same is
    `-softmax_cross_entropy_with_integer_labels(logits, labels, reduction="none")`. Next tokens, packed sequences and
    masks come from `targets.next_tokens`; where the loss is the mean of these numbers, `losses.linear_cross_entropy` is
    cheaper, which makes its gradient from the same logits.

    Args:
      hidden: Last hidden states h, float `[..., d]`.
      labels: Tokens, integer `[...]`, in [0, classes).
      embedding: Output embedding W, float `[d, classes]`; transpose one that is tied to the input.
      bias: Added to logits, float `[classes]`; -inf forbids a token.
      temperature: What logits are divided by, positive: that of the sampler, for the policy that sampled.
      soft_cap: Bound that logits are bent towards before all else, positive; `None` leaves them.
      tile: Tokens of a block; by the number of classes if None.
      class_axis_name: Mesh axis over which the columns of the embedding and the bias are spread, in order, inside a
        `jax.shard_map` that is manual over it; what else is given by class is whole, and labels count all classes.
      where: Tokens to keep, bool `[...]`.

    Returns:
      Float `[...]` in [-inf, 0], 0 where masked; float32 at least.

    Raises:
      TypeError: if `hidden`, `embedding` or `bias` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> hidden, embedding = jnp.log(jnp.array([[2.0, 1.0]])), jnp.eye(2)
      >>> round(linear_log_probs(hidden, jnp.array([0]), embedding=embedding)[0].item(), 4)  # log(2/3)
      -0.4055

    Reference:
      Hsu et al., *Liger kernel: efficient Triton kernels for LLM training*, 2024; Wijmans et al., *Cut your losses in
      large-vocabulary language models*, 2024.
    """
    surprise = lambda logits, labels: -_numerics.label_surprise(logits, labels)  # noqa: E731
    return _of_each(surprise, hidden, labels, embedding, bias, temperature, soft_cap, tile, class_axis_name, where)


def linear_statistics(
    hidden: jax.Array,
    labels: jax.Array,
    *,
    embedding: ArrayLike,
    bias: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    soft_cap: ArrayLike | None = None,
    tile: int | None = None,
    class_axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> LinearStatistics:
    r"""What a language model says of each token, from its last hidden states and without its logits.

    .. math:: \log p_y, \qquad \log \sum_j e^{z_j}, \qquad -\sum_j p_j \log p_j, \qquad
        [\, y = \mathrm{argmax}_j\, z_j \,], \qquad z = (h W + b) / T, \quad p = \mathrm{softmax}(z)

    For an entropy bonus, a router's or a z-loss of one's own, and what is watched in training: perplexity, top-1
    accuracy. All are made from one block of logits after the other, as in `linear_log_probs`, which is cheaper where
    nothing else is wanted; the first three have gradients. The divergence from a teacher is
    `losses.linear_distillation` with `reduction="none"`.

    Args:
      hidden: Last hidden states h, float `[..., d]`.
      labels: Tokens, integer `[...]`, in [0, classes).
      embedding: Output embedding W, float `[d, classes]`; transpose one that is tied to the input.
      bias: Added to logits, float `[classes]`; -inf forbids a token.
      temperature: What logits are divided by, positive.
      soft_cap: Bound that logits are bent towards before all else, positive; `None` leaves them.
      tile: Tokens of a block; by the number of classes if None.
      class_axis_name: Mesh axis over which the columns of the embedding and the bias are spread, in order, inside a
        `jax.shard_map` that is manual over it; what else is given by class is whole, and labels count all classes.
      where: Tokens to keep, bool `[...]`.

    Returns:
      `LinearStatistics` of arrays `[...]`: `log_probs`, `log_partition` and `entropy` (nats), 0 where masked, and
      `correct` (bool: the label is the first of the most probable classes), False where masked.

    Raises:
      TypeError: if `hidden`, `embedding` or `bias` are not floating point or `labels` not integer.
      ValueError: if shapes do not fit, a known label names no class or a hyperparameter is outside its range.

    Example:
      >>> import jax.numpy as jnp
      >>> hidden, embedding = jnp.log(jnp.array([[3.0, 1.0]])), jnp.eye(2)
      >>> found = linear_statistics(hidden, jnp.array([0]), embedding=embedding)
      >>> [round(x.item(), 4) for x in found[:3]], found.correct.tolist()  # log 3/4, log 4, 2 log 2 - 3/4 log 3
      ([-0.2877, 1.3863, 0.5623], [True])

    Reference:
      Hsu et al., *Liger kernel: efficient Triton kernels for LLM training*, 2024.
    """

    def all_of_them(logits, labels):
        top, remainder = _numerics.log_partition(logits)
        correct = jnp.argmax(logits, axis=-1) == labels
        surprise = _numerics.label_surprise(logits, labels)
        return LinearStatistics(-surprise, top + remainder, _numerics.entropy(logits), correct)

    return _of_each(all_of_them, hidden, labels, embedding, bias, temperature, soft_cap, tile, class_axis_name, where)
