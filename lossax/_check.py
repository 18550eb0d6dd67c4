"""Errors raised while tracing, naming argument, shape and value.

Checks of shape and dtype always run. Checks of a value run where the value is known: tracers and schedules pass, so
every hyperparameter can be swept under `vmap`.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def spec(value: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of anything that becomes an array, without moving it."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        value = np.asarray(value)
    return tuple(value.shape), value.dtype


def concrete(value: Any) -> np.ndarray | None:
    """The value where it is known now, `None` for a tracer or a schedule."""
    if callable(value) or isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    return np.asarray(value)


def floating(**arrays: Any) -> None:
    """Raises unless every array is real floating point."""
    for name, array in arrays.items():
        _, dtype = spec(array)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{name} must be floating point, got {dtype}")


def real(**arrays: Any) -> None:
    """Raises unless every array is floating point, integer or bool."""
    for name, array in arrays.items():
        _, dtype = spec(array)
        if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer) or dtype == np.bool_):
            raise TypeError(f"{name} must be real numbers, got {dtype}")


def integer(**arrays: Any) -> None:
    """Raises unless every array is integer."""
    for name, array in arrays.items():
        _, dtype = spec(array)
        if not jnp.issubdtype(dtype, jnp.integer):
            raise TypeError(f"{name} must be integer, got {dtype}")


def boolean(**arrays: Any) -> None:
    """Raises unless every array is bool."""
    for name, array in arrays.items():
        _, dtype = spec(array)
        if dtype != np.bool_:
            raise TypeError(f"{name} must be bool, got {dtype}")


def _shapes(**arrays: Any) -> str:
    return ", ".join(f"{name}{list(spec(array)[0])}" for name, array in arrays.items())


def same_shape(**arrays: Any) -> None:
    """Raises unless all shapes are equal: nothing broadcasts silently."""
    if len({spec(array)[0] for array in arrays.values()}) > 1:
        raise ValueError(f"expected equal shapes, got {_shapes(**arrays)}")


def units_of(rows: dict[str, Any], axes: int = 1, **units: Any) -> None:
    """Raises unless each of `units` has the shape of `rows` without its last `axes` axes."""
    ((name, array),) = rows.items()
    shape, _ = spec(array)
    if len(shape) < axes:
        raise ValueError(f"{name} needs at least {axes} axis, got {_shapes(**rows)}")
    for unit in units.values():
        if spec(unit)[0] != shape[: len(shape) - axes]:
            raise ValueError(f"expected the shape of {name} without its last axis, got {_shapes(**units, **rows)}")


def of_classes(classes: int, axes: int = 1, **arrays: Any) -> None:
    """Raises unless each array has one entry for each class, along each of its `axes` axes."""
    for name, array in arrays.items():
        shape, _ = spec(array)
        if shape != (classes,) * axes:
            raise ValueError(f"{name} must have shape {[classes] * axes}, one for each class, got {list(shape)}")


def points(dimensions: int, **arrays: Any) -> None:
    """Raises unless each array is `[n, dimensions]`, any n."""
    for name, array in arrays.items():
        shape, _ = spec(array)
        if len(shape) != 2 or shape[1] != dimensions:
            raise ValueError(f"{name} must have shape [any, {dimensions}], got {list(shape)}")


def boxes(**arrays: Any) -> None:
    """Raises unless the last axis of every array holds the 4 numbers of a box."""
    for array in arrays.values():
        if spec(array)[0][-1:] != (4,):
            raise ValueError(f"boxes are [..., 4], got {_shapes(**arrays)}")


def broadcasts_to(shape: tuple[int, ...], **arrays: Any) -> None:
    """Raises unless each array broadcasts to `shape` without enlarging it."""
    for name, array in arrays.items():
        own, _ = spec(array)
        fits = len(own) <= len(shape) and all(a in (1, b) for a, b in zip(own[::-1], shape[::-1], strict=False))
        if not fits:
            raise ValueError(f"{name}{list(own)} does not broadcast to the units {list(shape)}")


def _values(requirement: str, holds: Callable[[np.ndarray], Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        known = concrete(value)
        if known is None:
            continue
        if not (np.issubdtype(known.dtype, np.number) or jnp.issubdtype(known.dtype, jnp.floating)):
            raise TypeError(f"{name} must be a number, got {value!r}")
        known = known.astype(np.float64)
        good = np.asarray(holds(known))
        if not good.all():
            raise ValueError(f"{name} must be {requirement}, got {known[~good].flat[0]:g}")


def positive(**values: Any) -> None:
    """Raises unless every known value is above zero."""
    _values("positive", lambda v: v > 0, values)


def nonnegative(**values: Any) -> None:
    """Raises unless every known value is zero or above."""
    _values("nonnegative", lambda v: v >= 0, values)


def nonpositive(**values: Any) -> None:
    """Raises unless every known value is zero or below."""
    _values("zero or below", lambda v: v <= 0, values)


def at_least(least: float, **values: Any) -> None:
    """Raises unless every known value is `least` or above."""
    _values(f"at least {least:g}", lambda v: v >= least, values)


def within(least: float, most: float, **values: Any) -> None:
    """Raises unless every known value is in [`least`, `most`]."""
    _values(f"in [{least:g}, {most:g}]", lambda v: (v >= least) & (v <= most), values)


def fraction(**values: Any) -> None:
    """Raises unless every known value is in [0, 1]."""
    _values("in [0, 1]", lambda v: (v >= 0) & (v <= 1), values)


def flip(**values: Any) -> None:
    """Raises unless every known value is in [0, 1/2): the probability that a label is wrong."""
    _values("in [0, 0.5)", lambda v: (v >= 0) & (v < 0.5), values)


def decay(**values: Any) -> None:
    """Raises unless every known value is in [0, 1): the share of the past that an average keeps."""
    _values("in [0, 1)", lambda v: (v >= 0) & (v < 1), values)


def number(**values: Any) -> None:
    """Raises unless every known value is finite."""
    _values("finite", np.isfinite, values)


def increasing(least: int = 2, **values: Any) -> None:
    """Raises unless every value is `[n]`, n of at least `least`, each number, where known, above the one before."""
    for name, value in values.items():
        shape, _ = spec(value)
        if len(shape) != 1 or shape[0] < least:
            raise ValueError(f"{name} must have one axis and at least {least} entries, got shape {list(shape)}")
        known = concrete(value)
        if known is not None and not (np.diff(known.astype(np.float64)) > 0).all():
            raise ValueError(f"{name} must increase, got {known}")


def count(least: int = 1, /, **values: Any) -> None:
    """Raises unless every value is a Python integer, `least` or above: it sets structure, so it can be no tracer."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name} sets structure and must be a Python int, got {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def axes(axes: Any, event: int = 0, **arrays: Any) -> tuple[int, ...]:
    """The axes counted from the front; raises unless they are distinct and not among the last `event` of the array."""
    ((name, array),) = arrays.items()
    shape, _ = spec(array)
    if not isinstance(axes, tuple | list) or not axes or not all(isinstance(a, int | np.integer) for a in axes):
        raise TypeError(f"axes must be a tuple of Python ints, got {axes!r}")
    found = tuple(int(a) + len(shape) if a < 0 else int(a) for a in axes)
    if len(set(found)) < len(found) or not all(0 <= a < len(shape) - event for a in found):
        before = ", the last of which is the classes" if event else ""
        raise ValueError(f"axes must be distinct axes of {name}{list(shape)}{before}, got {tuple(axes)}")
    return found


def choice(options: Iterable[str], **values: Any) -> None:
    """Raises unless every value is one of `options`, naming the nearest: first those that begin or go on like it."""
    options = list(options)
    for name, value in values.items():
        if value not in options:
            begun = [option for option in options if option.startswith(str(value))] if value else []
            near = [*begun, *(o for o in get_close_matches(str(value), options, n=3, cutoff=0.3) if o not in begun)]
            raise ValueError(f"{name} must be one of {near[:4] or options}, got {value!r}")


def transformation(**values: Any) -> None:
    """Raises unless every value is a pair of `init` and `update`."""
    for name, value in values.items():
        if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
            raise TypeError(f"{name} must be a transformation (init, update), got {value!r}")


def domain(requirement: str, inside: Callable[[Any], Any], **arrays: Any) -> jax.Array:
    """The array, with NaN where its values are outside the domain of the loss.

    Call it after `masked`: what is masked may hold anything.

    Raises:
      ValueError: if a value known now is outside.
    """
    ((name, array),) = arrays.items()
    known = concrete(array)
    if known is not None:
        good = np.asarray(inside(known))
        if not good.all():
            raise ValueError(f"{name} must be {requirement}, got {known[~good].flat[0]:g}")
    return jnp.where(inside(array), array, jnp.nan)


def labels(labels: jax.Array, classes: int) -> jax.Array:
    """Whether each label names a class; raises where a label known now does not."""
    known = concrete(labels)
    if known is not None:
        wrong = (known < 0) | (known >= classes)
        if wrong.any():
            raise ValueError(f"labels must be in [0, {classes}), got {known[wrong].flat[0]}; ignore units with `where`")
    return (labels >= 0) & (labels < classes)


def indices(size: int, **arrays: jax.Array) -> jax.Array:
    """Whether each index is in [0, size); raises where an index known now is not."""
    ((name, array),) = arrays.items()
    known = concrete(array)
    if known is not None:
        wrong = (known < 0) | (known >= size)
        if wrong.any():
            raise ValueError(f"{name} must be in [0, {size}), got {known[wrong].flat[0]}")
    return (array >= 0) & (array < size)


def distinct(keep: jax.Array, **arrays: jax.Array) -> jax.Array:
    """Whether no index of a row `[..., k]` that is kept is there twice, `[..., 1]`; raises where one known now is."""
    ((name, array),) = arrays.items()
    places = jnp.arange(array.shape[-1], dtype=array.dtype).reshape((1,) * (array.ndim - 1) + (-1,))
    ordered = jnp.sort(jnp.where(keep, array, ~places), axis=-1)  # others below 0, each once
    again = ordered[..., 1:] == ordered[..., :-1]
    known = concrete(again)
    if known is not None and known.any():
        raise ValueError(f"{name} must name each class once, got {np.asarray(ordered)[..., 1:][known][0]} twice")
    return ~jnp.any(again, axis=-1, keepdims=True)


def position(size: int, **values: Any) -> None:
    """Raises unless every value is a Python integer in [0, size): it sets structure, so it can be no tracer."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"{name} sets structure and must be a Python int, got {value!r}")
        if not 0 <= value < size:
            raise ValueError(f"{name} must be in [0, {size}), got {value}")


def symbols(labels: jax.Array, keep: jax.Array, classes: int, blank: int) -> jax.Array:
    """Whether each label that is kept names a class other than the blank; raises where one known now does not."""
    known, kept = concrete(labels), concrete(keep)
    if known is not None and kept is not None:
        left = known[kept]
        wrong = (left < 0) | (left >= classes) | (left == blank)
        if wrong.any():
            domain = f"in [0, {classes}) and not the blank {blank}"
            raise ValueError(f"labels must be {domain}, got {left[wrong][0]}; mark padding with `label_where`")
    return ~keep | ((labels >= 0) & (labels < classes) & (labels != blank))
