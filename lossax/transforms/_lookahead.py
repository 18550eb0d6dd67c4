"""Lookahead: slow parameters that follow fast ones from time to time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._types import Hyperparameter, PyTree


class LookaheadState(NamedTuple):
    """Number of updates, how many since the last synchronization, slow parameters, and the state of the optimizer."""

    step: jax.Array
    since: jax.Array
    slow: PyTree
    inner: PyTree

    def eval_params(self, params: PyTree) -> PyTree:
        """The slow parameters."""
        return _tree.cast_like(_tree.map(lambda _, slow: slow, params, self.slow), params)


def lookahead(
    optimizer: optax.GradientTransformation, every: Hyperparameter = 6, *, step_size: Hyperparameter = 0.5
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that goes some steps ahead, and then back half of the way.

    .. math:: \phi \leftarrow \phi + \alpha\,(w - \phi), \; w \leftarrow \phi \;\text{ after every } k \text{ updates}

    It calms any optimizer that oscillates, at the price of a float32 copy of the parameters. Evaluate the slow ones,
    :math:`\phi`: `eval_params(state, params)`. The momentum of the optimizer goes on; to begin it anew after each
    synchronization, write `lookahead(reset_momentum(optimizer, 6, warmup=0), 6)`, Optax's `reset_state`. Slow
    parameters are in the state, so params are what they are anywhere; Optax's `lookahead` wants `LookaheadParams`.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it.
      every: Number of updates from one synchronization to the next, at least 1; the paper has 5 and 10.
      step_size: Share of the way that is kept, in [0, 1]; the paper has 0.5 and 0.8.

    Returns:
      An optimizer with state `LookaheadState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if a known number is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = lookahead(optax.sgd(1.0), 2)
      >>> params = jnp.array(0.0)
      >>> state, path = tx.init(params), []
      >>> for _ in range(4):
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = params + updates
      ...     path.append(params.item())
      >>> path
      [1.0, 1.0, 2.0, 2.0]

    Reference:
      Zhang, Lucas, Hinton and Ba, *Lookahead optimizer: k steps forward, 1 step back*, 2019.
    """
    _check.transformation(optimizer=optimizer)
    _check.at_least(1, every=every)
    _check.fraction(step_size=step_size)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> LookaheadState:
        step, since = (jnp.zeros((), jnp.int32) for _ in range(2))
        # Fresh buffers: the state must not share any with the parameters, or both could not be donated.
        slow = _tree.map(lambda _, p: jnp.array(p, copy=True), _tree.zeros_like(params), params)
        return LookaheadState(step, since, slow, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "slow parameters follow them")
        moved, new = inner.update(updates, state.inner, params, **extra_args)
        since = _tree.increment(state.since)
        due = since.astype(_hyper.default_float()) >= _hyper.at(state.step, every)
        share = _hyper.at(state.step, step_size)
        numbers = lambda u: u if _tree.is_number(u) else None  # noqa: E731
        steps = jax.tree.map(numbers, _tree.cast_like(moved, params), is_leaf=lambda x: x is None)

        def synchronize():
            ahead = lambda slow, p, u, share: slow + _tree.parts(lambda x: share * x, (p - slow) + u)  # noqa: E731
            slow = _tree.cast_like(_tree.map(ahead, state.slow, params, steps, scalars=(share,)), state.slow)
            back = _tree.map(lambda _, p, slow: slow - p, steps, params, slow)
            return _tree.cast_like(back, steps), slow

        steps, slow = jax.lax.cond(due, synchronize, lambda: (steps, state.slow))
        whole = jax.tree.map(lambda u, step: u if step is None else step, moved, steps, is_leaf=lambda x: x is None)
        since = jnp.where(due, 0, since)
        return whole, LookaheadState(_tree.increment(state.step), since, slow, new)

    return optax.GradientTransformationExtraArgs(init, update)
