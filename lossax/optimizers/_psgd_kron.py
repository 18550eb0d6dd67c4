"""PSGD-Kron."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from lossax import _check, _eigenbasis, _hyper, _keys, _linalg, _matrices, _numerics, _tree
from lossax._matrices import MatrixRule
from lossax._tile import kept_whole
from lossax._types import Hyperparameter, Mask, PyTree

Factors = Literal["quad", "triangular"]
"""Hermitian factors, moved by products alone, or upper triangular ones, moved along random directions."""


class _Factor(NamedTuple):
    """Matrices `[count, d, d]`, or diagonals `[count, d]`, and the largest curvature they met lately, `[count]`."""

    value: jax.Array
    bound: jax.Array


class PsgdKronState(NamedTuple):
    """Number of updates, average gradient and its mass, factors, the key's data and what updates add up to."""

    step: jax.Array
    mu: PyTree
    mu_mass: jax.Array
    factors: dict[str, tuple[_Factor, _Factor]]
    key: jax.Array
    credit: jax.Array


def _annealed(step: ArrayLike) -> jax.Array:
    """Every step at first, then fewer and fewer, down to three of a hundred after 3700."""
    return jnp.clip(jnp.exp(-0.001 * (_hyper.scalar(step) + 1.0 - 200.0)), 0.03, 1.0)


def _apply(q: jax.Array, x: jax.Array, axis: int, *, adjoint: bool = False) -> jax.Array:
    """q x for rows, and x q^H for columns; the other way round with `adjoint`."""
    if q.ndim < 3:
        return (q[:, :, None] if axis == 0 else q[:, None, :]) * x
    rows, columns = (q, None) if axis == 0 else (None, q)
    return _linalg.into_basis(x, rows, columns) if adjoint else _linalg.out_of_basis(x, rows, columns)


def _gram(x: jax.Array, axis: int, *, diagonal: bool) -> jax.Array:
    if diagonal:
        return jnp.sum(_tree.square(x), axis=2 - axis).astype(x.dtype)
    return _linalg.gram(x) if axis == 0 else _linalg.gram_of_columns(x)


def _largest(moment: jax.Array) -> jax.Array:
    return jnp.max(moment.real, axis=-1) if moment.ndim < 3 else _linalg.spectral_bound(moment)


def _plus_identity(moment: jax.Array, size: float) -> jax.Array:
    return moment + (size if moment.ndim < 3 else size * jnp.eye(moment.shape[-1], dtype=moment.dtype)[None])


def _along(x: jax.Array, like: jax.Array) -> jax.Array:
    """Numbers `[count]` that broadcast to `like`."""
    return x.reshape(-1, *(1,) * (like.ndim - 1)).astype(like.dtype)


def scale_by_psgd_kron(
    *,
    b1: Hyperparameter = 0.9,
    factor_rate: Hyperparameter = 0.1,
    update_probability: Hyperparameter | None = None,
    deterministic: bool = False,
    factors: Factors = "quad",
    diagonal: Literal["none", "one", "all"] = "none",
    damping: Hyperparameter = 1e-9,
    clip_threshold: Hyperparameter = 1.0,
    max_size: int = 8192,
    key: ArrayLike | None = None,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `psgd_kron`, unscaled and ascending.

    .. math:: d = Q_L^\top Q_L\, \hat m\, Q_R^\top Q_R

    Args:
      b1: Share of the past that the average gradient keeps, in [0, 1).
      factor_rate: Relative size of a step of the factors, positive and below 1.
      update_probability: How often the factors move, in [0, 1]; `None` falls from 1 to 0.03.
      deterministic: Whether they move whenever these probabilities have added up to 1, instead of at random.
      factors: `"quad"` or `"triangular"`.
      diagonal: Sides whose factor is a diagonal: `"none"`, `"one"` (the longer) or `"all"`.
      damping: Standard deviation of noise that the factors see besides the gradient, nonnegative.
      clip_threshold: Largest root mean square of the direction of a matrix, positive; infinity is none.
      max_size: Longest side whose factor is not a diagonal, a static int.
      key: Of the random draws: a seed, a typed or a raw key; `None` is the seed 0.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.
      mu_dtype: Dtype of the average gradient; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `RoutedState` of a `PsgdKronState` and the state of the fallback.

    Raises:
      TypeError: if `max_size` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_psgd_kron()
      >>> gradient = jnp.array([[2.0, 0.0], [0.0, 2.0]])
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> (updates**2).round(4).tolist()
      [[2.0, 0.0], [0.0, 2.0]]

    Reference:
      Li, *Preconditioned stochastic gradient descent*, 2015.
    """
    _check.decay(b1=b1)
    _check.positive(factor_rate=factor_rate, clip_threshold=clip_threshold)
    _check.nonnegative(damping=damping)
    if update_probability is not None:
        _check.fraction(update_probability=update_probability)
    _check.choice(("quad", "triangular"), factors=factors)
    _check.choice(("none", "one", "all"), diagonal=diagonal)
    _check.count(max_size=max_size)
    seed = 0 if key is None else key

    def init(params: PyTree, routes: PyTree) -> PsgdKronState:
        def factor(span, axis):
            count, size = span.shape[0], span.shape[axis]
            thin = size > max_size or diagonal == "all" or (diagonal == "one" and axis == 2)
            shape = (count, size) if thin else (count, size, size)
            return _Factor(jnp.zeros(shape, span.dtype), jnp.zeros(count, jnp.finfo(span.dtype).dtype))

        spans = _matrices.Stacks(routes, params).spans()
        return PsgdKronState(
            step=jnp.zeros((), jnp.int32),
            mu=_tree.zeros_like(params, dtype=mu_dtype),
            mu_mass=jnp.zeros((), _hyper.default_float()),
            factors={name: (factor(span, 1), factor(span, 2)) for name, span in spans.items()},
            key=_keys.data(seed),
            credit=jnp.zeros((), _hyper.default_float()),
        )

    def begun(pair, m):
        """Factors, those still 0 made such that they bring the first matrix to a root mean square of 1."""
        unit, length = _tree.scaled_norms(lax.stop_gradient(m), (1, 2))
        size = (unit * length)[:, 0, 0] / (m.shape[1] * m.shape[2]) ** 0.5
        scale = jnp.where(size > 0, jnp.where(size > 0, size, 1) ** -0.25, 0)

        def fill(factor):
            value = lax.stop_gradient(factor.value)
            fresh = jnp.max(jnp.abs(value), axis=tuple(range(1, value.ndim)), keepdims=True) == 0
            start = _plus_identity(jnp.zeros_like(value), 1.0) * _along(scale, value)
            return factor._replace(value=jnp.where(fresh, start, value))

        return fill(pair[0]), fill(pair[1])

    def balanced(rows, columns):
        """Both with entries of one size, which changes no product."""
        sizes = [jnp.max(jnp.abs(q), axis=tuple(range(1, q.ndim))) for q in (rows, columns)]
        ratio = jnp.sqrt(_numerics.divide(sizes[1], sizes[0], 1.0))
        return rows * _along(ratio, rows), columns * _along(_numerics.divide(jnp.ones_like(ratio), ratio), columns)

    def moved(pair, m, rate, noise, draw):
        """Factors after a step towards white noise: the moment of what they make of m becomes the identity."""
        rows, columns = (factor.value for factor in pair)
        one, two = jax.random.split(draw)
        x = m + noise.astype(m.dtype) * jax.random.normal(one, m.shape, m.dtype)
        half = _apply(columns, _apply(rows, x, 0), 1)
        if factors == "quad":
            seen, other = _eigenbasis.bounded(_apply(columns, _apply(rows, half, 0), 1)), None
        else:
            seen, other = _eigenbasis.bounded(half), jax.random.normal(two, m.shape, m.dtype)
            for axis, q in enumerate((rows, columns)):
                other = _unapply(q, other, axis)
        found = []
        for axis, factor in enumerate(pair):
            q = factor.value
            a = _gram(seen, axis, diagonal=q.ndim < 3)
            if other is None:
                count = float(m.shape[2 - axis])
                largest, slope = _largest(a) + count, _plus_identity(a, -count)
            else:
                b = _gram(other, axis, diagonal=q.ndim < 3)
                largest, slope = _largest(a + b), a - b
            bound = jnp.maximum(0.9 * factor.bound + 0.1 * largest, largest)
            # Divided first: the product with a factor may be no number.
            slope = _numerics.divide(slope, _along(bound, slope)) * rate.astype(slope.dtype)
            if q.ndim < 3:
                q = q * (1.0 - 0.5 * slope) ** 2 if other is None else q - slope * q
            elif other is None:
                q = q - 0.5 * _linalg.product(slope, q)
                q = q - 0.5 * _linalg.product(q, slope)
                q = 0.5 * (q + jnp.conj(q.swapaxes(1, 2)))
            else:
                q = q - _linalg.product(jnp.triu(slope), q)
            found.append(_Factor(q, bound))
        rows, columns = balanced(found[0].value, found[1].value)
        return found[0]._replace(value=rows), found[1]._replace(value=columns)

    def update(updates: PyTree, state: Any, params: PyTree | None, routes: PyTree, **others: Any):
        del others
        stacks = _matrices.Stacks(routes, updates if params is None else params)
        updates = _eigenbasis.bounded(updates)
        keep = _hyper.at(state.step, b1)
        mu = _tree.moment(updates, jax.tree.map(_tree.widen, state.mu), keep)
        mu_mass = _tree.mass(state.mu_mass, keep)
        gradients, averages = stacks.stack(updates), stacks.stack(state.mu)

        def average(g, old):
            share, behind = (jnp.asarray(x, jnp.finfo(g.dtype).dtype) for x in (keep, mu_mass))
            return (share * old + (1.0 - share) * g) / behind

        means = {name: average(gradients[name], averages[name]) for name in gradients}
        pairs = {name: begun(pair, means[name]) for name, pair in state.factors.items()}

        fresh, draw = _keys.split(state.key, seed)
        chance, noise = jax.random.split(draw)
        probability = _hyper.scalar(
            _hyper.at(state.step, _annealed if update_probability is None else update_probability)
        )
        credit = state.credit + lax.stop_gradient(probability)
        if deterministic:  # sums of fractions are rounded
            due = credit >= 1.0 - 1e-3
            credit = jnp.where(due, jnp.maximum(credit - 1.0, 0.0), credit)
        else:
            due, credit = jax.random.uniform(chance, (), credit.dtype) < probability, jnp.zeros_like(credit)

        def later(pairs):
            rate, size = (lax.stop_gradient(_hyper.scalar(_hyper.at(state.step, x))) for x in (factor_rate, damping))
            draws = jax.random.split(noise, max(len(pairs), 1))
            still = lax.stop_gradient(means)
            return {
                name: moved(pair, still[name], rate, size, k)
                for (name, pair), k in zip(pairs.items(), draws, strict=False)
            }

        kept = kept_whole(lax.cond(due, later, lambda pairs: pairs, pairs))
        longest = _hyper.scalar(_hyper.at(state.step, clip_threshold))

        def direction(m, pair):
            rows, columns = (lax.stop_gradient(factor.value) for factor in pair)
            d = _apply(columns, _apply(rows, m, 0), 1)
            d = _apply(columns, _apply(rows, d, 0, adjoint=True), 1, adjoint=True)
            unit, length = _tree.scaled_norms(d, (1, 2))
            size = (m.shape[1] * m.shape[2]) ** 0.5
            return _tree.shorten(d, unit, length, longest.astype(unit.dtype) * size)

        directions = stacks.unstack({name: direction(means[name], pairs[name]) for name in means}, updates)
        mu = _tree.cast_like(mu, state.mu)
        new = PsgdKronState(_tree.increment(state.step), mu, mu_mass, kept, fresh, credit)
        return _tree.cast_like(directions, updates), new

    return _matrices.routed(init, update, matrices, fallback)


def _unapply(q: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """q^-H x for rows, and x q^-1 for columns, of upper triangular q."""
    if q.ndim < 3:
        return _numerics.divide(x, q[:, :, None] if axis == 0 else q[:, None, :])
    lower = jnp.conj(q.swapaxes(1, 2))
    if axis == 0:
        return _linalg.solve_lower(lower, x)
    return jnp.conj(_linalg.solve_lower(lower, jnp.conj(x.swapaxes(1, 2))).swapaxes(1, 2))


def psgd_kron(
    learning_rate: Hyperparameter,
    *,
    b1: Hyperparameter = 0.9,
    factor_rate: Hyperparameter = 0.1,
    update_probability: Hyperparameter | None = None,
    deterministic: bool = False,
    factors: Factors = "quad",
    diagonal: Literal["none", "one", "all"] = "none",
    damping: Hyperparameter = 1e-9,
    clip_threshold: Hyperparameter = 1.0,
    max_size: int = 8192,
    key: ArrayLike | None = None,
    matrices: MatrixRule | None = None,
    fallback: optax.GradientTransformation | None = None,
    fallback_learning_rate: Hyperparameter | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Hyperparameter = 0.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradients made white by factors of rows and of columns, which are themselves learned step by step.

    .. math::
      \Delta = -\eta\,\big(P_L\, \hat m\, P_R + \lambda w\big), \quad P = Q^\top Q, \quad
      A = P_L \hat m P_R, \quad S_L = A A^\top - n I, \quad
      Q_L \leftarrow \Big(I - \frac{\rho}{2 \ell} S_L\Big) Q_L \Big(I - \frac{\rho}{2 \ell} S_L\Big)

    for gradients of m rows and n columns, :math:`Q_R` likewise, where the bound :math:`\ell` on the curvature is the
    largest met lately. The result is Hermitian again; these are `factors="quad"`.

    For the matrices of transformers, at rates of Adam or a third of them. Neither eigenvectors nor inverses are taken,
    and factors need no refresh of their own: they move at every step at first and then ever more rarely, so that later
    steps cost four products. `soap` has fewer numbers to choose. `matrices`, as of `muon`, says which leaves are
    matrices; the others take the `fallback`.

    - `factors="triangular"` is the older form: :math:`Q \leftarrow Q - \frac{\rho}{\ell}\, \mathrm{triu}(A A^\top -
      B B^\top)\, Q` with :math:`A = Q_L \hat m Q_R^\top` and :math:`B = Q_L^{-\top} v\, Q_R^{-1}` for normal
      numbers v. It solves triangular systems and is noisier.
    - `update_probability` may be a schedule. `None` is 1 for 200 steps, and then falls as
      :math:`e^{-(t - 200) / 1000}` to 0.03. With `deterministic=True` factors move whenever the probabilities have
      added up to 1: nothing hangs on the key but the damping. A `vmap` over runs pays for a move at every step.
    - `diagonal="one"` saves memory by a diagonal for the longer side, `"all"` for both, which is much like `adafactor`.
    - Factors begin such that the first matrix comes out with a root mean square of 1.

    Factors are constants to differentiation. A step uses those from before it moves them. A gradient so long that its
    square is no number is shortened.

    psgd_jax has `factors="triangular"`, begins with the identity, and clips entries, too; its `memory_save_mode` is
    `diagonal`. Li's own code recommends `"quad"`.

    Args:
      learning_rate: Size of a step, nonnegative.
      b1: Share of the past that the average gradient keeps, in [0, 1).
      factor_rate: Relative size of a step of the factors, positive and below 1.
      update_probability: How often the factors move, in [0, 1]; `None` falls from 1 to 0.03.
      deterministic: Whether they move whenever these probabilities have added up to 1, instead of at random.
      factors: `"quad"` or `"triangular"`.
      diagonal: Sides whose factor is a diagonal: `"none"`, `"one"` (the longer) or `"all"`.
      damping: Standard deviation of noise that the factors see besides the gradient, nonnegative.
      clip_threshold: Largest root mean square of the direction of a matrix, positive; infinity is none.
      max_size: Longest side whose factor is not a diagonal, a static int.
      key: Of the random draws: a seed, a typed or a raw key; `None` is the seed 0.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves, such as `scale_by_lion()`; `None` is Adam's.
      fallback_learning_rate: Rate of the other leaves, nonnegative; `None` is `learning_rate`.
      mu_dtype: Dtype of the average gradient; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer.

    Raises:
      TypeError: if `max_size` is no Python int, or `matrices` gives no strings.
      ValueError: if an argument known now is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = psgd_kron(0.5)
      >>> gradient = jnp.array([[2.0, 0.0], [0.0, 2.0]])
      >>> updates, _ = tx.update(gradient, tx.init(gradient))
      >>> (updates**2).round(4).tolist()
      [[0.5, 0.0], [0.0, 0.5]]

    Reference:
      Li, *Preconditioned stochastic gradient descent*, 2015; Li, *Preconditioner on matrix Lie group for SGD*, 2018;
      Pooladzandi and Li, *Curvature-informed SGD via general purpose Lie-group preconditioners*, 2024.
    """
    direction = scale_by_psgd_kron(
        b1=b1,
        factor_rate=factor_rate,
        update_probability=update_probability,
        deterministic=deterministic,
        factors=factors,
        diagonal=diagonal,
        damping=damping,
        clip_threshold=clip_threshold,
        max_size=max_size,
        key=key,
        matrices=matrices,
        fallback=fallback,
        mu_dtype=mu_dtype,
    )
    return _matrices.assembled(
        direction, learning_rate, fallback_learning_rate, weight_decay, weight_decay_mask, matrices
    )
