"""How much likelier one policy makes tokens than another: ratios, as logarithms, and what is multiplied by them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _check, _double
from lossax._numerics import divide, scaled, with_slopes

Level = Literal["token", "sequence", "trajectory"]
"""Of each token, the geometric mean of those of a sequence, or their product."""


def difference(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a - b, and what its rounding has lost: at 60 that is worth 32 ulp of the exponential."""
    return _double.add(a, -b)


def times(x: jax.Array, gap: jax.Array, rest: jax.Array) -> jax.Array:
    """x * exp(gap + rest), by roots, so that it is finite wherever the product is."""
    root = jnp.exp(0.5 * gap)
    return scaled(scaled(x, root), root) * (1.0 + lax.stop_gradient(rest))


def of_level(level: Level, gap: jax.Array, rest: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-ratios of tokens `[..., n]`, of weight `kept`, as those of their sequences, at each of the tokens."""
    if level == "token":
        return gap, rest
    share = kept if level == "trajectory" else divide(kept, jnp.sum(kept, axis=-1, keepdims=True))
    total = jnp.sum(scaled(share, gap), axis=-1, keepdims=True) + jnp.sum(share * rest, axis=-1, keepdims=True)
    nothing = jnp.zeros_like(gap)
    return nothing + total, nothing


def of_tokens(log_probs: Any, advantages: Any) -> jax.Array:
    """The advantage of each token."""
    shape, own = _check.spec(log_probs)[0], _check.spec(advantages)[0]
    if own not in (shape, shape[:-1]):
        raise ValueError(f"advantages must be {list(shape)} or {list(shape[:-1])}, as log_probs, got {list(own)}")
    advantages = jnp.asarray(advantages)
    return advantages if own == shape else jnp.broadcast_to(advantages[..., None], shape)


@with_slopes(lambda gap: (jnp.expm1(gap),))
def excess(gap: jax.Array) -> jax.Array:
    """exp(x) - 1 - x, with all its digits around 0."""
    near = jnp.abs(gap) < 0.5
    x = jnp.where(near, gap, 0)
    series = jnp.zeros_like(gap)
    for n in range(10, 1, -1):
        series = (1.0 + series) * (x / n)
    return jnp.where(near, x * series, jnp.expm1(gap) - gap)
