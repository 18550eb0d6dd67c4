"""DoWG, float64: distances and sums over the whole history."""

import numpy as np

from tests.oracles.dog import _norm, _walk
from tests.oracles.optimizers import _at

SEES_ALL_LEAVES = True


def dowg(params, gradients, learning_rate, *, initial_distance=1e-2, eps=1e-4, weight_decay=0.0):
    def length(step, path, past):
        ways = np.maximum.accumulate([_at(0, initial_distance), *(_norm(p - path[0]) for p in path)])[1:]
        total = np.sqrt(sum((r * _norm(g)) ** 2 for r, g in zip(ways, past, strict=True))) + _at(step, eps)
        return ways[-1] ** 2 / total if total > 0 else 0.0

    return _walk(length, params, gradients, learning_rate, weight_decay)
