"""AdaMuon."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from lossax import _check, _hyper, _matrices, _orthogonal, _tree
from lossax._linalg import Coefficients
from lossax._matrices import MatrixRule, Scale
from lossax._types import Hyperparameter, Mask, PyTree


class AdamuonState(NamedTuple):
    """Number of updates, average gradient, second moment of its orthogonal direction, and the mass of each."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_adamuon(
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    nesterov: bool = False,
    sign: bool = True,
    coefficients: Coefficients = "quintic",
    steps: int = 5,
    norm: Literal["frobenius", "schatten"] = "frobenius",
    scale: Scale = "rms",
    rms: Hyperparameter = 0.2,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    iteration_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `adamuon`, unscaled and ascending.

    .. math:: d = s\, o / (\sqrt{\hat v} + \epsilon), \quad o = \mathrm{orthogonal}(\mathrm{sign}(m))

    Args:
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the norm that a matrix is divided by, and to the root, nonnegative.
      nesterov: Whether the average looks one step ahead.
      sign: Whether the signs of the average are made orthogonal instead of it.
      coefficients: `"quintic"` (Jordan), `"dion"` (Ahn) or `"polar_express"` (Amsel).
      steps: Number of polynomials, a static int.
      norm: What a matrix is divided by first: `"frobenius"`, or the smaller `"schatten"`.
      scale: `"rms"`, or as in `muon` `"width"`, `"spectral"` or `"none"`.
      rms: Root mean square of the entries of a direction if `scale="rms"`, positive.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.
      iteration_dtype: Dtype of the products; float32, or the parameter's if wider, if `None`.
      mu_dtype: Dtype of the average; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `RoutedState` of a `AdamuonState` and the state of the fallback.

    Raises:
      TypeError: if `steps` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adamuon(rms=0.5, coefficients="polar_express", steps=8)
      >>> params = jnp.zeros((2, 2))
      >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 1.0]]), tx.init(params))
      >>> (updates**2).round(4).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Si, Zhang and Shen, *AdaMuon: adaptive Muon optimizer*, 2025.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps)
    _matrices.checked(scale, rms)
    orthogonalize = _orthogonal.iteration(coefficients, steps, norm, iteration_dtype)

    def init(params: PyTree, routes: PyTree) -> AdamuonState:
        del routes
        nu = _tree.zeros_like(params, real=True)
        masses = (jnp.zeros((), _hyper.default_float()) for _ in range(2))
        return AdamuonState(jnp.zeros((), jnp.int32), _tree.zeros_like(params, dtype=mu_dtype), nu, *masses)

    def update(updates: PyTree, state: Any, params: PyTree | None, routes: PyTree, **others: Any):
        del params, others
        stacks = _matrices.Stacks(routes, updates)
        share, keep, small, size = (_hyper.at(state.step, x) for x in (b1, b2, eps, rms))
        found, mu, mass = _orthogonal.momentum(
            updates, state, stacks, share, small, orthogonalize, nesterov=nesterov, before=jnp.sign if sign else None
        )
        squares = {key: _tree.square(x) for key, x in found.items()}
        adapted, nu, nu_mass = _orthogonal.adapted(found, squares, state, stacks, keep, small)
        directions = stacks.unstack(_orthogonal.restored(adapted, found, stacks, scale, size), updates)
        new = AdamuonState(_tree.increment(state.step), _tree.cast_like(mu, state.mu), nu, mass, nu_mass)
        return _tree.cast_like(directions, updates), new

    return _matrices.routed(init, update, matrices, fallback)


def adamuon(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    nesterov: bool = False,
    sign: bool = True,
    coefficients: Coefficients = "quintic",
    steps: int = 5,
    norm: Literal["frobenius", "schatten"] = "frobenius",
    scale: Scale = "rms",
    rms: Hyperparameter = 0.2,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    fallback_learning_rate: Hyperparameter | None = None,
    iteration_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon with a rate for each entry, as Adam has: the second moment is that of what was made orthogonal.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
      v \leftarrow \beta_2 v + (1 - \beta_2) o^2, \quad
      \Delta = -\eta\,\big(s\, o / (\sqrt{\hat v} + \epsilon) + \lambda w\big)

    where :math:`o` is :math:`\mathrm{sign}(m)` made orthogonal as in `muon`, and the hat divides by the same average
    taken of ones.

    For the same matrices as `muon`, with as much state as AdamW, and with its rates and decay: `scale="rms"` makes the
    entries of a step of root mean square 0.2, exactly. `normuon` has a moment for each neuron instead, and nearly
    the state of `muon`.

    The paper has one share for both averages. The authors' first version and pytorch_optimizer are
    `nesterov=True, sign=False, b2=0.999`. With other scales than `"rms"` a step is as long as that of `muon`. Which
    leaves are matrices, what the others take and what `coefficients` do is told in `muon`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the norm that a matrix is divided by, and to the root, nonnegative.
      nesterov: Whether the average looks one step ahead.
      sign: Whether the signs of the average are made orthogonal instead of it.
      coefficients: `"quintic"` (Jordan), `"dion"` (Ahn) or `"polar_express"` (Amsel).
      steps: Number of polynomials, a static int.
      norm: What a matrix is divided by first: `"frobenius"`, or the smaller `"schatten"`.
      scale: `"rms"`, or as in `muon` `"width"`, `"spectral"` or `"none"`.
      rms: Root mean square of the entries of a direction if `scale="rms"`, positive.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.
      fallback_learning_rate: Rate of the other leaves, nonnegative; `None` is `learning_rate`.
      iteration_dtype: Dtype of the products; float32, or the parameter's if wider, if `None`.
      mu_dtype: Dtype of the average; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      TypeError: if `steps` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adamuon(0.5, rms=1.0, coefficients="polar_express", steps=8)
      >>> params = jnp.zeros((2, 2))
      >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 1.0]]), tx.init(params), params)
      >>> (updates**2).round(4).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Si, Zhang and Shen, *AdaMuon: adaptive Muon optimizer*, 2025.
    """
    direction = scale_by_adamuon(
        b1=b1,
        b2=b2,
        eps=eps,
        nesterov=nesterov,
        sign=sign,
        coefficients=coefficients,
        steps=steps,
        norm=norm,
        scale=scale,
        rms=rms,
        matrices=matrices,
        fallback=fallback,
        iteration_dtype=iteration_dtype,
        mu_dtype=mu_dtype,
    )
    return _matrices.assembled(
        direction, learning_rate, fallback_learning_rate, weight_decay, weight_decay_mask, matrices
    )
