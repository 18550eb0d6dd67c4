"""Dion."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from lossax import _check, _hyper, _keys, _linalg, _matrices, _tree
from lossax._matrices import MatrixRule
from lossax._types import Hyperparameter, Mask, PyTree


class DionState(NamedTuple):
    """Number of updates, what is left of the sum of gradients, and right factors, `[matrices, inputs, rank]` each."""

    step: jax.Array
    mu: PyTree
    factors: PyTree


def _columns(rank: float, inputs: int, outputs: int) -> int:
    """Number of columns of the factors of a matrix."""
    least = min(inputs, outputs)
    return min(int(rank), least) if isinstance(rank, int | np.integer) else math.ceil(rank * least)


def scale_by_dion(
    *,
    rank: float = 0.25,
    beta: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    key: ArrayLike | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `dion`, unscaled and ascending.

    .. math:: d = \sqrt{\text{outputs} / \text{inputs}}\; Q P^\top

    Args:
      rank: Columns of the factors: a Python int, or as a float in (0, 1] a share of the smaller side, rounded up.
      beta: Share that what has been sent leaves behind, in [0, 1).
      eps: Added to the length of each column, nonnegative.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.
      key: Of the first right factors: a seed, a typed or a raw key; `None` is the seed 0.
      mu_dtype: Dtype of the sum of gradients; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `RoutedState` of a `DionState` and the state of the fallback.

    Raises:
      TypeError: if `rank` is no Python number, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_dion(rank=2)
      >>> params = jnp.zeros((2, 2))
      >>> state = tx.init(params)
      >>> for _ in range(10):
      ...     updates, state = tx.update(jnp.array([[3.0, 0.0], [0.0, 1.0]]), state)
      >>> abs(updates).round(3).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Reference:
      Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan and Langford, *Dion: distributed orthonormalized updates*, 2025.
    """
    if not isinstance(rank, int | float | np.number) or isinstance(rank, bool):
        raise TypeError(f"rank sets shapes and must be a Python number, got {rank!r}")
    _check.positive(rank=rank)
    if not isinstance(rank, int | np.integer):
        _check.fraction(rank=rank)
    _check.decay(beta=beta)
    _check.nonnegative(eps=eps)

    def init(params: PyTree, routes: PyTree) -> DionState:
        def factor(route, leaf):
            if leaf is None:
                return None
            inputs, outputs = _matrices.sizes(route, leaf)
            shape = (math.prod(jnp.shape(leaf)) // (inputs * outputs), inputs, _columns(rank, inputs, outputs))
            # Of one key, so that a leaf begins alike whatever stands beside it, and of float32, whatever its dtype.
            return jax.random.normal(draw, shape, jnp.float32).astype(_tree.wide_dtype(leaf))

        draw = _keys.typed(0 if key is None else key)
        mu = _tree.zeros_like(params, dtype=mu_dtype)
        return DionState(jnp.zeros((), jnp.int32), mu, jax.tree.map(factor, routes, params))

    def update(updates: PyTree, state: Any, params: PyTree | None, routes: PyTree, **others: Any):
        del params, others
        stacks = _matrices.Stacks(routes, updates, upright=True)
        keep, small = _hyper.scalar(_hyper.at(state.step, beta)), _hyper.scalar(_hyper.at(state.step, eps))

        last = None

        def one(g, old, right):
            """The direction, what is left, and the next right factors of a stack."""
            nonlocal last
            owed = old + g
            left, found = _linalg.power_step(owed, _linalg.after(right, last))
            last = left
            rest = owed - (1.0 - keep).astype(jnp.finfo(g.dtype).dtype) * _linalg.out_of_basis(found, None, left)
            columns = _linalg.unit_columns(found, small)
            length = math.sqrt(g.shape[2] / g.shape[1])
            # A column of zeros would stay one: the last one is as good a beginning.
            right = jnp.where(jnp.any(columns != 0, axis=1, keepdims=True), columns, right)
            return length * _linalg.out_of_basis(columns, None, left), rest, right

        sums, factors = stacks.stack(state.mu), stacks.join(state.factors)
        found = {key: one(g, sums[key], factors[key]) for key, g in stacks.stack(updates).items()}
        directions, left, right = ({key: x[i] for key, x in found.items()} for i in range(3))
        mu = _tree.cast_like(stacks.unstack(left, updates), state.mu)
        # A matrix without a gradient keeps what it has.
        mu = jax.tree.map(lambda old, new: old if new is None else new, state.mu, mu, is_leaf=lambda x: x is None)
        directions = stacks.unstack(directions, updates)
        factors = stacks.split(right, state.factors)
        return _tree.cast_like(directions, updates), DionState(_tree.increment(state.step), mu, factors)

    return _matrices.routed(init, update, matrices, fallback)


def dion(
    learning_rate: Hyperparameter,
    *,
    rank: float = 0.25,
    beta: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    fallback_learning_rate: Hyperparameter | None = None,
    key: ArrayLike | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon in a few columns: the leading singular directions of the sum of gradients, the rest kept for later steps.

    .. math::
      B = M + G, \quad P = \mathrm{orthonormal}(B^\top Q), \quad R = B P, \quad
      M \leftarrow B - (1 - \beta) R P^\top, \\ Q \leftarrow R / \lVert R \rVert_\text{columns}, \quad
      \Delta = -\eta\,\big(\sqrt{\text{outputs} / \text{inputs}}\; Q P^\top + \lambda w\big)

    for matrices with inputs as rows, where :math:`Q` is that of the last step, so that over time this is a power
    iteration.

    For matrices so large or so spread over devices that making all of them orthogonal, as `muon` does, is what a step
    costs: products with :math:`r` columns are linear in the gradient and take the place of those with all. On one
    device, or for small matrices, `muon` or `normuon` is the better choice; the fewer columns, the more steps.

    The basis is that of QR, found by Cholesky factors. Where B has fewer dimensions than columns, the columns left over
    make no step; in the authors' code they make one of rounding errors. Rates carry over from one width to another and
    are near 0.01. The authors' code is `rank=1.0, weight_decay=0.01`.

    Args:
      learning_rate: Size of a step, nonnegative.
      rank: Columns of the factors: a Python int, or as a float in (0, 1] a share of the smaller side, rounded up.
      beta: Share that what has been sent leaves behind, in [0, 1).
      eps: Added to the length of each column, nonnegative.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves, such as `scale_by_lion()`; `None` is Adam's.
      fallback_learning_rate: Rate of the other leaves, nonnegative; `None` is `learning_rate`.
      key: Of the first right factors: a seed, a typed or a raw key; `None` is the seed 0.
      mu_dtype: Dtype of the sum of gradients; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      TypeError: if `rank` is no Python number, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = dion(0.5, rank=1)
      >>> params = jnp.zeros((2, 2))
      >>> updates, _ = tx.update(jnp.array([[3.0, 3.0], [3.0, 3.0]]), tx.init(params), params)
      >>> (2 * updates).round(4).tolist()
      [[-0.5, -0.5], [-0.5, -0.5]]

    Reference:
      Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan and Langford, *Dion: distributed orthonormalized updates*, 2025.
    """
    direction = scale_by_dion(
        rank=rank, beta=beta, eps=eps, matrices=matrices, fallback=fallback, key=key, mu_dtype=mu_dtype
    )
    return _matrices.assembled(
        direction, learning_rate, fallback_learning_rate, weight_decay, weight_decay_mask, matrices
    )
