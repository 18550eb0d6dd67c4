"""Schedule-free optimizers, float64: the average is a weighted mean of all iterates."""

import numpy as np

from tests.oracles.optimizers import _at, _average, _ratio

ULPS = (2, 32)  # a step is a difference of the state, whose digits are those of parameters
KEEPS_WHAT_ROUNDING_TAKES = True  # test_averaging_transforms.py says what that gives 16-bit parameters


def _schedule_free(direction, params, gradients, learning_rate, b1, weight_lr_power, r, weight_decay):
    updates, iterates, weights, rates = [], [params], [], []
    for step in range(len(gradients)):
        rates.append(_at(step, learning_rate))
        decayed = direction(gradients[: step + 1]) + _at(step, weight_decay) * params
        iterates.append(iterates[-1] - rates[-1] * decayed)
        weights.append((step + 1) ** _at(step, r) * max(rates) ** _at(step, weight_lr_power))
        x = sum(w * z for w, z in zip(weights, iterates[1:], strict=True)) / sum(weights)
        y = _at(step, b1) * x + (1.0 - _at(step, b1)) * iterates[-1]
        # Parameters held where they are move by what the trained ones would.
        before = updates[-1][0] if updates else iterates[0]
        updates.append((y, y - before))
        params = params + updates[-1][1]
    return [update for _, update in updates]


def schedule_free_sgd(params, gradients, learning_rate, *, b1=0.9, weight_lr_power=2.0, r=0.0, weight_decay=0.0):
    return _schedule_free(lambda past: past[-1], params, gradients, learning_rate, b1, weight_lr_power, r, weight_decay)


def schedule_free_adamw(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_lr_power=2.0,
    r=0.0,
    weight_decay=0.0,
):
    def direction(past):
        v, mass = _average([np.abs(g) ** 2 for g in past], b2)
        return _ratio(past[-1], np.sqrt(v / mass) + _at(len(past) - 1, eps))

    return _schedule_free(direction, params, gradients, learning_rate, b1, weight_lr_power, r, weight_decay)
