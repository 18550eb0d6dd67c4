"""Adafactor, float64: the second moment summed over the whole history, and factored element by element."""

from itertools import product

import numpy as np

from tests.oracles.optimizers import _at


def _share(step, decay_rate, decay_offset):
    """Weight of the gradient of a step in the average of that step."""
    start = _at(step, decay_offset)
    age = step - start if step >= start else step
    return (age + 1.0) ** -_at(step, decay_rate)


def _whole(history, shares):
    """The average of the history, whose value of step s weighs share_s (1 - share_(s+1)) ... (1 - share_t)."""
    total = np.zeros_like(history[0])
    for s, value in enumerate(history):
        weight = shares[s]
        for later in shares[s + 1 :]:
            weight *= 1.0 - later
        total = total + weight * value
    return total


def _factor(v, axes):
    """v[i, j] = row[i] column[j] / mean(row) for every pair of the factored axes."""
    result = np.zeros_like(v)
    row_axis, column_axis = axes
    for index in product(*map(range, v.shape)):
        row = [v[tuple(k if a == column_axis else i for a, i in enumerate(index))] for k in range(v.shape[column_axis])]
        column = [v[tuple(k if a == row_axis else i for a, i in enumerate(index))] for k in range(v.shape[row_axis])]
        block = v[tuple(slice(None) if a in axes else i for a, i in enumerate(index))]
        result[index] = np.mean(row) * np.mean(column) / np.mean(block)
    return result


def adafactor(
    params,
    gradients,
    learning_rate,
    *,
    min_dim_size_to_factor=128,
    factored="largest",
    decay_rate=0.8,
    decay_offset=0.0,
    clip_threshold=1.0,
    multiply_by_parameter_scale=True,
    momentum=None,
    eps=1e-30,
    eps_scale=1e-3,
    weight_decay=0.0,
    independent=False,
):
    """Averaging and taking means commute, so whole matrices can be averaged, and factored last."""
    shape = params.shape
    largest = sorted(range(params.ndim), key=lambda axis: (shape[axis], axis))
    axes = {"largest": sorted(largest[-2:]), "last": [params.ndim - 2, params.ndim - 1], "none": []}[factored]
    if params.ndim < 2 or any(shape[axis] < min_dim_size_to_factor for axis in axes):
        axes = []
    updates, squares, shares, average = [], [], [], np.zeros_like(params)
    for step, g in enumerate(gradients):
        squares.append(np.abs(g) ** 2 + _at(step, eps))
        shares.append(_share(step, decay_rate, decay_offset))
        v = _whole(squares, shares)
        v = _factor(v, axes) if axes else v
        u = np.where(v == 0, 0.0, g / np.sqrt(np.where(v == 0, 1.0, v)))
        size = np.sqrt(np.mean(np.abs(u) ** 2))
        u = u / max(1.0, size / _at(step, clip_threshold))
        if multiply_by_parameter_scale:
            u = u * max(_at(step, eps_scale), np.sqrt(np.mean(np.abs(params) ** 2)))
        if momentum is not None:
            keep = _at(step, momentum)
            average = keep * average + (1.0 - keep) * u
            u = average
        rate, decay = _at(step, learning_rate), _at(step, weight_decay)
        updates.append(-rate * u - (decay if independent else rate * decay) * params)
        params = params + updates[-1]
    return updates
