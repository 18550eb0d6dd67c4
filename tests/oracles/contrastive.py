"""Contrastive losses from their formulas, one batch at a time, in arbitrary precision."""

import mpmath
import numpy as np

SETS = True
REPEATS = False  # an element twice would be its own rival
IDENTITIES = True
ARGUMENTS = {
    name: (lambda rng, units: rng.normal(size=(*units, 3)), (0.0, 1.0, -1.0, 1e-3, 30.0))
    for name in ("anchors", "positives", "embeddings")
}
HYPERPARAMETERS = {"negatives": (np.array([[0.5, -1.0, 0.25], [0.0, 0.5, 2.0]]),)}
STATIC = {
    "symmetric": (False, True),
    "within": (False, True),
    "decoupled": (False, True),
    "similarity": ("cosine", "dot"),
    "aggregation": ("out", "in"),
    "tile": (None, 2),
}


def _dot(x, y):
    return mpmath.fsum(a * b for a, b in zip(x, y, strict=True))


def _similar(kind, x, y):
    if kind == "euclidean":
        return -mpmath.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    size = mpmath.sqrt(_dot(x, x)) * mpmath.sqrt(_dot(y, y)) if kind == "cosine" else mpmath.mpf(1)
    return _dot(x, y) / size if size else mpmath.mpf(0)


def info_nce(
    anchors,
    positives,
    *,
    temperature=0.07,
    symmetric=False,
    within=False,
    decoupled=False,
    similarity="cosine",
    negatives=(),
    tile=None,
):
    def side(own, others):
        losses = []
        for i, x in enumerate(own):
            s = lambda y, x=x: _similar(similarity, x, y) / temperature  # noqa: E731
            rivals = [s(y) for j, y in enumerate(others) if j != i] + [s(c) for c in negatives]
            rivals += [s(y) for j, y in enumerate(own) if j != i and within]
            total = mpmath.fsum(mpmath.exp(r) for r in rivals) + (0 if decoupled else mpmath.exp(s(others[i])))
            losses.append(mpmath.log(total) - s(others[i]) if rivals else mpmath.mpf(0))
        return np.array(losses, object)

    value = side(anchors, positives)
    return (value + side(positives, anchors)) / 2 if symmetric else value


def siglip(anchors, positives, *, scale=10, bias=-10, similarity="cosine", tile=None):
    def pair(i, j):
        score = scale * _similar(similarity, anchors[i], positives[j]) + bias
        return mpmath.log1p(mpmath.exp(-score if i == j else score))

    n = range(len(anchors))
    return np.array([mpmath.fsum(pair(i, j) for j in n) for i in n], object)


def angular(anchors, positives, *, angle=45, similarity="cosine", tile=None):
    steep = mpmath.tan(angle * mpmath.pi / 180) ** 2
    losses = []
    for i, (a, b) in enumerate(zip(anchors, positives, strict=True)):
        s = lambda x, y: _similar(similarity, x, y)  # noqa: E731
        near = 2 * (1 + steep) * s(a, b)
        others = [c for j, c in enumerate(positives) if j != i]
        losses.append(mpmath.log1p(mpmath.fsum(mpmath.exp(4 * steep * (s(a, c) + s(b, c)) - near) for c in others)))
    return np.array(losses, object)


def supervised_contrastive(embeddings, labels, *, temperature=0.1, aggregation="out", similarity="cosine", tile=None):
    losses = []
    for i, x in enumerate(embeddings):
        others = [j for j in range(len(embeddings)) if j != i]
        own = [j for j in others if labels[j] == labels[i]]
        scores = {j: _similar(similarity, x, embeddings[j]) / temperature for j in others}
        total = mpmath.fsum(mpmath.exp(s) for s in scores.values())
        if not own:
            losses.append(mpmath.mpf(0))
        elif aggregation == "out":
            losses.append(mpmath.fsum(mpmath.log(total) - scores[j] for j in own) / len(own))
        else:
            losses.append(mpmath.log(total) - mpmath.log(mpmath.fsum(mpmath.exp(scores[j]) for j in own)))
    return np.array(losses, object)
