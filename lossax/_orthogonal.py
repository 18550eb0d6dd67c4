"""Momentum of matrices made orthogonal, and made as long as it should be: what Muon and its kin share."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lossax import _check, _hyper, _linalg, _matrices, _numerics, _tree
from lossax._linalg import Coefficients
from lossax._matrices import Scale, Stacks
from lossax._types import PyTree

Orthogonalize = Callable[..., jax.Array]
"""From matrices and the number added to their norms to orthogonal ones."""


def iteration(
    coefficients: Coefficients, steps: int, norm: Literal["frobenius", "schatten"], dtype: DTypeLike | None
) -> Orthogonalize:
    """How matrices are made orthogonal; raises unless the arguments are what they should be."""
    _check.count(steps=steps)
    _check.choice(("quintic", "dion", "polar_express"), coefficients=coefficients)
    _check.choice(("frobenius", "schatten"), norm=norm)
    polynomials = _linalg.polynomials(coefficients, steps)
    return lambda x, eps: _linalg.newton_schulz(x, polynomials, eps, norm, dtype)


def momentum(
    updates: PyTree,
    state: Any,
    stacks: Stacks,
    share: Any,
    eps: Any,
    orthogonalize: Orthogonalize,
    *,
    nesterov: bool = False,
    before: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[dict[str, jax.Array], PyTree, jax.Array]:
    """Stacks of orthogonal momentum, the average gradient with one more, wide, and its mass.

    Args:
      updates: Gradients.
      state: What has the average `mu` so far, and its mass `mu_mass`.
      stacks: Where the matrices are.
      share: Share of the past that the average keeps.
      eps: Added to the norm that a matrix is divided by.
      orthogonalize: From `iteration`.
      nesterov: Whether the average looks one step ahead.
      before: What is made of the average before it becomes orthogonal.
    """
    mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), share)
    mass = _tree.mass(state.mu_mass, share)
    following, small = _hyper.scalar(_tree.mass(mass, share)), _hyper.scalar(eps)

    def orthogonal(g, old):
        # On stacks, and from the old average: a program for every leaf would take long to compile.
        real = jnp.finfo(g.dtype).dtype
        one, behind, ahead = (jnp.asarray(x, real) for x in (share, mass, following))
        m = one * old + (1.0 - one) * g
        wanted = one * m / ahead + (1.0 - one) * g / behind if nesterov else m / behind
        return orthogonalize(before(wanted) if before else wanted, small.astype(real))

    return jax.tree.map(orthogonal, stacks.stack(updates), stacks.stack(state.mu)), mu, mass


def scaled(found: dict[str, jax.Array], stacks: Stacks, scale: Scale, rms: Any) -> dict[str, jax.Array]:
    """Orthogonal matrices times what `_matrices.length` says."""
    factors = stacks.each(partial(_matrices.length, scale, _hyper.scalar(rms)))
    return {key: factors[key].astype(jnp.finfo(x.dtype).dtype) * x for key, x in found.items()}


def restored(
    adapted: dict[str, jax.Array], found: dict[str, jax.Array], stacks: Stacks, scale: Scale, rms: Any
) -> dict[str, jax.Array]:
    """Matrices made as long as the orthogonal ones that they come from would be; exactly, if `scale` is `"rms"`."""
    size = _hyper.scalar(rms)
    length = lambda inputs, outputs: (  # noqa: E731
        size * (inputs * outputs) ** 0.5 if scale == "rms" else _matrices.length(scale, size, inputs, outputs)
    )
    factors = stacks.each(length)

    def restore(x, before, factor):
        norm = lambda x: _numerics.sqrt(jnp.sum(_tree.square(x), (1, 2), keepdims=True))  # noqa: E731
        factor = factor.astype(jnp.finfo(x.dtype).dtype)
        return _numerics.divide(factor if scale == "rms" else factor * norm(before), norm(x)) * x

    return {key: restore(x, found[key], factors[key]) for key, x in adapted.items()}


def adapted(
    found: dict[str, jax.Array], squares: dict[str, jax.Array], state: Any, stacks: Stacks, share: Any, eps: Any
) -> tuple[dict[str, jax.Array], PyTree, jax.Array]:
    """Orthogonal matrices over the roots of an average of squares, that average with these, and its mass.

    Args:
      found: From `momentum`.
      squares: What is averaged, of the same shape or of length one where it is a mean.
      state: What has the average `nu` so far, and its mass `nu_mass`.
      stacks: Where the matrices are.
      share: Share of the past that the average keeps.
      eps: Added to the root.
    """
    mass = _tree.mass(state.nu_mass, share)

    def average(square, old):
        one = jnp.asarray(share, square.dtype)
        return one * old + (1.0 - one) * square

    def over_root(x, average):
        root = _numerics.sqrt(average / mass.astype(average.dtype)) + jnp.asarray(eps, average.dtype)
        return _numerics.divide(x, root.astype(x.dtype))

    averages = jax.tree.map(average, squares, stacks.stack(state.nu))
    nu = stacks.unstack(averages, state.nu)
    # A matrix without a gradient keeps its average.
    nu = jax.tree.map(lambda old, new: old if new is None else new, state.nu, nu, is_leaf=lambda x: x is None)
    return jax.tree.map(over_root, found, averages), nu, mass
