"""DoG, float64: distances and sums over the whole history."""

import numpy as np

from tests.oracles.optimizers import _at

SEES_ALL_LEAVES = True
FIXED = {"reps_rel": 0.01}  # of 1e-6 a few steps are none


def _norm(x):
    return np.sqrt(np.sum(np.abs(x) ** 2))


def _walk(length, params, gradients, learning_rate, weight_decay):
    """`length` of the steps, a function of their number, the parameters so far and the gradients so far."""
    path, updates = [params], []
    for step, g in enumerate(gradients):
        pulled = g + _at(step, weight_decay) * params
        updates.append(-_at(step, learning_rate) * length(step, path, gradients[: step + 1]) * pulled)
        params = params + updates[-1]
        path.append(params)
    return updates


def dog(params, gradients, learning_rate, *, reps_rel=1e-6, eps=1e-8, layerwise=False, weight_decay=0.0):
    """Of one leaf, so layerwise too."""

    def length(step, path, past):
        first = _at(0, reps_rel) * (1.0 + _norm(path[0]))
        total = np.sqrt(sum(_norm(g) ** 2 for g in past) + _at(step, eps))
        return max(first, *(_norm(p - path[0]) for p in path)) / total if total > 0 else 0.0

    return _walk(length, params, gradients, learning_rate, weight_decay)
