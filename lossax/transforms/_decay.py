"""Weight decay as a transformation of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._types import Hyperparameter, Mask, PyTree


class AddDecayedWeightsState(NamedTuple):
    """Number of updates."""

    step: jax.Array


def add_decayed_weights(
    weight_decay: Hyperparameter, mask: Mask | None = None, *, cautious: bool = False
) -> optax.GradientTransformation:
    r"""Adds a share of the parameters to the update: L2 regularization before a direction, decoupled decay after it.

    .. math:: u \leftarrow u + \lambda w \qquad\text{or, cautious,}\qquad u \leftarrow u + \lambda [u w \ge 0]\, w

    Every lossax optimizer has decoupled decay as `weight_decay`; this is for chains, for the L2 kind that torch's SGD
    and Adam have, and for cautious decay, which spares weights that the update makes larger, so that minima of the loss
    stay where they are: `assemble(chain(scale_by_adam(), add_decayed_weights(0.1, cautious=True)), 1e-3)` is AdamW so.

    Args:
      weight_decay: Share, nonnegative. Unless it is the Python number 0, `update` needs `params`.
      mask: Parameters to decay: booleans or a function of the parameters (`path_mask`); `None` is all.
      cautious: Whether to decay only where it moves a weight the way the update does. The update must ascend, as
        gradients and directions do.

    Returns:
      A transformation with state `AddDecayedWeightsState`.

    Raises:
      ValueError: if a known `weight_decay` is negative or NaN, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = add_decayed_weights(0.5)
      >>> params = jnp.array([2.0])
      >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
      >>> updates.tolist()
      [4.0]

    Reference:
      Krogh and Hertz, *A simple weight decay can improve generalization*, 1992; Chen et al., *Cautious weight decay*,
      2025.
    """
    _check.nonnegative(weight_decay=weight_decay)

    def init(params: PyTree) -> AddDecayedWeightsState:
        del params
        return AddDecayedWeightsState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        new_state = AddDecayedWeightsState(_tree.increment(state.step))
        if _hyper.is_zero(weight_decay):
            return updates, new_state
        _tree.require_params(params, "weight_decay is not the Python number 0")

        def add(u, p, keep, share):
            if cautious:  # of signs: a product may vanish
                keep = keep & ((jnp.sign(u) * jnp.conj(jnp.sign(p))).real >= 0)
            return u + _tree.parts(lambda x: jnp.where(keep, share * x, 0), p)

        masks = _tree.resolve_mask(mask, params)
        decayed = _tree.map(add, updates, params, masks, scalars=(_hyper.at(state.step, weight_decay),))
        return _tree.cast_like(decayed, updates), new_state

    return optax.GradientTransformation(init, update)
