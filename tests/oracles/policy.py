"""Policy gradients of one sequence, estimates of KL and values, from their formulas."""

import mpmath
import numpy as np

SETS = True
LOGS = (0.0, -1e-3, -1.0, -8.0, -30.0, -60.0)


def _log_probs(rng, units):
    return -rng.exponential(size=units)


ARGUMENTS = {name: (_log_probs, LOGS) for name in ("log_probs", "old_log_probs", "reference_log_probs")}
ARGUMENTS |= {"advantages": (lambda rng, units: rng.normal(size=units), (0.0, 1.0, -1.0, 1e-3, -0.25))}
ARGUMENTS |= {
    name: (lambda rng, units: 0.5 * rng.normal(size=units), (0.0, 1.0, -1.0, 1e-3, 1e4, 1e30))
    for name in ("values", "old_values", "returns")
}
HYPERPARAMETERS = {"ratio": ("token",), "ceiling": (1.5,), "clip": (0.4,)}
STATIC = {
    "ratio": ("token", "sequence", "sequence_token", "geometric", "trajectory"),
    "clipping": ("objective", "weight", "gate"),
    "estimator": ("k3", "k1", "k2"),
}


def policy_gradient(
    log_probs,
    old_log_probs,
    advantages,
    *,
    ratio="token",
    clipping="objective",
    clip_low=0.2,
    clip_high=0.2,
    ceiling=None,
    temperature_positive=1,
    temperature_negative=1.05,
    frozen=None,
):
    n = len(log_probs)
    now, old, gains = (log_probs, old_log_probs, advantages) if frozen is None else frozen
    low, high = 1 - clip_low, 1 + clip_high

    def clipped(r, gain):
        """What takes the place of r in min(r A, clip(r) A), bounded by the ceiling where A < 0."""
        if gain == 0:
            return r
        value = min(r * gain, min(max(r, low), high) * gain)
        return max(value, ceiling * gain) / gain if gain < 0 and ceiling is not None else value / gain

    def ratios(x):
        each = [mpmath.exp(a - b) for a, b in zip(x, old, strict=True)]
        if ratio == "geometric":
            each = [clipped(r, gain) for r, gain in zip(each, gains, strict=True)]
        product = mpmath.fprod(each)
        return each if ratio == "token" else [product if ratio == "trajectory" else mpmath.root(product, n)] * n

    if ratio == "sequence_token":
        own = [s * mpmath.exp(a - b) for s, a, b in zip(ratios(now), log_probs, now, strict=True)]
    else:
        own = ratios(log_probs)
    losses = []
    for t, (r, gain) in enumerate(zip(own, gains, strict=True)):
        if clipping == "gate":
            tau = temperature_positive if gain > 0 else temperature_negative
            losses.append(-gain * 4 / tau / (1 + mpmath.exp(-tau * (r - 1))))
        elif clipping == "weight":
            losses.append(-min(max(ratios(now)[t], low), high) * gain * log_probs[t])
        else:
            losses.append(-gain * (r if ratio == "geometric" else clipped(r, gain)))
    return np.array(losses, object)


def kl_estimate(log_probs, reference_log_probs, *, estimator="k3"):
    def one(a, b):
        s = mpmath.exp(b - a)
        return {"k1": a - b, "k2": (a - b) ** 2 / 2, "k3": s - 1 - (b - a)}[estimator]

    return np.vectorize(one, otypes=[object])(log_probs, reference_log_probs)


def clipped_value(values, old_values, returns, *, clip=0.2):
    def one(v, old, r):
        held = old + min(max(v - old, -clip), clip)
        return max((v - r) ** 2, (held - r) ** 2) / 2

    return np.vectorize(one, otypes=[object])(values, old_values, returns)
