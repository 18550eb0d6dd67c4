"""MARS: variance reduction in front of AdamW or Lion."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class MarsState(NamedTuple):
    """Number of updates, first and second moments (Lion: `None`) of the corrected gradient, last gradient, masses."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    gradient: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_mars(
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.99,
    gamma: Hyperparameter = 0.025,
    eps: Hyperparameter = 1e-8,
    max_norm: Hyperparameter = 1.0,
    base: Literal["adamw", "lion"] = "adamw",
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `mars`, unscaled and ascending.

    .. math:: d = \hat m / (\sqrt{\hat v} + \epsilon) \quad\text{or}\quad d = \mathrm{sign}(m)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      gamma: Share of the correction for the change of the gradient, nonnegative.
      eps: Added to the root, nonnegative.
      max_norm: Norm of a leaf that a longer corrected gradient is shrunk to, positive; infinity is none.
      base: Whether the step is that of `"adamw"` or of `"lion"`, which has no second moment.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `MarsState`.

    Raises:
      ValueError: if a known argument is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_mars(b1=0.5, gamma=1.0, base="lion")
      >>> _, state = tx.update(jnp.array([0.5]), tx.init(jnp.array([1.0])))
      >>> updates, state = tx.update(jnp.array([0.25]), state)
      >>> updates.tolist(), state.mu.tolist()  # 0.5 * 0.25 + 0.5 * (0.25 + (0.25 - 0.5))
      ([1.0], [0.125])

    Reference:
      Yuan, Liu, Wu, Zhou and Gu, *MARS: unleashing the power of variance reduction for training large models*, 2024.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(gamma=gamma, eps=eps)
    _check.positive(max_norm=max_norm)
    _check.choice(("adamw", "lion"), base=base)

    def init(params: PyTree) -> MarsState:
        return MarsState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True) if base == "adamw" else None,
            gradient=_tree.zeros_like(params),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        first = state.step == 0
        decay, take = _hyper.at(state.step, b1), 1.0 - _hyper.at(state.step, b2)

        def corrected(g, last, share, limit):
            c = jnp.where(first, g, g + share * (g - last))
            return _tree.shorten(c, *_tree.scaled_norm(c), limit)

        share = _hyper.at(state.step, gamma) * (decay / (1.0 - decay))
        scalars = (share, _hyper.at(state.step, max_norm))
        seen = _tree.map(corrected, updates, state.gradient, scalars=scalars)
        mu, nu = _tree.approach(seen, jax.tree.map(_tree.widen, state.mu), 1.0 - decay), state.nu
        mu_mass, nu_mass = _tree.approach_one(state.mu_mass, 1.0 - decay), _tree.approach_one(state.nu_mass, take)
        if base == "adamw":
            nu = _tree.approach(seen, state.nu, take, order=2)

            def direction(_, m, v, mu_mass, nu_mass, eps):
                return (m / mu_mass) / (_numerics.positive_sqrt(v / nu_mass) + eps)

            scalars = (mu_mass, nu_mass, _hyper.at(state.step, eps))
            directions = _tree.map(direction, updates, mu, nu, scalars=scalars)
        else:
            directions = _tree.map(lambda _, m: jnp.sign(m), updates, mu)
        last = _tree.cast_like(_tree.map(lambda _, g: g, state.gradient, updates), state.gradient)
        mu = _tree.cast_like(mu, state.mu)
        state = MarsState(_tree.increment(state.step), mu, nu, last, mu_mass, nu_mass)
        return _tree.cast_like(directions, updates), state

    return optax.GradientTransformation(init, update)


def mars(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.99,
    gamma: Hyperparameter = 0.025,
    eps: Hyperparameter = 1e-8,
    max_norm: Hyperparameter = 1.0,
    base: Literal["adamw", "lion"] = "adamw",
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW or Lion on gradients corrected for their change, which lowers their variance: for language models.

    .. math::
      c = g + \gamma\, \frac{\beta_1}{1 - \beta_1} (g - g'), \quad
      \tilde c = c \min(1, \mathit{norm} / \lVert c \rVert), \quad
      m \leftarrow \beta_1 m + (1 - \beta_1) \tilde c, \quad
      v \leftarrow \beta_2 v + (1 - \beta_2) \tilde c^2

    .. math::
      \Delta = -\eta\, \hat m / (\sqrt{\hat v} + \epsilon) \quad\text{or, Lion,}\quad \Delta = -\eta\, \mathrm{sign}(m)

    where :math:`g'` is the gradient before: the paper's approximate version, with one gradient a step. It takes rates a
    few times those of `adamw`. The first gradient has no change: the paper's code takes :math:`g' = 0` there. The
    paper leaves vectors to `adamw`: `optax.partition`. Lion's sign is of the moment, not of a mix as in `lion`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      gamma: Share of the correction for the change of the gradient, nonnegative.
      eps: Added to the root, nonnegative.
      max_norm: Norm of a leaf that a longer corrected gradient is shrunk to, positive; infinity is none.
      base: Whether the step is that of `"adamw"` or of `"lion"`, which has no second moment.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = mars(0.5, base="lion", weight_decay=0.5)
      >>> params = jnp.array([1.0, 1.0])
      >>> updates, _ = tx.update(jnp.array([3.0, 0.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.75, -0.25]

    Reference:
      Yuan, Liu, Wu, Zhou and Gu, *MARS: unleashing the power of variance reduction for training large models*, 2024.
    """
    direction = scale_by_mars(b1=b1, b2=b2, gamma=gamma, eps=eps, max_norm=max_norm, base=base, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
