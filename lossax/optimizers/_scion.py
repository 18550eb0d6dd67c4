"""Scion."""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from lossax import _check, _hyper, _matrices, _numerics, _orthogonal, _tree
from lossax._assemble import assemble
from lossax._linalg import Coefficients
from lossax._matrices import MatrixRule
from lossax._types import Hyperparameter, Mask, PyTree

_NORMS = ("sign", "row", "column", "rms")


class ScionState(NamedTuple):
    """Number of updates, average gradient, and its mass (see `_tree.mass`)."""

    step: jax.Array
    mu: PyTree
    mu_mass: jax.Array


def _named(route: str) -> tuple[str, str]:
    """The norm and the axes that a string names; no norm if it names none."""
    norm, _, axes = route.partition(" ")
    if _matrices.is_matrix(route):
        return "spectral", route
    return (norm, axes) if norm in _NORMS and set(axes) <= set("bio") else ("", "")


def norm_rule(patterns: Mapping[str, str] | None = None, *, layout: Literal["io", "oi"] = "io") -> MatrixRule:
    r"""Which norm `scion` measures each leaf in, by its path.

    .. math::
      \text{spectral: } \sqrt{o / i}\; U V^\top, \quad
      \text{sign: } \frac{1}{i} \operatorname{sign}(g), \quad
      \text{row: } \frac{g}{i\, \mathrm{rms}_\text{inputs}(g)}, \quad
      \text{column: } \frac{g}{\mathrm{rms}_\text{outputs}(g)}, \quad
      \text{rms: } \frac{g}{\mathrm{rms}(g)}

    are the steps of length one in them, for :math:`i` inputs and :math:`o` outputs. A norm is named together with the
    axes, `"sign io"`, in the letters of `matrix_rule`: `i` for inputs, `o` for outputs, `b` for what only counts
    matrices; axes alone, `"io"`, are the spectral norm.

    Without a pattern a leaf of two axes has the spectral norm, unless its path has `head` or `logits`, `"sign io"` in
    this layout, or `embed`, `"sign oi"`: what a table of words is as a head, for it often is both. One that is only
    looked up may be `"column io"` (words are inputs), or `"sign bo"`, entries of 1 and a smaller radius. Vectors, and
    all else that is not declared, have `"rms"`. What became of each leaf is seen by calling the rule.

    Args:
      patterns: Norms and axes by regular expressions of paths, such as `{"conv": "iiio", "head": "row io"}`. The first
        that is found in a path counts, if it has as many axes as the leaf.
      layout: Axes of a leaf with two: `"io"` for kernels of Flax and Haiku, `"oi"` for weights of Equinox and torch.

    Returns:
      A function from parameters to strings in their structure.

    Raises:
      ValueError: if an expression does not compile or a pattern is none.

    Example:
      >>> import jax.numpy as jnp
      >>> norm_rule()({"embed": jnp.zeros((9, 4)), "dense": jnp.zeros((4, 4)), "bias": jnp.zeros(4)})
      {'bias': 'rms o', 'dense': 'io', 'embed': 'sign oi'}

    Reference:
      Pethick, Xie, Antonakopoulos, Zhu, Silveti-Falls and Cevher, *Training deep learning models with norm-constrained
      LMOs*, 2025.
    """
    _check.choice(("io", "oi"), layout=layout)
    known = [*(patterns or {}).items(), ("embed", "sign oi"), ("head|logits", f"sign {layout}"), ("", layout)]
    for _, pattern in known:
        norm, axes = _named(pattern)
        if not norm or (norm == "spectral" and not {"i", "o"} <= set(axes)):
            raise ValueError(f"patterns must name a norm of {list(_NORMS)} and axes, or axes i and o, got {pattern!r}")
    try:
        found = [(re.compile(expression), pattern) for expression, pattern in known]
    except re.error as error:
        raise ValueError(f"patterns must be regular expressions: {error}") from error

    def route(path, leaf):
        if not _tree.is_number(leaf):
            return "not a number"
        name, (shape, _) = _tree.path_string(path), _check.spec(leaf)
        for expression, pattern in found:
            if expression.search(name) and len(_named(pattern)[1]) == len(shape) and 0 not in shape:
                return pattern
        return f"rms {'o' * len(shape)}"

    return lambda params: jax.tree_util.tree_map_with_path(route, params, is_leaf=lambda x: x is None)


def _over_rms(x: jax.Array, axes: list[int]) -> jax.Array:
    """An array over the root mean square along some axes; 0 for 0."""
    unit, length = _tree.scaled_norms(x, tuple(axes))
    count = math.sqrt(math.prod(x.shape[axis] for axis in axes))
    return count * _numerics.divide(_tree.parts(lambda part: _tree.over_unit(part, unit), x), length)


def _step_of_length_one(route: str, x: jax.Array) -> jax.Array:
    """The longest along x of those of length one in the norm that a string names."""
    norm, axes = _named(route)
    inputs = math.prod(n for n, axis in zip(x.shape, axes, strict=True) if axis == "i")
    along = {"row": "i", "column": "o", "rms": "io"}
    if norm == "sign":
        return jnp.sign(x) / inputs
    found = _over_rms(x, [i for i, axis in enumerate(axes) if axis in along[norm]])
    return found / inputs if norm == "row" else found


def scale_by_scion(
    *,
    beta: Hyperparameter = 0.9,
    radius: Hyperparameter = 50.0,
    outer_radius: Hyperparameter = 3000.0,
    vector_radius: Hyperparameter = 50.0,
    eps: Hyperparameter = 1e-8,
    coefficients: Coefficients = "quintic",
    steps: int = 5,
    norms: MatrixRule | None = None,
    iteration_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Direction of `scion`, unscaled and ascending.

    .. math:: d = \rho\, \arg\max_{\lVert x \rVert \le 1} \langle m, x \rangle

    Args:
      beta: Share of the past that the average gradient keeps, in [0, 1).
      radius: Of what is measured in the spectral norm, nonnegative.
      outer_radius: Of what is measured by signs, rows or columns, nonnegative.
      vector_radius: Of what is measured by its root mean square, nonnegative.
      eps: Added to the norm that a matrix is divided by, nonnegative.
      coefficients: `"quintic"` (Jordan), `"dion"` (Ahn) or `"polar_express"` (Amsel).
      steps: Number of polynomials, a static int.
      norms: The norm of each leaf; `None` is `norm_rule()`.
      iteration_dtype: Dtype of the products; float32, or the parameter's if wider, if `None`.
      mu_dtype: Dtype of the average; float32, or the parameter's if wider, if `None`.

    Returns:
      A transformation with state `ScionState`.

    Raises:
      TypeError: if `steps` is no Python int, or `norms` gives no strings.
      ValueError: if an argument known now is out of range, or `norms` gives a string that names no norm.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_scion(outer_radius=6.0, norms=norm_rule({"": "sign io"}))
      >>> params = jnp.zeros((2, 2))
      >>> updates, _ = tx.update(jnp.array([[9.0, 0.0], [-1.0, 2.0]]), tx.init(params))
      >>> updates.tolist()
      [[3.0, 0.0], [-3.0, 3.0]]

    Reference:
      Pethick, Xie, Antonakopoulos, Zhu, Silveti-Falls and Cevher, *Training deep learning models with norm-constrained
      LMOs*, 2025.
    """
    _check.decay(beta=beta)
    _check.nonnegative(radius=radius, outer_radius=outer_radius, vector_radius=vector_radius, eps=eps)
    orthogonalize = _orthogonal.iteration(coefficients, steps, "frobenius", iteration_dtype)

    def resolve(params: PyTree) -> PyTree:
        routes = _matrices.resolve(norms or norm_rule(), params)

        def checked(path, route, leaf):
            norm, axes = _named(route)
            if _tree.is_number(leaf) and (not norm or len(axes) != jnp.ndim(leaf)):
                name = f"{_tree.path_string(path)}{list(jnp.shape(leaf))}"
                raise ValueError(f"norms gives {route!r} to {name}, not a norm of {list(_NORMS)} with its axes")

        jax.tree_util.tree_map_with_path(checked, routes, params)
        return routes

    def init(params: PyTree) -> ScionState:
        resolve(params)
        mu = _tree.zeros_like(params, dtype=mu_dtype)
        return ScionState(jnp.zeros((), jnp.int32), mu, jnp.zeros((), _hyper.default_float()))

    def update(updates: PyTree, state: Any, params: PyTree | None = None, **others: Any):
        del others
        routes = resolve(updates if params is None else params)
        stacks = _matrices.Stacks(routes, updates)
        share, small = _hyper.at(state.step, beta), _hyper.at(state.step, eps)
        found, mu, mass = _orthogonal.momentum(updates, state, stacks, share, small, orthogonalize)
        spectral = stacks.unstack(_orthogonal.scaled(found, stacks, "spectral", 1.0), updates)
        radii = [_hyper.at(state.step, value) for value in (radius, outer_radius, vector_radius)]

        def direction(route, u, m, x):
            if not _tree.is_number(u):
                return u
            norm, _ = _named(route)
            length = radii[0 if norm == "spectral" else 2 if norm == "rms" else 1]
            x = x if norm == "spectral" else _step_of_length_one(route, m)
            return jnp.asarray(length, jnp.finfo(x.dtype).dtype) * x

        directions = jax.tree.map(direction, routes, updates, mu, spectral)
        new = ScionState(_tree.increment(state.step), _tree.cast_like(mu, state.mu), mass)
        return _tree.cast_like(directions, updates), new

    return optax.GradientTransformationExtraArgs(init, update)


def scion(
    learning_rate: Hyperparameter,
    *,
    beta: Hyperparameter = 0.9,
    radius: Hyperparameter = 50.0,
    outer_radius: Hyperparameter = 3000.0,
    vector_radius: Hyperparameter = 50.0,
    eps: Hyperparameter = 1e-8,
    coefficients: Coefficients = "quintic",
    steps: int = 5,
    norms: MatrixRule | None = None,
    iteration_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Hyperparameter = 1.0,
    weight_decay_mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Every kind of layer in a norm of its own: steps go to that point of a ball which is lowest along the momentum.

    .. math::
      m \leftarrow \beta m + (1 - \beta) g, \quad
      w \leftarrow (1 - \eta\lambda)\, w - \eta \rho\, \arg\max_{\lVert x \rVert \le 1} \langle m, x \rangle

    Hidden matrices have the spectral norm, so that what `muon` does is done to them; embeddings and heads are measured
    by signs, biases and gains by their root mean square, and no leaf needs Adam. `norm_rule` says which leaf is what.
    With one number of state for each parameter, and rates that carry over from one width to another.

    - `weight_decay=1.0` is the constrained form: each step is a mean of the weights and a point on the ball of radius
      :math:`\rho`, which they never leave if they began inside.
    - `weight_decay=0.0` is the unconstrained one, and Gluon in these norms: radii only scale the rate.

    The radii are those of the paper for a transformer, where rates are near 2e-4; its MLPs have `radius=1.0` and
    `outer_radius=1024.0` at 0.016. The momentum :math:`\alpha` of paper and authors' code is `1 - beta`. Nothing here
    keeps weights on a sphere, as the spectral sphere optimizer does.

    Args:
      learning_rate: Share of the way to the ball, in [0, 1] if constrained.
      beta: Share of the past that the average gradient keeps, in [0, 1); for short runs with little noise 0.5.
      radius: Of what is measured in the spectral norm, nonnegative.
      outer_radius: Of what is measured by signs, rows or columns, nonnegative.
      vector_radius: Of what is measured by its root mean square, nonnegative.
      eps: Added to the norm that a matrix is divided by, nonnegative.
      coefficients: `"quintic"` (Jordan), `"dion"` (Ahn) or `"polar_express"` (Amsel).
      steps: Number of polynomials, a static int.
      norms: The norm of each leaf; `None` is `norm_rule()`.
      iteration_dtype: Dtype of the products; float32, or the parameter's if wider, if `None`.
      mu_dtype: Dtype of the average; float32, or the parameter's if wider, if `None`.
      weight_decay: Decoupled decay, nonnegative; 1 is constrained, 0 unconstrained.
      weight_decay_mask: Parameters to decay: booleans or a function of the parameters; `None` is all.

    Returns:
      The optimizer; `update` needs `params` unless `weight_decay` is the Python number 0.

    Raises:
      TypeError: if `steps` is no Python int, or `norms` gives no strings.
      ValueError: if an argument known now is out of range, or `norms` gives a string that names no norm.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scion(0.5, vector_radius=2.0)
      >>> params = jnp.ones(4)
      >>> updates, _ = tx.update(jnp.array([4.0, -4.0, 4.0, 4.0]), tx.init(params), params)
      >>> updates.tolist()  # half of the way to (-2, 2, -2, -2)
      [-1.5, 0.5, -1.5, -1.5]

    Reference:
      Pethick, Xie, Antonakopoulos, Zhu, Silveti-Falls and Cevher, *Training deep learning models with norm-constrained
      LMOs*, 2025; Riabinin, Shulgin, Gruntkowska and Richtárik, *Gluon: making Muon and Scion great again*, 2025.
    """
    direction = scale_by_scion(
        beta=beta,
        radius=radius,
        outer_radius=outer_radius,
        vector_radius=vector_radius,
        eps=eps,
        coefficients=coefficients,
        steps=steps,
        norms=norms,
        iteration_dtype=iteration_dtype,
        mu_dtype=mu_dtype,
    )
    return assemble(direction, learning_rate, weight_decay, weight_decay_mask)
