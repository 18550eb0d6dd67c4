"""The program: every loss, optimizer, learning rate and seed in one compiled training loop."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from lossax import losses
from lossax._main import choices
from lossax._main.data import Part, Task
from lossax._types import Schedule

EMBEDDING = 8
"""Numbers that stand for one character."""
POINTS = 25
"""Times that every run is measured on its way."""


class Plan(NamedTuple):
    """What is compared, and under which conditions."""

    losses: dict[str, Callable]
    optimizers: dict[str, Callable]
    schedule: Callable[..., Schedule]
    learning_rates: tuple[float, ...]
    seeds: int
    steps: int
    batch_size: int
    hidden: int

    def schedule_arguments(self, learning_rate: Any) -> dict[str, Any]:
        """What the schedule is called with."""
        return choices.schedule_arguments(self.schedule, learning_rate, self.steps)

    def build(self, optimizer: str, learning_rate: Any) -> optax.GradientTransformation:
        """An optimizer under its schedule; the rate may be traced."""
        return self.optimizers[optimizer](self.schedule(**self.schedule_arguments(learning_rate)))

    @property
    def runs(self) -> int:
        """How many there are."""
        return len(self.losses) * len(self.optimizers) * len(self.learning_rates) * self.seeds


class Measures(NamedTuple):
    """A run's own loss on training data, and what can be compared between losses on the two other parts."""

    own: Any
    cross_entropy: Any
    accuracy: Any
    test_cross_entropy: Any
    test_accuracy: Any


class Classifier(nnx.Module):
    """One hidden layer; characters are embedded first."""

    def __init__(self, task: Task, hidden: int, rngs: nnx.Rngs):
        width = task.train.x.shape[1]
        self.embed = nnx.Embed(task.vocabulary, EMBEDDING, rngs=rngs) if task.vocabulary else None
        self.hidden = nnx.Linear(width * EMBEDDING if task.vocabulary else width, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, task.classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `[batch, classes]`."""
        if self.embed is not None:
            x = self.embed(x).reshape(x.shape[0], -1)
        return self.out(nnx.relu(self.hidden(x)))


def train(plan: Plan, task: Task, report: Callable[[int, Measures], None]) -> tuple[np.ndarray, Measures]:
    """All runs, side by side.

    A run is a lane of a `vmap` over losses, learning rates and seeds; optimizers, whose states differ in structure,
    stand next to each other in the same program. The host calls it for a few steps at a time, so that it can show
    progress and be interrupted; the bounds of the loop are arguments, so that all calls share one compilation.

    Args:
      plan: What to compare.
      task: What to learn.
      report: Called with the step and its measures, first at step 0.

    Returns:
      The steps at which runs were measured, fewer if the user interrupted, and the measures there, each
      `[points, optimizers, losses, learning rates, seeds]`.
    """
    graph = nnx.graphdef(Classifier(task, plan.hidden, nnx.Rngs(0)))
    data, held_out, test = jax.device_put((task.train, task.held_out, task.test))
    sample = Part(data.x[: len(held_out.y)], data.y[: len(held_out.y)])
    loss_indices, rates = jnp.arange(len(plan.losses)), jnp.array(plan.learning_rates, jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.arange(plan.seeds))

    def own_loss(params, loss, part):
        return lax.switch(loss, list(plan.losses.values()), nnx.merge(graph, params)(part.x), part.y)

    def parameters(key):
        return nnx.state(Classifier(task, plan.hidden, nnx.Rngs(key)), nnx.Param)

    def begin(optimizer, _, params, loss, rate):
        del loss
        return params, plan.build(optimizer, rate).init(params)

    def step(optimizer, lane, batch, loss, rate):
        params, state = lane
        gradients = jax.grad(own_loss)(params, loss, batch)
        updates, state = plan.build(optimizer, rate).update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def score(params, part):
        logits = nnx.merge(graph, params)(part.x)
        hit = jnp.argmax(logits, axis=-1) == part.y
        return losses.softmax_cross_entropy_with_integer_labels(logits, part.y), jnp.mean(hit.astype(jnp.float32))

    def measure(lane, _, loss, rate):
        del rate
        params, _ = lane
        return Measures(own_loss(params, loss, sample), *score(params, held_out), *score(params, test))

    def every_run(f, lanes, by_seed=None):
        """`f(lane, of its seed, loss, rate)` for all runs of one optimizer, `[losses, rates, seeds]`."""
        f = jax.vmap(f, (0, 0, None, None))
        f = jax.vmap(f, (0, None, None, 0))
        f = jax.vmap(f, (0, None, 0, None))
        return f(lanes, by_seed, loss_indices, rates)

    @jax.jit
    def start(keys):
        params = jax.vmap(parameters)(keys)
        return [every_run(functools.partial(begin, optimizer), None, params) for optimizer in plan.optimizers]

    @jax.jit
    def advance(lanes, keys, first, last):
        def body(index, lanes):
            # Runs of one seed see the same batches, so that they differ in what is compared and in nothing else.
            def draw(key):
                rows = jax.random.randint(jax.random.fold_in(key, index), (plan.batch_size,), 0, len(data.y))
                return Part(data.x[rows], data.y[rows])

            batch = jax.vmap(draw)(keys)
            pairs = zip(plan.optimizers, lanes, strict=True)
            return [every_run(functools.partial(step, optimizer), lane, batch) for optimizer, lane in pairs]

        lanes = lax.fori_loop(first, last, body, lanes)
        return lanes, jax.tree.map(lambda *each: jnp.stack(each), *[every_run(measure, lane) for lane in lanes])

    stops = np.unique(np.linspace(0, plan.steps, POINTS + 1).round().astype(int)).tolist()
    lanes, measured = start(keys), []
    try:
        for first, last in zip([0, *stops], stops, strict=False):
            lanes, measures = advance(lanes, keys, first, last)
            measured.append(jax.device_get(measures))
            report(last, measured[-1])
    except KeyboardInterrupt:
        if len(measured) < 2:
            raise
    return np.array(stops[: len(measured)]), Measures(*map(np.stack, zip(*measured, strict=True)))
