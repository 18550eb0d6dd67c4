"""From measures to a ranking, a table, code to paste and a file."""

import contextlib
import csv
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import stdtrit

from lossax import __version__
from lossax._main.data import Task
from lossax._main.train import EMBEDDING, Measures, Plan


class Row(NamedTuple):
    """One configuration: indices into the measures, and one number per seed."""

    loss: str
    optimizer: str
    learning_rate: float
    place: tuple[int, int, int]
    accuracy: np.ndarray
    cross_entropy: np.ndarray
    test_accuracy: np.ndarray
    test_cross_entropy: np.ndarray
    diverged: np.ndarray


def rank(plan: Plan, task: Task, measures: Measures) -> list[Row]:
    """Configurations, best first by what the task is judged by; those with diverged runs last.

    A run has diverged if its own loss on training data ends above where it began, or is no number.
    """
    own = measures.own
    with np.errstate(invalid="ignore"):
        diverged = ~(np.isfinite(own).all(axis=0) & np.isfinite(measures.cross_entropy[-1]) & (own[-1] <= own[0]))
    rows = []
    for optimizer, loss, rate in itertools.product(plan.optimizers, plan.losses, plan.learning_rates):
        place = (list(plan.optimizers).index(optimizer), list(plan.losses).index(loss), plan.learning_rates.index(rate))
        cross_entropy, accuracy, test_cross_entropy, test_accuracy = (m[-1][place] for m in measures[1:])
        numbers = (accuracy, cross_entropy, test_accuracy, test_cross_entropy, diverged[place])
        rows.append(Row(loss, optimizer, rate, place, *numbers))

    def order(row):
        kept = ~row.diverged
        if not kept.any():
            return (row.diverged.sum(), 0.0, 0.0)
        by_accuracy, by_loss = -row.accuracy[kept].mean(), row.cross_entropy[kept].mean()
        return (row.diverged.sum(), *((by_loss, by_accuracy) if task.language else (by_accuracy, by_loss)))

    return sorted(rows, key=order)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval by Student's t; NaN for a single value."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)) if n else math.nan, math.nan
    return float(values.mean()), float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n))


def _number(values: np.ndarray) -> str:
    mean, half = interval(np.asarray(values, np.float64))
    if math.isnan(mean):
        return "-"
    digits = 4 if mean < 100 else 0
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def table(rows: list[Row], task: Task, most: int) -> str:
    """The ranking, best first; of a long one the first and the last."""
    head = ("rank", "loss", "optimizer", "learning rate", "accuracy", task.unit, "diverged")
    lines: list[tuple[str, ...]] = [head]
    for place, row in enumerate(rows, 1):
        kept = ~row.diverged
        failed = f"{row.diverged.sum()} of {len(kept)}" if row.diverged.any() else ""
        quality = (_number(row.accuracy[kept]), _number(task.shown(row.cross_entropy[kept])))
        lines.append((str(place), row.loss, row.optimizer, f"{row.learning_rate:g}", *quality, failed))
    if most and len(rows) > most:
        last = max(1, most // 5)
        gap = ("...", f"{len(rows) - most} more", "", "", "", "", "")
        lines = [*lines[: 1 + most - last], gap, *lines[-last:]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def ties(rows: list[Row], task: Task) -> int:
    """How many configurations the seeds cannot tell from the first: the paired 95% interval holds 0."""

    def difference(row):
        kept = ~(row.diverged | rows[0].diverged)
        own, best = (r.cross_entropy if task.language else r.accuracy for r in (row, rows[0]))
        mean, half = interval(own[kept] - best[kept])
        return abs(mean) <= half

    return sum(difference(row) for row in rows[1:])


def tested(row: Row, task: Task) -> str:
    """The result on the part of the data that played no role in the choice."""
    if row.diverged.all():
        return "though all its runs diverged"
    kept = ~row.diverged
    quality = f"accuracy {_number(row.test_accuracy[kept])}, {task.unit} "
    return f"on test data: {quality}{_number(task.shown(row.test_cross_entropy[kept]))}"


def schedule_code(plan: Plan, row: Row) -> str:
    """The call that makes the schedule of a configuration."""
    arguments = ", ".join(f"{name}={value:g}" for name, value in plan.schedule_arguments(row.learning_rate).items())
    return f"lossax.schedules.{plan.schedule.__name__}({arguments})"


def code(plan: Plan, task: Task, row: Row) -> str:
    """A configuration as a program to paste: model, optimizer, one train step."""
    width = task.train.x.shape[1]
    first, flat = "", width
    if task.language:
        first, flat = f"nnx.Embed({task.vocabulary}, {EMBEDDING}, rngs=rngs), ", width * EMBEDDING
        first += "lambda x: x.reshape(x.shape[0], -1),\n    "
    layers = (
        f"nnx.Linear({flat}, {plan.hidden}, rngs=rngs), nnx.relu, nnx.Linear({plan.hidden}, {task.classes}, rngs=rngs)"
    )
    return f"""\
import lossax
from flax import nnx

rngs = nnx.Rngs(0)
model = nnx.Sequential(
    {first}{layers}
)
schedule = {schedule_code(plan, row)}
optimizer = nnx.Optimizer(model, lossax.optimizers.{row.optimizer}(schedule), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, y):
    def loss(model):
        return lossax.losses.{row.loss}(model(x), y)

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value
"""


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to; it takes the place of `path` when all is written, and vanishes if that fails."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Numbers as JSON has them: there is no NaN."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(entry) for entry in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _runs(rows: list[Row]) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(rows, 1):
        for seed, diverged in enumerate(row.diverged):
            yield {
                "rank": place,
                "loss": row.loss,
                "optimizer": row.optimizer,
                "learning_rate": row.learning_rate,
                "seed": seed,
                "diverged": bool(diverged),
                "accuracy": float(row.accuracy[seed]),
                "cross_entropy": float(row.cross_entropy[seed]),
            }


def write(path: pathlib.Path, plan: Plan, task: Task, rows: list[Row], steps: np.ndarray, measures: Measures) -> None:
    """All runs as .csv, one a line, or as .json, with the curves and the best configuration."""
    runs = list(_runs(rows))
    with replacing(path) as draft, open(draft, "w", newline="", encoding="utf-8") as file:
        if path.suffix.lower() == ".csv":
            writer = csv.DictWriter(file, runs[0])
            writer.writeheader()
            writer.writerows(runs)
            return
        best = rows[0]
        for run in runs:
            row = rows[run["rank"] - 1]
            run["curve"] = {
                "own": measures.own[(slice(None), *row.place, run["seed"])],
                "cross_entropy": measures.cross_entropy[(slice(None), *row.place, run["seed"])],
                "accuracy": measures.accuracy[(slice(None), *row.place, run["seed"])],
            }
        document = {
            "versions": {"lossax": __version__, "jax": jax.__version__},
            "data": task.name,
            "schedule": plan.schedule.__name__,
            "steps": plan.steps,
            "batch_size": plan.batch_size,
            "hidden": plan.hidden,
            "measured_at": steps,
            "runs": runs,
            "best": {
                "loss": best.loss,
                "optimizer": best.optimizer,
                "learning_rate": best.learning_rate,
                "test_accuracy": best.test_accuracy,
                "test_cross_entropy": best.test_cross_entropy,
                "code": code(plan, task, best),
            },
        }
        json.dump(_plain(document), file, allow_nan=False, indent=1)
        file.write("\n")
