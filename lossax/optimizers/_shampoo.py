"""Shampoo."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import DTypeLike

from lossax import _check, _eigenbasis, _hyper, _linalg, _matrices, _numerics, _tree
from lossax._matrices import MatrixRule
from lossax._tile import kept_whole
from lossax._types import Hyperparameter, Mask, PyTree

Accumulate = Literal["average", "sum"]
"""What second moments are: averages of the latest gradients, or sums of all."""

Grafting = Literal["adam", "rmsprop", "sgd", "none"]
"""Whose length a step has."""


class _Preconditioner(NamedTuple):
    """Second moment of the rows, or columns, of each block `[blocks, d, d]`, and its inverse root."""

    moment: jax.Array
    root: jax.Array


class ShampooState(NamedTuple):
    """Number of updates, averages of the gradient and of its square, momentum, preconditioners and masses.

    A part that the arguments make no use of is `None`.
    """

    step: jax.Array
    mu: PyTree
    nu: PyTree
    trace: PyTree
    sides: dict[str, tuple[_Preconditioner | None, _Preconditioner | None]]
    mu_mass: jax.Array
    nu_mass: jax.Array


def _grid(shape: tuple[int, ...], block_size: int) -> tuple[int, int, int, int]:
    """Number of blocks along both sides of a matrix, and their lengths: equal ones, so that the last may be padded."""
    rows, columns = (-(-n // block_size) for n in shape[1:])
    return rows, columns, -(-shape[1] // rows), -(-shape[2] // columns)


def _cut(x: jax.Array, block_size: int) -> jax.Array:
    """Blocks `[blocks, m, n]` of matrices, padded with zeros."""
    rows, columns, m, n = _grid(x.shape, block_size)
    x = jnp.pad(x, ((0, 0), (0, rows * m - x.shape[1]), (0, columns * n - x.shape[2])))
    return x.reshape(-1, rows, m, columns, n).swapaxes(2, 3).reshape(-1, m, n)


def _join(blocks: jax.Array, shape: tuple[int, ...], block_size: int) -> jax.Array:
    """The matrices again."""
    rows, columns, m, n = _grid(shape, block_size)
    x = blocks.reshape(-1, rows, columns, m, n).swapaxes(2, 3).reshape(-1, rows * m, columns * n)
    return x[:, : shape[1], : shape[2]]


def _start(span: jax.ShapeDtypeStruct, block_size: int, max_size: int):
    rows, columns, m, n = _grid(span.shape, block_size)
    count = span.shape[0] * rows * columns

    def side(whole, size):
        if whole > max_size:
            return None
        moment = jnp.zeros((count, size, size), span.dtype)
        return _Preconditioner(moment, jnp.zeros_like(moment) + jnp.eye(size, dtype=span.dtype)[None])

    return side(span.shape[1], m), side(span.shape[2], n)


def scale_by_shampoo(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-6,
    exponent: Hyperparameter = 0.25,
    every: Hyperparameter = 10,
    start: Hyperparameter = 10,
    accumulate: Accumulate = "average",
    grafting: Grafting = "adam",
    graft_eps: Hyperparameter = 1e-8,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    block_size: int = 1024,
    max_size: int = 8192,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `shampoo`, unscaled and ascending.

    .. math:: d = \lVert a \rVert \frac{p}{\lVert p \rVert}, \quad p = \hat L^{-1/4} \hat m\, \hat R^{-1/4}

    Args:
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that second moments and squares keep if they are averages, in [0, 1).
      eps: Added to eigenvalues, as a share of the largest, nonnegative.
      exponent: Power of both inverse roots, positive; twice that where one side alone is preconditioned.
      every: Steps from one refresh of the inverse roots to the next, rounded to a whole number of at least 1.
      start: Step, counted from 1, that is the first to be preconditioned.
      accumulate: `"average"` or `"sum"`.
      grafting: `"adam"`, `"rmsprop"`, `"sgd"` or `"none"`.
      graft_eps: Added to the root of the average square in grafting, nonnegative.
      momentum: Decay of a sum of directions, in [0, 1); `None` is none.
      nesterov: Whether that sum looks one step ahead.
      block_size: Longest side of the blocks that matrices are cut into, a static int.
      max_size: Longest side that is preconditioned, a static int.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.
      mu_dtype: Dtype of the average gradient; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `RoutedState` of a `ShampooState` and the state of the fallback.

    Raises:
      TypeError: if `block_size` or `max_size` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_shampoo(start=1, grafting="none", eps=0.0)
      >>> gradient = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> updates.round(4).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Reference:
      Gupta, Koren and Singer, *Shampoo: preconditioned stochastic tensor optimization*, 2018.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, graft_eps=graft_eps, start=start)
    _check.positive(exponent=exponent, every=every)
    _check.choice(("average", "sum"), accumulate=accumulate)
    _check.choice(("adam", "rmsprop", "sgd", "none"), grafting=grafting)
    _check.count(block_size=block_size, max_size=max_size)
    if momentum is not None:
        _check.decay(momentum=momentum)

    def init(params: PyTree, routes: PyTree) -> ShampooState:
        spans = _matrices.Stacks(routes, params).spans()
        return ShampooState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True) if grafting in ("adam", "rmsprop") else None,
            trace=None if momentum is None else _tree.zeros_like(params),
            sides={key: _start(span, block_size, max_size) for key, span in spans.items()},
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def refreshed(sides, moments, step, mass):
        """Preconditioners with new moments, and new roots of them every so often."""
        power, ridge = _hyper.scalar(_hyper.at(step, exponent)), _hyper.scalar(_hyper.at(step, eps))

        def roots(_):
            last = None

            def root(moment, alone):
                nonlocal last
                if moment is None:
                    return None
                real = jnp.finfo(moment.dtype).dtype
                least, behind, p = (x.astype(real) for x in (ridge, mass, power * (2.0 if alone else 1.0)))
                moment = _linalg.after(_tree.parts(lambda x: x / behind, moment), last)
                last = _linalg.inverse_root(moment, p, least)
                return last

            return {key: (root(a, b is None), root(b, a is None)) for key, (a, b) in moments.items()}

        first = jnp.maximum(_hyper.period(step, start), 1)
        due = ((step + 1) % _hyper.period(step, every) == 0) | (step + 1 == first)
        same = lambda sides: {key: tuple(s and s.root for s in pair) for key, pair in sides.items()}  # noqa: E731
        found = kept_whole(lax.cond(due, roots, same, sides))

        def pair(key):
            sides = zip(moments[key], found[key], strict=True)
            rows, columns = (None if moment is None else _Preconditioner(moment, root) for moment, root in sides)
            return rows, columns

        joined = {key: pair(key) for key in moments}
        return joined, step + 1 >= first

    def update(updates: PyTree, state: Any, params: PyTree | None, routes: PyTree, **others: Any):
        del others
        stacks = _matrices.Stacks(routes, updates if params is None else params)
        updates = _eigenbasis.bounded(updates)
        keep1, keep2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
        take2, keep2 = (1.0, 1.0) if accumulate == "sum" else (1.0 - keep2, keep2)
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), keep1)
        mu_mass = _tree.mass(state.mu_mass, keep1)
        nu_mass = jnp.ones_like(state.nu_mass) if accumulate == "sum" else _tree.mass(state.nu_mass, keep2)
        nu = state.nu
        if nu is not None:

            def square(v, g, keep, take):
                return keep * v + take * _tree.square(g)

            nu = _tree.map(square, nu, updates, scalars=(keep2, take2))
        gradients, averages = stacks.stack(updates), stacks.stack(state.mu)
        squares = None if nu is None else stacks.stack(nu)

        def moved(pair, g):
            real = jnp.finfo(g.dtype).dtype
            keep, take = (lax.stop_gradient(jnp.asarray(x, real)) for x in (keep2, take2))
            blocks = lax.stop_gradient(_cut(g, block_size))

            def mix(side, new):
                return None if side is None else keep * side.moment + take * new(blocks)

            return mix(pair[0], _linalg.gram), mix(pair[1], _linalg.gram_of_columns)

        moments = kept_whole({key: moved(pair, gradients[key]) for key, pair in state.sides.items()})
        sides, started = refreshed(state.sides, moments, state.step, lax.stop_gradient(nu_mass))
        least = _hyper.scalar(_hyper.at(state.step, graft_eps))

        def direction(key):
            g = gradients[key]
            real = jnp.finfo(g.dtype).dtype
            keep, behind, behind2, small = (jnp.asarray(x, real) for x in (keep1, mu_mass, nu_mass, least))
            m = (keep * averages[key] + (1.0 - keep) * g) / behind
            left, right = (None if side is None else lax.stop_gradient(side.root) for side in sides[key])
            p = _join(_linalg.into_basis(_cut(m, block_size), left, right), g.shape, block_size)
            if squares is None:
                grafted = m
            else:
                v = squares[key] / (behind2 if grafting == "adam" else jnp.ones_like(behind2))
                grafted = _numerics.divide(m, (_numerics.sqrt(v) + small).astype(m.dtype))
            if grafting != "none":
                unit, length = _tree.scaled_norms(p, (1, 2))
                own, size = _tree.scaled_norms(grafted, (1, 2))
                ratio = _numerics.divide(own * size, length)
                p = _tree.parts(lambda x: ratio * _tree.over_unit(x, unit), p)
            return jnp.where(started, p, grafted)

        directions = stacks.unstack({key: direction(key) for key in gradients}, updates)
        trace = state.trace
        if momentum is not None:
            held = _hyper.at(state.step, momentum)
            trace = _tree.map(lambda d, t, held: d + held * t, directions, trace, scalars=(held,))
            if nesterov:
                directions = _tree.map(lambda d, t, held: d + held * t, directions, trace, scalars=(held,))
            else:
                directions = trace
            trace = _tree.cast_like(trace, state.trace)
        mu = _tree.cast_like(mu, state.mu)
        new = ShampooState(_tree.increment(state.step), mu, nu, trace, sides, mu_mass, nu_mass)
        return _tree.cast_like(directions, updates), new

    return _matrices.routed(init, update, matrices, fallback)


def shampoo(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-6,
    exponent: Hyperparameter = 0.25,
    every: Hyperparameter = 10,
    start: Hyperparameter = 10,
    accumulate: Accumulate = "average",
    grafting: Grafting = "adam",
    graft_eps: Hyperparameter = 1e-8,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    block_size: int = 1024,
    max_size: int = 8192,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    fallback_learning_rate: Hyperparameter | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradients divided by roots of the second moments of their rows and of their columns, at Adam's length.

    .. math::
      L \leftarrow \beta_2 L + (1 - \beta_2) g g^\top, \quad R \leftarrow \beta_2 R + (1 - \beta_2) g^\top g, \quad
      p = \hat L^{-1/4} \hat m\, \hat R^{-1/4}

    .. math::
      \Delta = -\eta\,\Big(\lVert a \rVert \frac{p}{\lVert p \rVert} + \lambda w\Big)

    where :math:`a` is the grafted direction: Adam's, or another's.

    For the matrices of large networks trained in large batches. `soap`, which needs neither grafting nor a start, is
    the easier choice. `matrices`, as of `muon`, says which leaves are matrices; the others take the `fallback`. All of
    one shape are one batch.

    - Inverse roots are made by eigenvalues, on refresh steps alone, at any rank of the moments and for any `exponent`:
      0.25 is the paper's, 0.5 that of Morwani et al., for which moments approximate those of all entries. To
      eigenvalues `eps` times the largest is added. A `vmap` over runs that refresh at different steps pays at every
      step.
    - Sides longer than `block_size` are cut into equal blocks, each with roots of its own. A side longer than
      `max_size` is left as it is, and the exponent of the other one doubles.
    - Before step `start` the step is the grafted one; few gradients say little about most directions.
    - `accumulate="sum"` is the paper's; grafting is then to Adagrad, with `grafting="adam"` as with `"rmsprop"`.
      `"rmsprop"` is Adam without bias correction of the square, `"sgd"` the average gradient itself.

    In float32 a step is off by up to 3e-3 of its length where eigenvalues are spread over ten decades, by 5e-5 with
    `eps=1e-4`. Roots are constants to differentiation: derivatives of eigenvectors do not exist where eigenvalues are
    equal. A gradient so long that its square is no number is shortened.

    Google's `distributed_shampoo` is `b1=0.0`, `momentum=0.9`, `nesterov=True`, `every=1`, `start=5`,
    `grafting="sgd"`; Meta's is `accumulate="sum"`, `grafting="none"`, `every=1`, `start=1`, with an `eps` of 1e-12 that
    is not a share, and in its recipes `grafting="adam"` and `every=100`. Both cut blocks that are not equal.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that second moments and squares keep if they are averages, in [0, 1).
      eps: Added to eigenvalues, as a share of the largest, nonnegative.
      exponent: Power of both inverse roots, positive; twice that where one side alone is preconditioned.
      every: Steps from one refresh of the inverse roots to the next, rounded to a whole number of at least 1.
      start: Step, counted from 1, that is the first to be preconditioned.
      accumulate: `"average"` or `"sum"`.
      grafting: `"adam"`, `"rmsprop"`, `"sgd"` or `"none"`.
      graft_eps: Added to the root of the average square in grafting, nonnegative.
      momentum: Decay of a sum of directions, in [0, 1); `None` is none.
      nesterov: Whether that sum looks one step ahead.
      block_size: Longest side of the blocks that matrices are cut into, a static int.
      max_size: Longest side that is preconditioned, a static int.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves, such as `scale_by_lion()`; `None` is Adam's.
      fallback_learning_rate: Rate of the other leaves, nonnegative; `None` is `learning_rate`.
      mu_dtype: Dtype of the average gradient; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      TypeError: if `block_size` or `max_size` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = shampoo(0.5, start=1, grafting="none", eps=0.0)
      >>> gradient = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> (2 * updates).round(4).tolist()
      [[-1.0, -0.0], [-0.0, -1.0]]

    Reference:
      Gupta, Koren and Singer, *Shampoo: preconditioned stochastic tensor optimization*, 2018; Anil et al., *Scalable
      second order optimization for deep learning*, 2020; Shi et al., *A distributed data-parallel PyTorch
      implementation of the distributed Shampoo optimizer for training neural networks at-scale*, 2023; Morwani et al.,
      *A new perspective on Shampoo's preconditioner*, 2024.
    """
    direction = scale_by_shampoo(
        b1=b1,
        b2=b2,
        eps=eps,
        exponent=exponent,
        every=every,
        start=start,
        accumulate=accumulate,
        grafting=grafting,
        graft_eps=graft_eps,
        momentum=momentum,
        nesterov=nesterov,
        block_size=block_size,
        max_size=max_size,
        matrices=matrices,
        fallback=fallback,
        mu_dtype=mu_dtype,
    )
    return _matrices.assembled(
        direction, learning_rate, fallback_learning_rate, weight_decay, weight_decay_mask, matrices
    )
