"""Prodigy, float64: its sums in units of 1 as in the paper."""

import numpy as np

from tests.oracles.optimizers import _at, _ratio

SEES_ALL_LEAVES = True
FIXED = {"rate": 0.01}  # that of the tests, for the direction alone
HYPERPARAMETERS = {"growth_rate": (1.5,)}


def prodigy(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    b3=None,
    eps=1e-8,
    d0=1e-6,
    d_coef=1.0,
    growth_rate=np.inf,
    bias_correction=True,
    safeguard_warmup=False,
    weight_decay=0.0,
):
    updates, start, d, largest = [], params, d0, d0
    m, v, s, r, mass1, mass2 = 0.0 * params, 0.0 * np.abs(params), 0.0 * params, 0.0, 0.0, 0.0
    for step, g in enumerate(gradients):
        decay1, decay2 = _at(step, b1), _at(step, b2)
        decay3 = np.sqrt(decay2) if b3 is None else _at(step, b3)
        mass1, mass2 = decay1 * mass1 + 1 - decay1, decay2 * mass2 + 1 - decay2
        correction = np.sqrt(mass2) / mass1 if bias_correction else 1.0
        rate = _at(step, learning_rate) * correction
        m = decay1 * m + (1 - decay1) * d * g
        v = decay2 * v + (1 - decay2) * np.abs(d * g) ** 2
        r = decay3 * r + rate * d * d * np.sum(np.conj(g) * (start - params)).real
        s = decay3 * s + (d if safeguard_warmup else rate * d) * d * g
        size = np.sum(np.abs(s))
        largest = max(largest, _at(step, d_coef) * r / size if size > 0 else 0.0)
        after = largest if d == d0 else min(largest, d * growth_rate)
        u = _ratio(m, np.sqrt(v) + after * _at(step, eps))
        updates.append(-rate * d * (u + _at(step, weight_decay) * params))
        params, d = params + updates[-1], after
    return updates
