"""StableAdamW: AdamW with update clipping."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class StableAdamwState(NamedTuple):
    """Number of updates, first and second moments of the gradient, and the mass of each (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_stable_adamw(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-6,
    clip_threshold: Hyperparameter = 1.0,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `stable_adamw`, unscaled and ascending.

    .. math:: d = \frac{\hat m}{\sqrt{\hat v} + \epsilon} \Big/ \max\big(1,\, \mathrm{rms}(g / \sqrt{\hat v}) / c\big)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, and the least root in the root mean square, nonnegative.
      clip_threshold: Root mean square of normalised gradients that shortens the step of a leaf, positive.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `StableAdamwState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_stable_adamw(eps=0.0, clip_threshold=0.5)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [0.5]

    Reference:
      Wortsman et al., *Stable and low-precision training for large-scale vision-language models*, 2023.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps)
    _check.positive(clip_threshold=clip_threshold)

    def init(params: PyTree) -> StableAdamwState:
        return StableAdamwState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay1, decay2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay1)
        nu = _tree.moment(updates, state.nu, decay2, order=2)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)

        def direction(g, m, v, mu_mass, nu_mass, eps, limit):
            root = _numerics.positive_sqrt(v / nu_mass)
            size = _tree.rms(g / jnp.maximum(root, eps))
            return (m / mu_mass) / (root + eps) / jnp.maximum(size / limit, 1.0)

        scalars = (mu_mass, nu_mass, _hyper.at(state.step, eps), _hyper.at(state.step, clip_threshold))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, nu, scalars=scalars), updates)
        mu = _tree.cast_like(mu, state.mu)
        return directions, StableAdamwState(_tree.increment(state.step), mu, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def stable_adamw(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-6,
    clip_threshold: Hyperparameter = 1.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 1e-2,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW that shortens the step of a leaf whose second moment lags behind: instead of clipping gradients.

    .. math::
      \Delta = -\eta\, \Big(\frac{\hat m}{\sqrt{\hat v} + \epsilon} \Big/
      \max\big(1,\, \mathrm{rms}(g / \max(\sqrt{\hat v}, \epsilon)) / c\big) + \lambda w\Big)

    with :math:`m` and :math:`v` as in `adam`, and the root mean square over a leaf. For large models whose loss has
    spikes. In the paper the shorter step decays less too; here decay is the same at every step.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, and the least root in the root mean square, nonnegative.
      clip_threshold: Root mean square of normalised gradients that shortens the step of a leaf, positive.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = stable_adamw(0.5, eps=0.0, clip_threshold=0.5, weight_decay=0.5)
      >>> params = jnp.array([1.0])
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.5]

    Reference:
      Wortsman et al., *Stable and low-precision training for large-scale vision-language models*, 2023.
    """
    direction = scale_by_stable_adamw(b1=b1, b2=b2, eps=eps, clip_threshold=clip_threshold, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
