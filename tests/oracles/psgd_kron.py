"""PSGD-Kron, float64: without noise, factors as matrices, also those that are diagonals."""

import numpy as np

from tests.oracles.optimizers import _at, _average, _run

FIXED = {"deterministic": True}
# Whitening divides what is small by what it has lost digits to.
ULPS = (8, 256)


def _spectral_bound(moment):
    longest = moment[:, np.argmax(np.sum(np.abs(moment) ** 2, axis=1))]
    x = moment @ longest
    return np.linalg.norm(moment @ x) / np.linalg.norm(x)


def psgd_kron(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    factor_rate=0.1,
    update_probability=None,
    deterministic=True,
    factors="quad",
    diagonal="none",
    damping=1e-9,
    clip_threshold=1.0,
    max_size=8192,
    weight_decay=0.0,
):
    assert deterministic
    assert damping == 0
    assert factors == "quad"
    shape = params.shape
    thin = [n > max_size or diagonal == "all" for n in shape]
    if diagonal == "one":
        thin[int(shape[0] <= shape[1])] = True
    held = {"factors": None, "bounds": [0.0, 0.0], "credit": 0.0}

    def direction(past):
        step = len(past) - 1
        m, mass = _average(past, b1)
        m = m / mass
        if held["factors"] is None:
            size = np.sqrt(np.mean(np.abs(m) ** 2))
            held["factors"] = [size**-0.25 * np.eye(n) for n in shape]
        left, right = held["factors"]
        d = left @ left @ m @ right @ right
        probability = (
            _at(step, update_probability)
            if update_probability is not None
            else np.clip(np.exp(-0.001 * (step - 199)), 0.03, 1)
        )
        held["credit"] += probability
        if held["credit"] >= 1.0 - 1e-3:
            held["credit"] = max(held["credit"] - 1.0, 0.0)
            moments = [d @ d.conj().T, d.conj().T @ d]
            for i, (q, a) in enumerate(zip(held["factors"], moments, strict=True)):
                count = shape[1 - i]
                a = np.diag(np.diag(a)) if thin[i] else a
                largest = (np.max(np.real(np.diag(a))) if thin[i] else _spectral_bound(a)) + count
                bound = held["bounds"][i] = max(0.9 * held["bounds"][i] + 0.1 * largest, largest)
                turn = np.eye(shape[i]) - 0.5 * _at(step, factor_rate) / bound * (a - count * np.eye(shape[i]))
                held["factors"][i] = turn @ q @ turn
            sizes = [np.max(np.abs(q)) for q in held["factors"]]
            ratio = np.sqrt(sizes[1] / sizes[0])
            held["factors"] = [held["factors"][0] * ratio, held["factors"][1] / ratio]
        size = np.sqrt(np.mean(np.abs(d) ** 2))
        return d * min(1.0, _at(step, clip_threshold) / size)

    return _run(direction, params, gradients, learning_rate, weight_decay)
