"""Second moments of the rows and columns of matrices, and their eigenvectors, which are refreshed now and then.

A side is what is known of the rows, or of the columns, of all matrices of one shape: a stack of `_matrices.Stacks`,
which has no more rows than columns.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossax import _hyper, _linalg, _numerics, _tree
from lossax._tile import kept_whole
from lossax._types import Hyperparameter, PyTree


class Side(NamedTuple):
    """Second moment and its eigenvectors, both `[count, d, d]`, and its values along them, `[count, d]` or `None`."""

    moment: jax.Array
    basis: jax.Array
    values: jax.Array | None


Sides = Mapping[str, tuple[Side | None, Side | None]]
"""Rows and columns of each stack; `None` is a side that stays as it is."""


def start(spans: Mapping[str, jax.ShapeDtypeStruct], max_size: int, one_sided: bool, *, valued: bool) -> Sides:
    """Before the first matrix: no moment, and the identity as basis."""

    def side(span, axis):
        count, size = span.shape[0], span.shape[axis]
        if size > max_size or (one_sided and axis == 2):
            return None
        moment = jnp.zeros((count, size, size), span.dtype)
        basis = jnp.zeros_like(moment) + jnp.eye(size, dtype=span.dtype)[None]
        return Side(moment, basis, jnp.zeros((count, size), jnp.finfo(span.dtype).dtype) if valued else None)

    return {key: (side(span, 1), side(span, 2)) for key, span in spans.items()}


def bounded(updates: PyTree) -> PyTree:
    """Updates shortened, where they are very long, until sums of their squares are finite numbers."""

    def shorten(g):
        unit, length = _tree.scaled_norms(g, tuple(range(g.ndim)))
        return _tree.shorten(g, unit, length, jnp.asarray(2.0 ** (jnp.finfo(unit.dtype).maxexp // 2 - 4), unit.dtype))

    return _tree.map(shorten, updates)


def _basis(side: Side | None) -> jax.Array | None:
    return None if side is None else lax.stop_gradient(side.basis)


def project(pair: tuple[Side | None, Side | None], x: jax.Array) -> jax.Array:
    """Matrices in the bases of both sides."""
    return _linalg.into_basis(x, _basis(pair[0]), _basis(pair[1]))


def project_back(pair: tuple[Side | None, Side | None], x: jax.Array) -> jax.Array:
    """Matrices out of them again."""
    return _linalg.out_of_basis(x, _basis(pair[0]), _basis(pair[1]))


def resolved(roots: jax.Array) -> jax.Array:
    """Which entries `[count, m, n]`, or `[count, d]`, are more than the rounding error of the largest of their matrix.

    Gradients that lack some direction have nothing but rounding errors along it, and whoever divides those by their
    size makes steps of noise.
    """
    largest = jnp.max(roots, axis=tuple(range(1, roots.ndim)), keepdims=True)
    return roots > 128.0 * jnp.finfo(roots.dtype).eps * largest


def accumulate(sides: Sides, stacks: Mapping[str, jax.Array], keep: Any) -> Sides:
    """keep * moment + (1 - keep) * x x^H, and likewise of the columns."""

    def update(side, new):
        return None if side is None else side._replace(moment=_mix(side.moment, lax.stop_gradient(new()), keep))

    def both(pair, x):
        rows, columns = pair
        return update(rows, lambda: _linalg.gram(x)), update(columns, lambda: _linalg.gram_of_columns(x))

    return {key: both(pair, lax.stop_gradient(stacks[key])) for key, pair in sides.items()}


def _mix(old: jax.Array, new: jax.Array, keep: Any) -> jax.Array:
    real = jnp.finfo(old.dtype).dtype
    keep, take = (lax.stop_gradient(jnp.asarray(x, real)) for x in (keep, 1.0 - keep))
    return _tree.parts(lambda x: keep * x, old) + _tree.parts(lambda x: take * x, new)


def roots(side: Side) -> jax.Array:
    """Roots of the values, 0 where one cannot be told from 0, and 1 where nothing is known yet."""
    if side.values is None:
        return jnp.ones(side.moment.shape[:2], jnp.finfo(side.moment.dtype).dtype)
    found = _numerics.sqrt(side.values)
    known = jnp.max(found, axis=-1, keepdims=True) > 0
    return jnp.where(known, jnp.where(resolved(found), found, 0), 1)


def accumulate_whitened(sides: Sides, stacks: Mapping[str, jax.Array], keep: Any) -> Sides:
    """`accumulate` for sides with values: each moment sees matrices that the other side's inverse has whitened.

    Those of rows and of columns are then together nearest to the covariance of all entries, in Kullback-Leibler's
    sense. Averages start at the first matrix that is not 0.
    """

    def both(pair, x):
        rows, columns = pair
        (m, n), one = x.shape[1:], jnp.ones((1, 1), jnp.finfo(x.dtype).dtype)
        # Roots of the inverses, 0 where that would be infinite.
        left, right = (one if side is None else _numerics.divide(jnp.ones_like(r := roots(side)), r) for side in pair)
        by_rows = _linalg.into_basis(x, _basis(rows), None)
        by_columns = _linalg.into_basis(x, None, _basis(columns))
        squares = _tree.square(_linalg.into_basis(by_rows, None, _basis(columns)))
        mean = jnp.ones_like(squares[:, :1, 0]) if rows is None else jnp.mean(squares, axis=(1, 2))[:, None]

        def update(side, moment, values, share):
            if side is None:
                return None
            new = jnp.max(side.values, axis=-1, keepdims=True) == 0
            share = jnp.where(new, _numerics.divide(jnp.ones_like(share), share), 1)
            moment, values = _tree.parts(lambda x: share[..., None] * x, moment), share * values
            return side._replace(
                moment=jnp.where(new[..., None], moment, _mix(side.moment, moment, keep)),
                values=jnp.where(new, values, _mix(side.values, values, keep)),
            )

        def scaled(x, weights):
            return _tree.parts(lambda x: weights * x, x)

        return (
            update(
                rows,
                _linalg.gram(scaled(by_columns, (right / math.sqrt(n))[:, None, :])),
                jnp.mean(squares * jnp.square(right)[:, None, :], axis=2),
                jnp.ones_like(mean),
            ),
            update(
                columns,
                _linalg.gram_of_columns(scaled(by_rows, (left / math.sqrt(m))[:, :, None])),
                jnp.mean(squares * jnp.square(left)[:, :, None], axis=1),
                mean,
            ),
        )

    return {key: both(pair, lax.stop_gradient(stacks[key])) for key, pair in sides.items()}


def refresh(
    sides: Sides,
    squares: Mapping[str, jax.Array],
    stacks: Mapping[str, jax.Array],
    step: jax.Array,
    every: Hyperparameter,
) -> tuple[Sides, Mapping[str, jax.Array]]:
    """Bases from moments: by eigenvectors after the first step, and by one step of orthogonal iteration every so often.

    The columns of a basis may change places, and then so do the values along them, and `squares`, averages of what was
    projected on them, if there are any; how far columns turn is left out of account. Other steps cost nothing.
    """

    def first(sides, squares):
        last = None

        def make(side):
            nonlocal last
            if side is None:
                return None
            _, last = _linalg.eigenbasis(_linalg.after(side.moment, last))
            return side._replace(basis=last)

        def valued(pair, x):
            # Of what is projected: small eigenvalues of a moment are rounded at the size of the largest.
            found = _tree.square(_linalg.into_basis(lax.stop_gradient(x), _basis(pair[0]), _basis(pair[1])))
            mean = 1.0 if pair[0] is None else jnp.mean(found, axis=(1, 2))[:, None]
            values = (
                jnp.mean(found, axis=2),
                _numerics.divide(jnp.mean(found, axis=1), mean * jnp.ones_like(found[:, 0])),
            )
            return tuple(
                side if side is None or side.values is None else side._replace(values=new)
                for side, new in zip(pair, values, strict=True)
            )

        made = {key: (make(rows), make(columns)) for key, (rows, columns) in sides.items()}
        return {key: valued(pair, stacks[key]) for key, pair in made.items()}, squares

    def later(sides, squares):
        moved, found, last = {}, {}, None
        for key, pair in sides.items():
            sorted_sides, square = [], squares.get(key)
            for axis, side in enumerate(pair):
                if side is None:
                    sorted_sides.append(None)
                    continue
                basis, order = _linalg.refined_basis(_linalg.after(side.moment, last), side.basis)
                last = basis
                values = None if side.values is None else jnp.take_along_axis(side.values, order, axis=-1)
                sorted_sides.append(side._replace(basis=basis, values=values))
                if square is not None:
                    places = order[:, :, None] if axis == 0 else order[:, None, :]
                    square = jnp.take_along_axis(square, places, axis=axis + 1)
            moved[key] = (sorted_sides[0], sorted_sides[1])
            if square is not None:
                found[key] = square
        return moved, found

    due = (step % _hyper.period(step, every) == 0).astype(jnp.int32)
    branch = jnp.where(step == 0, 2, due)
    return kept_whole(lax.switch(branch, [lambda *held: held, later, first], dict(sides), dict(squares)))
