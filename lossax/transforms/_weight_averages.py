"""Averages of the parameters whose memory is not a fixed number of steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _hyper, _tree
from lossax._types import Hyperparameter, PyTree


class SwaState(NamedTuple):
    """Number of updates, equal average of the parameters, of how many, and the state of the optimizer."""

    step: jax.Array
    average: PyTree
    count: jax.Array
    inner: PyTree

    def eval_params(self, params: PyTree) -> PyTree:
        """The average, or the parameters where there is none."""
        return _chosen(self.count > 0, self.average, params)


class LawaState(NamedTuple):
    """Number of updates, the latest parameters, how many were taken so far, and the state of the optimizer."""

    step: jax.Array
    latest: PyTree
    count: jax.Array
    inner: PyTree

    def eval_params(self, params: PyTree) -> PyTree:
        """The average of the latest, or the parameters where there are none."""

        def mean(latest, count):
            filled = jnp.clip(count, 1.0, latest.shape[0])  # the others are 0
            return _tree.parts(lambda x: jnp.sum(x, axis=0) / filled, latest)

        average = _tree.map(mean, self.latest, scalars=(self.count,))
        return _chosen(self.count > 0, average, params)


class PowerEmaState(NamedTuple):
    """Number of updates, average of the parameters, and the state of the optimizer."""

    step: jax.Array
    average: PyTree
    inner: PyTree

    def eval_params(self, params: PyTree) -> PyTree:
        """The average, or the parameters where there is none."""
        return _chosen(self.step > 0, self.average, params)


def _chosen(exists: jax.Array, average: PyTree, params: PyTree) -> PyTree:
    return _tree.cast_like(_tree.map(lambda p, mean: jnp.where(exists, mean, p), params, average), params)


def _after(params: PyTree, updates: PyTree) -> PyTree:
    """The numbers among the parameters as they will be stored."""
    after = _tree.added(params, updates)
    return jax.tree.map(lambda p: p if _tree.is_number(p) else None, after, is_leaf=lambda x: x is None)


def _due(made: jax.Array, step: jax.Array, start: Hyperparameter, every: Hyperparameter) -> jax.Array:
    """Whether so many updates are `start` and a multiple of `every` more."""
    first, period = (jnp.round(_hyper.scalar(_hyper.at(step, x))).astype(jnp.int32) for x in (start, every))
    return (made > first) & ((made - first) % jnp.maximum(period, 1) == 0)


def swa(
    optimizer: optax.GradientTransformation, start: Hyperparameter = 0, *, every: Hyperparameter = 1
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that also keeps the equal average of the parameters from some step on, for `eval_params`.

    .. math:: \bar w = \frac1n \sum_{i=1}^n w_{s + i k}

    Stochastic weight averaging: the last quarter of a run, at a rate that stays high, averaged once in an epoch. Before
    the first is taken `eval_params` returns the parameters. Statistics of batch normalization must be gathered anew at
    the average. Around the whole optimizer, and inside what accumulates gradients over steps. torch's `AveragedModel`
    with `update_parameters` after those steps is the same.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it. Its updates are left as they are.
      start: Number of updates that come before, nonnegative, rounded to a whole number.
      every: Number of updates from one that is averaged to the next, at least 1, rounded to a whole number.

    Returns:
      An optimizer with state `SwaState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if a known number is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from lossax.transforms import eval_params
      >>> tx = swa(optax.sgd(1.0), 1)
      >>> params = jnp.array(0.0)
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = params + updates
      >>> eval_params(state, params).item()  # of 2 and 3
      2.5

    Reference:
      Izmailov et al., *Averaging weights leads to wider optima and better generalization*, 2018.
    """
    _check.transformation(optimizer=optimizer)
    _check.nonnegative(start=start)
    _check.at_least(1, every=every)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> SwaState:
        step, count = (jnp.zeros((), jnp.int32) for _ in range(2))
        return SwaState(step, _tree.zeros_like(params), count, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "it averages them")
        updates, new = inner.update(updates, state.inner, params, **extra_args)
        step = _tree.increment(state.step)
        due = _due(step, state.step, start, every)
        count = jnp.where(due, _tree.increment(state.count), state.count)

        def take():
            share = 1.0 / jnp.maximum(count, 1).astype(_hyper.default_float())
            return _tree.approach(_after(params, updates), state.average, share)

        average = jax.lax.cond(due, take, lambda: state.average)
        return updates, SwaState(step, average, count, new)

    return optax.GradientTransformationExtraArgs(init, update)


def lawa(
    optimizer: optax.GradientTransformation, every: Hyperparameter, *, size: int = 6
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that also keeps its latest checkpoints, whose average `eval_params` returns.

    .. math:: \bar w = \frac1k \sum_{i=0}^{k-1} w_{(n - i) m}

    Latest weight averaging: in the middle of a run at a high rate the average is as good as the parameters are much
    later. It forgets all at once what an exponential average (`average_parameters`) forgets little by little, at the
    price of `size` copies in the dtype of the parameters. Around the whole optimizer, and inside what accumulates
    gradients over steps.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it. Its updates are left as they are.
      every: Number of updates from one checkpoint to the next, at least 1, rounded to a whole number; often an epoch.
      size: Number of checkpoints that are kept.

    Returns:
      An optimizer with state `LawaState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation, or `size` no Python integer.
      ValueError: if a known number is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from lossax.transforms import eval_params
      >>> tx = lawa(optax.sgd(1.0), 1, size=2)
      >>> params = jnp.array(0.0)
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = params + updates
      >>> eval_params(state, params).item()  # of 2 and 3
      2.5

    Reference:
      Kaddour, *Stop wasting my time! Saving days of ImageNet and BERT training with latest weight averaging*, 2022.
    """
    _check.transformation(optimizer=optimizer)
    _check.at_least(1, every=every)
    _check.count(size=size)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> LawaState:
        def places(p):
            return jnp.stack([jnp.zeros_like(p, dtype=_tree.dtype_of(p))] * size) if _tree.is_number(p) else None

        step, count = (jnp.zeros((), jnp.int32) for _ in range(2))
        return LawaState(step, jax.tree.map(places, params, is_leaf=lambda x: x is None), count, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "it keeps them")
        updates, new = inner.update(updates, state.inner, params, **extra_args)
        step = _tree.increment(state.step)
        due = _due(step, state.step, 0, every)

        def take():
            def put(latest, p):
                if latest is None:
                    return None
                return jax.lax.dynamic_update_index_in_dim(latest, jnp.asarray(p, latest.dtype), state.count % size, 0)

            return jax.tree.map(put, state.latest, _after(params, updates), is_leaf=lambda x: x is None)

        latest = jax.lax.cond(due, take, lambda: state.latest)
        count = jnp.where(due, _tree.increment(state.count), state.count)
        return updates, LawaState(step, latest, count, new)

    return optax.GradientTransformationExtraArgs(init, update)


def power_ema(
    optimizer: optax.GradientTransformation, gamma: Hyperparameter = 6.94
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that also keeps an average over a fixed share of the run so far, for `eval_params`.

    .. math:: \bar w \leftarrow \beta_t \bar w + (1 - \beta_t)\, w_t, \qquad \beta_t = (1 - 1/t)^{\gamma + 1}

    Parameter t weighs as :math:`t^\gamma`: the memory grows with the run, so one number suits runs of any length, and
    the start is forgotten. Its width relative to the run is
    :math:`\sqrt{\gamma + 1} / ((\gamma + 2) \sqrt{\gamma + 3})`: 0.1 for 6.94, 0.05 for 16.97. The average of diffusion
    models. Around the whole optimizer, and inside what accumulates gradients over steps.

    Args:
      optimizer: What makes the steps; extra arguments of `update` reach it. Its updates are left as they are.
      gamma: Power of the number of the step in the weights, nonnegative; 0 is the equal average.

    Returns:
      An optimizer with state `PowerEmaState`; `update` needs `params`.

    Raises:
      TypeError: if `optimizer` is no transformation.
      ValueError: if a known `gamma` is out of range, or `update` gets no `params`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from lossax.transforms import eval_params
      >>> tx = power_ema(optax.sgd(1.0), 1.0)
      >>> params = jnp.array(0.0)
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update(jnp.array(-1.0), state, params)
      ...     params = params + updates
      >>> eval_params(state, params).item()  # 1, then a quarter of 1 and three of 2
      1.75

    Reference:
      Karras et al., *Analyzing and improving the training dynamics of diffusion models*, 2024.
    """
    _check.transformation(optimizer=optimizer)
    _check.nonnegative(gamma=gamma)
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> PowerEmaState:
        return PowerEmaState(jnp.zeros((), jnp.int32), _tree.zeros_like(params), inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        _tree.require_params(params, "it averages them")
        updates, new = inner.update(updates, state.inner, params, **extra_args)
        step = _tree.increment(state.step)
        number = jnp.maximum(step, 2).astype(_hyper.default_float())
        take = -jnp.expm1((_hyper.scalar(_hyper.at(state.step, gamma)) + 1.0) * jnp.log1p(-1.0 / number))
        take = jnp.where(step > 1, take, 1)
        average = _tree.approach(_after(params, updates), state.average, take)
        return updates, PowerEmaState(step, average, new)

    return optax.GradientTransformationExtraArgs(init, update)
