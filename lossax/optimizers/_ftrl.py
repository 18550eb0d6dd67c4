"""FTRL-proximal: follow the regularized leader."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import AssembleState
from lossax._types import Hyperparameter, Mask, PyTree


class FtrlState(NamedTuple):
    """Sum of the squared gradients, what penalties have taken off the weights, and number and rate of updates."""

    nu: PyTree
    taken: PyTree
    rate: AssembleState


def ftrl(
    learning_rate: Hyperparameter,
    *,
    beta: Hyperparameter = 1.0,
    l1: Hyperparameter = 0.0,
    l2: Hyperparameter = 0.0,
    initial_accumulator_value: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adagrad whose weights are exactly 0 until they pay: sparse linear models on streams of sparse features.

    .. math::
      n \leftarrow n + g^2, \qquad
      z \leftarrow z + g - \frac{\sqrt{n} - \sqrt{n'}}{\eta}\, w, \qquad
      w = -\frac{\mathrm{sign}(z) \max(|z| - \lambda_1, 0)}{(\beta + \sqrt n) / \eta + \lambda_2}

    It sets weights: the update is the new less the old, and a weight of 0 is 0 to the last bit. Without penalties it is
    :math:`\Delta = -\eta\, g / (\beta + \sqrt n)`. In deep networks `adamw` is better.

    The paper starts from weights of 0. From others it goes on: :math:`z = -w (\beta + \sqrt n) / \eta` then, where the
    implementations of TensorFlow and Keras forget them in the first step. Those are `beta=0.0` and
    `initial_accumulator_value=0.1`, and twice their `l2`. Instead of :math:`z` the state holds
    :math:`-z \eta / (\beta + \sqrt n) - w`, so the rate may be a schedule.

    Args:
      learning_rate: Size of the first step where gradients are large, nonnegative.
      beta: Added to the root of the sum, nonnegative.
      l1: Weight of the sum of absolute values, in units of the gradient, nonnegative.
      l2: Weight of half the sum of squares, in units of the gradient, nonnegative.
      initial_accumulator_value: Sum before the first step, in units of the squared gradient; nonnegative.
      weight_decay: Decoupled decay, nonnegative; `l2` is the algorithm's own.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = ftrl(0.5, l1=1.0)
      >>> params = jnp.array([0.0, 0.0])
      >>> updates, _ = tx.update(jnp.array([3.0, 1.0]), tx.init(params), params)
      >>> (params + updates).tolist()  # -(3 - 1) / ((1 + 3) / 0.5), and not worth its price
      [-0.25, 0.0]

    Reference:
      McMahan et al., *Ad click prediction: a view from the trenches*, 2013.
    """
    _check.nonnegative(learning_rate=learning_rate, beta=beta, l1=l1, l2=l2, weight_decay=weight_decay)
    _check.nonnegative(initial_accumulator_value=initial_accumulator_value)

    def rate_at(step):
        return jnp.array(_hyper.at(step, learning_rate), _hyper.default_float(), copy=True)

    def init(params: PyTree) -> FtrlState:
        step = jnp.zeros((), jnp.int32)
        start = (_hyper.at(step, initial_accumulator_value),)
        return FtrlState(
            nu=_tree.map(lambda v, start: v + start, _tree.zeros_like(params, real=True), scalars=start),
            taken=_tree.zeros_like(params),
            rate=AssembleState(step, rate_at(step)),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **others: Any):
        del others
        _tree.require_params(params, "it sets them")
        step, before = state.rate.step, state.rate.learning_rate
        rate = rate_at(step)
        own = tuple(_hyper.at(step, value) for value in (beta, l1, l2, weight_decay))
        nu = _tree.map(lambda n, g: n + _tree.square(g), state.nu, updates)

        def freed(taken, g, p, old, new, decays, rate, change, beta, shrink):
            # What was taken comes back, in the share of all gradients that was seen before.
            divisor = beta + _numerics.sqrt(new)
            old = jnp.minimum(old, jnp.finfo(old.dtype).max)  # over infinity it is nothing
            back = change * _numerics.divide(beta + _numerics.sqrt(old), divisor) * taken
            free = back - _numerics.divide(rate * g, divisor)
            return free if _hyper.is_zero(weight_decay) else free - jnp.where(decays, rate * shrink * p, 0.0 * p)

        decays = _tree.resolve_mask(weight_decay_mask, params)
        scalars = (rate, _numerics.divide(rate, before), own[0], own[3])
        free = _tree.map(freed, state.taken, updates, params, state.nu, nu, decays, scalars=scalars)

        def moved(_, free, p, n, rate, beta, l1, l2):
            price = _numerics.divide(rate, beta + _numerics.sqrt(n))
            wanted = p + free
            if jnp.iscomplexobj(wanted):
                size = _tree.absolute(wanted)
                paid = wanted * _numerics.divide(_numerics.positive_part(size - price * l1), size)
            else:
                paid = wanted - jnp.clip(wanted, -price * l1, price * l1)
            paid = paid / (1.0 + price * l2)
            return jnp.where(paid == 0, -p, free - (wanted - paid))

        changes = _tree.map(moved, updates, free, params, nu, scalars=(rate, *own[:3]))
        taken = _tree.map(lambda _, free, change: free - change, state.taken, free, changes)
        state = FtrlState(nu, _tree.cast_like(taken, state.taken), AssembleState(_tree.increment(step), rate))
        return _tree.cast_like(changes, params), state

    return optax.GradientTransformationExtraArgs(init, update)
