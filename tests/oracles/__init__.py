"""Slow, obvious oracles under the public names, one module per family.

Losses take NumPy object arrays of `mpmath.mpf` (labels: integer arrays; hyperparameters: `mpf`) and return an object
array with one `mpf` per unit. Optimizers take float64 parameters and a list of gradients and return the list of
updates. Schedules take a step and return a float.
"""

import importlib
import pkgutil
from collections.abc import Callable


def oracles() -> dict[str, Callable]:
    """Every oracle by name."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        found |= {
            name: f
            for name, f in vars(loaded).items()
            if callable(f) and not name.startswith("_") and f.__module__ == loaded.__name__
        }
    return found
