"""Loss scaling: gradients of 16 bits that neither overflow nor vanish."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _branches, _check, _hyper, _numerics, _tree
from lossax._types import Hyperparameter, PyTree


class DynamicLossScaleState(NamedTuple):
    """Number of steps made, scale of the loss, good steps since it last changed, steps skipped, optimizer's state."""

    step: jax.Array
    scale: jax.Array
    good_steps: jax.Array
    skipped: jax.Array
    inner: PyTree


def dynamic_loss_scale(
    optimizer: optax.GradientTransformation,
    initial_scale: Hyperparameter = 2.0**15,
    *,
    growth_factor: Hyperparameter = 2.0,
    backoff_factor: Hyperparameter = 0.5,
    growth_interval: Hyperparameter = 2000,
    min_scale: Hyperparameter = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer for gradients of a scaled loss, which finds the scale.

    .. math:: \Delta(g / s) \;\text{ and }\; s \leftarrow 2 s \text{ after 2000 good steps; else }
      \Delta = 0, \; s \leftarrow s / 2, \quad g = \nabla (s L)

    For float16, which takes gradients below 6e-8 for 0; bfloat16 has no need of it. The loss is multiplied by
    `scale_loss` where it is differentiated; here gradients are divided in float32. One that is not finite makes no
    step: the optimizer's state stays, its schedules do not advance, and the scale shrinks. Many of them in a row at
    `min_scale` mean that training is over: watch `skipped`.

    Put it outermost, whatever clips or accumulates inside; with `accumulate` inside a bad micro-batch is replaced by
    the next. Where devices have gradients of their own, average them before. Under `vmap` `lax.cond` becomes a
    selection. Defaults are those of Keras; torch's `GradScaler` begins at 2**16.

    Args:
      optimizer: What makes the good steps; extra arguments of `update` reach it.
      initial_scale: Scale at first, positive; a power of two loses nothing. A schedule is called with 0.
      growth_factor: What the scale is multiplied by after good steps, at least 1.
      backoff_factor: What it is multiplied by after a gradient that is not finite, in [0, 1].
      growth_interval: Number of good steps in a row after which it grows, at least 1.
      min_scale: Smallest scale, nonnegative.

    Returns:
      An optimizer with state `DynamicLossScaleState`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if a known number is out of range.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> tx = dynamic_loss_scale(optax.sgd(1.0), 4.0)
      >>> params = jnp.array(3.0)
      >>> state = tx.init(params)
      >>> jax.grad(lambda w: scale_loss(state, w * w))(params).item()
      24.0
      >>> updates, state = tx.update(jnp.array(24.0), state)
      >>> updates.item(), state.scale.item()
      (-6.0, 4.0)
      >>> updates, state = tx.update(jnp.array(jnp.inf), state)
      >>> updates.item(), state.scale.item()
      (0.0, 2.0)

    Reference:
      Micikevicius et al., *Mixed precision training*, 2018.
    """
    _check.transformation(optimizer=optimizer)
    _check.positive(initial_scale=initial_scale)
    _check.at_least(1, growth_factor=growth_factor, growth_interval=growth_interval)
    _check.fraction(backoff_factor=backoff_factor)
    _check.nonnegative(min_scale=min_scale)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> DynamicLossScaleState:
        step, good_steps, skipped = (jnp.zeros((), jnp.int32) for _ in range(3))
        scale = jnp.array(_hyper.at(step, initial_scale), _hyper.default_float(), copy=True)
        return DynamicLossScaleState(step, scale, good_steps, skipped, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        over = lambda u, scale: _tree.parts(lambda x: _numerics.divide(x, scale), u)  # noqa: E731
        grads = _tree.map(over, updates, scalars=(state.scale,))
        good = jnp.stack([jnp.bool_(True), *(jnp.all(jnp.isfinite(g)) for g in _tree.numbers(grads))]).all()

        def step():
            moved, new = inner.update(grads, state.inner, params, **extra_args)
            return _tree.cast_like(moved, updates if params is None else params), new

        moved, new = _branches.only_if(good, step, updates, state.inner)
        at = lambda value: jnp.asarray(_hyper.at(state.step, value), state.scale.dtype)  # noqa: E731
        good_steps = jnp.where(good, _tree.increment(state.good_steps), 0)
        due = good_steps.astype(state.scale.dtype) >= at(growth_interval)
        largest = jnp.finfo(state.scale.dtype).max  # an infinite scale would never come down
        grown = jnp.where(due, jnp.minimum(state.scale * at(growth_factor), largest), state.scale)
        scale = jnp.where(good, grown, jnp.maximum(state.scale * at(backoff_factor), at(min_scale)))
        return moved, DynamicLossScaleState(
            jnp.where(good, _tree.increment(state.step), state.step),
            scale,
            jnp.where(due, 0, good_steps),
            jnp.where(good, state.skipped, _tree.increment(state.skipped)),
            new,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def scale_loss(state: Any, loss: jax.Array) -> jax.Array:
    """A loss times the scale that `dynamic_loss_scale` divides gradients by, to be differentiated.

    Args:
      state: State of an optimizer, `dynamic_loss_scale` however deep in chains and wrappers.
      loss: Float scalar, or any array of losses.

    Returns:
      The scaled loss, float32 at least, so that the scale itself does not overflow.

    Raises:
      ValueError: if nothing in the state scales losses, or several things do.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> state = dynamic_loss_scale(optax.sgd(1.0), 8.0).init(jnp.array(0.0))
      >>> scale_loss(state, jnp.array(0.5)).item()
      4.0
    """
    _check.floating(loss=loss)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, DynamicLossScaleState))
    found = [node.scale for node in nodes if isinstance(node, DynamicLossScaleState)]
    if len(found) != 1:
        raise ValueError(f"state must hold one scale of the loss (dynamic_loss_scale), found {len(found)}")
    wide = _tree.widen(loss)
    return wide * jax.lax.stop_gradient(jnp.asarray(found[0], wide.dtype))
