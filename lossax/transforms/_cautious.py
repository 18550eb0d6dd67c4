"""Caution: no entry moves against its gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._types import PyTree


class CautiousState(NamedTuple):
    """The share of the entries that the last update moved, and the state of the optimizer."""

    kept: jax.Array
    inner: PyTree


def cautious(
    optimizer: optax.GradientTransformation, *, ascending: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that holds still where momentum and gradient disagree.

    .. math:: \Delta \leftarrow \frac{n}{n_\text{kept} + 1}\, [\Delta g < 0]\, \Delta

    with the numbers of entries and of those kept in each leaf, so that the steps stay about as long. It speeds up any
    optimizer with momentum. An entry whose gradient or step is 0 is not kept. The paper's program divides by the share
    kept, at least 0.001, instead.

    Around a whole optimizer it holds back weight decay too. To leave that out, as in the paper, put it around the
    direction: `assemble(cautious(scale_by_adam(), ascending=True), 1e-3, weight_decay=0.1)`.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it.
      ascending: Whether it makes directions that ascend (`scale_by_adam`) instead of steps.

    Returns:
      An optimizer with state `CautiousState`.

    Raises:
      TypeError: if `optimizer` is no transformation.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = cautious(optax.sgd(1.0, momentum=1.0))
      >>> _, state = tx.update(jnp.array([1.0, 1.0, 1.0]), tx.init(jnp.zeros(3)))
      >>> updates, state = tx.update(jnp.array([-0.5, 1.0, 1.0]), state)  # momentum 0.5, 2, 2
      >>> updates.tolist(), round(state.kept.item(), 4)
      ([0.0, -2.0, -2.0], 0.6667)

    Reference:
      Liang, Chen, Liu and Liu, *Cautious optimizers: improving training with one line of code*, 2024.
    """
    _check.transformation(optimizer=optimizer)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> CautiousState:
        return CautiousState(jnp.zeros((), _hyper.default_float()), inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        moved, new = inner.update(updates, state.inner, params, **extra_args)
        counts, dtype = [], state.kept.dtype

        def hold(move, g):
            agrees = (jnp.sign(move) * jnp.conj(jnp.sign(g))).real  # of signs: a product may vanish
            keep = agrees > 0 if ascending else agrees < 0
            count = jnp.sum(keep, dtype=dtype)
            counts.append((count, keep.size))
            scale = (keep.size / (count + 1.0)).astype(move.real.dtype)
            return jnp.where(keep, _tree.parts(lambda x: scale * x, move), 0)

        held = _tree.cast_like(_tree.map(hold, moved, updates), moved)
        kept = sum((count for count, _ in counts), jnp.zeros((), dtype)) / max(sum(size for _, size in counts), 1)
        return held, CautiousState(kept, new)

    return optax.GradientTransformationExtraArgs(init, update)
