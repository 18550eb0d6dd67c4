"""Compression of gradients before devices exchange them, and the feedback of what it left out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _keys, _linalg, _numerics, _tile, _tree, _units
from lossax._types import PyTree, UnitAxes


class ErrorFeedbackState(NamedTuple):
    """What was left out so far, at least float32, and the state of the compressor."""

    residual: PyTree
    inner: PyTree


class CompressLowRankState(NamedTuple):
    """The right factors of the last update, `[size of a unit, rank]`, float32 at least; `None` for what goes whole."""

    factors: PyTree


def error_feedback(compressor: optax.GradientTransformation) -> optax.GradientTransformation:
    r"""A lossy compressor whose errors are sent later instead of never.

    .. math:: u = C(g + e), \qquad e \leftarrow g + e - u

    Without it top-k never moves an entry that is never among the largest, and signs do not converge; with it, any
    compressor converges about as fast as none. For one device, and for several inside `shard_map`: compress what each
    has, then average, `jax.lax.pmean(u, axis)`; or hand the axis to a compressor that averages what it sends
    (`compress_low_rank`). The residual is then each device's own: give the state of it an axis of devices in the specs.
    It is kept in float32 at least. A gradient that is not finite would stay in it: `skip_nonfinite` around the chain.

    Args:
      compressor: What makes of an update one that is cheaper to send.

    Returns:
      A transformation with state `ErrorFeedbackState`.

    Raises:
      TypeError: if `compressor` is no transformation.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = error_feedback(compress_top_k(0.5))
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.array([4.0, 3.0]), state)
      ...     print(updates.tolist(), state.residual.tolist())
      [4.0, 0.0] [0.0, 3.0]
      [0.0, 6.0] [4.0, 0.0]

    Reference:
      Seide, Fu, Droppo, Li and Yu, *1-bit stochastic gradient descent and its application to data-parallel distributed
      training of speech DNNs*, 2014; Karimireddy, Rebjock, Stich and Jaggi, *Error feedback fixes SignSGD and other
      gradient compression schemes*, 2019.
    """
    _check.transformation(compressor=compressor)

    def init(params: PyTree) -> ErrorFeedbackState:
        return ErrorFeedbackState(_tree.zeros_like(params), compressor.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        owed = _tree.map(lambda u, e: u + e, updates, state.residual)
        sent, new = compressor.update(owed, state.inner, params)
        # What leaves in 16 bits was rounded: that error is fed back too.
        out = _tree.cast_like(sent, updates)
        left = _tree.map(lambda owed, out: owed - out, owed, out)
        left = _tree.map(lambda _, left: left, state.residual, left)
        return out, ErrorFeedbackState(_tree.cast_like(left, state.residual), new)

    return optax.GradientTransformation(init, update)


def _kth_largest(sizes: jax.Array, k: int) -> jax.Array:
    """The k-th largest of numbers that are not negative, found bit by bit.

    A pass for each bit is much less than sorting, and only counts, so that it does not matter how they are spread.
    """
    kind = jnp.dtype(f"int{8 * sizes.dtype.itemsize}")
    places = lax.bitcast_convert_type(lax.stop_gradient(sizes), kind)  # in the order of the numbers

    def with_bit(found, bit):
        more = found | jnp.left_shift(jnp.ones((), kind), bit)
        return jnp.where(jnp.sum(places >= more, dtype=jnp.int32) >= k, more, found)

    last = 8 * kind.itemsize - 2
    first = with_bit(jnp.zeros((), kind), jnp.asarray(last, kind))
    found = lax.fori_loop(1, last + 1, lambda i, found: with_bit(found, (last - i).astype(kind)), first)
    return lax.bitcast_convert_type(found, sizes.dtype)


def _stateless(compress: Any) -> optax.GradientTransformation:
    """A compressor of each leaf by itself."""

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        return _tree.cast_like(_tree.map(compress, updates), updates), state

    return optax.GradientTransformation(init, update)


def compress_top_k(fraction: float = 0.01) -> optax.GradientTransformation:
    r"""The largest entries of each leaf, 0 for all others. Inside `error_feedback`.

    .. math:: u_i \leftarrow u_i \;\text{ if }\; |u_i| \ge |u|_{(k)}, \text{ else } 0, \qquad k = \lceil f n \rceil

    A device would send k numbers and their places. Those of several devices differ, so they are gathered, not reduced:
    `jax.lax.all_gather` of both, or simply `pmean` of what is returned where bandwidth is not the point. Entries that
    tie with the last one go too.

    Args:
      fraction: Share of the entries of a leaf to keep, in (0, 1], a Python number; at least one is kept.

    Returns:
      A transformation without state.

    Raises:
      ValueError: if `fraction` is not in (0, 1].
      TypeError: if it is no Python number: it sets shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> updates, _ = compress_top_k(0.5).update(jnp.array([1.0, -4.0, 3.0, 0.0]), optax.EmptyState())
      >>> updates.tolist()
      [0.0, -4.0, 3.0, 0.0]

    Reference:
      Stich, Cordonnier and Jaggi, *Sparsified SGD with memory*, 2018.
    """
    if not isinstance(fraction, int | float | np.number) or isinstance(fraction, bool):
        raise TypeError(f"fraction sets shapes and must be a Python number, got {fraction!r}")
    _check.positive(fraction=fraction)
    _check.fraction(fraction=fraction)

    def compress(u):
        if not u.size:
            return u
        sizes = jnp.abs(u)
        least = _kth_largest(sizes, max(int(np.ceil(fraction * u.size)), 1))
        return jnp.where(sizes < least, 0, u)

    return _stateless(compress)


def compress_int8(block: int = 256) -> optax.GradientTransformation:
    r"""Whole numbers from -127 to 127, and a scale for each block of entries. Inside `error_feedback`.

    .. math:: u_i \leftarrow s \operatorname{round}(u_i / s), \qquad s = \max_{j \in \text{block}} |u_j| / 127

    A quarter of the bytes of float32. The error of an entry is at most half its block's scale; 0 stays 0. A device
    would send the numbers and the scales; sums of int8 overflow, so gather them, or reduce in int32 with one scale.

    Args:
      block: Number of consecutive entries that share a scale.

    Returns:
      A transformation without state.

    Raises:
      ValueError: if `block` is below 1.
      TypeError: if `block` is no Python integer, or an update is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> updates, _ = compress_int8(2).update(jnp.array([127.0, 0.6, 1.27, 0.0]), optax.EmptyState())
      >>> [round(u, 4) for u in updates.tolist()]
      [127.0, 1.0, 1.27, 0.0]

    Reference:
      Dettmers, *8-bit approximations for parallelism in deep learning*, 2016.
    """
    _check.count(block=block)

    def compress(u):
        if jnp.iscomplexobj(u):
            raise TypeError("compress_int8 rounds real numbers, got a complex update")
        if not u.size:
            return u
        flat = _tile.whole(u).reshape(-1)
        blocks = jnp.pad(flat, (0, -u.size % block)).reshape(-1, block)
        largest = jnp.max(jnp.abs(blocks), axis=1, keepdims=True)
        unit = _tree.power_of_two(largest)  # over it neither scale nor inverse is too small a number
        scale = _tree.over_unit(largest, unit) / 127.0
        rounded = jnp.round(_numerics.divide(_tree.over_unit(blocks, unit), scale))
        return _tile.spread_like((unit * (scale * rounded)).reshape(-1)[: u.size].reshape(u.shape), u)

    return _stateless(compress)


def compress_sign() -> optax.GradientTransformation:
    r"""The sign of each entry, and one size for each leaf. Inside `error_feedback`.

    .. math:: u \leftarrow \frac{\lVert u \rVert_1}{n} \operatorname{sign}(u)

    One bit an entry, and one number. A device would send both; signs of several devices are gathered, or voted on.
    0 stays 0. Complex entries keep their angle.

    Returns:
      A transformation without state.

    Example:
      >>> import jax.numpy as jnp
      >>> updates, _ = compress_sign().update(jnp.array([1.0, -4.0, 3.0, 0.0]), optax.EmptyState())
      >>> updates.tolist()
      [2.0, -2.0, 2.0, 0.0]

    Reference:
      Karimireddy, Rebjock, Stich and Jaggi, *Error feedback fixes SignSGD and other gradient compression schemes*,
      2019.
    """

    def compress(u):
        return jnp.sum(_tree.absolute(u)) / max(u.size, 1) * jnp.sign(u)

    return _stateless(compress)


def _orthonormal(matrix: jax.Array) -> jax.Array:
    """An orthonormal basis of the columns, by Gram and Schmidt; 0 in the place of one that lies in those before it."""
    unit, length = _tree.scaled_norms(matrix, (0,))
    columns = _numerics.divide(_tree.parts(lambda x: _tree.over_unit(x, unit), matrix), length)
    least = 16.0 * jnp.finfo(matrix.dtype).eps
    basis = columns[:, :0]
    for j in range(matrix.shape[1]):
        column = columns[:, j : j + 1]
        for _ in range(2 if j else 0):  # once leaves what rounding made of a column that nearly lies in the others
            column = column - _linalg.product(basis, _linalg.product(jnp.conj(basis).T, column))
        length = _numerics.sqrt(jnp.sum(_tree.square(column)))
        column = _numerics.divide(column, jnp.where(length > least, length, 0))
        basis = jnp.concatenate([basis, column], axis=1)
    return basis


def compress_low_rank(
    rank: int = 4, *, unit_axes: UnitAxes = -1, axis_name: str | None = None, key: ArrayLike = 0
) -> optax.GradientTransformation:
    r"""Two thin factors in the place of each matrix: PowerSGD. Inside `error_feedback`.

    .. math:: P = \operatorname{orthonormal}(M Q), \qquad Q \leftarrow M^\top P, \qquad M \leftarrow P Q^\top

    where each unit is a row of :math:`M`, and Q is that of the last update, so that over time this is a power
    iteration. Both products are linear in the gradient: with `axis_name`, inside `shard_map`, they are averaged over
    the devices, r numbers for each row and column instead of the matrix, and what is returned is the compressed mean,
    the same on all of them; do not average again. Leaves that this would not make smaller, vectors among them, are sent
    whole. All devices begin with one Q, from the key.

    Args:
      rank: Number of columns of the factors.
      unit_axes: Axes that become the rows, or a function of path and leaf that returns them or `None` to send the leaf
        whole; -1 suits Flax kernels `(..., in, out)`, 0 torch and Equinox weights.
      axis_name: Axis of `shard_map` to average over, `None` for none.
      key: Of the first Q: a seed, a typed or a raw key.

    Returns:
      A transformation with state `CompressLowRankState`.

    Raises:
      ValueError: if `rank` is below 1.
      TypeError: if `rank` is no Python integer, or `unit_axes` is no axis, tuple or function.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = compress_low_rank(1)
      >>> ones = jnp.ones((4, 3))  # of rank one, so nothing is lost
      >>> updates, state = tx.update(ones, tx.init(ones))
      >>> bool(jnp.allclose(updates, ones)), state.factors.shape
      (True, (4, 1))

    Reference:
      Vogels, Karimireddy and Jaggi, *PowerSGD: practical low-rank gradient compression for distributed optimization*,
      2019.
    """
    _check.count(rank=rank)
    _units.check(unit_axes)

    def average(x):
        return x if axis_name is None else lax.pmean(x, axis_name)

    def init(params: PyTree) -> CompressLowRankState:
        leaves, structure = jax.tree.flatten(params, is_leaf=lambda x: x is None)
        units = structure.flatten_up_to(_units.resolve(unit_axes, params, vectors=None))
        factors = [
            jax.random.normal(own, (u.size, rank), _tree.wide_dtype(p)) if u and _smaller(u) else None
            for p, u, own in zip(leaves, units, jax.random.split(_keys.typed(key), max(len(leaves), 1)), strict=False)
        ]
        return CompressLowRankState(structure.unflatten(factors))

    def _smaller(units):
        return rank * (units.count + units.size) < units.count * units.size

    def compress(u, q, units):
        """The update as it comes out of the factors, and the right one."""
        shape = [u.shape[axis] for axis in units.axes + units.within]
        front = range(len(units.axes))
        m = jnp.moveaxis(_tile.whole(u), units.axes, front).reshape(units.count, units.size)
        p = _orthonormal(average(_linalg.product(m, q)))
        new = average(_linalg.product(jnp.conj(m).T, p))
        m = jnp.moveaxis(_linalg.product(p, jnp.conj(new).T).reshape(shape), front, units.axes)
        # A column of zeros would stay one: the last one is as good a beginning.
        return _tile.spread_like(m, u), jnp.where(jnp.any(new != 0, axis=0, keepdims=True), new, q)

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        leaves, structure = jax.tree.flatten(updates, is_leaf=lambda x: x is None)
        units = structure.flatten_up_to(_units.resolve(unit_axes, updates, vectors=None))
        factors = structure.flatten_up_to(state.factors)
        for i, (u, q) in enumerate(zip(leaves, factors, strict=True)):
            if not _tree.is_number(u):
                continue
            if q is None:
                leaves[i] = average(_tree.widen(u))
            else:
                wide = jnp.asarray(u, q.dtype)
                leaves[i], factors[i] = compress(wide, q, units[i])
        sent = _tree.cast_like(structure.unflatten(leaves), updates)
        return sent, CompressLowRankState(structure.unflatten(factors))

    return optax.GradientTransformation(init, update)
