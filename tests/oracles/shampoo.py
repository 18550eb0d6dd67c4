"""Shampoo, float64: block after block, from all gradients so far."""

import numpy as np

from tests.oracles.optimizers import _at, _average, _ratio, _run

# Of moments without full rank, as the contract's, the root blows rounding errors up by a root of one by `eps`.
FIXED = {"every": 2, "start": 1, "eps": 1e-3}
# Small eigenvalues of a second moment are rounded at the size of the largest.
ULPS = (64, 512)


def _inverse_root(moment, exponent, eps):
    values, vectors = np.linalg.eigh(moment)
    values = np.maximum(values, 0.0)
    if values[-1] == 0:
        return np.eye(len(values))
    return (vectors * (values + eps * values[-1]) ** -exponent) @ vectors.conj().T


def _total(history, decay, accumulate):
    """Average and its mass, or sum and 1."""
    return (sum(history), 1.0) if accumulate == "sum" else _average(history, decay)


def _blocks(size, block_size):
    """Equal parts, but for what the last has too little."""
    count = -(-size // block_size)
    length = -(-size // count)
    return [slice(i * length, min((i + 1) * length, size)) for i in range(count)]


def shampoo(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    exponent=0.25,
    every=10,
    start=10,
    accumulate="average",
    grafting="adam",
    graft_eps=1e-8,
    momentum=None,
    nesterov=False,
    block_size=1024,
    max_size=8192,
    weight_decay=0.0,
):
    roots, directions = {}, []
    wide, long = (n <= max_size for n in params.shape)

    def preconditioned(past, m):
        now = len(past)
        p = np.zeros_like(m)
        for rows in _blocks(params.shape[0], block_size):
            for columns in _blocks(params.shape[1], block_size):
                key = rows.start, columns.start
                if now % _at(now - 1, every) == 0 or now == _at(now - 1, start) or key not in roots:
                    left, mass = _total([(g := x[rows, columns]) @ g.conj().T for x in past], b2, accumulate)
                    right, _ = _total([(g := x[rows, columns]).conj().T @ g for x in past], b2, accumulate)
                    power = _at(now - 1, exponent) * (1.0 if wide and long else 2.0)
                    left, right = (_inverse_root(x / mass, power, _at(now - 1, eps)) for x in (left, right))
                    due = now % _at(now - 1, every) == 0 or now == _at(now - 1, start)
                    roots[key] = (
                        left if wide and due else np.eye(len(left)),
                        right if long and due else np.eye(len(right)),
                    )
                p[rows, columns] = roots[key][0] @ m[rows, columns] @ roots[key][1]
        return p

    def direction(past):
        step = len(past) - 1
        m, mass = _average(past, b1)
        grafted = m = m / mass
        if grafting in ("adam", "rmsprop"):
            v, mass = _total([np.abs(g) ** 2 for g in past], b2, accumulate)
            v = v / mass if grafting == "adam" else v
            grafted = _ratio(m, np.sqrt(v) + _at(step, graft_eps))
        d = preconditioned(past, m)
        if grafting != "none":
            d = np.linalg.norm(grafted) * _ratio(d, np.linalg.norm(d))
        if step + 1 < _at(step, start):
            d = grafted
        directions.append(d)
        if momentum is None:
            return d
        total = 0.0
        for s, x in enumerate(directions):
            total = _at(s, momentum) * total + x
        return d + _at(step, momentum) * total if nesterov else total

    return _run(direction, params, gradients, learning_rate, weight_decay)
