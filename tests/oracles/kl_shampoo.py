"""KL-Shampoo, float64: one matrix, on the bases of `soap`."""

import numpy as np

from tests.oracles.optimizers import _at, _average, _run
from tests.oracles.soap import _Bases, _sides

FIXED = {"every": 2}
# More than there: what one gradient shows of its weakest directions is divided by itself.
ULPS = (2, 8192)


def kl_shampoo(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.95,
    b2=0.95,
    eps=1e-8,
    every=10,
    one_sided=False,
    max_size=10_000,
    weight_decay=0.0,
):
    bases = _Bases(params.shape, b2, every, _sides(params.shape, one_sided, max_size), kl=True)

    def direction(past):
        step, g = len(past) - 1, past[-1]
        bases.see(g)
        d = np.zeros_like(g)
        if step > 0:
            left, right = bases.bases
            m, mass = _average([0.0 * g, *past[1:]], lambda s: 1.0 if s == 0 else _at(s, b1))
            values = [np.ones(n) if v is None else v for n, v in zip(g.shape, bases.values, strict=True)]
            d = left.conj().T @ (m / mass) @ right / (np.sqrt(np.outer(*values)) + _at(step, eps))
            d = left @ d @ right.conj().T
        bases.turn()
        return d

    return _run(direction, params, gradients, learning_rate, weight_decay)
