"""How a policy, or a reward model, agrees with preferences."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._preferences import difference, lengths
from lossax._reduction import masked, reduce


def preference_statistics(
    chosen: jax.Array,
    rejected: jax.Array,
    reference_chosen: jax.Array | None = None,
    reference_rejected: jax.Array | None = None,
    *,
    beta: ArrayLike = 0.1,
    chosen_lengths: ArrayLike | None = None,
    rejected_lengths: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    r"""What to watch while learning from pairs: implicit rewards, their difference, and how often its sign is right.

    .. math:: r = \beta\,(\log \pi - \log \pi_{\mathrm{ref}}), \qquad \mathrm{accuracy} =
        \operatorname{mean}\big(1[r_w > r_l] + \tfrac12\,1[r_w = r_l]\big)

    Margins should grow; if the rewards of the chosen fall along with those of the rejected, the policy forgets good
    answers too (see the objectives `"nca"` and `"apo_zero"` of `losses.dpo`, or add their likelihood). Ties, such as
    all pairs before the first step, count a half, where TRL counts them as wrong. For a reward model leave the
    references out and take a `beta` of 1.

    Args:
      chosen: Log-probability (or reward) of the better answer, float `[...]`.
      rejected: Log-probability (or reward) of the other one, float `[...]`.
      reference_chosen: Log-probability of the better answer by the reference policy, float `[...]`; None for 0.
      reference_rejected: Log-probability of the other one by it, float `[...]`; None for 0.
      beta: Scale of the rewards, positive.
      chosen_lengths: Number of tokens of the better answer, real `[...]`, positive; None for sums. As in `losses.dpo`:
        what was trained by means is judged by means.
      rejected_lengths: Number of tokens of the other one, real `[...]`, positive.
      where: Units to keep, bool `[...]`.
      weights: Weight of each unit, float `[...]`.
      axis_name: Mesh axis over which the units are spread, inside `jax.shard_map`; means are those of all devices.

    Returns:
      A flat dict of scalars without gradients: `chosen_reward`, `rejected_reward`, `margin` and `accuracy`.

    Raises:
      TypeError: if log-probabilities are not floating point.
      ValueError: if shapes differ, `beta` is not positive or one of the lengths is missing.

    Example:
      >>> import jax.numpy as jnp
      >>> found = preference_statistics(jnp.array([-2.0, -4.0]), jnp.array([-3.0, -4.0]), beta=1.0)
      >>> {name: x.item() for name, x in found.items()}
      {'chosen_reward': -3.0, 'rejected_reward': -3.5, 'margin': 0.5, 'accuracy': 0.75}

    Reference:
      Rafailov et al., *Direct preference optimization: your language model is secretly a reward model*, 2023.
    """
    if (reference_chosen is None) != (reference_rejected is None):
        raise ValueError("expected reference_chosen and reference_rejected, or neither")
    arrays = {"chosen": chosen, "rejected": rejected}
    if reference_chosen is not None:
        arrays |= {"reference_chosen": reference_chosen, "reference_rejected": reference_rejected}
    _check.floating(**arrays)
    _check.same_shape(**arrays)
    _check.positive(beta=beta)
    chosen, rejected, *references = (lax.stop_gradient(x) for x in masked(where, *arrays.values()))
    zero = jnp.zeros((), chosen.dtype)
    of_chosen, of_rejected = references or (zero, zero)
    _, beta = masked(None, chosen, beta)
    good, bad = difference(chosen, of_chosen, zero, zero), difference(rejected, of_rejected, zero, zero)
    gap = difference(chosen, of_chosen, rejected, of_rejected)
    if chosen_lengths is not None or rejected_lengths is not None:
        tokens = {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
        good, bad = (x / n for x, n in zip((good, bad), lengths(where, chosen, **tokens), strict=True))
        gap = good - bad
    found = {
        "chosen_reward": beta * good,
        "rejected_reward": beta * bad,
        "margin": beta * gap,
        "accuracy": 0.5 * (1.0 + jnp.sign(gap)),
    }
    return {name: reduce(x, where, weights, "mean", axis_name) for name, x in found.items()}
