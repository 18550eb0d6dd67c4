"""First and second moments of gradients, and the step that Adam makes of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _hyper, _numerics, _tree
from lossax._types import Hyperparameter, PyTree


class Moments(NamedTuple):
    """Number of updates, first and second moments of the gradient, and the mass of each (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    nu: PyTree
    mu_mass: jax.Array
    nu_mass: jax.Array


def start(params: PyTree, mu_dtype: Any = None) -> Moments:
    """Moments before the first update."""
    return Moments(
        step=jnp.zeros((), jnp.int32),
        mu=_tree.zeros_like(params, dtype=mu_dtype),
        nu=_tree.zeros_like(params, real=True),
        mu_mass=jnp.zeros((), _hyper.default_float()),
        nu_mass=jnp.zeros((), _hyper.default_float()),
    )


def adam(
    updates: PyTree,
    state: Any,
    b1: Hyperparameter,
    b2: Hyperparameter,
    eps: Hyperparameter,
    eps_root: Hyperparameter = 0.0,
) -> tuple[PyTree, Moments]:
    """The direction of Adam, and the moments with one more gradient."""
    decay1, decay2 = _hyper.at(state.step, b1), _hyper.at(state.step, b2)
    mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), decay1)
    nu = _tree.moment(updates, state.nu, decay2, order=2)
    mu_mass, nu_mass = _tree.mass(state.mu_mass, decay1), _tree.mass(state.nu_mass, decay2)

    def direction(_, m, v, mu_mass, nu_mass, eps, eps_root):
        return (m / mu_mass) / (_numerics.positive_sqrt(v / nu_mass + eps_root) + eps)

    scalars = (mu_mass, nu_mass, _hyper.at(state.step, eps), _hyper.at(state.step, eps_root))
    directions = _tree.cast_like(_tree.map(direction, updates, mu, nu, scalars=scalars), updates)
    mu = _tree.cast_like(mu, state.mu)
    return directions, Moments(_tree.increment(state.step), mu, nu, mu_mass, nu_mass)


def scale_by_moments(b1: Hyperparameter, b2: Hyperparameter, eps: Hyperparameter) -> optax.GradientTransformation:
    """Adam's direction, for leaves that another rule does not reach."""

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        return adam(updates, state, b1, b2, eps)

    return optax.GradientTransformation(start, update)
