"""The best sequence of tags that depend on their neighbours."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check
from lossax._sequences import chain
from lossax._tile import over_sets


def _entry(array: jax.Array, index: jax.Array) -> jax.Array:
    """The entry of the first axis: by a choice, as explicit meshes would have to be told where a gather goes."""
    here = lax.iota(jnp.int32, len(array)) == index
    here = here.reshape(here.shape + (1,) * (array.ndim - 1))
    return jnp.sum(jnp.where(here, array, 0), axis=0)


def _decode(
    logits: jax.Array, keep: jax.Array, transitions: jax.Array, starts: jax.Array, ends: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Labels `[steps]` and score of one sequence."""
    alike = lax.iota(jnp.int32, logits.shape[-1]) + jnp.zeros_like(logits[0], jnp.int32)  # sharded like the logits

    def forward(state, step):
        best, begun = state
        logits, keep = step
        pairs = best[:, None] + transitions
        total = jnp.where(begun, jnp.max(pairs, axis=0), starts) + logits
        most = jnp.max(total)
        total = total - jnp.where(jnp.isfinite(most), most, 0)  # near 0 it has the most digits
        origin = jnp.where(keep & begun, jnp.argmax(pairs, axis=0).astype(jnp.int32), alike)
        return (jnp.where(keep, total, best), begun | keep), (origin, begun)

    begin = (jnp.zeros_like(logits[0]), jnp.zeros_like(keep[0]))
    (best, _), (origin, begun) = lax.scan(forward, begin, (lax.stop_gradient(logits), keep))
    last = jnp.argmax(best + ends).astype(jnp.int32)

    def backward(tag, step):
        logits, keep, origin, begun = step
        before = _entry(origin, tag)
        into = jnp.where(begun, _entry(transitions, before), starts)
        return before, (tag, jnp.where(keep, _entry(into + logits, tag), 0.0))

    _, (path, terms) = lax.scan(backward, last, (logits, keep, origin, begun), reverse=True)
    score = jnp.sum(terms) + jnp.where(jnp.any(keep), _entry(ends, last), 0.0)
    return jnp.where(keep, path, -1), score


@jax.jit  # loops are compiled once, not at every call outside of jit
def _decoded(logits: jax.Array, keep: jax.Array, scores: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    return over_sets(lambda *sequence: _decode(*sequence, *scores), keep.ndim - 1)(logits, keep)


def viterbi(
    logits: jax.Array,
    *,
    transitions: ArrayLike,
    starts: ArrayLike | None = None,
    ends: ArrayLike | None = None,
    step_where: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    r"""The sequence of tags with the highest score, where tags depend on their neighbours: decodes a CRF.

    .. math:: \operatorname{argmax}_u \Big(a_{u_1} + \sum_t z_{t, u_t} + \sum_{t > 1} A_{u_{t - 1}, u_t} + b_{u_T}\Big)

    For what `losses.linear_chain_crf` has trained, with the same arguments, and for hidden Markov models, whose log
    probabilities are the scores. Tags that are best one by one may make a sequence that is forbidden, or bad.
    O(steps tags^2) time, O(steps tags) memory. The score is differentiable by the logits and all scores along the path
    that was chosen; its excess over that of the true labels is the loss of the structured perceptron.

    Args:
      logits: Score of each tag at each step, float `[..., steps, tags]`; -inf is a tag that cannot be there.
      transitions: Score of each tag (second axis) after another (first axis), real `[tags, tags]`.
      starts: Score of each tag as the first, real `[tags]`; `None` is 0.
      ends: Score of each tag as the last, real `[tags]`; `None` is 0.
      step_where: Steps that exist, bool `[..., steps]`; others, at the ends or between, are left out of the sequence.

    Returns:
      Tags, int32 `[..., steps]`, -1 at steps that do not exist, and the score of the sequence, float `[...]`: -inf if
      no sequence is allowed. Of equal sequences it is one of them.

    Raises:
      TypeError: if `logits` are not floating point or `step_where` not bool.
      ValueError: if shapes do not fit or there is no step.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[0.0, 2.0], [1.0, 0.0]])
      >>> transitions = jnp.array([[0.0, 0.0], [-jnp.inf, 0.0]])  # 1 is never followed by 0
      >>> labels, score = viterbi(logits, transitions=transitions)
      >>> labels.tolist(), score.item()
      ([1, 1], 2.0)

    Reference:
      Viterbi, *Error bounds for convolutional codes and an asymptotically optimum decoding algorithm*, 1967.
    """
    _check.floating(logits=logits)
    return _decoded(*chain(logits, step_where, transitions, starts, ends))
