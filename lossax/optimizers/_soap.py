"""SOAP."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from lossax import _check, _eigenbasis, _hyper, _matrices, _numerics, _tree
from lossax._eigenbasis import Sides
from lossax._matrices import MatrixRule
from lossax._types import Hyperparameter, Mask, PyTree

Statistics = Literal["gram", "kl"]
"""What second moments of rows and columns are taken of: of gradients, or of those whitened by the other side."""


class SoapState(NamedTuple):
    """Number of updates, average gradient, average of its square in the bases, those bases, and masses of both."""

    step: jax.Array
    mu: PyTree
    nu: Mapping[str, jax.Array]
    sides: Sides
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_soap(
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    shampoo_beta: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    every: Hyperparameter = 10,
    statistics: Statistics = "gram",
    one_sided: bool = False,
    max_size: int = 10_000,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `soap`, unscaled and ascending.

    .. math:: d = Q_L \Big( \frac{Q_L^\top \hat m\, Q_R}{\sqrt{\hat v} + \epsilon} \Big) Q_R^\top

    Args:
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the average square keeps, in [0, 1).
      shampoo_beta: Share of the past that the second moments of rows and columns keep, in [0, 1).
      eps: Added to the root of the average square, nonnegative.
      every: Steps from one refresh of the bases to the next, rounded to a whole number of at least 1.
      statistics: `"gram"` (SOAP) or `"kl"` (KL-SOAP).
      one_sided: Whether only the shorter side of each matrix gets a basis.
      max_size: Longest side that gets a basis, a static int.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.
      mu_dtype: Dtype of the average gradient; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `RoutedState` of a `SoapState` and the state of the fallback.

    Raises:
      TypeError: if `max_size` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_soap()
      >>> gradient = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> updates, state = tx.update(gradient, tx.init(gradient))
      >>> updates.tolist()
      [[0.0, 0.0], [0.0, 0.0]]
      >>> updates, _ = tx.update(gradient, state)
      >>> updates.round(4).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Reference:
      Vyas et al., *SOAP: improving and stabilizing Shampoo using Adam*, 2024.
    """
    _check.decay(b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    _check.nonnegative(eps=eps)
    _check.positive(every=every)
    _check.choice(("gram", "kl"), statistics=statistics)
    _check.count(max_size=max_size)
    accumulate = _eigenbasis.accumulate if statistics == "gram" else _eigenbasis.accumulate_whitened

    def init(params: PyTree, routes: PyTree) -> SoapState:
        spans = _matrices.Stacks(routes, params).spans()
        return SoapState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu={key: jnp.zeros(span.shape, jnp.finfo(span.dtype).dtype) for key, span in spans.items()},
            sides=_eigenbasis.start(spans, max_size, one_sided, valued=statistics == "kl"),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None, routes: PyTree, **others: Any):
        del others
        stacks = _matrices.Stacks(routes, updates if params is None else params)
        updates = _eigenbasis.bounded(updates)
        # The first gradient makes the bases and moves nothing: along them all but its diagonal is rounding errors.
        keep1, keep2 = (jnp.where(state.step == 0, 1.0, _hyper.scalar(_hyper.at(state.step, b))) for b in (b1, b2))
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), keep1)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, keep1), _tree.mass(state.nu_mass, keep2)
        small = _hyper.scalar(_hyper.at(state.step, eps))
        gradients, averages = stacks.stack(updates), stacks.stack(state.mu)

        def direction(g, old, v, pair):
            real = v.dtype
            keep, share, behind, behind2, least = (x.astype(real) for x in (keep1, keep2, mu_mass, nu_mass, small))
            m = _eigenbasis.project(pair, keep * old + (1.0 - keep) * g)
            v = share * v + (1.0 - share) * _tree.square(_eigenbasis.project(pair, g))
            root = _numerics.sqrt(_numerics.divide(v, behind2))
            known = _eigenbasis.resolved(root)
            scale = _numerics.divide(jnp.ones_like(root), jnp.where(known, behind * (root + least), 0.0 * root))
            return _eigenbasis.project_back(pair, _tree.parts(lambda x: scale * x, m)), v

        found = {key: direction(gradients[key], averages[key], state.nu[key], state.sides[key]) for key in state.nu}
        sides = accumulate(state.sides, gradients, _hyper.at(state.step, shampoo_beta))
        nu = {key: v for key, (_, v) in found.items()}
        sides, nu = _eigenbasis.refresh(sides, nu, gradients, state.step, every)
        directions = stacks.unstack({key: d for key, (d, _) in found.items()}, updates)
        mu = _tree.cast_like(mu, state.mu)
        return directions, SoapState(_tree.increment(state.step), mu, nu, sides, mu_mass, nu_mass)

    return _matrices.routed(init, update, matrices, fallback)


def soap(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    shampoo_beta: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    every: Hyperparameter = 10,
    statistics: Statistics = "gram",
    one_sided: bool = False,
    max_size: int = 10_000,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    fallback_learning_rate: Hyperparameter | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in the eigenvectors of Shampoo's preconditioner: the axes of each matrix are turned until they part.

    .. math::
      L \leftarrow \beta L + (1 - \beta) g g^\top, \quad R \leftarrow \beta R + (1 - \beta) g^\top g, \quad
      Q_L, Q_R = \mathrm{eigenvectors}(L, R) \;\text{every}\; k \;\text{steps}

    .. math::
      v \leftarrow \beta_2 v + (1 - \beta_2) (Q_L^\top g\, Q_R)^2, \quad
      \Delta = -\eta\,\Big(Q_L \frac{Q_L^\top \hat m\, Q_R}{\sqrt{\hat v} + \epsilon} Q_R^\top + \lambda w\Big)

    For the matrices of transformers and other networks, at rates and decay of `adamw` (the paper takes 3e-3 and 0.01):
    fewer steps than Adam's, each dearer by a few products of matrices. `matrices`, as of `muon`, says which leaves are
    matrices; the others take the `fallback`. All of one shape are one batch.

    - The first step moves no matrix, as in the authors' code: it makes the first bases, by eigenvectors. Later ones
      come from one step of orthogonal iteration and a QR decomposition, on refresh steps alone; a `vmap` over runs
      that refresh at different steps pays for them at every step.
    - At a refresh the columns of a basis are sorted by eigenvalue, and v moves with them. The average gradient is kept
      unprojected, so that it needs no care.
    - A side longer than `max_size` keeps its own axes, and with `one_sided=True` the longer side of each matrix does:
      most of the gain for half the memory, or much less for matrices that are far from square.
    - `statistics="kl"` is KL-SOAP, whose L is the average of :math:`g R^{-1} g^\top / n`, and R likewise.

    Bases are constants to differentiation: derivatives of eigenvectors do not exist where eigenvalues are equal. An
    average square that is no more than rounding error beside the largest of its matrix counts as 0, where the authors'
    code divides noise by noise. A gradient so long that its square is no number is shortened.

    The authors' PyTorch code and pytorch_optimizer have these defaults with `weight_decay=0.01`; theirs is not applied
    at the first step. HeavyBall's has `b1=0.9`, `every=2` and `max_size=2048`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the average square keeps, in [0, 1).
      shampoo_beta: Share of the past that the second moments of rows and columns keep, in [0, 1).
      eps: Added to the root of the average square, nonnegative.
      every: Steps from one refresh of the bases to the next, rounded to a whole number of at least 1.
      statistics: `"gram"` (SOAP) or `"kl"` (KL-SOAP).
      one_sided: Whether only the shorter side of each matrix gets a basis.
      max_size: Longest side that gets a basis, a static int.
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
      >>> tx = soap(0.5)
      >>> gradient = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> _, state = tx.update(gradient, tx.init(gradient))
      >>> updates, _ = tx.update(gradient, state)
      >>> (2 * updates).round(4).tolist()
      [[-1.0, -0.0], [-0.0, -1.0]]

    Reference:
      Vyas et al., *SOAP: improving and stabilizing Shampoo using Adam*, 2024; Lin et al., *Understanding and improving
      Shampoo and SOAP via Kullback-Leibler minimization*, 2025.
    """
    direction = scale_by_soap(
        b1=b1,
        b2=b2,
        shampoo_beta=shampoo_beta,
        eps=eps,
        every=every,
        statistics=statistics,
        one_sided=one_sided,
        max_size=max_size,
        matrices=matrices,
        fallback=fallback,
        mu_dtype=mu_dtype,
    )
    return _matrices.assembled(
        direction, learning_rate, fallback_learning_rate, weight_decay, weight_decay_mask, matrices
    )
