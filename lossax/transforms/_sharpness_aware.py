"""Sharpness awareness: the gradient of the worst point near the parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._types import Hyperparameter, PyTree


class SharpnessAwareState(NamedTuple):
    """Number of updates, what the last perturbation turned the gradient by, and the state of the optimizer.

    There is no such turn (`None`) if each step perturbs.
    """

    step: jax.Array
    turn: PyTree
    inner: PyTree


def _unit(tree: PyTree) -> tuple[jax.Array, PyTree]:
    """The norm of all numbers, and the tree over it, wide; 0 of 0."""
    unit, length = _tree.scaled_norm(tree)

    def over(x, unit, length):
        return _tree.parts(lambda x: _numerics.divide(_tree.over_unit(x, unit), length), x)

    return unit * length, _tree.map(over, tree, scalars=(unit, length))


def _product(x: PyTree, y: PyTree) -> jax.Array:
    """Inner product of two trees of one structure, real for complex numbers."""
    dtype = _hyper.default_float()
    pairs = zip(_tree.numbers(x), _tree.numbers(y), strict=True)
    return sum((jnp.sum((jnp.conj(a) * b).real, dtype=dtype) for a, b in pairs), jnp.zeros((), dtype))


def _off(x: PyTree, y: PyTree) -> PyTree:
    """The component of x at right angles to y, wide."""
    length, along = _unit(x)
    _, base = _unit(y)
    less = lambda a, b, size: a - _tree.parts(lambda v: size * v, b)  # noqa: E731
    return _tree.map(less, x, base, scalars=(length * _product(base, along),))


def sharpness_aware(
    optimizer: optax.GradientTransformation,
    rho: Hyperparameter = 0.05,
    *,
    adaptive: bool = False,
    eta: Hyperparameter = 0.01,
    alpha: Hyperparameter = 0.0,
    every: int = 1,
    reuse: Hyperparameter = 0.7,
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that descends from the worst point near the parameters, to flat minima: SAM and its relatives.

    .. math:: g_s = \nabla L\big(w + \rho\, g / \lVert g \rVert\big), \qquad g = \nabla L(w)

    Networks generalise better from there, vision transformers and small data above all, at the price of a second
    gradient. `update` takes the function that computes it, on the same batch:
    `tx.update(grads, state, params, grad_fn=lambda params: jax.grad(loss)(params, batch))`.

    - ASAM, `adaptive=True`, commonly with `rho=0.5` to 2: the neighbourhood scales with each weight,
      :math:`\rho\, T^2 g / \lVert T g \rVert`, :math:`T = |w| + \eta`.
    - GSAM, `alpha` of 0.1 to 0.4: :math:`g_s - \alpha g_\perp`, where :math:`g_\perp` is the part of :math:`g` at right
      angles to :math:`g_s`. It lowers the gap between the two losses, not only the upper one.
    - LookSAM, `every=5`: only each fifth step computes :math:`g_s`. The others take
      :math:`g + \alpha' \lVert g \rVert\, v / \lVert v \rVert` with the last part :math:`v` of :math:`g_s` at right
      angles to :math:`g`, and cost what the optimizer inside does (under `vmap` `lax.cond` computes both).

    What must see the gradient that is descended goes inside: `sharpness_aware(chain(clip_by_global_norm(1.0), adamw(...
    )))`. A gradient of 0 perturbs nothing; Optax's `sam` divides by its norm. Optax's `grad_fn` is also called with the
    number of the perturbation, and `opaque_mode=True, sync_period=2` is this function. Statistics of batch
    normalization: take those of the first gradient. 16-bit parameters round the perturbation; `master_weights` around
    it hands on 32 bits.

    Where each device holds a part of the batch (`shard_map`): average `grads`, and what `grad_fn` returns, over the
    devices for one neighbour of the whole batch. Hand over each device's own `grads`, and average in `grad_fn` alone,
    for a neighbour per device (m-SAM), which generalises better still; not with `alpha` or `every`, which use `grads`.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it, `grad_fn` among them.
      rho: Distance of the neighbour, nonnegative; 0 is `optimizer` at twice the price.
      adaptive: Whether the distance is in proportion to each weight.
      eta: Added to the size of each weight, nonnegative; for `adaptive` alone.
      alpha: Share of the gradient off the perturbed one that is taken away, nonnegative.
      every: Number of steps for each perturbation; above 1 the state keeps a copy of the parameters' size.
      reuse: Length of what is reused relative to the gradient, nonnegative; for `every` above 1 alone.

    Returns:
      An optimizer with state `SharpnessAwareState`; `update` needs `params` and `grad_fn`.

    Raises:
      TypeError: if `optimizer` is no transformation, or `every` no Python integer.
      ValueError: if a known number is out of range, or `update` gets no `params` or no `grad_fn`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> tx = sharpness_aware(optax.sgd(1.0), 0.5)
      >>> gradient = jax.grad(lambda w: 0.5 * w**2)
      >>> params = jnp.array(2.0)
      >>> updates, _ = tx.update(gradient(params), tx.init(params), params, grad_fn=gradient)
      >>> updates.item()  # the gradient at 2.5
      -2.5

    Reference:
      Foret, Kleiner, Mobahi and Neyshabur, *Sharpness-aware minimization for efficiently improving generalization*,
      2021. Kwon et al., *ASAM*, 2021. Zhuang et al., *Surrogate gap minimization improves sharpness-aware training*,
      2022. Liu et al., *Towards efficient and scalable sharpness-aware minimization*, 2022.
    """
    _check.transformation(optimizer=optimizer)
    _check.nonnegative(rho=rho, eta=eta, alpha=alpha, reuse=reuse)
    _check.count(every=every)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> SharpnessAwareState:
        turn = _tree.zeros_like(params) if every > 1 else None
        return SharpnessAwareState(jnp.zeros((), jnp.int32), turn, inner.init(params))

    def neighbour(own: PyTree, params: PyTree, distance: Any, least: Any) -> PyTree:
        def scale(g, p, least):
            return _tree.parts(lambda x: (_tree.absolute(p) + least) * x, g)

        def stretch(tree):
            return _tree.map(scale, tree, params, scalars=(least,)) if adaptive else tree

        _, ascent = _unit(stretch(own))
        move = lambda p, up, distance: p + _tree.parts(lambda x: distance * x, up)  # noqa: E731
        moved = _tree.map(move, params, stretch(ascent), scalars=(distance,))
        return _tree.cast_like(moved, params)

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        grad_fn: Callable[[PyTree], PyTree] | None = None,
        **extra_args: Any,
    ):
        _tree.require_params(params, "it looks at points near them")
        if grad_fn is None:
            raise ValueError("update(updates, state, params, grad_fn=...) needs grad_fn, a function of params")
        distance, least, share, again = (_hyper.at(state.step, value) for value in (rho, eta, alpha, reuse))
        numbers = lambda g: _tree.widen(g) if _tree.is_number(g) else None  # noqa: E731
        own = jax.tree.map(numbers, updates, is_leaf=lambda x: x is None)

        def look():
            found = _tree.map(
                lambda g, new: new if _tree.is_number(new) else g, own, grad_fn(neighbour(own, params, distance, least))
            )
            found = _tree.cast_like(found, own)
            turn = state.turn
            if every > 1:
                turn = _tree.cast_like(_tree.map(lambda _, new: new, turn, _off(found, own)), turn)
            if _hyper.is_zero(alpha):
                return found, turn
            take = lambda g, rest, share: g - _tree.parts(lambda x: share * x, rest)  # noqa: E731
            return _tree.map(take, found, _off(own, found), scalars=(share,)), turn

        def remember():
            length, _ = _unit(own)
            _, along = _unit(state.turn)
            add = lambda g, v, size: g + _tree.parts(lambda x: size * x, v)  # noqa: E731
            size = again * length
            return _tree.cast_like(_tree.map(add, own, along, scalars=(size,)), own), state.turn

        taken, turn = look() if every == 1 else jax.lax.cond(state.step % every == 0, look, remember)
        grads = jax.tree.map(lambda g, new: g if new is None else new, updates, taken, is_leaf=lambda x: x is None)
        moved, new = inner.update(_tree.cast_like(grads, updates), state.inner, params, grad_fn=grad_fn, **extra_args)
        return moved, SharpnessAwareState(_tree.increment(state.step), turn, new)

    return optax.GradientTransformationExtraArgs(init, update)
