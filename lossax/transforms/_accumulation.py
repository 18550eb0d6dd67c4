"""Accumulation: one step of an optimizer for several gradients."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lossax import _branches, _check, _hyper, _numerics, _tree
from lossax._types import Hyperparameter, PyTree


class AccumulateState(NamedTuple):
    """Number of steps made, gradients held for the next one, their sum and its weight, and the optimizer's state."""

    step: jax.Array
    mini_step: jax.Array
    total: PyTree
    weight: jax.Array
    inner: PyTree


def accumulate(
    optimizer: optax.GradientTransformation,
    every: Hyperparameter,
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that makes one step of the gradients of several micro-batches.

    .. math:: g = \frac{\sum_{i=1}^k w_i g_i}{\sum_{i=1}^k w_i}

    A batch that would not fit, in parts. The optimizer runs once for every k calls; the others return 0 and cost an
    addition. Optax's `MultiSteps` runs it each time. Sums are kept in float32 at least.

    Where micro-batches hold different numbers of tokens a mean of means is wrong. Hand over the weight of each mean,
    `tx.update(grads, state, params, weight=unit_weights(shape, where, weights).sum())`, and the step is that of the
    whole batch. A micro-batch of weight 0 adds nothing, be it NaN.

    Other extra arguments reach the optimizer from the last micro-batch. After a step `mini_step` is 0. At the end of
    the data what is held makes a step with the last micro-batch if that is handed over with
    `state._replace(mini_step=jnp.int32(k - 1))`; means stay exact.

    `skip_nonfinite(accumulate(...))` leaves out a bad micro-batch and waits for another;
    `accumulate(skip_nonfinite(...))` leaves out the step that it is in. Averages of parameters, and whatever else
    counts steps, go inside. Under `vmap` `lax.cond` becomes a selection, and the optimizer runs each time.

    Args:
      optimizer: What makes the steps.
      every: Number of gradients for a step, at least 1; a schedule is called with the number of steps made.
      reduction: `"mean"` over total weight, or `"sum"` of gradients times weight.

    Returns:
      An optimizer with state `AccumulateState`, whose `update` takes `weight`, a nonnegative number, 1 if not given.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if a known `every` is below 1, `reduction` is unknown, or `weight` is no scalar or known to be
        negative.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = accumulate(optax.sgd(1.0), 2)
      >>> state = tx.init(jnp.array(0.0))
      >>> for gradient, tokens in ((1.0, 30.0), (5.0, 10.0)):
      ...     updates, state = tx.update(jnp.array(gradient), state, weight=tokens)
      ...     print(updates.item(), state.mini_step.item())
      0.0 1
      -2.0 0

    Reference:
      Ott, Edunov, Grangier and Auli, *Scaling neural machine translation*, 2018.
    """
    _check.transformation(optimizer=optimizer)
    _check.at_least(1, every=every)
    _check.choice(("mean", "sum"), reduction=reduction)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> AccumulateState:
        step, mini_step = (jnp.zeros((), jnp.int32) for _ in range(2))
        weight = jnp.zeros((), _hyper.default_float())
        return AccumulateState(step, mini_step, _tree.zeros_like(params), weight, inner.init(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, *, weight: ArrayLike | None = None, **extra_args
    ):
        _check.nonnegative(weight=1.0 if weight is None else weight)
        own = _hyper.scalar(1.0 if weight is None else weight)
        if own.ndim:
            raise ValueError(f"weight must be the total weight of the micro-batch, got shape {list(own.shape)}")
        add = lambda total, g, own: jnp.where(own == 0, total, total + own * g)  # noqa: E731
        total = _tree.cast_like(_tree.map(add, state.total, updates, scalars=(own,)), state.total)
        held = state.weight + own.astype(state.weight.dtype)
        mini_step = _tree.increment(state.mini_step)

        def step():
            over = lambda _, t, held: _numerics.divide(t, held) if reduction == "mean" else t  # noqa: E731
            grads = _tree.map(over, updates, total, scalars=(held,))
            moved, new = inner.update(grads, state.inner, params, **extra_args)
            moved = _tree.cast_like(moved, updates if params is None else params)
            return moved, (_tree.zeros_like(total), jnp.zeros_like(held), jnp.zeros_like(mini_step), new)

        due = mini_step.astype(held.dtype) >= _hyper.at(state.step, every)
        moved, (total, held, mini_step, new) = _branches.only_if(
            due, step, updates, (total, held, mini_step, state.inner)
        )
        made = jnp.where(due, _tree.increment(state.step), state.step)
        return moved, AccumulateState(made, mini_step, total, held, new)

    return optax.GradientTransformationExtraArgs(init, update)
