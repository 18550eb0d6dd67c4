"""Prodigy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class ProdigyState(NamedTuple):
    """Number of updates, moments of the gradient times `distance / d0`, and the mass of each (see `_tree.mass`).

    Then what the distance is estimated from: the first parameters, the weighted sum of gradients and of their products
    with the way that was made; and the distance, with the largest that was found.
    """

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array
    start: PyTree
    total: PyTree
    numerator: jax.Array
    distance: jax.Array
    largest: jax.Array


def scale_by_prodigy(
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter | None = None,
    eps: Hyperparameter = 1e-8,
    d0: Hyperparameter = 1e-6,
    d_coef: Hyperparameter = 1.0,
    growth_rate: Hyperparameter = float("inf"),
    bias_correction: bool = True,
    safeguard_warmup: bool = False,
    rate: Hyperparameter = 1.0,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Direction of `prodigy`, ascending, in which the distance is a factor.

    .. math:: u = c_t\, d\, \big(m / (\sqrt v + d \epsilon) + \lambda w\big)

    Args:
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      b3: Share of the past that the estimate of the distance keeps, in [0, 1); the root of `b2` if `None`.
      eps: Added to the root in units of the distance, nonnegative.
      d0: First distance, positive: far too small.
      d_coef: Factor on the estimate, positive.
      growth_rate: Largest factor by which the distance grows in one step, at least 1; infinity is none.
      bias_correction: Whether steps are corrected for moments that began with 0.
      safeguard_warmup: Whether `rate` stays out of the sum of gradients.
      rate: Learning rate, which weighs gradients in the estimate, nonnegative.
      weight_decay: Decay as a part of the direction, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      A transformation with state `ProdigyState`; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_prodigy(b1=0.5, b2=0.75, eps=0.0, d0=0.5)
      >>> params = jnp.array([1.0])
      >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(params), params)
      >>> updates.tolist()
      [0.5]

    Reference:
      Mishchenko and Defazio, *Prodigy: an expeditiously adaptive parameter-free learner*, 2023.
    """
    _check.decay(b1=b1, b2=b2)
    if b3 is not None:
        _check.decay(b3=b3)
    _check.nonnegative(eps=eps, rate=rate, weight_decay=weight_decay)
    _check.positive(d0=d0, d_coef=d_coef)
    _check.at_least(1, growth_rate=growth_rate)

    def init(params: PyTree) -> ProdigyState:
        mu, nu, total = _tree.zeros_like(params), _tree.zeros_like(params, real=True), _tree.zeros_like(params)
        # Fresh buffers: the state must not share any with the parameters, or both could not be donated.
        start = _tree.map(lambda _, p: jnp.array(p, copy=True), _tree.zeros_like(params), params)
        step = jnp.zeros((), jnp.int32)
        mu_mass, nu_mass, numerator = (jnp.zeros((), _hyper.default_float()) for _ in range(3))
        distance, largest = (jnp.array(_hyper.at(step, d0), _hyper.default_float(), copy=True) for _ in range(2))
        return ProdigyState(step, mu, nu, mu_mass, nu_mass, start, total, numerator, distance, largest)

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        _tree.require_params(params, "it measures how far they went")
        step, dtype = state.step, state.distance.dtype
        decay1, decay2 = _hyper.at(step, b1), _hyper.at(step, b2)
        decay3 = _hyper.at(step, b3) if b3 is not None else decay2**0.5
        first, last = _hyper.scalar(_hyper.at(step, d0)), state.distance
        mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)
        correction = _numerics.sqrt(nu_mass) / mu_mass if bias_correction else jnp.ones_like(nu_mass)
        # In units of d0, and not of 1 as in the paper, squares do not vanish; the quotient of moments is the same.
        ratio, weight = last / first, _hyper.scalar(_hyper.at(step, rate)) * correction
        scaled = _tree.map(lambda g, ratio: _tree.parts(lambda x: ratio * x, g), updates, scalars=(ratio,))
        mu = _tree.moment(scaled, state.mu, decay1)
        nu = _tree.moment(scaled, state.nu, decay2, order=2)

        def collect(old, g, keep, share):
            return _tree.parts(lambda x: keep * x, old) + _tree.parts(lambda x: share * x, g)

        share = last if safeguard_warmup else last * weight
        total = _tree.cast_like(_tree.map(collect, state.total, scaled, scalars=(decay3, share)), state.total)
        # Of gradients as they are: products with scaled ones would hold those for themselves.
        ways = _tree.map(lambda g, p, old: (jnp.conj(g) * (old - p)).real, updates, params, state.start)
        made = ratio * sum((jnp.sum(way, dtype=dtype) for way in _tree.numbers(ways)), jnp.zeros((), dtype))
        size = sum((jnp.sum(_tree.absolute(s), dtype=dtype) for s in _tree.numbers(total)), jnp.zeros((), dtype))
        numerator = jnp.asarray(decay3, dtype) * state.numerator + last * weight * made
        found = _hyper.scalar(_hyper.at(step, d_coef)) * _numerics.divide(numerator, size)
        largest = jnp.maximum(state.largest, found)
        growth = _hyper.scalar(_hyper.at(step, growth_rate))
        bounded = jnp.isfinite(growth)
        bound = jnp.where(last == first, largest, last * jnp.where(bounded, growth, 1))
        distance = jnp.where(bounded, jnp.minimum(largest, bound), largest)

        def direction(g, m, v, scale, eps):
            del g
            step_of = 1.0 / (_numerics.positive_sqrt(v) + eps)
            return _tree.parts(lambda x: (scale * x) * step_of, m)

        scalars = (last * correction, _hyper.at(step, eps) * (distance / first))
        directions = _tree.map(direction, updates, mu, nu, scalars=scalars)
        if not _hyper.is_zero(weight_decay):
            shrink = last * correction * _hyper.scalar(_hyper.at(step, weight_decay))

            def decayed(d, p, keep, shrink):
                return jnp.where(keep, d + _tree.parts(lambda x: shrink * x, p), d)

            masks = _tree.resolve_mask(weight_decay_mask, params)
            directions = _tree.map(decayed, directions, params, masks, scalars=(shrink,))
        return _tree.cast_like(directions, updates), ProdigyState(
            _tree.increment(step), mu, nu, mu_mass, nu_mass, state.start, total, numerator, distance, largest
        )

    return optax.GradientTransformation(init, update)


def prodigy(
    learning_rate: Hyperparameter = 1.0,
    *,
    b1: Hyperparameter = 0.9,
    b2: Hyperparameter = 0.999,
    b3: Hyperparameter | None = None,
    eps: Hyperparameter = 1e-8,
    d0: Hyperparameter = 1e-6,
    d_coef: Hyperparameter = 1.0,
    growth_rate: Hyperparameter = float("inf"),
    bias_correction: bool = True,
    safeguard_warmup: bool = False,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that finds its learning rate: the distance to where it is going.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1)\, d g, \quad v \leftarrow \beta_2 v + (1 - \beta_2)\, d^2 g^2, \quad
      \Delta = -\eta\, c_t\, d\, \big(m / (\sqrt v + d \epsilon) + \lambda w\big)

    .. math::
      r \leftarrow \beta_3 r + \eta c_t d^2 \langle g, w_0 - w \rangle, \quad
      s \leftarrow \beta_3 s + \eta c_t d^2 g, \quad d \leftarrow \max(d, r / \lVert s \rVert_1)

    with the bias correction :math:`c_t = \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`. Leave `learning_rate` at 1, or hand
    over a schedule of its shape, as a cosine from 1 to 0; behind a warmup set `safeguard_warmup`, lest the distance is
    overestimated. Popular for fine-tuning and diffusion. Twice the state of Adam: the first parameters and a sum of
    gradients. The distance is one number, of all parameters; average gradients over devices before.

    Decay is multiplied by the distance, which is the rate in effect, as in the paper's program and Optax. That program
    has `bias_correction=False` and :math:`\beta_2` of 0.999. A gradient of 0 at the first step makes the distance NaN
    in Optax, whose first parameters share their memory with the parameters: both cannot be donated.

    Args:
      learning_rate: Factor on the steps, nonnegative: 1, or a schedule that ends there or comes from there.
      b1: Share of the past that the first moment keeps, in [0, 1).
      b2: Share of the past that the second moment keeps, in [0, 1).
      b3: Share of the past that the estimate of the distance keeps, in [0, 1); the root of `b2` if `None`.
      eps: Added to the root in units of the distance, nonnegative.
      d0: First distance, positive: far too small.
      d_coef: Factor on the estimate, positive: the way to ask for longer or shorter steps.
      growth_rate: Largest factor by which the distance grows in one step, at least 1; infinity is none.
      bias_correction: Whether steps are corrected for moments that began with 0.
      safeguard_warmup: Whether the learning rate stays out of the sum of gradients.
      weight_decay: Decay in units of the rate in effect, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = prodigy(b1=0.5, b2=0.75, eps=0.0, d0=0.5)
      >>> params = jnp.array([1.0])
      >>> updates, _ = tx.update(jnp.array([4.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.5]

    Reference:
      Mishchenko and Defazio, *Prodigy: an expeditiously adaptive parameter-free learner*, 2023.
    """
    _check.nonnegative(learning_rate=learning_rate)
    direction = scale_by_prodigy(
        b1=b1,
        b2=b2,
        b3=b3,
        eps=eps,
        d0=d0,
        d_coef=d_coef,
        growth_rate=growth_rate,
        bias_correction=bias_correction,
        safeguard_warmup=safeguard_warmup,
        rate=learning_rate,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
    )
    return assemble(direction, learning_rate)
