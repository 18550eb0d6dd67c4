"""Schedule-free SGD and AdamW."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree
from lossax.transforms._schedule_free import schedule_free


class ScheduleFreeAdamwState(NamedTuple):
    """Number of updates, second moment of the gradient, and its mass (see `_tree.mass`)."""

    step: jax.Array
    nu: PyTree
    nu_mass: jax.Array


def _scale_by_root(b2: Hyperparameter, eps: Hyperparameter) -> optax.GradientTransformation:
    """Adam's direction without the first moment."""

    def init(params: PyTree) -> ScheduleFreeAdamwState:
        mass = jnp.zeros((), _hyper.default_float())
        return ScheduleFreeAdamwState(jnp.zeros((), jnp.int32), _tree.zeros_like(params, real=True), mass)

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay = _hyper.at(state.step, b2)
        nu, mass = _tree.moment(updates, state.nu, decay, order=2), _tree.mass(state.nu_mass, decay)

        def direction(g, v, mass, eps):
            return g / (_numerics.positive_sqrt(v / mass) + eps)

        directions = _tree.map(direction, updates, nu, scalars=(mass, _hyper.at(state.step, eps)))
        return _tree.cast_like(directions, updates), ScheduleFreeAdamwState(_tree.increment(state.step), nu, mass)

    return optax.GradientTransformation(init, update)


def schedule_free_sgd(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    weight_lr_power: Hyperparameter = 2.0,
    r: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD that averages in the place of a decaying rate: `transforms.schedule_free` around `sgd`.

    .. math::
      z \leftarrow z - \eta\,(g(y) + \lambda y), \quad x \leftarrow (1 - c_t)\, x + c_t z, \quad
      y \leftarrow \beta x + (1 - \beta)\, z, \qquad c_t = w_t / \sum_{s \le t} w_s, \quad
      w_t = t^r \max_{s \le t} \eta_s^p

    Trained are the parameters :math:`y`; evaluate `transforms.eval_params(state, params)`, the average :math:`x`. Best
    rates are commonly 10 to 50 times those of SGD with momentum.

    Args:
      learning_rate: Factor on the gradient, nonnegative: constant, or a schedule that only warms up.
      b1: Share of the average in the parameters that are trained, in [0, 1).
      weight_lr_power: Power of the largest rate so far in the weights, nonnegative: steps of the warmup count less.
      r: Power of the number of the step in the weights, nonnegative: above 0 late steps count more.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = schedule_free_sgd(1.0, b1=0.5)
      >>> params = jnp.array(0.0)
      >>> state, trained = tx.init(params), []
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = params + updates
      ...     trained.append(params.item())
      >>> trained  # z = 1, 2; x = 1, 1.5
      [1.0, 1.75]

    Reference:
      Defazio et al., *The road less scheduled*, 2024.
    """
    inner = assemble(optax.identity(), learning_rate, weight_decay, weight_decay_mask)
    return schedule_free(inner, b1=b1, weight_lr_power=weight_lr_power, r=r)


def schedule_free_adamw(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    weight_lr_power: Hyperparameter = 2.0,
    r: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW that averages in the place of a decaying rate: for runs that may go on, or stop, at any time.

    .. math::
      z \leftarrow z - \eta\,\big(g(y) / (\sqrt{\hat v} + \epsilon) + \lambda y\big), \quad
      x \leftarrow (1 - c_t)\, x + c_t z, \quad y \leftarrow \beta_1 x + (1 - \beta_1)\, z

    with the weights of `schedule_free_sgd` and the second moment of `adam`, whose first it has no need of: its state is
    that of `adamw`. Trained are the parameters :math:`y`; evaluate `transforms.eval_params(state, params)`, the average
    :math:`x`. Best rates are commonly 1 to 10 times those of `adamw` under a cosine. Optax's `warmup_steps` is a
    schedule of the rate here.

    Args:
      learning_rate: Size of a step, nonnegative: constant, or a schedule that only warms up.
      b1: Share of the average in the parameters that are trained, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      weight_lr_power: Power of the largest rate so far in the weights, nonnegative: steps of the warmup count less.
      r: Power of the number of the step in the weights, nonnegative: above 0 late steps count more.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = schedule_free_adamw(0.5)
      >>> params = jnp.array([1.0])
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.5]

    Reference:
      Defazio et al., *The road less scheduled*, 2024.
    """
    _check.decay(b2=b2)
    _check.nonnegative(eps=eps)
    inner = assemble(_scale_by_root(b2, eps), learning_rate, weight_decay, weight_decay_mask)
    return schedule_free(inner, b1=b1, weight_lr_power=weight_lr_power, r=r)
