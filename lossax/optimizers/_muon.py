"""Muon."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from lossax import _check, _hyper, _matrices, _orthogonal, _tree
from lossax._linalg import Coefficients
from lossax._matrices import MatrixRule, Scale
from lossax._types import Hyperparameter, Mask, PyTree


class MuonState(NamedTuple):
    """Number of updates, average of the gradient of each matrix, and its mass (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    mu_mass: jax.Array


def scale_by_muon(
    *,
    beta: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    nesterov: bool = True,
    coefficients: Coefficients = "quintic",
    steps: int = 5,
    norm: Literal["frobenius", "schatten"] = "frobenius",
    scale: Scale = "width",
    rms: Hyperparameter = 0.2,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    iteration_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `muon`, unscaled and ascending.

    .. math:: d = s\, \mathrm{orthogonal}(\beta \hat m + (1 - \beta) \hat g)

    Args:
      beta: Share of the past that the average gradient keeps, in [0, 1).
      eps: Added to the norm that a matrix is divided by, nonnegative.
      nesterov: Whether the average looks one step ahead.
      coefficients: `"quintic"` (Jordan), `"dion"` (Ahn) or `"polar_express"` (Amsel).
      steps: Number of polynomials, a static int.
      norm: What a matrix is divided by first: `"frobenius"`, or the smaller `"schatten"`.
      scale: `"width"`, `"spectral"`, `"rms"` or `"none"`.
      rms: Root mean square of the entries of a direction if `scale="rms"`, positive.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.
      iteration_dtype: Dtype of the products; float32, or the parameter's if wider, if `None`.
      mu_dtype: Dtype of the average; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `RoutedState` of a `MuonState` and the state of the fallback.

    Raises:
      TypeError: if `steps` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_muon(coefficients="polar_express", steps=8)
      >>> params = jnp.zeros((2, 2))
      >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 1.0]]), tx.init(params))
      >>> updates.round(4).tolist()
      [[1.0, 0.0], [0.0, 1.0]]

    Reference:
      Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024.
    """
    _check.decay(beta=beta)
    _check.nonnegative(eps=eps)
    _matrices.checked(scale, rms)
    orthogonalize = _orthogonal.iteration(coefficients, steps, norm, iteration_dtype)

    def init(params: PyTree, routes: PyTree) -> MuonState:
        del routes
        mu = _tree.zeros_like(params, dtype=mu_dtype)
        return MuonState(jnp.zeros((), jnp.int32), mu, jnp.zeros((), _hyper.default_float()))

    def update(updates: PyTree, state: Any, params: PyTree | None, routes: PyTree, **others: Any):
        del params, others
        stacks = _matrices.Stacks(routes, updates)
        share, small, size = (_hyper.at(state.step, x) for x in (beta, eps, rms))
        found, mu, mass = _orthogonal.momentum(updates, state, stacks, share, small, orthogonalize, nesterov=nesterov)
        directions = stacks.unstack(_orthogonal.scaled(found, stacks, scale, size), updates)
        new = MuonState(_tree.increment(state.step), _tree.cast_like(mu, state.mu), mass)
        return _tree.cast_like(directions, updates), new

    return _matrices.routed(init, update, matrices, fallback)


def muon(
    learning_rate: Hyperparameter,
    *,
    beta: Hyperparameter = 0.95,
    eps: Hyperparameter = 1e-8,
    nesterov: bool = True,
    coefficients: Coefficients = "quintic",
    steps: int = 5,
    norm: Literal["frobenius", "schatten"] = "frobenius",
    scale: Scale = "width",
    rms: Hyperparameter = 0.2,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    fallback_learning_rate: Hyperparameter | None = None,
    iteration_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Momentum of every matrix, made orthogonal: all its singular values become about 1.

    .. math::
      m \leftarrow \beta m + (1 - \beta) g, \quad
      \Delta = -\eta\,\big(s\, p_5(\cdots p_1(u / \lVert u \rVert)) + \lambda w\big), \quad
      p_k(x) = a_k x + b_k x x^\top x + c_k (x x^\top)^2 x

    where :math:`u = \beta \hat m + (1 - \beta) \hat g`, and the hats divide by the same average taken of ones, that of
    m one step ahead.

    For the hidden matrices of transformers and most other networks, where it needs fewer steps than `adamw`. Vectors,
    embeddings and heads are not its business: `matrices` says which leaves are, `describe` shows it, and the others
    take the `fallback`, at a rate of their own. Kernels of more than two axes, of convolutions or stacked for a scan,
    must be declared in `matrix_rule`, else they fall back too. All matrices of one shape are one batched product, and
    those of wide matrices are made from their small side.

    - `scale="width"`, sqrt(max(1, outputs / inputs)), is Jordan's and torch's `"original"`: rates near 0.02.
    - `scale="rms"`, 0.2 sqrt(max(inputs, outputs)), is Moonlight's, torch's `"match_rms_adamw"`, Keras's, and Optax's
      `consistent_rms=0.2`: rates and decay (0.1) of AdamW, for both kinds of leaves.
    - `scale="spectral"`, sqrt(outputs / inputs), makes rates carry over from one width to another.

    `"quintic"` coefficients leave singular values between 0.7 and 1.2, which is enough for training; with
    `"polar_express"` and 8 steps all above a thousandth of the norm are 1 to four digits. `iteration_dtype="bfloat16"`
    is what others iterate in; it is faster where such products are.

    Trajectories of matrices are those of `optax.contrib.muon`, which sends embeddings and heads here too and everything
    stacked to Adam; its fallback is `scale_by_nadam`.

    Args:
      learning_rate: Size of a step, nonnegative.
      beta: Share of the past that the average gradient keeps, in [0, 1).
      eps: Added to the norm that a matrix is divided by, nonnegative.
      nesterov: Whether the average looks one step ahead.
      coefficients: `"quintic"` (Jordan), `"dion"` (Ahn) or `"polar_express"` (Amsel).
      steps: Number of polynomials, a static int.
      norm: What a matrix is divided by first: `"frobenius"`, or the smaller `"schatten"`, which is worth a step.
      scale: `"width"`, `"spectral"`, `"rms"` or `"none"`.
      rms: Root mean square of the entries of a direction if `scale="rms"`, positive.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves, such as `scale_by_lion()`; `None` is Adam's.
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
      >>> tx = muon(0.5, coefficients="polar_express", steps=8)
      >>> params = jnp.zeros((2, 2))
      >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 1.0]]), tx.init(params), params)
      >>> (2 * updates).round(4).tolist()
      [[-1.0, -0.0], [-0.0, -1.0]]

    Reference:
      Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024; Liu et al., *Muon is scalable for
      LLM training*, 2025; Amsel et al., *The polar express: optimal matrix sign methods and their application to the
      Muon algorithm*, 2025.
    """
    direction = scale_by_muon(
        beta=beta,
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
