"""Arithmetic on trees of parameters, under strict dtype promotion.

Only floating and complex leaves are numbers here. Everything else that may stand in a model (`None`, functions,
strings, integers) passes through unchanged, so gradients, states and unfiltered models line up. 16-bit leaves are
computed with in float32.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lossax import _numerics
from lossax._types import Mask, PyTree


def is_number(leaf: Any) -> bool:
    """Whether a leaf takes part: a floating or complex array, or a Python float."""
    return isinstance(leaf, float | complex) or (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact))


def dtype_of(leaf: Any) -> Any:
    """The dtype of a number, Python floats included."""
    return leaf.dtype if hasattr(leaf, "dtype") else jax.dtypes.canonicalize_dtype(type(leaf))


def wide_dtype(leaf: Any, *, real: bool = False) -> Any:
    """The dtype a leaf is accumulated in: at least float32; of its absolute value if `real`."""
    dtype = _numerics.wide_dtype(dtype_of(leaf))
    return jnp.finfo(dtype).dtype if real else dtype


def _as(x: Any, dtype: Any) -> jax.Array:
    """An array of a dtype, at once if it is one: `jnp.asarray` is a quarter of what tracing many leaves takes."""
    return x if isinstance(x, jax.Array) and x.dtype == dtype and not x.weak_type else jnp.asarray(x, dtype)


def widen(leaf: Any) -> Any:
    """A number in the dtype it is accumulated in; anything else unchanged."""
    return _as(leaf, wide_dtype(leaf)) if is_number(leaf) else leaf


def map(f: Callable[..., Any], tree: PyTree, *rest: PyTree, scalars: tuple[Any, ...] = ()) -> PyTree:
    """`f(leaf, *leaves, *scalars)` at every number of `tree`, computed wide.

    A leaf of `tree` that is no number, or that has `None` beside it, is returned unchanged. `scalars` (hyperparameters)
    take the real dtype of the leaf.
    """
    given = functools.cache(lambda real: [_as(s, real) for s in scalars])

    def apply(leaf, *leaves):
        if not is_number(leaf) or any(other is None for other in leaves):
            return leaf
        return f(widen(leaf), *(widen(other) for other in leaves), *given(wide_dtype(leaf, real=True)))

    return jax.tree.map(apply, tree, *rest, is_leaf=lambda x: x is None)


def numbers(tree: PyTree) -> list[jax.Array]:
    """The leaves that are numbers, wide."""
    return [widen(leaf) for leaf in jax.tree.leaves(tree) if is_number(leaf)]


def zeros_like(tree: PyTree, *, dtype: Any = None, real: bool = False) -> PyTree:
    """Fresh zeros in the shape of every number, wide unless `dtype` says otherwise; `None` elsewhere."""

    def zeros(leaf):
        return jnp.zeros_like(leaf, dtype=dtype or wide_dtype(leaf, real=real)) if is_number(leaf) else None

    return jax.tree.map(zeros, tree, is_leaf=lambda x: x is None)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Every number of `tree` in the dtype of its counterpart."""

    def cast(leaf, other):
        if not is_number(leaf) or not is_number(other):
            return leaf
        return _as(leaf, dtype_of(other))

    return jax.tree.map(cast, tree, like, is_leaf=lambda x: x is None)


def square(x: jax.Array) -> jax.Array:
    """|x|^2, real for complex x."""
    return (x * jnp.conj(x)).real if jnp.iscomplexobj(x) else x * x


def absolute(x: jax.Array) -> jax.Array:
    """|x|, real for complex x, with derivative 0 at 0."""
    return _numerics.hypot(x.real, x.imag) if jnp.iscomplexobj(x) else _numerics.absolute(x)


def moment(tree: PyTree, average: PyTree, decay: Any, *, order: int = 1) -> PyTree:
    """decay * average + (1 - decay) * |tree|^order, in the dtype of `average`."""

    def update(old, new, keep, take):
        return keep * old + take * (square(new) if order == 2 else new)

    return cast_like(map(update, average, tree, scalars=(decay, 1.0 - decay)), average)


def rms(x: jax.Array) -> jax.Array:
    """Root of the mean square, 0 for no elements."""
    return _numerics.sqrt(jnp.sum(square(x)) / max(x.size, 1))


def towards(old: jax.Array, new: jax.Array, take: jax.Array) -> jax.Array:
    """old + take (new - old) of numbers that are not negative; infinite for good once one is, and not NaN."""
    return old + take * (new - jnp.minimum(old, jnp.finfo(old.dtype).max))


def approach(tree: PyTree, average: PyTree, take: Any, *, order: int = 1) -> PyTree:
    """average + take (|tree|^order - average), in the dtype of `average`: `moment` for long memories.

    There the share 1 - take that `moment` multiplies by is rounded, again and again.
    """

    def update(old, new, take):
        return towards(old, square(new), take) if order == 2 else old + take * (new - old)

    return cast_like(map(update, average, tree, scalars=(take,)), average)


def added(params: PyTree, updates: PyTree) -> PyTree:
    """The parameters after the updates, as they will be stored."""
    return cast_like(map(lambda p, u: p + u, params, updates), params)


def approach_one(average: jax.Array, take: Any) -> jax.Array:
    """`mass` of an average made with `approach`."""
    return average + jnp.asarray(take, average.dtype) * (1.0 - average)


def mass(average: jax.Array, decay: Any) -> jax.Array:
    """The same average taken of ones: 1 - decay^t for a constant decay, and right for a schedule or a tracer too.

    Dividing a moment by its mass removes its bias towards the zeros that it started from.
    """
    return jnp.asarray(decay, average.dtype) * average + jnp.asarray(1.0 - decay, average.dtype)


def parts(f: Callable[[jax.Array], jax.Array], leaf: jax.Array) -> jax.Array:
    """Maps a real leaf, or the real and the imaginary part of a complex one."""
    return jax.lax.complex(f(leaf.real), f(leaf.imag)) if jnp.iscomplexobj(leaf) else f(leaf)


def over_unit(x: jax.Array, unit: jax.Array) -> jax.Array:
    """Divides x; by an infinite unit it leaves the sign of what is infinite, and 0 of the rest."""
    unit = jnp.maximum(unit, jnp.finfo(x.dtype).tiny)
    return jnp.where(jnp.isinf(unit), jnp.where(jnp.isinf(x), jnp.sign(x), 0), x / unit)


def power_of_two(largest: jax.Array) -> jax.Array:
    """A power of two to divide numbers by whose largest is given, without derivative; infinite or NaN if that is.

    Of 0 it is 1: over a small number, and over another that XLA makes of two quotients one, 0 would become NaN.
    """
    largest = jax.lax.stop_gradient(largest)
    # Rounded to no fraction it is a power of two, so dividing by it is exact. Of a quarter, and not too small: neither
    # its inverse nor a square nor a derivative may be a subnormal number, which many devices take for 0.
    unit = jax.lax.reduce_precision(0.25 * largest, jnp.finfo(largest.dtype).nexp, 0)
    unit = jnp.where(largest == 0, 1, jnp.maximum(unit, 2.0**26 * jnp.finfo(largest.dtype).tiny))
    return jnp.where(jnp.isfinite(largest), unit, largest)


_BRANCH = 2**14
"""Numbers from which on a branch costs less than a second look at them."""


def _power(exponent: int, dtype: Any) -> np.ndarray:
    """2^exponent for float32; in other dtypes that share of their range."""
    return np.asarray(2.0 ** (exponent * jnp.finfo(dtype).maxexp // 128), dtype)


def _few(dtype: Any, count: int) -> np.ndarray:
    """Sums of squares below this have lost squares that vanished."""
    return np.asarray(4.0 * count * float(jnp.finfo(dtype).tiny) / float(jnp.finfo(dtype).eps), dtype)


def _squares(leaf: jax.Array, scale: jax.Array, *, count: bool) -> jax.Array:
    """The sum of squares of real numbers times a power of two; `count` takes infinite ones, scaled down, for 2^45."""
    if not count:
        return jnp.sum(jnp.square(leaf * scale))
    dtype = leaf.dtype
    most = jnp.where(scale < 1, _power(45, dtype), _power(64, dtype))
    return jnp.sum(jnp.square(jnp.minimum(jnp.abs(leaf * scale), most)))


def _in_units(length: jax.Array, scale: Any) -> tuple[jax.Array, jax.Array]:
    """A power of two of about the length over its scale, and the length in units of it: derivatives are products."""
    unit = power_of_two(jnp.minimum(length / scale, jnp.full_like(length, jnp.finfo(length.dtype).max)))
    return unit, length / (scale * unit)


def _another_look(count: int, total: jax.Array, plain: list[jax.Array], leaves: list[jax.Array], *, units: bool):
    """What `_lengths` gives where squares overflow or vanish: the numbers times a power of two, by their plain sums."""
    dtype = total.dtype
    one, few = np.ones((), dtype), _few(dtype, count)
    scale = jnp.where(total == np.inf, _power(-100, dtype), jnp.where(total < few, _power(90, dtype), one))
    leaves = jax.lax.optimization_barrier(leaves)  # of leaves that are constants XLA would square the scale
    # A scale of each leaf's own, or XLA makes an array of it for all leaves of one shape.
    scales = [scale] if len(leaves) == 1 else [jnp.maximum(scale, -y) for y in plain]
    again = functools.reduce(jnp.add, (_squares(*own, count=units) for own in zip(leaves, scales, strict=True)))
    if not units:
        return jnp.sqrt(again) / scale
    total = jnp.where(jnp.isnan(total), total, again)  # XLA's vectorised minimum loses what is NaN
    length, share = jnp.sqrt(total), total / _power(45, dtype) ** 2
    many = (scale < 1) & (share > 0.5)  # infinite numbers
    unit, scaled = _in_units(length, scale)
    return jnp.where(many, jnp.inf, unit), jnp.where(many, jnp.sqrt(jnp.round(share)), scaled)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _lengths(groups: list[list[jax.Array]], units: bool) -> list[Any]:
    """`scaled_norm` of each group of numbers if `units`, else `norm`, which compiles sooner; all share one branch."""
    dtypes = [
        max((wide_dtype(leaf, real=True) for leaf in leaves), key=lambda dtype: dtype.itemsize) for leaves in groups
    ]
    counts = [sum(leaf.size for leaf in leaves) for leaves in groups]
    groups = [
        [half.astype(t) for x in leaves for half in ((x.real, x.imag) if jnp.iscomplexobj(x) else (x,))]
        for leaves, t in zip(groups, dtypes, strict=True)
    ]
    plain = [[jnp.sum(jnp.square(x)) for x in leaves] for leaves in groups]
    totals = [functools.reduce(jnp.add, own) for own in plain]

    def again(*sums):
        return [_another_look(*own, units=units) for own in zip(counts, *sums, strict=True)]

    def once(totals, *_):
        lengths = [jnp.sqrt(total) for total in totals]
        return [_in_units(x, np.ones((), x.dtype)) for x in lengths] if units else lengths

    if sum(counts) < _BRANCH:
        return again(totals, plain, groups)
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    every = jnp.stack([total.astype(widest) for total in totals])
    few = np.asarray([_few(t, count) for t, count in zip(dtypes, counts, strict=True)], widest)
    needed = jnp.any((every < few) | (every == np.inf))
    return jax.lax.cond(needed, again, once, totals, plain, groups)


@_lengths.defjvp
def _(units, primals, tangents):
    found = _lengths(*primals, True)

    def along(x, y, unit):
        return jnp.sum(over_unit(x.astype(unit.dtype), unit) * (y.astype(unit.dtype) / unit))

    def slope(unit, length, leaves, moves):
        total = jnp.zeros_like(unit)
        for x, y in zip(leaves, moves, strict=True):
            parted = jnp.iscomplexobj(x)
            total += along(x.real, y.real, unit) + along(x.imag, y.imag, unit) if parted else along(x, y, unit)
        return jnp.zeros_like(unit), _numerics.divide(total, length)

    slopes = [slope(*own, *more) for own, *more in zip(found, *primals, *tangents, strict=True)]
    if units:
        return found, slopes
    both = zip(found, slopes, strict=True)
    return [unit * length for unit, length in found], [unit * slope for (unit, _), (_, slope) in both]


def scaled_norm(tree: PyTree) -> tuple[jax.Array, jax.Array]:
    """A power of two, and the Euclidean norm of all numbers divided by it, which neither overflows nor underflows.

    The unit has no derivative, and is infinite if a number is. A large tree is looked at once, unless squares overflow
    or vanish.
    """
    leaves = numbers(tree)
    return _lengths([leaves], True)[0] if leaves else (jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32))


def norms(tree: PyTree) -> PyTree:
    """`norm` of each leaf that is a number, None for others."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
    found = iter(_lengths([[widen(leaf)] for leaf in leaves if is_number(leaf)], False))
    return structure.unflatten([next(found) if is_number(leaf) else None for leaf in leaves])


def scaled_norms(leaf: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """`scaled_norm` of a wide leaf along some axes, which stay with length one."""
    halves = [leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf]
    largest = [jnp.max(jnp.abs(half), axis=axes, keepdims=True, initial=0.0) for half in halves]
    unit = power_of_two(jnp.maximum(largest[0], largest[-1]))
    squares = (jnp.sum(jnp.square(over_unit(half, unit)), axis=axes, keepdims=True) for half in halves)
    return unit, _numerics.sqrt(sum(squares, jnp.zeros_like(unit)))


def shorten(leaf: jax.Array, unit: jax.Array, length: jax.Array, limit: jax.Array) -> jax.Array:
    """`leaf` shrunk as `unit * length` must be to come down to `limit`; as it is if that is not above it."""
    longer = unit * length > limit
    share = _numerics.divide(jnp.where(jnp.isinf(limit), 0, limit), length)
    return parts(lambda x: jnp.where(longer, over_unit(x, unit) * share, x), leaf)


def norm(tree: PyTree) -> jax.Array:
    """Euclidean norm of all numbers, float32 at least; cannot overflow before its value does; gradient 0 at 0."""
    leaves = numbers(tree)
    return _lengths([leaves], False)[0] if leaves else jnp.zeros((), jnp.float32)


def increment(step: jax.Array) -> jax.Array:
    """step + 1, stopping at the largest int32."""
    return jnp.asarray(optax.safe_increment(step))


def path_string(path: tuple[Any, ...]) -> str:
    """A tree path as `layers/0/kernel`, the same for dicts, Linen, NNX, Equinox and Haiku.

    NNX shows `init` paths that end in `.value` and `update` paths that do not; the ending is dropped.
    """
    names = []
    for key in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(key, attribute):
                names.append(str(getattr(key, attribute)))
                break
        else:
            names.append(str(key).strip("[].'\""))
    if len(names) > 1 and names[-1] == "value" and isinstance(path[-1], jax.tree_util.GetAttrKey):
        names.pop()
    return "/".join(names)


def path_mask(*, include: str = "", exclude: str | None = None) -> Callable[[PyTree], PyTree]:
    """A rule over paths, for every argument that takes a mask.

    Paths read `encoder/layers/0/kernel` whatever the framework.

    Args:
      include: Regular expression searched in each path; the empty one is found in all.
      exclude: Regular expression that takes out what `include` let in; `None` takes out nothing.

    Returns:
      A function from parameters to booleans in their structure; `False` at leaves that are no numbers.

    Raises:
      ValueError: if an expression does not compile.

    Example:
      >>> rule = path_mask(exclude="bias|scale")
      >>> rule({"dense": {"kernel": 1.0, "bias": 1.0}})
      {'dense': {'bias': False, 'kernel': True}}
    """
    try:
        inside, outside = re.compile(include), None if exclude is None else re.compile(exclude)
    except re.error as error:
        raise ValueError(f"include={include!r}, exclude={exclude!r} must be regular expressions: {error}") from error

    def rule(params: PyTree) -> PyTree:
        def decide(path, leaf):
            name = path_string(path)
            return is_number(leaf) and bool(inside.search(name)) and not (outside and outside.search(name))

        return jax.tree_util.tree_map_with_path(decide, params, is_leaf=lambda x: x is None)

    return rule


def resolve_mask(mask: Mask | None, tree: PyTree) -> PyTree:
    """Booleans in the structure of `tree`; `None` means all of it.

    A model that can be called (every Equinox module) is a tree of booleans, not a function: only a leaf is called.
    """
    if mask is None:
        return jax.tree.map(is_number, tree, is_leaf=lambda x: x is None)
    if callable(mask) and jax.tree_util.all_leaves([mask]):
        return mask(tree)
    return mask


def require_params(params: PyTree | None, why: str) -> None:
    """Raises unless parameters were handed to `update`."""
    if params is None:
        raise ValueError(f"update(updates, state, params) needs params: {why}")
