"""Losses in which examples see each other: their matrix is made and used up one block of rows after the other.

A block is whole in its columns, so that whatever is said of a row (a softmax, a sort, the hardest rival) is written as
if the matrix were there. What goes down the columns is added up over the blocks.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec, get_abstract_mesh, reshard

from lossax._numerics import log_partition

_NUMBERS = 2**20
"""Numbers that a block holds, about, if its size is not given."""


def _steps(n: int, width: int, tile: int | None) -> int:
    """Number of blocks for `n` rows of so many numbers: one that divides `n` if there is such, near the one wanted."""
    rows = max(1, _NUMBERS // max(width, 1)) if tile is None else tile
    wanted = max(-(-n // rows), 1)
    return next((steps for steps in range(wanted, wanted + wanted // 4 + 1) if n % steps == 0), wanted)


def explicit() -> bool:
    """Whether types say how arrays are spread over devices; if not, the compiler sees to it."""
    mesh = get_abstract_mesh()
    return not mesh.empty and AxisType.Explicit in mesh.axis_types


def on_one_device() -> bool:
    """Whether arrays are those of one device, as inside `shard_map`, so that any axis may be cut anywhere."""
    mesh = get_abstract_mesh()
    by_hand = not mesh.empty and all(kind == AxisType.Manual for kind in mesh.axis_types)
    return by_hand or jax.device_count() == 1


def whole(tree: Any, axes: int | None = None) -> Any:
    """The arrays with their axes, or so many of the last ones, whole on each device."""
    if not explicit():
        return tree

    def gather(x):
        rest = () if axes is None else tuple(jax.typeof(x).sharding.spec)[: max(x.ndim - axes, 0)]
        return reshard(x, PartitionSpec(*rest))

    return jax.tree.map(lambda x: gather(x) if isinstance(x, jax.Array) else x, tree)


def kept_whole(tree: Any) -> Any:
    """The arrays whole on each device of the mesh in use, on automatic meshes too, where XLA would spread them."""
    mesh = get_abstract_mesh()
    if mesh.empty or AxisType.Auto not in mesh.axis_types:
        return whole(tree)
    return jax.tree.map(lambda x: lax.with_sharding_constraint(x, PartitionSpec()), tree)


def spread_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """The array, spread over devices as another of its shape is."""
    return reshard(x, jax.typeof(like).sharding.spec) if explicit() else x


def numbered(x: jax.Array) -> jax.Array:
    """0, 1, 2, ... along the last axis, spread over devices as the array is."""
    return spread_like(lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1), x)


def taken(x: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of an array that is whole on each device, spread as their indices are."""
    if not explicit():
        return x[index]
    spec = PartitionSpec(*jax.typeof(index).sharding.spec, *(None for _ in x.shape[1:]))
    return x.at[index].get(out_sharding=spec)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x^T y of arrays `[n, ...]` whose rows are spread alike."""
    spec = PartitionSpec(*(jax.typeof(z).sharding.spec[1] for z in (x, y)))
    return jnp.einsum("ni,nj->ij", x, y, out_sharding=spec if explicit() else None)


def inner(x: jax.Array, y: jax.Array, precision: lax.PrecisionLike = None) -> jax.Array:
    """Inner products `[n, m]` of rows `[n, d]` and `[m, d]`; for `x @ y.T` XLA would hold a transposed y in a loop."""
    return jnp.einsum("nd,md->nm", x, y, precision=precision)


def _blocks(rows: Any, n: int, steps: int) -> Any:
    """Rows `[n, ...]` as `[steps, size, ...]`.

    If there are several devices row i is in block i % steps, so that rows which are spread over them are so in every
    block; on one this would only be a copy.
    """
    size = -(-n // steps)

    def split(x):
        spec = jax.typeof(x).sharding.spec if explicit() else ()
        parts = math.prod(get_abstract_mesh().shape[name] for name in jax.tree.leaves(tuple(spec[:1])))
        x = whole(x) if parts > 1 and (size % parts or size * steps > n) else x
        x = jnp.pad(x, [(0, size * steps - n)] + [(0, 0)] * (x.ndim - 1)) if size * steps > n else x
        if on_one_device():
            return x.reshape(steps, size, *x.shape[1:])
        return jnp.moveaxis(x.reshape(size, steps, *x.shape[1:]), 1, 0)

    return jax.tree.map(split, rows)


def _joined(each: Any, n: int) -> Any:
    """What `_blocks` did, undone."""

    def join(x):
        x = x if on_one_device() else jnp.moveaxis(x, 0, 1)
        return x.reshape(-1, *x.shape[2:])[:n]

    return jax.tree.map(join, each)


def _nothing(dtype: Any, *trees: Any) -> jax.Array:
    """0, by sums of nothing: inside `shard_map` its type says on which devices the arrays differ."""
    nothing = [jnp.sum(x[:0].astype(dtype)) for x in jax.tree.leaves(trees) if x.ndim]
    return reduce(jnp.add, nothing, jnp.zeros((), dtype))


def constant(fill: float, like: Any, *trees: Any) -> jax.Array:
    """An array where a loop starts. Inside `shard_map` its type must say on which devices it will differ."""
    start = jnp.full(like.shape, fill, like.dtype)
    return (spread_like(start, like) if isinstance(like, jax.Array) else start) + _nothing(like.dtype, *trees)


def varying(tree: Any) -> Any:
    """The arrays; inside `shard_map` the type of each float says on which devices any of them differ."""
    mesh = get_abstract_mesh()
    if mesh.empty or AxisType.Manual not in mesh.axis_types:
        return tree
    return jax.tree.map(lambda x: x + _nothing(x.dtype, tree) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def by_rows(
    f: Callable[..., tuple[Any, Any]],
    rows: Any,
    shared: Any,
    *,
    width: int,
    tile: int | None = None,
    totals: Any = None,
    spread: bool = False,
) -> tuple[Any, Any]:
    """`f` of blocks of rows, one after the other; neither value nor gradient holds more than one block's work.

    The gradient makes each block a second time. Everything that `f` computes with and that has a derivative or differs
    between calls of a `vmap` goes through `rows` and `shared`.

    Args:
      f: Takes a block of `rows` and `shared`. Returns a pair of trees: arrays with one entry for each row of the
        block, and arrays that are added up over the blocks. A row of zeros must add nothing to the latter: the last
        block is padded with them.
      rows: Tree of arrays `[n, ...]`.
      shared: Tree of arrays that every block sees.
      width: How many numbers `f` holds for each row.
      tile: Rows of a block; by `width` if None.
      totals: Where the sums start. If given, `f` takes the sums so far as a third argument, and adds to them itself.
      spread: Whether arrays of `shared` may stay spread over the devices of an explicit mesh.

    Returns:
      The trees of `f`: entries of all rows `[n, ...]`, and sums.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    steps = _steps(n, width, tile)
    shared = shared if spread else whole(shared)
    given = totals is not None
    if steps <= 1 and not given:
        return f(rows, shared)
    blocks = _blocks(rows, n, steps)
    if not given:
        totals = jax.eval_shape(lambda blocks: f(jax.tree.map(lambda x: x[0], blocks), shared)[1], blocks)

    @partial(jax.checkpoint, prevent_cse=False)
    def step(sums, block):
        if given:
            each, sums = f(block, shared, sums)
            return sums, each
        each, total = f(block, shared)
        return jax.tree.map(jnp.add, sums, total), each

    if not given:
        totals = jax.tree.map(lambda like: constant(0.0, like, rows, shared), totals)
    sums, each = lax.scan(step, totals, blocks)
    return _joined(each, n), sums


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def as_it_is(f: Callable[..., Any], *arguments: Any) -> Any:
    """`f` of the arguments, inside a derivative rule that needs only its value.

    JAX would take what does not change out of the loops of `f`, and hold blocks of zeros.
    """
    return f(*arguments)


@as_it_is.defjvp
def _(f, primals, tangents):
    return jax.jvp(f, primals, tangents)


def chosen(tree: Any, keep: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The leaves where the leaves of `keep` are true, and what puts others in their place."""
    leaves, form = jax.tree.flatten(tree)
    places = [i for i, kept in enumerate(jax.tree.leaves(keep)) if kept]

    def back(others):
        full = list(leaves)
        for i, x in zip(places, others, strict=True):
            full[i] = x
        return form.unflatten(full)

    return [leaves[i] for i in places], back


def _floats(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """The leaves that have a derivative, and what puts others in their place."""
    return chosen(tree, jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating), tree))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def sum_by_rows(
    f: Callable[[Any, Any], tuple[jax.Array, jax.Array]], width: int, tile: int | None, rows: Any, shared: Any
) -> tuple[jax.Array, jax.Array]:
    """Sum over blocks of one number that `f` returns; the gradient is made along with it, so no block is made twice.

    Args:
      f: Takes a block of `rows` and `shared`. Returns a number, 0 for rows of zeros, and floats, one for each row,
        finite and without derivative.
      width: How many numbers `f` holds for each row.
      tile: Rows of a block; by `width` if None.
      rows: Tree of arrays `[n, ...]`.
      shared: Tree of arrays, whole in every block.

    Returns:
      The sum, and the array `[n]`.
    """

    def turned(rows, shared):
        total, each = f(rows, shared)
        return each, total

    each, total = by_rows(turned, rows, shared, width=width, tile=tile)
    return total, each


@sum_by_rows.defjvp
def _(f, width, tile, primals, tangents):
    def with_gradient(rows, shared):
        (own, of_rows), (common, of_all) = _floats(rows), _floats(shared)
        g = jax.value_and_grad(lambda x, y: f(of_rows(x), of_all(y)), (0, 1), has_aux=True)
        (total, each), (by_row, by_all) = g(own, common)
        return (each, by_row), (total, by_all)

    run = partial(by_rows, with_gradient, width=width, tile=tile)
    (each, by_row), (total, by_all) = as_it_is(run, *primals)
    moves = [dx for dx in jax.tree.leaves(tangents) if dx.dtype != jax.dtypes.float0]
    parts = [jnp.sum(slope * dx) for slope, dx in zip((*by_row, *by_all), moves, strict=True)]
    return (total, each), (reduce(jnp.add, parts), 0.0 * each)


def _finite(x: jax.Array) -> jax.Array:
    """0 for -inf, the log of a sum of nothing."""
    return jnp.where(jnp.isneginf(x), 0, x)


def _grown(top: jax.Array, mass: jax.Array, block: jax.Array) -> tuple[jax.Array, jax.Array]:
    """mass * exp(top), with the exponentials of a block's columns added."""
    new = jnp.maximum(top, jnp.max(block, axis=0, initial=-jnp.inf))
    shift = _finite(new)
    return new, mass * jnp.exp(top - shift) + jnp.sum(jnp.exp(block - shift[None, :]), axis=0)


def _spread_alike(arrays: Any, sets: int) -> Any:
    """The arrays with their leading axes spread over devices as any of them is: `vmap` asks for it."""
    specs = [tuple(jax.typeof(x).sharding.spec) for x in jax.tree.leaves(arrays)]
    names = lambda part: set(jax.tree.leaves(part))  # noqa: E731
    lead, used = [], set()
    for axis in range(sets):
        lead.append(next((spec[axis] for spec in specs if spec[axis] and not names(spec[axis]) & used), None))
        used |= names(lead[-1])

    def spread(x):
        rest = (None if names(part) & used else part for part in tuple(jax.typeof(x).sharding.spec)[sets:])
        return reshard(x, PartitionSpec(*lead, *rest))

    return jax.tree.map(spread, arrays)


def over_sets(f: Callable, sets: int) -> Callable:
    """`f` of one set, for arrays with so many leading axes of sets."""
    each = f
    for _ in range(sets):
        each = jax.vmap(each)
    return lambda *arrays: each(*_spread_alike(arrays, sets) if sets and explicit() else arrays)


def gathered(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The elements of all devices, inside `shard_map`."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def places(n: int, axis_name: str | None) -> jax.Array:
    """Where the elements of this device are among all of them."""
    own = jnp.arange(n, dtype=jnp.int32)
    return own if axis_name is None else own + lax.axis_index(axis_name).astype(jnp.int32) * n


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def logsumexps(
    scores: Callable[[Any, Any], jax.Array], width: int, tile: int | None, rows: Any, shared: Any
) -> tuple[jax.Array, jax.Array]:
    """Log of the sum of exponentials of each row and of each column of a matrix that is never whole.

    Args:
      scores: Takes a block of `rows` and `shared`, returns the block of the matrix `[block, m]`; -inf is no entry. It
        must be so in a row of zeros, with which the last block is padded.
      width: How many numbers `scores` holds for each row.
      tile: Rows of a block; by `width` if None.
      rows: Tree of arrays `[n, ...]`.
      shared: Tree of arrays, whole in every block.

    Returns:
      Arrays `[n]` and `[m]`, -inf where there is no entry.
    """
    n = jax.tree.leaves(rows)[0].shape[0]
    steps = _steps(n, width, tile)
    shared = whole(shared)

    def step(carry, block):
        block = scores(block, shared)
        top, rest = log_partition(block)
        return _grown(carry[0], carry[1], block), top + rest

    blocks = _blocks(rows, n, steps)
    shape = jax.eval_shape(lambda blocks: jnp.sum(scores(jax.tree.map(lambda x: x[0], blocks), shared), axis=0), blocks)
    start = tuple(constant(fill, shape, rows, shared) for fill in (-math.inf, 0.0))
    (top, mass), by_row = lax.scan(step, start, blocks)
    by_column = jnp.where(mass > 0, top + jnp.log(jnp.where(mass > 0, mass, 1)), top)
    return _joined(by_row, n), by_column


@logsumexps.defjvp
def _(scores, width, tile, primals, tangents):
    rows, shared = primals
    found = logsumexps(scores, width, tile, rows, shared)
    by_row, by_column = map(_finite, found)

    def shares(rows, shared):
        def f(rows, shared):
            (rows, row), (shared, column) = rows, shared
            block = scores(rows, shared)
            return jnp.sum(jnp.exp(block - row[:, None]), axis=1), jnp.sum(jnp.exp(block - column[None, :]), axis=0)

        return by_rows(f, (rows, by_row), (shared, by_column), width=width, tile=tile)

    return found, jax.jvp(shares, primals, tangents)[1]
