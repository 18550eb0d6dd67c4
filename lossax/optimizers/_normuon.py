"""NorMuon."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from lossax import _check, _hyper, _matrices, _orthogonal, _tree
from lossax._linalg import Coefficients
from lossax._matrices import MatrixRule, Scale
from lossax._types import Hyperparameter, Mask, PyTree


class NormuonState(NamedTuple):
    """Number of updates, average gradient, second moment of each output (its inputs of length one), their masses."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_normuon(
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    nesterov: bool = False,
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
    r"""Direction of `normuon`, unscaled and ascending.

    .. math:: d = s\, o / (\sqrt{\hat v_\text{neuron}} + \epsilon), \quad o = \mathrm{orthogonal}(m)

    Args:
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the norm that a matrix is divided by, and to the root, nonnegative.
      nesterov: Whether the average looks one step ahead.
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
      A transformation with state `RoutedState` of a `NormuonState` and the state of the fallback.

    Raises:
      TypeError: if `steps` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_normuon(rms=0.5, coefficients="polar_express", steps=8)
      >>> params = jnp.zeros((2, 2))
      >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 1.0]]), tx.init(params))
      >>> (updates**2).round(4).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Li, Liu, Liang, Chen and Zhao, *NorMuon: making Muon more efficient and scalable*, 2025.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps)
    _matrices.checked(scale, rms)
    orthogonalize = _orthogonal.iteration(coefficients, steps, norm, iteration_dtype)

    def init(params: PyTree, routes: PyTree) -> NormuonState:
        def zeros(route, leaf):
            if leaf is None:
                return None
            # Zeros like a sum have its sharding: that of the axes that are left.
            inputs = tuple(axis for axis, side in enumerate(route) if side == "i")
            whole = jnp.sum(jnp.asarray(leaf), inputs, keepdims=True)
            return jnp.zeros_like(whole, _tree.wide_dtype(leaf, real=True))

        nu = jax.tree.map(zeros, routes, params)
        masses = (jnp.zeros((), _hyper.default_float()) for _ in range(2))
        return NormuonState(jnp.zeros((), jnp.int32), _tree.zeros_like(params, dtype=mu_dtype), nu, *masses)

    def update(updates: PyTree, state: Any, params: PyTree | None, routes: PyTree, **others: Any):
        del params, others
        stacks = _matrices.Stacks(routes, updates, apart=True)
        share, keep, small, size = (_hyper.at(state.step, x) for x in (b1, b2, eps, rms))
        found, mu, mass = _orthogonal.momentum(updates, state, stacks, share, small, orthogonalize, nesterov=nesterov)
        squares = {key: jnp.mean(_tree.square(x), stacks.inputs_axis(key), keepdims=True) for key, x in found.items()}
        adapted, nu, nu_mass = _orthogonal.adapted(found, squares, state, stacks, keep, small)
        directions = stacks.unstack(_orthogonal.restored(adapted, found, stacks, scale, size), updates)
        new = NormuonState(_tree.increment(state.step), _tree.cast_like(mu, state.mu), nu, mass, nu_mass)
        return _tree.cast_like(directions, updates), new

    return _matrices.routed(init, update, matrices, fallback)


def normuon(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.95,
    b2: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    nesterov: bool = False,
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
    r"""Muon with a rate for each neuron: what is orthogonal has rows of uneven length, and they are made even.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
      v_j \leftarrow \beta_2 v_j + (1 - \beta_2) \frac{1}{n} \sum_i o_{ij}^2, \quad
      \Delta = -\eta\,\big(s\, o_{ij} / (\sqrt{\hat v_j} + \epsilon) + \lambda w\big)

    where :math:`o` is :math:`m` made orthogonal as in `muon`, a neuron :math:`j` is an output with its :math:`n`
    inputs, and the hat divides by the same average taken of ones.

    For the same matrices as `muon`, at one number of state more for each neuron and hardly any time. Then all is made
    as long as before:

    - `scale="rms"`, the paper's: entries of root mean square 0.2, exactly; rates and decay of AdamW.
    - `scale="width", nesterov=True` is the authors' code, for rates near 0.02: the norm that orthogonalisation left,
      times sqrt(max(1, outputs / inputs)).

    Which leaves are matrices, what the others take and what `coefficients` do is told in `muon`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average gradient keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the norm that a matrix is divided by, and to the root, nonnegative.
      nesterov: Whether the average looks one step ahead.
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
      >>> tx = normuon(0.5, rms=1.0, coefficients="polar_express", steps=8)
      >>> params = jnp.zeros((2, 2))
      >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 1.0]]), tx.init(params), params)
      >>> (updates**2).round(4).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Li, Liu, Liang, Chen and Zhao, *NorMuon: making Muon more efficient and scalable*, 2025.
    """
    direction = scale_by_normuon(
        b1=b1,
        b2=b2,
        eps=eps,
        nesterov=nesterov,
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
