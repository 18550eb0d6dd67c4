"""Proper scores of ensembles of vectors: one unit per vector of targets."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper
from lossax._numerics import divide, sqrt
from lossax._reduction import masked, reduce
from lossax._types import Reduction


def _polar(vectors):
    """Length `[..., 1]` and direction along the last axis, at any size; 0 has neither direction nor derivative."""
    size = jnp.max(jnp.abs(lax.stop_gradient(vectors)), axis=-1, keepdims=True)
    size = jnp.where(size > 1.0, 0.25 * size, size)  # XLA multiplies by its inverse, which must not be subnormal
    vectors = divide(vectors, size)
    length = sqrt(jnp.sum(vectors * vectors, axis=-1, keepdims=True))
    return size * length, divide(vectors, length)


def _detours(a, b, u, v):
    """How much longer the ways between members are by the target: a + b - |a u - b v|, without a difference."""
    longer = jnp.maximum(a, b)
    ratio = divide(jnp.minimum(a, b), longer)
    along = ratio * jnp.sum(jnp.square(u + v), axis=-1, keepdims=True)
    across = ratio * jnp.sum(jnp.square(u - v), axis=-1, keepdims=True)
    return longer * (along / (1.0 + ratio + jnp.sqrt(jnp.square(1.0 - ratio) + across)))


def _over_others(f, *arrays):
    """Sums over the others of `f(one member, all)`, for one member after the other: no `[m, m, d]` is ever held."""
    m = arrays[0].shape[-2]

    def row(args):
        index, *one = args
        values = f(*(x[..., None, :] for x in one), *arrays)
        others = (jnp.arange(m) != index).reshape((1,) * (values.ndim - 2) + (m, 1))
        return jnp.sum(jnp.where(others, values, 0), axis=-2)

    found = lax.map(row, (jnp.arange(m), *(jnp.moveaxis(x, -2, 0) for x in arrays)))
    return jnp.moveaxis(found, 0, -2)


def _errors(members, targets):
    """Members less target, times a power of two that leaves room for a length that overflows where a mean does not."""
    shrink = 2.0 ** -(1 + math.ceil(0.5 * math.log2(members.shape[-1])))
    members = shrink * members
    return members, members - shrink * targets[..., None, :], 1.0 / shrink


@jax.custom_jvp
@jax.jit  # so that the loop is compiled once, and not at every call outside of jit
def _energy(members: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The standard and the fair energy score of each `[members, d]`, as sums of detours: nothing cancels."""
    m = members.shape[-2]
    _, errors, grow = _errors(members, targets)
    lengths, directions = _polar(errors)
    miss = jnp.sum(lengths / m, axis=(-2, -1))
    if m == 1:
        return grow * miss, grow * miss
    detours = _over_others(lambda a, u, b, v: _detours(a, b, u, v) / float(2 * m * m), lengths, directions)
    spread = jnp.sum(detours, axis=(-2, -1))  # each pair came twice
    return grow * (miss / m + spread), grow * ((m / (m - 1)) * spread)


@jax.jit
def _energy_slopes(members, targets):
    """Derivatives of both scores by the members, and by the target."""
    m = members.shape[-2]
    members, errors, _ = _errors(members, targets)
    _, directions = _polar(errors)
    standard = fair = directions
    if m > 1:
        turns = _over_others(lambda x, u, others, _: u - _polar(x - others)[1], members, directions)
        standard, fair = (directions + turns) / float(m * m), turns / float(m * (m - 1))
    return standard, fair, -jnp.mean(directions, axis=-2)


@_energy.defjvp
def _(primals, tangents):
    dmembers, dtargets = tangents
    standard, fair, by_target = _energy_slopes(*primals)

    def along(slope):
        return jnp.sum(slope * dmembers, axis=(-2, -1)) + jnp.sum(by_target * dtargets, axis=-1)

    return _energy(*primals), (along(standard), along(fair))


def energy_score(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    fairness: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Energy score of an ensemble of vectors: `crps_ensemble` for forecasts whose numbers belong together.

    .. math:: \ell = \frac 1m \sum_i \|x_i - y\| -
        \left(\frac{1 - f}{m^2} + \frac{f}{m\,(m - 1)}\right) \sum_{i < j} \|x_i - x_j\|

    For draws of a trajectory, of a wind vector, of several variables at once: unlike the sum of their CRPS, it sees
    which values come together, though weakly. Bring the variables to one scale first, or the largest decides alone.
    Time grows with `members^2 d`, memory with `members d`: pairs are visited one member at a time, for the gradient
    and for Hessian-vector products (forward over reverse) too. `fairness` means what it means in `crps_ensemble`; 0 and
    1 are the estimators `"nrg"` and `"fair"` of scoringrules. Members at one place, and a member at the target, have
    gradient 0 from each other.

    Args:
      predictions: Members, float `[..., members, d]`, in any order.
      targets: True vectors, real `[..., d]`.
      fairness: Share of the fair score, in [0, 1].
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative.

    Raises:
      TypeError: if `predictions` are not floating point.
      ValueError: if shapes do not fit, there are no members, or `fairness` is outside [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> members, target = jnp.array([[3.0, 4.0], [-3.0, -4.0]]), jnp.zeros(2)
      >>> energy_score(members, target).item(), energy_score(members, target, fairness=1.0).item()
      (2.5, 0.0)

    Reference:
      Gneiting and Raftery, *Strictly proper scoring rules, prediction, and estimation*, 2007.
    """
    _check.floating(predictions=predictions)
    _check.real(targets=targets)
    shape, own = _check.spec(predictions)[0], _check.spec(targets)[0]
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(f"predictions need at least one member of at least one number, got {list(shape)}")
    if own != shape[:-2] + shape[-1:]:
        raise ValueError(
            f"expected the shape of predictions without members, got targets{list(own)}, predictions{list(shape)}"
        )
    _check.fraction(fairness=fairness)
    (predictions,) = masked(where, predictions, event=2)
    _, targets = masked(where, predictions[..., 0, :], targets, event=1)
    # 1 - fairness before it is rounded to the dtype of the predictions.
    _, share, rest = masked(None, predictions[..., 0, 0], fairness, 1.0 - fairness)
    standard, fair = _energy(predictions, targets)
    values = standard if _hyper.is_zero(fairness) else rest * standard + share * fair
    return reduce(values, where, weights, reduction)
