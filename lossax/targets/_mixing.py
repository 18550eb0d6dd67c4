"""Examples mixed with others of their batch. Keys are consumed; nothing is kept."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _numerics


class Mixture(NamedTuple):
    """Mixed examples, whom each was mixed with and how much of itself is left.

    Fields: `inputs` in shape and dtype of what was mixed; `partners` integer `[batch]`; `shares` float `[batch]`, in
    [0, 1].
    """

    inputs: jax.Array
    partners: jax.Array
    shares: jax.Array


def mix(values: jax.Array, partners: jax.Array, shares: jax.Array) -> jax.Array:
    r"""What becomes of targets, or of the losses of single examples, when the inputs are mixed.

    .. math:: \lambda_i v_i + (1 - \lambda_i) v_{j(i)}

    Mixed one-hot targets and mixed losses are the same for cross-entropy, which is linear in its targets; for any other
    loss, mix the losses.

    Args:
      values: One-hot or soft targets `[batch, ...]`, or unit losses `[batch]`, float.
      partners: Whom each example was mixed with, integer `[batch]`.
      shares: How much of itself is left, float `[batch]`, in [0, 1].

    Returns:
      Float `[batch, ...]`, in the dtype of `values`.

    Raises:
      TypeError: if `values` or `shares` are not floating point or `partners` not integer.
      ValueError: if the first axes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> mix(jnp.eye(2), jnp.array([1, 0]), jnp.array([0.75, 1.0])).tolist()
      [[0.75, 0.25], [0.0, 1.0]]

    Reference:
      Zhang et al., *mixup: beyond empirical risk minimization*, 2018.
    """
    _check.floating(values=values, shares=shares)
    _check.integer(partners=partners)
    _check.same_shape(partners=partners, shares=shares)
    values = jnp.asarray(values)
    if jnp.shape(partners) != values.shape[:1]:
        raise ValueError(f"partners{list(jnp.shape(partners))} must be the first axis of values{list(values.shape)}")
    wide = values.astype(_numerics.wide_dtype(values.dtype))
    share = jnp.asarray(shares).astype(wide.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return (share * wide + (1.0 - share) * wide[jnp.asarray(partners)]).astype(values.dtype)


def _shares(key: jax.Array, alpha: ArrayLike, batch: int, per_sample: bool, dtype: jnp.dtype) -> jax.Array:
    """A draw of Beta(alpha, alpha) for each example, or one for all; 1 for alpha = 0."""
    alpha = jnp.asarray(alpha).astype(dtype)
    none = alpha == 0
    safe = jnp.where(none, 1, alpha)
    drawn = jax.random.beta(key, safe, safe, (batch if per_sample else 1,), dtype)
    return jnp.broadcast_to(jnp.where(none, 1, drawn), (batch,))


def _batch(inputs: jax.Array, alpha: ArrayLike) -> tuple[jax.Array, jnp.dtype]:
    _check.floating(inputs=inputs)
    _check.nonnegative(alpha=alpha)
    inputs = jnp.asarray(inputs)
    if not inputs.ndim:
        raise ValueError("inputs need a batch axis, got []")
    return inputs, _numerics.wide_dtype(inputs.dtype)


def mixup(key: jax.Array, inputs: jax.Array, *, alpha: ArrayLike = 0.2, per_sample: bool = False) -> Mixture:
    r"""Convex combinations of examples and, through `mix`, of their targets.

    .. math:: \tilde x_i = \lambda x_i + (1 - \lambda) x_{j(i)}, \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Trains a model to be linear between examples: better calibrated, harder to fool. The partners are a random
    permutation of the batch, as in the authors' code.

    Args:
      key: Random key.
      inputs: Examples, or hidden activations (manifold mixup), float `[batch, ...]`.
      alpha: Of the beta distribution, nonnegative: 0 mixes nothing, 1 draws evenly.
      per_sample: Whether every example has a share of its own; otherwise the batch has one, as in the paper.

    Returns:
      `Mixture(inputs, partners, shares)`.

    Raises:
      TypeError: if `inputs` are not floating point.
      ValueError: if `inputs` have no axis or `alpha` is negative.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> x, partners, shares = mixup(jax.random.key(0), jnp.array([[0.0], [1.0]]), alpha=1.0)
      >>> bool(jnp.allclose(x[:, 0], mix(jnp.array([0.0, 1.0]), partners, shares)))
      True

    Reference:
      Zhang et al., *mixup: beyond empirical risk minimization*, 2018.
    """
    inputs, dtype = _batch(inputs, alpha)
    permute, draw = jax.random.split(key)
    partners = jax.random.permutation(permute, inputs.shape[0])
    shares = _shares(draw, alpha, inputs.shape[0], per_sample, dtype)
    return Mixture(mix(inputs, partners, shares), partners, shares)


def cutmix(
    key: jax.Array,
    inputs: jax.Array,
    *,
    alpha: ArrayLike = 1.0,
    per_sample: bool = False,
    axes: Sequence[int] = (-3, -2),
) -> Mixture:
    r"""A box of each image replaced by the same box of another.

    The box has the share :math:`1 - \lambda` of the area with :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`, the
    proportions of the image and its centre anywhere, so that the border may cut it. The shares returned are those of
    the pixels that were really kept. Targets follow by `mix`.

    Args:
      key: Random key.
      inputs: Images, float `[batch, ..., channels]`.
      alpha: Of the beta distribution, nonnegative: 0 mixes nothing, 1 (the paper's) draws evenly.
      per_sample: Whether every image has a box of its own; otherwise the batch has one, as in the paper.
      axes: The spatial axes: `(-3, -2)` for channel-last images, one axis for sequences, three for volumes.

    Returns:
      `Mixture(inputs, partners, shares)`.

    Raises:
      TypeError: if `inputs` are not floating point or `axes` are no integers.
      ValueError: if `axes` do not exist or contain the batch, or `alpha` is negative.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> images = jnp.stack([jnp.zeros((4, 4, 1)), jnp.ones((4, 4, 1))])
      >>> mixed, partners, shares = cutmix(jax.random.key(1), images)
      >>> bool(jnp.allclose(mixed.mean((1, 2, 3)), mix(jnp.array([0.0, 1.0]), partners, shares)))
      True

    Reference:
      Yun et al., *CutMix: regularization strategy to train strong classifiers with localizable features*, 2019.
    """
    inputs, dtype = _batch(inputs, alpha)
    axes = _check.axes(axes, inputs=inputs)
    if 0 in axes:
        raise ValueError(f"axes must not contain the batch axis of inputs{list(inputs.shape)}, got {axes}")
    batch = inputs.shape[0]
    permute, draw, place = jax.random.split(key, 3)
    partners = jax.random.permutation(permute, batch)
    side = (1.0 - _shares(draw, alpha, batch, per_sample, dtype)) ** (1.0 / len(axes))
    centres = jax.random.uniform(place, (len(axes), batch if per_sample else 1), dtype)
    inside, kept = [], jnp.ones((batch,), dtype)
    for axis, centre in zip(axes, centres, strict=True):
        size = inputs.shape[axis]
        first = jnp.clip(jnp.round((centre - 0.5 * side) * size), 0, size)
        last = jnp.clip(jnp.round((centre + 0.5 * side) * size), 0, size)
        position = jnp.arange(size, dtype=dtype)[None]
        within = (position >= first[:, None]) & (position < last[:, None])
        inside.append(within.reshape(batch, *[size if a == axis else 1 for a in range(1, inputs.ndim)]))
        kept = kept * ((last - first) / size)
    other = functools.reduce(lambda a, b: a & b, jnp.broadcast_arrays(*inside))
    return Mixture(jnp.where(other, inputs[partners], inputs), partners, 1.0 - kept)
