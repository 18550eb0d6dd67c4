"""Distillation, one row at a time, from the formula. The teacher is as it was before a move: it gives no gradient."""

import mpmath
import numpy as np

from tests import vocabulary as v

# Without the largest numbers: their differences are none.
_LOGITS = (0.0, 1e-8, 1.0, -1.0, 20.0, -20.0, 80.0, 1e4, -1e4, 1e30, -1e30)
K = 3


def _teacher(rng, units):
    """Other rows than those of the student, which are drawn alike."""
    return 2.0 * rng.normal(size=(*units, v.CLASSES)) + 0.5


def _best(rng, units):
    """Largest first, and a rest that is no small difference."""
    best = -np.sort(-rng.dirichlet(np.ones(K), size=units), axis=-1)
    return np.log(best * rng.uniform(0.3, 0.7, size=(*units, 1)))


def _places(rng, units):
    return np.argsort(rng.random((*units, v.CLASSES)), axis=-1)[..., :K]


ARGUMENTS = {
    "logits": (v._rows, _LOGITS),
    "teacher_logits": (_teacher, _LOGITS),
    "teacher_log_probs": (_best, ()),
    "teacher_indices": (_places, ()),
}
HYPERPARAMETERS = {"mixture": (0.125,), "temperature": (1.5,)}
STATIC = {
    "divergence": ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation"),
    "rescale": (True, False),
    "tail": ("bucket", "renormalize"),
}


def _rows(f, *arrays):
    out = np.empty(arrays[0].shape[:-1], dtype=object)
    for index in np.ndindex(out.shape):
        out[index] = f(*(a[index] for a in arrays))
    return out


def _softmax(z, temperature=1):
    top = max(z)
    masses = [mpmath.exp((x - top) / temperature) for x in z]
    return [m / mpmath.fsum(masses) for m in masses]


def _kl(p, q):
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return mpmath.inf
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def _mix(p, q, share):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def _divergence(t, s, divergence, mixture):
    if divergence == "total_variation":
        return mpmath.fsum(abs(a - b) for a, b in zip(t, s, strict=True)) / 2
    if divergence == "jensen_shannon":
        beta = mpmath.mpf("0.5") if mixture is None else mixture
        if beta in (0, 1):
            return _kl(s, t) if beta else _kl(t, s)
        m = _mix(t, s, beta)
        return beta * _kl(t, m) + (1 - beta) * _kl(s, m)
    alpha = mixture or 0
    return _kl(t, _mix(t, s, alpha)) if divergence == "forward_kl" else _kl(s, _mix(s, t, alpha))


def distillation(
    logits, teacher_logits, *, divergence="forward_kl", mixture=None, temperature=1, rescale=True, frozen=None
):
    def row(z, other):
        s, t = _softmax(z, temperature), _softmax(other, temperature)
        return _divergence(t, s, divergence, mixture) * (temperature**2 if rescale else 1)

    return _rows(row, logits, teacher_logits if frozen is None else frozen[1])


def top_k_distillation(
    logits,
    teacher_log_probs,
    teacher_indices,
    *,
    tail="bucket",
    divergence="forward_kl",
    mixture=None,
    temperature=1,
    rescale=True,
    frozen=None,
):
    def row(z, log_probs, places):
        every = _softmax(z, temperature)
        s, t = [every[i] for i in places], [mpmath.exp(x) for x in log_probs]
        if tail == "bucket":
            s = [*s, mpmath.fsum(p for i, p in enumerate(every) if i not in places)]
            t = [*t, 1 - mpmath.fsum(t)]
        s, t = ([p / mpmath.fsum(row) for p in row] for row in (s, t))
        return _divergence(t, s, divergence, mixture) * (temperature**2 if rescale else 1)

    return _rows(row, logits, teacher_log_probs if frozen is None else frozen[1], teacher_indices)


def decoupled_distillation(
    logits, teacher_logits, labels, *, target_weight=1, rival_weight=8, temperature=4, frozen=None
):
    def row(z, other, y):
        rows = _softmax(other, temperature), _softmax(z, temperature)
        rest = [[p for j, p in enumerate(row) if j != y] for row in rows]
        of_target = _kl(*([row[y], mpmath.fsum(left)] for row, left in zip(rows, rest, strict=True)))
        of_rivals = _kl(*([p / mpmath.fsum(left) for p in left] for left in rest))
        return temperature**2 * (target_weight * of_target + rival_weight * of_rivals)

    return _rows(row, logits, teacher_logits if frozen is None else frozen[1], labels)
