"""Similarities of one set `[n]` in order, from the sum over all pairs."""

import mpmath
import numpy as np

SETS = True


def _cosines(rng, units):
    return rng.uniform(-1.0, 1.0, size=units)


def _grades(rng, units):
    return rng.integers(0, 4, size=units)


ARGUMENTS = {
    "scores": (_cosines, (0.0, 1.0, -1.0, 0.5, 1e-8, 3.0, -80.0, 1e4, 1e30)),
    "targets": (_grades, ()),
}


def cosent(scores, targets, *, scale):
    n = range(len(scores))
    pairs = [mpmath.exp(scale * (scores[j] - scores[i])) for i in n for j in n if np.greater(targets[i], targets[j])]
    return mpmath.log(1 + mpmath.fsum(pairs))
