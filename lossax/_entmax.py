"""The entmax family: softmax whose exponential is bent until it reaches 0.

With b = alpha - 1 in [0, 1], p = exp_b(z - c) where exp_b(u) = (1 + b u)_+^(1 / b) and c makes the sum 1: exp and the
log-partition at b = 0, a projection onto the simplex at 1. Everything is counted from the best class, so that nothing
depends on the size of the logits and 1 - p of a confident row keeps its digits. The root, how far c is above the best
logit, is solved for once; derivatives of every order are closed forms that take it as given.

Rows are `[..., classes]`, `beta` a scalar or `[..., 1]`, the root a pair of `[..., 1]`; -inf is a class that does not
exist. `exponent` is 1 / b where it is known to be 1 or 2, and `None` otherwise.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from lossax import _check, _double, _numerics
from lossax._numerics import divide, positive_part, with_slopes

Root = tuple[jax.Array, jax.Array]


def exponent_of(alpha: Any) -> int | None:
    """1 / (alpha - 1) of the Python numbers 2 and 1.5, whose powers need no logarithm."""
    return {2.0: 1, 1.5: 2}.get(alpha) if isinstance(alpha, int | float) else None


def beta_of(alpha: ArrayLike, rows: jax.Array) -> jax.Array:
    """Alpha - 1 in the dtype of the rows, with an axis for the classes unless it is a scalar.

    Raises:
      ValueError: if a known alpha is outside [1, 2] or does not broadcast to the units.
    """
    _check.within(1.0, 2.0, alpha=alpha)
    shape, _ = _check.spec(alpha)
    _check.broadcasts_to(rows.shape[:-1], alpha=alpha)
    beta = jnp.asarray(alpha).astype(rows.dtype) - 1.0
    return beta.reshape((1,) * (rows.ndim - 1 - len(shape)) + shape + (1,)) if shape else beta


# ---- functions whose formula is 0 / 0 somewhere ----------------------------------------------------------------------


def _series(x: jax.Array, first: int) -> jax.Array:
    """1 / first! + x / (first + 1)! + ... for |x| <= 1."""
    total = jnp.ones_like(x)
    for k in range(first + (12 if x.dtype == jnp.float32 else 20), first, -1):
        total = 1.0 + x * total / k
    return total / (1, 1, 2, 6)[first]


def _phi3(x: jax.Array) -> jax.Array:
    """((exp(x) - 1 - x) / x^2 - 1/2) / x."""
    small = jnp.abs(x) < 1.0
    far = jnp.where(small, 1, x)
    return jnp.where(small, _series(jnp.where(small, x, 0), 3), (_phi2(far) - 0.5) / far)


def _phi2_slopes(x: jax.Array) -> tuple[jax.Array, ...]:
    return (_phi2(x) - 2.0 * _phi3(x),)


@with_slopes(_phi2_slopes)
def _phi2(x: jax.Array) -> jax.Array:
    """(exp(x) - 1 - x) / x^2."""
    small = jnp.abs(x) < 1.0
    far = jnp.where(small, 1, x)
    return jnp.where(small, _series(jnp.where(small, x, 0), 2), (jnp.expm1(far) - far) / far / far)


def _phi1_slopes(x: jax.Array) -> tuple[jax.Array, ...]:
    return (_phi1(x) - _phi2(x),)


@with_slopes(_phi1_slopes)
def _phi1(x: jax.Array) -> jax.Array:
    """(exp(x) - 1) / x."""
    safe = jnp.where(x == 0, 1, x)
    return jnp.where(x == 0, 1, jnp.expm1(safe) / safe)


def _bent_log(log: jax.Array, beta: jax.Array) -> jax.Array:
    """(y^beta - 1) / beta of y = exp(log)."""
    return log * _phi1(beta * log)


def _unbend(x: jax.Array) -> jax.Array:
    """-log(1 - x) / x for 0 <= x < 1."""
    safe = jnp.where(x == 0, 1, x)
    return jnp.where(x == 0, 1, -jnp.log1p(-safe) / safe)


def _log(p: jax.Array) -> jax.Array:
    """The logarithm; below the smallest normal number that which it has there, without derivative."""
    return jnp.log(jnp.where(p < jnp.finfo(p.dtype).tiny, jnp.asarray(jnp.finfo(p.dtype).tiny, p.dtype), p))


# ---- the row: gaps, the root, probabilities --------------------------------------------------------------------------


def _top(logits: jax.Array) -> jax.Array:
    """The best logit of each row, 0 where there is none."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    return lax.stop_gradient(jnp.where(jnp.isneginf(top), 0, top))


def _gap(top: jax.Array, logits: jax.Array) -> Root:
    """Half of top - logits, which cannot overflow, and its rounding error."""
    lowest = 0.5 * float(jnp.finfo(logits.dtype).min)  # stands for -inf
    return _double.add(0.5 * top, -jnp.maximum(0.5 * logits, lowest))


def _powers(gap: Root, root: Root, beta: jax.Array, exponent: int | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """p and p^beta of classes that are twice `gap` below the best, and half of their cost c - z, gap + root."""
    cost, error = _double.add(gap[0], jnp.broadcast_to(0.5 * root[0], gap[0].shape))
    error = error + (gap[1] + 0.5 * root[1])
    if exponent is not None:
        q = positive_part((1.0 - (2.0 / exponent) * cost) - (2.0 / exponent) * error)
        return (q if exponent == 1 else q * q), q, cost + error
    x, x_error = _double.multiply(jnp.broadcast_to(2.0 * beta, cost.shape), cost)
    q, lost = _double.add(jnp.ones_like(x), -x)
    q, lost = _double.add(q, lost - (x_error + 2.0 * (beta * error)))
    inside = q > 0
    q, base = positive_part(q), jnp.where(inside, q, 1)
    steep = beta > 0.0625
    inverse = 1.0 / jnp.where(steep, beta, 1)
    product, product_error = _double.multiply(inverse, jnp.where(steep, beta, 1))
    rest = inverse * ((1.0 - product) - product_error)
    power = base**inverse * (1.0 + (inverse * (lost / base) + rest * jnp.log(base)))
    # A power with a large exponent has an error as large: there the logarithm is taken of 1 - x, and not of a q near 1.
    held = jnp.where(inside, x, 0)
    log, log_error = _double.multiply(jnp.where(inside, cost, 0), -2.0 * _unbend(held))
    bent = jnp.exp(log) * (1.0 + (log_error - 2.0 * (error / base)))
    return jnp.where(inside, jnp.where(steep, power, bent), 0), q, cost + error


def _fall(root: jax.Array, beta: jax.Array, exponent: int | None) -> jax.Array:
    """1 - p of the best class, with all its digits."""
    if exponent is not None:
        return root if exponent == 1 else root * (1.0 - 0.25 * root)
    return -jnp.expm1(-root * _unbend(beta * root))


def _lift(excess: jax.Array, beta: jax.Array, exponent: int | None) -> jax.Array:
    """S^(1 - b) (S^b - 1) / b of a sum S = 1 + excess: over the sum of slopes it is a step of Newton's on S^b."""
    if exponent == 1:
        return excess
    if exponent == 2:
        side = jnp.sqrt(1.0 + excess)
        return 2.0 * side * (excess / (1.0 + side))
    log = jnp.log1p(excess)
    return jnp.exp((1.0 - beta) * log) * _bent_log(log, beta)


def solve(logits: jax.Array, beta: jax.Array, exponent: int | None) -> Root:
    """The root of each row as a pair; it has no derivative.

    Newton's method from below on (sum p)^b = 1. That is the 1/b-norm of functions that are affine until they stay at 0,
    hence convex, and affine itself where all classes are alike: no step passes the root, and half a dozen are enough.
    """
    logits, beta = lax.stop_gradient((logits, beta))
    top = _top(logits)
    gap = _gap(top, logits)
    exists = ~jnp.isneginf(logits)
    below = exists & (logits < top)
    ties = jnp.maximum(jnp.sum(exists & ~below, axis=-1, keepdims=True), 1).astype(logits.dtype)
    level = (jnp.zeros_like(top), jnp.zeros_like(top))

    def newton(root):
        pair = (root, jnp.zeros_like(root))
        p, q, _ = _powers(gap, pair, beta, exponent)
        best, edge, _ = _powers(level, pair, beta, exponent)
        zero = jnp.zeros_like(p)
        rest = jnp.sum(jnp.where(below, p, zero), axis=-1, keepdims=True) + (ties - 1.0) * best
        slope = jnp.sum(jnp.where(below, divide(p, q), zero), axis=-1, keepdims=True) + ties * divide(best, edge)
        return divide(_lift(rest - _fall(root, beta, exponent), beta, exponent), slope)

    def step(state):
        root, _, count = state
        move = newton(root)
        far = jnp.abs(move) > 64.0 * float(jnp.finfo(root.dtype).eps) * root
        return jnp.maximum(root + move, 0.0), jnp.any(far), count + 1

    root, *_ = lax.while_loop(
        lambda state: state[1] & (state[2] < 100), step, (jnp.zeros_like(top), jnp.array(True), 0)
    )
    return root, newton(root)


def _slopes(p: jax.Array, beta: jax.Array, exponent: int | None) -> jax.Array:
    """The derivative of exp_b at the cost of each class: p^(1 - b), and 0 where p is 0."""
    inside = p > 0
    if exponent is not None:
        return inside.astype(p.dtype) if exponent == 1 else _numerics.sqrt(p)
    power = _numerics.power(jnp.where(inside, p, 1), 1.0 - beta)
    return jnp.where(inside, power, 0)


def _by_beta(p: jax.Array, slopes: jax.Array, beta: jax.Array) -> jax.Array:
    """The derivative of exp_b by b where the cost is held."""
    log = _log(p)
    low = -beta * log
    near = low < 1.0
    small = log * (log * p) * _phi2(jnp.where(near, low, 0))
    square = jnp.where(near, 1, beta * beta)
    return jnp.where(p > 0, -jnp.where(near, small, (slopes - p * (1.0 + low)) / square), 0)


def _given(tangent: Any) -> bool:
    return not isinstance(tangent, SymbolicZero)


def _row_tangent(
    p: jax.Array, beta: jax.Array, exponent: int | None, dlogits: Any, dbeta: Any
) -> tuple[jax.Array, jax.Array]:
    """The tangents of p and, for each row, of c."""
    slopes = _slopes(p, beta, exponent)
    total = jnp.sum(slopes, axis=-1, keepdims=True)
    dp, dc = jnp.zeros_like(p), jnp.zeros_like(total)
    if _given(dlogits):
        mean = divide(jnp.sum(slopes * dlogits, axis=-1, keepdims=True), total)
        dp, dc = dp + slopes * (dlogits - mean), dc + mean
    if exponent is None and _given(dbeta):
        bent = _by_beta(p, slopes, beta)
        mean = divide(jnp.sum(bent, axis=-1, keepdims=True), total)
        dp, dc = dp + (bent - slopes * mean) * dbeta, dc + mean * dbeta
    return dp, dc


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def probabilities(logits: jax.Array, beta: jax.Array, root: Root, exponent: int | None) -> tuple[jax.Array, jax.Array]:
    """The probability of each class and of all the others, both with all their digits."""
    top = _top(logits)
    p, _, _ = _powers(_gap(top, logits), root, beta, exponent)
    p = jnp.where(jnp.isneginf(logits), 0, p)
    return p, jnp.where(logits == top, _fall(root[0] + root[1], beta, exponent), 1.0 - p)


def _probabilities_jvp(exponent, primals, tangents):
    logits, beta, root = primals
    p, miss = probabilities(logits, beta, root, exponent)
    dp, _ = _row_tangent(p, beta, exponent, *tangents[:2])
    return (p, miss), (dp, -dp)


probabilities.defjvp(_probabilities_jvp, symbolic_zeros=True)


# ---- the divergence of targets from the row --------------------------------------------------------------------------


def _half_log_ratio(y: jax.Array, p: jax.Array, q: jax.Array, cost: jax.Array, beta: jax.Array) -> jax.Array:
    """log(y / p) / 2, also where p has vanished (then 2 `cost` is nearly -log p) or where both are nearly 1."""
    x = 2.0 * (beta * cost)
    inside = (q > 0) & (x < 1.0)
    held = jnp.where(inside, x, 0)
    surprise = jnp.where(inside, cost, 0) * _unbend(held)
    close = (y < 1.0) & (p >= jnp.finfo(p.dtype).tiny) & (y <= 4.0 * p) & (p <= 4.0 * y)
    one = jnp.ones_like(y)
    ratio = _numerics.log_ratio(jnp.where(close, y, one), jnp.where(close, p, one))
    return jnp.where(close, 0.5 * ratio, 0.5 * _log(y) + surprise)


def _half_lead(y: jax.Array, p: jax.Array, q: jax.Array, cost: jax.Array, beta: jax.Array):
    """Half of (y^b - 1) / b + c - z, what y is worth more than p, then log(y / p) / 2 and y^b.

    Where p is 0 the class is further away than p alone can tell.
    """
    safe = jnp.maximum(beta, float(jnp.finfo(y.dtype).tiny))
    none = (y < jnp.finfo(y.dtype).tiny) & (beta > 0)  # at beta 0 the lead has no bound, and is that of a tiny y
    power = jnp.where(none, 0, jnp.exp(beta * _log(y)))
    half = _half_log_ratio(y, p, q, cost, beta)
    log = 2.0 * (beta * half)
    inside = jnp.where(none, -0.5 * (q / safe), jnp.where(log < 0, q, power) * half * _phi1(-jnp.abs(log)))
    outside = 0.5 * power / safe + (cost - 0.5 / safe)
    return jnp.where(q > 0, inside, outside), half, power


def _known_lead(y: jax.Array, q: jax.Array, cost: jax.Array, exponent: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """y^b, y^b - p^b, and half of the way from a class that p does not reach to where it would."""
    power = y if exponent == 1 else _numerics.sqrt(y)
    below = (2.0 / exponent) * cost  # 1 - q, with more digits where q is nearly 1
    lead = jnp.where(below < 0.5, below - (1.0 - power), power - q)
    return power, lead, jnp.maximum(cost - 0.5 * exponent, 0.0)


def _divergence(
    y: jax.Array, p: jax.Array, q: jax.Array, cost: jax.Array, beta: jax.Array, exponent: int | None
) -> jax.Array:
    """Half of what one class adds: (y^a - a y p^b + b p^a) / (a b), a = b + 1, and y times the way to the support."""
    if exponent is not None:
        power, lead, way = _known_lead(y, q, cost, exponent)
        own = 0.25 * lead * lead if exponent == 1 else (2.0 * power + q) * lead * lead / 3.0
        return own + y * way
    alpha = 1.0 + beta
    lead, half, power = _half_lead(y, p, q, cost, beta)
    near = (y > 0) & (q > 0) & (jnp.abs(half) * alpha < 0.5)
    log = jnp.where(near, 2.0 * half, 0)
    sums = [1.0 + 0.0 * alpha]
    for _ in range(10 if y.dtype == jnp.float32 else 19):
        sums.append(1.0 + alpha * sums[-1])
    series = jnp.zeros_like(log)
    for k, partial_sum in reversed(list(enumerate(sums, start=3))):
        series = partial_sum + log * series / k
    far = y * lead - 0.5 * (y * power - p * q) / alpha
    return jnp.where(near, p * q * (0.25 * log * log * series), jnp.maximum(far, 0.0))


def _pieces(
    logits: jax.Array, beta: jax.Array, root: Root, exponent: int | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """p, p^b and half of the cost of each class."""
    p, q, cost = _powers(_gap(_top(logits), logits), root, beta, exponent)
    absent = jnp.isneginf(logits)
    return jnp.where(absent, 0, p), jnp.where(absent, 0, q), cost


def _worth(y: jax.Array, beta: jax.Array) -> jax.Array:
    """The derivative by b of (y^a - y) / (a b)."""
    log = _log(y)
    a = 1.0 + beta
    return y * ((log * log * (_phi1(beta * log) - _phi2(beta * log)) - _bent_log(log, beta) / a) / a)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _leads(shares: jax.Array, logits: jax.Array, beta: jax.Array, root: Root, exponent: int | None) -> jax.Array:
    """(y^b - 1) / b + c - z of each class with the share y of the targets; 0 of a class that does not exist."""
    p, q, cost = _pieces(logits, beta, root, exponent)
    if exponent is None:
        lead = 2.0 * _half_lead(shares, p, q, cost, beta)[0]
    else:
        _, lead, way = _known_lead(shares, q, cost, exponent)
        lead = exponent * lead + 2.0 * way
    return jnp.where(jnp.isneginf(logits), 0, lead)


def _leads_jvp(exponent, primals, tangents):
    shares, logits, beta, root = primals
    lead = _leads(shares, logits, beta, root, exponent)
    p, _ = probabilities(logits, beta, root, exponent)
    _, dc = _row_tangent(p, beta, exponent, tangents[1], tangents[2])
    slope = jnp.broadcast_to(dc, lead.shape)
    log = _log(shares)
    if _given(tangents[0]):
        steep = jnp.exp((beta - 1.0) * log) if exponent is None else shares ** (1.0 / exponent - 1.0)
        vanished = shares < jnp.finfo(shares.dtype).tiny
        steep = jnp.where(vanished, 0, jnp.where(vanished, 1, steep))
        slope = slope + steep * tangents[0]
    if _given(tangents[1]):
        slope = slope - tangents[1]
    if exponent is None and _given(tangents[2]):
        slope = slope + log * log * (_phi1(beta * log) - _phi2(beta * log)) * tangents[2]
    return lead, jnp.where(jnp.isneginf(logits), 0, slope)


_leads.defjvp(_leads_jvp, symbolic_zeros=True)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def divergence(targets: jax.Array, logits: jax.Array, beta: jax.Array, root: Root, exponent: int | None) -> jax.Array:
    """The Fenchel-Young loss of each row: 0 where its probabilities are the targets, and never negative.

    Targets of total m count as m times those of total 1.
    """
    total = jnp.sum(targets, axis=-1, keepdims=True)
    shares = divide(targets, total)
    each = _divergence(shares, *_pieces(logits, beta, root, exponent), beta, exponent)
    each = jnp.where(jnp.isneginf(logits) & (targets > 0), jnp.inf, each)
    return 2.0 * jnp.sum(total * each, axis=-1)


def _divergence_jvp(exponent, primals, tangents):
    targets, logits, beta, root = primals
    total = jnp.sum(targets, axis=-1, keepdims=True)
    p, miss = probabilities(logits, beta, root, exponent)
    value = divergence(targets, logits, beta, root, exponent)
    slope = jnp.zeros_like(value)
    if _given(tangents[1]):
        by_logit = jnp.where(miss < 0.5, (total - targets) - total * miss, total * p - targets)
        slope = slope + jnp.sum(by_logit * tangents[1], axis=-1)
    if _given(tangents[0]):
        shares = divide(targets, total)
        alpha = 1.0 + beta
        gain = jnp.sum((_raised(shares, beta, exponent) - _raised(p, beta, exponent)) / alpha, axis=-1, keepdims=True)
        slope = slope + jnp.sum((_leads(shares, logits, beta, root, exponent) - gain) * tangents[0], axis=-1)
    if exponent is None and _given(tangents[2]):
        worth = _worth(divide(targets, total), beta) - _worth(p, beta)
        slope = slope + jnp.sum(total * worth * tangents[2], axis=-1)
    return value, slope


divergence.defjvp(_divergence_jvp, symbolic_zeros=True)


def _raised(p: jax.Array, beta: jax.Array, exponent: int | None) -> jax.Array:
    """p^alpha."""
    if exponent is not None:
        return p * p if exponent == 1 else p * _numerics.sqrt(p)
    return _numerics.power(p, 1.0 + beta)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def label_divergence(
    labels: jax.Array, logits: jax.Array, beta: jax.Array, root: Root, exponent: int | None
) -> jax.Array:
    """`divergence` from all of the target at one class."""
    p, q, _ = _pieces(logits, beta, root, exponent)
    others = jnp.where(_numerics.one_hot(labels, logits), 0, p * q)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="clip")
    p, q, cost = _powers(_gap(_top(logits), chosen), root, beta, exponent)
    own = _divergence(jnp.ones_like(p), p, q, cost, beta, exponent)
    own = jnp.where(jnp.isneginf(chosen), jnp.inf, own)
    return (2.0 * own + jnp.sum(others, axis=-1, keepdims=True) / (1.0 + beta))[..., 0]


def _label_divergence_jvp(exponent, primals, tangents):
    labels, logits, beta, root = primals
    p, miss = probabilities(logits, beta, root, exponent)
    value = label_divergence(labels, logits, beta, root, exponent)
    slope = jnp.zeros_like(value)
    if _given(tangents[1]):
        slope = slope + jnp.sum(jnp.where(_numerics.one_hot(labels, logits), -miss, p) * tangents[1], axis=-1)
    if exponent is None and _given(tangents[2]):
        slope = slope - jnp.sum(_worth(p, beta) * tangents[2], axis=-1)
    return value, slope


label_divergence.defjvp(_label_divergence_jvp, symbolic_zeros=True)
