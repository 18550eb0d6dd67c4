"""CAME: Adafactor with confidence."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lossax import _check, _factored, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class CameState(NamedTuple):
    """Number of updates, second moment, instability (of matrices: row and column), and average direction."""

    step: jax.Array
    nu: PyTree
    instability: PyTree
    mu: PyTree


def scale_by_came(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter = 0.9999,
    eps: Hyperparameter = 1e-30,
    eps_instability: Hyperparameter = 1e-16,
    clip_threshold: Hyperparameter = 1.0,
    min_dim_size_to_factor: int = 1,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `came`, unscaled and ascending.

    .. math:: d = m / \sqrt S

    Args:
      b1: Share of the past that the average direction keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      b3: Share of the past that the instability keeps, in [0, 1).
      eps: Added to the squared gradient, nonnegative.
      eps_instability: Added to the squared deviation, nonnegative.
      clip_threshold: Root mean square to which a larger normalised gradient is shrunk, positive; infinity is none.
      min_dim_size_to_factor: Length that the last two axes need for moments to be factored, positive.
      mu_dtype: Dtype of the average direction; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `CameState`.

    Raises:
      TypeError: if `min_dim_size_to_factor` is no Python integer.
      ValueError: if a known argument is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_came(b1=0.75, b3=0.0)
      >>> updates, _ = tx.update(jnp.array([[3.0], [-4.0]]), tx.init(jnp.ones((2, 1))))
      >>> [round(u.item(), 4) for u in updates[:, 0]]  # an average of 0.25, from which 1 is 0.75 away
      [0.3333, -0.3333]

    Reference:
      Luo, Ren, Zheng, Jiang, Jiang and You, *CAME: confidence-guided adaptive memory efficient optimization*, 2023.
    """
    _check.count(min_dim_size_to_factor=min_dim_size_to_factor)
    _check.decay(b1=b1, b2=b2, b3=b3)
    _check.nonnegative(eps=eps, eps_instability=eps_instability)
    _check.positive(clip_threshold=clip_threshold)

    def axes_of(leaf: Any) -> tuple[int, int] | None:
        return _factored.axes(np.shape(leaf), "last", min_dim_size_to_factor) if _tree.is_number(leaf) else None

    def over(f, tree, *rest):
        return jax.tree.map(f, tree, *rest, is_leaf=lambda x: x is None)

    def averaged(x, moment, decay, floor):
        """With |x|^2; as it was where a leaf takes no part."""
        if not _tree.is_number(x) or moment is None:
            return moment
        x, real = _tree.widen(x), _tree.wide_dtype(x, real=True)
        share, square = jnp.asarray(1.0 - decay, real), _tree.square(x) + jnp.asarray(floor, real)
        return _factored.averaged(moment, square, share, axes_of(x))

    def init(params: PyTree) -> CameState:
        return CameState(
            step=jnp.zeros((), jnp.int32),
            nu=over(lambda p: _factored.zeros(p, axes_of(p)), params),
            instability=over(lambda p: _factored.zeros(p, axes_of(p)) if axes_of(p) else None, params),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay1, decay2, decay3 = (_hyper.at(state.step, value) for value in (b1, b2, b3))
        floor, small = _hyper.at(state.step, eps), _hyper.at(state.step, eps_instability)

        def normalized(g, v, floor, limit):
            u = _factored.normalized(g, v, floor, axes_of(g))
            return u / jnp.maximum(_tree.rms(u) / limit, 1.0)

        nu = over(lambda g, v: averaged(g, v, decay2, floor), updates, state.nu)
        steps = _tree.map(normalized, updates, nu, scalars=(floor, _hyper.at(state.step, clip_threshold)))
        before = jax.tree.map(_tree.widen, state.mu)
        # The step minus the new average, without the rounding of that.
        deviation = _tree.map(lambda u, m, keep: keep * (u - m), steps, before, scalars=(decay1,))
        mu = _tree.approach(steps, before, 1.0 - decay1)
        instability = over(lambda d, s: averaged(d, s, decay3, small), deviation, state.instability)

        def direction(g, m, s):
            if not _tree.is_number(g) or s is None:
                return m if _tree.is_number(g) else g
            return _numerics.divide(m, _factored.root(s, axes_of(g)))

        directions = _tree.cast_like(over(direction, updates, mu, instability), updates)
        return directions, CameState(_tree.increment(state.step), nu, instability, _tree.cast_like(mu, state.mu))

    return optax.GradientTransformation(init, update)


def came(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter = 0.9999,
    eps: Hyperparameter = 1e-30,
    eps_instability: Hyperparameter = 1e-16,
    clip_threshold: Hyperparameter = 1.0,
    min_dim_size_to_factor: int = 1,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adafactor's memory with momentum, and longer steps where normalised gradients agree with their average.

    .. math::
      u = \frac{g}{\sqrt v} \Big/ \max\big(1,\, \mathrm{rms}(g / \sqrt v) / c\big), \qquad
      m \leftarrow \beta_1 m + (1 - \beta_1) u, \qquad \Delta = -\eta\, m / \sqrt S

    where :math:`v` averages :math:`g^2 + \epsilon` with :math:`\beta_2`, and the instability :math:`S` averages
    :math:`(u - m)^2 + \epsilon_S` with :math:`\beta_3`, each kept as the means of its rows and of its columns, as in
    `adafactor`. Vectors are not factored and have no :math:`S`.

    For large language models; the paper's rate is 2e-4. Nothing is divided by its mass, so :math:`S` starts near 0 and
    the first steps are ten times as long as later ones: warm the rate up.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average direction keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      b3: Share of the past that the instability keeps, in [0, 1).
      eps: Added to the squared gradient, nonnegative.
      eps_instability: Added to the squared deviation, nonnegative.
      clip_threshold: Root mean square to which a larger normalised gradient is shrunk, positive; infinity is none.
      min_dim_size_to_factor: Length that the last two axes need for moments to be factored, positive.
      mu_dtype: Dtype of the average direction; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      TypeError: if `min_dim_size_to_factor` is no Python integer.
      ValueError: if a known argument is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = came(0.5, b1=0.75, b3=0.0)
      >>> updates, _ = tx.update(jnp.array([[3.0], [-4.0]]), tx.init(jnp.ones((2, 1))))
      >>> [round(u.item(), 4) for u in updates[:, 0]]  # an average of 0.25, from which 1 is 0.75 away
      [-0.1667, 0.1667]

    Reference:
      Luo, Ren, Zheng, Jiang, Jiang and You, *CAME: confidence-guided adaptive memory efficient optimization*, 2023.
    """
    direction = scale_by_came(
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        eps_instability=eps_instability,
        clip_threshold=clip_threshold,
        min_dim_size_to_factor=min_dim_size_to_factor,
        mu_dtype=mu_dtype,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
