"""A learning rate of its own for each leaf: one transformation, and rules that make the factors."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lossax import _check, _hyper, _tree, _units
from lossax._types import Hyperparameter, PyTree, UnitAxes


class ScaleByFactorsState(NamedTuple):
    """Number of updates."""

    step: jax.Array


def _each(f: Callable[[str, Any], Any], params: PyTree) -> PyTree:
    """`f(path, leaf)` at every number, `None` elsewhere."""

    def at(path, leaf):
        return f(_tree.path_string(path), leaf) if _tree.is_number(leaf) else None

    return jax.tree_util.tree_map_with_path(at, params, is_leaf=lambda x: x is None)


def _compiled(**patterns: str) -> list[re.Pattern[str]]:
    found = []
    for name, pattern in patterns.items():
        try:
            found.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"{name} must be a regular expression, got {pattern!r}: {error}") from error
    return found


def scale_by_factors(factors: PyTree | Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    r"""Multiplies each leaf by a factor of its own.

    .. math:: u_i \leftarrow c_i u_i

    Last in a chain it gives each leaf a learning rate, decay included: `chain(adamw(1e-3), scale_by_factors(rule))`. In
    the direction it leaves decay alone: `assemble(chain(scale_by_adam(), scale_by_factors(rule)), 1e-3, 0.1)`. Rules
    are `path_factors`, `layer_decay`, `mup_factors`, or any function of the parameters; what `rule(params)` returns can
    be printed. 0 holds a leaf still, but see `freeze`.

    Args:
      factors: Numbers, schedules or arrays that stretch over their leaf, in the structure of the parameters; or a
        function of the parameters that returns such a tree. `None` leaves a leaf alone.

    Returns:
      A transformation with state `ScaleByFactorsState`. A function sees the updates where `update` gets no `params`.

    Raises:
      ValueError: if an array does not stretch over its leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_factors({"body": 0.5, "head": None})
      >>> updates, _ = tx.update({"body": jnp.array(2.0), "head": jnp.array(2.0)}, tx.init(None))
      >>> updates["body"].item(), updates["head"].item()
      (1.0, 2.0)

    Reference:
      Howard and Ruder, *Universal language model fine-tuning for text classification*, 2018.
    """

    def init(params: PyTree) -> ScaleByFactorsState:
        del params
        return ScaleByFactorsState(jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None):
        rule = callable(factors) and jax.tree_util.all_leaves([factors])
        tree = factors(updates if params is None else params) if rule else factors

        def scale(u, factor):
            factor = jnp.asarray(factor(state.step) if callable(factor) else factor, u.real.dtype)
            if factor.ndim:
                _check.broadcasts_to(u.shape, factor=factor)
                factor = factor.reshape((1,) * (u.ndim - factor.ndim) + factor.shape)
            return _tree.parts(lambda x: factor * x, u)

        scaled = _tree.map(scale, updates, tree)
        return _tree.cast_like(scaled, updates), ScaleByFactorsState(_tree.increment(state.step))

    return optax.GradientTransformation(init, update)


def path_factors(factors: Mapping[str, Hyperparameter], *, default: Hyperparameter = 1.0) -> Callable[[PyTree], PyTree]:
    """A rule of factors by path, for `scale_by_factors`.

    Args:
      factors: A factor, nonnegative, for each regular expression; of those found in a path the first counts. Paths read
        `encoder/layers/0/kernel` whatever the framework.
      default: Factor of the other leaves, nonnegative.

    Returns:
      A function from parameters to factors in their structure.

    Raises:
      ValueError: if an expression does not compile, or a known factor is negative.

    Example:
      >>> rule = path_factors({"embed": 0.1, "bias": 2.0})
      >>> rule({"embed": {"table": 0.0}, "dense": {"kernel": 0.0, "bias": 0.0}})
      {'dense': {'bias': 2.0, 'kernel': 1.0}, 'embed': {'table': 0.1}}
    """
    _check.nonnegative(**{f"factor of {pattern!r}": x for pattern, x in factors.items()}, default=default)
    patterns = [_compiled(factors=pattern)[0] for pattern in factors]

    def rule(params: PyTree) -> PyTree:
        def factor(path, leaf):
            del leaf
            return next((x for p, x in zip(patterns, factors.values(), strict=True) if p.search(path)), default)

        return _each(factor, params)

    return rule


def layer_decay(
    decay: Hyperparameter = 0.75,
    *,
    layers: int,
    index: str = r"(?:layers?|blocks?)[_/]?(\d+)",
    below: str = "embed",
    stacked: str | None = None,
    axis: int = 0,
) -> Callable[[PyTree], PyTree]:
    r"""A rule for fine-tuning: the further a layer is from the head, the smaller its rate. For `scale_by_factors`.

    .. math:: c = d^{\,L - l} \;\text{ in layer } l \in \{0, \dots, L - 1\}, \qquad d^{\,L + 1} \text{ below}, \qquad
      1 \text{ above}

    The lower layers know what is general and should change little. What is neither in a numbered layer nor below is
    above: the head, the last norm. 0.65 to 0.8 is customary for vision transformers, 0.8 to 0.95 for language models.

    Args:
      decay: Ratio of the rates of neighbouring layers, in [0, 1].
      layers: Number of layers.
      index: Regular expression whose first group finds the number of a layer in a path such as
        `encoder/layers_3/attention/kernel`, counted from 0 at the input.
      below: Regular expression found in the paths of what lies under the first layer.
      stacked: Regular expression found in the paths of leaves that hold all layers; `None` if there are none.
      axis: Axis of the layers in stacked leaves.

    Returns:
      A function from parameters to factors in their structure, an array for each stacked leaf.

    Raises:
      ValueError: if a known `decay` is not in [0, 1], an expression does not compile, or a layer has another number.
      TypeError: if `layers` or `axis` is no Python integer.

    Example:
      >>> rule = layer_decay(0.5, layers=2)
      >>> rule({"embed": 0.0, "layers_0": {"kernel": 0.0}, "layers_1": {"kernel": 0.0}, "head": 0.0})
      {'embed': 0.125, 'head': 1.0, 'layers_0': {'kernel': 0.25}, 'layers_1': {'kernel': 0.5}}
      >>> import jax.numpy as jnp
      >>> layer_decay(0.5, layers=2, stacked="blocks")({"blocks": jnp.zeros((2, 3))})["blocks"].tolist()
      [[0.25], [0.5]]

    Reference:
      Howard and Ruder, *Universal language model fine-tuning for text classification*, 2018; Clark, Luong, Le and
      Manning, *ELECTRA: pre-training text encoders as discriminators rather than generators*, 2020.
    """
    _check.fraction(decay=decay)
    _check.count(layers=layers)
    if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
        raise TypeError(f"axis sets structure and must be a Python int, got {axis!r}")
    numbered, under = _compiled(index=index, below=below)
    stack = None if stacked is None else _compiled(stacked=stacked)[0]

    def power(exponent):
        def at(value):
            if isinstance(exponent, np.ndarray):
                return jnp.power(_hyper.scalar(value), jnp.asarray(exponent, _hyper.default_float()))
            return value**exponent

        if not callable(decay):
            return at(decay)
        schedule = decay
        return lambda step: at(_hyper.scalar(schedule(step)))

    def factor(path, leaf):
        if stack is not None and stack.search(path):
            shape, _ = _check.spec(leaf)
            if not -len(shape) <= axis < len(shape) or shape[axis] != layers:
                raise ValueError(f"{path} must stack {layers} layers along axis {axis}, got shape {list(shape)}")
            along = [1] * len(shape)
            along[axis] = layers
            return power(np.arange(layers, 0, -1).reshape(along))
        found = numbered.search(path)
        if found:
            number = int(found.group(1))
            if number >= layers:
                raise ValueError(f"{path} is in layer {number}, but layers={layers}, counted from 0")
            return power(layers - number)
        return power(layers + 1) if under.search(path) else 1.0

    return lambda params: _each(factor, params)


def mup_factors(
    base: PyTree, *, optimizer: Literal["adam", "sgd"] = "adam", unit_axes: UnitAxes = -1
) -> Callable[[PyTree], PyTree]:
    r"""A rule that lets the best learning rate of a narrow model be that of a wide one: muP. For `scale_by_factors`.

    .. math:: c_\text{Adam} = \frac{n_\text{in}^\text{base}}{n_\text{in}}, \qquad
      c_\text{SGD} = \frac{n_\text{out}}{n_\text{out}^\text{base}} \cdot \frac{n_\text{in}^\text{base}}{n_\text{in}}

    where :math:`n_\text{in}` multiplies up the axes inside a unit and :math:`n_\text{out}` those of the units
    (`unit_axes`); axes that do not grow cancel. These are the rates of table 3 of the paper: for Adam, 1 for input
    weights and vectors and 1 / fan-in for hidden and output weights; for SGD fan-out, 1 and 1 / fan-in. Two things
    belong to the model: initial variances of 1 / fan-in, and 1 / fan-in squared for the output weights; and attention
    scores over the size of a head instead of its root. Optimizers that scale matrices by their shape, as Muon does,
    need other factors. Decay should not shrink with the rate: put the factors into the direction.

    Args:
      base: Parameters of the narrow model that was tuned, or their shapes (`jax.eval_shape`), in the structure of the
        wide one's.
      optimizer: `"adam"` and all that are free of the gradient's scale, signs as well, or `"sgd"`.
      unit_axes: Axes of the outputs, or a function of path and leaf: -1 for Flax kernels and embeddings, 0 for torch
        and Equinox weights but -1 for their embeddings, `(-2, -1)` for kernels `(in, heads, size)`. `None` gives 1.

    Returns:
      A function from parameters to factors in their structure.

    Raises:
      ValueError: if a leaf has another number of axes than its base, or `optimizer` is unknown.
      TypeError: if `unit_axes` is no axis, tuple or function.

    Example:
      >>> import jax.numpy as jnp
      >>> shapes = lambda width: {"in": jnp.zeros((3, width)), "mid": jnp.zeros((width, width)), "b": jnp.zeros(width)}
      >>> mup_factors(shapes(8))(shapes(32))
      {'b': 1.0, 'in': 1.0, 'mid': 0.25}
      >>> mup_factors(shapes(8), optimizer="sgd")(shapes(32))
      {'b': 4.0, 'in': 4.0, 'mid': 1.0}

    Reference:
      Yang et al., *Tensor programs V: tuning large neural networks via zero-shot hyperparameter transfer*, 2021.
    """
    _check.choice(("adam", "sgd"), optimizer=optimizer)
    _units.check(unit_axes)

    def rule(params: PyTree) -> PyTree:
        units = _units.resolve(unit_axes, params, vectors=(0,))

        def factor(leaf, narrow, units):
            if not _tree.is_number(leaf):
                return None
            if units is None or narrow is None:
                return 1.0
            shape, small = _check.spec(leaf)[0], _check.spec(narrow)[0]
            if len(shape) != len(small):
                raise ValueError(f"expected as many axes as in base, got {list(shape)} and base {list(small)}")
            grown = lambda axes: math.prod(shape[a] for a in axes) / (math.prod(small[a] for a in axes) or 1)  # noqa: E731
            return (grown(units.axes) if optimizer == "sgd" else 1.0) / (grown(units.within) or 1.0)

        return jax.tree.map(factor, params, base, units, is_leaf=lambda x: x is None)

    return rule
