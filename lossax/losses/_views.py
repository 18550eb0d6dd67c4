"""Two views of one example that should agree: one unit per example."""

import jax
from jax.typing import ArrayLike

from lossax import _check, _numerics
from lossax._pairs import length
from lossax._reduction import masked, reduce
from lossax._types import Reduction
from lossax._vectors import cosine_gap


def alignment(
    anchors: jax.Array,
    positives: jax.Array,
    *,
    power: ArrayLike = 2.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Distance of two views of an example, to a power: how near a representation holds what belongs together.

    .. math:: \lVert x - y \rVert_2^\alpha

    Alone it is least for a constant: add `uniformity`, with embeddings of length 1 from `activations.unit_vectors`.
    Unlike `squared_error` it is summed over features, not averaged.

    Args:
      anchors: Embeddings of one view, float `[..., d]`.
      positives: Embeddings of the other view, float `[..., d]`.
      power: Exponent alpha, 1 or more.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ or `power` is below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> alignment(jnp.array([3.0, 0.0]), jnp.array([0.0, 4.0])).item()
      25.0

    Reference:
      Wang and Isola, *Understanding contrastive representation learning through alignment and uniformity on the
      hypersphere*, 2020.
    """
    _check.floating(anchors=anchors, positives=positives)
    _check.same_shape(anchors=anchors, positives=positives)
    _check.units_of({"anchors": anchors})
    _check.at_least(1.0, power=power)
    anchors, positives = masked(where, anchors, positives, event=1)
    _, power = masked(None, anchors, power)
    return reduce(_numerics.power(length(anchors - positives), power), where, weights, reduction)


def cosine_distance(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""One less the cosine of the angle between two vectors: BYOL, SimSiam, distillation of features.

    .. math:: 1 - \frac{\langle x, y \rangle}{\lVert x \rVert\,\lVert y \rVert}

    Where direction tells and length does not. BYOL is twice this, 2 - 2 cos, and SimSiam one less, of the output of
    the predictor and of the other view's embedding, which gives no gradient, both ways:

    `cosine_distance(p1, stop_gradient(z2)) + cosine_distance(p2, stop_gradient(z1))`

    It is computed as half the squared distance of the vectors at length 1, which has its digits where they agree. A
    vector of length 0 is at distance 1 from everything, without a gradient, as in torch's `cosine_similarity` (in
    Optax's `cosine_distance` its gradient is NaN unless `epsilon` is set).

    Args:
      predictions: Float `[..., d]`, of any length.
      targets: Float `[..., d]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; in [0, 2].

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> round(cosine_distance(jnp.array([3.0, 4.0]), jnp.array([10.0, 0.0])).item(), 4)  # 1 - 3/5
      0.4

    Reference:
      Grill et al., *Bootstrap your own latent: a new approach to self-supervised learning*, 2020; Chen and He,
      *Exploring simple Siamese representation learning*, 2021.
    """
    _check.floating(predictions=predictions, targets=targets)
    _check.same_shape(predictions=predictions, targets=targets)
    _check.units_of({"predictions": predictions})
    predictions, targets = masked(where, predictions, targets, event=1)
    return reduce(cosine_gap(predictions, targets), where, weights, reduction)
