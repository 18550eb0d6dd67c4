"""Triplets of labelled batches from their formulas, one batch at a time, in arbitrary precision."""

import mpmath
import numpy as np

SETS = True
REPEATS = False  # an element twice would be its own positive
IDENTITIES = True
CANCELS = True  # differences of distances
ARGUMENTS = {
    "embeddings": (lambda rng, units: rng.normal(size=(*units, 3)), (0.0, 1.0, -1.0, 1e-3, 30.0)),
    "labels": (lambda rng, units: rng.integers(0, 3, size=units), ()),
}
HYPERPARAMETERS = {"margin": (0.25,)}
STATIC = {
    "mining": (
        "hard",
        "all",
        "semihard",
        "easy_positive",
        "easy_positive_semihard",
        "multi_similarity",
        "distance_weighted",
    ),
    "squared": (False, True),
    "soft": (False, True),
    "active": (False, True),
    "tile": (None, 2),
}


def _counted(loss, labels, keep):
    """Which elements count in a mean: those that have a positive and a negative (or either)."""
    same = (labels[:, None] == labels[None, :]) & keep[:, None] & keep[None, :] & ~np.eye(len(labels), dtype=bool)
    others = (labels[:, None] != labels[None, :]) & keep[:, None] & keep[None, :]
    either = same.any(1) | others.any(1)
    return either if loss.__name__ == "batch_contrastive" else same.any(1) & others.any(1)


COUNTED = _counted


def _sides(labels, i):
    others = [j for j in range(len(labels)) if j != i]
    return [j for j in others if labels[j] == labels[i]], [j for j in others if labels[j] != labels[i]]


def _distances(x):
    def one(a, b):
        return mpmath.sqrt(mpmath.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)))

    return [[one(a, b) for b in x] for a in x]


def _weights(mining, d, own, rest, dimensions):
    """Weight of each positive and of each negative."""
    p, n = {j: mpmath.mpf(1) for j in own}, {j: mpmath.mpf(1) for j in rest}
    near, far = (lambda js: min(js, key=lambda j: d[j])), (lambda js: max(js, key=lambda j: d[j]))
    if mining in ("hard", "easy_positive"):
        p = {(far if mining == "hard" else near)(own): mpmath.mpf(1)} if own else {}
        n = {near(rest): mpmath.mpf(1)} if rest else {}
    if mining == "multi_similarity":
        slack = mpmath.mpf(float(np.float32(0.1)))
        nearest, farthest = min([d[j] for j in rest] or [mpmath.inf]), max([d[j] for j in own] or [-mpmath.inf])
        p = {j: w for j, w in p.items() if d[j] > nearest - slack}
        n = {j: w for j, w in n.items() if d[j] < farthest + slack}
    if mining == "distance_weighted":

        def rarity(x):
            x = max(x, mpmath.mpf(0.5))
            return x ** (2 - dimensions) * (1 - x * x / 4) ** (-mpmath.mpf(dimensions - 3) / 2)

        n = {j: rarity(d[j]) for j in rest if d[j] < mpmath.mpf(float(np.float32(1.4)))}
        total = mpmath.fsum(n.values())
        n = {j: len(own) * w / total for j, w in n.items()}
    return p, n


def batch_triplet_margin(
    embeddings,
    labels,
    *,
    margin=1,
    mining="hard",
    squared=False,
    soft=False,
    active=False,
    tile=None,
    frozen=None,
):
    d, fixed = _distances(embeddings), _distances(embeddings if frozen is None else frozen[0])
    losses = []
    for i in range(len(labels)):
        own, rest = _sides(labels, i)
        near = lambda js, d=fixed[i]: min(js, key=d.__getitem__)  # noqa: E731
        if mining in ("semihard", "easy_positive_semihard"):
            chosen = own if mining == "semihard" else [near(own)] if own else []
            beyond = {j: [k for k in rest if fixed[i][k] > fixed[i][j]] for j in chosen}
            triplets = [(j, near(b), 1) for j, b in beyond.items() if b]
        else:
            p, n = _weights(mining, fixed[i], own, rest, embeddings.shape[-1])
            triplets = [(j, k, u * w) for j, u in p.items() for k, w in n.items()]
        total = number = mpmath.mpf(0)
        for j, k, weight in triplets:
            lead = (d[i][j] ** 2 - d[i][k] ** 2 if squared else d[i][j] - d[i][k]) + margin
            value = mpmath.log1p(mpmath.exp(lead)) if soft else max(lead, mpmath.mpf(0))
            total += weight * value
            number += weight if not active or value > 0 else 0
        losses.append(total / number if number else mpmath.mpf(0))
    return np.array(losses, object)
