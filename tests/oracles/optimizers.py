"""First-order optimizers, float64: sums over the whole history at every step, where the library keeps a state.

Each takes a float64 array of parameters, a list of gradients and the arguments of its namesake; it moves the parameters
and returns the list of updates. Hyperparameters may be functions of the step.
"""

from typing import Any

import numpy as np


def _at(step: int, hyper: Any) -> float:
    return hyper if isinstance(hyper, int | float) else float(hyper(step))


def _average(history, decay):
    """Sum and total weight of the history, where the value of step s weighs (1 - decay_s) decay_(s+1) ... decay_t."""
    total, mass = np.zeros_like(history[0]), 0.0
    for s, value in enumerate(history):
        weight = 1.0 - _at(s, decay)
        for later in range(s + 1, len(history)):
            weight *= _at(later, decay)
        total, mass = total + weight * value, mass + weight
    return total, mass


def _trace(history, momentum, nesterov):
    """Sum of the history, where the value of step s weighs momentum_(s+1) ... momentum_t."""
    if momentum is None:
        return history[-1]
    total = np.zeros_like(history[0])
    for s, value in enumerate(history):
        weight = 1.0
        for later in range(s + 1, len(history)):
            weight *= _at(later, momentum)
        total = total + weight * value
    return history[-1] + _at(len(history) - 1, momentum) * total if nesterov else total


def _ratio(numerator, denominator):
    """Zero where the denominator is: a coordinate that never had a gradient."""
    return np.where(denominator == 0, 0.0, numerator / np.where(denominator == 0, 1.0, denominator))


def _run(direction, params, gradients, learning_rate, weight_decay, independent=False):
    """The updates that `direction`, a function of the gradients so far, makes."""
    updates = []
    for step in range(len(gradients)):
        rate, decay = _at(step, learning_rate), _at(step, weight_decay)
        shrink = decay if independent else rate * decay
        updates.append(-rate * direction(gradients[: step + 1]) - shrink * params)
        params = params + updates[-1]
    return updates


def sgd(params, gradients, learning_rate, *, momentum=None, nesterov=False, dampening=0.0, weight_decay=0.0):
    def direction(past):
        if momentum is None:
            return past[-1]
        taken = [g if s == 0 else (1.0 - _at(s, dampening)) * g for s, g in enumerate(past)]
        trace = _trace(taken, momentum, False)
        return past[-1] + _at(len(past) - 1, momentum) * trace if nesterov else trace

    return _run(direction, params, gradients, learning_rate, weight_decay)


def adam(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=0.0,
    independent=False,
):
    def direction(past):
        step = len(past) - 1
        m, m_mass = _average(past, b1)
        v, v_mass = _average([np.abs(g) ** 2 for g in past], b2)
        return _ratio(m / m_mass, np.sqrt(v / v_mass + _at(step, eps_root)) + _at(step, eps))

    return _run(direction, params, gradients, learning_rate, weight_decay, independent)


def adamw(params, gradients, learning_rate, *, weight_decay=1e-4, **own):
    return adam(params, gradients, learning_rate, weight_decay=weight_decay, **own)


def nadam(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    momentum_decay=None,
    weight_decay=0.0,
):
    def share(step, ahead=0):
        if momentum_decay is None:
            return _at(step, b1)
        return _at(step, b1) * (1.0 - 0.5 * 0.96 ** ((step + 1 + ahead) * _at(step, momentum_decay)))

    def direction(past):
        step = len(past) - 1
        m, _ = _average(past, b1)
        v, v_mass = _average([np.abs(g) ** 2 for g in past], b2)
        product = np.prod([share(s) for s in range(step + 1)])
        following = share(step, ahead=1)
        looking = following * m / (1.0 - product * following) + (1.0 - share(step)) * past[-1] / (1.0 - product)
        return _ratio(looking, np.sqrt(v / v_mass + _at(step, eps_root)) + _at(step, eps))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def rmsprop(
    params,
    gradients,
    learning_rate,
    *,
    decay=0.9,
    eps=1e-8,
    initial_scale=0.0,
    eps_in_sqrt=True,
    centered=False,
    momentum=None,
    nesterov=False,
    bias_correction=False,
    weight_decay=0.0,
):
    directions = []

    def direction(past):
        step = len(past) - 1
        m, mass = _average(past, decay)
        v, _ = _average([np.abs(g) ** 2 for g in past], decay)
        v = v + _at(0, initial_scale) * np.prod([_at(s, decay) for s in range(step + 1)])
        if bias_correction:
            m, v = m / mass, v / mass
        if centered:
            v = np.maximum(v - np.abs(m) ** 2, 0.0)
        root = np.sqrt(v + _at(step, eps)) if eps_in_sqrt else np.sqrt(v) + _at(step, eps)
        directions.append(_ratio(past[-1], root))
        return _trace(directions, momentum, nesterov)

    return _run(direction, params, gradients, learning_rate, weight_decay)


def adagrad(
    params,
    gradients,
    learning_rate,
    *,
    initial_accumulator_value=0.1,
    eps=1e-7,
    eps_in_sqrt=True,
    weight_decay=0.0,
):
    def direction(past):
        small = _at(len(past) - 1, eps)
        v = _at(0, initial_accumulator_value) + sum(np.abs(g) ** 2 for g in past)
        return _ratio(past[-1], np.sqrt(v + small) if eps_in_sqrt else np.sqrt(v) + small)

    return _run(direction, params, gradients, learning_rate, weight_decay)


def lion(params, gradients, learning_rate, *, b1=0.9, b2=0.99, weight_decay=1e-3):
    def direction(past):
        share = _at(len(past) - 1, b1)
        before = _average(past[:-1], b2)[0] if len(past) > 1 else np.zeros_like(past[0])
        return np.sign(share * before + (1.0 - share) * past[-1])

    return _run(direction, params, gradients, learning_rate, weight_decay)
