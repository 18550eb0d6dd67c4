"""RAdam: rectified Adam."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class RadamState(NamedTuple):
    """Number of updates, first and second moments of the gradient, their masses, and the second one's mass times age.

    Mass times age is the same average as the second moment, of how many steps ago each gradient was.
    """

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array
    nu_age: jax.Array


def _rectifier(length: jax.Array, limit: jax.Array, threshold: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether an average of this length is trusted, and the factor on steps that are divided by its root."""
    trusted = (length >= jnp.maximum(threshold, 4.0)) & (limit > 4.0)
    length, limit = (jnp.where(trusted, x, jnp.full_like(x, 6.0)) for x in (length, limit))
    return trusted, jnp.sqrt((length - 4.0) * (length - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * length))


def scale_by_radam(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    threshold: Hyperparameter = 5.0,
    nesterov: bool = False,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `radam`, unscaled and ascending.

    .. math:: d = r\, \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon), \quad
      \text{or}\; \hat m \;\text{while}\; \rho < \rho_\text{min}

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      threshold: Length in steps from which on the second moment is trusted; below 4 it counts as 4.
      nesterov: Whether the first moment looks one step ahead.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `RadamState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_radam()
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()  # one gradient says nothing of its variance
      [3.0]

    Reference:
      Liu et al., *On the variance of the adaptive learning rate and beyond*, 2020.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, eps_root=eps_root, threshold=threshold)

    def init(params: PyTree) -> RadamState:
        return RadamState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
            nu_age=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay1, decay2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay1)
        nu = _tree.moment(updates, state.nu, decay2, order=2)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)
        nu_age = jnp.asarray(decay2, nu_mass.dtype) * (state.nu_age + state.nu_mass)
        # 1 plus twice the mean age; the same as in the paper, where two numbers of the size of 2 / (1 - b2) cancel.
        length, limit = 1.0 + 2.0 * nu_age / nu_mass, _hyper.scalar(2.0 / (1.0 - decay2) - 1.0)
        trusted, factor = _rectifier(length, limit, _hyper.scalar(_hyper.at(state.step, threshold)))

        def direction(g, m, v, mu_mass, next_mass, keep, take, nu_mass, factor, eps, eps_root):
            m = keep * m / next_mass + take * g / mu_mass if nesterov else m / mu_mass
            divided = factor * m / (_numerics.positive_sqrt(v / nu_mass + eps_root) + eps)
            return jnp.where(trusted, divided, m)

        scalars = (mu_mass, _tree.mass(mu_mass, decay1), decay1, 1.0 - decay1, nu_mass, factor)
        scalars = (*scalars, _hyper.at(state.step, eps), _hyper.at(state.step, eps_root))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, nu, scalars=scalars), updates)
        mu = _tree.cast_like(mu, state.mu)
        return directions, RadamState(_tree.increment(state.step), mu, nu, mu_mass, nu_mass, nu_age)

    return optax.GradientTransformation(init, update)


def radam(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    threshold: Hyperparameter = 5.0,
    nesterov: bool = False,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with a warm-up of its own: steps grow as the second moment becomes trustworthy.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      \Delta = -\eta\, r\, \hat m / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    .. math::
      r = \sqrt{\frac{(\rho - 4)(\rho - 2)\,\rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\,\rho}}, \qquad
      \rho_\infty = \frac{2}{1 - \beta_2} - 1, \qquad \rho = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}

    and :math:`\Delta = -\eta\,\hat m` while the length :math:`\rho` of the average is below the threshold: the first
    five steps at the default :math:`\beta_2`, and all of them up to :math:`\beta_2 = 2/3`. For those who do not want
    to tune a warm-up; `adamw` with one is as good.

    The defaults are Optax's, whose :math:`\rho` cancels in float32: its factor is off by a percent at first. torch
    adds its `eps` before the bias is corrected: `eps=lambda t: 1e-8 / (1 - b2 ** (t + 1.0)) ** 0.5`, and its decay is
    in the gradient unless `decoupled_weight_decay=True`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      threshold: Length in steps from which on the second moment is trusted; below 4 it counts as 4.
      nesterov: Whether the first moment looks one step ahead.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = radam(0.5)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()  # one gradient says nothing of its variance
      [-1.5]

    Reference:
      Liu et al., *On the variance of the adaptive learning rate and beyond*, 2020.
    """
    direction = scale_by_radam(
        b1=b1, b2=b2, eps=eps, eps_root=eps_root, threshold=threshold, nesterov=nesterov, mu_dtype=mu_dtype
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
