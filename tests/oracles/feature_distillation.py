"""Feature distillation of one set, pair after pair, from the formulas. The teacher is as it was before a move."""

import mpmath

SETS = True
_POOL = (0.0, 1.0, -1.0, 0.5, 2.0, 1e-3)
ARGUMENTS = {
    "features": (lambda rng, units: rng.normal(size=(*units, 3)), _POOL),
    "teacher_features": (lambda rng, units: rng.normal(size=(*units, 2)), _POOL),
    "logits": (lambda rng, units: 2.0 * rng.normal(size=(*units, 3)), (0.0, 1e-3, 1.0, -1.0, 8.0, -6.0)),
    "teacher_logits": (lambda rng, units: 2.0 * rng.normal(size=(*units, 3)), (0.0, 1e-3, 2.0, -1.0, 6.0, -7.0)),
}
HYPERPARAMETERS = {"delta": (0.5,), "power": (1.5,), "temperature": (1.5,)}
STATIC = {"tile": (None, 2)}


def _dot(a, b):
    return mpmath.fsum(p * q for p, q in zip(a, b, strict=True))


def _unit(a):
    length = mpmath.sqrt(_dot(a, a))
    return [x / length for x in a] if length else list(a)


def _minus(a, b):
    return [p - q for p, q in zip(a, b, strict=True)]


def _huber(x, delta):
    return x**2 / 2 if abs(x) <= delta else delta * (abs(x) - delta / 2)


def _mean(values):
    return mpmath.fsum(values) / len(values)


def attention_transfer(features, teacher_features, *, power=2, frozen=None):
    teacher = teacher_features if frozen is None else frozen[1]
    maps = [_unit([mpmath.fsum(abs(c) ** power for c in place) for place in x]) for x in (features, teacher)]
    return _mean([(p - q) ** 2 for p, q in zip(*maps, strict=True)])


def relational_distance(features, teacher_features, *, delta=1, tile=None, frozen=None):
    def relative(x):
        found = [mpmath.sqrt(_dot(_minus(a, b), _minus(a, b))) for a in x for b in x]
        apart = [d for d in found if d > 0]
        return [d / _mean(apart) for d in found] if apart else found

    teacher = teacher_features if frozen is None else frozen[1]
    return _mean([_huber(p - q, delta) for p, q in zip(relative(features), relative(teacher), strict=True)])


def relational_angle(features, teacher_features, *, delta=1, tile=None, frozen=None):
    def cosines(x):
        corners = [[_unit(_minus(point, corner)) for point in x] for corner in x]
        return [_dot(a, b) for sides in corners for a in sides for b in sides]

    teacher = teacher_features if frozen is None else frozen[1]
    return _mean([_huber(p - q, delta) for p, q in zip(cosines(features), cosines(teacher), strict=True)])


def similarity_preserving(features, teacher_features, *, tile=None, frozen=None):
    def rows(x):
        return [entry for a in x for entry in _unit([_dot(a, b) for b in x])]

    teacher = teacher_features if frozen is None else frozen[1]
    return _mean([(p - q) ** 2 for p, q in zip(rows(features), rows(teacher), strict=True)])


def correlation_distillation(logits, teacher_logits, *, inter=1, intra=1, temperature=1, frozen=None):
    def probabilities(z):
        masses = [[mpmath.exp(x / temperature) for x in row] for row in z]
        return [[m / mpmath.fsum(row) for m in row] for row in masses]

    def distance(a, b):
        a, b = _minus(a, [_mean(a)] * len(a)), _minus(b, [_mean(b)] * len(b))
        return 1 - _dot(_unit(a), _unit(b))

    teacher = teacher_logits if frozen is None else frozen[1]
    s, t = probabilities(logits), probabilities(teacher)
    along_classes = _mean([distance(a, b) for a, b in zip(s, t, strict=True)])
    along_examples = _mean([distance(a, b) for a, b in zip(zip(*s, strict=True), zip(*t, strict=True), strict=True)])
    return temperature**2 * (inter * along_classes + intra * along_examples)
