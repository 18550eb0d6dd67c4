"""Adafactor."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from lossax import _check, _factored, _hyper, _tree
from lossax._assemble import assemble
from lossax._progress import elapsed, progress
from lossax._types import Hyperparameter, Mask, PyTree, Schedule


class AdafactorState(NamedTuple):
    """Number of updates, second moments (large matrices: row and column), and average direction or `None`."""

    step: jax.Array
    nu: PyTree
    mu: PyTree


def scale_by_adafactor(
    *,
    min_dim_size_to_factor: int = 128,
    factored: Literal["largest", "last", "none"] = "largest",
    decay_rate: Hyperparameter = 0.8,
    decay_offset: Hyperparameter = 0.0,
    clip_threshold: Hyperparameter = 1.0,
    multiply_by_parameter_scale: bool = True,
    momentum: Hyperparameter | None = None,
    mu_dtype: Any = None,
    eps: Hyperparameter = 1e-30,
    eps_scale: Hyperparameter = 1e-3,
) -> optax.GradientTransformation:
    r"""Direction of `adafactor`, unscaled and ascending.

    .. math::
      d = \max\big(\epsilon_\text{scale}, \mathrm{rms}(w)\big)\, u / \max\big(1, \mathrm{rms}(u) / c\big),
      \qquad u = g / \sqrt v

    Args:
      min_dim_size_to_factor: Length that both axes need for their second moment to be factored, positive.
      factored: Axes to factor: the two `"largest"` (of equals the later), the `"last"` two, or `"none"`.
      decay_rate: Power at which the share of the newest gradient falls with the steps, positive.
      decay_offset: Step at which the second moment starts afresh, such as the first of fine-tuning, nonnegative.
      clip_threshold: Root mean square to which a larger direction is shrunk, positive; infinity is none.
      multiply_by_parameter_scale: Whether steps are relative to the root mean square of the parameter.
      momentum: Share of the past that an average of the directions keeps, in [0, 1); `None` is no average.
      mu_dtype: Dtype of that average; float32, or the parameter's if wider, if `None`.
      eps: Added to the squared gradient, nonnegative.
      eps_scale: Least root mean square that a parameter is taken to have, nonnegative.

    Returns:
      A transformation with state `AdafactorState`.

    Raises:
      TypeError: if `min_dim_size_to_factor` is no Python integer.
      ValueError: if an argument known now is out of range, or `update` gets no `params` where it needs them.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adafactor()
      >>> params = jnp.array([2.0, -2.0])
      >>> updates, _ = tx.update(jnp.array([3.0, -5.0]), tx.init(params), params)
      >>> updates.tolist()
      [2.0, -2.0]

    Reference:
      Shazeer and Stern, *Adafactor: adaptive learning rates with sublinear memory cost*, 2018.
    """
    _check.count(min_dim_size_to_factor=min_dim_size_to_factor)
    _check.choice(("largest", "last", "none"), factored=factored)
    _check.positive(decay_rate=decay_rate, clip_threshold=clip_threshold)
    _check.nonnegative(decay_offset=decay_offset, eps=eps, eps_scale=eps_scale)
    if momentum is not None:
        _check.decay(momentum=momentum)

    def axes_of(leaf: Any) -> tuple[int, int] | None:
        return _factored.axes(np.shape(leaf), factored, min_dim_size_to_factor) if _tree.is_number(leaf) else None

    def init(params: PyTree) -> AdafactorState:
        return AdafactorState(
            step=jnp.zeros((), jnp.int32),
            nu=jax.tree.map(lambda p: _factored.zeros(p, axes_of(p)), params, is_leaf=lambda x: x is None),
            mu=None if momentum is None else _tree.zeros_like(params, dtype=mu_dtype),
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        if multiply_by_parameter_scale:
            _tree.require_params(params, "multiply_by_parameter_scale=True makes steps relative to them")
        start = _hyper.scalar(_hyper.at(state.step, decay_offset))
        age = elapsed(state.step, jnp.where(elapsed(state.step) >= start, start, 0.0)) + 1.0
        take = age ** -_hyper.scalar(_hyper.at(state.step, decay_rate))
        floor = _hyper.at(state.step, eps)

        def average(g, v):
            if not _tree.is_number(g) or v is None:
                return v
            g, real = _tree.widen(g), _tree.wide_dtype(g, real=True)
            share, square = take.astype(real), _tree.square(g) + jnp.asarray(floor, real)
            return _factored.averaged(v, square, share, axes_of(g))

        def direction(g, v, p, floor, clip_threshold, eps_scale):
            u = _factored.normalized(g, v, floor, axes_of(g))
            u = u / jnp.maximum(_tree.rms(u) / clip_threshold, 1.0)
            return u * jnp.maximum(_tree.rms(p), eps_scale) if multiply_by_parameter_scale else u

        nu = jax.tree.map(average, updates, state.nu, is_leaf=lambda x: x is None)
        scalars = (floor, _hyper.at(state.step, clip_threshold), _hyper.at(state.step, eps_scale))
        beside = params if multiply_by_parameter_scale else updates
        directions, mu = _tree.map(direction, updates, nu, beside, scalars=scalars), state.mu
        if momentum is not None:
            mu = _tree.moment(directions, jax.tree.map(_tree.widen, mu), _hyper.at(state.step, momentum))
            directions, mu = _tree.map(lambda _, m: m, directions, mu), _tree.cast_like(mu, state.mu)
        return _tree.cast_like(directions, updates), AdafactorState(_tree.increment(state.step), nu, mu)

    return optax.GradientTransformation(init, update)


def adafactor(
    learning_rate: Hyperparameter,
    *,
    min_dim_size_to_factor: int = 128,
    factored: Literal["largest", "last", "none"] = "largest",
    decay_rate: Hyperparameter = 0.8,
    decay_offset: Hyperparameter = 0.0,
    clip_threshold: Hyperparameter = 1.0,
    multiply_by_parameter_scale: bool = True,
    momentum: Hyperparameter | None = None,
    mu_dtype: Any = None,
    eps: Hyperparameter = 1e-30,
    eps_scale: Hyperparameter = 1e-3,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
    independent: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam without its memory: the second moment of a matrix is kept as a row and a column.

    .. math::
      r \leftarrow (1 - t^{-\gamma})\, r + t^{-\gamma}\, \overline{(g^2 + \epsilon)}^{\,\text{columns}}, \quad
      s \leftarrow (1 - t^{-\gamma})\, s + t^{-\gamma}\, \overline{(g^2 + \epsilon)}^{\,\text{rows}}, \quad
      v = r s^\top / \bar r

    .. math::
      \Delta = -\eta\, \max\big(\epsilon_\text{scale}, \mathrm{rms}(w)\big)\, u / \max\big(1, \mathrm{rms}(u) / c\big),
      \qquad u = g / \sqrt v

    For models whose optimizer state does not fit; where it fits, `adamw` is a little better. Steps are relative to the
    size of each parameter, so the rate is a fraction: 1e-2 or less, and `relative_step` is the paper's. A coordinate
    that has had no gradient moves by a step function of it, whose derivative is taken as 0.

    The defaults are Optax's. Its `weight_decay_rate` is not multiplied by the rate: `weight_decay` with
    `independent=True`. With `decay_offset` above 0 it is NaN before that step; here the average of those steps is the
    ordinary one. It averages (`momentum`) after the rate, here before: the same for a constant rate. torch is
    `relative_step(lr)` with `factored="last", min_dim_size_to_factor=1, eps=0.0`, for gradients that are not tiny,
    and Keras the same with its own `eps`.

    Args:
      learning_rate: Relative size of a step, nonnegative; absolute without `multiply_by_parameter_scale`.
      min_dim_size_to_factor: Length that both axes need for their second moment to be factored, positive.
      factored: Axes to factor: the two `"largest"` (of equals the later), the `"last"` two, or `"none"`.
      decay_rate: Power at which the share of the newest gradient falls with the steps, positive.
      decay_offset: Step at which the second moment starts afresh, such as the first of fine-tuning, nonnegative.
      clip_threshold: Root mean square to which a larger direction is shrunk, positive; infinity is none.
      multiply_by_parameter_scale: Whether steps are relative to the root mean square of the parameter.
      momentum: Share of the past that an average of the directions keeps, in [0, 1); `None` is no average.
      mu_dtype: Dtype of that average; float32, or the parameter's if wider, if `None`.
      eps: Added to the squared gradient, nonnegative.
      eps_scale: Least root mean square that a parameter is taken to have, nonnegative.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.
      independent: Decay by `weight_decay` alone instead of `learning_rate * weight_decay`.

    Returns:
      The optimizer; `update` needs `params`.

    Raises:
      TypeError: if `min_dim_size_to_factor` is no Python integer.
      ValueError: if an argument known now is out of range, or `update` gets no `params` where it needs them.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adafactor(0.25)
      >>> params = jnp.array([2.0, -2.0])
      >>> updates, _ = tx.update(jnp.array([3.0, -5.0]), tx.init(params), params)
      >>> updates.tolist()
      [-0.5, 0.5]

    Reference:
      Shazeer and Stern, *Adafactor: adaptive learning rates with sublinear memory cost*, 2018.
    """
    direction = scale_by_adafactor(
        min_dim_size_to_factor=min_dim_size_to_factor,
        factored=factored,
        decay_rate=decay_rate,
        decay_offset=decay_offset,
        clip_threshold=clip_threshold,
        multiply_by_parameter_scale=multiply_by_parameter_scale,
        momentum=momentum,
        mu_dtype=mu_dtype,
        eps=eps,
        eps_scale=eps_scale,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask, independent=independent)


def relative_step(limit: ArrayLike = 1e-2, *, warmup_steps: ArrayLike = 0) -> Schedule:
    r"""The rate that `adafactor` was published with: a limit, then the inverse root of the steps.

    .. math:: \eta_t = \min\big(\rho \min(1, t / \mathit{warmup}),\, 1 / \sqrt t\big), \qquad t = 1, 2, \dots

    A schedule for any optimizer whose steps are relative. torch and Keras take their rate as the limit; the
    `warmup_init` of the Transformers library is `warmup_steps=10_000`.

    Args:
      limit: Largest rate, nonnegative.
      warmup_steps: Steps over which the limit rises from 0, nonnegative.

    Returns:
      A schedule: a function of the step, integer or float `[...]`, with float `[...]` values.

    Raises:
      ValueError: if a known argument is negative or NaN.

    Example:
      >>> schedule = relative_step(0.5)
      >>> [schedule(step).item() for step in (0, 3, 15)]
      [0.5, 0.5, 0.25]

    Reference:
      Shazeer and Stern, *Adafactor: adaptive learning rates with sublinear memory cost*, 2018.
    """
    _check.nonnegative(limit=limit, warmup_steps=warmup_steps)

    def schedule(step):
        made = elapsed(step) + 1.0
        return jnp.minimum(_hyper.scalar(limit) * progress(made, warmup_steps), 1.0 / jnp.sqrt(made))

    return schedule
