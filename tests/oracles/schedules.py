"""Schedules, float64 and one step at a time. Each oracle takes the arguments of its namesake and returns a function."""

import math
from typing import Any


def _call(schedule: Any, step: float) -> Any:
    return schedule(step) if callable(schedule) else schedule


def constant(value):
    return lambda _: value


def linear(start, end, steps):
    def schedule(step):
        if step >= steps:
            return end
        return start + (end - start) * max(step, 0) / steps

    return schedule


def polynomial(start, end, steps, *, power):
    def schedule(step):
        if step >= steps:
            return end
        return end + (start - end) * (1 - max(step, 0) / steps) ** power

    return schedule


def cosine(start, end, steps):
    def schedule(step):
        if step >= steps:
            return end
        return end + (start - end) * (1 + math.cos(math.pi * max(step, 0) / steps)) / 2

    return schedule


def one_minus_sqrt(start, end, steps):
    def schedule(step):
        if step >= steps:
            return end
        return end + (start - end) * (1 - math.sqrt(max(step, 0) / steps))

    return schedule


def exponential(start, rate, steps, *, end=None, staircase=False):
    def schedule(step):
        times = max(step, 0) // steps if staircase else max(step, 0) / steps
        value = start * rate**times
        if end is None:
            return value
        return max(value, end) if rate < 1 else min(value, end)

    return schedule


def step_decay(start, factor, every):
    def schedule(step):
        value = start
        while step >= every:
            value, step = value * factor, step - every
        return value

    return schedule


def inverse_sqrt(start, timescale):
    return lambda step: start * math.sqrt(timescale / (timescale + max(step, 0)))


def join(*phases):
    def schedule(step):
        step = max(step, 0)
        for phase, length in phases[:-1]:
            if step < length:
                return _call(phase, step)
            step -= length
        phase, length = phases[-1]
        return _call(phase, step if length is None else min(step, length))

    return schedule


def scale(schedule, factor):
    return lambda step: _call(schedule, max(step, 0)) * _call(factor, max(step, 0))


def warmup(schedule, steps, *, start=0.0):
    def warmed(step):
        if step >= steps:
            return _call(schedule, step - steps)
        return start + (_call(schedule, 0) - start) * max(step, 0) / steps

    return warmed


def piecewise_constant(values, boundaries):
    return lambda step: values[sum(step >= boundary for boundary in boundaries)]


def warmup_cosine(peak_value, *, warmup_steps, decay_steps, start_value=0.0, end_value=0.0):
    def schedule(step):
        if step < warmup_steps:
            return linear(start_value, peak_value, warmup_steps)(step)
        return cosine(peak_value, end_value, decay_steps)(step - warmup_steps)

    return schedule


def warmup_linear(peak_value, *, warmup_steps, decay_steps, start_value=0.0, end_value=0.0):
    def schedule(step):
        if step < warmup_steps:
            return linear(start_value, peak_value, warmup_steps)(step)
        return linear(peak_value, end_value, decay_steps)(step - warmup_steps)

    return schedule


def warmup_stable_decay(
    peak_value, *, warmup_steps, stable_steps, decay_steps, start_value=0.0, end_value=0.0, shape="one_minus_sqrt"
):
    def schedule(step):
        if step < warmup_steps:
            return linear(start_value, peak_value, warmup_steps)(step)
        if step < warmup_steps + stable_steps:
            return peak_value
        done = min((step - warmup_steps - stable_steps) / decay_steps, 1)
        left = {
            "one_minus_sqrt": 1 - math.sqrt(done),
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
        }
        return end_value + (peak_value - end_value) * left[shape]

    return schedule


def one_cycle(
    peak_value,
    *,
    warmup_steps,
    decay_steps,
    final_steps=None,
    div_factor=25.0,
    final_div_factor=1e4,
    shape="cosine",
):
    phase = {"cosine": cosine, "linear": linear}[shape]
    start = peak_value / div_factor
    end = start / final_div_factor

    def schedule(step):
        if step < warmup_steps:
            return phase(start, peak_value, warmup_steps)(step)
        step -= warmup_steps
        if final_steps is None:
            return phase(peak_value, end, decay_steps)(step)
        if step < decay_steps:
            return phase(peak_value, start, decay_steps)(step)
        return phase(start, end, final_steps)(step - decay_steps)

    return schedule


def cosine_restarts(peak_value, *, cycle_steps, growth=1.0, peak_decay=1.0, end_value=0.0):
    def schedule(step):
        step, length, peak = max(step, 0), cycle_steps, peak_value
        while step >= length:
            step, length, peak = step - length, length * growth, peak * peak_decay
        return end_value + (peak - end_value) * (1 + math.cos(math.pi * step / length)) / 2

    return schedule


def noam(model_dim, *, warmup_steps, factor=1.0):
    def schedule(step):
        count = max(step, 0) + 1
        return factor * model_dim**-0.5 * min(count**-0.5, count * warmup_steps**-1.5)

    return schedule
