"""Clipping at limits that the weights or the past set: adaptive clipping, AutoClip, ZClip, AdaGC, spikes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _numerics, _tree, _units
from lossax._types import Hyperparameter, PyTree, UnitAxes


class AdaptiveGradClipState(NamedTuple):
    """Number of updates, and the share of the units that the last one clipped."""

    step: jax.Array
    clipped: jax.Array


class AutoclipState(NamedTuple):
    """Number of updates, the norms remembered and their number, and of the last update norm, limit, whether clipped."""

    step: jax.Array
    norms: jax.Array
    recorded: jax.Array
    norm: jax.Array
    limit: jax.Array
    clipped: jax.Array


class ZclipState(NamedTuple):
    """Number of updates, mean, variance and number of the norms, and of the last norm, limit, whether clipped."""

    step: jax.Array
    mean: jax.Array
    variance: jax.Array
    recorded: jax.Array
    norm: jax.Array
    limit: jax.Array
    clipped: jax.Array


class AdagcState(NamedTuple):
    """Number of updates, average norm of each leaf, and of the last update the norm and the share of leaves clipped."""

    step: jax.Array
    norms: PyTree
    norm: jax.Array
    clipped: jax.Array


class SpikeAwareClipState(NamedTuple):
    """Number of updates, average square and its mass (see `_tree.mass`), and the share of entries clipped last."""

    step: jax.Array
    nu: PyTree
    nu_mass: jax.Array
    clipped: jax.Array


def _zero() -> jax.Array:
    return jnp.zeros((), _hyper.default_float())


def _share(flags: list[jax.Array]) -> jax.Array:
    """The share of all flags that are up, 0 if there are none."""
    up = sum((jnp.sum(flag, dtype=_hyper.default_float()) for flag in flags), _zero())
    return up / max(sum(flag.size for flag in flags), 1)


def _remembered(norm: jax.Array) -> jax.Array:
    """Whether a norm says something of those to come: no step of nothing, no overflow, no NaN."""
    return jnp.isfinite(norm) & (norm > 0)


def adaptive_grad_clip(
    clipping: Hyperparameter = 0.01, *, eps: Hyperparameter = 1e-3, unit_axes: UnitAxes = -1
) -> optax.GradientTransformation:
    r"""No gradient of a unit longer than a share of its weights: AGC.

    .. math:: g_i \leftarrow g_i \min\big(1,\; c \max(\lVert w_i \rVert, \epsilon) / \lVert g_i \rVert\big)

    For networks without normalization, at large batches and high rates. A unit is what feeds one output, as
    `unit_axes` says: -1 is right for Flax, Haiku and Keras kernels `(..., in, out)`, 0 for torch and Equinox weights,
    `(0, -1)` for kernels stacked for a scan; a vector is one unit, so is a scalar. Brock leaves the last layer alone:
    `unit_axes=lambda path, leaf: None if "head" in path else -1 if leaf.ndim > 1 else ()`. `describe_units` shows what
    a rule does. Optax guesses the axes from the number of dimensions, as if those of three were stacked without a word.

    Args:
      clipping: Largest norm of a gradient as a share of its weights', positive; infinity turns it off. 0.01 to 0.16,
        the smaller the larger the batch.
      eps: Least norm of weights that counts, nonnegative, so that units may leave 0.
      unit_axes: Axes that tell units apart, or a function of path and leaf that returns them, `()` for the whole leaf
        or `None` to leave it alone.

    Returns:
      A transformation with state `AdaptiveGradClipState`; `update` needs `params`.

    Raises:
      ValueError: if a known hyperparameter is out of range, or `update` gets no `params`.
      TypeError: if `unit_axes` is no axis, tuple or function.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adaptive_grad_clip(0.5)
      >>> kernel = jnp.array([[3.0, 0.0], [4.0, 1.0]])  # two units, of norms 5 and 1
      >>> updates, state = tx.update(jnp.array([[0.0, 0.3], [5.0, 0.4]]), tx.init(kernel), kernel)
      >>> [[round(x, 4) for x in row] for row in updates.tolist()], state.clipped.item()
      ([[0.0, 0.3], [2.5, 0.4]], 0.5)

    Reference:
      Brock, De, Smith and Simonyan, *High-performance large-scale image recognition without normalization*, 2021.
    """
    _check.positive(clipping=clipping)
    _check.nonnegative(eps=eps)
    _units.check(unit_axes)

    def init(params: PyTree) -> AdaptiveGradClipState:
        del params
        return AdaptiveGradClipState(jnp.zeros((), jnp.int32), _zero())

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        _tree.require_params(params, "gradients are compared with them")
        flags = []

        def clip(u, p, units, clipping, eps):
            unit, length = _tree.scaled_norms(p, units.within)
            limit = clipping * jnp.maximum(unit * length, eps)
            unit, length = _tree.scaled_norms(u, units.within)
            flags.append(unit * length > limit)
            return _tree.shorten(u, unit, length, limit)

        scalars = (_hyper.at(state.step, clipping), _hyper.at(state.step, eps))
        clipped = _tree.map(clip, updates, params, _units.resolve(unit_axes, updates), scalars=scalars)
        return _tree.cast_like(clipped, updates), AdaptiveGradClipState(_tree.increment(state.step), _share(flags))

    return optax.GradientTransformation(init, update)


def autoclip(percentile: Hyperparameter = 10.0, *, window: int = 1000) -> optax.GradientTransformation:
    r"""No update longer than a percentile of the norms so far: AutoClip.

    .. math:: u \leftarrow u \min(1, c_t / \lVert u \rVert), \qquad
      c_t = Q_p(\lVert u_{t-k+1} \rVert, \dots, \lVert u_t \rVert)

    The limit follows the training, so there is none to tune; but at the default nine updates in ten are clipped, which
    makes it nearly the normalised gradient. To catch only spikes take `zclip` or a percentile above 90. The norms
    remembered are those before clipping; 0, infinity and NaN are not. The paper's window is all of the past.

    Args:
      percentile: Of the norms, in [0, 100], interpolated linearly as in NumPy.
      window: Number of norms remembered.

    Returns:
      A transformation with state `AutoclipState`.

    Raises:
      ValueError: if a known `percentile` is not in [0, 100], or `window` is below 1.
      TypeError: if `window` is no Python integer.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = autoclip(50.0)
      >>> _, state = tx.update(jnp.array([0.0, 2.0]), tx.init(None))
      >>> updates, state = tx.update(jnp.array([0.0, 6.0]), state)
      >>> updates.tolist(), state.limit.item()
      ([0.0, 4.0], 4.0)

    Reference:
      Seetharaman, Wichern, Pardo and Le Roux, *AutoClip: adaptive gradient clipping for source separation networks*,
      2020.
    """
    _check.within(0.0, 100.0, percentile=percentile)
    _check.count(window=window)

    def init(params: PyTree) -> AutoclipState:
        del params
        count = jnp.zeros((), jnp.int32)
        norms = jnp.zeros((window,), _hyper.default_float())
        return AutoclipState(count, norms, jnp.zeros((), jnp.int32), _zero(), _zero(), _zero())

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        unit, length = _tree.scaled_norm(updates)
        norm = (unit * length).astype(state.norm.dtype)
        good, places = _remembered(norm), jnp.arange(window)
        norms = jnp.where(good & (places == state.recorded % window), norm, state.norms)
        recorded = jnp.where(good, _tree.increment(state.recorded), state.recorded)
        filled = jnp.minimum(recorded, window)
        kept = places < filled
        ordered = jnp.sort(jnp.where(kept, norms, jnp.full_like(norms, jnp.inf)))
        ordered = jnp.where(kept, ordered, 0)
        last = jnp.maximum(filled - 1, 0)
        place = 0.01 * _hyper.at(state.step, percentile) * last.astype(norms.dtype)
        low = jnp.minimum(jnp.floor(place).astype(jnp.int32), last)
        at_low, above = ordered[low], ordered[jnp.minimum(low + 1, last)]
        limit = at_low + (place - low.astype(norms.dtype)) * (above - at_low)
        limit = jnp.where(recorded > 0, limit, jnp.full_like(limit, jnp.inf))
        clipped = _tree.map(_tree.shorten, updates, scalars=(unit, length, limit))
        flag = (norm > limit).astype(norm.dtype)
        return _tree.cast_like(clipped, updates), AutoclipState(
            _tree.increment(state.step), norms, recorded, norm, limit, flag
        )

    return optax.GradientTransformation(init, update)


def zclip(
    threshold: Hyperparameter = 2.5, *, decay: Hyperparameter = 0.97, warmup: Hyperparameter = 25
) -> optax.GradientTransformation:
    r"""No update whose norm stands out from those before it: ZClip.

    .. math::
      u \leftarrow u \frac{\mu + (\theta^2 / z)\,\sigma}{\lVert u \rVert} \;\text{ if }\;
      z = \frac{\lVert u \rVert - \mu}{\sigma} > \theta

    with mean and variance of the norms, as they are after clipping, over the recent past. Ordinary updates pass as they
    are; the further out a norm is, the nearer to the mean it comes back. For pretraining, together with the customary
    `clip_by_global_norm(1.0)` after it, which the authors' program has built in. Not where norms rise at one stroke and
    stay there, as when the data change: what is clipped teaches nothing of the new height.

    Nothing is clipped in the warmup, from which mean and variance start, nor while all norms were equal. Norms that are
    0, infinite or NaN teach nothing; an infinite one is clipped to the mean, see `clip_by_global_norm`.

    Args:
      threshold: Number of standard deviations above the mean from which on norms are clipped, positive.
      decay: Share of the past that mean and variance keep, in [0, 1).
      warmup: Number of updates at first that are not clipped, at least 2.

    Returns:
      A transformation with state `ZclipState`; `state.limit` is infinite where the last update passed.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = zclip(2.0, warmup=2)
      >>> state = tx.init(None)
      >>> for norm in (4.0, 6.0):  # mean 5, standard deviation 1
      ...     _, state = tx.update(jnp.array([norm]), state)
      >>> updates, state = tx.update(jnp.array([9.0]), state)  # z = 4, clipped to 5 + 2^2 / 4
      >>> updates.tolist(), state.clipped.item()
      ([6.0], 1.0)

    Reference:
      Kumar, Owen, Chowdhury and Güra, *ZClip: adaptive spike mitigation for LLM pre-training*, 2025.
    """
    _check.positive(threshold=threshold)
    _check.decay(decay=decay)
    _check.at_least(2, warmup=warmup)

    def init(params: PyTree) -> ZclipState:
        del params
        step, recorded = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return ZclipState(step, _zero(), _zero(), recorded, _zero(), _zero(), _zero())

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        unit, length = _tree.scaled_norm(updates)
        norm = (unit * length).astype(state.norm.dtype)
        z, seen = _hyper.at(state.step, threshold), state.recorded.astype(norm.dtype)
        warm = seen < _hyper.at(state.step, warmup)
        gap, spread = norm - state.mean, z * _numerics.sqrt(state.variance)
        spike = ~warm & (gap > spread) & (spread > 0)
        limit = state.mean + spread * _numerics.divide(spread, gap)
        limit = jnp.where(spike, limit, jnp.full_like(limit, jnp.inf))
        clipped = _tree.map(_tree.shorten, updates, scalars=(unit, length, limit))
        # In the warmup plain mean and variance of what was seen, then the paper's averages.
        after = jnp.where(spike, limit, norm)
        good = _remembered(after)
        after = jnp.where(good, after, state.mean)
        keep = jnp.where(warm, seen / (seen + 1.0), jnp.asarray(_hyper.at(state.step, decay), norm.dtype))
        mean = keep * state.mean + (1.0 - keep) * after
        other = after - jnp.where(warm, state.mean, mean)
        variance = keep * state.variance + _numerics.positive_part((1.0 - keep) * (after - mean) * other)
        return _tree.cast_like(clipped, updates), ZclipState(
            _tree.increment(state.step),
            jnp.where(good, mean, state.mean),
            jnp.where(good, variance, state.variance),
            jnp.where(good, _tree.increment(state.recorded), state.recorded),
            norm,
            limit,
            spike.astype(norm.dtype),
        )

    return optax.GradientTransformation(init, update)


def adagc(
    limit: Hyperparameter = 1.0,
    *,
    factor: Hyperparameter = 1.05,
    decay: Hyperparameter = 0.98,
    warmup: Hyperparameter = 100,
) -> optax.GradientTransformation:
    r"""No leaf much longer than it was of late: AdaGC.

    .. math::
      u_i \leftarrow u_i \min(1, \lambda \gamma_i / \lVert u_i \rVert), \qquad
      \gamma_i \leftarrow \beta \gamma_i + (1 - \beta) \lVert u_i \rVert \;\text{ after clipping}

    At first, while there is no past to go by, `clip_by_global_norm(limit)`, with :math:`\gamma_i` the least norm that
    was left. A leaf whose gradient explodes does not slow the others, and the limits come down as the gradients do.

    A leaf without a norm to go by, because its gradient was 0 throughout, is not clipped; the paper's rule would hold
    it at 0 for ever. Norms that are 0, infinite or NaN are not averaged.

    Args:
      limit: Largest norm, all leaves taken together, in the warmup, positive.
      factor: Largest norm of a leaf as a multiple of its average, positive.
      decay: Share of the past that the averages keep, in [0, 1).
      warmup: Number of updates at first that are clipped together, nonnegative.

    Returns:
      A transformation with state `AdagcState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = adagc(1.0, factor=2.0, decay=0.5, warmup=1)
      >>> _, state = tx.update([jnp.array([0.3]), jnp.array([0.4])], tx.init([jnp.zeros(1), jnp.zeros(1)]))
      >>> updates, state = tx.update([jnp.array([3.0]), jnp.array([0.4])], state)
      >>> [round(u.item(), 4) for u in updates], [round(n.item(), 4) for n in state.norms]
      ([0.6, 0.4], [0.45, 0.4])

    Reference:
      Wang et al., *AdaGC: enhancing LLM pretraining stability via adaptive gradient clipping*, 2025.
    """
    _check.positive(limit=limit, factor=factor)
    _check.decay(decay=decay)
    _check.nonnegative(warmup=warmup)

    def init(params: PyTree) -> AdagcState:
        norms = jax.tree.map(
            lambda p: jnp.zeros((), _tree.wide_dtype(p, real=True)) if _tree.is_number(p) else None,
            params,
            is_leaf=lambda x: x is None,
        )
        return AdagcState(jnp.zeros((), jnp.int32), norms, _zero(), _zero())

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        unit, length = _tree.scaled_norm(updates)
        norm = (unit * length).astype(state.norm.dtype)
        warm = state.step.astype(norm.dtype) < _hyper.at(state.step, warmup)
        most = _hyper.at(state.step, limit)
        share = jnp.minimum(_numerics.divide(jnp.asarray(most, norm.dtype), norm, 1.0), 1.0)

        def own(u, average, factor):
            """Norm of a leaf in two parts, and the limit that its own past sets."""
            unit, length = _tree.scaled_norm(u)
            past = jnp.where(average > 0, factor * average, jnp.full_like(average, jnp.inf))
            return unit, length, past

        flags = []

        def clip(u, average, unit, length, most, factor):
            together, whole = _tree.shorten(u, unit, length, most), unit * length
            unit, length, past = own(u, average, factor)
            flags.append(jnp.where(warm, whole > most, unit * length > past))
            return jnp.where(warm, together, _tree.shorten(u, unit, length, past))

        def learn(average, u, share, factor, keep):
            unit, length, past = own(u, average, factor)
            left = jnp.where(warm, unit * length * share, jnp.minimum(unit * length, past))
            # At first the least, then an average.
            new = jnp.where(warm, jnp.minimum(average, left), keep * average + (1.0 - keep) * left)
            new = jnp.where(average > 0, new, left)
            return jnp.where(_remembered(left), new, average)

        relative, keep = _hyper.at(state.step, factor), _hyper.at(state.step, decay)
        clipped = _tree.map(clip, updates, state.norms, scalars=(unit, length, most, relative))
        norms = _tree.map(learn, state.norms, updates, scalars=(share, relative, keep))
        return _tree.cast_like(clipped, updates), AdagcState(
            _tree.increment(state.step), _tree.cast_like(norms, state.norms), norm, _share(flags)
        )

    return optax.GradientTransformation(init, update)


def spike_aware_clip(
    threshold: Hyperparameter = 5000.0, *, decay: Hyperparameter = 0.999
) -> optax.GradientTransformation:
    r"""No entry that towers over its own past: the clipping of SPAM.

    .. math:: u \leftarrow \operatorname{sign}(u) \sqrt{\theta \hat v} \;\text{ where }\; u^2 > \theta \hat v, \qquad
      v \leftarrow \beta v + (1 - \beta) u^2 \;\text{ after clipping}

    A spike is a gradient some hundred times its usual size in a few entries; it would spoil Adam's moments for
    thousands of steps. SPAM is `reset_momentum(chain(spike_aware_clip(), adam(...)))`. It costs one number for each
    parameter.

    The average is that of the updates before, its bias removed. An entry that was 0 throughout is not clipped: by the
    letter of the formula it would stay 0 for ever, and with it the row of a word that is rare.

    Args:
      threshold: Largest square, as a multiple of the average square, positive.
      decay: Share of the past that the average keeps, in [0, 1).

    Returns:
      A transformation with state `SpikeAwareClipState`.

    Raises:
      ValueError: if a known hyperparameter is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = spike_aware_clip(4.0)
      >>> _, state = tx.update(jnp.array([1.0, -1.0]), tx.init(jnp.zeros(2)))
      >>> updates, state = tx.update(jnp.array([1.5, -9.0]), state)
      >>> [round(u, 3) for u in updates.tolist()], state.clipped.item()
      ([1.5, -2.0], 0.5)

    Reference:
      Huang et al., *SPAM: spike-aware Adam with momentum reset for stable LLM training*, 2025.
    """
    _check.positive(threshold=threshold)
    _check.decay(decay=decay)

    def init(params: PyTree) -> SpikeAwareClipState:
        return SpikeAwareClipState(jnp.zeros((), jnp.int32), _tree.zeros_like(params, real=True), _zero(), _zero())

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        del params
        flags = []

        def clip(u, nu, mass, threshold):
            limit = _numerics.sqrt(threshold * _numerics.divide(nu, mass))
            spike = (nu > 0) & (jnp.abs(u) > limit)
            flags.append(spike)
            return jnp.where(spike, jnp.sign(u) * limit, u)

        scalars = (state.nu_mass, _hyper.at(state.step, threshold))
        clipped = _tree.map(clip, updates, state.nu, scalars=scalars)
        keep = _hyper.at(state.step, decay)
        nu = _tree.moment(clipped, state.nu, keep, order=2)
        return _tree.cast_like(clipped, updates), SpikeAwareClipState(
            _tree.increment(state.step), nu, _tree.mass(state.nu_mass, keep), _share(flags)
        )

    return optax.GradientTransformation(init, update)
