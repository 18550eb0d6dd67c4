"""LARS: momentum with layer-wise trust ratios."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree, _trust
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class LarsState(NamedTuple):
    """Number of updates, and the trace of the scaled gradients."""

    step: jax.Array
    trace: PyTree


def scale_by_lars(
    *,
    trust_coefficient: Hyperparameter = 0.001,
    eps: Hyperparameter = 0.0,
    min_norm: Hyperparameter = 0.0,
    max_norm: Hyperparameter = float("inf"),
    trust_ratio_mask: Mask | None = None,
    momentum: Hyperparameter = 0.9,
    nesterov: bool = False,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Direction of `lars`, unscaled and ascending.

    .. math:: d \leftarrow \mu d + \frac{\kappa\, \phi(\lVert w \rVert)}{\lVert u \rVert + \epsilon}\, u, \qquad
      u = g + \lambda w

    Args:
      trust_coefficient: Size of a step before momentum, relative to the weights, nonnegative.
      eps: Added to the norm of the gradient, nonnegative.
      min_norm: Least norm that a parameter is taken to have, nonnegative.
      max_norm: Largest norm that a parameter is taken to have, positive; infinity is none.
      trust_ratio_mask: Parameters whose steps are scaled: booleans or a function of the parameters; `None` is all.
      momentum: Share of the trace that is left after a step, in [0, 1).
      nesterov: Whether the direction looks one step ahead.
      weight_decay: Decay as a part of the scaled gradient, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      A transformation with state `LarsState`; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_lars(trust_coefficient=0.5)
      >>> params = jnp.array([4.0, 0.0])
      >>> updates, _ = tx.update(jnp.array([0.0, 64.0]), tx.init(params), params)
      >>> updates.tolist()
      [0.0, 2.0]

    Reference:
      You, Gitman and Ginsburg, *Large batch training of convolutional networks*, 2017.
    """
    _check.decay(momentum=momentum)
    _check.nonnegative(trust_coefficient=trust_coefficient, eps=eps, min_norm=min_norm, weight_decay=weight_decay)
    _check.positive(max_norm=max_norm)

    def init(params: PyTree) -> LarsState:
        return LarsState(jnp.zeros((), jnp.int32), _tree.zeros_like(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        _tree.require_params(params, "steps are in proportion to their norms")

        def decayed(g, p, decays, shrink):
            return g if _hyper.is_zero(weight_decay) else g + jnp.where(decays, shrink * p, 0)

        decays, trusts = (_tree.resolve_mask(mask, params) for mask in (weight_decay_mask, trust_ratio_mask))
        shrink, *trust = (_hyper.at(state.step, x) for x in (weight_decay, trust_coefficient, eps, min_norm, max_norm))
        taken = _tree.map(decayed, updates, params, decays, scalars=(shrink,))
        taken = _trust.scaled(taken, params, trusts, tuple(trust))
        keep = (_hyper.at(state.step, momentum),)
        fade = (1.0 - keep[0],)
        trace = _tree.map(lambda m, u, fade: (m - fade * m) + u, state.trace, taken, scalars=fade)
        directions = _tree.map(lambda u, m, keep: keep * m + u if nesterov else m, taken, trace, scalars=keep)
        return _tree.cast_like(directions, updates), LarsState(_tree.increment(state.step), trace)

    return optax.GradientTransformation(init, update)


def lars(
    learning_rate: Hyperparameter,
    *,
    trust_coefficient: Hyperparameter = 0.001,
    eps: Hyperparameter = 0.0,
    min_norm: Hyperparameter = 0.0,
    max_norm: Hyperparameter = float("inf"),
    trust_ratio_mask: Mask | None = None,
    momentum: Hyperparameter = 0.9,
    nesterov: bool = False,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum whose steps are in proportion to the weights of each leaf: for images in batches of thousands.

    .. math::
      u = g + \lambda w, \qquad
      m \leftarrow \mu m + \frac{\kappa\, \phi(\lVert w \rVert)}{\lVert u \rVert + \epsilon}\, u, \qquad
      \Delta = -\eta\, m, \qquad \phi(x) = \min(\max(x, \mathit{least}), \mathit{most})

    Where a norm is zero the ratio, :math:`\kappa` included, is one. Biases and norms are commonly left out of both:
    `trust_ratio_mask=path_mask(exclude="bias|scale")`, and the same for `weight_decay_mask`.

    Decay is inside the ratio, as in Optax, not after it as elsewhere in this library; the paper divides by
    :math:`\lVert g \rVert + \lambda \lVert w \rVert`. Optax and the paper multiply by the rate before momentum: the
    same where the rate is constant.

    Args:
      learning_rate: Factor on every step, nonnegative.
      trust_coefficient: Size of a step before momentum, relative to the weights, nonnegative.
      eps: Added to the norm of the gradient, nonnegative.
      min_norm: Least norm that a parameter is taken to have, nonnegative.
      max_norm: Largest norm that a parameter is taken to have, positive; infinity is none.
      trust_ratio_mask: Parameters whose steps are scaled: booleans or a function of the parameters; `None` is all.
      momentum: Share of the trace that is left after a step, in [0, 1).
      nesterov: Whether the direction looks one step ahead.
      weight_decay: Decay as a part of the scaled gradient, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = lars(0.25, trust_coefficient=0.5)
      >>> params = jnp.array([4.0, 0.0])
      >>> updates, _ = tx.update(jnp.array([0.0, 64.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.0, -0.5]

    Reference:
      You, Gitman and Ginsburg, *Large batch training of convolutional networks*, 2017.
    """
    direction = scale_by_lars(
        trust_coefficient=trust_coefficient,
        eps=eps,
        min_norm=min_norm,
        max_norm=max_norm,
        trust_ratio_mask=trust_ratio_mask,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
    )
    return assemble(direction, learning_rate)
