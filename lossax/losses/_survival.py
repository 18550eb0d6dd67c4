"""Losses of cohorts: each individual is compared with those still at risk; one unit per cohort."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _choices
from lossax._reduction import masked, reduce, unit_weights
from lossax._tile import whole
from lossax._types import Reduction


def cox_partial_likelihood(
    log_hazards: jax.Array,
    times: jax.Array,
    events: jax.Array,
    *,
    ties: Literal["efron", "breslow"] = "efron",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Negative log partial likelihood of Cox's proportional hazards: who of those at risk had the event.

    .. math::
      \ell = -\frac 1 {\sum_i \delta_i} \sum_{i:\, \delta_i = 1}
      \Big(\eta_i - \log \sum_{j:\, t_j \ge t_i} e^{\eta_j}\Big)

    For times to an event that for some had not come when they were last seen (censored), where only the order of risks
    counts and no law of the times is assumed. It is the mean over events, so that cohorts of different sizes compare:
    times the number of events it is minus the log likelihood that R's `coxph`, lifelines and statsmodels' `PHReg`
    report. Events of one time are taken in random order, on average, by Efron (R's and lifelines' default), or each
    against the whole group by Breslow (statsmodels' default), which is further off where ties are many. Pycox and most
    other deep learning code break ties by the order of the data. Sorting makes it O(n log n). A cohort without events
    costs 0. Batches of a large cohort see small groups at risk: keep them large.

    Weights are those of `coxph`: by Breslow a weight of 2 is an individual twice, by Efron tied events share the mean
    of their weights.

    Args:
      log_hazards: Log relative hazards eta, float `[..., n]`; only differences matter, -inf is never at risk.
      times: When each individual was last seen, real `[..., n]`.
      events: Whether the event came then, bool `[..., n]`; those censored at that time were still at risk.
      ties: How events of one time are counted, `"efron"` or `"breslow"`.
      where: Elements to keep, bool `[..., n]`.
      weights: Weight of each element, float `[..., n]`.
      reduction: `"mean"` over the sets that keep something, `"sum"`, or `"none"`.

    Returns:
      A scalar, or `[...]` for `"none"`; nonnegative without weights.

    Raises:
      TypeError: if `log_hazards` are not floating point or `events` not bool.
      ValueError: if shapes differ, `ties` is unknown or a known time is NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> times, events = jnp.array([3.0, 1.0, 2.0]), jnp.array([True, True, False])
      >>> value = cox_partial_likelihood(jnp.zeros(3), times, events)
      >>> round(value.item(), 4)  # one of three, then the only one left: (log 3 + log 1) / 2
      0.5493

    Reference:
      Cox, *Regression models and life-tables*, 1972; Efron, *The efficiency of Cox's likelihood function for censored
      data*, 1977.
    """
    _check.floating(log_hazards=log_hazards)
    _check.real(times=times)
    _check.boolean(events=events)
    _check.choice(("efron", "breslow"), ties=ties)
    _check.same_shape(log_hazards=log_hazards, times=times, events=events)
    _check.units_of({"log_hazards": log_hazards})
    log_hazards, times, events, where, weights = whole((log_hazards, times, events, where, weights), 1)
    (log_hazards,), (times,) = masked(where, log_hazards), masked(where, times)
    if jnp.issubdtype(times.dtype, jnp.floating):
        times = _check.domain("numbers", lambda t: t == t, times=times)
    kept = unit_weights(log_hazards.shape, where, weights, dtype=log_hazards.dtype)
    events, times = jnp.asarray(events), lax.stop_gradient(times)
    total = jnp.sum(jnp.where(events, kept, 0), axis=-1, keepdims=True)
    values = _choices.negative_log_likelihood(log_hazards, times, events, kept, efron=ties == "efron", total=total)
    values = jnp.where(jnp.any(times != times, axis=-1), jnp.nan, values)
    return reduce(values, jnp.sum(kept, axis=-1) > 0, None, reduction)
