"""Forgetting: an optimizer that starts afresh now and then."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._types import Hyperparameter, PyTree


class ResetMomentumState(NamedTuple):
    """Number of updates, how many since the last reset, how many resets, and the state of the optimizer."""

    step: jax.Array
    since: jax.Array
    resets: jax.Array
    inner: PyTree


def _goes_on(leaf: jax.Array) -> bool:
    """Whether a leaf of state is a counter or a key; quantized moments are integers too, but of fewer bits."""
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.dtype.itemsize >= 4


def reset_momentum(
    optimizer: optax.GradientTransformation, period: Hyperparameter = 500, *, warmup: Hyperparameter = 150
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that forgets its past every so many updates, and then takes small steps at first.

    .. math:: \Delta \leftarrow \tfrac12\big(1 - \cos(\pi (k + 1) / (N + 1))\big)\,\Delta
      \;\text{ in the update } k < N \text{ after a reset}

    So what a spike has left in the moments does not last. Momentum, second moments and all else that is made of numbers
    go back to what `init` makes of the parameters as they are now; counters and keys go on, so schedules do. Bias that
    is corrected by mass, as in every lossax optimizer, is corrected anew; Optax's Adam corrects it by its counter, so
    its first steps after a reset are too small. Before the first reset there is no warmup.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it.
      period: Number of updates between resets, at least 1.
      warmup: Number of updates after a reset that are shortened, nonnegative.

    Returns:
      An optimizer with state `ResetMomentumState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if a known number is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = reset_momentum(optax.sgd(1.0, momentum=1.0), 2, warmup=1)
      >>> params = jnp.array(0.0)
      >>> state, steps = tx.init(params), []
      >>> for _ in range(4):
      ...     updates, state = tx.update(jnp.array(1.0), state, params)
      ...     steps.append(round(updates.item(), 4))
      >>> steps  # 1, 1 + 1; forgotten: 1, halved, then 1 + 1
      [-1.0, -2.0, -0.5, -2.0]

    Reference:
      Huang et al., *SPAM: spike-aware Adam with momentum reset for stable LLM training*, 2025.
    """
    _check.transformation(optimizer=optimizer)
    _check.at_least(1, period=period)
    _check.nonnegative(warmup=warmup)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> ResetMomentumState:
        step, since, resets = (jnp.zeros((), jnp.int32) for _ in range(3))
        return ResetMomentumState(step, since, resets, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra_args):
        _tree.require_params(params, "a reset begins from them")
        dtype = _hyper.default_float()
        due = state.since.astype(dtype) >= _hyper.at(state.step, period)

        def forget():
            fresh = inner.init(params)
            return jax.tree.map(
                lambda old, new: old if _goes_on(old) else jnp.asarray(new, old.dtype), state.inner, fresh
            )

        old = jax.lax.cond(due, forget, lambda: state.inner)
        moved, new = inner.update(updates, old, params, **extra_args)
        since = jnp.where(due, 0, state.since)
        resets = jnp.where(due, _tree.increment(state.resets), state.resets)
        made, few = since.astype(dtype), _hyper.at(state.step, warmup)
        rise = 0.5 - 0.5 * jnp.cos(jnp.pi * (made + 1.0) / (few + 1.0))
        scale = jnp.where((resets > 0) & (made < few), rise, 1)
        scaled = _tree.map(lambda u, scale: _tree.parts(lambda x: scale * x, u), moved, scalars=(scale,))
        return _tree.cast_like(scaled, moved), ResetMomentumState(
            _tree.increment(state.step), _tree.increment(since), resets, new
        )

    return optax.GradientTransformationExtraArgs(init, update)
