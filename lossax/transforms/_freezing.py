"""Freezing: part of the parameters stays as it is."""

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _tree
from lossax._types import Mask, PyTree


def freeze(optimizer: optax.GradientTransformation, mask: Mask) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that leaves part of the parameters alone, and holds no state for it.

    .. math:: \Delta_i = 0 \;\text{ where the mask is true}

    For fine-tuning: `freeze(adamw(1e-4), path_mask(exclude="head"))` trains the head. The optimizer sees `None` in the
    place of what is frozen, so neither moments nor norms nor decay know of it. Gradients are still computed; to spare
    that too, differentiate by the other parameters only. In Optax it takes `partition` with `set_to_zero`; `masked`
    alone hands the gradient of what is masked on as an update.

    Args:
      optimizer: What moves the rest; extra arguments of `update` reach it as they are.
      mask: Parameters to freeze: booleans or a function of the parameters (`path_mask`).

    Returns:
      An optimizer with the state of `optimizer`.

    Raises:
      TypeError: if `optimizer` is no transformation.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = freeze(optax.sgd(1.0), {"body": True, "head": False})
      >>> params = {"body": jnp.array(5.0), "head": jnp.array(5.0)}
      >>> updates, _ = tx.update({"body": jnp.array(2.0), "head": jnp.array(2.0)}, tx.init(params), params)
      >>> updates["body"].item(), updates["head"].item()
      (0.0, -2.0)

    Reference:
      Howard and Ruder, *Universal language model fine-tuning for text classification*, 2018.
    """
    _check.transformation(optimizer=optimizer)
    inner = optax.with_extra_args_support(optimizer)

    def hide(tree: PyTree, masks: PyTree) -> PyTree:
        hidden = lambda leaf, frozen: None if frozen else leaf  # noqa: E731
        return jax.tree.map(hidden, tree, masks, is_leaf=lambda x: x is None)

    def init(params: PyTree) -> PyTree:
        return inner.init(hide(params, _tree.resolve_mask(mask, params)))

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None, **extra_args):
        like = updates if params is None else params
        masks = _tree.resolve_mask(mask, like)
        rest = None if params is None else hide(params, masks)
        moved, state = inner.update(hide(updates, masks), state, rest, **extra_args)

        def join(update, move, frozen, other):
            if not frozen or not _tree.is_number(update):
                return update if move is None else move
            return jnp.zeros_like(update, dtype=_tree.dtype_of(other if _tree.is_number(other) else update))

        return jax.tree.map(join, updates, moved, masks, like, is_leaf=lambda x: x is None), state

    return optax.GradientTransformationExtraArgs(init, update)
