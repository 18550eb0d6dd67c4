"""Logits that are never whole: those of an output embedding, for a block of tokens at a time."""

import math
from collections.abc import Callable
from functools import partial, reduce
from itertools import compress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0
from jax.sharding import PartitionSpec, reshard

from lossax import _check, _numerics
from lossax._numerics import divide, scaled
from lossax._reduction import masked, unit_weights
from lossax._reduction import reduce as reduce_units
from lossax._tile import (
    as_it_is,
    by_rows,
    chosen,
    constant,
    explicit,
    on_one_device,
    product,
    spread_like,
    varying,
    whole,
)
from lossax._types import Reduction

_LOGITS = 179 * 2**16
"""Logits of a block, about, if its size is not given, or more if embeddings are large."""

_COLUMNS = 1024
"""Classes of the embedding whose gradient is added up at once."""


def capped(logits: jax.Array, soft_cap: jax.Array | None) -> jax.Array:
    """The logits, bent towards a bound if there is one."""
    return logits if soft_cap is None else _numerics.soft_cap(logits, soft_cap)


def label_loss(
    logits: jax.Array,
    labels: jax.Array,
    smoothing: jax.Array | None,
    gamma: jax.Array | None,
    z_loss: jax.Array | None,
    soft_cap: jax.Array | None,
) -> jax.Array:
    """Cross-entropy of each row `[..., classes]` with its label; what is None is left out of the program."""
    logits = capped(logits, soft_cap)
    loss = _numerics.label_surprise(logits, labels)
    if gamma is not None:
        loss = _numerics.focal_surprise(loss, _numerics.label_miss(logits, labels), gamma)
    if smoothing is not None:
        loss = (1.0 - smoothing) * loss + smoothing * _numerics.mean_surprise(logits)
    return loss if z_loss is None else loss + squared_log_partition(logits, z_loss)


def squared_log_partition(logits: jax.Array, z_loss: jax.Array) -> jax.Array:
    """z_loss * (log sum exp)^2, and 0 for a row without classes."""
    top, remainder = _numerics.log_partition(logits)
    total = jnp.where(jnp.isneginf(remainder), 0, top + remainder)
    return z_loss * total * total


class Head(NamedTuple):
    """What makes logits of hidden states."""

    embedding: jax.Array  # [d, classes]
    bias: jax.Array  # [classes]


Loss = Callable[[tuple[jax.Array, ...], Any, Any], Any]
"""Of a block of logits `[block, classes]` for each head, a block of rows, and what is shared."""


def made(hidden: Any, embedding: Any, bias: Any, prefix: str = "") -> Head:
    """A head that fits the hidden states; `prefix` is before the names of the arguments in errors."""
    own, other = f"{prefix}hidden", f"{prefix}embedding"
    _check.floating(**{own: hidden, other: embedding})
    _check.units_of({own: hidden})
    (size, given), (shape, dtype) = _check.spec(hidden), _check.spec(embedding)
    if len(shape) != 2 or shape[0] != size[-1]:
        raise ValueError(f"{other} must be [{size[-1]}, classes] for {own}{list(size)}, got {list(shape)}")
    given, dtype = map(jax.dtypes.canonicalize_dtype, (given, dtype))
    dtype = dtype if given == dtype else jnp.promote_types(*map(_numerics.wide_dtype, (given, dtype)))
    if bias is None:
        bias = jnp.zeros(shape[1], _numerics.wide_dtype(dtype))
    else:
        _check.floating(**{f"{prefix}bias": bias})
        _check.of_classes(shape[1], **{f"{prefix}bias": bias})
        bias = jnp.asarray(bias).astype(_numerics.wide_dtype(dtype))
    return Head(jnp.asarray(embedding).astype(dtype), bias)


def classes_of(head: Head, class_axis: str | None) -> int:
    """On all devices of the mesh axis that they are spread over."""
    return len(head.bias) * (1 if class_axis is None else lax.axis_size(class_axis))


def known_labels(where: Any, labels: Any, head: Head, class_axis: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Labels after the mask, and 1 for each, or NaN if it names no class."""
    (labels,) = masked(where, labels)
    labels = labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels
    known = _check.labels(labels, classes_of(head, class_axis))
    return labels, jnp.where(known, jnp.ones((), head.bias.dtype), jnp.nan)


def _logits(hidden: tuple[jax.Array, ...], heads: tuple[Head, ...], class_axis: str | None) -> tuple[jax.Array, ...]:
    """In the dtype of the bias: products of 16-bit numbers are exact in float32, and are added up there."""

    def of(x, head):
        logits = jnp.matmul(x, head.embedding, preferred_element_type=head.bias.dtype) + head.bias[None, :]
        return logits if class_axis is None else lax.all_gather(logits, class_axis, axis=1, tiled=True)

    return tuple(map(of, hidden, heads))


def _own(slopes: jax.Array, head: Head, class_axis: str | None) -> jax.Array:
    """Those of the classes that lie on this device."""
    if class_axis is None:
        return slopes
    here = len(head.bias)
    return lax.dynamic_slice_in_dim(slopes, lax.axis_index(class_axis) * here, here, axis=1)


def _share(x: jax.Array, class_axis: str | None) -> jax.Array:
    """What a device says of a block whose logits all of them have: it counts once when they add up."""
    return x if class_axis is None or x.dtype == bool else x / lax.axis_size(class_axis)


def _together(x: jax.Array, class_axis: str | None) -> jax.Array:
    """The sum of shares."""
    if class_axis is None:
        return x
    return lax.psum(x.astype(jnp.int32), class_axis) > 0 if x.dtype == bool else lax.psum(x, class_axis)


def _size(heads: tuple[Head, ...], tile: int | None, class_axis: str | None) -> dict[str, Any]:
    """How many numbers a token has in a block, how many tokens are in one, and that heads may be spread."""
    width = sum(classes_of(head, class_axis) for head in heads)
    most = max(head.embedding.shape[0] for head in heads) // 8  # so that logits are an eighth of an embedding
    tile = max(1, most, _LOGITS // max(width, 1)) if tile is None else tile
    return {"width": width, "tile": tile, "spread": True}


def _added(total: jax.Array, hidden: jax.Array, slopes: jax.Array) -> jax.Array:
    """total + hidden^T slopes: in place, of a few classes at a time, so that the product is never whole beside it."""
    classes = total.shape[1]
    hidden = hidden.astype(slopes.dtype)
    if classes <= _COLUMNS or not on_one_device():  # classes may be spread over devices
        return total + product(hidden, slopes)

    def added(total, at, size):
        some = lax.dynamic_slice_in_dim(slopes, at, size, axis=1)
        sums = lax.dynamic_slice_in_dim(total, at, size, axis=1) + product(hidden, some)
        return lax.dynamic_update_slice_in_dim(total, sums, at, axis=1)

    whole, rest = divmod(classes, _COLUMNS)
    total = lax.fori_loop(0, whole, lambda i, total: added(total, i * _COLUMNS, _COLUMNS), total)
    return added(total, classes - rest, rest) if rest else total


def _back(slopes: jax.Array, embedding: jax.Array) -> jax.Array:
    """slopes embedding^T; `@ embedding.T` would make XLA hold a transposed embedding."""
    spec = PartitionSpec(jax.typeof(slopes).sharding.spec[0], None) if explicit() else None
    return jnp.einsum("nc,dc->nd", slopes, embedding.astype(slopes.dtype), out_sharding=spec)


def _grown(total: tuple[Any, Any], hidden: jax.Array, slopes: jax.Array) -> tuple[Any, Any]:
    """The gradient by embedding and bias with that of one more block; None where none is asked for."""
    embedding, bias = total
    embedding = None if embedding is None else _added(embedding, hidden, slopes)
    return embedding, None if bias is None else bias + jnp.sum(slopes, axis=0)


def _gradient(
    f: Loss,
    tile: int | None,
    class_axis: str | None,
    moved: Any,
    hidden: tuple[jax.Array, ...],
    rows: Any,
    shared: Any,
    heads: tuple[Head, ...],
) -> tuple[jax.Array, list[jax.Array]]:
    """Sum over tokens of what `f` returns, and its gradient by those of the other arrays for which `moved` is true."""
    of_states, of_rows, of_shared, of_heads = moved
    trained = [states or any(head) for states, head in zip(of_states, of_heads, strict=True)]
    on = lambda of_each_head: list(compress(of_each_head, trained))  # noqa: E731

    def with_gradient(tokens, common, totals):
        (hidden, rows), (heads, shared) = tokens, common
        total, by_shared, by_heads = totals
        logits, every_logit = chosen(_logits(hidden, heads, class_axis), trained)
        own, every_row = chosen(rows, of_rows)
        ours, all_shared = chosen(shared, of_shared)
        loss = lambda z, x, y: jnp.sum(f(every_logit(z), every_row(x), all_shared(y)))  # noqa: E731
        value, (slopes, *others) = jax.value_and_grad(loss, (0, 1, 2))(logits, own, ours)
        value, by_row, more = jax.tree.map(lambda x: _share(x, class_axis), (value, *others))
        slopes = [_own(x, head, class_axis) for x, head in zip(slopes, on(heads), strict=True)]
        of_head = zip(slopes, on(heads), on(of_states), strict=True)
        by_states = [_back(slope, head.embedding) for slope, head, moved in of_head if moved]
        by_heads = list(map(_grown, by_heads, on(hidden), slopes))
        return (by_states, by_row), (total + value, jax.tree.map(jnp.add, by_shared, more), by_heads)

    def zeros(head, moved):
        zero = lambda x: constant(0.0, x.astype(head.bias.dtype), hidden, rows, shared, head)  # noqa: E731
        return tuple(zero(x) if m else None for x, m in zip(head, moved, strict=True))

    scalar = jax.ShapeDtypeStruct((), heads[0].bias.dtype)
    start = jax.tree.map(
        lambda x: constant(0.0, x, hidden, rows, shared, heads), (scalar, chosen(shared, of_shared)[0])
    )
    start = (*start, list(map(zeros, on(heads), on(of_heads))))
    loop = partial(by_rows, with_gradient, **_size(heads, tile, class_axis))
    run = lambda rows, shared, start: loop(rows, shared, totals=start)  # noqa: E731
    each, (value, *sums) = as_it_is(run, (hidden, rows), (heads, shared), start)
    return value, jax.tree.leaves((*each, *sums))


def over_tokens(
    f: Loss,
    tile: int | None,
    class_axis: str | None,
    hidden: tuple[jax.Array, ...],
    rows: Any,
    shared: Any,
    heads: tuple[Head, ...],
) -> jax.Array:
    """Sum over tokens of what `f` returns; the gradient is made along with it, from the same logits.

    What is not differentiated, a teacher or a frozen embedding, costs nothing there.

    Args:
      f: Takes logits `[block, classes]` of each head, a block of `rows`, and `shared`. Returns one number for each
        token, 0 where its rows are zeros.
      tile: Tokens of a block; by the number of classes if None.
      class_axis: Mesh axis over which the classes of all heads are spread.
      hidden: Float `[n, d]` for each head.
      rows: Tree of arrays `[n, ...]`.
      shared: Tree of arrays, whole in every block.
      heads: What makes logits of hidden states.

    Returns:
      A scalar.
    """
    return _together(_over_tokens(f, tile, class_axis, hidden, rows, shared, heads), class_axis)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _over_tokens(f, tile, class_axis, hidden, rows, shared, heads):
    def block(tokens, common):
        (hidden, rows), (heads, shared) = tokens, common
        return (), _share(jnp.sum(f(_logits(hidden, heads, class_axis), rows, shared)), class_axis)

    return by_rows(block, (hidden, rows), (heads, shared), **_size(heads, tile, class_axis))[1]


def _over_tokens_jvp(f, tile, class_axis, primals, tangents):
    moved = jax.tree.map(lambda m: not isinstance(m, SymbolicZero) and m.dtype != float0, tangents)
    value, slopes = _gradient(f, tile, class_axis, moved, *primals)
    moves = compress(jax.tree.leaves(tangents), jax.tree.leaves(moved))
    terms = [jnp.sum(s * m.astype(s.dtype)) for s, m in zip(slopes, moves, strict=True)]
    return value, reduce(jnp.add, terms, jnp.zeros_like(value))


_over_tokens.defjvp(_over_tokens_jvp, symbolic_zeros=True)


def of_each_token(
    f: Loss,
    tile: int | None,
    class_axis: str | None,
    hidden: tuple[jax.Array, ...],
    rows: Any,
    shared: Any,
    heads: tuple[Head, ...],
) -> Any:
    """What `f` returns: arrays with one entry for each token.

    The gradient makes each block of logits a second time. It is for reverse mode alone: in forward mode a gradient of
    an embedding could not be added up in place.
    """
    found = _of_each_token(f, tile, class_axis, *varying((hidden, rows, shared, heads)))
    return jax.tree.map(lambda x: _together(x, class_axis), found)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _of_each_token(f, tile, class_axis, hidden, rows, shared, heads):
    def block(tokens, common):
        (hidden, rows), (heads, shared) = tokens, common
        found = f(_logits(hidden, heads, class_axis), rows, shared)
        return jax.tree.map(lambda x: _share(x, class_axis), found), ()

    return by_rows(block, (hidden, rows), (heads, shared), **_size(heads, tile, class_axis))[0]


@jax.tree_util.register_static
class _Flags(tuple):
    """Which arrays are differentiated; a part of the structure of a tree."""


def _of_each_token_forward(f, tile, class_axis, *arguments):
    flags = _Flags(x.perturbed and jnp.issubdtype(x.value.dtype, jnp.floating) for x in jax.tree.leaves(arguments))
    values = jax.tree.map(lambda x: x.value, arguments)
    return _of_each_token(f, tile, class_axis, *values), (values, flags)


def _of_each_token_backward(f, tile, class_axis, saved, pulls):
    (hidden, rows, shared, heads), flags = saved
    leaves, form = jax.tree.flatten((hidden, rows, shared, heads))
    moved = form.unflatten(flags)
    pulled = [not isinstance(x, SymbolicZero) and x.dtype != float0 for x in jax.tree.leaves(pulls)]
    pulls, _ = chosen(pulls, pulled)

    def loss(logits, rows, shared):
        rows, pulls = rows
        found, _ = chosen(f(logits, rows, shared), pulled)
        return reduce(jnp.add, map(scaled, pulls, found))

    moved = (moved[0], (moved[1], [False] * len(pulls)), *moved[2:])
    _, slopes = _gradient(loss, tile, class_axis, moved, hidden, (rows, pulls), shared, heads)
    slopes = iter(slopes)
    return form.unflatten([next(slopes).astype(x.dtype) if on else None for x, on in zip(leaves, flags, strict=True)])


_of_each_token.defvjp(_of_each_token_forward, _of_each_token_backward, symbolic_zeros=True)


def _placed(states: jax.Array, head: Head) -> tuple[jax.Array, Head]:
    """On explicit meshes only tokens and classes stay spread over devices, the latter if over others."""
    if not explicit():
        return states, head
    tokens, classes = jax.typeof(states).sharding.spec[0], jax.typeof(head.embedding).sharding.spec[1]
    classes = None if {*jax.tree.leaves(tokens)} & {*jax.tree.leaves(classes)} else classes
    head = Head(*(reshard(x, PartitionSpec(*(None,) * (x.ndim - 1), classes)) for x in head))
    return reshard(states, PartitionSpec(tokens, None)), head


def _flat(
    where: Any, hidden: tuple[Any, ...], heads: tuple[Head, ...], rows: Any, shared: Any
) -> tuple[tuple[jax.Array, ...], Any, Any, tuple[Head, ...]]:
    """Hidden states `[tokens, d]` of `[..., d]`, zeros where they are masked, and what goes with them."""
    units = hidden[0].ndim - 1

    def states(x, head):
        (kept,) = masked(where, x, event=1)
        return _placed(kept.astype(head.embedding.dtype).reshape(-1, kept.shape[-1]), head)

    flat, heads = zip(*map(states, hidden, heads), strict=True)
    like = jnp.sum(flat[0], axis=1)  # for its type alone
    rows = jax.tree.map(lambda x: spread_like(x.reshape(-1, *x.shape[units:]), like), rows)
    return flat, rows, whole(shared), heads


def each_token(
    f: Loss,
    hidden: tuple[Any, ...],
    heads: tuple[Head, ...],
    rows: Any,
    shared: Any,
    *,
    tile: int | None,
    class_axis_name: str | None,
    where: Any,
) -> Any:
    """What `f` returns for each of the tokens `[...]` whose states are `[..., d]`; the rest is as in `token_loss`."""
    if tile is not None:
        _check.count(tile=tile)
    shape = hidden[0].shape[:-1]
    found = of_each_token(f, tile, class_axis_name, *_flat(where, hidden, heads, rows, shared))
    return jax.tree.map(lambda x: x.reshape(shape), found)


def token_loss(
    f: Loss,
    hidden: tuple[Any, ...],
    heads: tuple[Head, ...],
    rows: Any,
    shared: Any,
    *,
    tile: int | None,
    axis_name: str | None,
    class_axis_name: str | None,
    where: Any,
    weights: Any,
    reduction: Reduction,
) -> jax.Array:
    """The loss of tokens `[...]`, reduced.

    Args:
      f: Takes logits `[block, classes]` of each head, a block of `rows`, and `shared`; returns the loss of each token.
      hidden: Float `[..., d]` for each head.
      heads: What makes logits of hidden states.
      rows: Tree of arrays `[..., *]`, without NaN where they are masked.
      shared: Tree of arrays, whole in every block.
      tile: Tokens of a block; by the number of classes if None.
      axis_name: Mesh axis over which the tokens are spread.
      class_axis_name: Mesh axis over which the classes of all heads are spread.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      reduction: `"mean"` over total weight, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`.
    """
    _check.choice(("mean", "sum", "none"), reduction=reduction)
    shape, dtype = hidden[0].shape[:-1], heads[0].bias.dtype
    if tile is not None:
        _check.count(tile=tile)
    if reduction == "none" or 0 in shape:
        axes = {"tile": tile, "class_axis_name": class_axis_name}
        values = each_token(f, hidden, heads, rows, shared, **axes, where=where)
        return reduce_units(values, where, weights, reduction, axis_name)

    def loss(logits, rows, shared):
        rows, weight = rows
        return scaled(weight, f(logits, rows, shared))  # one left out may be infinite

    shrink = 2.0 ** -math.prod(shape).bit_length()  # a sum of finite losses shall not overflow
    weight = shrink * unit_weights(shape, where, weights, dtype=dtype)
    total = over_tokens(loss, tile, class_axis_name, *_flat(where, hidden, heads, (rows, weight), shared))
    weight = jnp.sum(weight)
    mean = divide(total, weight)
    return reduce_units(mean, None, weight if reduction == "mean" else weight / shrink, reduction, axis_name)
