"""KL-Shampoo."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import DTypeLike

from lossax import _check, _eigenbasis, _hyper, _matrices, _numerics, _tree
from lossax._eigenbasis import Sides
from lossax._matrices import MatrixRule
from lossax._types import Hyperparameter, Mask, PyTree


class KlShampooState(NamedTuple):
    """Number of updates, average gradient, what is known of rows and columns, and the mass of the former."""

    step: jax.Array
    mu: PyTree
    sides: Sides
    mu_mass: jax.Array


def scale_by_kl_shampoo(
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    every: Hyperparameter = 10,
    one_sided: bool = False,
    max_size: int = 10_000,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `kl_shampoo`, unscaled and ascending.

    .. math:: d = Q_L \Big( \frac{Q_L^\top \hat m\, Q_R}{\sqrt{\lambda_L \lambda_R^\top} + \epsilon} \Big) Q_R^\top

    Args:
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that second moments of rows and columns keep, and their values, in [0, 1).
      eps: Added to the root of the values, nonnegative.
      every: Steps from one refresh of the bases to the next, rounded to a whole number of at least 1.
      one_sided: Whether only the shorter side of each matrix is preconditioned.
      max_size: Longest side that is preconditioned, a static int.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.
      mu_dtype: Dtype of the average gradient; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `RoutedState` of a `KlShampooState` and the state of the fallback.

    Raises:
      TypeError: if `max_size` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_kl_shampoo(one_sided=True)
      >>> gradient = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> updates, state = tx.update(gradient, tx.init(gradient))
      >>> updates.tolist()
      [[0.0, 0.0], [0.0, 0.0]]
      >>> updates, _ = tx.update(gradient, state)
      >>> (updates**2).round(4).tolist()
      [[2.0, 0.0], [0.0, 2.0]]

    Reference:
      Lin et al., *Understanding and improving Shampoo and SOAP via Kullback-Leibler minimization*, 2025.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps)
    _check.positive(every=every)
    _check.count(max_size=max_size)

    def init(params: PyTree, routes: PyTree) -> KlShampooState:
        return KlShampooState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            sides=_eigenbasis.start(_matrices.Stacks(routes, params).spans(), max_size, one_sided, valued=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None, routes: PyTree, **others: Any):
        del others
        stacks = _matrices.Stacks(routes, updates if params is None else params)
        updates = _eigenbasis.bounded(updates)
        # The first gradient makes the bases and moves nothing, as in `soap`.
        keep = jnp.where(state.step == 0, 1.0, _hyper.scalar(_hyper.at(state.step, b1)))
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), keep)
        mu_mass = _tree.mass(state.mu_mass, keep)
        small = _hyper.scalar(_hyper.at(state.step, eps))
        gradients, averages = stacks.stack(updates), stacks.stack(state.mu)
        seen = _eigenbasis.accumulate_whitened(state.sides, gradients, _hyper.at(state.step, b2))

        def direction(g, old, pair):
            real = jnp.finfo(g.dtype).dtype
            share, behind, least = (x.astype(real) for x in (keep, mu_mass, small))
            m = _eigenbasis.project(pair, share * old + (1.0 - share) * g)
            rows, columns = (
                jnp.ones((1, 1), real) if side is None else lax.stop_gradient(_eigenbasis.roots(side)) for side in pair
            )
            root = rows[:, :, None] * columns[:, None, :]
            dividend = jnp.where(root > 0, behind * (root + least), 0)
            scale = _numerics.divide(jnp.ones_like(dividend), dividend)
            return _eigenbasis.project_back(pair, _tree.parts(lambda x: scale * x, m))

        directions = {key: direction(gradients[key], averages[key], pair) for key, pair in seen.items()}
        directions = stacks.unstack(directions, updates)
        sides, _ = _eigenbasis.refresh(seen, {}, gradients, state.step, every)
        mu = _tree.cast_like(mu, state.mu)
        new = KlShampooState(_tree.increment(state.step), mu, sides, mu_mass)
        return _tree.cast_like(directions, updates), new

    return _matrices.routed(init, update, matrices, fallback)


def kl_shampoo(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    every: Hyperparameter = 10,
    one_sided: bool = False,
    max_size: int = 10_000,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    fallback_learning_rate: Hyperparameter | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Shampoo whose two factors are fitted to each other: it needs neither grafting nor Adam's second moment.

    .. math::
      L \leftarrow \beta_2 L + \frac{1 - \beta_2}{n}\, g R^{-1} g^\top, \quad
      R \leftarrow \beta_2 R + \frac{1 - \beta_2}{m}\, g^\top L^{-1} g, \quad
      \Delta = -\eta\,\big(L^{-1/2} \hat m\, R^{-1/2} + \lambda w\big)

    for gradients of m rows and n columns: the moments of rows and of columns whose product is nearest to the covariance
    of all entries, in the sense of Kullback and Leibler.

    For the matrices of transformers, at rates of `soap`, with less state: no average square. `soap(statistics="kl")`,
    KL-SOAP, has both. `matrices`, as of `muon`, says which leaves are matrices; the others take the `fallback`.

    - Eigenvectors are refreshed as in `soap`: by eigenvectors after the first step, which moves no matrix, then by one
      step of orthogonal iteration every so often. Eigenvalues follow at every step, as averages of squares along them.
    - Averages start at the first gradient that is not 0, so that they need no bias correction. Eigenvalues take the
      gradient in before it is divided by them, and what cannot be told from 0 is left out of the step: the authors'
      code divides by those of the step before and clamps what comes of it at a size that depends on units.
    - A side longer than `max_size`, or the longer one with `one_sided=True`, is left as it is.

    L and R are constants to differentiation: derivatives of eigenvectors do not exist where eigenvalues are equal. A
    gradient so long that its square is no number is shortened. The authors' code has `b1=0.9` and `b2=0.98`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that second moments of rows and columns keep, and their values, in [0, 1).
      eps: Added to the root of the values, nonnegative.
      every: Steps from one refresh of the bases to the next, rounded to a whole number of at least 1.
      one_sided: Whether only the shorter side of each matrix is preconditioned.
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
      TypeError: if `max_size` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = kl_shampoo(0.5, one_sided=True)
      >>> gradient = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> _, state = tx.update(gradient, tx.init(gradient))
      >>> updates, _ = tx.update(gradient, state)
      >>> (updates**2).round(4).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Lin et al., *Understanding and improving Shampoo and SOAP via Kullback-Leibler minimization*, 2025.
    """
    direction = scale_by_kl_shampoo(
        b1=b1,
        b2=b2,
        eps=eps,
        every=every,
        one_sided=one_sided,
        max_size=max_size,
        matrices=matrices,
        fallback=fallback,
        mu_dtype=mu_dtype,
    )
    return _matrices.assembled(
        direction, learning_rate, fallback_learning_rate, weight_decay, weight_decay_mask, matrices
    )
