"""Dense matrices, batched."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _numerics, _tree

product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
"""Products of matrices with all digits of their dtype."""

_CACHED = 2**19
"""Numbers of the matrices that a CPU works on at once, two or more: they stay in cache from one product to the next."""

Coefficients = Literal["quintic", "dion", "polar_express"]
"""Which polynomials move singular values towards 1."""

_SAFE = 1.01  # in 16 bits a norm may be that much too small
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
_POLYNOMIALS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "quintic": ((3.4445, -4.7750, 2.0315),),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": (*((a / _SAFE, b / _SAFE**3, c / _SAFE**5) for a, b, c in _POLAR_EXPRESS), (1.875, -1.25, 0.375)),
}


def polynomials(coefficients: Coefficients, steps: int) -> list[tuple[float, float, float]]:
    """(a, b, c) of each step of a x + b x^3 + c x^5; the last goes on for ever."""
    known = _POLYNOMIALS[coefficients]
    return [known[min(i, len(known) - 1)] for i in range(steps)]


def adjoint(x: jax.Array) -> jax.Array:
    """x^H of matrices `[..., m, n]`."""
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def newton_schulz(
    x: jax.Array,
    polynomials: Sequence[tuple[float, float, float]],
    eps: jax.typing.ArrayLike,
    norm: Literal["frobenius", "schatten"] = "frobenius",
    dtype: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    """Matrices `[..., m, n]`, m <= n, with the same singular vectors and singular values near 1.

    They are divided by a norm (plus `eps`), then odd polynomials of the singular values are taken by products alone.
    Those of wide matrices are found from x x^T, which is small: the matrix itself is multiplied only at the end.

    Args:
      x: Matrices, float32 at least, or complex.
      polynomials: Coefficients of the first, third and fifth power for each step.
      eps: Added to the norm.
      norm: That of all entries, or of all products of rows: no smaller than the largest singular value, and closer.
      dtype: What products are made in, if not in the dtype of `x`.
    """
    m, n = x.shape[-2:]
    unit, length = _tree.scaled_norms(x, (x.ndim - 2, x.ndim - 1))
    small = jnp.asarray(eps, unit.dtype) / jnp.maximum(unit, jnp.finfo(unit.dtype).tiny)
    x = _tree.parts(lambda part: _tree.over_unit(part, unit) / (length + small), x)
    given = x.dtype
    if norm == "schatten":
        unit, length = _tree.scaled_norms(product(x, adjoint(x)), (x.ndim - 2, x.ndim - 1))
        length = _numerics.sqrt(unit * length)
        x = x / jnp.where(length > 0, length, 1).astype(given)
    x = x if dtype is None else x.astype(dtype)
    step = partial(_orthogonal, polynomials, product if dtype is None else jnp.matmul)
    flat = x.reshape(-1, m, n)
    some = max(k for k in range(1, len(flat) + 1) if len(flat) % k == 0 and (k <= 2 or k * m * n <= _CACHED))
    few = lambda x: lax.map(step, x.reshape(-1, some, m, n)).reshape(x.shape)  # noqa: E731
    found = step(flat) if some == len(flat) else lax.platform_dependent(flat, cpu=few, default=step)
    return found.reshape(x.shape).astype(given)


def _orthogonal(polynomials: Sequence[tuple[float, float, float]], product, x: jax.Array) -> jax.Array:
    """The polynomials of singular values, one after the other, of matrices `[k, m, n]`."""
    m, n = x.shape[-2:]
    one = jnp.eye(m, dtype=x.dtype)[None]
    # A step costs 2 products of m^2 n and one of m^3, or 4 of m^3 if x is left out of it.
    if x.dtype.itemsize < 4 or n <= 1.5 * m or len(polynomials) < 2:
        for a, b, c in polynomials:
            square = product(x, adjoint(x))
            x = product(a * one + b * square + c * product(square, square), x)
        return x
    square, total = product(x, adjoint(x)), one
    for i, (a, b, c) in enumerate(polynomials):
        step = a * one + b * square + c * product(square, square)
        total = product(step, total) if i else step
        if i < len(polynomials) - 1:
            square = product(product(step, square), step)
    return product(total, x)


def gram(x: jax.Array) -> jax.Array:
    """x x^H of matrices `[..., m, n]`: the second moments of their rows."""
    return product(x, adjoint(x))


def gram_of_columns(x: jax.Array) -> jax.Array:
    """x^H x of matrices `[..., m, n]`."""
    return product(adjoint(x), x)


def into_basis(x: jax.Array, rows: jax.Array | None, columns: jax.Array | None) -> jax.Array:
    """Matrices `[..., m, n]` in orthonormal bases of rows and columns, as columns of matrices; `None` is the identity.

    With the adjoint bases it is the way back.
    """
    x = x if rows is None else product(adjoint(rows), x)
    return x if columns is None else product(x, columns)


def out_of_basis(x: jax.Array, rows: jax.Array | None, columns: jax.Array | None) -> jax.Array:
    """What `into_basis` was given."""
    x = x if rows is None else product(rows, x)
    return x if columns is None else product(x, adjoint(columns))


def _scaled(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Hermitian positive matrices by a power of two near their largest entry, and that power `[..., 1, 1]`."""
    largest = jnp.max(jnp.diagonal(matrices, axis1=-2, axis2=-1).real, axis=-1, initial=0.0)[..., None, None]
    unit = _tree.power_of_two(largest)
    return _tree.parts(lambda x: _tree.over_unit(x, unit), matrices), unit


def after(x: jax.Array, previous: jax.Array | None) -> jax.Array:
    """The matrices x, which cannot be worked on before `previous` is there.

    A LAPACK call of jaxlib holds a thread and waits for others, which share its batch: as many calls at once as there
    are threads, two on two cores, wait for ever. So those of one step follow each other.
    """
    if previous is None:
        return x
    largest = jnp.max(_tree.absolute(lax.stop_gradient(previous)))
    eps = jnp.finfo(largest.dtype).eps
    one = jnp.where(jnp.isinf(largest), 1.0 + eps, 1.0)  # 1, but no compiler knows
    return x * one.astype(x.dtype)


def eigenbasis(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues `[..., d]` of Hermitian positive matrices, largest first and never negative, and eigenvectors.

    An eigenvalue that is no more than rounding error beside the largest is 0. Without derivative, which does not exist
    where eigenvalues are equal.
    """
    small, unit = _scaled(lax.stop_gradient(matrices))
    values, vectors = jnp.linalg.eigh(small)
    values = jnp.flip(values, axis=-1)
    known = values > 8.0 * jnp.finfo(values.dtype).eps * values[..., :1]
    return jnp.where(known, values * unit[..., 0], 0), jnp.flip(vectors, axis=-1)


def refined_basis(matrices: jax.Array, basis: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An orthonormal basis nearer to the eigenvectors: one step of orthogonal iteration.

    Its columns stand in the order of the eigenvalues that the old ones suggest, largest first; that order `[..., d]`
    of old columns comes along, to move what is known of each. Without derivative.
    """
    small, _ = _scaled(lax.stop_gradient(matrices))
    basis = lax.stop_gradient(basis)
    moved = product(small, basis)
    order = jnp.argsort(-jnp.sum((jnp.conj(basis) * moved).real, axis=-2), axis=-1)
    refined, _ = jnp.linalg.qr(jnp.take_along_axis(moved, order[..., None, :], axis=-1))
    return refined, order


def inverse_root(matrices: jax.Array, exponent: jax.Array, eps: jax.Array) -> jax.Array:
    """Hermitian positive matrices `[..., d, d]` plus `eps` times their largest eigenvalue, to the power `-exponent`.

    By eigenvalues: they bear any exponent and any rank, and on a CPU cost less than the products of a Newton iteration.
    The root of 0 is the identity. Without derivative.
    """
    values, vectors = eigenbasis(matrices)
    largest = values[..., :1]
    alive = largest > 0
    largest = jnp.where(alive, largest, 1)
    share = jnp.where(alive, values / largest, 1) + jnp.where(alive, eps, 0)
    # The powers of both factors are ordinary numbers where that of their product may be none.
    powers = jnp.where(share > 0, jnp.where(share > 0, share, 1) ** -exponent, 0)
    powers = (powers * largest**-exponent)[..., None, :].astype(vectors.dtype)
    return product(vectors * powers, adjoint(vectors))


def unit_columns(x: jax.Array, eps: jax.typing.ArrayLike = 0.0) -> jax.Array:
    """Columns of matrices `[..., m, n]` over their lengths plus `eps`; 0 for 0."""
    unit, length = _tree.scaled_norms(x, (x.ndim - 2,))
    small = jnp.asarray(eps, unit.dtype) / jnp.maximum(unit, jnp.finfo(unit.dtype).tiny)
    return _numerics.divide(_tree.parts(lambda part: _tree.over_unit(part, unit), x), length + small)


def _identity(x: jax.Array) -> jax.Array:
    """That of the columns of matrices `[..., m, n]`, `[..., n, n]` with axes of length one."""
    n = x.shape[-1]
    return jnp.eye(n, dtype=x.dtype).reshape((1,) * (x.ndim - 2) + (n, n))


@jax.custom_jvp
def orthonormal(x: jax.Array) -> jax.Array:
    """An orthonormal basis of the columns of `[..., m, n]`, m >= n: Q of QR; 0 for a column that lies in those before.

    Cholesky factors of x^H x, three times: a multiple of the identity keeps the first two from failing where columns
    nearly depend on each other, and what they leave is put right by the next. It costs less than Householder QR where
    columns are much longer than they are many; and what rounding made of a column that lies in the others is no
    direction.
    """
    n, eps = x.shape[-1], jnp.finfo(x.dtype).eps
    one = _identity(x)
    x, left = unit_columns(x), 1.0
    for last in (False, False, True):
        left = left * jnp.sqrt(jnp.sum(_tree.square(x), -2, keepdims=True))  # the share that lies in no column before
        dependent = left <= (32.0 * eps if last else 0.0)
        x = jnp.where(dependent, 0, unit_columns(x))
        added = jnp.where(dependent, 1, jnp.full_like(left, 0.0 if last else 4.0 * n * eps))
        factor = jnp.linalg.cholesky(gram_of_columns(x) + added.astype(x.dtype) * one)
        left = left * jnp.diagonal(factor, axis1=-2, axis2=-1).real[..., None, :]
        x = product(x, adjoint(solve_lower(factor, jnp.broadcast_to(one, factor.shape))))
    return x


@orthonormal.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    basis = orthonormal(x)
    alive = jnp.sum(_tree.square(basis), -2, keepdims=True) > 0.5
    upper = jnp.triu(product(adjoint(basis), x))
    upper = upper + jnp.where(alive, 0, _identity(x))
    change = jnp.where(alive, adjoint(solve_lower(adjoint(upper), adjoint(dx))), 0)
    inside = product(adjoint(basis), change)
    # The basis turns within itself so that what is left of x in it stays upper triangular, with a real diagonal.
    turn = jnp.tril(inside, -1)
    turn = turn - adjoint(turn)
    if jnp.iscomplexobj(x):
        turn = turn + _identity(x) * 1j * inside.imag
    return basis, change - product(basis, inside - turn)


def spectral_bound(matrices: jax.Array) -> jax.Array:
    """Almost the largest eigenvalue `[...]` of Hermitian positive matrices, and never more.

    One step of power iteration from the longest row. Without derivative.
    """
    small, unit = _scaled(lax.stop_gradient(matrices))
    longest = jnp.argmax(jnp.sum(_tree.square(small), axis=-1), axis=-1)
    # A product with what picks the column, which no mesh has to gather.
    picked = jax.nn.one_hot(longest, small.shape[-1], dtype=small.dtype)[..., None]
    x = product(small, product(small, picked))
    length = _numerics.sqrt(jnp.sum(_tree.square(x), axis=-2, keepdims=True))
    x = product(small, x * _numerics.divide(jnp.ones_like(length), length).astype(x.dtype))
    return (_numerics.sqrt(jnp.sum(_tree.square(x), axis=-2, keepdims=True)) * unit)[..., 0, 0]


def power_step(x: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An orthonormal basis of what x^H makes of the columns of `right`, and what x makes of it.

    The product of the latter and the adjoint of the former is x in few columns; the better, the nearer `right` was to
    the leading singular vectors.
    """
    left = orthonormal(product(adjoint(x), right))
    return left, product(x, left)


@jax.custom_jvp
def solve_lower(factors: jax.Array, columns: jax.Array) -> jax.Array:
    """The solution of lower triangular systems `[..., d, d]`, for columns `[..., d, k]`.

    JAX's own derivative by the factors fails on explicit meshes.
    """
    return lax.linalg.triangular_solve(factors, columns, left_side=True, lower=True)


@solve_lower.defjvp
def _(primals, tangents):
    (factors, columns), (dfactors, dcolumns) = primals, tangents
    solution = solve_lower(factors, columns)
    change = dcolumns - jnp.matmul(dfactors, solution, precision=lax.Precision.HIGHEST)
    return solution, lax.linalg.triangular_solve(factors, change, left_side=True, lower=True)
