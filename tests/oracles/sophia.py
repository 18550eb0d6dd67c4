"""Sophia, float64: given the curvature that was measured at each step."""

import numpy as np

from tests.oracles.optimizers import _at


def sophia(
    params,
    gradients,
    learning_rate,
    *,
    curvatures=None,
    b1=0.965,
    b2=0.99,
    gamma=0.01,
    eps=1e-8,
    clip_threshold=1.0,
    every=10,
    debias=False,
    weight_decay=1e-4,
):
    """`curvatures` is a function of the step and the parameters; the sum of squares has 2 everywhere."""
    updates, m, h, mass = [], np.zeros_like(params), np.zeros_like(params), 0.0
    for step, g in enumerate(gradients):
        if step % max(round(_at(step, every)), 1) == 0:
            measured = np.full_like(params, 2.0) if curvatures is None else curvatures(step, params)
            h = _at(step, b2) * h + (1.0 - _at(step, b2)) * measured
        m = _at(step, b1) * m + (1.0 - _at(step, b1)) * g
        mass = _at(step, b1) * mass + (1.0 - _at(step, b1))
        u = (m / mass if debias else m) / np.maximum(_at(step, gamma) * h, _at(step, eps))
        u = np.clip(u, -_at(step, clip_threshold), _at(step, clip_threshold))
        rate = _at(step, learning_rate)
        updates.append(-rate * (u + _at(step, weight_decay) * params))
        params = params + updates[-1]
    return updates
