"""AdamW with D-adaptation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class DadaptAdamwState(NamedTuple):
    """Number of updates, moments (the first of the gradient times the distance), and the mass of each.

    Then what the distance is estimated from, averages of the gradients and of their products; and the distance.
    """

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array
    total: PyTree
    numerator: jax.Array
    distance: jax.Array


def scale_by_dadapt_adamw(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    d0: Hyperparameter = 1e-6,
    growth_rate: Hyperparameter = float("inf"),
    rate: Hyperparameter = 1.0,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Direction of `dadapt_adamw`, ascending, in which the distance is a factor.

    .. math:: u = m / (\sqrt v + \epsilon) + c_t\, d \lambda w, \qquad
      m \leftarrow \beta_1 m + (1 - \beta_1)\, c_t\, d g

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1); its root is the estimate's.
      eps: Added to the root, nonnegative.
      d0: First distance, positive: far too small.
      growth_rate: Largest factor by which the distance grows in one step, at least 1; infinity is none.
      rate: Learning rate, which weighs gradients in the estimate, nonnegative.
      weight_decay: Decay as a part of the direction, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      A transformation with state `DadaptAdamwState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_dadapt_adamw(b1=0.5, b2=0.75, eps=0.0, d0=0.5)
      >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [0.5]

    Reference:
      Defazio and Mishchenko, *Learning-rate-free learning by D-adaptation*, 2023.
    """
    _check.decay(b1=b1, b2=b2)
    _check.nonnegative(eps=eps, rate=rate, weight_decay=weight_decay)
    _check.positive(d0=d0)
    _check.at_least(1, growth_rate=growth_rate)

    def init(params: PyTree) -> DadaptAdamwState:
        mu, nu, total = _tree.zeros_like(params), _tree.zeros_like(params, real=True), _tree.zeros_like(params)
        step = jnp.zeros((), jnp.int32)
        mu_mass, nu_mass, numerator = (jnp.zeros((), _hyper.default_float()) for _ in range(3))
        distance = jnp.array(_hyper.at(step, d0), _hyper.default_float(), copy=True)
        return DadaptAdamwState(step, mu, nu, mu_mass, nu_mass, total, numerator, distance)

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        step, last, dtype = state.step, state.distance, state.distance.dtype
        decay1, decay2 = _hyper.at(step, b1), _hyper.at(step, b2)
        keep = jnp.asarray(decay2**0.5, dtype)
        # 1 - sqrt(b2) would lose digits in float32.
        take = jnp.asarray(1.0 - decay2, dtype) / (1.0 + keep)
        mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)
        size = last * (_numerics.sqrt(nu_mass) / mu_mass)
        weight = size * _hyper.scalar(_hyper.at(step, rate))
        least = _hyper.at(step, eps)

        def product(g, total, v, least):
            root = _numerics.positive_sqrt(v) + least
            return (jnp.conj(g) * _tree.parts(lambda x: x / root, total)).real

        products = _tree.map(product, updates, state.total, state.nu, scalars=(least,))
        along = sum((jnp.sum(p, dtype=dtype) for p in _tree.numbers(products)), jnp.zeros((), dtype))
        numerator = keep * state.numerator + take * weight * along
        scaled = _tree.map(lambda g, size: _tree.parts(lambda x: size * x, g), updates, scalars=(size,))
        mu, nu = _tree.moment(scaled, state.mu, decay1), _tree.moment(updates, state.nu, decay2, order=2)

        def collect(old, g, keep, share):
            return _tree.parts(lambda x: keep * x, old) + _tree.parts(lambda x: share * x, g)

        total = _tree.map(collect, state.total, updates, scalars=(keep, take * weight))
        total = _tree.cast_like(total, state.total)
        length = sum((jnp.sum(_tree.absolute(s), dtype=dtype) for s in _tree.numbers(total)), jnp.zeros((), dtype))
        found = _numerics.divide(numerator, take * length)
        growth = _hyper.scalar(_hyper.at(step, growth_rate))
        bounded = jnp.isfinite(growth)
        bound = last * jnp.where(bounded, growth, 1)
        distance = jnp.maximum(last, jnp.where(bounded, jnp.minimum(found, bound), found))

        def direction(_, m, v, least):
            step_of = 1.0 / (_numerics.positive_sqrt(v) + least)
            return _tree.parts(lambda x: x * step_of, m)

        directions = _tree.map(direction, updates, mu, nu, scalars=(least,))
        if not _hyper.is_zero(weight_decay):
            _tree.require_params(params, "weight_decay is not the Python number 0")

            def decayed(d, p, keep, shrink):
                return jnp.where(keep, d + _tree.parts(lambda x: shrink * x, p), d)

            masks, shrink = _tree.resolve_mask(weight_decay_mask, params), _hyper.scalar(_hyper.at(step, weight_decay))
            directions = _tree.map(decayed, directions, params, masks, scalars=(size * shrink,))
        return _tree.cast_like(directions, updates), DadaptAdamwState(
            _tree.increment(step), mu, nu, mu_mass, nu_mass, total, numerator, distance
        )

    return optax.GradientTransformation(init, update)


def dadapt_adamw(
    learning_rate: Hyperparameter = 1.0,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    eps: Hyperparameter = 1e-8,
    d0: Hyperparameter = 1e-6,
    growth_rate: Hyperparameter = float("inf"),
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW that finds its learning rate by D-adaptation.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1)\, c_t\, d g, \quad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2, \quad
      \Delta = -\eta\, \big(m / (\sqrt v + \epsilon) + c_t\, d \lambda w\big)

    .. math::
      r \leftarrow \gamma r + (1 - \gamma)\, \eta c_t d\, \langle g, s / (\sqrt v + \epsilon) \rangle, \quad
      s \leftarrow \gamma s + (1 - \gamma)\, \eta c_t d\, g, \quad
      d \leftarrow \max\big(d, r / ((1 - \gamma) \lVert s \rVert_1)\big)

    with :math:`\gamma = \sqrt{\beta_2}` and the bias correction :math:`c_t = \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`.
    Leave `learning_rate` at 1, or hand over a schedule of its shape. `prodigy` came later and finds the distance
    sooner; this one has a copy of the parameters less. The distance is one number, of all parameters; average gradients
    over devices before.

    Decay is multiplied by the distance, which is the rate in effect. A rate that changes multiplies the step that is
    made; in the paper's program and Optax it stays with the gradients inside the first moment. Gradients of 0 at the
    first step make the distance NaN in Optax.

    Args:
      learning_rate: Factor on the steps, nonnegative: 1, or a schedule that ends there or comes from there.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1); its root is the estimate's.
      eps: Added to the root, nonnegative.
      d0: First distance, positive: far too small.
      growth_rate: Largest factor by which the distance grows in one step, at least 1; infinity is none.
      weight_decay: Decay in units of the rate in effect, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = dadapt_adamw(b1=0.5, b2=0.75, eps=0.0, d0=0.5)
      >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-0.5]

    Reference:
      Defazio and Mishchenko, *Learning-rate-free learning by D-adaptation*, 2023.
    """
    _check.nonnegative(learning_rate=learning_rate)
    direction = scale_by_dadapt_adamw(
        b1=b1,
        b2=b2,
        eps=eps,
        d0=d0,
        growth_rate=growth_rate,
        rate=learning_rate,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
    )
    return assemble(direction, learning_rate)
