"""Adadelta."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class AdadeltaState(NamedTuple):
    """Number of updates, and the averages of the squared gradients and of the squared steps."""

    step: jax.Array
    nu: PyTree
    delta: PyTree


def scale_by_adadelta(*, rho: Hyperparameter = 0.9, eps: Hyperparameter = 1e-6) -> optax.GradientTransformation:
    r"""Direction of `adadelta`, unscaled and ascending.

    .. math:: d = \sqrt{s + \epsilon} / \sqrt{v + \epsilon}\; g

    Args:
      rho: Share of the past that the averages keep, in [0, 1).
      eps: Added under both roots, nonnegative: it sets the first steps.

    Returns:
      A transformation with state `AdadeltaState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adadelta(rho=0.0, eps=9.0)
      >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> round(updates[0].item(), 6)  # 3 / 5 * 4
      2.4

    Reference:
      Zeiler, *ADADELTA: an adaptive learning rate method*, 2012.
    """
    _check.decay(rho=rho)
    _check.nonnegative(eps=eps)

    def init(params: PyTree) -> AdadeltaState:
        return AdadeltaState(
            step=jnp.zeros((), jnp.int32),
            nu=_tree.zeros_like(params, real=True),
            delta=_tree.zeros_like(params, real=True),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        keep = _hyper.at(state.step, rho)
        nu = _tree.moment(updates, state.nu, keep, order=2)

        def direction(g, v, s, eps):
            least = jnp.finfo(v.dtype).tiny  # a root of 0 has no derivative
            return jnp.sqrt(jnp.maximum(s + eps, least)) / jnp.sqrt(jnp.maximum(v + eps, least)) * g

        directions = _tree.map(direction, updates, nu, state.delta, scalars=(_hyper.at(state.step, eps),))
        delta = _tree.moment(directions, state.delta, keep, order=2)
        return _tree.cast_like(directions, updates), AdadeltaState(_tree.increment(state.step), nu, delta)

    return optax.GradientTransformation(init, update)


def adadelta(
    learning_rate: Hyperparameter,
    *,
    rho: Hyperparameter = 0.9,
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps as long as recent steps: no rate to tune in principle, and slow to start.

    .. math::
      v \leftarrow \rho v + (1 - \rho) g^2, \quad
      u = \sqrt{s + \epsilon} / \sqrt{v + \epsilon}\; g, \quad
      s \leftarrow \rho s + (1 - \rho) u^2, \quad
      \Delta = -\eta\, u

    The rate is 1 in the paper and in torch. `adam` replaced it. The defaults are Optax's and torch's; Keras has
    `rho=0.95, eps=1e-7`. Optax and torch add decay to the gradient, here it is decoupled:
    `chain(optax.add_decayed_weights(decay), adadelta(rate))` is theirs.

    Args:
      learning_rate: Factor on every step, nonnegative.
      rho: Share of the past that the averages keep, in [0, 1).
      eps: Added under both roots, nonnegative: it sets the first steps.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adadelta(0.5, rho=0.0, eps=9.0)
      >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> round(updates[0].item(), 6)
      -1.2

    Reference:
      Zeiler, *ADADELTA: an adaptive learning rate method*, 2012.
    """
    return assemble(scale_by_adadelta(rho=rho, eps=eps), learning_rate, weight_decay, weight_decay_mask)
