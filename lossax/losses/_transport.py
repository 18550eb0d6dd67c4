"""Entropic optimal transport, solved by ott-jax (the extra `ott`): one unit per pair of samples."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._numerics import positive_part
from lossax._pairs import each_pair
from lossax._reduction import masked, reduce
from lossax._sampled import of_something, samples, weighted
from lossax._tile import over_sets
from lossax._types import Reduction


def _solver() -> tuple[Any, Any]:
    """The modules of ott-jax that are needed, imported when they are and not before."""
    try:
        with warnings.catch_warnings():
            # Of the costs that it brings, ott-jax solves one, not used here, with a library that is at its end.
            warnings.filterwarnings("ignore", message="JAXopt is no longer maintained", category=DeprecationWarning)
            from ott.geometry import pointcloud  # pyright: ignore[reportMissingImports]
            from ott.tools import sinkhorn_divergence  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('sinkhorn_divergence is solved by ott-jax: pip install "lossax[ott]"') from error
    return pointcloud, sinkhorn_divergence


def _costs(x: jax.Array, y: jax.Array) -> jax.Array:
    return each_pair(lambda difference: jnp.sum(jnp.square(difference), axis=-1), x, y)


def _potentials(
    x: jax.Array, y: jax.Array, of_x: jax.Array, of_y: jax.Array, epsilon: jax.Array, **options: Any
) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """Dual potentials of the three problems, relative to the weights and 0 at points without any."""
    pointcloud, tool = _solver()
    # ott-jax is not written for strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        _, found = tool.sinkhorn_divergence(
            pointcloud.PointCloud, x=x, y=y, a=of_x, b=of_y, epsilon=epsilon, solve_kwargs=options
        )

    def relative(potential, weights):
        some = weights > 0
        log = jnp.log(jnp.where(some, weights, 1))
        return jnp.where(some & jnp.isfinite(potential), potential - epsilon * log, 0)

    sides = ((of_x, of_y), (of_x, of_x), (of_y, of_y))
    pairs = zip(found.potentials, sides, strict=True)
    return tuple((relative(f, a), relative(g, b)) for (f, g), (a, b) in pairs)


def _dual(
    f: jax.Array, g: jax.Array, costs: jax.Array, of_x: jax.Array, of_y: jax.Array, epsilon: jax.Array
) -> jax.Array:
    """The dual objective: as it is flat at its maximum, an error of the potentials is squared, and so its derivative
    by everything else is that of the maximum.
    """
    plan = of_x[:, None] * of_y[None, :] * jnp.expm1((f[:, None] + g[None, :] - costs) / epsilon)
    return jnp.sum(of_x * f) + jnp.sum(of_y * g) - epsilon * jnp.sum(plan)


def sinkhorn_divergence(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    epsilon: ArrayLike = 0.05,
    relative: bool = True,
    tolerance: ArrayLike = 1e-3,
    iterations: int = 2000,
    prediction_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Optimal transport between samples, smoothed by an entropy and freed of the bias that this brings.

    .. math:: \mathrm{OT}_\epsilon(x, y) - \tfrac12 \mathrm{OT}_\epsilon(x, x) - \tfrac12 \mathrm{OT}_\epsilon(y, y),
        \quad \mathrm{OT}_\epsilon = \min_{P} \sum_{ij} P_{ij} \|x_i - y_j\|^2
        + \epsilon\,\mathrm{KL}(P \,\|\, a \otimes b)

    Between the squared Wasserstein distance (epsilon to 0) and the squared distance of means (to infinity): it has a
    useful gradient where samples do not overlap, at the price of O((n + m)^2) memory and some hundred iterations; with
    one coordinate `wasserstein_1d` is exact, with many `sliced_wasserstein` is cheap. It needs ott-jax, `pip install
    "lossax[ott]"`, and is its `sinkhorn_divergence`. geomloss halves the cost at `p=2`, where epsilon is `blur**2`.

    The gradient is that of the optimum, as if potentials were constant, and not that of the iterations: exact up to
    the tolerance, and of no use for second derivatives.

    Args:
      predictions: Sample of the estimate, float `[..., n, d]`, in any order.
      targets: Sample of the truth, real `[..., m, d]`, in any order.
      epsilon: Strength of the entropy, positive.
      relative: Whether that is in units of the mean cost between the samples, through which there is no gradient.
      tolerance: Error of the marginals at which the iteration ends, positive.
      iterations: At which it ends at the latest.
      prediction_weights: Weight of each prediction, float `[..., n]`; one of weight 0 does not exist, be it NaN.
      target_weights: Weight of each target, float `[..., m]`.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative, 0 for samples without weight.

    Raises:
      ImportError: if ott-jax is not installed.
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes do not fit, a sample is empty, a hyperparameter is not positive or a known weight is
        negative.

    Example:
      >>> import jax.numpy as jnp
      >>> x, y = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]])
      >>> sinkhorn_divergence(x, y).item()  # one point each: 3^2 + 4^2
      25.0

    Reference:
      Genevay, Peyré and Cuturi, *Learning generative models with Sinkhorn divergences*, 2018; Feydy et al.,
      *Interpolating between optimal transport and MMD using Sinkhorn divergences*, 2019.
    """
    _check.positive(epsilon=epsilon, tolerance=tolerance)
    _check.count(iterations=iterations)
    predictions, targets = samples(where, predictions, targets, 2)
    _, epsilon, threshold = masked(None, predictions, epsilon, tolerance)
    x, of_x, total = weighted(where, predictions, 2, prediction_weights=prediction_weights)
    y, of_y, other = weighted(where, targets, 2, target_weights=target_weights)

    def unit(x, y, of_x, of_y):
        costs = _costs(x, y)
        strength = epsilon
        if relative:
            mean = lax.stop_gradient(jnp.sum(of_x[:, None] * of_y[None, :] * costs))
            strength = epsilon * jnp.where(mean > 0, mean, 1)
        fixed = lax.stop_gradient((x, y, of_x, of_y, strength))
        between, own, others = lax.stop_gradient(_potentials(*fixed, threshold=threshold, max_iterations=iterations))
        value = _dual(*between, costs, of_x, of_y, strength)
        value = value - 0.5 * _dual(*own, _costs(x, x), of_x, of_x, strength)
        return positive_part(value - 0.5 * _dual(*others, _costs(y, y), of_y, of_y, strength))

    values = over_sets(unit, x.ndim - 2)(x, y, of_x, of_y)
    return reduce(of_something(values, total, other), where, weights, reduction)
