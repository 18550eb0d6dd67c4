"""The guard: a step that would do harm is not made."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _branches, _check, _hyper, _tree
from lossax._types import PyTree


class SkipNonfiniteState(NamedTuple):
    """How many steps were skipped so far, how many without a good one since, and the state of the optimizer."""

    skipped: jax.Array
    skipped_in_a_row: jax.Array
    inner: PyTree


def skip_nonfinite(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that one bad gradient costs one step.

    .. math:: \Delta = 0 \;\text{ and the state stays, unless } \lVert g \rVert^2 < \infty

    NaN and infinity fail the test, and so does a finite 1e30: its square overflows float32 and would spoil a second
    moment for ever. A skipped step is not made at all: no schedule advances, nothing is averaged. The counters are to
    be watched: many skips in a row mean that training is over. Optax's `apply_if_finite` then lets the bad gradient in,
    and it accepts 1e30.

    Put it outermost. Where each device holds gradients of its own (`shard_map`), average them before. Under `vmap`
    `lax.cond` becomes a selection: the optimizer then runs in every lane, and its result is dropped in the bad ones.

    Args:
      optimizer: What makes the good steps; extra arguments of `update` reach it.

    Returns:
      An optimizer with state `SkipNonfiniteState`.

    Raises:
      TypeError: if `optimizer` is no transformation.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = skip_nonfinite(optax.sgd(1.0))
      >>> updates, state = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(jnp.zeros(2)))
      >>> updates.tolist(), state.skipped.item()
      ([0.0, 0.0], 1)

    Reference:
      Micikevicius et al., *Mixed precision training*, 2018.
    """
    _check.transformation(optimizer=optimizer)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> SkipNonfiniteState:
        return SkipNonfiniteState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        zero = jnp.zeros((), _hyper.default_float())
        squares = (jnp.sum(_tree.square(leaf)).astype(zero.dtype) for leaf in _tree.numbers(updates))
        good = jnp.isfinite(sum(squares, zero))
        step = lambda: inner.update(updates, state.inner, params, **extra_args)  # noqa: E731
        whole, new = _branches.only_if(good, step, updates, state.inner)
        skipped = jnp.where(good, state.skipped, _tree.increment(state.skipped))
        in_a_row = jnp.where(good, 0, _tree.increment(state.skipped_in_a_row))
        return whole, SkipNonfiniteState(skipped, in_a_row, new)

    return optax.GradientTransformationExtraArgs(init, update)
