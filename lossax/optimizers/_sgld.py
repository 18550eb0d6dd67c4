"""SGLD: stochastic gradient Langevin dynamics."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lossax import _check, _hyper, _keys, _numerics, _tree
from lossax._assemble import AssembleState
from lossax._types import Hyperparameter, Mask, PyTree


class SgldState(NamedTuple):
    """Second moment of the gradient (or `None`) and its mass, the key's data, and number and rate of updates."""

    nu: PyTree
    nu_mass: jax.Array
    key: jax.Array
    rate: AssembleState


def sgld(
    learning_rate: Hyperparameter,
    *,
    temperature: Hyperparameter = 1.0,
    preconditioner: Literal["none", "rmsprop"] = "none",
    decay: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-5,
    key: ArrayLike | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Draws from a posterior instead of finding its maximum: gradient steps with noise of the size of their root.

    .. math::
      \Delta = -\eta\, (G g + \lambda w) + \sqrt{2 \eta T G}\; \xi, \qquad \xi \sim \mathcal N(0, 1), \qquad
      G = 1 \;\text{or}\; \frac{1}{\epsilon + \sqrt{\hat v}}, \quad v \leftarrow \beta v + (1 - \beta) g^2

    For uncertainty: average predictions over the parameters of late steps. If :math:`g` is the gradient of the negative
    log posterior, that is of the loss *summed* over the data set less the log prior, parameters are distributed by it
    as the rate goes to 0; of a mean loss over :math:`n` examples take `temperature=1 / n`. Decay is the gradient of a
    Gaussian prior. The paper's step is :math:`\epsilon = 2 \eta`, and falls as :math:`a (b + t)^{-\gamma}`.

    `"rmsprop"` is pSGLD, for badly scaled posteriors; as its authors do, the term of the derivative of :math:`G` is
    left out. Unlike theirs :math:`v` is divided by its mass, and decay is not preconditioned.

    Args:
      learning_rate: Size of a step, nonnegative.
      temperature: Factor on the variance of the noise, nonnegative; 0 is plain descent.
      preconditioner: `"none"`, or `"rmsprop"` for steps and noise by the second moment of the gradient.
      decay: Share of the past that the second moment keeps, in [0, 1).
      eps: Added to its root, nonnegative.
      key: Of the random draws: a seed, a typed or a raw key; `None` is the seed 0.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      TypeError: if parameters are complex.
      ValueError: if a known argument is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = sgld(0.5, temperature=4.0)
      >>> updates, _ = tx.update(jnp.full(100_000, 3.0), tx.init(jnp.zeros(100_000)))
      >>> round(updates.mean().item(), 1), round(updates.std().item(), 1)
      (-1.5, 2.0)

    Reference:
      Welling and Teh, *Bayesian learning via stochastic gradient Langevin dynamics*, 2011. Li, Chen, Carlson and Carin,
      *Preconditioned stochastic gradient Langevin dynamics for deep neural networks*, 2016.
    """
    _check.nonnegative(learning_rate=learning_rate, temperature=temperature, eps=eps, weight_decay=weight_decay)
    _check.decay(decay=decay)
    _check.choice(("none", "rmsprop"), preconditioner=preconditioner)
    seed = 0 if key is None else key

    def rate_at(step):
        return jnp.array(_hyper.at(step, learning_rate), _hyper.default_float(), copy=True)

    def init(params: PyTree) -> SgldState:
        for number in _tree.numbers(params):
            if jnp.iscomplexobj(number):
                raise TypeError(f"sgld draws real noise and needs real parameters, got {number.dtype}: complex")
        step = jnp.zeros((), jnp.int32)
        return SgldState(
            nu=None if preconditioner == "none" else _tree.zeros_like(params),
            nu_mass=jnp.zeros((), _hyper.default_float()),
            key=_keys.data(seed),
            rate=AssembleState(step, rate_at(step)),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **others: Any):
        del others
        step = state.rate.step
        rate, keep = rate_at(step), _hyper.at(step, decay)
        fresh, draw = _keys.split(state.key, seed)
        nu, nu_mass = state.nu, _tree.mass(state.nu_mass, keep)
        if preconditioner == "none":
            scales = _tree.map(jnp.ones_like, updates)
        else:
            nu = _tree.moment(updates, nu, keep, order=2)

            def scale(_, v, mass, eps):
                return 1.0 / (_numerics.positive_sqrt(v / mass) + eps)

            scales = _tree.map(scale, updates, nu, scalars=(nu_mass, _hyper.at(step, eps)))
        # Multiplied by ones like the update, the draws have its sharding.
        noise = _keys.map(lambda u, k: jnp.ones_like(u) * jax.random.normal(k, u.shape, u.dtype), draw, updates)

        def moved(u, scale, noise, rate, temperature):
            return _numerics.sqrt(2.0 * rate * temperature * scale) * noise - rate * (scale * u)

        moves = _tree.map(moved, updates, scales, noise, scalars=(rate, _hyper.at(step, temperature)))
        if not _hyper.is_zero(weight_decay):
            _tree.require_params(params, "weight_decay is not the Python number 0")
            mask, shrink = _tree.resolve_mask(weight_decay_mask, params), (rate * _hyper.at(step, weight_decay),)

            def decayed(u, p, keep, shrink):
                return u - jnp.where(keep, shrink * p, 0)

            moves = _tree.map(decayed, moves, params, mask, scalars=shrink)
        state = SgldState(nu, nu_mass, fresh, AssembleState(_tree.increment(step), rate))
        return _tree.cast_like(moves, updates if params is None else params), state

    return optax.GradientTransformationExtraArgs(init, update)
