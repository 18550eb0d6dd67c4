"""Scion, float64: the step of length one in the norm that a string names."""

import numpy as np

from tests.oracles.muon import orthogonal
from tests.oracles.optimizers import _at, _average, _ratio, _run

# Radii at which rounding a step does not show, in balls that would not hold the optimum.
HYPERPARAMETERS = {"radius": (1.5,), "vector_radius": (1.5,)}
FIXED = {"steps": 2, "radius": 2.0, "vector_radius": 2.0, "weight_decay": 0.0}
ULPS = (8, 64)  # as Muon's


def scion(
    params,
    gradients,
    learning_rate,
    *,
    beta=0.9,
    radius=50.0,
    outer_radius=3000.0,
    vector_radius=50.0,
    eps=1e-8,
    coefficients="quintic",
    steps=5,
    norms=None,
    weight_decay=1.0,
):
    norm = (norms or (lambda _: "io"))(params)

    def direction(past):
        step = len(past) - 1
        m, mass = _average(past, beta)
        m = m / mass
        inputs, outputs = m.shape
        if norm == "io":
            found = (outputs / inputs) ** 0.5 * orthogonal(m, coefficients, steps, eps=_at(step, eps))
            return _at(step, radius) * found
        if norm == "rms oo":
            return _at(step, vector_radius) * m / np.sqrt(np.mean(np.abs(m) ** 2))
        if norm == "sign io":
            found = _ratio(m, np.abs(m)) / inputs
        if norm == "row oi":
            found = m / np.sqrt(np.sum(np.abs(m) ** 2, axis=1, keepdims=True)) / outputs**0.5
        if norm == "column io":
            found = outputs**0.5 * m / np.sqrt(np.sum(np.abs(m) ** 2, axis=1, keepdims=True))
        return _at(step, outer_radius) * found

    return _run(direction, params, gradients, learning_rate, weight_decay)
