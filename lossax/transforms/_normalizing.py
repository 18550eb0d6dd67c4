"""Size taken away: updates of length one, or of entries one."""

from typing import Any

import jax.numpy as jnp
import optax

from lossax import _numerics, _tree, _units
from lossax._types import PyTree, UnitAxes


def normalize(unit_axes: UnitAxes | None = None) -> optax.GradientTransformation:
    r"""Updates of length one: all together, or each leaf or unit by itself.

    .. math:: u \leftarrow u / \lVert u \rVert, \qquad 0 \leftarrow 0

    For normalised gradient descent, put it before the optimizer. It is exact at every size, so there is no epsilon, and
    what is 0 stays 0. Infinities and NaN as in `clip_by_global_norm`. Optax's `normalize_by_update_norm` adds 1e-6 to
    the norm.

    Args:
      unit_axes: What has length one: `None` is the whole update, `()` each leaf, -1 each unit of a Flax kernel
        `(..., in, out)`, 0 of a torch or Equinox weight; or a function of path and leaf.

    Returns:
      A transformation without state.

    Raises:
      TypeError: if `unit_axes` is no axis, tuple, function or `None`.

    Example:
      >>> import jax.numpy as jnp
      >>> updates, _ = normalize().update([jnp.array([0.0, 3.0]), jnp.array(4.0)], optax.EmptyState())
      >>> [[round(x, 4) for x in u.reshape(-1).tolist()] for u in updates]
      [[0.0, 0.6], [0.8]]
      >>> updates, _ = normalize(()).update([jnp.array([0.0, 3.0]), jnp.array(4.0)], optax.EmptyState())
      >>> [u.tolist() for u in updates]
      [[0.0, 1.0], 1.0]

    Reference:
      Hazan, Levy and Shalev-Shwartz, *Beyond convexity: stochastic quasi-convex optimization*, 2015.
    """
    if unit_axes is not None:
        _units.check(unit_axes)

    def over(u, unit, length):
        share = _numerics.divide(jnp.ones_like(length), length)
        share = jnp.where(jnp.isnan(length), 1, share)
        return _tree.parts(lambda x: jnp.where(jnp.isnan(unit), x, _tree.over_unit(x, unit) * share), u)

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        if unit_axes is None:
            scaled = _tree.map(over, updates, scalars=_tree.scaled_norm(updates))
        else:
            each = lambda u, units: over(u, *_tree.scaled_norms(u, units.within))  # noqa: E731
            scaled = _tree.map(each, updates, _units.resolve(unit_axes, updates))
        return _tree.cast_like(scaled, updates), state

    return optax.GradientTransformation(init, update)


def scale_by_sign() -> optax.GradientTransformation:
    r"""The sign of each entry.

    .. math:: u \leftarrow \operatorname{sign}(u)

    After momentum it makes Signum, before it sign descent with momentum. Complex entries become :math:`u / |u|`; 0
    stays 0.

    Returns:
      A transformation without state.

    Example:
      >>> import jax.numpy as jnp
      >>> updates, _ = scale_by_sign().update(jnp.array([0.5, -3.0, 0.0]), optax.EmptyState())
      >>> updates.tolist()
      [1.0, -1.0, 0.0]

    Reference:
      Bernstein, Wang, Azizzadenesheli and Anandkumar, *signSGD: compressed optimisation for non-convex problems*, 2018.
    """

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        return _tree.cast_like(_tree.map(jnp.sign, updates), updates), state

    return optax.GradientTransformation(init, update)
