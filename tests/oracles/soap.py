"""SOAP, float64: one matrix, eigenvectors and products written out."""

import numpy as np

from tests.oracles.optimizers import _at, _average, _run

FIXED = {"every": 2}
# A step is a ratio of projections, each rounded at the size of the whole gradient, on eigenvectors of its square: what
# is a thousand times smaller than the rest has lost most digits at first.
ULPS = (2, 512)


def _ordered(moment):
    """Eigenvectors, those of the largest eigenvalue first."""
    return np.linalg.eigh(moment)[1][:, ::-1]


def _iterated(moment, basis):
    """A step of orthogonal iteration from a basis sorted by the eigenvalues it suggests, and that order."""
    moved = moment @ basis
    order = np.argsort(-np.real(np.diag(basis.conj().T @ moved)), kind="stable")
    return np.linalg.qr(moved[:, order])[0], order


def _inverse(values):
    """0 of what cannot be told from 0."""
    return np.where(values > 1e-28 * np.max(values), 1.0 / np.maximum(values, 1e-300), 0.0)


class _Bases:
    """Of rows and columns, step by step; what keeps its axes has the identity."""

    def __init__(self, shape, beta, every, sides, kl):
        self.beta, self.every, self.sides, self.kl = beta, every, sides, kl
        self.step, self.bases = 0, [np.eye(n) for n in shape]
        self.moments = [np.zeros((n, n)) for n in shape]
        self.values: list = [None, None]

    def inverses(self):
        """Eigenvectors times one by the value of each times their adjoint."""
        return [
            q @ np.diag(_inverse(v)) @ q.conj().T if v is not None else np.eye(len(q))
            for q, v in zip(self.bases, self.values, strict=True)
        ]

    def see(self, g):
        """Moments and values with one more gradient."""
        keep, (m, n) = _at(self.step, self.beta), g.shape
        if self.kl:
            left, right = self.inverses()
            seen = [g @ right @ g.conj().T / n, g.conj().T @ left @ g / m]
            if self.step == 0:
                keep = 0.0
                if self.sides[0]:
                    seen[1] = seen[1] / np.mean(np.abs(g) ** 2)
            for i, (q, s) in enumerate(zip(self.bases, seen, strict=True)):
                if self.sides[i]:
                    new = np.real(np.diag(q.conj().T @ s @ q))
                    self.values[i] = new if self.step == 0 else keep * self.values[i] + (1.0 - keep) * new
        else:
            seen = [g @ g.conj().T, g.conj().T @ g]
        self.moments = [keep * old + (1.0 - keep) * new for old, new in zip(self.moments, seen, strict=True)]

    def turn(self, *squares):
        """New bases if they are due; returns `squares`, entries along them, in their new places."""
        for i in range(2):
            if not self.sides[i]:
                continue
            if self.step == 0:
                self.bases[i] = _ordered(self.moments[i])
                if self.kl:
                    values = np.linalg.eigvalsh(self.moments[i])[::-1]
                    self.values[i] = np.where(values > 1e-14 * values[0], values, 0.0)
            elif self.step % max(round(_at(self.step, self.every)), 1) == 0:
                self.bases[i], order = _iterated(self.moments[i], self.bases[i])
                squares = [np.take(x, order, axis=i) for x in squares]
                if self.kl:
                    self.values[i] = self.values[i][order]
        self.step += 1
        return squares


def _sides(shape, one_sided, max_size):
    """Which sides get a basis."""
    kept = [n <= max_size for n in shape]
    if one_sided:
        kept[int(shape[0] <= shape[1])] = False
    return kept


def soap(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.95,
    b2=0.95,
    shampoo_beta=0.95,
    eps=1e-8,
    every=10,
    statistics="gram",
    one_sided=False,
    max_size=10_000,
    weight_decay=0.0,
):
    bases = _Bases(params.shape, shampoo_beta, every, _sides(params.shape, one_sided, max_size), statistics == "kl")
    held = {"v": np.zeros(params.shape), "mass": 0.0}

    def direction(past):
        step, g = len(past) - 1, past[-1]
        d = np.zeros_like(g)
        if step > 0:
            left, right = bases.bases
            m, mass = _average([0.0 * g, *past[1:]], lambda s: 1.0 if s == 0 else _at(s, b1))
            held["v"] = _at(step, b2) * held["v"] + (1.0 - _at(step, b2)) * np.abs(left.conj().T @ g @ right) ** 2
            held["mass"] = _at(step, b2) * held["mass"] + 1.0 - _at(step, b2)
            projected = left.conj().T @ (m / mass) @ right / (np.sqrt(held["v"] / held["mass"]) + _at(step, eps))
            d = left @ projected @ right.conj().T
        bases.see(g)
        (held["v"],) = bases.turn(held["v"])
        return d

    return _run(direction, params, gradients, learning_rate, weight_decay)
