"""`python -m benchmarks.race [name ...]`: how many steps, and seconds, each optimizer needs for AdamW's loss.

Two tasks on real data: a small Flax transformer on the text of Python's own reference, and a multilayer perceptron on
digits. Every optimizer gets the same grid of learning rates (a decade off for `SHIFTS`) and decays, one vmapped program
each, at one seed; the best of the grid then runs at three other seeds. Rates rise for a while and stay, and an average
of the parameters is what is judged, so that a run does not depend on where a schedule ends and may be read off at any
step.
"""

import argparse
import dataclasses
import functools
import itertools
import pathlib
import re
import time
from pydoc_data.topics import topics
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import lossax
from benchmarks.__main__ import machine, saved, write
from lossax import losses, optimizers, schedules, transforms

RATES = tuple(10.0 ** (exponent / 2) for exponent in range(-7, 1))
DECAYS = (0.0, 0.1)
SEEDS = (1, 2, 3)
CONTEXT, WIDTH, LAYERS = 64, 64, 2

RACERS: dict[str, Any] = {
    "adamw": lambda rate, decay: optimizers.adamw(rate, b2=0.99, weight_decay=decay),
    "sgd": lambda rate, decay: optimizers.sgd(rate, momentum=0.9, nesterov=True, weight_decay=decay),
    "muon": lambda rate, decay: optimizers.muon(rate, scale="rms", weight_decay=decay),
}
# Grids that begin higher or lower, as the best rate of that optimizer is beyond an end of the others'.
SHIFTS = {"scion": 0.1, "adadelta": 10.0, "ftrl": 10.0, "lars": 10.0, "came": 0.1, "schedule_free_sgd": 10.0}
MATRICES = ("soap", "shampoo", "kl_shampoo", "psgd_kron", "normuon", "adamuon", "dion", "scion")
OTHERS = sorted(name for name, f in vars(optimizers).items() if "learning_rate" in getattr(f, "__annotations__", {}))
EVERY = tuple(dict.fromkeys((*RACERS, *MATRICES, *OTHERS)))


class Block(nn.Module):
    """Attention to what came before, then a layer for each token by itself."""

    @nn.compact
    def __call__(self, x):
        q, k, v = jnp.split(nn.Dense(3 * WIDTH, use_bias=False, name="attend")(nn.RMSNorm()(x)), 3, axis=-1)
        q, k, v = (y.reshape(*y.shape[:2], 4, -1) for y in (q, k, v))
        read = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        x = x + nn.Dense(WIDTH, use_bias=False, name="mix")(read)
        return x + nn.Dense(WIDTH, name="narrow")(nn.gelu(nn.Dense(4 * WIDTH, name="widen")(nn.RMSNorm()(x))))


class Transformer(nn.Module):
    """A language model of characters."""

    classes: int

    @nn.compact
    def __call__(self, tokens):
        places = self.param("embed_places", nn.initializers.normal(0.05), (CONTEXT, WIDTH))
        x = nn.Embed(self.classes, WIDTH, name="embed")(tokens) + places
        for _ in range(LAYERS):
            x = Block()(x)
        return nn.Dense(self.classes, name="head")(nn.RMSNorm()(x))


class Perceptron(nn.Module):
    """Two hidden layers."""

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = nn.relu(nn.Dense(128, name=f"hidden_{i}")(x))
        return nn.Dense(10, name="head")(x)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is learnt: a model, a loss of parameters and rows of the data, and which rows."""

    name: str
    steps: int
    every: int
    init: Any
    loss: Any
    draw: Any
    held: jax.Array


def text() -> Task:
    paragraphs = dict.fromkeys(" ".join(p.split()) for topic in topics.values() for p in topic.split("\n\n"))
    letters = "\n".join(p for p in paragraphs if re.match(r"[A-Z].*\.$", p))
    classes = sorted(set(letters))
    codes = jnp.array([classes.index(c) for c in letters])
    split = len(codes) * 9 // 10
    model = Transformer(len(classes))

    def loss(params, starts):
        tokens = codes[starts[:, None] + jnp.arange(CONTEXT + 1)]
        logits = model.apply(params, tokens[:, :-1])
        return losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])

    return Task(
        "characters",
        240,
        20,
        lambda key: model.init(key, jnp.zeros((1, CONTEXT), jnp.int32)),
        loss,
        lambda key: jax.random.randint(key, (8,), 0, split - CONTEXT - 1),
        jnp.arange(split, len(codes) - CONTEXT - 1, CONTEXT)[:64],
    )


def digits() -> Task:
    path = pathlib.Path(lossax.__file__).parent / "_data" / "digits.npz"
    with np.load(path) as file:
        images, labels = jnp.asarray(file["x"], jnp.float32) / 16.0, jnp.asarray(file["y"], jnp.int32)
    rows = np.random.default_rng(0).permutation(len(labels))
    split = len(rows) * 4 // 5
    known, held = jnp.asarray(rows[:split]), jnp.asarray(rows[split:])
    model = Perceptron()

    def loss(params, some):
        return losses.softmax_cross_entropy_with_integer_labels(model.apply(params, images[some]), labels[some])

    return Task(
        "digits",
        200,
        10,
        lambda key: model.init(key, images[:1]),
        loss,
        lambda key: known[jax.random.randint(key, (64,), 0, split)],
        held,
    )


def train(task: Task, name: str, rate, decay, seed):
    """Held-out losses along the way."""
    tx = maker(name)(schedules.warmup(rate, 20), decay)
    if not name.startswith("schedule_free"):  # which keeps an average of its own
        tx = transforms.average_parameters(tx, 0.95)
    start, draws = jax.random.split(jax.random.key(seed))
    params = task.init(start)

    def step(carry, key):
        (params, state), rows = carry, task.draw(key)
        objective = lambda p: task.loss(p, rows)  # noqa: E731
        updates, state = tx.update(jax.grad(objective)(params), state, params, obj_fn=objective)
        return (optax.apply_updates(params, updates), state), None

    def stretch(carry, keys):
        (params, state), _ = jax.lax.scan(step, carry, keys)
        return (params, state), task.loss(transforms.eval_params(state, params), task.held)

    keys = jax.random.split(draws, task.steps).reshape(-1, task.every)
    return jax.lax.scan(stretch, (params, tx.init(params)), keys)[1]


def maker(name: str):
    """The optimizer of a name, from its rate and decay."""
    make = getattr(optimizers, name)
    takes = "weight_decay" in make.__annotations__
    return RACERS.get(name, lambda rate, decay: make(rate, weight_decay=decay) if takes else make(rate))


def swept(task: Task, name: str, lanes):
    """Held-out losses `[lanes, evaluations]` of one program for all lanes."""
    columns = [jnp.array(column) for column in zip(*lanes, strict=True)]
    return np.asarray(jax.jit(jax.vmap(functools.partial(train, task, name)))(*columns))


@functools.lru_cache(2)
def one_lane(task: Task, name: str, rate: float, decay: float):
    """A compiled run of a seed, without what judging it takes."""
    alone = dataclasses.replace(task, steps=3 * task.every, held=task.held[:1])
    return jax.jit(lambda seed: train(alone, name, rate, decay, seed)).lower(0).compile()


def seconds(task: Task, name: str, rate: float, decay: float, first: dict) -> tuple[float, float]:
    """Of one step, the least of several, and as a ratio to AdamW's, the median of turns in one run."""
    runs = one_lane(task, name, rate, decay), one_lane(task, "adamw", first["rate"], first["decay"])
    times = []
    for seed in range(6):
        for run in runs:
            start = time.perf_counter()
            jax.block_until_ready(run(seed))
            times.append((time.perf_counter() - start) / (3 * task.every))
    mine, theirs = np.array(times[2:]).reshape(-1, 2).T
    return float(mine.min()), float(np.median(mine / theirs))


def steps_to(task: Task, curve: np.ndarray, target: float) -> float | None:
    """When a loss first comes to the target, by straight lines between evaluations; `None` if it does not."""
    at = task.every * (1 + np.arange(len(curve)))
    if not np.any(curve <= target):
        return None
    i = int(np.argmax(curve <= target))
    if i == 0:
        return float(at[0])
    share = (curve[i - 1] - target) / (curve[i - 1] - curve[i]) if np.isfinite(curve[i - 1]) else 1.0
    return float(at[i - 1] + share * task.every)


def raced(task: Task, name: str, first: dict | None) -> dict:
    """The best of the grid at other seeds, and when it comes to AdamW's loss at each of them."""
    rates = [SHIFTS.get(name, 1.0) * rate for rate in RATES]
    grid: list[tuple[float, float, int]] = [(rate, decay, 0) for rate, decay in itertools.product(rates, DECAYS)]
    last = swept(task, name, grid)[:, -1]
    rate, decay, _ = grid[int(np.nanargmin(np.where(np.isfinite(last), last, np.inf)))]
    curves = swept(task, name, [(rate, decay, seed) for seed in SEEDS])
    last = curves[:, -1]
    first = first or {"losses": last.tolist(), "rate": rate, "decay": decay}
    targets = first["losses"]
    needed = [steps_to(task, curve, target) for curve, target in zip(curves, targets, strict=True)]
    reached = [x for x in needed if x is not None]
    fastest, ratio = seconds(task, name, rate, decay, first)
    return {
        "task": task.name,
        "optimizer": name,
        "rate": rate,
        "decay": decay,
        "losses": last.tolist(),
        "steps": steps_to(task, curves.mean(axis=0), float(np.mean(targets))),
        "steps_range": [min(reached), max(reached)] if len(reached) == len(needed) else None,
        "step_ms": 1e3 * fastest,
        "step_ratio": ratio,
        "curve": [float(x) for x in curves.mean(axis=0)],
    }


def line(task: Task, row: dict) -> str:
    told = f"{row['task']:<11} {row['optimizer']:<20} {row['rate']:>8.2g} {row['decay']:>5.1f}"
    told += f"  {np.mean(row['losses']):.3f} ({min(row['losses']):.3f} to {max(row['losses']):.3f})"
    if row["steps"] is None:
        return f"{told}  {'never':>7}"
    return f"{told}  {row['steps']:>7.0f} {row['steps'] / task.steps * row['step_ratio']:>6.2f}"


def rows() -> list[dict]:
    """Those of earlier runs."""
    return saved().get("race", {"rows": []})["rows"]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("names", nargs="*", help="optimizers; all if none. AdamW runs first")
    parser.add_argument("--task", choices=("characters", "digits"), help="one task; both if none")
    parser.add_argument("--no-write", action="store_true", help="do not touch results.json")
    options = parser.parse_args()
    names = options.names or EVERY
    print(f"{'task':<11} {'optimizer':<20} {'rate':>8} {'decay':>5}  final loss (range)  {'steps':>13} {'time':>6}")
    for task in (text(), digits()):
        if options.task not in (None, task.name):
            continue
        known = {row["optimizer"]: row for row in rows() if row["task"] == task.name}
        for name in dict.fromkeys([*([] if "adamw" in known else ["adamw"]), *names]):
            known[name] = row = raced(task, name, known.get("adamw") if name != "adamw" else None)
            print(line(task, row), flush=True)
            if not options.no_write:
                others = [r for r in rows() if (r["task"], r["optimizer"]) != (task.name, name)]
                write({"race": {"about": machine(), "rows": [*others, row]}})


if __name__ == "__main__":
    main()
