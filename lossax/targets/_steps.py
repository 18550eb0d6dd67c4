"""Labels of the steps of a solution, one for each of its tokens."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check
from lossax._reduction import masked


def step_labels(
    labels: jax.Array,
    ends: jax.Array,
    *,
    where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Labels of steps become labels of the tokens that end them: what a process reward model is trained with.

    .. math:: y_t = y_{k(t)}, \qquad k(t) = \#\{s \le t : e_s\}

    A process reward model says at the end of each step whether the solution is still right. The loss is that of its
    head, with the mask that comes along: `losses.sigmoid_binary_cross_entropy` for one logit, or
    `losses.softmax_cross_entropy_with_integer_labels` for two classes or grades, as TRL's `PRMTrainer` has it. There
    a step ends with its separator: `ends = tokens == separator`; without one take the last token of each step,
    `ends = segments != jnp.roll(segments, -1, -1)`. Training on the last step alone is `where` of the labels.

    Args:
      labels: What each step is worth, integer, bool or float `[..., steps]`; those after the last step are not read.
      ends: Whether a step ends at a token, bool `[..., tokens]`. Ends beyond the last label have none.
      where: Steps that have a label, bool `[..., steps]`.

    Returns:
      Labels, `[..., tokens]` in the dtype of `labels`, 0 where there is none; and where there is one, bool
      `[..., tokens]`.

    Raises:
      TypeError: if `ends` or `where` are not bool, or labels no numbers.
      ValueError: if leading axes differ or `where` does not broadcast to the steps.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import losses
      >>> tokens = jnp.array([[5, 7, 0, 6, 0, 3]])  # two steps that end with a 0, and one that was cut off
      >>> labels, where = step_labels(jnp.array([[1, 0, 1]]), tokens == 0)
      >>> labels.tolist(), where.tolist()
      ([[0, 0, 1, 0, 0, 0]], [[False, False, True, False, True, False]])
      >>> loss = losses.sigmoid_binary_cross_entropy(jnp.zeros((1, 6)), labels, where=where)
      >>> round(loss.item(), 4)  # log 2
      0.6931

    Reference:
      Uesato et al., *Solving math word problems with process- and outcome-based feedback*, 2022; Lightman et al.,
      *Let's verify step by step*, 2023.
    """
    _check.real(labels=labels)
    _check.boolean(ends=ends)
    _check.units_of({"labels": labels})
    _check.units_of({"ends": ends})
    labels, ends = jnp.asarray(labels), jnp.asarray(ends)
    if labels.shape[:-1] != ends.shape[:-1]:
        raise ValueError(f"expected equal leading axes, got labels{list(labels.shape)} and ends{list(ends.shape)}")
    exist = masked(where, jnp.ones_like(labels, bool))[0]
    steps = labels.shape[-1]
    if not steps:
        return jnp.zeros(ends.shape, labels.dtype), jnp.zeros_like(ends)
    number = jnp.cumsum(ends.astype(jnp.int32), axis=-1) - 1
    place = jnp.clip(number, 0, steps - 1)
    found = ends & (number < steps) & jnp.take_along_axis(exist, place, axis=-1)
    return jnp.where(found, jnp.take_along_axis(labels, place, axis=-1), jnp.zeros((), labels.dtype)), found
