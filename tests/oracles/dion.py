"""Dion, float64: by Householder's QR."""

import jax
import numpy as np

from tests.oracles.optimizers import _at

HYPERPARAMETERS = {"rank": (2,)}
FIXED = {"rank": 2}
ULPS = (64, 256)  # what is left of the gradients is their sum less most of it


def dion(params, gradients, learning_rate, *, rank=2, beta=0.95, eps=1e-8, weight_decay=0.0):
    inputs, outputs = params.shape
    right = np.asarray(jax.random.normal(jax.random.key(0), (1, inputs, rank), "float32"), "float64")[0]
    rest, updates = np.zeros_like(params), []
    for step, g in enumerate(gradients):
        owed = rest + g
        left, _ = np.linalg.qr(owed.conj().T @ right)
        found = owed @ left
        rest = owed - (1.0 - _at(step, beta)) * found @ left.conj().T
        right = found / (np.sqrt(np.sum(np.abs(found) ** 2, axis=0)) + _at(step, eps))
        direction = np.sqrt(outputs / inputs) * right @ left.conj().T
        rate = _at(step, learning_rate)
        updates.append(-rate * (direction + _at(step, weight_decay) * params))
        params = params + updates[-1]
    return updates
