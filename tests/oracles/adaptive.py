"""Adam's relatives, float64: sums over the whole history where that is possible."""

import numpy as np

from tests.oracles.adafactor import _factor
from tests.oracles.optimizers import _at, _average, _ratio, _run, _trace


def _squares(past):
    return [np.abs(g) ** 2 for g in past]


def _moments(past, b1, b2):
    """First and second moment of the history without their bias."""
    m, m_mass = _average(past, b1)
    v, v_mass = _average(_squares(past), b2)
    return m / m_mass, v / v_mass


def _ahead(past, b1):
    """The first moment one step ahead along itself."""
    m, mass = _average(past, b1)
    share = _at(len(past) - 1, b1)
    return share * m / (share * mass + 1.0 - share) + (1.0 - share) * past[-1] / mass


def amsgrad(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    bias_correction_mu=True,
    bias_correction_nu=True,
    bias_correction_max=False,
    weight_decay=0.0,
):
    seconds = []

    def direction(past):
        step = len(past) - 1
        m, m_mass = _average(past, b1)
        seconds.append(_average(_squares(past), b2))
        before = bias_correction_nu and not bias_correction_max
        largest = np.max([v / mass if before else v for v, mass in seconds], axis=0)
        if bias_correction_max:
            largest = largest / seconds[-1][1]
        root = np.sqrt(largest + _at(step, eps_root)) + _at(step, eps)
        return _ratio(m / m_mass if bias_correction_mu else m, root)

    return _run(direction, params, gradients, learning_rate, weight_decay)


def radam(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    threshold=5.0,
    nesterov=False,
    weight_decay=0.0,
):
    def direction(past):
        step = len(past) - 1
        m, v = _moments(past, b1, b2)
        m = _ahead(past, b1) if nesterov else m
        ages, mass = _average([np.float64(step - s) for s in range(step + 1)], b2)
        rho, most = 1.0 + 2.0 * ages / mass, 2.0 / (1.0 - _at(step, b2)) - 1.0
        if not callable(b2):
            np.testing.assert_allclose(rho, most - 2.0 * (step + 1) * b2 ** (step + 1) / (1.0 - b2 ** (step + 1)))
        if rho < max(_at(step, threshold), 4.0) or most <= 4.0:
            return m
        r = np.sqrt((rho - 4.0) * (rho - 2.0) * most / ((most - 4.0) * (most - 2.0) * rho))
        return _ratio(r * m, np.sqrt(v + _at(step, eps_root)) + _at(step, eps))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def adamax(params, gradients, learning_rate, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0):
    def direction(past):
        m, mass = _average(past, b1)
        sizes = []
        for s, g in enumerate(past):
            fading = np.prod([_at(later, b2) for later in range(s + 1, len(past))])
            sizes.append(fading * (np.abs(g) + _at(s, eps)))
        return _ratio(m / mass, np.max(sizes, axis=0))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def adabelief(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-16,
    eps_root=1e-13,
    nesterov=False,
    weight_decay=0.0,
):
    surprises = []

    def direction(past):
        step = len(past) - 1
        m, mass = _average(past, b1)
        surprises.append(np.abs(past[-1] - m) ** 2)
        v, v_mass = _average(surprises, b2)
        root = np.sqrt(v / v_mass + _at(step, eps_root)) + _at(step, eps)
        return _ratio(_ahead(past, b1) if nesterov else m / mass, root)

    return _run(direction, params, gradients, learning_rate, weight_decay)


def yogi(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-3,
    eps_root=0.0,
    initial_accumulator_value=1e-6,
    weight_decay=0.0,
):
    def direction(past):
        step = len(past) - 1
        m, mass = _average(past, b1)
        v = np.full(past[0].shape, _at(0, initial_accumulator_value))
        for s, square in enumerate(_squares(past)):
            v = np.where(v > square, v - (1.0 - _at(s, b2)) * square, v + (1.0 - _at(s, b2)) * square)
        _, v_mass = _average(_squares(past), b2)
        return _ratio(m / mass, np.sqrt(v / v_mass + _at(step, eps_root)) + _at(step, eps))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def ademamix(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    alpha=5.0,
    alpha_warmup_steps=0,
    b3_warmup_steps=0,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=0.0,
):
    def ramp(step, steps):
        return 1.0 if _at(step, steps) == 0 else min((step + 1.0) / _at(step, steps), 1.0)

    def slow(step):
        """As the paper has it."""
        fast, end, p = np.log(_at(step, b1)), np.log(_at(step, b3)), ramp(step, b3_warmup_steps)
        return float(np.exp(fast * end / ((1.0 - p) * end + p * fast)))

    def direction(past):
        step = len(past) - 1
        m, v = _moments(past, b1, b2)
        s, _ = _average(past, slow)
        mix = _at(step, alpha) * ramp(step, alpha_warmup_steps)
        return _ratio(m + mix * s, np.sqrt(v + _at(step, eps_root)) + _at(step, eps))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def _trusted(u, params, coefficient, eps, least, most):
    """u in proportion to the weights."""
    of_p = min(max(np.sqrt(np.sum(np.abs(params) ** 2)), least), most)
    of_u = np.sqrt(np.sum(np.abs(u) ** 2))
    return u if of_p == 0 or of_u == 0 else u * coefficient * of_p / (of_u + eps)


def lamb(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-6,
    eps_root=0.0,
    min_norm=0.0,
    max_norm=np.inf,
    weight_decay=0.0,
    frozen=False,
):
    updates = []
    for step in range(len(gradients)):
        m, v = _moments(gradients[: step + 1], b1, b2)
        u = _ratio(m, np.sqrt(v + _at(step, eps_root)) + _at(step, eps)) + _at(step, weight_decay) * params
        u = _trusted(u, params, 1.0, 0.0, _at(step, min_norm), _at(step, max_norm))
        updates.append(-_at(step, learning_rate) * u)
        params = params if frozen else params + updates[-1]
    return updates


def lars(
    params,
    gradients,
    learning_rate,
    *,
    trust_coefficient=0.001,
    eps=0.0,
    min_norm=0.0,
    max_norm=np.inf,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    frozen=False,
):
    updates, taken = [], []
    for step, g in enumerate(gradients):
        own = (_at(step, value) for value in (trust_coefficient, eps, min_norm, max_norm))
        taken.append(_trusted(g + _at(step, weight_decay) * params, params, *own))
        updates.append(-_at(step, learning_rate) * _trace(taken, momentum, nesterov))
        params = params if frozen else params + updates[-1]
    return updates


def adopt(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.9999,
    eps=1e-6,
    clip_threshold=None,
    nesterov=False,
    weight_decay=0.0,
):
    steps, moments = [], []

    def direction(past):
        step, g = len(past) - 1, past[-1]
        if step == 0:
            steps.append(np.zeros_like(g))
            moments.append(np.abs(g) ** 2)
            return np.zeros_like(g)
        u = _ratio(g, np.maximum(np.sqrt(moments[-1]), _at(step, eps)))
        bound = step**0.25 if clip_threshold is None else _at(step, clip_threshold)
        steps.append(u * np.minimum(1.0, bound / np.where(u == 0, 1.0, np.abs(u))))
        moments.append(_at(step, b2) * moments[-1] + (1.0 - _at(step, b2)) * np.abs(g) ** 2)
        m = np.zeros_like(g)
        for s, u in enumerate(steps):
            m = _at(s, b1) * m + (1.0 - _at(s, b1)) * u
        return _at(step, b1) * m + (1.0 - _at(step, b1)) * steps[-1] if nesterov else m

    return _run(direction, params, gradients, learning_rate, weight_decay)


def adan(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.98,
    b2=0.92,
    b3=0.99,
    eps=1e-8,
    eps_root=1e-8,
    extrapolation=None,
    weight_decay=0.0,
):
    """In the words of the paper, whose betas are one minus these."""

    def factor(step):
        beta2 = 1.0 - _at(step, b2)
        return 1.0 - beta2 if extrapolation is None else _at(step, extrapolation)

    def direction(past):
        step = len(past) - 1
        changes = [past[s] - past[s - 1] if s else np.zeros_like(past[0]) for s in range(step + 1)]
        seen = [np.abs(g + factor(s) * c) ** 2 for s, (g, c) in enumerate(zip(past, changes, strict=True))]
        (m, m_mass), (c, c_mass), (v, v_mass) = (
            _average(values, keep) for values, keep in ((past, b1), (changes, b2), (seen, b3))
        )
        root = np.sqrt(v / v_mass + _at(step, eps_root)) + _at(step, eps)
        return _ratio(m / m_mass + factor(step) * c / c_mass, root)

    return _run(direction, params, gradients, learning_rate, weight_decay)


def mars(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.95,
    b2=0.99,
    gamma=0.025,
    eps=1e-8,
    max_norm=1.0,
    base="adamw",
    weight_decay=0.0,
):
    seen = []

    def direction(past):
        step, g = len(past) - 1, past[-1]
        keep = _at(step, b1)
        change = g - past[-2] if step else np.zeros_like(g)
        c = g + _at(step, gamma) * keep / (1.0 - keep) * change
        norm = np.sqrt(np.sum(np.abs(c) ** 2))
        seen.append(c * min(1.0, _at(step, max_norm) / norm) if norm else c)
        m, v = _moments(seen, b1, b2)
        if base == "lion":
            return np.divide(m, np.abs(m), where=m != 0, out=np.zeros_like(m))
        return _ratio(m, np.sqrt(v) + _at(step, eps))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def laprop(params, gradients, learning_rate, *, b1=0.9, b2=0.999, eps=1e-15, weight_decay=0.0):
    steps = []

    def direction(past):
        v, mass = _average(_squares(past), b2)
        steps.append(_ratio(past[-1], np.sqrt(v / mass) + _at(len(past) - 1, eps)))
        m, mass = _average(steps, b1)
        return m / mass

    return _run(direction, params, gradients, learning_rate, weight_decay)


def stable_adamw(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.99,
    eps=1e-6,
    clip_threshold=1.0,
    weight_decay=1e-2,
):
    def direction(past):
        step = len(past) - 1
        m, v = _moments(past, b1, b2)
        least = _at(step, eps)
        rms = np.sqrt(np.mean(_ratio(np.abs(past[-1]) ** 2, np.maximum(v, least**2))))
        return _ratio(m, np.sqrt(v) + least) / max(1.0, rms / _at(step, clip_threshold))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def adam_atan2(params, gradients, learning_rate, *, b1=0.9, b2=0.999, a=1.27, b=1.0, weight_decay=0.0):
    def direction(past):
        step = len(past) - 1
        m, v = _moments(past, b1, b2)
        size = np.abs(m)
        return _at(step, a) * np.arctan2(size, _at(step, b) * np.sqrt(v)) * _ratio(m, size)

    return _run(direction, params, gradients, learning_rate, weight_decay)


def signum(params, gradients, learning_rate, *, beta=0.9, weight_decay=0.0):
    def direction(past):
        m, _ = _average(past, beta)
        return _ratio(m, np.abs(m))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def sign_sgd(params, gradients, learning_rate, *, weight_decay=0.0):
    return _run(lambda past: _ratio(past[-1], np.abs(past[-1])), params, gradients, learning_rate, weight_decay)


def adadelta(params, gradients, learning_rate, *, rho=0.9, eps=1e-6, weight_decay=0.0):
    steps = [np.zeros_like(params)]

    def direction(past):
        small = _at(len(past) - 1, eps)
        v, _ = _average(_squares(past), rho)
        s, _ = _average(_squares(steps[1:]), rho) if len(steps) > 1 else (np.zeros(params.shape), 0.0)
        steps.append(np.sqrt(s + small) / np.sqrt(v + small) * past[-1])
        return steps[-1]

    return _run(direction, params, gradients, learning_rate, weight_decay)


def rprop(
    params,
    gradients,
    learning_rate,
    *,
    eta_minus=0.5,
    eta_plus=1.2,
    min_relative_step=1e-4,
    max_relative_step=5e3,
    weight_decay=0.0,
):
    size, last = np.ones_like(params), np.zeros_like(params)

    def direction(past):
        step = len(past) - 1
        for index in np.ndindex(size.shape):
            sign = np.sign(past[-1][index])
            if sign * last[index]:
                factor = eta_plus if sign * last[index] > 0 else eta_minus
                least, most = _at(step, min_relative_step), _at(step, max_relative_step)
                size[index] = min(max(_at(step, factor) * size[index], least), most)
            last[index] = 0.0 if sign * last[index] < 0 else sign
        return size * last

    return _run(direction, params, gradients, learning_rate, weight_decay)


def came(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    eps=1e-30,
    eps_instability=1e-16,
    clip_threshold=1.0,
    min_dim_size_to_factor=1,
    weight_decay=0.0,
):
    """Averaging and taking means commute, so whole matrices can be averaged, and factored last."""
    factored = params.ndim >= 2 and min(params.shape[-2:]) >= min_dim_size_to_factor
    axes = (params.ndim - 2, params.ndim - 1)
    squares, steps, deviations = [], [], []

    def direction(past):
        step = len(past) - 1
        squares.append(np.abs(past[-1]) ** 2 + _at(step, eps))
        v, _ = _average(squares, b2)
        u = past[-1] / np.sqrt(_factor(v, axes) if factored else v)
        steps.append(u / max(1.0, np.sqrt(np.mean(np.abs(u) ** 2)) / _at(step, clip_threshold)))
        m, _ = _average(steps, b1)
        if not factored:
            return m
        deviations.append(np.abs(steps[-1] - m) ** 2 + _at(step, eps_instability))
        return m / np.sqrt(_factor(_average(deviations, b3)[0], axes))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def adam_mini(
    params,
    gradients,
    learning_rate,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    unit_axes=(-1,),
    weight_decay=0.0,
):
    """For matrices: units are columns, or there is one."""

    def direction(past):
        m, v = _moments(past, b1, b2)
        v = np.mean(v, axis=0, keepdims=True) if unit_axes else np.mean(v)
        return _ratio(m, np.sqrt(v) + _at(len(past) - 1, eps))

    return _run(direction, params, gradients, learning_rate, weight_decay)


def ftrl(
    params,
    gradients,
    learning_rate,
    *,
    beta=1.0,
    l1=0.0,
    l2=0.0,
    initial_accumulator_value=0.0,
    weight_decay=0.0,
    frozen=False,
):
    """In the words of its paper, with one divisor for each step, and decay that stays."""
    n = np.full(params.shape, _at(0, initial_accumulator_value))
    z = -params * (_at(0, beta) + np.sqrt(n)) / _at(0, learning_rate)
    updates = []
    for step, g in enumerate(gradients):
        rate, small = _at(step, learning_rate), _at(step, beta)
        before = (small + np.sqrt(n)) / _at(max(step - 1, 0), learning_rate)
        n = n + np.abs(g) ** 2
        divisor = (small + np.sqrt(n)) / rate
        z = z + g - (divisor - before) * params + divisor * rate * _at(step, weight_decay) * params
        size = np.abs(z)
        new = -_ratio(z, size) * np.maximum(size - _at(step, l1), 0.0) / (divisor + _at(step, l2))
        updates.append(new - params)
        params = params if frozen else new
    return updates


def sgld(
    params,
    gradients,
    learning_rate,
    *,
    noise,
    temperature=1.0,
    preconditioner="none",
    decay=0.99,
    eps=1e-5,
    weight_decay=0.0,
):
    """Given the draws."""
    updates = []
    for step, g in enumerate(gradients):
        v, mass = _average(_squares(gradients[: step + 1]), decay)
        scale = 1.0 if preconditioner == "none" else 1.0 / (_at(step, eps) + np.sqrt(v / mass))
        rate = _at(step, learning_rate)
        drift = scale * g + _at(step, weight_decay) * params
        updates.append(np.sqrt(2.0 * rate * _at(step, temperature) * scale) * noise[step] - rate * drift)
        params = params + updates[-1]
    return updates
