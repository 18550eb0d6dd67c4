"""RMSprop: plain, centred, with momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._assemble import assemble
from lossax._types import Hyperparameter, Mask, PyTree


class RmspropState(NamedTuple):
    """Number of updates, first moment, second moment, mass of both (see `_tree.mass`), trace of past directions.

    If centred, the second moment is taken about the first; if not, there is no first. No trace without momentum.
    """

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mass: jax.Array
    trace: PyTree


def scale_by_rmsprop(
    *,
    decay: Hyperparameter = 0.9,
    eps: Hyperparameter = 1e-8,
    initial_scale: Hyperparameter = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> optax.GradientTransformation:
    r"""Direction of `rmsprop`, unscaled and ascending.

    .. math:: d = g / \sqrt{v + \epsilon} \quad\text{or}\quad d = g / (\sqrt v + \epsilon)

    Args:
      decay: Share of the past that the moments keep, in [0, 1).
      eps: Added under the root or to it, nonnegative.
      initial_scale: Second moment before the first step, in units of the squared gradient; nonnegative.
      eps_in_sqrt: Whether `eps` stands under the root.
      centered: Whether the second moment is taken about the first, which makes it a variance.
      momentum: Share of the trace of directions that the next step keeps, in [0, 1); `None` has no trace.
      nesterov: Whether the direction looks one step ahead along the trace.
      bias_correction: Whether the moments are divided by their mass, :math:`1 - \beta^t` for a constant decay.

    Returns:
      A transformation with state `RmspropState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_rmsprop(decay=0.75)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [2.0]

    Reference:
      Tieleman and Hinton, *Lecture 6.5: RMSprop, divide the gradient by a running average of its recent magnitude*,
      2012.
    """
    _check.decay(decay=decay)
    _check.nonnegative(eps=eps, initial_scale=initial_scale)
    if momentum is not None:
        _check.decay(momentum=momentum)

    def init(params: PyTree) -> RmspropState:
        step = jnp.zeros((), jnp.int32)
        nu = _tree.zeros_like(params, real=True)
        return RmspropState(
            step=step,
            mu=_tree.zeros_like(params) if centered else None,
            nu=_tree.map(lambda v, scale: v + scale, nu, scalars=(_hyper.at(step, initial_scale),)),
            mass=jnp.zeros((), _hyper.default_float()),
            trace=None if momentum is None else _tree.zeros_like(params),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        keep = _hyper.at(state.step, decay)
        mass = _tree.mass(state.mass, keep)
        before, after = (state.mass, mass) if bias_correction else (1.0, 1.0)

        def about_the_mean(v, g, m, keep, take, before, after):
            # The same number as the mean of squares less the square of the mean, and free of their cancellation.
            distance = g - _numerics.divide(m, before)
            return keep * v + take * (keep * before / after) * _tree.square(distance)

        def direction(g, v, after, eps):
            v = v / after
            return g / (_numerics.positive_sqrt(v + eps) if eps_in_sqrt else _numerics.positive_sqrt(v) + eps)

        def along(d, t, keep):
            return d + keep * t if nesterov else t

        if centered:
            scalars = (keep, 1.0 - keep, before, after)
            nu = _tree.map(about_the_mean, state.nu, updates, state.mu, scalars=scalars)
            mu = _tree.moment(updates, state.mu, keep)
        else:
            nu, mu = _tree.moment(updates, state.nu, keep, order=2), None
        directions = _tree.map(direction, updates, nu, scalars=(after, _hyper.at(state.step, eps)))

        trace = None
        if momentum is not None:
            share = (_hyper.at(state.step, momentum),)
            trace = _tree.map(lambda t, d, keep: keep * t + d, state.trace, directions, scalars=share)
            directions = _tree.map(along, directions, trace, scalars=share)
        return _tree.cast_like(directions, updates), RmspropState(_tree.increment(state.step), mu, nu, mass, trace)

    return optax.GradientTransformation(init, update)


def rmsprop(
    learning_rate: Hyperparameter,
    *,
    decay: Hyperparameter = 0.9,
    eps: Hyperparameter = 1e-8,
    initial_scale: Hyperparameter = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Hyperparameter | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradients divided by their recent size: what older reinforcement learning and EfficientNet were tuned with.

    .. math::
      v \leftarrow \beta v + (1 - \beta) g^2, \qquad d = g / \sqrt{v + \epsilon}, \qquad
      t \leftarrow \mu t + d, \qquad \Delta = -\eta\, t

    Without momentum :math:`\Delta = -\eta\, d`; Nesterov's is :math:`\Delta = -\eta\,(d + \mu t)`. Centred,
    :math:`v - m^2` stands for :math:`v`, computed so that it is never negative. New work does better with `adamw`.

    The defaults are Optax's. torch is `decay=0.99, eps_in_sqrt=False`, TensorFlow 1 `initial_scale=1, eps=1e-10`.
    Without bias correction the first steps are long: :math:`1 / \sqrt{1 - \beta}` rates. Centred *and* corrected, the
    first step has seen no variance at all and is :math:`g / \sqrt\epsilon`: clip it. The trace is of directions, as in
    torch; Optax's is of rate times direction, the same for a constant rate.

    Args:
      learning_rate: Factor on the direction, nonnegative.
      decay: Share of the past that the moments keep, in [0, 1).
      eps: Added under the root or to it, nonnegative.
      initial_scale: Second moment before the first step, in units of the squared gradient; nonnegative.
      eps_in_sqrt: Whether `eps` stands under the root.
      centered: Whether the second moment is taken about the first, which makes it a variance.
      momentum: Share of the trace of directions that the next step keeps, in [0, 1); `None` has no trace.
      nesterov: Whether the direction looks one step ahead along the trace; nothing changes without momentum.
      bias_correction: Whether the moments are divided by their mass, :math:`1 - \beta^t` for a constant decay.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = rmsprop(0.5, decay=0.75)
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(jnp.array([1.0])))
      >>> updates.tolist()
      [-1.0]

    Reference:
      Tieleman and Hinton, *Lecture 6.5: RMSprop, divide the gradient by a running average of its recent magnitude*,
      2012; centred: Graves, *Generating sequences with recurrent neural networks*, 2013.
    """
    direction = scale_by_rmsprop(
        decay=decay,
        eps=eps,
        initial_scale=initial_scale,
        eps_in_sqrt=eps_in_sqrt,
        centered=centered,
        momentum=momentum,
        nesterov=nesterov,
        bias_correction=bias_correction,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
