"""What can be compared, found by reading signatures: a new function of the library is a new choice."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lossax import losses as loss_functions
from lossax import optimizers as optimizer_functions
from lossax import schedules as schedule_functions


def _functions(module: Any) -> dict[str, tuple[Callable, set[str]]]:
    """Public functions with the names of their arguments that have no default, by name."""
    found = {name: f for name, f in vars(module).items() if inspect.isfunction(f) and not name.startswith("_")}

    def required(f):
        return {name for name, p in inspect.signature(f).parameters.items() if p.default is p.empty}

    return {name: (f, required(f)) for name, f in sorted(found.items())}


@functools.cache
def losses() -> dict[str, Callable]:
    """Losses of (logits, labels) with one unit per example and one logit per class."""

    def fits(loss):
        if "[..., classes - 1]" in (loss.__doc__ or ""):  # one per threshold between classes
            return False
        logits, labels = jax.ShapeDtypeStruct((4, 3), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
        try:
            return jax.eval_shape(lambda z, y: loss(z, y, reduction="none"), logits, labels).shape == labels.shape
        except (TypeError, ValueError):
            return False

    return {
        name: f for name, (f, needs) in _functions(loss_functions).items() if needs == {"logits", "labels"} and fits(f)
    }


@functools.cache
def optimizers() -> dict[str, Callable]:
    """Optimizers whose one argument without a default is the learning rate."""
    return {name: f for name, (f, needs) in _functions(optimizer_functions).items() if needs == {"learning_rate"}}


def needs_the_gradient_alone(name: str) -> None:
    """Raises unless the optimizer updates from gradients, state and parameters."""
    params = {"kernel": jax.ShapeDtypeStruct((4, 3), jnp.float32), "bias": jax.ShapeDtypeStruct((3,), jnp.float32)}

    def step(params):
        tx = optimizers()[name](0.1)
        return tx.update(params, tx.init(params), params)

    try:
        jax.eval_shape(step, params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be compared here: {error}") from error


@functools.cache
def schedules() -> dict[str, Callable]:
    """Schedules of which `schedule_arguments` knows every argument, one of them the rate."""

    def fits(f, needs):
        arguments = schedule_arguments(f, 1.0, 10)
        return set(arguments) == needs and 1.0 in arguments.values()

    return {name: f for name, (f, needs) in _functions(schedule_functions).items() if fits(f, needs)}


def schedule_arguments(schedule: Callable, rate: Any, steps: int) -> dict[str, Any]:
    """The arguments without a default, where their name says what they mean in a run of so many steps."""
    names = {name for name, p in inspect.signature(schedule).parameters.items() if p.default is p.empty}
    warmup = max(1, steps // 10)
    stable = steps // 2 if "stable_steps" in names else 0
    known = {
        "value": rate,
        "start": rate,
        "peak_value": rate,
        "end": 0.0,
        "steps": steps,
        "warmup_steps": warmup,
        "stable_steps": stable,
        "decay_steps": max(1, steps - warmup - stable),
        "cycle_steps": max(1, steps // 2),
        "every": max(1, steps // 4),
        "timescale": warmup,
        "factor": 0.5,
        "power": 2.0,
    }
    return {name: known[name] for name in inspect.signature(schedule).parameters if name in names & set(known)}
