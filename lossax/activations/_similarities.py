"""How near two embeddings are to each other."""

import jax
import jax.numpy as jnp

from lossax import _check
from lossax._numerics import absolute
from lossax._reduction import masked
from lossax._vectors import cosine


def _two(anchors: jax.Array, others: jax.Array) -> tuple[jax.Array, ...]:
    _check.floating(anchors=anchors, others=others)
    _check.same_shape(anchors=anchors, others=others)
    _check.units_of({"anchors": anchors})
    return masked(None, anchors, others)


def cosine_similarity(anchors: jax.Array, others: jax.Array) -> jax.Array:
    r"""Cosine of the angle between two embeddings, of whatever length they are.

    .. math:: \frac{\langle x, y \rangle}{\lVert x \rVert\,\lVert y \rVert}

    What `losses.cosent` puts in order. It is right at lengths of 1e-30 and 1e30, of 16-bit embeddings and of many
    features, and never beyond 1. A vector of length 0 has cosine 0 with everything and no gradient, as in torch's
    (in Optax's both are NaN). Where 1 less it is wanted, `losses.cosine_distance` has more digits.

    Args:
      anchors: Float `[..., d]`.
      others: Float `[..., d]`.

    Returns:
      Float `[...]` in [-1, 1], float32 at least.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[3.0, 4.0], [3e-30, 4e-30]]), jnp.array([[10.0, 0.0], [0.0, 1e30]])
      >>> [round(s, 4) for s in cosine_similarity(x, y).tolist()]
      [0.6, 0.8]
    """
    return cosine(*_two(anchors, others))[0]


def angle_similarity(anchors: jax.Array, others: jax.Array) -> jax.Array:
    r"""Similarity of two embeddings as complex vectors, whose gradient does not vanish where they agree: AnglE's.

    .. math:: \Big|\operatorname{Re} q + \operatorname{Im} q\Big|, \qquad
        q = \frac{\langle z, \bar w \rangle}{\lVert z \rVert\,\lVert w \rVert}, \qquad
        z = x_{1..d/2} + \mathrm{i}\,x_{d/2+1..d}, \quad w = y_{1..d/2} + \mathrm{i}\,y_{d/2+1..d}

    The real part is the cosine, which is flat at its top; the imaginary part, there 0, is not. It is 1 for equal
    embeddings, but largest, the root of 2, where one is the other turned by an eighth: `losses.cosent` of it is AnglE's
    angle objective, and is meant to be added to that of the cosine. The paper speaks of the difference of two angles;
    in its code, in Sentence Transformers and here more of it is more alike.

    Args:
      anchors: Float `[..., d]`, real parts first, d even.
      others: Float `[..., d]`.

    Returns:
      Float `[...]` in [0, sqrt(2)], float32 at least; 0, without a gradient, beside a vector of length 0.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ or d is odd.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0])  # (3 + 4i) / 5
      >>> round(angle_similarity(x, y).item(), 4)
      1.4

    Reference:
      Li and Li, *AnglE-optimized text embeddings*, 2023.
    """
    anchors, others = _two(anchors, others)
    if anchors.shape[-1] % 2:
        raise ValueError(f"anchors must have an even number of features, got {anchors.shape[-1]}")
    (a, b), (c, d) = jnp.split(anchors, 2, axis=-1), jnp.split(others, 2, axis=-1)
    # Both parts are one product, of vectors that are the root of 2 as long each.
    parts = jnp.concatenate([a, b, b, -a], axis=-1), jnp.concatenate([c, d, c, d], axis=-1)
    return 2.0 * absolute(cosine(*parts)[0])
