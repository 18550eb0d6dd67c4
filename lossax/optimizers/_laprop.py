"""LaProp: momentum of normalised gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class LapropState(NamedTuple):
    """Number of updates, average of the normalised gradients, second moment of the gradient, and the mass of each."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def scale_by_laprop(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-15,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `laprop`, unscaled and ascending.

    .. math:: d = \hat m, \qquad m \leftarrow \beta_1 m + (1 - \beta_1)\, g / (\sqrt{\hat v} + \epsilon)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `LapropState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_laprop(b1=0.5, b2=0.0)
      >>> _, state = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates, _ = tx.update(jnp.array([-1.0]), state)
      >>> round(updates[0].item(), 6)  # (0.25 * 1 + 0.5 * -1) / 0.75
      -0.333333

    Reference:
      Ziyin, Wang and Ueda, *LaProp: separating momentum and adaptivity in Adam*, 2020.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps)

    def init(params: PyTree) -> LapropState:
        return LapropState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        decay1, decay2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
        nu, nu_mass = _tree.moment(updates, state.nu, decay2, order=2), _tree.mass(state.nu_mass, decay2)

        def normalized(g, v, mass, eps):
            root = _numerics.sqrt(v / mass)
            # Where all gradients were 0 the slope is taken as 0: that of g / eps overflows in three steps.
            return _numerics.divide(g, jnp.where(root == 0, root, root + eps))

        steps = _tree.map(normalized, updates, nu, scalars=(nu_mass, _hyper.at(state.step, eps)))
        mu = _tree.moment(steps, jax.tree.map(_tree.widen, state.mu), decay1)
        mu_mass = _tree.mass(state.mu_mass, decay1)
        directions = _tree.map(lambda _, m, mass: m / mass, updates, mu, scalars=(mu_mass,))
        mu = _tree.cast_like(mu, state.mu)
        return _tree.cast_like(directions, updates), LapropState(_tree.increment(state.step), mu, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def laprop(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-15,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that normalises gradients before it averages them: `b1` may be larger than `b2`, and steps stay bounded.

    .. math::
      v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      m \leftarrow \beta_1 m + (1 - \beta_1)\, g / (\sqrt{\hat v} + \epsilon), \quad
      \Delta = -\eta\, \hat m

    For noisy, sparse or changing gradients such as in reinforcement learning and adversarial training. The paper's rate
    is 4e-4.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to the root, nonnegative.
      mu_dtype: Dtype of the first moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = laprop(0.5)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-0.5]

    Reference:
      Ziyin, Wang and Ueda, *LaProp: separating momentum and adaptivity in Adam*, 2020.
    """
    direction = scale_by_laprop(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype)
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
