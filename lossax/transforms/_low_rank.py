"""Optimizers of matrices whose state has few rows."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from lossax import _check, _hyper, _keys, _linalg, _matrices, _numerics, _tree
from lossax._matrices import MatrixRule
from lossax._types import Hyperparameter, PyTree


class ProjectLowRankState(NamedTuple):
    """Number of updates, numbers of the key, orthonormal bases `[count, rows, rank]`, lengths and the inner state.

    By the shapes of matrices, as `1x2`: APOLLO draws its bases anew from the key, and GaLore limits no lengths.
    """

    step: jax.Array
    key: jax.Array
    bases: dict[str, jax.Array]
    lengths: dict[str, jax.Array]
    inner: PyTree


def _leading(g: jax.Array, rank: int, key: jax.Array) -> jax.Array:
    """The `rank` leading left singular vectors of matrices `[count, m, n]`, nearly, by products with a thin matrix."""
    largest = jnp.max(_tree.absolute(g), axis=(1, 2), keepdims=True, initial=0.0)
    g = _tree.parts(lambda x: _tree.over_unit(x, _tree.power_of_two(largest)), g)
    width = min(rank + 8, g.shape[1])
    q = jax.random.normal(key, (g.shape[0], g.shape[2], width), largest.dtype).astype(g.dtype)
    for _ in range(3):  # each widens the gap between singular values by its square
        q, _ = jnp.linalg.qr(_linalg.product(g, q))
        small = _linalg.product(_linalg.adjoint(q), g)
        q, last = _linalg.adjoint(small), q
    _, vectors = jnp.linalg.eigh(_linalg.product(small, _linalg.adjoint(small)))
    return _linalg.product(last, vectors[:, :, : -rank - 1 : -1])


def _turned(basis: jax.Array, old: jax.Array) -> jax.Array:
    """The same spaces, in the orthonormal bases that are nearest to the old ones."""
    u, _, v = jnp.linalg.svd(_linalg.product(_linalg.adjoint(basis), old), full_matrices=False)
    return _linalg.product(basis, _linalg.product(u, v))


def project_low_rank(
    direction: optax.GradientTransformation,
    rank: int,
    *,
    method: Literal["galore", "fira", "apollo", "apollo_mini"] = "galore",
    every: Hyperparameter = 200,
    scale: Hyperparameter | None = None,
    limit: Hyperparameter = 1.01,
    matrices: MatrixRule | None = None,
    key: ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""A direction that keeps its moments of matrices in a space of few rows.

    .. math:: R = P^\top G, \quad N = d(R), \qquad U_\text{galore} = \alpha P N, \quad
      U_\text{fira} = \alpha \big(P N + \operatorname{diag}_j \tfrac{\lVert N_j \rVert}{\lVert R_j \rVert}
      (G - P R)\big), \quad U_\text{apollo} = \alpha\, G \operatorname{diag}_j
      \tfrac{\lVert N_j \rVert}{\lVert R_j \rVert}

    for matrices with no more rows than columns, and their transposes: the moments of Adam take 2 r n numbers instead of
    2 m n. GaLore moves within the leading space of the gradient, which suits fine-tuning; Fira adds what is outside of
    it, with the sizes that Adam found inside, and APOLLO takes only these sizes from a random space, where a rank of 1
    is enough for `"apollo_mini"`, which has one size for the matrix. Both limit how fast their part grows, for it has
    no moments that would smooth it.

    Bases are found by products and thin QR, without an SVD of the gradient, and turned to be nearest to the old ones,
    so that moments keep their meaning whatever the inner optimizer; the official GaLore leaves moments in coordinates
    of the past. Matrices of one shape are one batched product. Leaves that hold no matrices, and matrices without more
    than `rank` rows, go to `direction` whole. It sees no parameters: decay is a matter of what is around,
    `assemble(project_low_rank(optimizers.scale_by_adam(), 128), 1e-3, weight_decay=0.1)`.

    Optax's `galore` projects the other side and has a scale of 1. Official Fira scales the first part alone.

    Args:
      direction: What makes directions of gradients, such as `scale_by_adam`; extra arguments of `update` reach it.
      rank: Number of rows to keep.
      method: What is made of the direction in few rows.
      every: Number of updates for which a basis is kept, at least 1.
      scale: Factor of the result for matrices, nonnegative; `None` is 1/4 for GaLore, sqrt(128) for `"apollo_mini"`,
        and 1 for the others.
      limit: Largest growth of the length of what has no moments, from one update to the next, positive.
      matrices: Which leaves hold matrices; `None` is `matrix_rule()`.
      key: A seed, a typed or a raw key.

    Returns:
      A transformation with state `ProjectLowRankState`.

    Raises:
      TypeError: if `direction` is no transformation, `rank` no Python integer, or `matrices` gives no strings.
      ValueError: if a known number is out of range, or `method` is unknown.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = project_low_rank(optax.identity(), 1, scale=1.0)
      >>> gradient = jnp.outer(jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0, 2.0]))  # of rank one, so nothing is lost
      >>> updates, state = tx.update(gradient, tx.init(gradient))
      >>> bool(jnp.allclose(updates, gradient, rtol=1e-5)), state.bases["2x3"].shape
      (True, (1, 2, 1))

    Reference:
      Zhao et al., *GaLore: memory-efficient LLM training by gradient low-rank projection*, 2024; Chen et al., *Fira:
      can we achieve full-rank training of LLMs under low-rank constraint?*, 2024; Zhu et al., *APOLLO: SGD-like memory,
      AdamW-level performance*, 2024; Halko, Martinsson and Tropp, *Finding structure with randomness*, 2011.
    """
    _check.transformation(direction=direction)
    _check.count(rank=rank)
    _check.choice(("galore", "fira", "apollo", "apollo_mini"), method=method)
    _check.at_least(1, every=every)
    scale = {"galore": 0.25, "apollo_mini": 128.0**0.5}.get(method, 1.0) if scale is None else scale
    _check.nonnegative(scale=scale)
    _check.positive(limit=limit)
    inner = optax.with_extra_args_support(direction)
    drawn = method.startswith("apollo")

    def resolve(tree):
        def large(route, leaf):
            whole = _matrices.is_matrix(route) and min(_matrices.sizes(route, leaf)) <= rank
            return "not more rows than the rank" if whole else route

        return jax.tree.map(large, _matrices.resolve(matrices, tree), tree)

    def init(params: PyTree) -> ProjectLowRankState:
        routes = resolve(params)
        shapes = _matrices.Stacks(routes, params).stack(_matrices.only(routes, params, True))
        bases = {k: jnp.zeros((*g.shape[:2], rank), g.dtype) for k, g in shapes.items() if not drawn}
        real = lambda g: jnp.finfo(g.dtype).dtype  # noqa: E731
        lengths = {k: jnp.zeros((len(g), 1, 1), real(g)) for k, g in shapes.items() if method != "galore"}
        low = {k: jnp.zeros((len(g), rank, g.shape[2]), g.dtype) for k, g in shapes.items()}
        start = inner.init({"low_rank": low, "others": _matrices.only(routes, params, False)})
        return ProjectLowRankState(jnp.zeros((), jnp.int32), _keys.data(key), bases, lengths, start)

    def limited(x, last, limit):
        """No longer than `limit` times what was there before, and its length."""
        unit, length = _tree.scaled_norms(x, (1, 2))
        most = jnp.where(last > 0, limit * last, jnp.inf)
        return _tree.shorten(x, unit, length, most), jnp.minimum(unit * length, most)

    def ratio(n, r):
        """How much longer the direction is than the gradient, in columns or in the whole."""
        axes = (1, 2) if method == "apollo_mini" else (1,)
        (n_unit, n_length), (r_unit, r_length) = _tree.scaled_norms(n, axes), _tree.scaled_norms(r, axes)
        return _numerics.divide(n_length, r_length) * (n_unit / r_unit)

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        like = updates if params is None else params
        routes = resolve(like)
        stacks = _matrices.Stacks(routes, like)
        gradients = stacks.stack(_matrices.only(routes, updates, True))
        due = state.step % _hyper.period(state.step, every) == 0

        def refresh():
            numbers, draw = _keys.split(state.key, key)
            if drawn:
                return numbers, state.bases
            fresh, last = {}, None
            for i, (k, old) in enumerate(state.bases.items()):
                own = jax.random.fold_in(draw, i)
                found = _leading(_linalg.after(lax.stop_gradient(gradients[k]), last), rank, own)
                fresh[k] = last = jnp.where(state.step > 0, _turned(found, old), found)
            return numbers, fresh

        numbers, bases = lax.cond(due, refresh, lambda: (state.key, state.bases))
        used = bases
        if drawn:  # the same for as long as the key is
            _, draw = _keys.split(numbers, key)
            used = {}
            for i, (k, g) in enumerate(gradients.items()):
                shape, real = (*g.shape[:2], rank), jnp.finfo(g.dtype).dtype
                used[k] = (jax.random.normal(jax.random.fold_in(draw, i), shape, real) / rank**0.5).astype(g.dtype)
        low = {k: _linalg.product(_linalg.adjoint(used[k]), g) for k, g in gradients.items()}
        given = {"low_rank": low, "others": _matrices.only(routes, updates, False)}
        result: Any = inner.update(given, state.inner, None, **extra_args)
        moved, new = result
        found, lengths = {}, {}
        for k, g in gradients.items():
            n = _tree.widen(moved["low_rank"][k])
            real = jnp.finfo(g.dtype).dtype
            most, factor = (jnp.asarray(_hyper.at(state.step, value), real) for value in (limit, scale))
            if method == "galore":
                u = _linalg.product(used[k], n)
            else:
                rest = g if drawn else g - _linalg.product(used[k], low[k])
                by = ratio(n, low[k])
                rest = _tree.parts(lambda x, by=by: x * by, rest)
                rest, lengths[k] = limited(rest, state.lengths[k], most)
                u = rest if drawn else _linalg.product(used[k], n) + rest
            found[k] = _tree.parts(lambda x, by=factor: x * by, u)
        ours = stacks.unstack(found, _matrices.only(routes, updates, True))
        joined = jax.tree.map(lambda r, a, b: a if _matrices.is_matrix(r) else b, routes, ours, moved["others"])
        return _tree.cast_like(joined, updates), ProjectLowRankState(
            _tree.increment(state.step), numbers, bases, lengths, new
        )

    return optax.GradientTransformationExtraArgs(init, update)
