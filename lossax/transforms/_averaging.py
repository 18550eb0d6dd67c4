"""Averages of the parameters, to evaluate with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._types import Hyperparameter, PyTree


class AverageParametersState(NamedTuple):
    """Number of updates, average of the parameters and its mass (see `_tree.mass`), and the state of the optimizer."""

    step: jax.Array
    average: PyTree
    mass: jax.Array
    inner: PyTree

    def eval_params(self, params: PyTree) -> PyTree:
        """The average, or the parameters where there is none."""

        def debiased(p, average, mass):
            if not _tree.is_number(average):
                return p
            averaged = mass > 0
            safe = jnp.where(averaged, mass, 1)
            return jnp.where(averaged, _tree.parts(lambda x: x / safe, average), p)

        return _tree.cast_like(_tree.map(debiased, params, self.average, scalars=(self.mass,)), params)


def average_parameters(
    optimizer: optax.GradientTransformation,
    decay: Hyperparameter = 0.999,
    *,
    warmup: bool = False,
    debias: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that also keeps an exponential average of the parameters, for `eval_params`.

    .. math:: \bar w \leftarrow d\,\bar w + (1 - d)\,(w + \Delta)

    Training is as without. An average does better than the last parameters while the rate is high, at the price of one
    float32 copy. It must see the parameters as they become, so it goes around the whole optimizer; and inside what
    accumulates gradients over steps.

    Keras's `use_ema` is `debias=False`; torch's `AveragedModel` with `get_ema_multi_avg_fn(decay)` is too, but begins
    with a copy of the parameters after the first step. Optax's `ema` averages updates, not parameters.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it. Its updates are left as they are.
      decay: Share of the past that the average keeps, in [0, 1).
      warmup: Whether to keep less of the past at first, `(1 + t) / (10 + t)` of it.
      debias: Whether the average is of the parameters after each step alone; else it begins with a copy of the first.

    Returns:
      An optimizer with state `AverageParametersState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if a known `decay` is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = average_parameters(optax.sgd(1.0), 0.5, debias=False)
      >>> params = jnp.array(4.0)
      >>> updates, state = tx.update(jnp.array(2.0), tx.init(params), params)
      >>> eval_params(state, params + updates).item()
      3.0

    Reference:
      Polyak and Juditsky, *Acceleration of stochastic approximation by averaging*, 1992.
    """
    _check.transformation(optimizer=optimizer)
    _check.decay(decay=decay)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> AverageParametersState:
        # Fresh buffers: the state must not share any with the parameters, or both could not be donated.
        average = _tree.zeros_like(params)
        if not debias:
            average = _tree.map(lambda _, p: jnp.array(p, copy=True), average, params)
        mass = jnp.asarray(0.0 if debias else 1.0, _hyper.default_float())
        return AverageParametersState(jnp.zeros((), jnp.int32), average, mass, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "it averages them")
        updates, new = inner.update(updates, state.inner, params, **extra_args)
        keep = _hyper.at(state.step, decay)
        if warmup:
            made = state.step.astype(state.mass.dtype)
            keep = jnp.minimum(keep, (1.0 + made) / (10.0 + made))
        average = _tree.moment(_tree.added(params, updates), state.average, keep)
        mass = _tree.mass(state.mass, keep) if debias else state.mass
        return updates, AverageParametersState(_tree.increment(state.step), average, mass, new)

    return optax.GradientTransformationExtraArgs(init, update)


def eval_params(state: Any, params: PyTree) -> PyTree:
    """The parameters to evaluate with, where an optimizer keeps others than it trains.

    Args:
      state: State of an optimizer, the one that averages however deep in chains and wrappers.
      params: The parameters in training; leaves that are no numbers or not averaged are theirs.

    Returns:
      Parameters in the structure and the dtypes of `params`; equal to them before the first step.

    Raises:
      ValueError: if nothing in the state keeps other parameters, or several things do.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = average_parameters(optax.sgd(1.0), 0.5)
      >>> params = jnp.array(4.0)
      >>> updates, state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> eval_params(state, params + updates).item()
      3.0
    """
    nodes = jax.tree.leaves(state, is_leaf=lambda node: hasattr(node, "eval_params"))
    found = [node for node in nodes if hasattr(node, "eval_params")]
    if len(found) != 1:
        raise ValueError(f"state must keep other parameters once (average_parameters and such), found {len(found)}")
    return found[0].eval_params(params)
