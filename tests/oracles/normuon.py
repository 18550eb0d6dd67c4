"""NorMuon, float64: second moments of neurons over the whole history of orthogonal directions."""

import numpy as np

from tests.oracles.muon import length, orthogonal
from tests.oracles.optimizers import _at, _average, _ratio, _run

FIXED = {"steps": 2}
ULPS = (16, 64)  # as Muon's, and once more through a norm


def _wanted(past, b1, nesterov):
    step = len(past) - 1
    share, (m, mass) = _at(step, b1), _average(past, b1)
    if not nesterov:
        return m / mass
    return share * m / (share * mass + 1.0 - share) + (1.0 - share) * past[-1] / mass


def _restored(adapted, direction, scale, rms):
    """As long as the direction was, or with entries of a root mean square."""
    size = np.sqrt(np.sum(np.abs(adapted) ** 2))
    if scale == "rms":
        return _ratio(rms * np.sqrt(adapted.size) * adapted, size)
    factor = length(scale, rms, *adapted.shape)
    return factor * _ratio(np.sqrt(np.sum(np.abs(direction) ** 2)) * adapted, size)


def normuon(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.95,
    b2=0.95,
    eps=1e-8,
    nesterov=False,
    coefficients="quintic",
    steps=5,
    norm="frobenius",
    scale="rms",
    rms=0.2,
    weight_decay=0.0,
):
    def made_orthogonal(past):
        return orthogonal(_wanted(past, b1, nesterov), coefficients, steps, norm, _at(len(past) - 1, eps))

    found = []

    def direction(past):
        step = len(past) - 1
        found.append(made_orthogonal(past))
        v, mass = _average([np.mean(np.abs(o) ** 2, axis=0, keepdims=True) for o in found], b2)
        adapted = _ratio(found[-1], np.sqrt(v / mass) + _at(step, eps))
        return _restored(adapted, found[-1], scale, _at(step, rms))

    return _run(direction, params, gradients, learning_rate, weight_decay)
