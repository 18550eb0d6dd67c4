"""Steps in proportion to the weights."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree, _units
from lossax._types import Hyperparameter, Mask, PyTree, UnitAxes


class ScaleByTrustRatioState(NamedTuple):
    """Number of updates, and what each leaf was multiplied by in the last one, in the mean over its units."""

    step: jax.Array
    ratio: PyTree


def scale_by_trust_ratio(
    *,
    trust_coefficient: Hyperparameter = 1.0,
    eps: Hyperparameter = 0.0,
    min_norm: Hyperparameter = 0.0,
    max_norm: Hyperparameter = math.inf,
    max_ratio: Hyperparameter = math.inf,
    unit_axes: UnitAxes = (),
    mask: Mask | None = None,
) -> optax.GradientTransformation:
    r"""Makes the update of each leaf, or unit, as long as its weights: LARS and LAMB.

    .. math:: u_i \leftarrow u_i \min\left(r_\text{max},\; c\,
      \frac{\phi(\lVert w_i \rVert)}{\lVert u_i \rVert + \epsilon}\right), \qquad
      \phi(x) = \min(\max(x, \phi_\text{min}), \phi_\text{max})

    For large batches: every layer takes a step in proportion to its size. After the direction and the decay, before the
    rate: LAMB is Adam's direction, `add_decayed_weights` and this; LARS has it before momentum, with a coefficient of
    0.001. Where weights or update are 0 the ratio is 1, so that layers leave 0. Optax has neither bounds nor units;
    other LAMBs bound the ratio (`max_ratio=1.0`) or the norm (`max_norm=10.0`).

    Args:
      trust_coefficient: What every ratio is multiplied by, nonnegative.
      eps: Added to the norm of the update, nonnegative.
      min_norm: Least norm of weights that counts, nonnegative.
      max_norm: Largest norm of weights that counts, positive.
      max_ratio: Largest ratio, positive.
      unit_axes: What is scaled by itself: `()` each leaf, -1 each unit of a Flax kernel `(..., in, out)`, 0 of a torch
        or Equinox weight, `(0,)` each layer of a stack; or a function of path and leaf.
      mask: Leaves to scale: booleans or a function of the parameters (`path_mask(exclude="bias|norm")`, as LAMB and
        LARS have it); `None` is all.

    Returns:
      A transformation with state `ScaleByTrustRatioState`; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.
      TypeError: if `unit_axes` is no axis, tuple or function.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_trust_ratio()
      >>> params = jnp.array([0.0, 6.0])
      >>> updates, state = tx.update(jnp.array([2.0, 0.0]), tx.init(params), params)
      >>> updates.tolist(), state.ratio.item()
      ([6.0, 0.0], 3.0)

    Reference:
      You, Gitman and Ginsburg, *Large batch training of convolutional networks*, 2017; You et al., *Large batch
      optimization for deep learning: training BERT in 76 minutes*, 2020.
    """
    _check.nonnegative(trust_coefficient=trust_coefficient, eps=eps, min_norm=min_norm)
    _check.positive(max_norm=max_norm, max_ratio=max_ratio)
    _units.check(unit_axes)

    def init(params: PyTree) -> ScaleByTrustRatioState:
        ratio = jax.tree.map(
            lambda p: jnp.ones((), _tree.wide_dtype(p, real=True)) if _tree.is_number(p) else None,
            params,
            is_leaf=lambda x: x is None,
        )
        return ScaleByTrustRatioState(jnp.zeros((), jnp.int32), ratio)

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        _tree.require_params(params, "updates are measured by them")

        def ratio(u, p, units, scaled, coefficient, eps, least, most, bound):
            norms = [unit * length for unit, length in (_tree.scaled_norms(x, units.within) for x in (p, u))]
            weights = jnp.minimum(jnp.maximum(norms[0], least), most)
            usable = (weights > 0) & (norms[1] > 0)
            found = jnp.minimum(coefficient * _numerics.divide(weights, norms[1] + eps), bound)
            return jnp.where(usable & scaled, found, 1)

        numbers = (trust_coefficient, eps, min_norm, max_norm, max_ratio)
        scalars = tuple(_hyper.at(state.step, x) for x in numbers)
        units = _units.resolve(unit_axes, updates)
        ratios = _tree.map(ratio, updates, params, units, _tree.resolve_mask(mask, params), scalars=scalars)
        # Beside the units, for what has none has no ratio either.
        scaled = _tree.map(lambda u, _, r: _tree.parts(lambda x: r * x, u), updates, units, ratios)
        means = _tree.map(lambda _, units, r: jnp.sum(r) / max(units.count, 1), state.ratio, units, ratios)
        return _tree.cast_like(scaled, updates), ScaleByTrustRatioState(
            _tree.increment(state.step), _tree.cast_like(means, state.ratio)
        )

    return optax.GradientTransformation(init, update)
