"""Listwise ranking from its formulas, one list at a time, in arbitrary precision."""

import mpmath

from tests.vocabulary import _normal

SETS = True
REPEATS = False  # by Efron tied items share the mean of their weights


def _grades(rng, units):
    return rng.integers(0, 4, size=units)


def _places(rng, units):
    return rng.integers(0, 5, size=units)


ARGUMENTS = {
    "scores": (_normal, (0.0, 1.0, -1.0, 1e-8, 20.0, -80.0, 1e4, -1e4)),
    "relevances": (_grades, ()),
    "ranks": (_places, ()),
}


def _reciprocal(place):
    return 1.0 / place


STATIC = {
    "distribution": ("none", "sum", "softmax"),
    "gain": ("exponential", "linear"),
    "ties": ("efron", "breslow"),
    "discount": (None, _reciprocal),
}


def _surprises(scores):
    """-log softmax of each."""
    top = max(scores)
    log_sum = top + mpmath.log(mpmath.fsum(mpmath.exp(s - top) for s in scores))
    return [log_sum - s for s in scores]


def ranking_softmax(scores, relevances, *, epsilon, distribution="none", gain="linear"):
    worth = [mpmath.mpf(2 ** int(y) - 1 if gain == "exponential" else int(y)) for y in relevances]
    targets = [mpmath.exp(y) for y in worth] if distribution == "softmax" else worth
    total = mpmath.fsum(targets)
    if total == 0:
        return mpmath.mpf(0)
    if distribution != "none":
        targets = [t / total for t in targets]
    surprises = _surprises(scores)
    loss = mpmath.fsum(t * u for t, u in zip(targets, surprises, strict=True))
    chosen = mpmath.fsum(t * mpmath.exp(-u) for t, u in zip(targets, surprises, strict=True))
    return loss + epsilon * (1 - chosen / mpmath.fsum(targets))


def unique_softmax(scores, relevances, *, gain="exponential"):
    total = mpmath.mpf(0)
    for s, y in zip(scores, relevances, strict=True):
        worth = 2 ** int(y) - 1 if gain == "exponential" else int(y)
        lower = [r for r, z in zip(scores, relevances, strict=True) if z < y]
        total += worth * _surprises([s, *lower])[0]
    return total


def _choices(scores, groups, ties, discount=None):
    """Groups of items of one place, the best first; what is in none is only there."""
    left, number, total = list(range(len(scores))), 0, mpmath.mpf(0)
    for group in groups:
        places = range(number + 1, number + len(group) + 1)
        worth = [mpmath.mpf(1) if discount is None else discount(mpmath.mpf(k)) for k in places]
        shared = mpmath.fsum(worth) / len(group)
        top = max(scores[i] for i in left)
        for k, i in enumerate(group):
            weight = worth[k] if ties == "efron" else shared
            rest = mpmath.fsum(mpmath.exp(scores[j] - top) for j in left)
            if ties == "efron":
                rest -= mpmath.mpf(k) / len(group) * mpmath.fsum(mpmath.exp(scores[j] - top) for j in group)
            total += weight * (top + mpmath.log(rest)) - shared * scores[i]
        left = [j for j in left if j not in group]
        number += len(group)
    return total


def list_mle(scores, relevances, *, ties="efron", discount=None):
    grades = sorted(set(relevances), reverse=True)
    return _choices(scores, [[i for i, y in enumerate(relevances) if y == g] for g in grades], ties, discount)


def plackett_luce(scores, ranks, *, ties="efron"):
    places = sorted({r for r in ranks if r > 0})
    return _choices(scores, [[i for i, r in enumerate(ranks) if r == place] for place in places], ties)
