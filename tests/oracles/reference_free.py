"""Preferences without a reference policy, from the formula."""

import mpmath
import numpy as np

mp = mpmath.mpf
_POOL = (0.0, -1e-12, -1e-3, -1.0, -30.0, -1e4)
CANCELS = True  # differences of means


def _log_probs(rng, units):
    return -2.0 * np.exp(rng.normal(size=units))


def _tokens(rng, units):
    return rng.integers(1, 9, size=units).astype(np.float64)


ARGUMENTS = {name: (_log_probs, _POOL) for name in ("chosen", "rejected")} | {
    name: (_tokens, (1.0, 4.0)) for name in ("chosen_lengths", "rejected_lengths")
}
HYPERPARAMETERS = {"alpha": (0.25,)}
STATIC = {"objective": ("logistic", "hinge", "ipo")}


def _surprise(x):
    return mpmath.log1p(mpmath.exp(-x))


def _each(f, first, *others):
    out = np.empty(first.shape, object)
    for index in np.ndindex(first.shape):
        out[index] = f(first[index], *(x[index] for x in others))
    return out


def simpo(chosen, rejected, chosen_lengths, rejected_lengths, *, beta, margin, alpha, label_smoothing, nll_weight):
    def score(mean):
        return (1 - mpmath.exp(-alpha * mean)) / alpha if alpha else mean

    def unit(w, l, m, n):  # noqa: E741
        h = beta * (score(w / m) - score(l / n)) - margin
        return (1 - label_smoothing) * _surprise(h) + label_smoothing * _surprise(-h) - nll_weight * w / m

    return _each(unit, chosen, rejected, chosen_lengths, rejected_lengths)


def cpo(chosen, rejected, *, beta, margin, label_smoothing, nll_weight, objective="logistic"):
    def unit(w, l):  # noqa: E741
        h = beta * (w - l) - margin
        if objective == "hinge":
            loss = max(1 - h, mp(0))
        elif objective == "ipo":
            loss = (h / beta - 1 / (2 * beta)) ** 2
        else:
            loss = (1 - label_smoothing) * _surprise(h) + label_smoothing * _surprise(-h)
        return loss - nll_weight * w

    return _each(unit, chosen, rejected)


def orpo(chosen, rejected, chosen_lengths, rejected_lengths, *, odds_weight):
    tiny = mp(2) ** -126

    def unit(w, l, m, n):  # noqa: E741
        x, y = (max(-total / tokens, mp(0)) for total, tokens in ((w, m), (l, n)))
        x_odds = tiny if max(x, y) < tiny else x
        odds = mpmath.log1p(mpmath.expm1(x_odds) / mpmath.expm1(max(y, tiny)))
        return x + odds_weight * odds

    return _each(unit, chosen, rejected, chosen_lengths, rejected_lengths)
