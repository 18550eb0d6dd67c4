"""How two programs are compared: interleaved, after a warm-up, by the median."""

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax


@dataclasses.dataclass
class Case:
    """One comparison: the same inputs through lossax and through a peer.

    `ours` and `peer` are jittable; `torch` takes no arguments. What `donate` names is handed over and comes back as the
    first outputs, as in a training step.
    """

    name: str
    make_arguments: Callable[[], tuple]
    ours: Callable
    peer: Callable | None = None
    peer_name: str = "optax"
    make_peer_arguments: Callable[[], tuple] | None = None
    torch: Callable[[], Any] | None = None
    donate: tuple[int, ...] = ()


@dataclasses.dataclass
class Program:
    """A compiled program, its arguments and what it cost."""

    compiled: Any
    arguments: tuple
    donate: tuple[int, ...]
    compile_seconds: float
    temporary_bytes: int

    def run(self) -> None:
        out = jax.block_until_ready(self.compiled(*self.arguments))
        if self.donate:
            arguments = list(self.arguments)
            for position, value in zip(self.donate, out, strict=False):
                arguments[position] = value
            self.arguments = tuple(arguments)


def build(programs: list[tuple[Callable, tuple]], donate: tuple[int, ...]) -> list[Program]:
    """Compiles in turns, several times: of each the least counts, as what else a machine does only adds to it."""
    spent, compiled = [[] for _ in programs], {}
    for limit in 3 * (60.0,) + 4 * (10.0,):  # seconds spent so far
        if sum(map(sum, spent)) >= limit:
            break
        for i, (f, arguments) in enumerate(programs):
            jax.clear_caches()
            lowered = jax.jit(f, donate_argnums=donate).lower(*arguments)
            start = time.perf_counter()
            compiled[i] = lowered.compile()
            spent[i].append(time.perf_counter() - start)
    return [
        Program(compiled[i], arguments, donate, min(spent[i]), compiled[i].memory_analysis().temp_size_in_bytes)
        for i, (_, arguments) in enumerate(programs)
    ]


def compare(case: Case, rounds: int) -> Iterator[dict]:
    """One row for each peer of the case."""
    programs = [(case.ours, case.make_arguments())]
    if case.peer is not None:
        programs.append((case.peer, (case.make_peer_arguments or case.make_arguments)()))
    ours, *peers = build(programs, case.donate)
    runs = {"lossax": ours.run}
    if peers:
        runs[case.peer_name] = peers[0].run
    if case.torch is not None:
        runs["torch"] = case.torch
    for run in runs.values():
        run()
    seconds = {name: [] for name in runs}
    shuffled = random.Random(0)  # a peer's threads may spin for a while after it: nobody always comes next
    for _ in range(rounds):
        for name in shuffled.sample([*runs], len(runs)):
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    own = {
        "lossax_ms": 1e3 * median["lossax"],
        "lossax_bytes": ours.temporary_bytes,
        "lossax_compile_s": ours.compile_seconds,
    }
    for name in runs:
        if name == "lossax":
            if len(runs) == 1:
                yield {"case": case.name, "peer": None, **own}
            continue
        row = {"case": case.name, "peer": name, **own}
        row |= {"peer_ms": 1e3 * median[name], "ratio": median["lossax"] / median[name]}
        if name == case.peer_name:
            row |= {"peer_bytes": peers[0].temporary_bytes, "peer_compile_s": peers[0].compile_seconds}
        yield row


def torch_step(make_loss: Callable[[Any], tuple[Any, Any]]) -> Callable[[], Any] | None:
    """Value and gradient in torch, or nothing where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    loss, leaf = make_loss(torch)

    def run():
        leaf.grad = None
        loss().backward()

    return run
