"""Norms of all parameters: the numbers of the tree that the mask keeps, summed in float32 at least."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossax import _check, _hyper, _numerics, _tree
from lossax._types import Mask, PyTree


def _total(f: Callable[[jax.Array], jax.Array], params: PyTree, mask: Mask | None) -> jax.Array:
    """Sum of `f`, 0 at 0, over the numbers that the mask keeps, in the widest of their dtypes; 0 if there is none."""

    def of_leaf(leaf, keep):
        return jnp.sum(f(jnp.where(keep, leaf, 0)))

    kept = _tree.map(of_leaf, params, _tree.resolve_mask(mask, params))
    sums = _tree.numbers(kept)
    dtype = max((x.dtype for x in sums), key=lambda dtype: dtype.itemsize, default=_hyper.default_float())
    return sum((x.astype(dtype) for x in sums), jnp.zeros((), dtype))


def _size(leaf: jax.Array) -> jax.Array:
    return jnp.abs(leaf) if jnp.iscomplexobj(leaf) else _numerics.absolute(leaf)


def l1(params: PyTree, *, mask: Mask | None = None) -> jax.Array:
    r"""Sum of absolute values: draws what is not needed to exactly zero, or nearly.

    .. math:: \sum_i |w_i|

    For sparse weights. The slope at 0 is 0 (`jnp.abs` has 1 there and would push weights that start at 0). Gradient
    steps hover around 0; what must be exactly 0 needs a threshold or a proximal step after it.

    Args:
      params: Tree of parameters; leaves that are no floating or complex numbers are left out.
      mask: Parameters that count: booleans or a function of the parameters (`path_mask`); `None` is all.

    Returns:
      Float scalar, float32 at least.

    Example:
      >>> import jax.numpy as jnp
      >>> l1({"kernel": jnp.array([3.0, -4.0]), "bias": jnp.array([1.0])}).item()
      8.0

    Reference:
      Tibshirani, *Regression shrinkage and selection via the lasso*, 1996.
    """
    return _total(_size, params, mask)


def l2(params: PyTree, *, mask: Mask | None = None) -> jax.Array:
    r"""Sum of squares: keeps all weights small.

    .. math:: \sum_i |w_i|^2

    Without a 1/2, like Keras' `L2` and scikit-learn's `Ridge`; with it the gradient is the weight itself, so a
    `weight_decay` of :math:`\lambda` in torch's `SGD` is :math:`\lambda / 2` times this. Under an adaptive optimizer it
    is not the decoupled decay of AdamW: there prefer `weight_decay`.

    Args:
      params: Tree of parameters; leaves that are no floating or complex numbers are left out.
      mask: Parameters that count: booleans or a function of the parameters (`path_mask`); `None` is all.

    Returns:
      Float scalar, float32 at least.

    Example:
      >>> import jax.numpy as jnp
      >>> l2({"kernel": jnp.array([3.0, -4.0]), "bias": jnp.array([1.0])}).item()
      26.0

    Reference:
      Hoerl and Kennard, *Ridge regression: biased estimation for nonorthogonal problems*, 1970.
    """
    return _total(_tree.square, params, mask)


def elastic_net(params: PyTree, *, ratio: ArrayLike, mask: Mask | None = None) -> jax.Array:
    r"""A mixture of `l1` and `l2`: sparse, and stable among correlated inputs.

    .. math:: \rho \sum_i |w_i| + \frac{1 - \rho}{2} \sum_i |w_i|^2

    The 1/2 is scikit-learn's and glmnet's, so that `alpha * elastic_net(params, ratio=l1_ratio)` is the penalty of
    `sklearn.linear_model.ElasticNet(alpha, l1_ratio)`. Zou and Hastie weigh the two sums apart, without it: that is
    `a * l1(params) + b * l2(params)`.

    Args:
      params: Tree of parameters; leaves that are no floating or complex numbers are left out.
      ratio: Share of the absolute values, in [0, 1]; may be traced.
      mask: Parameters that count: booleans or a function of the parameters (`path_mask`); `None` is all.

    Returns:
      Float scalar, float32 at least.

    Raises:
      ValueError: if a known `ratio` is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> elastic_net({"kernel": jnp.array([3.0, -4.0])}, ratio=0.5).item()  # 7 / 2 + 25 / 4
      9.75

    Reference:
      Zou and Hastie, *Regularization and variable selection via the elastic net*, 2005.
    """
    _check.fraction(ratio=ratio)
    absolute, square = l1(params, mask=mask), l2(params, mask=mask)
    ratio = jnp.asarray(ratio, absolute.dtype)
    return ratio * absolute + 0.5 * (1.0 - ratio) * square
