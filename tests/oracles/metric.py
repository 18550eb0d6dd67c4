"""Losses of labelled batches from their formulas, one batch at a time, in arbitrary precision."""

import mpmath
import numpy as np

from tests.oracles.batch_triplets import _counted, _distances, _sides, _weights

SETS = True
REPEATS = False  # an element twice would be its own positive
IDENTITIES = True
ARGUMENTS = {"embeddings": (lambda rng, units: rng.normal(size=(*units, 3)), (0.0, 1.0, -1.0, 1e-3, 30.0))}
ARGUMENTS |= {"labels": (lambda rng, units: rng.integers(0, 3, size=units), ())}
HYPERPARAMETERS = {"margin": (0.25,), "positive_margin": (0.5,), "epsilon": (0.05,)}
COUNTED = _counted
CANCELS = True  # differences of distances
FIXED = {"scale": 8.0, "beta": 8.0}  # 80 and 50 show the last digits of cosines
STATIC = {
    "mining": ("all", "hard", "easy_positive", "multi_similarity", "distance_weighted"),
    "squared": (True, False),
    "active": (False, True),
    "balanced": (True, False),
    "generalized": (False, True),
    "detached": (True, False),
    "epsilon": (0.1, None),
    "tile": (None, 2),
}


def _cosines(x):
    def one(a, b):
        dot, *squares = (mpmath.fsum(p * q for p, q in zip(u, v, strict=True)) for u, v in ((a, b), (a, a), (b, b)))
        return dot / mpmath.sqrt(squares[0] * squares[1]) if all(squares) else mpmath.mpf(0)

    return [[one(a, b) for b in x] for a in x]


def batch_contrastive(
    embeddings,
    labels,
    *,
    positive_margin=0,
    margin=1,
    squared=True,
    mining="all",
    balanced=True,
    active=False,
    tile=None,
    frozen=None,
):
    d, fixed = _distances(embeddings), _distances(embeddings if frozen is None else frozen[0])
    losses = []
    for i in range(len(labels)):
        p, n = _weights(mining, fixed[i], *_sides(labels, i), embeddings.shape[-1])
        sums = []
        for chosen, lack in ((p, lambda x: x - positive_margin), (n, lambda x: margin - x)):
            lacks = {j: max(lack(d[i][j]), mpmath.mpf(0)) for j in chosen}
            values = {j: x**2 / 2 if squared else x for j, x in lacks.items()}
            number = mpmath.fsum(w for j, w in chosen.items() if not active or values[j] > 0)
            sums.append((mpmath.fsum(w * values[j] for j, w in chosen.items()), number))
        if not balanced:
            sums = [tuple(map(sum, zip(*sums, strict=True)))]
        losses.append(mpmath.fsum(total / number for total, number in sums if number))
    return np.array(losses, object)


def lifted_structure(embeddings, labels, *, margin=1, generalized=False, tile=None):
    d, n = _distances(embeddings), len(labels)
    rest = [mpmath.fsum(mpmath.exp(margin - d[i][k]) for k in _sides(labels, i)[1]) for i in range(n)]
    losses = []
    for i in range(n):
        own, others = _sides(labels, i)
        if not own or not others:
            losses.append(mpmath.mpf(0))
        elif generalized:
            far = mpmath.log(mpmath.fsum(mpmath.exp(d[i][j]) for j in own))
            losses.append(max(far + mpmath.log(rest[i]), mpmath.mpf(0)))
        else:
            hinges = [max(d[i][j] + mpmath.log(rest[i] + rest[j]), mpmath.mpf(0)) for j in own]
            losses.append(mpmath.fsum(h**2 / 2 for h in hinges) / len(own))
    return np.array(losses, object)


def circle(embeddings, labels, *, margin=0.4, scale=80, detached=True, tile=None, frozen=None):
    s = _cosines(embeddings)
    fixed = _cosines(frozen[0]) if detached and frozen is not None else s
    losses = []
    for i in range(len(labels)):
        own, rest = _sides(labels, i)
        zero = mpmath.mpf(0)
        p = [-scale * max(1 + margin - fixed[i][j], zero) * (s[i][j] - 1 + margin) for j in own]
        n = [scale * max(fixed[i][j] + margin, zero) * (s[i][j] - margin) for j in rest]
        losses.append(mpmath.log1p(mpmath.fsum(map(mpmath.exp, p)) * mpmath.fsum(map(mpmath.exp, n))))
    return np.array(losses, object)


def multi_similarity(embeddings, labels, *, alpha=2, beta=50, base=0.5, epsilon=0.1, tile=None):
    s = _cosines(embeddings)
    losses = []
    for i in range(len(labels)):
        own, rest = _sides(labels, i)
        if epsilon is not None:
            most = max([s[i][j] for j in rest] or [-mpmath.inf])
            least = min([s[i][j] for j in own] or [mpmath.inf])
            own = [j for j in own if s[i][j] < most + epsilon]
            rest = [j for j in rest if s[i][j] > least - epsilon]
        value = mpmath.log1p(mpmath.fsum(mpmath.exp(-alpha * (s[i][j] - base)) for j in own)) / alpha
        losses.append(value + mpmath.log1p(mpmath.fsum(mpmath.exp(beta * (s[i][j] - base)) for j in rest)) / beta)
    return np.array(losses, object)
