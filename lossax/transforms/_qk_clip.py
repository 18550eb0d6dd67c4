"""The clip of attention: queries and keys of a head shrink until its logits are no larger than a limit."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree
from lossax._types import Hyperparameter, PyTree


class QkClipState(NamedTuple):
    """Number of updates, and the smallest factor of a head in the last one (1 before the first)."""

    step: jax.Array
    least: jax.Array


def _compiled(name: str, patterns: Mapping[str, str] | None) -> list[tuple[re.Pattern[str], str]]:
    for axes in (patterns or {}).values():
        if not set(axes) <= set("bh.") or axes.count("h") != 1:
            raise ValueError(f"{name} must name axes by the letters b, h and ., with one h, got {axes!r}")
    try:
        return [(re.compile(expression), axes) for expression, axes in (patterns or {}).items()]
    except re.error as error:
        raise ValueError(f"{name} must have regular expressions: {error}") from error


def qk_clip(
    queries: Mapping[str, str],
    keys: Mapping[str, str],
    *,
    alone: Mapping[str, str] | None = None,
    threshold: Hyperparameter = 100.0,
    balance: Hyperparameter = 0.5,
) -> optax.GradientTransformationExtraArgs:
    r"""MuonClip's QK-clip: heads whose largest logit is above a limit get smaller queries and keys.

    .. math::
      \gamma = \min(1, \tau / S_\text{max}), \quad
      w_q + u \leftarrow \gamma^\alpha (w_q + u), \quad w_k + u \leftarrow \gamma^{1 - \alpha} (w_k + u)

    for each head by itself. With `muon` it is MuonClip; it goes last, after the learning rate, around any optimizer:
    `chain(muon(...), qk_clip(...))`. Heads that are not above the limit, and all other leaves, are left as they are to
    the bit. For transformers whose logits grow without bound, as they do under Muon; not needed where queries and keys
    are normalised.

    Each leaf is named by a regular expression of its path and a letter for each of its axes: `h` for heads, `b` for
    layers stacked for a scan, `.` for others, `{"query/kernel": ".h.", "query/bias": "h."}` for Flax. An axis `h` may
    be heads times features, head by head, as in torch: `{"q_proj.weight": "h."}`. Biases count, too.

    `update` takes `max_logits`: the largest logit of each head that this batch has had in the forward pass, scaled and
    before the softmax, arrays `[heads]`, or `[layers, heads]` with `b`. They stand under the path of the attention that
    holds the leaves, `{"layers/0/attention": logits}` or nested like the parameters; a bare array is for all. A logit
    that is not finite clips nothing: leaving out such steps is `skip_nonfinite`'s business.

    Where several query heads share a key (grouped queries, or the rotary part of latent attention), leave that key out
    and name its queries in `alone`: they get :math:`\gamma` whole.

    Args:
      queries: Axes of query weights by regular expressions of paths; the first that is found in a path counts.
      keys: Axes of key weights, likewise.
      alone: Axes of query weights whose keys are shared, likewise; `None` is none.
      threshold: Largest logit, positive; infinity turns it off.
      balance: Share of the factor that queries get, as a power, in [0, 1].

    Returns:
      A transformation with state `QkClipState`, whose `update` needs `params` and `max_logits`.

    Raises:
      ValueError: if an argument known now is out of range, `update` gets no `params` or no `max_logits`, a logit that
        belongs to no leaf, or none for a leaf, or axes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = qk_clip({"query": ".h"}, {"key": ".h"})
      >>> params = {"query": jnp.ones((1, 2)), "key": jnp.ones((1, 2))}
      >>> updates, state = tx.update(params, tx.init(params), params, max_logits=jnp.array([50.0, 400.0]))
      >>> updates["query"].tolist(), state.least.item()  # 2 stays, and 2 becomes 1
      ([[1.0, 0.0]], 0.25)

    Reference:
      Kimi Team, *Kimi K2: open agentic intelligence*, 2025.
    """
    _check.positive(threshold=threshold)
    _check.fraction(balance=balance)
    kinds = [_compiled("queries", queries), _compiled("keys", keys), _compiled("alone", alone)]

    def init(params: PyTree) -> QkClipState:
        del params
        return QkClipState(jnp.zeros((), jnp.int32), jnp.ones((), _hyper.default_float()))

    def kind_of(name: str) -> tuple[int, str] | None:
        """Which of the three a leaf is, and its axes."""
        for i, kind in enumerate(kinds):
            for expression, axes in kind:
                if expression.search(name):
                    return i, axes
        return None

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, *, max_logits: PyTree | None = None, **others: Any
    ):
        del others
        _tree.require_params(params, "what it clips is the weights after the step")
        if max_logits is None:
            raise ValueError("update(updates, state, params, max_logits=...) needs max_logits of each head")
        limit, share = _hyper.scalar(_hyper.at(state.step, threshold)), _hyper.scalar(_hyper.at(state.step, balance))
        flat, _ = jax.tree_util.tree_flatten_with_path(max_logits)
        logits = {_tree.path_string(path): jnp.asarray(x, limit.dtype) for path, x in flat}
        over = {name: jnp.isfinite(x) & (x > limit) for name, x in logits.items()}
        factors = {name: jnp.where(over[name], limit / jnp.where(over[name], x, 1), 1) for name, x in logits.items()}
        used = set()

        def clip(path, u, p):
            name = _tree.path_string(path)
            kind = kind_of(name)
            if kind is None or not _tree.is_number(p):
                return u
            which, axes = kind
            parents = [n for n in factors if not n or name == n or name.startswith(f"{n}/")]
            if not parents:
                raise ValueError(f"max_logits has nothing for {name}, only for {list(factors)}")
            attention = max(parents, key=len)
            used.add(attention)
            if not _tree.is_number(u):
                return u
            factor = factors[attention]
            power = (share, 1.0 - share, jnp.ones_like(share))[which]
            scale = _along(name, jnp.shape(p), axes, _numerics.power(factor, power))
            wide = _tree.wide_dtype(p)
            weight, step = jnp.asarray(p, wide), jnp.asarray(u, wide)
            scale = scale.astype(jnp.finfo(wide).dtype)
            return jnp.where(scale < 1.0, scale * (weight + step) - weight, step)

        clipped = jax.tree_util.tree_map_with_path(clip, updates, params, is_leaf=lambda x: x is None)
        if used != set(factors):
            raise ValueError(f"max_logits of {sorted(set(factors) - used)} belong to no query or key")
        every = [jnp.min(factor, initial=1.0) for factor in factors.values()]
        least = jnp.min(jnp.stack(every)) if every else jnp.ones_like(limit)
        new = QkClipState(_tree.increment(state.step), least.astype(state.least.dtype))
        return _tree.cast_like(clipped, params), new

    return optax.GradientTransformationExtraArgs(init, update)


def _along(name: str, shape: tuple[int, ...], axes: str, factors: jax.Array) -> jax.Array:
    """Factors `[layers, heads]` for a leaf of some shape, with axes of length one where it has others."""
    lengths = {letter: [n for n, axis in zip(shape, axes, strict=False) if axis == letter] for letter in "bh"}
    heads = factors.shape[-1] if factors.ndim else 0
    fits = len(axes) == len(shape) and list(factors.shape[:-1]) == lengths["b"]
    if not fits or not heads or lengths["h"][0] % heads:
        raise ValueError(f"max_logits{list(factors.shape)} do not fit {name}{list(shape)} with axes {axes!r}")
    factors = jnp.repeat(factors, lengths["h"][0] // heads, axis=-1)
    order = [i for i, axis in enumerate(axes) if axis == "b"] + [axes.index("h")]
    factors = factors.transpose([order.index(i) for i in sorted(order)])
    return factors.reshape([n if axis in "bh" else 1 for n, axis in zip(shape, axes, strict=True)])
