"""Pairs of embeddings that belong together or do not, from the formula."""

import mpmath
import numpy as np

from tests.vocabulary import _bools

_POOL = (0.0, 1.0, -2.0, 0.5, 1e-3, 1e30, 1e-30)


def _vectors(rng, units):
    return rng.normal(size=(*units, 3))


ARGUMENTS = {
    "anchors": (_vectors, _POOL),
    "others": (_vectors, _POOL),
    "targets": (_bools, ()),
}
STATIC = {"squared": (True, False)}


def _units(f, anchors, others, targets):
    out = np.empty(targets.shape, object)
    for index in np.ndindex(out.shape):
        out[index] = f(anchors[index], others[index], targets[index])
    return out


def contrastive(anchors, others, targets, *, margin, positive_margin, squared=True):
    def cost(excess):
        excess = max(excess, 0)
        return excess**2 / 2 if squared else excess

    def unit(x, y, t):
        d = mpmath.sqrt(mpmath.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
        return t * cost(d - positive_margin) + (1 - t) * cost(margin - d)

    return _units(unit, anchors, others, targets)


def cosine_embedding(anchors, others, targets, *, margin):
    def unit(x, y, t):
        dot, *squares = (mpmath.fsum(a * b for a, b in zip(*pair, strict=True)) for pair in ((x, y), (x, x), (y, y)))
        cos = dot / mpmath.sqrt(squares[0] * squares[1]) if all(squares) else mpmath.mpf(0)
        return t * (1 - cos) + (1 - t) * max(cos - margin, 0)

    return _units(unit, anchors, others, targets)
