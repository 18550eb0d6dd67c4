"""ADOPT: Adam that converges at any b2."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AdoptState(NamedTuple):
    """Number of updates, average of the normalised gradients, and second moment of the gradient."""

    step: jax.Array
    mu: PyTree
    nu: PyTree


def scale_by_adopt(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.9999,
    eps: Hyperparameter = 1e-6,
    clip_threshold: Hyperparameter | None = None,
    nesterov: bool = False,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `adopt`, unscaled and ascending.

    .. math:: d \leftarrow \beta_1 d + (1 - \beta_1)\, \mathrm{clip}\big(g / \max(\sqrt v, \epsilon),\, -c,\, c\big)

    Args:
      b1: Share of the past that the average keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Least root, nonnegative.
      clip_threshold: Largest size of a normalised gradient, positive; infinity is none, `None` is
        :math:`t^{1/4}` after :math:`t` updates.
      nesterov: Whether the average looks one step ahead.
      mu_dtype: Dtype of the average; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `AdoptState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adopt(b1=0.0)
      >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()  # nothing yet to divide by
      [0.0]
      >>> tx.update(jnp.array([2.0]), state)[0].tolist()
      [0.5]

    Reference:
      Taniguchi et al., *ADOPT: modified Adam can converge with any b2 with the optimal rate*, 2024.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps)
    if clip_threshold is not None:
        _check.positive(clip_threshold=clip_threshold)

    def init(params: PyTree) -> AdoptState:
        return AdoptState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        first = state.step == 0
        decay = _hyper.at(state.step, b1)
        if clip_threshold is None:
            bound = jnp.sqrt(jnp.sqrt(_hyper.scalar(state.step)))
        else:
            bound = _hyper.scalar(_hyper.at(state.step, clip_threshold))
        bound = jnp.where(first, 0, bound)

        def normalized(g, v, eps, bound):
            u = g / jnp.maximum(_numerics.positive_sqrt(v), eps)
            if jnp.iscomplexobj(u):
                size = _tree.absolute(u)
                return jnp.where(size > bound, u * _numerics.divide(bound, size), u)
            return jnp.clip(u, -bound, bound)

        steps = _tree.map(normalized, updates, state.nu, scalars=(_hyper.at(state.step, eps), bound))
        mu = _tree.moment(steps, jax.tree.map(_tree.widen, state.mu), decay)
        take = _hyper.scalar(1.0 - _hyper.at(state.step, b2))
        nu = _tree.approach(updates, state.nu, jnp.where(first, 1, take), order=2)
        directions = _tree.moment(steps, mu, decay) if nesterov else mu
        directions = _tree.cast_like(_tree.map(lambda _, m: m, updates, directions), updates)
        return directions, AdoptState(_tree.increment(state.step), _tree.cast_like(mu, state.mu), nu)

    return optax.GradientTransformation(init, update)


def adopt(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.9999,
    eps: Hyperparameter = 1e-6,
    clip_threshold: Hyperparameter | None = None,
    nesterov: bool = False,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that divides each gradient by the moment of those before it: it converges whatever `b2`.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1)\, \mathrm{clip}\big(g / \max(\sqrt v, \epsilon),\, -c,\, c\big), \quad
      v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      \Delta = -\eta\, m

    A drop-in for `adamw` where that is unstable. The first gradient starts :math:`v`, and only decay moves the
    parameters then. The clip keeps the first steps of a coordinate short whose gradient was small at first. As in the
    paper nothing is divided by its mass. Optax's `use_clipping=False` is `clip_threshold=inf`, its `clip_value_fn` a
    schedule there, and it has no decay: the paper's is decoupled, as here.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Least root, nonnegative.
      clip_threshold: Largest size of a normalised gradient, positive; infinity is none, `None` is
        :math:`t^{1/4}` after :math:`t` updates.
      nesterov: Whether the average looks one step ahead.
      mu_dtype: Dtype of the average; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adopt(0.5, b1=0.0)
      >>> updates, state = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> tx.update(jnp.array([2.0]), state)[0].tolist()
      [-0.25]

    Reference:
      Taniguchi et al., *ADOPT: modified Adam can converge with any b2 with the optimal rate*, 2024.
    """
    direction = scale_by_adopt(
        b1=b1, b2=b2, eps=eps, clip_threshold=clip_threshold, nesterov=nesterov, mu_dtype=mu_dtype
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
