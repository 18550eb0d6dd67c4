"""Optimizers of matrices, float64: by singular values and eigenvalues, where the library has products alone."""

import numpy as np

from tests.oracles.optimizers import _at, _average, _run

FIXED = {"steps": 2}
# At the first step and later. Each polynomial multiplies small singular values, and what was rounded in them, by up to
# 8; Optax is as far off.
ULPS = (8, 64)
_POLYNOMIALS = {
    "quintic": [(3.4445, -4.7750, 2.0315)],
    "dion": [
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ],
    "polar_express": [
        (8.28721201814563 / 1.01, -23.595886519098837 / 1.01**3, 17.300387312530933 / 1.01**5),
        (4.107059111542203 / 1.01, -2.9478499167379106 / 1.01**3, 0.5448431082926601 / 1.01**5),
        (3.9486908534822946 / 1.01, -2.908902115962949 / 1.01**3, 0.5518191394370137 / 1.01**5),
        (3.3184196573706015 / 1.01, -2.488488024314874 / 1.01**3, 0.51004894012372 / 1.01**5),
        (2.300652019954817 / 1.01, -1.6689039845747493 / 1.01**3, 0.4188073119525673 / 1.01**5),
        (1.891301407787398 / 1.01, -1.2679958271945868 / 1.01**3, 0.37680408948524835 / 1.01**5),
        (1.8750014808534479 / 1.01, -1.2500016453999487 / 1.01**3, 0.3750001645474248 / 1.01**5),
        (1.875, -1.25, 0.375),
    ],
}


def orthogonal(matrix, coefficients, steps, norm="frobenius", eps=1e-8):
    """The polynomials of the singular values."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.sqrt(np.sum(values**2)) + eps)
    if norm == "schatten":
        values = values / max(np.sum(values**4) ** 0.25, 1e-300)
    known = _POLYNOMIALS[coefficients]
    for i in range(steps):
        a, b, c = known[min(i, len(known) - 1)]
        values = a * values + b * values**3 + c * values**5
    return (left * values) @ right


def length(scale, rms, inputs, outputs):
    return {
        "width": max(1.0, outputs / inputs) ** 0.5,
        "spectral": (outputs / inputs) ** 0.5,
        "rms": rms * max(inputs, outputs) ** 0.5,
        "none": 1.0,
    }[scale]


def muon(
    params,
    gradients,
    learning_rate,
    *,
    beta=0.95,
    eps=1e-8,
    nesterov=True,
    coefficients="quintic",
    steps=5,
    norm="frobenius",
    scale="width",
    rms=0.2,
    weight_decay=0.0,
):
    def direction(past):
        step = len(past) - 1
        share, (m, mass) = _at(step, beta), _average(past, beta)
        wanted = m / mass
        if nesterov:
            wanted = share * m / (share * mass + 1.0 - share) + (1.0 - share) * past[-1] / mass
        factor = length(scale, _at(step, rms), *params.shape)
        return factor * orthogonal(wanted, coefficients, steps, norm, _at(step, eps))

    return _run(direction, params, gradients, learning_rate, weight_decay)
