"""Preferences beside a reference policy, from the formula."""

import mpmath
import numpy as np

from tests.vocabulary import _bools

mp = mpmath.mpf
_POOL = (0.0, -1e-3, -1.0, -2.5, -30.0, -1e3, -1e30)
CANCELS = True  # some objectives are differences; the digits of small losses are in test_preference.py


def _log_probs(rng, units):
    return -2.0 * np.exp(rng.normal(size=units))


ARGUMENTS = {
    name: (_log_probs, _POOL)
    for name in (
        "chosen",
        "rejected",
        "reference_chosen",
        "reference_rejected",
        "log_probs",
        "reference_log_probs",
    )
} | {"desirable": (_bools, ())}
HYPERPARAMETERS = {"label_smoothing": (0.125,), "reference_point": (0.75,)}
STATIC = {
    "objective": (
        "logistic",
        "robust",
        "hinge",
        "ipo",
        "exo",
        "discopop",
        "nca",
        "bco",
        "sppo",
        "apo_zero",
        "apo_down",
    ),
    "divergence": ("reverse_kl", "forward_kl", "jensen_shannon", "alpha"),
}


def _sigmoid(x):
    return mp(x > 0) if abs(x) > 1e40 else 1 / (1 + mpmath.exp(-x))


def _surprise(x):
    return max(-x, mp(0)) if abs(x) > 1e40 else mpmath.log1p(mpmath.exp(-x))


def _each(f, first, *others):
    out = np.empty(first.shape, object)
    for index in np.ndindex(first.shape):
        out[index] = f(first[index], *(x[index] for x in others))
    return out


def bradley_terry(chosen, rejected, *, margin, centering, label_smoothing):
    def unit(w, l):  # noqa: E741
        h = w - l - margin
        mean = (1 - label_smoothing) * _surprise(h) + label_smoothing * _surprise(-h)
        return mean + centering * (w + l) ** 2

    return _each(unit, chosen, rejected)


def dpo(
    chosen,
    rejected,
    reference_chosen,
    reference_rejected,
    *,
    beta,
    margin,
    alpha,
    tau,
    label_smoothing=None,
    objective="logistic",
    divergence="reverse_kl",
):
    flip = label_smoothing
    if flip is None:
        flip = mp(float(np.float32(1e-3))) if objective == "exo" else mp(0)

    def score(ratio):
        """f'(t), 0 at t = 1."""
        if divergence == "reverse_kl":
            return ratio
        if divergence == "jensen_shannon":
            return mpmath.log(2) - mpmath.log1p(mpmath.exp(-ratio))
        power = 1 if divergence == "forward_kl" else alpha
        return (1 - mpmath.exp(-power * ratio)) / power

    def unit(w, l, reference_w, reference_l):  # noqa: E741
        s, t = score(w - reference_w), score(l - reference_l)
        a, b, h = beta * s, beta * t, beta * (s - t) - margin
        yes, no = _surprise(h), _surprise(-h)
        if objective == "logistic":
            return (1 - flip) * yes + flip * no
        if objective == "robust":
            return ((1 - flip) * yes - flip * no) / (1 - 2 * flip)
        if objective == "hinge":
            return max(1 - h, mp(0))
        if objective == "ipo":
            return (h / beta - 1 / (2 * beta)) ** 2
        if objective == "exo":
            p, q = _sigmoid(h), _sigmoid(-h)
            return p * (-yes - mpmath.log(1 - flip)) + q * (-no - mpmath.log(flip))
        if objective == "discopop":
            g = _sigmoid(h / tau)
            return (1 - g) * yes + (g * mpmath.exp(-h) if h > -1e40 else 0)
        if objective == "nca":
            return _surprise(a) + _surprise(-a) / 2 + _surprise(-b) / 2
        if objective == "bco":
            return _surprise(a) + _surprise(-b)
        if objective == "sppo":
            return (s - 1 / (2 * beta)) ** 2 + (t + 1 / (2 * beta)) ** 2
        if objective == "apo_zero":
            return _sigmoid(-a) + _sigmoid(b)
        return _sigmoid(a) + _sigmoid(-h)

    return _each(unit, chosen, rejected, reference_chosen, reference_rejected)


def kto(log_probs, reference_log_probs, desirable, *, beta, reference_point, desirable_weight, undesirable_weight):
    def unit(own, reference, good):
        lead = beta * (own - reference - reference_point)
        return desirable_weight * _sigmoid(-lead) if good else undesirable_weight * _sigmoid(lead)

    return _each(unit, log_probs, reference_log_probs, desirable)
