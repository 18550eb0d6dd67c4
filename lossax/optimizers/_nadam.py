"""NAdam: Adam with Nesterov's look ahead."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class NadamState(NamedTuple):
    """Number of updates, first and second moments of the gradient, and the mass of each (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_nadam(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    momentum_decay: Hyperparameter | None = None,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `nadam`, unscaled and ascending.

    .. math::
      d = \Big(\frac{\mu_{t+1}\, m}{1 - \prod_{s \le t+1} \mu_s}
      + \frac{(1 - \mu_t)\, g}{1 - \prod_{s \le t} \mu_s}\Big) \Big/ (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      momentum_decay: Speed at which the look ahead grows, nonnegative, per step; `None` has all of it at once.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `NadamState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_nadam(b1=0.5, b2=0.0, eps=0.0)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> round(updates[0].item(), 6)  # 0.5 * 0.5 / 0.75 + 0.5 / 0.5
      1.333333

    Reference:
      Dozat, *Incorporating Nesterov momentum into Adam*, 2016.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, eps_root=eps_root)
    if momentum_decay is not None:
        _check.nonnegative(momentum_decay=momentum_decay)

    def init(params: PyTree) -> NadamState:
        return NadamState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        step = _tree.increment(state.step)
        decay1, decay2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
        now = ahead = decay1
        if momentum_decay is not None:
            exponent = _hyper.at(state.step, momentum_decay) * _hyper.scalar(step)
            further = exponent + _hyper.at(state.step, momentum_decay)
            now, ahead = (decay1 * (1.0 - 0.5 * jnp.power(0.96, x)) for x in (exponent, further))
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay1)
        nu = _tree.moment(updates, state.nu, decay2, order=2)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, now), _tree.mass(state.nu_mass, decay2)

        def direction(g, m, v, of_m, of_g, nu_mass, eps, eps_root):
            return (of_m * m + of_g * g) / (_numerics.positive_sqrt(v / nu_mass + eps_root) + eps)

        shares = (ahead / _tree.mass(mu_mass, ahead), (1.0 - now) / mu_mass)
        scalars = (*shares, nu_mass, _hyper.at(state.step, eps), _hyper.at(state.step, eps_root))
        directions = _tree.map(direction, updates, mu, nu, scalars=scalars)
        mu = _tree.cast_like(mu, state.mu)
        return _tree.cast_like(directions, updates), NadamState(step, mu, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def nadam(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    momentum_decay: Hyperparameter | None = None,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that looks one step ahead along its own momentum: quicker to react, else as `adam`.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      \Delta = -\eta\, \Big(\frac{\mu_{t+1}\, m}{1 - \prod_{s \le t+1} \mu_s}
      + \frac{(1 - \mu_t)\, g}{1 - \prod_{s \le t} \mu_s}\Big) \Big/ (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    where :math:`\mu_t = \beta_1`, as in Optax, or :math:`\beta_1 (1 - \tfrac12\, 0.96^{\psi t})` at step
    :math:`t = 1, 2, \dots` for a `momentum_decay` of :math:`\psi`; torch is `momentum_decay=4e-3`. If :math:`\beta_1`
    is a schedule, the look ahead takes its present value. With decay this is NAdamW.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      momentum_decay: Speed at which the look ahead grows, nonnegative, per step; `None` has all of it at once.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = nadam(0.75, b1=0.5, b2=0.0, eps=0.0)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> round(updates[0].item(), 6)  # -0.75 * (0.5 * 0.5 / 0.75 + 0.5 / 0.5)
      -1.0

    Reference:
      Dozat, *Incorporating Nesterov momentum into Adam*, 2016.
    """
    direction = scale_by_nadam(
        b1=b1, b2=b2, eps=eps, eps_root=eps_root, momentum_decay=momentum_decay, mu_dtype=mu_dtype
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
