"""Regression as classification: distributions over bins in place of numbers."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper, _numerics
from lossax._numerics import with_slopes


def _computed(targets):
    """The targets in the dtype of the computation."""
    _check.real(targets=targets)
    _, dtype = _check.spec(targets)
    dtype = _numerics.wide_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else _hyper.default_float()
    return jnp.asarray(targets).astype(dtype)


def _within(targets, points):
    """Targets `[..., 1]`, clipped to the span of the points, and the points `[..., n]` in their dtype and rank."""
    targets = _computed(targets)[..., None]
    points = jnp.asarray(points).astype(targets.dtype).reshape((1,) * (targets.ndim - 1) + (-1,))
    return jnp.clip(targets, points[..., :1], points[..., -1:]), points


def two_hot(targets: jax.Array, *, centers: ArrayLike) -> jax.Array:
    r"""Each number as a distribution over the two bins next to it, whose mean it is.

    .. math:: t_k = \frac{c_{k + 1} - y}{c_{k + 1} - c_k}, \quad t_{k + 1} = \frac{y - c_k}{c_{k + 1} - c_k},
        \qquad c_k \le y < c_{k + 1}

    For numbers of widely different sizes (returns, values) that squared error is too rough for: train logits with
    `losses.softmax_cross_entropy` on these targets and decode with `activations.histogram_mean`, which gives back the
    number. `hl_gauss` spreads over more bins, which generalizes better where they are narrow.

    Args:
      targets: True values, real `[...]`. What is outside the centers counts as the first or last of them.
      centers: Value of each bin, float `[bins]`, increasing, in any spacing.

    Returns:
      Distributions, float `[..., bins]`; float32 for 16-bit targets.

    Raises:
      TypeError: if `targets` are not real.
      ValueError: if `centers` do not increase.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import activations, losses
      >>> centers = jnp.array([0.0, 1.0, 3.0])
      >>> two_hot(jnp.array([1.5, 9.0]), centers=centers).tolist()
      [[0.0, 0.75, 0.25], [0.0, 0.0, 1.0]]
      >>> logits = jnp.log(jnp.array([[0.5, 0.5, 0.0]]))
      >>> losses.softmax_cross_entropy(logits, two_hot(jnp.array([0.25]), centers=centers)).item()  # log 2
      0.6931471824645996
      >>> activations.histogram_mean(logits, centers=centers).tolist()
      [0.5]

    Reference:
      Bellemare, Dabney and Munos, *A distributional perspective on reinforcement learning*, 2017; Hafner, Pasukonis, Ba
      and Lillicrap, *Mastering diverse domains through world models*, 2023.
    """
    _check.increasing(centers=centers)
    targets, centers = _within(targets, centers)
    low, high = centers[..., :-1], centers[..., 1:]
    # How much of each gap lies below the target: each bin gets what comes between two of them, in all exactly 1.
    passed = jnp.where(targets >= high, 1, jnp.maximum(targets - low, 0.0) / (high - low))
    one = jnp.ones_like(targets)
    return jnp.concatenate([one, passed], axis=-1) - jnp.concatenate([passed, 0.0 * one], axis=-1)


def _normal_mass(low, high, width):
    """erf(high) - erf(low), where high = low + width, with its digits in the tails and in narrow bins too."""
    left = high <= 0
    near, far = jnp.where(left, -high, low), jnp.where(left, -low, high)
    wide = jnp.where(near >= 0, lax.erfc(near) - lax.erfc(far), lax.erf(high) - lax.erf(low))
    # Of a narrow bin three terms of the series around its middle, the fourth of which is below the rounding.
    middle = 0.5 * (low + high)
    most = (float(jnp.finfo(low.dtype).eps) / 4e-4) ** (1 / 6)
    narrow = width * (1.0 + jnp.abs(middle)) < most
    x, h = jnp.where(narrow, middle, 0.0), jnp.where(narrow, width, 0.0) ** 2
    x2 = x * x
    series = 1.0 + h * ((2.0 * x2 - 1.0) / 12.0 + h * (4.0 * x2 * x2 - 12.0 * x2 + 3.0) / 480.0)
    return jnp.where(narrow, (2.0 / math.sqrt(math.pi)) * width * jnp.exp(-x2) * series, wide)


def hl_gauss(targets: jax.Array, *, edges: ArrayLike, sigma: ArrayLike | None = None) -> jax.Array:
    r"""Each number as a normal distribution around it, as a histogram: HL-Gauss.

    .. math:: t_k = \frac{\Phi\big((e_{k + 1} - y) / \sigma\big) - \Phi\big((e_k - y) / \sigma\big)}
        {\Phi\big((e_n - y) / \sigma\big) - \Phi\big((e_0 - y) / \sigma\big)}

    Regression by classification for large networks (value functions, ages, depths): train logits with
    `losses.softmax_cross_entropy` on these targets, and decode with `activations.histogram_mean` at the middles of the
    bins. Neighbouring bins share what they learn, which `two_hot` lets them do only in pairs. Let the edges reach
    three sigmas beyond the data: nearer to them, what is cut off pulls the mean inwards.

    Args:
      targets: True values, real `[...]`. What is outside the edges counts as the first or last of them.
      edges: Bounds of the bins, float `[bins + 1]`, increasing, in any spacing.
      sigma: Standard deviation, in units of `targets`, positive; 0.75 mean widths of a bin if `None`, as in the paper.

    Returns:
      Distributions, float `[..., bins]`; float32 for 16-bit targets.

    Raises:
      TypeError: if `targets` are not real.
      ValueError: if `edges` do not increase or `sigma` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import activations, losses
      >>> edges = jnp.array([-3.0, -1.0, 1.0, 3.0])
      >>> t = hl_gauss(jnp.array([0.0]), edges=edges, sigma=1.0)
      >>> [round(x, 4) for x in t[0].tolist()]  # 0.1573, 0.6827, 0.1573 are within 1 and within 3 sigma
      [0.1577, 0.6845, 0.1577]
      >>> logits = jnp.log(t)
      >>> round(losses.softmax_cross_entropy(logits, t).item(), 3)  # the entropy, the least there is
      0.842
      >>> activations.histogram_mean(logits, centers=0.5 * edges[1:] + 0.5 * edges[:-1]).tolist()
      [0.0]

    Reference:
      Imani and White, *Improving regression performance with distributional losses*, 2018; Farebrother et al., *Stop
      regressing: training value functions via classification for scalable deep RL*, 2024 (the ratio 0.75).
    """
    _check.increasing(edges=edges)
    if sigma is not None:
        _check.positive(sigma=sigma)
    targets, edges = _within(targets, edges)
    bins = edges.shape[-1] - 1
    spread = 0.75 * (edges[..., -1:] - edges[..., :1]) / bins
    if sigma is not None:
        spread = jnp.asarray(sigma).astype(targets.dtype) * jnp.ones_like(spread)
    unit = math.sqrt(2.0) * spread
    # Beyond 40 there is nothing left, not even in float64.
    z = jnp.clip((edges - targets) / unit, -40.0, 40.0)
    mass = _normal_mass(z[..., :-1], z[..., 1:], (edges[..., 1:] - edges[..., :-1]) / unit)
    return mass / jnp.sum(mass, axis=-1, keepdims=True)


@with_slopes(lambda x: (1.0 / (1.0 + jnp.abs(x)),))
def _symlog(x):
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symlog(targets: jax.Array) -> jax.Array:
    r"""Logarithm of both signs: the identity near 0, logarithmic far away.

    .. math:: t = \operatorname{sign}(y) \log(1 + |y|)

    For targets of unknown or widely different sizes: train with `losses.squared_error` on these, decode with
    `activations.symexp`. Of skewed targets that predicts less than the mean; `two_hot` on centers spread by
    `activations.symexp` keeps it. The derivative at 0 is 1.

    Args:
      targets: True values, real `[...]`.

    Returns:
      Float `[...]`; float32 for 16-bit targets.

    Raises:
      TypeError: if `targets` are not real.

    Example:
      >>> import jax.numpy as jnp
      >>> from lossax import activations
      >>> [round(x, 6) for x in symlog(jnp.array([0.0, -(jnp.e - 1)])).tolist()]
      [0.0, -1.0]
      >>> round(activations.symexp(symlog(jnp.array(1e4))).item(), -1)
      10000.0

    Reference:
      Hafner, Pasukonis, Ba and Lillicrap, *Mastering diverse domains through world models*, 2023.
    """
    return _symlog(_computed(targets))
