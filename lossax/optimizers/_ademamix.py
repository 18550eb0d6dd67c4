"""AdEMAMix: Adam with a second, slow momentum."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._progress import elapsed, progress
from lossax._types import Hyperparameter, Mask, PyTree


class AdemamixState(NamedTuple):
    """Number of updates, fast and slow first moment, second moment, and the mass of the first and the last of these."""

    step: jax.Array
    mu: PyTree
    mu_slow: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def _memory(decay: Any) -> Any:
    """How many steps an average remembers, in units of e: -1 / log(decay), 0 for no memory."""
    if isinstance(decay, float):  # with all digits: they would go in the logarithm of a float32 so near to 1
        return -1.0 / math.log(decay) if decay > 0 else 0.0
    return -1.0 / jnp.log(decay)


def scale_by_ademamix(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter = 0.9999,
    alpha: Hyperparameter = 5.0,
    alpha_warmup_steps: Hyperparameter = 0,
    b3_warmup_steps: Hyperparameter = 0,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
) -> optax.GradientTransformation:
    r"""Direction of `ademamix`, unscaled and ascending.

    .. math:: d = (\hat m + \alpha s) / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    Args:
      b1: Share of the past that the fast moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      b3: Share of the past that the slow moment keeps, in [0, 1).
      alpha: Factor on the slow moment, nonnegative.
      alpha_warmup_steps: Steps over which `alpha` rises from 0, nonnegative.
      b3_warmup_steps: Steps over which the slow moment's half-life rises from the fast one's, nonnegative.
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      mu_dtype: Dtype of the fast and the slow moment; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `AdemamixState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_ademamix(b3=0.5, alpha=4.0)
      >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()  # 1 + 4 * 0.5
      [3.0]

    Reference:
      Pagliardini, Ablin and Grangier, *The AdEMAMix optimizer: better, faster, older*, 2024.
    """
    _check.decay(b1=b1, b2=b2, b3=b3)
    _check.nonnegative(alpha=alpha, alpha_warmup_steps=alpha_warmup_steps, b3_warmup_steps=b3_warmup_steps)
    _check.nonnegative(eps=eps, eps_root=eps_root)

    def init(params: PyTree) -> AdemamixState:
        return AdemamixState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            mu_slow=_tree.zeros_like(params, dtype=mu_dtype),
            nu=_tree.zeros_like(params, real=True),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            nu_mass=jnp.zeros((), _hyper.default_float()),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        made = elapsed(state.step) + 1.0
        decay1, decay2, decay3 = (_hyper.at(state.step, value) for value in (b1, b2, b3))
        mix = _hyper.at(state.step, alpha)
        if not _hyper.is_zero(alpha_warmup_steps):
            mix = mix * progress(made, _hyper.at(state.step, alpha_warmup_steps))
        take = 1.0 - decay3
        if not _hyper.is_zero(b3_warmup_steps):
            share = progress(made, _hyper.at(state.step, b3_warmup_steps))
            take = -jnp.expm1(-1.0 / ((1.0 - share) * _memory(decay1) + share * _memory(decay3)))

        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay1)
        nu = _tree.moment(updates, state.nu, decay2, order=2)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)
        slow = _tree.approach(updates, jax.tree.map(_tree.widen, state.mu_slow), take)

        def direction(_, m, s, v, mix, mu_mass, nu_mass, eps, eps_root):
            return (m / mu_mass + mix * s) / (_numerics.positive_sqrt(v / nu_mass + eps_root) + eps)

        scalars = (mix, mu_mass, nu_mass, _hyper.at(state.step, eps), _hyper.at(state.step, eps_root))
        directions = _tree.cast_like(_tree.map(direction, updates, mu, slow, nu, scalars=scalars), updates)
        mu, slow = _tree.cast_like(mu, state.mu), _tree.cast_like(slow, state.mu_slow)
        return directions, AdemamixState(_tree.increment(state.step), mu, slow, nu, mu_mass, nu_mass)

    return optax.GradientTransformation(init, update)


def ademamix(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter = 0.9999,
    alpha: Hyperparameter = 5.0,
    alpha_warmup_steps: Hyperparameter = 0,
    b3_warmup_steps: Hyperparameter = 0,
    eps: Hyperparameter = 1e-8,
    eps_root: Hyperparameter = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that also remembers gradients of ten thousand steps ago: for long runs of language models.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad s \leftarrow \beta_3 s + (1 - \beta_3) g, \quad
      v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      \Delta = -\eta\, (\hat m + \alpha s) / (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

    .. math::
      \alpha_t = \alpha \min(t / T_\alpha, 1), \qquad
      \beta_{3,t} = \exp\frac{\ln\beta_1 \ln\beta_3}{(1 - p) \ln\beta_3 + p \ln\beta_1}, \qquad
      p = \min(t / T_{\beta_3}, 1), \qquad t = 1, 2, \dots

    The paper takes the length of the run for both warm-ups, without which runs diverge early; 0 is none, as in Optax,
    which leaves them to schedules and rounds the second moment to `mu_dtype` too.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the fast moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      b3: Share of the past that the slow moment keeps, in [0, 1).
      alpha: Factor on the slow moment, nonnegative.
      alpha_warmup_steps: Steps over which `alpha` rises from 0, nonnegative.
      b3_warmup_steps: Steps over which the slow moment's half-life rises from the fast one's, nonnegative.
      eps: Added to the root, nonnegative.
      eps_root: Added under the root, nonnegative.
      mu_dtype: Dtype of the fast and the slow moment; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = ademamix(0.5, b3=0.5, alpha=4.0)
      >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-1.5]

    Reference:
      Pagliardini, Ablin and Grangier, *The AdEMAMix optimizer: better, faster, older*, 2024.
    """
    direction = scale_by_ademamix(
        b1=b1,
        b2=b2,
        b3=b3,
        alpha=alpha,
        alpha_warmup_steps=alpha_warmup_steps,
        b3_warmup_steps=b3_warmup_steps,
        eps=eps,
        eps_root=eps_root,
        mu_dtype=mu_dtype,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
