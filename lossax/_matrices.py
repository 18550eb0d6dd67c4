"""Matrices among the parameters: which leaves hold some, and all those of one shape as one array.

What an optimizer of matrices costs is the number of its products, so it works on a stack `[count, rows, columns]` of
all matrices of one shape. Leaves that hold no matrix go to another rule, the fallback.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lossax import _check, _moments, _tree
from lossax._assemble import assemble
from lossax._tile import kept_whole, spread_like, whole
from lossax._types import Hyperparameter, Mask, PyTree

MatrixRule = Callable[[PyTree], PyTree]
"""From parameters to a string for each leaf: a letter for each of its axes, or why it holds no matrices."""

Scale = Literal["width", "spectral", "rms", "none"]
"""How long a step of a matrix is, by its shape."""


def is_matrix(route: str) -> bool:
    """Whether a string names axes: b counts matrices, i is their inputs, o their outputs."""
    return bool(route) and set(route) <= set("bio")


def sizes(route: str, leaf: Any) -> tuple[int, int]:
    """Number of inputs and of outputs of the matrices of a leaf."""
    shape, _ = _check.spec(leaf)
    inputs, outputs = (math.prod(n for n, axis in zip(shape, route, strict=True) if axis == side) for side in "io")
    return inputs, outputs


def matrix_rule(
    patterns: Mapping[str, str] | None = None,
    *,
    layout: Literal["io", "oi"] = "io",
    exclude: str | None = "embed|head|logits",
) -> MatrixRule:
    """Which leaves an optimizer of matrices (`optimizers.muon`, ...) works on, and which axes are whose.

    Axes are named by a string with one letter for each: `i` for inputs, `o` for outputs, `b` for what only counts
    matrices, such as layers stacked for a scan. A leaf of two axes is a matrix as `layout` says, unless its path says
    that it belongs to an embedding or a head; what has more axes must be declared, and all else is left to the
    fallback of the optimizer. `describe` shows what became of each leaf.

    Any function from parameters to such strings is a rule, too. A string with other letters than these sends its leaf
    to the fallback, and is the reason that `describe` gives.

    Args:
      patterns: Axes by regular expressions of paths, such as `{"conv": "iiio", "layers/.*kernel": "bio"}` for Flax;
        `""` is the fallback. The first that is found in a path counts; a leaf with another number of axes falls back.
      layout: Axes of a leaf with two: `"io"` for kernels of Flax and Haiku, `"oi"` for weights of Equinox and torch.
      exclude: Regular expression of paths that fall back unless a pattern is found in them; `None` is none.

    Returns:
      A function from parameters to strings in their structure.

    Raises:
      ValueError: if an expression does not compile or a pattern is none.

    Example:
      >>> rule = matrix_rule({"conv": "iio"})
      >>> rule({"conv": jnp.zeros((3, 4, 8)), "dense": jnp.zeros((8, 2)), "bias": jnp.zeros(2)})
      {'bias': 'fewer than two axes', 'conv': 'iio', 'dense': 'io'}
    """
    _check.choice(("io", "oi"), layout=layout)
    patterns = dict(patterns or {})
    for pattern in patterns.values():
        if pattern and not (is_matrix(pattern) and {"i", "o"} <= set(pattern)):
            raise ValueError(f"patterns must name axes by the letters b, i and o, with i and o, got {pattern!r}")
    try:
        found = {re.compile(expression): pattern for expression, pattern in patterns.items()}
        outside = None if exclude is None else re.compile(exclude)
    except re.error as error:
        raise ValueError(f"patterns and exclude must be regular expressions: {error}") from error

    def route(path, leaf):
        if not _tree.is_number(leaf):
            return "not a number"
        name, (shape, _) = _tree.path_string(path), _check.spec(leaf)
        pattern = layout
        for expression, declared in found.items():
            if expression.search(name):
                if len(declared) != len(shape):
                    return f"declared {declared!r} by {expression.pattern!r}" if declared else f"{expression.pattern!r}"
                pattern = declared
                break
        else:
            if outside is not None and outside.search(name):
                return f"{outside.pattern!r}"
            if len(shape) < 2:
                return "fewer than two axes"
            if len(shape) > 2:
                return "more than two axes, not declared"
        return pattern if min(sizes(pattern, leaf)) > 1 and 0 not in shape else "a single row or column"

    return lambda params: jax.tree_util.tree_map_with_path(route, params, is_leaf=lambda x: x is None)


def resolve(rule: MatrixRule | None, params: PyTree) -> PyTree:
    """What a rule says of each leaf, checked."""
    routes = (rule or matrix_rule())(params)

    def checked(path, route, leaf):
        shape, name = jnp.shape(leaf) if _tree.is_number(leaf) else None, _tree.path_string(path)
        if not isinstance(route, str):
            raise TypeError(f"matrices must give a string for each leaf, got {route!r} for {name}")
        if is_matrix(route) and (shape is None or len(route) != len(shape) or not {"i", "o"} <= set(route)):
            raise ValueError(f"matrices gives axes {route!r} to {name}{[] if shape is None else list(shape)}")
        return route

    return jax.tree_util.tree_map_with_path(checked, routes, params)


def describe(rule: MatrixRule | None, params: PyTree) -> str:
    """What a rule of matrices makes of each parameter, as a table to print.

    Args:
      rule: From `matrix_rule`, or a function of one's own; `None` is `matrix_rule()`.
      params: Parameters: arrays or abstract ones.

    Returns:
      A line for each leaf: its path, its shape, and its matrices or why it goes to the fallback.

    Example:
      >>> print(describe(None, {"kernel": jnp.zeros((8, 2)), "bias": jnp.zeros(2)}))
      bias    [2]     fallback: fewer than two axes
      kernel  [8, 2]  1 matrix of 8 inputs and 2 outputs
    """
    rows = []

    def row(path, route, leaf):
        shape = list(jnp.shape(leaf)) if _tree.is_number(leaf) else None
        told = f"fallback: {route}"
        if is_matrix(route):
            inputs, outputs = sizes(route, leaf)
            count = math.prod(shape or ()) // max(inputs * outputs, 1)
            told = f"{count} {'matrix' if count == 1 else 'matrices'} of {inputs} inputs and {outputs} outputs"
        rows.append((_tree.path_string(path), "-" if shape is None else str(shape), told))

    jax.tree_util.tree_map_with_path(row, resolve(rule, params), params)
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    return "\n".join(f"{path:<{widths[0]}}  {shape:<{widths[1]}}  {told}" for path, shape, told in rows)


def only(routes: PyTree, tree: PyTree, matrices: bool) -> PyTree:
    """The leaves that hold matrices, or the others; `None` elsewhere."""
    return jax.tree.map(lambda route, leaf: leaf if is_matrix(route) is matrices else None, routes, tree)


class Stacks:
    """All matrices of one shape as one array `[count, rows, columns]`, in a dictionary by their shapes.

    Args:
      routes: What `resolve` returned.
      like: Parameters or updates, whose shapes count; `None` where there are no matrices.
      upright: Whether rows are always inputs; otherwise a matrix with more rows than columns is transposed.
      apart: Whether those that are transposed are in stacks of their own.
    """

    def __init__(self, routes: PyTree, like: PyTree, *, upright: bool = False, apart: bool = False):
        self.routes = jax.tree.leaves(routes)
        self.structure = jax.tree.structure(routes)
        self.flipped, self.shapes = {}, {}
        self.members: dict[str, list[int]] = {}
        for i, (route, leaf) in enumerate(zip(self.routes, self.structure.flatten_up_to(like), strict=True)):
            if not is_matrix(route) or leaf is None:
                continue
            rows, columns = sizes(route, leaf)
            self.flipped[i] = not upright and rows > columns
            self.shapes[i] = jnp.shape(leaf)
            dtype = jnp.dtype(_tree.wide_dtype(leaf)).name
            kind = "" if dtype == "float32" else f" {dtype}"
            rows, columns = (columns, rows) if self.flipped[i] else (rows, columns)
            side = "T" if apart and self.flipped[i] else ""
            self.members.setdefault(f"{rows}x{columns}{side}{kind}", []).append(i)

    def _axes(self, i: int) -> list[int]:
        """The axes of a leaf in the order of `[count, rows, columns]`."""
        order = "boi" if self.flipped[i] else "bio"
        return sorted(range(len(self.routes[i])), key=lambda axis: order.index(self.routes[i][axis]))

    def _sizes(self, i: int, shape: tuple[int, ...] | None = None) -> tuple[int, int, int]:
        order = "boi" if self.flipped[i] else "bio"
        pairs = list(zip(self.shapes[i] if shape is None else shape, self.routes[i], strict=True))
        count, rows, columns = (math.prod(n for n, axis in pairs if axis == side) for side in order)
        return count, rows, columns

    def spans(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape `[count, rows, columns]` and dtype of each stack."""

        def span(key, members):
            sizes = [self._sizes(i) for i in members]
            return jax.ShapeDtypeStruct((sum(n for n, *_ in sizes), *sizes[0][1:]), key.partition(" ")[2] or "float32")

        return {key: span(key, members) for key, members in self.members.items()}

    def stack(self, tree: PyTree) -> dict[str, jax.Array]:
        """The matrices of a tree, wide; zeros where it has none. Axes may be of length one."""
        leaves = self.structure.flatten_up_to(tree)

        def matrices(i, dtype):
            if leaves[i] is None:
                return jnp.zeros(self._sizes(i), dtype)
            sizes = self._sizes(i, jnp.shape(leaves[i]))
            return whole(_tree.widen(leaves[i])).transpose(self._axes(i)).reshape(sizes)

        def joined(key, members):
            parts = [matrices(i, key.partition(" ")[2] or "float32") for i in members]
            return parts[0] if len(parts) == 1 else jnp.concatenate(parts)

        return {key: joined(key, members) for key, members in self.members.items()}

    def unstack(self, stacks: Mapping[str, jax.Array], like: PyTree) -> PyTree:
        """The tree again, `None` where `like` is, spread over devices as that is."""
        leaves = self.structure.flatten_up_to(like)
        found: list[Any] = [None] * len(leaves)
        for key, members in self.members.items():
            start = 0
            for i in members:
                count = self._sizes(i)[0]
                part, start = stacks[key][start : start + count], start + count
                if leaves[i] is not None:
                    axes, shape = self._axes(i), jnp.shape(leaves[i])
                    part = part.reshape([shape[axis] for axis in axes])
                    part = part.transpose([axes.index(axis) for axis in range(len(axes))])
                    found[i] = spread_like(part, leaves[i])
        return self.structure.unflatten(found)

    def join(self, tree: PyTree) -> dict[str, jax.Array]:
        """What a tree has for each matrix, arrays `[count, ...]`, for each stack."""
        leaves = self.structure.flatten_up_to(tree)
        return {key: jnp.concatenate([whole(leaves[i]) for i in members]) for key, members in self.members.items()}

    def split(self, joined: Mapping[str, jax.Array], like: PyTree) -> PyTree:
        """The tree again; what has no matrix in a stack is as in `like`."""
        leaves = self.structure.flatten_up_to(like)
        for key, members in self.members.items():
            ends = [sum(self._sizes(i)[0] for i in members[: n + 1]) for n in range(len(members) - 1)]
            for i, part in zip(members, jnp.split(joined[key], ends), strict=True):
                leaves[i] = spread_like(kept_whole(part), leaves[i])
        return self.structure.unflatten(leaves)

    def inputs_axis(self, key: str) -> int:
        """The axis of a stack that counts inputs, if transposed matrices are apart."""
        return 2 if self.flipped[self.members[key][0]] else 1

    def each(self, f: Callable[..., jax.Array]) -> dict[str, jax.Array]:
        """`f(inputs, outputs)` of each matrix, as `[count, 1, 1]`."""

        def of(i):
            count, rows, columns = self._sizes(i)
            return jnp.broadcast_to(f(*((columns, rows) if self.flipped[i] else (rows, columns))), (count, 1, 1))

        return {key: jnp.concatenate([of(i) for i in members]) for key, members in self.members.items()}


def length(scale: Scale, rms: jax.Array, inputs: int, outputs: int) -> Any:
    """What an orthogonal matrix is multiplied by.

    `"width"` is sqrt(max(1, outputs / inputs)), `"spectral"` sqrt(outputs / inputs), `"rms"` gives entries of root mean
    square `rms`, and `"none"` is 1.
    """
    if scale == "rms":
        return rms * math.sqrt(max(inputs, outputs))
    ratio = outputs / inputs
    return jnp.ones_like(rms) * {"width": math.sqrt(max(1.0, ratio)), "spectral": math.sqrt(ratio), "none": 1.0}[scale]


class RoutedState(NamedTuple):
    """The state of what works on matrices, and that of what works on the other leaves."""

    matrices: Any
    fallback: Any


def routed(
    init: Callable[[PyTree, PyTree], Any],
    update: Callable[..., tuple[PyTree, Any]],
    rule: MatrixRule | None,
    fallback: optax.GradientTransformation | None,
) -> optax.GradientTransformationExtraArgs:
    """A direction of matrices, and of the other leaves another.

    Args:
      init: Takes parameters, `None` where there are no matrices, and routes; returns a state.
      update: Takes updates likewise, a state, parameters (or `None`), routes and extra arguments; returns directions
        and the new state.
      rule: Which leaves hold matrices; `None` is `matrix_rule()`.
      fallback: Direction of the other leaves; `None` is Adam's.

    Returns:
      A transformation with state `RoutedState`.
    """
    if fallback is not None:
        _check.transformation(fallback=fallback)
    other = optax.with_extra_args_support(fallback or _moments.scale_by_moments(0.9, 0.999, 1e-8))

    def start(params: PyTree) -> RoutedState:
        routes = resolve(rule, params)
        return RoutedState(init(only(routes, params, True), routes), other.init(only(routes, params, False)))

    def both(updates: PyTree, state: Any, params: PyTree | None = None, **extra_args):
        routes = resolve(rule, updates if params is None else params)

        def some(tree: PyTree, matrices: bool) -> Any:
            return None if tree is None else only(routes, tree, matrices)

        ours, matrices = update(some(updates, True), state.matrices, some(params, True), routes, **extra_args)
        rest, fallback = other.update(some(updates, False), state.fallback, some(params, False), **extra_args)
        joined = jax.tree.map(lambda route, a, b: a if is_matrix(route) else b, routes, ours, rest)
        return joined, RoutedState(matrices, fallback)

    return optax.GradientTransformationExtraArgs(start, both)


def assembled(
    direction: optax.GradientTransformation,
    learning_rate: Hyperparameter,
    fallback_learning_rate: Hyperparameter | None,
    weight_decay: Hyperparameter,
    weight_decay_mask: Mask | None,
    rule: MatrixRule | None,
) -> optax.GradientTransformationExtraArgs:
    """`assemble`, with a rate of their own for the leaves that hold no matrices."""
    return assemble(
        direction,
        learning_rate,
        weight_decay,
        weight_decay_mask,
        other_learning_rate=fallback_learning_rate,
        other=lambda tree: jax.tree.map(lambda route: not is_matrix(route), resolve(rule, tree)),
    )


def checked(scale: Scale, rms: Hyperparameter) -> None:
    """Raises unless a scale and its root mean square are what they should be."""
    _check.choice(("width", "spectral", "rms", "none"), scale=scale)
    _check.positive(rms=rms)
