"""States of optimizers in 8 or 16 bits."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec, get_abstract_mesh
from jax.typing import ArrayLike

from lossax import _check, _keys, _rounding, _tile, _tree
from lossax._types import Mask, PyTree


class LowPrecisionState(NamedTuple):
    """Numbers of the key for the next rounding, the state of the optimizer in few bits, and the scales of its blocks.

    A large leaf is int8 or bfloat16 where it stands; its scales, if it has such, stand in the order of the leaves.
    """

    key: jax.Array
    inner: PyTree
    scales: PyTree

    def decode(self) -> PyTree:
        """The state of the optimizer in float32."""
        leaves, structure = jax.tree.flatten(self.inner, is_leaf=_is_leaf)
        wide = [
            x.astype(jnp.float32) if _is_bfloat16(x) else x if scales is None else _decode(x, scales)
            for x, scales in zip(leaves, self.scales, strict=True)
        ]
        return structure.unflatten(wide)


def _keeps_parameters(node: Any) -> bool:
    """States of what keeps parameters, which few bits would spoil."""
    return any(hasattr(node, name) for name in ("eval_params", "master", "compensation"))


def _is_leaf(node: Any) -> bool:
    return node is None or _keeps_parameters(node)


def _is_bfloat16(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == jnp.bfloat16


def _blocks_along(shape: tuple[int, ...], block: int) -> tuple[int, int]:
    """The axis that is cut into blocks and their number: one that divides the axis if it is nearly as small."""
    last = len(shape) - 1
    axis = last if shape[last] >= block else max(range(len(shape)), key=lambda axis: (shape[axis], axis))
    least = -(-shape[axis] // block)
    exact = (count for count in range(least, least + least // 4 + 1) if shape[axis] % count == 0)
    return axis, next(exact, least)


def _cut(x: jax.Array, axis: int, count: int) -> jax.Array:
    """`[..., count, size, ...]` in the place of an axis."""
    size = -(-x.shape[axis] // count)
    spec = tuple(jax.typeof(x).sharding.spec) if _tile.explicit() else ()
    if spec and spec[axis] is not None:
        names = spec[axis] if isinstance(spec[axis], tuple) else (spec[axis],)
        if count % math.prod(get_abstract_mesh().shape[name] for name in names) or count * size != x.shape[axis]:
            spec = (*spec[:axis], None, *spec[axis + 1 :])
            x = jax.sharding.reshard(x, PartitionSpec(*spec))
    if count * size != x.shape[axis]:
        x = jnp.pad(x, [(0, count * size - n if a == axis else 0) for a, n in enumerate(x.shape)])
    shape = (*x.shape[:axis], count, size, *x.shape[axis + 1 :])
    out = PartitionSpec(*spec[: axis + 1], None, *spec[axis + 1 :]) if spec else None
    return lax.reshape(x, shape, out_sharding=out)


def _join(blocks: jax.Array, like: jax.Array, axis: int) -> jax.Array:
    """What `_cut` did, undone."""
    shape = [*like.shape]
    shape[axis] = blocks.shape[axis] * blocks.shape[axis + 1]
    spec = tuple(jax.typeof(blocks).sharding.spec) if _tile.explicit() else ()
    out = PartitionSpec(*spec[: axis + 1], *spec[axis + 2 :]) if spec else None
    joined = lax.slice_in_dim(lax.reshape(blocks, shape, out_sharding=out), 0, like.shape[axis], axis=axis)
    return _tile.spread_like(joined, like)


def _level(code: jax.Array, fine: jax.Array) -> jax.Array:
    """The number of a code, as a share of the largest of its block."""
    cube = jnp.where(fine, code / 255.0, code / 127.0) ** 3
    return jnp.where(fine, cube * cube, cube)


def _encode(x: jax.Array, block: int, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    axis, count = _blocks_along(x.shape, block)
    blocks = _cut(lax.stop_gradient(x), axis, count)
    # The scale of a block without negative numbers is negative, which says that it has the finer code.
    most, least = (f(blocks, axis=axis + 1, keepdims=True) for f in (jnp.max, jnp.min))
    top = jnp.maximum(most, -least)  # of one array, where a maximum of absolute values would make another
    fine = (least >= 0) & (top > 0)
    scales = jnp.squeeze(jnp.where(fine, -top, top), axis + 1)
    share = jnp.abs(blocks) / jnp.where(top > 0, top, 1)
    root = jnp.exp(jnp.log(share) * jnp.where(fine, 1 / 6, 1 / 3))  # a third of the time of `jnp.cbrt`
    # What was decoded is on a level, or by an error of rounding next to it.
    below = jnp.floor(jnp.where(fine, 255.0, 127.0) * root + 2.0**-10)
    low = _level(below, fine)
    gap = _level(below + 1.0, fine) - low
    up = _rounding.uniform(seed, blocks) * gap < share - low
    code = jnp.minimum(below + up.astype(x.dtype), jnp.where(fine, 255.0, 127.0))
    code = jnp.where(fine, jnp.where(blocks > 0, jnp.maximum(code, 1.0), code) - 128.0, jnp.sign(blocks) * code)
    return _join(code.astype(jnp.int8), x, axis), scales


def _decode(codes: jax.Array, scales: jax.Array) -> jax.Array:
    differ = [axis for axis, (n, count) in enumerate(zip(codes.shape, scales.shape, strict=True)) if n != count]
    axis = differ[0] if differ else codes.ndim - 1
    code = _cut(codes, axis, scales.shape[axis]).astype(scales.dtype)
    scales = jnp.expand_dims(scales, axis + 1)
    fine, top = scales < 0, jnp.abs(scales)
    shifted = jnp.where(fine, code + 128.0, code)
    x = top * _level(shifted, fine)
    # A positive number stays one, however small the scale.
    x = jnp.where(fine & (shifted > 0), jnp.maximum(x, jnp.finfo(x.dtype).tiny), x)
    return _join(x, codes, axis)


def low_precision(
    optimizer: optax.GradientTransformation,
    dtype: Literal["int8", "bfloat16"] = "int8",
    *,
    block: int = 256,
    min_size: int = 4096,
    mask: Mask | None = None,
    key: ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer whose state takes a quarter of the memory, or half of it.

    .. math:: x \approx s \operatorname{sign}(k) \left|\tfrac{k}{127}\right|^3 \;\text{ or }\;
      x \approx s \left(\tfrac{k}{255}\right)^6 \text{ where a block has } x \ge 0, \qquad s = \max_\text{block} |x|

    Two moments in 8 bits are 2.03 bytes for each parameter instead of 8. The state is float32 only inside `update`.
    Each block says by the sign of its scale which code it has, so second moments have the finer one whatever the
    optimizer calls them: it is the other one of their root, spans 14 decades, and takes nothing positive for 0.

    Numbers are rounded up or down at random, so that averages are right in the mean: rounded to the nearest, a moment
    that changes by 0.1% in a step would never move. `"bfloat16"` does that to 16 bits, and needs no blocks.

    Leaves with fewer than `min_size` numbers, scalars, integers, complex ones, and all but float32 stay as they are.
    Codes have the shape of their leaf and are spread over devices like it. Copies of parameters must not be stored so;
    averages, `master_weights` and `compensated` are left alone, but put this inside of them, around the optimizer:
    `master_weights(low_precision(adamw(1e-3)))`. For preconditioning matrices and the like hand over a `mask`.
    Infinities and NaN spoil a whole block: `skip_nonfinite` around all. No derivative goes through codes.

    These codes have half the error of the dynamic map of bitsandbytes where second moments spread over decades. Steps
    of `adamw` are off by 4% in 8 bits and by 1% in 16; by more than 9% in 8 bits where sizes within a block differ by
    more than a factor of 3, as in embeddings of rare words: mask those.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it.
      dtype: `"int8"` or `"bfloat16"`.
      block: Consecutive numbers that share a scale: along the last axis, or the longest if that is shorter.
      min_size: Fewest numbers of a leaf that is stored so.
      mask: Leaves of the state to store so: booleans or a function of the state, such as `path_mask(exclude="embed")`;
        `None` is all.
      key: A seed, a typed or a raw key.

    Returns:
      An optimizer with state `LowPrecisionState`.

    Raises:
      TypeError: if `optimizer` is no transformation, or `block` or `min_size` no Python integer.
      ValueError: if `dtype` is unknown, `block` below 1 or `min_size` negative.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = low_precision(optax.sgd(1.0, momentum=0.5), min_size=2)
      >>> state = tx.init(jnp.zeros(2))
      >>> _, state = tx.update(jnp.array([127.0, -127 * (100 / 127) ** 3]), state)
      >>> state.inner[0].trace.tolist(), state.scales[0].tolist()
      ([127, -100], [127.0])

    Reference:
      Dettmers, Lewis, Shleifer and Zettlemoyer, *8-bit optimizers via block-wise quantization*, 2022; Zamirai, Zhang,
      Aberger and De Sa, *Revisiting bfloat16 training*, 2020.
    """
    _check.transformation(optimizer=optimizer)
    _check.choice(("int8", "bfloat16"), dtype=dtype)
    _check.count(block=block)
    _check.count(0, min_size=min_size)
    inner = optax.with_extra_args_support(optimizer)

    def store(state, chosen, numbers):
        """The state with the leaves that are chosen in few bits, and the next numbers of the key."""
        numbers, draw = _keys.split(numbers, key)
        leaves, structure = jax.tree.flatten(state, is_leaf=_is_leaf)
        seeds = iter(_rounding.seeds(draw, sum(chosen)))
        scales: list[Any] = [None] * len(leaves)
        for i, keep in enumerate(chosen):
            if keep and dtype == "int8":
                leaves[i], scales[i] = _encode(leaves[i].astype(jnp.float32), block, next(seeds))
            elif keep:
                leaves[i] = _rounding.stochastic(leaves[i].astype(jnp.float32), jnp.bfloat16, next(seeds))
                leaves[i] = leaves[i].astype(jnp.bfloat16)
        return LowPrecisionState(numbers, structure.unflatten(leaves), tuple(scales))

    def init(params: PyTree) -> LowPrecisionState:
        state = inner.init(params)
        leaves, structure = jax.tree.flatten(state, is_leaf=_is_leaf)

        def fits(leaf):
            large = getattr(leaf, "dtype", None) == jnp.float32 and leaf.ndim and leaf.size >= max(min_size, 1)
            return bool(large) and not _keeps_parameters(leaf)

        allowed = [True] * len(leaves) if mask is None else structure.flatten_up_to(_tree.resolve_mask(mask, state))
        chosen = [fits(leaf) and bool(allow) for leaf, allow in zip(leaves, allowed, strict=True)]
        return store(state, chosen, _keys.data(key))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        state = LowPrecisionState(*state)
        leaves = jax.tree.leaves(state.inner, is_leaf=_is_leaf)
        narrow = [_is_bfloat16(x) or scales is not None for x, scales in zip(leaves, state.scales, strict=True)]
        moved, new = inner.update(updates, state.decode(), params, **extra_args)
        return moved, store(new, narrow, state.key)

    return optax.GradientTransformationExtraArgs(init, update)
