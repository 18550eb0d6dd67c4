"""Curves of the held-out loss, and what the learning rate does to the result. Needs matplotlib."""

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lossax._main.data import Task
from lossax._main.results import Row, interval, replacing
from lossax._main.train import Measures, Plan

# Okabe and Ito's colours, which colour-blind readers tell apart; line styles repeat the difference in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"


def _curve(axis: Axes, steps: np.ndarray, values: np.ndarray, row: Row, look: dict) -> None:
    """Mean and interval over the seeds that did not diverge, or what there is of those that did."""
    values = values[:, ~row.diverged] if not row.diverged.all() else values
    values = np.where(np.isfinite(values), values, np.nan)
    mean, half = np.array([interval(point) for point in values]).T
    axis.plot(steps, mean, lw=1.8, **look)
    axis.fill_between(steps, np.maximum(mean - half, mean / 4), mean + half, color=look["color"], alpha=0.15, lw=0)


def draw(path: pathlib.Path, plan: Plan, task: Task, rows: list[Row], steps: np.ndarray, measures: Measures) -> None:
    """One column per optimizer: curves of each loss at its best learning rate, and the result at every rate."""
    columns = len(plan.optimizers)
    figure = Figure(figsize=(1.2 + 2.9 * columns, 6.4), layout="constrained", dpi=120)
    axes = figure.subplots(2, columns, sharey="row", squeeze=False)
    quality = task.unit if task.language else "error rate"
    least = 0.5 / len(task.held_out.y)  # a log axis has no zero
    for (upper, lower), optimizer in zip(axes.T, plan.optimizers, strict=True):
        for index, loss in enumerate(plan.losses):
            look = {"color": COLOURS[index % len(COLOURS)], "linestyle": STYLES[index % len(STYLES)]}
            own = [row for row in rows if (row.optimizer, row.loss) == (optimizer, loss)]
            _curve(upper, steps, task.shown(measures.cross_entropy[(slice(None), *own[0].place)]), own[0], look)
            own.sort(key=lambda row: row.learning_rate)
            kept = [row for row in own if not row.diverged.all()]
            values = [task.shown(row.cross_entropy) if task.language else 1.0 - row.accuracy for row in kept]
            pairs = [interval(value[~row.diverged]) for value, row in zip(values, kept, strict=True)]
            mean, half = np.maximum(np.array(pairs).reshape(-1, 2).T, [[least], [0.0]])
            bars = (np.minimum(half, mean - np.minimum(mean, least)), half)
            rates = [row.learning_rate for row in kept]
            marker = MARKERS[index % len(MARKERS)]
            lower.errorbar(rates, mean, np.nan_to_num(bars), marker=marker, ms=4, capsize=2, label=loss, **look)
            failed = [row.learning_rate for row in own if row.diverged.any()]
            height = np.full(len(failed), 0.03 + 0.04 * index)
            crosses = lower.plot(failed, height, "x", color=look["color"], transform=lower.get_xaxis_transform())
            crosses[0].set_in_layout(False)
        upper.set(title=optimizer, xlabel="step", yscale="log")
        lower.set(xlabel="learning rate", xscale="log", yscale="log")
        for axis in (upper, lower):
            axis.grid(visible=True, alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel(f"held-out {task.unit}")
    axes[1, 0].set_ylabel(f"final held-out {quality}")
    figure.suptitle(
        f"{task.name}: each loss at its best learning rate (above), at every one (below)\n"
        f"mean and 95% interval over {plan.seeds} seeds; crosses: some of them diverged",
        fontsize=10,
    )
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    with replacing(path) as draft:
        figure.savefig(draft, format=path.suffix.lstrip(".").lower())
