"""Schedule-free training: an average in the place of a decaying rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _assemble, _check, _hyper, _numerics, _tree
from lossax._types import Hyperparameter, PyTree


class ScheduleFreeState(NamedTuple):
    """Number of updates, how far the last average is from the iterate, and what rounding took from 16-bit parameters.

    Then the share of that which the new average kept, the share of the average in the parameters, the largest rate, the
    weight of the average over its power, and the state of the optimizer.
    """

    step: jax.Array
    gap: PyTree
    lost: PyTree
    kept: jax.Array
    b1: jax.Array
    largest: jax.Array
    total: jax.Array
    inner: PyTree

    def eval_params(self, params: PyTree) -> PyTree:
        """The average of the iterates."""

        def average(p, gap, share):
            return p + _tree.parts(lambda x: share * x, gap)

        exact = _add_lost(params, self.lost)
        return _tree.cast_like(_tree.map(average, exact, self.gap, scalars=((1.0 - self.b1) * self.kept,)), params)


def _add_lost(tree: PyTree, lost: PyTree) -> PyTree:
    """The numbers, wide, with what rounding took from them."""
    return _tree.map(lambda leaf, rest: leaf + rest, tree, lost)


def _stored(x: jax.Array, dtype: Any) -> jax.Array:
    """What is left of a wide number that is stored in 16 bits; a cast there and back may be optimised away."""
    bits = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, bits.nexp, bits.nmant)


def schedule_free(
    optimizer: optax.GradientTransformation,
    learning_rate: Hyperparameter | None = None,
    *,
    b1: Hyperparameter = 0.9,
    weight_lr_power: Hyperparameter = 2.0,
    r: Hyperparameter = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that needs no decaying rate, so no number of steps known ahead.

    .. math::
      z \leftarrow z + \Delta(\nabla L(y)), \quad x \leftarrow (1 - c_t)\, x + c_t z, \quad
      y \leftarrow \beta x + (1 - \beta)\, z, \qquad c_t = w_t / \sum_{s \le t} w_s, \quad
      w_t = t^r \max_{s \le t} \eta_s^p

    Trained are the parameters :math:`y`; evaluate, and store in the end, the average :math:`x`:
    `eval_params(state, params)`. The rate is constant after a warmup, and commonly 1 to 10 times that of a cosine
    schedule. The interpolation is the momentum: the optimizer inside should have none (`b1=0.0`). Its decay acts at
    :math:`y`, as in the authors' default. Statistics of batch normalization belong to :math:`y`: before evaluation,
    gather them at :math:`x`. Inside what accumulates gradients over steps.

    The state holds :math:`x - z` but for a factor, one copy of the parameters; both follow without a division: `b1` is
    anything in [0, 1), or a schedule. Steps of :math:`y` are small, so for 16-bit parameters the state keeps what
    rounding took as well. Optax divides by `b1`: 0 gives NaN. It also weighs each step by the rate of the next one.

    Args:
      optimizer: What makes the steps, without momentum; extra arguments of `update` reach it.
      learning_rate: The rate of `optimizer`, nonnegative, which weighs the average; `None` reads it in its state, as
        every lossax optimizer keeps it.
      b1: Share of the average in the parameters that are trained, in [0, 1).
      weight_lr_power: Power of the largest rate so far in the weights, nonnegative: steps of the warmup count less.
      r: Power of the number of the step in the weights, nonnegative: above 0 late steps count more.

    Returns:
      An optimizer with state `ScheduleFreeState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if a known number is out of range, there is no rate to read, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from lossax.transforms import eval_params
      >>> tx = schedule_free(optax.sgd(1.0), 1.0, b1=0.5)
      >>> params = jnp.array(0.0)
      >>> state, trained = tx.init(params), []
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = params + updates
      ...     trained.append(params.item())
      >>> trained, eval_params(state, params).item()  # z = 1, 2; x = 1, 1.5
      ([1.0, 1.75], 1.5)

    Reference:
      Defazio et al., *The road less scheduled*, 2024.
    """
    _check.transformation(optimizer=optimizer)
    _check.decay(b1=b1)
    _check.nonnegative(weight_lr_power=weight_lr_power, r=r)
    if learning_rate is not None:
        _check.nonnegative(learning_rate=learning_rate)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> ScheduleFreeState:
        def nothing(zeros: Any, p: Any) -> Any:
            # One number where nothing is rounded to 16 bits: the tree is the same whatever the dtypes.
            if zeros is None or zeros.dtype != _tree.dtype_of(p):
                return zeros
            return jnp.zeros((), zeros.dtype)

        state = inner.init(params)
        if learning_rate is None:
            try:
                _assemble.learning_rate(state)
            except ValueError as error:
                raise ValueError("schedule_free needs learning_rate: it finds none in optimizer") from error
        kept, largest, total = (jnp.zeros((), _hyper.default_float()) for _ in range(3))
        step = jnp.zeros((), jnp.int32)
        lost = jax.tree.map(nothing, _tree.zeros_like(params), params, is_leaf=lambda x: x is None)
        share = jnp.array(_hyper.at(step, b1), _hyper.default_float(), copy=True)
        return ScheduleFreeState(step, _tree.zeros_like(params), lost, kept, share, largest, total, state)

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "it moves from them")
        moved, new = inner.update(updates, state.inner, params, **extra_args)
        rate = _assemble.learning_rate(new) if learning_rate is None else _hyper.at(state.step, learning_rate)
        largest = jnp.maximum(state.largest, _hyper.scalar(rate))
        number = _tree.increment(state.step).astype(largest.dtype)
        # Over the power of the largest rate, which may be too small a number: weights matter only to one another.
        weight = jnp.where(largest > 0, number ** _hyper.scalar(_hyper.at(state.step, r)), 0)
        power = _hyper.scalar(_hyper.at(state.step, weight_lr_power))
        total = _numerics.power(_numerics.divide(state.largest, largest), power) * state.total + weight
        take = _numerics.divide(weight, total)
        share = _hyper.scalar(_hyper.at(state.step, b1))

        def apart(gap, move, kept):
            return _tree.parts(lambda x: kept * x, gap) - move

        gap = _tree.cast_like(_tree.map(apart, state.gap, moved, scalars=(state.kept,)), state.gap)

        def step_of(_, old, new, before, after):
            # z moves by kept * old - new, and y - z from share * kept * old to share * (1 - take) * new. Of the state
            # alone: to use twice what the optimizer returned would take another pass.
            turn = lambda old, new: before * old - after * new  # noqa: E731
            if not jnp.iscomplexobj(old):
                return turn(old, new)
            return jax.lax.complex(turn(old.real, new.real), turn(old.imag, new.imag))

        before, after = state.kept * (1.0 - state.b1), 1.0 - share * (1.0 - take)
        steps = _tree.map(step_of, moved, state.gap, gap, scalars=(before, after))
        wanted = _add_lost(steps, state.lost)

        def left(rest, step, p):
            """What stays behind when a step is rounded, and the parameter after it."""
            if rest is None or step is None or rest.dtype == _tree.dtype_of(p):
                return rest
            before, dtype = _tree.widen(p), _tree.dtype_of(p)
            after = _stored(before + _stored(_tree.widen(step), dtype), dtype)
            return step - (after - before)

        lost = jax.tree.map(left, state.lost, wanted, params, is_leaf=lambda x: x is None)
        return _tree.cast_like(wanted, params), ScheduleFreeState(
            _tree.increment(state.step), gap, lost, 1.0 - take, share, largest, total, new
        )

    return optax.GradientTransformationExtraArgs(init, update)
