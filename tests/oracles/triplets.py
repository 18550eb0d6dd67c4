"""Losses of triplets, from the formula."""

import mpmath
import numpy as np

_POOL = (0.0, 1.0, -1.0, 3.0, 1e-30, 1e-3)
ARGUMENTS = {
    name: (lambda rng, units: rng.normal(size=(*units, 3)), _POOL) for name in ("anchors", "positives", "negatives")
}
CANCELS = True
HYPERPARAMETERS = {"norm_degree": (3.0,), "margin": (0.25,)}
STATIC = {"squared": (False, True), "swap": (False, True), "soft": (False, True)}


def triplet_margin(anchors, positives, negatives, *, margin=1, norm_degree=2, squared=False, swap=False, soft=False):
    def distance(x, y):
        total = mpmath.fsum(abs(p - q) ** norm_degree for p, q in zip(x, y, strict=True))
        root = total ** (1 / mpmath.mpf(norm_degree))
        return root**2 if squared else root

    out = np.empty(anchors.shape[:-1], object)
    for i in np.ndindex(out.shape):
        away = distance(anchors[i], negatives[i])
        if swap:
            away = min(away, distance(positives[i], negatives[i]))
        lead = distance(anchors[i], positives[i]) - away + margin
        out[i] = mpmath.log1p(mpmath.exp(lead)) if soft else max(lead, mpmath.mpf(0))
    return out
