"""Trust ratios: steps of a leaf in proportion to its weights."""

from typing import Any

import jax.numpy as jnp

from lossax import _tree
from lossax._types import PyTree


def scaled(updates: PyTree, params: PyTree, trusts: PyTree, scalars: tuple[Any, ...]) -> PyTree:
    """c * |p| / (|u| + eps) times u where `trusts`, with |p| held between `least` and `most`; u where a norm is zero.

    The scalars are c, eps, least and most.
    """

    def ratio(u, of_u, of_p, trust, coefficient, eps, least, most):
        of_p = jnp.clip(of_p, least, most)
        either = (of_p == 0) | (of_u == 0)
        usable = ~either if trust is True else trust & ~either
        return u * (jnp.where(usable, coefficient * of_p, 1) / jnp.where(usable, of_u + eps, 1))

    params = _tree.map(lambda _, p: p, updates, params)  # None, or no number, where the update is
    return _tree.map(ratio, updates, *_tree.norms((updates, params)), trusts, scalars=scalars)
