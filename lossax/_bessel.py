"""The modified Bessel functions of orders 0 and 1 as circular statistics needs them, with all their digits."""

import math

import jax
import jax.numpy as jnp

from lossax._numerics import with_slopes

_LARGE = 24.0
# cos of the midpoints of a quarter circle: the mean of a periodic function at 48 points is exact below _LARGE.
_COSINES = tuple(math.cos((j + 0.5) * math.pi / 24.0) for j in range(12))
_VERSINES = tuple(2.0 * math.sin((j + 0.5) * math.pi / 48.0) ** 2 for j in range(12))
# log(sqrt(2 pi x) exp(-x) I0(x)) as a series in 1 / x, from 1 / x itself: asymptotic, with 18 digits from _LARGE on.
_SERIES = (
    0.125,
    0.0625,
    0.06510416666666667,
    0.1015625,
    0.2095703125,
    0.5364583333333334,
    1.6380658830915178,
    5.809814453125,
    23.475127749972874,
    106.467822265625,
    535.640519510616,
    2960.7397867838542,
    17837.279688947477,
    116339.24666050502,
    816737.8421910767,
    6140798.86346674,
    49232732.3399986,
    419272864.964833,
    3779795380.667541,
    35961831603.66901,
)


def _masses(x: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """exp(-x (1 - c)) and exp(-x (1 + c)) at each cosine c of the rule."""
    return [(jnp.exp(-x * versine), jnp.exp(-x * (1.0 + c))) for versine, c in zip(_VERSINES, _COSINES, strict=True)]


def _split(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether x is large, x where it is not, and 1 / x where it is."""
    large = x > _LARGE
    return large, jnp.where(large, 1, x), 1.0 / jnp.where(large, x, jnp.full_like(x, _LARGE))


def bessel_gap(x: jax.Array) -> jax.Array:
    """1 - I1(x) / I0(x) for x >= 0, which is about 1 / (2 x) far away: one less the mean resultant length."""
    large, small, u = _split(x)
    total, gap = jnp.zeros_like(x), jnp.zeros_like(x)
    for (near, far), versine, c in zip(_masses(small), _VERSINES, _COSINES, strict=True):
        total = total + (near + far)
        gap = gap + (versine * near + (1.0 + c) * far)
    series = jnp.zeros_like(x)
    for k in range(len(_SERIES), 0, -1):
        series = k * _SERIES[k - 1] + u * series
    return jnp.where(large, u * (0.5 + u * series), gap / total)


def bessel_ratio(x: jax.Array) -> jax.Array:
    """I1(x) / I0(x) for x >= 0, which is about x / 2 near 0: the mean resultant length."""
    large, small, _ = _split(x)
    total, rest = jnp.zeros_like(x), jnp.zeros_like(x)
    for (near, far), c in zip(_masses(small), _COSINES, strict=True):
        total = total + (near + far)
        rest = rest + c * (near * -jnp.expm1(-2.0 * c * small))
    return jnp.where(large, 1.0 - bessel_gap(x), rest / total)


@with_slopes(lambda x: (-bessel_gap(x),))
def log_bessel(x: jax.Array) -> jax.Array:
    """log(exp(-x) I0(x)) for x >= 0."""
    large, small, u = _split(x)
    total = jnp.zeros_like(x)
    for near, far in _masses(small):
        total = total + (near + far)
    series = jnp.zeros_like(x)
    for c in _SERIES[::-1]:
        series = c + u * series
    return jnp.where(large, u * series + 0.5 * jnp.log(u / (2.0 * math.pi)), jnp.log(total / 24.0))
