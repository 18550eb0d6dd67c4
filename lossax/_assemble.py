"""direction + decoupled decay + rate = an optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._types import Hyperparameter, Mask, PyTree


class AssembleState(NamedTuple):
    """Number of updates made, and the learning rate that the last one used (before it: that the first will use)."""

    step: jax.Array
    learning_rate: jax.Array


def _rate_and_decay(
    learning_rate: Hyperparameter,
    weight_decay: Hyperparameter,
    mask: Mask | None,
    independent: bool,
    other_rate: Hyperparameter | None,
    other: Mask | None,
) -> optax.GradientTransformation:
    def rate_at(step):
        return jnp.array(_hyper.at(step, learning_rate), _hyper.default_float(), copy=True)

    def init(params: PyTree) -> AssembleState:
        del params
        step = jnp.zeros((), jnp.int32)
        return AssembleState(step, rate_at(step))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        rates = [_hyper.at(state.step, rate) for rate in (learning_rate, other_rate) if rate is not None]
        new_state = AssembleState(_tree.increment(state.step), rate_at(state.step))
        known = updates if params is None else params
        others = _tree.resolve_mask(other, known)

        def rate_of(other, rates):
            return jnp.where(other, rates[1], rates[0]) if len(rates) > 1 else rates[0]

        if _hyper.is_zero(weight_decay):
            scaled = _tree.map(lambda u, other, *rates: -rate_of(other, rates) * u, updates, others, scalars=(*rates,))
            return _tree.cast_like(scaled, known), new_state
        _tree.require_params(params, "weight_decay is not the Python number 0")

        def step_of(u, p, keep, other, shrink, *rates):
            decayed, rate = jnp.where(keep, shrink * p, 0), rate_of(other, rates)
            return -rate * u - decayed if independent else -rate * (u + decayed)

        scalars = (_hyper.at(state.step, weight_decay), *rates)
        scaled = _tree.map(step_of, updates, params, _tree.resolve_mask(mask, params), others, scalars=scalars)
        return _tree.cast_like(scaled, params), new_state

    return optax.GradientTransformation(init, update)


def assemble(
    direction: optax.GradientTransformation,
    learning_rate: Hyperparameter,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
    *,
    independent: bool = False,
    other_learning_rate: Hyperparameter | None = None,
    other: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The last line of every optimizer.

    .. math:: \Delta = -\eta\,(d + \lambda w) \qquad\text{or, independent,}\qquad \Delta = -\eta\,d - \lambda w

    The direction sees gradients of at least 32 bits; the update leaves in the dtype of the parameters. The state is the
    same whatever the values, so runs of a sweep line up and a checkpoint survives a change of learning rate.

    Args:
      direction: Transformation of gradients into an ascending, unscaled direction.
      learning_rate: Rate, nonnegative; a schedule is called with the number of updates made so far.
      weight_decay: Decoupled decay, nonnegative. Unless it is the Python number 0, `update` needs `params`.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters (`path_mask`); `None` is all.
      independent: Decay by `weight_decay` alone instead of `learning_rate * weight_decay`.
      other_learning_rate: Rate of the parameters in `other`, nonnegative; `None` is `learning_rate`.
      other: Parameters with a rate of their own: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known rate or decay is negative or NaN.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> plain = assemble(optax.identity(), 0.5)
      >>> updates, _ = plain.update(jnp.array([2.0]), plain.init(jnp.array([1.0])), jnp.array([1.0]))
      >>> updates.tolist()
      [-1.0]

    Reference:
      Loshchilov and Hutter, *Decoupled weight decay regularization*, 2019.
    """
    _check.nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    if other_learning_rate is not None:
        _check.nonnegative(other_learning_rate=other_learning_rate)
    wide = optax.stateless(lambda updates, _: _tree.map(lambda u: u, updates))
    last = _rate_and_decay(learning_rate, weight_decay, weight_decay_mask, independent, other_learning_rate, other)
    return optax.chain(wide, direction, last)


def learning_rate(state: Any) -> jax.Array:
    """The learning rate that the last step used, read from an optimizer's state, inside `jit` or out.

    Before the first step it is the rate that step will use.

    Args:
      state: State of a lossax optimizer, however deep in chains and wrappers; of Flax NNX `optimizer.opt_state`.

    Returns:
      Float scalar.

    Raises:
      ValueError: if the state holds no rate, or several (then use `optax.tree.get_all_with_path`).

    Example:
      >>> import jax.numpy as jnp, optax
      >>> learning_rate(assemble(optax.identity(), 0.5).init(jnp.zeros(2))).item()
      0.5
    """
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, AssembleState))
    rates = [node.learning_rate for node in nodes if isinstance(node, AssembleState)]
    if len(rates) != 1:
        raise ValueError(
            f"state must hold one learning rate, found {len(rates)}; "
            "optax.tree.get_all_with_path(state, 'learning_rate') lists them"
        )
    return jnp.asarray(rates[0])  # Flax NNX keeps it in a variable
