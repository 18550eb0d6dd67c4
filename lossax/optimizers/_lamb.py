"""LAMB: Adam with layer-wise trust ratios."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree, _trust
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class LambState(NamedTuple):
    """Number of updates, first and second moments of the gradient, and the mass of each (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_lamb(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-6,
    eps_root: Hyperparameter = 0.0,
    min_norm: Hyperparameter = 0.0,
    max_norm: Hyperparameter = float("inf"),
    trust_ratio_mask: Mask | None = None,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Direction of `lamb`, unscaled and ascending.

    .. math:: d = \frac{\phi(\lVert w \rVert)}{\lVert u \rVert}\, u, \qquad
      u = \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon) + \lambda w

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      min_norm: Least norm that a parameter is taken to have, nonnegative.
      max_norm: Largest norm that a parameter is taken to have, positive; infinity is none.
      trust_ratio_mask: Parameters whose steps are scaled: booleans or a function of the parameters; `None` is all.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decay as a part of the scaled direction, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      A transformation with state `LambState`; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_lamb(eps=0.0)
      >>> params = jnp.array([4.0, 0.0])
      >>> updates, _ = tx.update(jnp.array([0.0, 3.0]), tx.init(params), params)
      >>> updates.tolist()
      [0.0, 4.0]

    Reference:
      You et al., *Large batch optimization for deep learning: training BERT in 76 minutes*, 2020.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, eps_root=eps_root, min_norm=min_norm, weight_decay=weight_decay)
    _check.positive(max_norm=max_norm)

    def init(params: PyTree) -> LambState:
        return LambState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        _tree.require_params(params, "steps are in proportion to their norms")
        take1, take2 = 1.0 - _hyper.at(state.step, b1), 1.0 - _hyper.at(state.step, b2)
        mu = _tree.approach(updates, jax.tree.map(_tree.widen, state.mu), take1)
        nu = _tree.approach(updates, state.nu, take2, order=2)
        mu_mass, nu_mass = (_tree.approach_one(m, t) for m, t in ((state.mu_mass, take1), (state.nu_mass, take2)))

        def direction(_, m, v, p, decays, mu_mass, nu_mass, eps, eps_root, shrink):
            u = (m / mu_mass) / (_numerics.positive_sqrt(v / nu_mass + eps_root) + eps)
            if not _hyper.is_zero(weight_decay):
                u = u + jnp.where(decays, shrink * p, 0)
            return u

        decays, trusts = (_tree.resolve_mask(mask, params) for mask in (weight_decay_mask, trust_ratio_mask))
        at = lambda *values: tuple(_hyper.at(state.step, value) for value in values)  # noqa: E731
        own = (mu_mass, nu_mass, *at(eps, eps_root, weight_decay))
        directions = _tree.map(direction, updates, mu, nu, params, decays, scalars=own)
        directions = _trust.scaled(directions, params, trusts, (1.0, 0.0, *at(min_norm, max_norm)))
        mu = _tree.cast_like(mu, state.mu)
        return _tree.cast_like(directions, updates), LambState(_tree.increment(state.step), mu, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def lamb(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-6,
    eps_root: Hyperparameter = 0.0,
    min_norm: Hyperparameter = 0.0,
    max_norm: Hyperparameter = float("inf"),
    trust_ratio_mask: Mask | None = None,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam whose steps are in proportion to the weights of each leaf: for batches of thousands.

    .. math::
      u = \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon) + \lambda w, \qquad
      \Delta = -\eta\, \frac{\phi(\lVert w \rVert)}{\lVert u \rVert}\, u, \qquad
      \phi(x) = \min(\max(x, \mathit{least}), \mathit{most})

    with :math:`m` and :math:`v` as in `adam`. Where a norm is zero the ratio is one. Below such batches `adamw` is the
    simpler choice. Biases and norms are commonly left out of both:
    `trust_ratio_mask=path_mask(exclude="bias|scale")`, and the same for `weight_decay_mask`.

    Decay is inside the ratio, as in the paper and Optax, not after it as elsewhere in this library. The paper's
    :math:`\phi` is `max_norm=10.0`; Optax has none.

    Args:
      learning_rate: Size of a step relative to the weights, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      min_norm: Least norm that a parameter is taken to have, nonnegative.
      max_norm: Largest norm that a parameter is taken to have, positive; infinity is none.
      trust_ratio_mask: Parameters whose steps are scaled: booleans or a function of the parameters; `None` is all.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decay as a part of the scaled direction, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = lamb(0.5, eps=0.0)
      >>> params = jnp.array([4.0, 0.0])
      >>> updates, _ = tx.update(jnp.array([0.0, 3.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.0, -2.0]

    Reference:
      You et al., *Large batch optimization for deep learning: training BERT in 76 minutes*, 2020.
    """
    direction = scale_by_lamb(
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        min_norm=min_norm,
        max_norm=max_norm,
        trust_ratio_mask=trust_ratio_mask,
        mu_dtype=mu_dtype,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
    )
    return assemble(direction, learning_rate)
