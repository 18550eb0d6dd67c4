"""Preferences of a batch and of the answers to a prompt, one set at a time, from the formula."""

import mpmath
import numpy as np

SETS = True
mp = mpmath.mpf
_POOL = (0.0, -1e-3, -1.0, -2.5, -30.0, -1e3)


def _log_probs(rng, units):
    return -2.0 * np.exp(rng.normal(size=units))


def _tokens(rng, units):
    return rng.integers(1, 9, size=units).astype(np.float64)


def _grades(rng, units):
    return rng.integers(0, 4, size=units)


ARGUMENTS = {
    name: (_log_probs, _POOL) for name in ("chosen", "rejected", "reference_chosen", "reference_rejected", "log_probs")
} | {"rewards": (_grades, ()), "tokens": (_tokens, (1.0, 4.0))}
STATIC = {"paired": (True, False), "tile": (None, 2)}


def aot(chosen, rejected, reference_chosen, reference_rejected, *, beta, label_smoothing, paired=True):
    if paired:
        u, v = sorted(chosen - rejected), sorted(reference_chosen - reference_rejected)
    else:
        u, v = sorted(chosen - reference_chosen), sorted(rejected - reference_rejected)

    def cost(h):
        yes, no = mpmath.log1p(mpmath.exp(-h)), mpmath.log1p(mpmath.exp(h))
        return (1 - label_smoothing) * yes + label_smoothing * no

    return mpmath.fsum(cost(beta * (x - y)) for x, y in zip(u, v, strict=True)) / len(u)


def rrhf(log_probs, rewards, tokens, *, nll_weight, tile=None):
    del tile
    p = log_probs / tokens
    n = range(len(p))
    ranking = mpmath.fsum(max(p[i] - p[j], mp(0)) for i in n for j in n if rewards[i] < rewards[j])
    best = [x for x, r in zip(log_probs, rewards, strict=True) if r == max(rewards)]
    return ranking - nll_weight * mpmath.fsum(best) / len(best)
