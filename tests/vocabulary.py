"""What an argument name means, and how to draw it. The registry is the public namespaces themselves.

Adding a loss, an optimizer or a schedule needs no edit here unless it brings an argument with a new name.
"""

import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lossax

CLASSES = 5
LARGEST = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)


def quick(f: Callable, **options: Any) -> Callable:
    """`jax.jit` that compiles fast, for what does not hang on the last digits; compiling is what the tests cost."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0}, **options)


def optimised(f: Callable, **options: Any) -> Callable:
    """`jax.jit` as it is outside of the tests, which compile fast (tests/conftest.py): for the last digits."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 3}, **options)


def public(namespace: Any) -> dict[str, Callable]:
    """Every public function of a namespace."""
    return {name: f for name, f in vars(namespace).items() if inspect.isfunction(f) and not name.startswith("_")}


def family(function: Callable) -> str:
    """The file that a function lives in, without its underscore."""
    return function.__module__.rsplit(".", 1)[1].lstrip("_")


def of_sets(loss: Callable) -> bool:
    """Whether a loss is one of sets, whose elements see each other: its docstring says what `where` keeps."""
    return "where: Elements to keep" in (loss.__doc__ or "")


def coupled(loss: Callable) -> bool:
    """Whether each element of a set is a unit: its docstring says what one left out means for the others."""
    return "bool `[..., n]`; nobody sees those left out." in (loss.__doc__ or "")


def freezes(oracle: Callable) -> bool:
    """Whether a loss has parts without a derivative: its oracle makes them from `frozen`, the arrays before a move."""
    return "frozen" in inspect.signature(oracle).parameters


def needs_an_extra(loss: Callable) -> bool:
    """Whether another library solves a loss to a tolerance of its own: its docstring says that it may be missing."""
    return "ImportError: if" in (loss.__doc__ or "")


_LOSSES = {name: f for name, f in public(lossax.losses).items() if not needs_an_extra(f)}
LOSSES = {name: f for name, f in _LOSSES.items() if not of_sets(f)}
SET_LOSSES = {name: f for name, f in _LOSSES.items() if of_sets(f)}
SCHEDULES = public(lossax.schedules)
_UPDATES = public(lossax.optimizers)
OPTIMIZERS = {n: f for n, f in _UPDATES.items() if [*inspect.signature(f).parameters][:1] == ["learning_rate"]}
DIRECTIONS = {n: f for n, f in _UPDATES.items() if n.startswith("scale_by_")}


# ---- losses ----------------------------------------------------------------------------------------------------------

REAL = (0.0, 1.0, -1.0, 1e-30, -1e-8, 1e-3, 1e4, -1e4, 1e30, LARGEST, -LARGEST)
POSITIVE = (TINY, 1e-30, 1e-8, 1e-3, 1.0, 1.5, 1e4, 1e15)
UNIT = (0.0, 1.0, 0.5, 1e-30, 1e-8, 1.0 - 2.0**-24, 0.25)
LOGS = (-60.0, -8.0, -1e-3, 0.0, 1e-3, 8.0, 60.0)
LOGITS = (0.0, 1e-8, 1.0, -1.0, 20.0, -20.0, 80.0, 1e4, -1e4, 1e30, LARGEST, -LARGEST)


def _normal(rng, units):
    return rng.normal(size=units)


def _positive(rng, units):
    return np.exp(rng.normal(size=units))


def _fractions(rng, units):
    return rng.uniform(0.02, 0.98, size=units)


def _signs(rng, units):
    return rng.choice([-1.0, 1.0], size=units)


def _rows(rng, units):
    return 2.0 * rng.normal(size=(*units, CLASSES))


def _distributions(rng, units):
    return rng.dirichlet(np.ones(CLASSES), size=units)


def _labels(rng, units):
    return rng.integers(0, CLASSES, size=units)


def _bools(rng, units):
    return rng.random(units) < 0.6


# Argument name -> (draw, hostile values). A family may give a name a narrower domain: ARGUMENTS, HYPERPARAMETERS and
# STATIC of its module in tests/oracles.
ARGUMENTS: dict[str, tuple[Callable, tuple[float, ...]]] = {
    "predictions": (_normal, REAL),
    "targets": (_normal, REAL),
    "variances": (_positive, POSITIVE),
    "log_variances": (_normal, LOGS),
    "scales": (_positive, POSITIVE),
    "rates": (_positive, POSITIVE),
    "log_rates": (_normal, LOGS),
    "logits": (_normal, LOGITS),
    "probabilities": (_fractions, UNIT),
    "signs": (_signs, (-1.0, 1.0)),
    "labels": (_labels, ()),
    "events": (_bools, ()),
}
# Hyperparameters that a default does not show a value for, and values other than the default.
HYPERPARAMETERS: dict[str, tuple[Any, ...]] = {
    "power": (1.5, 1.2),
    "alpha": (0.25,),
    "soft_cap": (30.0,),
    "ratio": (0.5,),
}
STATIC: dict[str, tuple[Any, ...]] = {"full": (False, True), "squared": (False, True)}


def declared(function: Callable, what: str) -> dict[str, Any]:
    """`ARGUMENTS`, `HYPERPARAMETERS` or `STATIC`: what holds everywhere and what a family says of itself."""
    return globals().get(what, {}) | ability(function, what, {})


def ability(function: Callable, what: str, default: Any = None) -> Any:
    """What the oracle module of a family declares under a name."""
    name = f"tests.oracles.{family(function)}"
    return getattr(importlib.import_module(name), what, default) if importlib.util.find_spec(name) else default


def data_arguments(loss: Callable) -> list[str]:
    """The names of the arrays a loss takes."""
    kinds = inspect.signature(loss).parameters.values()
    return [p.name for p in kinds if p.kind is not p.KEYWORD_ONLY]


def meaning(loss: Callable, name: str) -> tuple[Callable, tuple[float, ...]]:
    """How to draw an argument of a loss."""
    known = declared(loss, "ARGUMENTS")
    assert name in known, f"argument {name!r} is not in tests/vocabulary.py: rename it, or define what it means"
    return known[name]


def draw(
    loss: Callable, units: tuple[int, ...] = (4, 6), *, seed: int = 0, dtype: Any = jnp.float32
) -> list[np.ndarray]:
    """Ordinary data for a loss, rounded to `dtype` (integers and bools stay)."""
    rng = np.random.default_rng([seed, *loss.__name__.encode()])
    arrays = [meaning(loss, name)[0](rng, units) for name in data_arguments(loss)]
    return [a.astype(jnp.dtype(dtype)) if a.dtype == np.float64 else a for a in arrays]


def _numeric(value: Any) -> bool:
    return not callable(value) and np.asarray(value).dtype == np.float64


def hyperparameters(function: Callable) -> dict[str, Any]:
    """The numeric hyperparameters of a function, with a value for each that is not its default."""
    found = {}
    known = declared(function, "HYPERPARAMETERS")
    for p in inspect.signature(function).parameters.values():
        if p.kind is not p.KEYWORD_ONLY or p.name in ("where", "weights", "reduction"):
            continue
        if p.name in known:
            if _numeric(known[p.name][0]):
                found[p.name] = known[p.name][0]
        elif p.annotation is int:  # sets structure
            continue
        elif isinstance(p.default, int | float) and not isinstance(p.default, bool):
            found[p.name] = 0.75 * p.default if p.default else 0.125
    return found


def required(function: Callable) -> dict[str, Any]:
    """Values for the keyword arguments that have no default, or that a family has fixed for its tests."""
    kinds = inspect.signature(function).parameters.values()
    names = [p.name for p in kinds if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    fixed = {
        name: x for name, x in declared(function, "FIXED").items() if name in inspect.signature(function).parameters
    }
    return {name: declared(function, "HYPERPARAMETERS")[name][0] for name in names} | fixed


def ulps(value: Any, exact: Any, floor: float = 0.0) -> float:
    """Distance in units in the last place of float32 at `exact` (or at `floor`, if that is larger)."""
    size = max(abs(float(exact)), floor, TINY)
    return abs(float(exact) - float(value)) / 2.0 ** (math.floor(math.log2(size)) - 23)
