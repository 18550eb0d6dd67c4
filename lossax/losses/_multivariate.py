"""Divergences between normal distributions of vectors, by Cholesky factors: one unit per vector."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lossax import _check, _linalg
from lossax._numerics import log_ratio, x_minus_log1p
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _multivariate(error: jax.Array, factors: jax.Array, others: jax.Array) -> jax.Array:
    r"""KL of N(0, L' L'^T) from N(error, L L^T).

    With V = L^{-1} (L' - L), which keeps its digits where the two are close, it is half of |V|^2 + |L^{-1} error|^2
    and the sum of v - log(1 + v) over the diagonal of V.
    """
    turned = _linalg.solve_lower(factors, others - factors)
    diagonal = jnp.diagonal(factors, axis1=-2, axis2=-1)
    v = jnp.diagonal(turned, axis1=-2, axis2=-1)
    near = (v >= -0.5) & (v <= 1.0)
    close = x_minus_log1p(jnp.where(near, v, 0))
    log = log_ratio(jnp.diagonal(others, axis1=-2, axis2=-1), diagonal)
    excess = jnp.sum(jnp.where(near, close, v - log), axis=-1)
    shift = _linalg.solve_lower(factors, error[..., None])
    return excess + 0.5 * (jnp.sum(jnp.square(turned), axis=(-2, -1)) + jnp.sum(jnp.square(shift), axis=(-2, -1)))


def _triangle(factors: jax.Array, name: str) -> jax.Array:
    """The lower triangle, NaN where the diagonal of a traced one is not positive."""
    diagonal = jnp.diagonal(factors, axis1=-2, axis2=-1)
    known = _check.domain("positive", lambda x: x > 0, **{f"the diagonal of {name}": diagonal})
    bad = jnp.isnan(known)[..., None] | jnp.zeros_like(factors, bool)
    lower = np.tri(factors.shape[-1], dtype=bool).reshape((1,) * (factors.ndim - 2) + factors.shape[-2:])
    lower = lower | jnp.zeros_like(factors, bool)  # sharded like the factors
    return jnp.where(bad, jnp.nan, jnp.where(lower, factors, 0))


def multivariate_gaussian_kl(
    means: jax.Array,
    cholesky: jax.Array,
    target_means: jax.Array,
    target_cholesky: jax.Array,
    *,
    reverse: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Kullback-Leibler divergence between normal distributions of vectors, by the Cholesky factors of covariances.

    .. math:: \mathrm{KL}(N_t \,\|\, N) = \tfrac12 \left(\mathrm{tr}(\Sigma^{-1} \Sigma_t) - d
        - \log\det(\Sigma^{-1} \Sigma_t) + (\mu - \mu_t)^\top \Sigma^{-1} (\mu - \mu_t)\right), \qquad
        \Sigma = L L^\top, \qquad \text{reverse: } \mathrm{KL}(N \,\|\, N_t)

    Truth first, as in `kl_divergence`. The factors are torch's `scale_tril`; `jnp.linalg.cholesky` makes them from
    covariances, and what is above their diagonal is ignored. Covariances without correlation are `gaussian_kl`, summed.

    Args:
      means: Estimated means, float `[..., d]`.
      cholesky: Lower triangular factors L of the estimated covariances, float `[..., d, d]`, positive diagonal.
      target_means: True means, real `[..., d]`.
      target_cholesky: Lower triangular factors of the true covariances, real `[..., d, d]`, positive diagonal.
      reverse: Whether the estimate comes first.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `means` or `cholesky` are not floating point.
      ValueError: if shapes do not fit or a known diagonal is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> means, factors = jnp.array([2.0, 3.0]), jnp.array([[1.0, 0.0], [1.0, 1.0]])
      >>> multivariate_gaussian_kl(means, factors, jnp.zeros(2), factors).item()  # (2^2 + (3 - 2)^2) / 2
      2.5

    Reference:
      Kullback, *Information theory and statistics*, 1959.
    """
    _check.floating(means=means, cholesky=cholesky)
    _check.real(target_means=target_means, target_cholesky=target_cholesky)
    _check.same_shape(means=means, target_means=target_means)
    _check.same_shape(cholesky=cholesky, target_cholesky=target_cholesky)
    _check.units_of({"cholesky": cholesky}, means=means)
    if _check.spec(cholesky)[0][-2:] != 2 * _check.spec(means)[0][-1:]:
        shape = list(_check.spec(cholesky)[0])
        raise ValueError(f"cholesky and target_cholesky must be square matrices, got {shape}")
    means, target_means = masked(where, means, target_means, event=1)
    # Filled with ones, whose lower triangle is a factor.
    factors, others = masked(where, cholesky, target_cholesky, event=2, fill=1.0)
    factors = _triangle(factors.astype(means.dtype), "cholesky")
    others = _triangle(others.astype(means.dtype), "target_cholesky")
    pair = (others, factors) if reverse else (factors, others)
    return reduce(_multivariate(means - target_means, *pair), where, weights, reduction)
