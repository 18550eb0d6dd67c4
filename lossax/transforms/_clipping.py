"""Clipping: no update larger than a limit, by value, by leaf or all together."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._types import Hyperparameter, PyTree


class ClipByValueState(NamedTuple):
    """Number of updates."""

    step: jax.Array


class ClipByNormState(NamedTuple):
    """Number of updates."""

    step: jax.Array


class ClipByGlobalNormState(NamedTuple):
    """Number of updates, and the norm that the last one came with (0 before the first)."""

    step: jax.Array
    norm: jax.Array


def clip_by_value(limit: Hyperparameter) -> optax.GradientTransformation:
    r"""No entry larger than a limit.

    .. math:: u \leftarrow u \min(1, c / |u|)

    It turns the direction of the update; `clip_by_global_norm` does not. Complex entries keep their angle. Infinite
    entries become the limit with their sign; NaN stays NaN. Optax calls it `clip`, torch `clip_grad_value_`.

    Args:
      limit: Largest magnitude, positive; infinity turns it off.

    Returns:
      A transformation with state `ClipByValueState`.

    Raises:
      ValueError: if a known `limit` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = clip_by_value(1.0)
      >>> updates, _ = tx.update(jnp.array([0.5, -3.0]), tx.init(jnp.zeros(2)))
      >>> updates.tolist()
      [0.5, -1.0]

    Reference:
      Mikolov, *Statistical language models based on neural networks*, 2012.
    """
    _check.positive(limit=limit)

    def init(params: PyTree) -> ClipByValueState:
        del params
        return ClipByValueState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params

        def clip(u, limit):
            if not jnp.iscomplexobj(u):
                return jnp.clip(u, -limit, limit)
            shorten = lambda entry: _tree.shorten(entry, *_tree.scaled_norm(entry), limit)  # noqa: E731
            for _ in range(u.ndim):
                shorten = jax.vmap(shorten)
            return shorten(u)

        clipped = _tree.map(clip, updates, scalars=(_hyper.at(state.step, limit),))
        return _tree.cast_like(clipped, updates), ClipByValueState(_tree.increment(state.step))

    return optax.GradientTransformation(init, update)


def clip_by_norm(limit: Hyperparameter) -> optax.GradientTransformation:
    r"""No leaf longer than a limit, each by itself.

    .. math:: u_i \leftarrow u_i \min(1, c / \lVert u_i \rVert)

    A leaf whose gradient explodes does not slow the others; but the direction of the whole turns, see
    `clip_by_global_norm`. Keras has it as `clipnorm`; Optax's `clip_by_block_rms(threshold)` has in the place of the
    limit `threshold` times the root of the leaf's size. Infinities and NaN as in `clip_by_global_norm`.

    Args:
      limit: Largest norm of a leaf, positive; infinity turns it off.

    Returns:
      A transformation with state `ClipByNormState`.

    Raises:
      ValueError: if a known `limit` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = clip_by_norm(1.0)
      >>> updates, _ = tx.update([jnp.array([0.0, 4.0]), jnp.array(0.5)], tx.init(None))
      >>> [u.tolist() for u in updates]
      [[0.0, 1.0], 0.5]

    Reference:
      Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*, 2013.
    """
    _check.positive(limit=limit)

    def init(params: PyTree) -> ClipByNormState:
        del params
        return ClipByNormState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params

        def clip(u, limit):
            return _tree.shorten(u, *_tree.scaled_norm(u), limit)

        clipped = _tree.map(clip, updates, scalars=(_hyper.at(state.step, limit),))
        return _tree.cast_like(clipped, updates), ClipByNormState(_tree.increment(state.step))

    return optax.GradientTransformation(init, update)


def clip_by_global_norm(limit: Hyperparameter) -> optax.GradientTransformation:
    r"""No update longer than a limit, all leaves taken together: the direction stays.

    .. math:: u \leftarrow u \min(1, c / \lVert u \rVert)

    The norm before clipping is in the state, `state.norm`, to be watched. It is exact over the whole range of the dtype
    (16-bit updates are measured in float32). Beside an infinite entry finite ones are nothing: the update is then of
    length `limit` in the direction of the infinite entries. NaN stays NaN, where it is, and nothing is clipped; to
    leave out such steps put `skip_nonfinite` around the chain.

    Args:
      limit: Largest norm, positive; infinity turns it off. 1 is the custom for transformers.

    Returns:
      A transformation with state `ClipByGlobalNormState`.

    Raises:
      ValueError: if a known `limit` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = clip_by_global_norm(1.0)
      >>> updates, state = tx.update([jnp.array([0.0, 3.0]), jnp.array(4.0)], tx.init(None))
      >>> [[round(x, 4) for x in u.reshape(-1).tolist()] for u in updates], state.norm.item()
      ([[0.0, 0.6], [0.8]], 5.0)

    Reference:
      Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*, 2013.
    """
    _check.positive(limit=limit)

    def init(params: PyTree) -> ClipByGlobalNormState:
        del params
        return ClipByGlobalNormState(jnp.zeros((), jnp.int32), jnp.zeros((), _hyper.default_float()))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        unit, length = _tree.scaled_norm(updates)
        clipped = _tree.map(_tree.shorten, updates, scalars=(unit, length, _hyper.at(state.step, limit)))
        norm = (unit * length).astype(state.norm.dtype)
        return _tree.cast_like(clipped, updates), ClipByGlobalNormState(_tree.increment(state.step), norm)

    return optax.GradientTransformation(init, update)
