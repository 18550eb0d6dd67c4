"""AdaMuon, float64: second moments of entries over the whole history of orthogonal directions."""

import numpy as np

from tests.oracles.muon import orthogonal
from tests.oracles.normuon import _restored, _wanted
from tests.oracles.optimizers import _at, _average, _ratio, _run

FIXED = {"steps": 2}
ULPS = (16, 64)  # as Muon's, and once more through a norm


def adamuon(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.95,
    b2=0.95,
    eps=1e-8,
    nesterov=False,
    sign=True,
    coefficients="quintic",
    steps=5,
    norm="frobenius",
    scale="rms",
    rms=0.2,
    weight_decay=0.0,
):
    found = []

    def direction(past):
        step = len(past) - 1
        wanted = _wanted(past, b1, nesterov)
        wanted = _ratio(wanted, np.abs(wanted)) if sign else wanted
        found.append(orthogonal(wanted, coefficients, steps, norm, _at(step, eps)))
        v, mass = _average([np.abs(o) ** 2 for o in found], b2)
        adapted = _ratio(found[-1], np.sqrt(v / mass) + _at(step, eps))
        return _restored(adapted, found[-1], scale, _at(step, rms))

    return _run(direction, params, gradients, learning_rate, weight_decay)
