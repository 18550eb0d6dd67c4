"""Aliases and shapes of things only: what the annotations of the whole library are made of."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

Reduction = Literal["mean", "sum", "none"]
"""How unit losses become one number, or stay as they are."""

PyTree = Any
"""Any nesting of containers: parameters, gradients, states."""

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]
"""A number as a function of the step."""

Hyperparameter = jax.typing.ArrayLike | Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]
"""A float, a scalar array, a tracer, or any function of the step."""

Mask = PyTree | Callable[[PyTree], PyTree]
"""Booleans in the structure of the parameters, or a function of the parameters that returns them."""

UnitAxes = int | tuple[int, ...] | Callable[[str, Any], int | tuple[int, ...] | None]
"""Which axes of a leaf tell its units apart, or a function of its path and the leaf that says so."""


class Stateful(NamedTuple):
    """Whatever has memory and is no gradient transformation: `init` makes the state, `update` uses and renews it.

    `update(state, ...)` returns what it is for and the new state, as one body of a scan does.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
