"""Trust ratios: steps of a leaf in proportion to its weights."""

import jax
import jax.numpy as jnp

from lossax import _numerics, _tree


def _norm(x: jax.Array) -> jax.Array:
    """`_tree.norm` of a leaf, which looks through it once more only where the squares may overflow or vanish."""
    total = jnp.sum(_tree.square(x))
    ordinary = jnp.isfinite(total) & (total > x.size * 2.0**50 * jnp.finfo(total.dtype).tiny)
    return jax.lax.cond(ordinary, lambda _, total: _numerics.sqrt(total), lambda x, _: _tree.norm(x), x, total)


def scaled(
    u: jax.Array,
    p: jax.Array,
    coefficient: jax.Array,
    eps: jax.Array,
    least: jax.Array,
    most: jax.Array,
) -> jax.Array:
    """coefficient * |p| / (|u| + eps) times u, with |p| held between `least` and `most`; u where a norm is zero."""
    of_p, of_u = jnp.clip(_norm(p), least, most), _norm(u)
    ratio = _numerics.divide(coefficient * of_p, of_u + eps, fallback=1.0)
    return u * jnp.where((of_p == 0) | (of_u == 0), jnp.ones_like(ratio), ratio)
