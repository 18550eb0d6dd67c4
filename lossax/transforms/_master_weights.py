"""Parameters of 16 bits whose small steps are not lost."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lossax import _check, _keys, _rounding, _tree
from lossax._types import PyTree


class MasterWeightsState(NamedTuple):
    """The parameters in float32, `None` where they are not of 16 bits, and the state of the optimizer."""

    master: PyTree
    inner: PyTree


class CompensatedState(NamedTuple):
    """What rounding took from 16-bit parameters, in their dtype (`None` elsewhere), and the optimizer's state."""

    compensation: PyTree
    inner: PyTree


class RoundStochasticallyState(NamedTuple):
    """Numbers of the key for the next rounding, and the state of the optimizer."""

    key: jax.Array
    inner: PyTree


def _narrow(tree: PyTree) -> PyTree:
    """The leaves of 16 bits, `None` elsewhere."""
    return jax.tree.map(lambda p: p if _rounding.is_narrow(p) else None, tree, is_leaf=lambda x: x is None)


def _wide(params: PyTree, narrow: PyTree) -> PyTree:
    """The parameters as the optimizer is shown them: float32 where they are of 16 bits."""
    none = lambda x: x is None  # noqa: E731
    return jax.tree.map(lambda p, wide: p if wide is None else wide, params, narrow, is_leaf=none)


def _widened(params: PyTree) -> PyTree:
    # Fresh buffers: the state must not share any with the parameters, or both could not be donated.
    return _wide(params, _tree.map(lambda p: jnp.array(p, copy=True), _narrow(params)))


def _landing(p: jax.Array, target: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """The update of 16 bits that takes a parameter to a target of 16 bits, and where it lands."""
    u = _rounding.nearest(target - p, dtype)
    return u, _rounding.nearest(p + u, dtype)


def _moved(updates: PyTree, params: PyTree, land: Any, kept: PyTree) -> tuple[PyTree, PyTree]:
    """Updates in the dtypes of the parameters, and what is kept.

    At 16-bit parameters both are what `land(parameter, update, kept, dtype)` gives, of float32 numbers.
    """
    leaves, structure = jax.tree.flatten(_tree.cast_like(updates, params), is_leaf=lambda x: x is None)
    wide, params, kept = (structure.flatten_up_to(tree) for tree in (updates, params, kept))
    for i, (p, u) in enumerate(zip(params, wide, strict=True)):
        if _rounding.is_narrow(p) and _tree.is_number(u):
            dtype = p.dtype
            leaves[i], kept[i] = land(p.astype(jnp.float32), jnp.asarray(u, jnp.float32), kept[i], dtype)
            leaves[i] = leaves[i].astype(dtype)
    return structure.unflatten(leaves), structure.unflatten(kept)


def master_weights(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer of 16-bit parameters that keeps them in float32 as well.

    .. math:: W \leftarrow W + \Delta(W), \qquad w \leftarrow \operatorname{round}_{16}(W)

    The optimizer is shown the float32 parameters and adds to them, so no step is too small: 100 steps of 1e-3 from a
    bfloat16 weight of 1 lead to 1.1, and nowhere without. 4 bytes for each parameter; `compensated` takes 2, and
    `round_stochastically` none. Parameters that are not of 16 bits are the optimizer's own affair.

    Updates lead from the parameters to the rounded ones, in the dtype of the parameters. There they are exact, unless a
    step more than halves a weight or turns its sign: then it lands within a rounding of the step, which the next one
    makes good. Averages go inside, where they are of the float32 parameters: `master_weights(average_parameters(...))`.
    Whoever sets parameters otherwise than by updates begins with a new state.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it.

    Returns:
      An optimizer with state `MasterWeightsState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = master_weights(optax.sgd(2.0**-9))
      >>> params = jnp.array(1.0, jnp.bfloat16)
      >>> state = tx.init(params)
      >>> for _ in range(4):
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = params + updates
      >>> params.item(), state.master.item()
      (1.0078125, 1.0078125)

    Reference:
      Micikevicius et al., *Mixed precision training*, 2018.
    """
    _check.transformation(optimizer=optimizer)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> MasterWeightsState:
        wide = _widened(params)
        return MasterWeightsState(_tree.map(lambda p: jnp.array(p, copy=True), _narrow(params)), inner.init(wide))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "they are what an update leads away from")
        moved, new = inner.update(updates, state.inner, _wide(params, state.master), **extra_args)

        def land(p, u, master, dtype):
            master = master + u
            return _landing(p, _rounding.nearest(master, dtype), dtype)[0], master

        moved, master = _moved(moved, params, land, state.master)
        return moved, MasterWeightsState(master, new)

    return optax.GradientTransformationExtraArgs(init, update)


def compensated(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer of 16-bit parameters that remembers what rounding took from them (Kahan's sum).

    .. math:: y = \Delta(w + c) + c, \qquad w' = \operatorname{round}_{16}(w + y), \qquad c \leftarrow
      \operatorname{round}_{16}(y - (w' - w))

    The sum w + c has about 16 bits in bfloat16 and 21 in float16, for 2 bytes a parameter instead of the 4 of
    `master_weights`. The optimizer is shown that sum. Steps below 2^-17 of a bfloat16 weight are lost.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it.

    Returns:
      An optimizer with state `CompensatedState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = compensated(optax.sgd(2.0**-9))
      >>> params = jnp.array(1.0, jnp.bfloat16)
      >>> state = tx.init(params)
      >>> for _ in range(4):
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = params + updates
      >>> params.item(), state.compensation.item()
      (1.0078125, 0.0)

    Reference:
      Zamirai, Zhang, Aberger and De Sa, *Revisiting bfloat16 training*, 2020.
    """
    _check.transformation(optimizer=optimizer)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> CompensatedState:
        narrow = _narrow(params)
        zeros = jax.tree.map(lambda p: None if p is None else jnp.zeros_like(p), narrow, is_leaf=lambda x: x is None)
        return CompensatedState(zeros, inner.init(_widened(params)))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "they are what an update leads away from")
        whole = _wide(params, _tree.map(lambda c, p: p + c, state.compensation, params))
        moved, new = inner.update(updates, state.inner, whole, **extra_args)

        def land(p, u, c, dtype):
            y = u + c.astype(u.dtype)
            u, landed = _landing(p, _rounding.nearest(p + y, dtype), dtype)
            return u, (y - (landed - p)).astype(dtype)

        moved, compensation = _moved(moved, params, land, state.compensation)
        return moved, CompensatedState(compensation, new)

    return optax.GradientTransformationExtraArgs(init, update)


def round_stochastically(
    optimizer: optax.GradientTransformation, *, key: ArrayLike = 0
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer of 16-bit parameters that rounds them up or down at random, the nearer the likelier.

    .. math:: w \leftarrow \operatorname{round}_{16}(w + \Delta), \qquad \mathbb{E}[w] = w + \Delta

    Small steps are made in the mean, at no memory, and with noise of one rounding in each step: `compensated` and
    `master_weights` have none. Parameters that are not of 16 bits are not rounded.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it.
      key: A seed, a typed or a raw key.

    Returns:
      An optimizer with state `RoundStochasticallyState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = round_stochastically(optax.sgd(2.0**-9))
      >>> params = jnp.ones(10_000, jnp.bfloat16)  # a step is a quarter of what follows 1
      >>> updates, state = tx.update(-jnp.ones(10_000), tx.init(params), params)
      >>> round((updates.astype(jnp.float32).mean() / 2.0**-9).item(), 1)
      1.0

    Reference:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, *Deep learning with limited numerical precision*, 2015.
    """
    _check.transformation(optimizer=optimizer)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> RoundStochasticallyState:
        return RoundStochasticallyState(_keys.data(key), inner.init(_widened(params)))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "they are what an update leads away from")
        moved, new = inner.update(updates, state.inner, _widened(params), **extra_args)
        numbers, draw = _keys.split(state.key, key)
        leaves, structure = jax.tree.flatten(moved, is_leaf=lambda x: x is None)
        seeds = structure.unflatten([*_rounding.seeds(draw, len(leaves))])

        def land(p, u, seed, dtype):
            return _landing(p, _rounding.stochastic(p + u, dtype, seed), dtype)[0], seed

        moved, _ = _moved(moved, params, land, seeds)
        return moved, RoundStochasticallyState(numbers, new)

    return optax.GradientTransformationExtraArgs(init, update)
