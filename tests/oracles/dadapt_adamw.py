"""AdamW with D-adaptation, float64."""

import numpy as np

from tests.oracles.optimizers import _at, _ratio

SEES_ALL_LEAVES = True
FIXED = {"rate": 0.01}  # that of the tests, for the direction alone
HYPERPARAMETERS = {"growth_rate": (1.5,)}


def dadapt_adamw(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    d0=1e-6,
    growth_rate=np.inf,
    weight_decay=0.0,
):
    updates, d = [], d0
    m, v, s, r, mass1, mass2 = 0.0 * params, 0.0 * np.abs(params), 0.0 * params, 0.0, 0.0, 0.0
    for step, g in enumerate(gradients):
        decay1, decay2, rate, least = (_at(step, x) for x in (b1, b2, learning_rate, eps))
        keep = np.sqrt(decay2)
        mass1, mass2 = decay1 * mass1 + 1 - decay1, decay2 * mass2 + 1 - decay2
        size = d * np.sqrt(mass2) / mass1
        r = keep * r + (1 - keep) * rate * size * np.sum(_ratio((np.conj(g) * s).real, np.sqrt(v) + least))
        m = decay1 * m + (1 - decay1) * size * g
        v = decay2 * v + (1 - decay2) * np.abs(g) ** 2
        s = keep * s + (1 - keep) * rate * size * g
        length = np.sum(np.abs(s))
        found = r / ((1 - keep) * length) if length > 0 else 0.0
        u = _ratio(m, np.sqrt(v) + least)
        updates.append(-rate * (u + size * _at(step, weight_decay) * params))
        params, d = params + updates[-1], max(d, min(found, d * growth_rate))
    return updates
