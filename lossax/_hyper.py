"""The one place where a hyperparameter becomes a number."""

from typing import Any

import jax
import jax.numpy as jnp

from lossax import _check
from lossax._types import Hyperparameter


def default_float() -> Any:
    """float32, or float64 where JAX is told to use it."""
    return jax.dtypes.canonicalize_dtype(float)


def at(step: jax.typing.ArrayLike, value: Hyperparameter) -> Any:
    """The number that a hyperparameter is at a step (0 at the first update).

    A schedule is called with the step. An array or a tracer becomes a scalar of the default float dtype. A Python
    number stays one, so that `1 - b2` is exact until it meets an array.

    Raises:
      ValueError: if the value is an array of more than zero dimensions.
    """
    if callable(value):
        value = value(step)
    if isinstance(value, bool | int | float):
        return float(value)
    shape, _ = _check.spec(value)
    if shape:
        raise ValueError(f"a hyperparameter must be a scalar, got shape {list(shape)}; sweep with jax.vmap")
    return jnp.asarray(value, default_float())


def scalar(value: jax.typing.ArrayLike) -> jax.Array:
    """A number as a strongly typed scalar of the default float dtype."""
    return jnp.asarray(value, default_float())


def period(step: jax.typing.ArrayLike, value: Hyperparameter) -> jax.Array:
    """The whole number of steps, at least 1, that a hyperparameter is at a step."""
    return jnp.maximum(jnp.round(scalar(at(step, value))).astype(jnp.int32), 1)


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is the Python number 0, so that its term can be left out of the program."""
    return isinstance(value, int | float) and value == 0
