"""The main job from a shell: which loss, which optimizer, which learning rate."""

import argparse
import importlib.util
import pathlib
import sys
import textwrap
import time

from lossax import _check

DESCRIPTION = """\
Trains a small Flax classifier with every combination of loss, optimizer and learning rate, from several seeds, and
ranks them by what they do on held-out data. All runs go side by side through one compiled program. The best
configuration is printed as code to paste, with its result on test data that played no role in the choice.
"""
LOSSES = ["softmax_cross_entropy_with_integer_labels", "softmax_focal", "poly1", "multiclass_hinge"]
OPTIMIZERS = ["sgd", "rmsprop", "adamw", "lion"]
RATES = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
PICTURES = (".png", ".pdf", ".svg")
TABLES = (".json", ".csv")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _writable(name: str | None, endings: tuple[str, ...]) -> pathlib.Path | None:
    """The file to write, checked before the work that fills it."""
    if name is None or name == "none":
        return None
    path = pathlib.Path(name)
    if path.suffix.lower() not in endings:
        raise ValueError(f"{name!r} must end in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise ValueError(f"{name!r}: there is no folder {str(path.parent)!r}")
    return path


def _parser() -> argparse.ArgumentParser:
    from lossax._main import choices

    def listing(title, names):
        return textwrap.fill(f"{title}: {', '.join(names)}", 100, subsequent_indent="  ", break_on_hyphens=False)

    parser = argparse.ArgumentParser(
        prog="lossax",
        description=DESCRIPTION,
        epilog="\n".join(
            [
                listing("losses", choices.losses()),
                listing("optimizers", choices.optimizers()),
                listing("schedules", choices.schedules()),
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data",
        default="digits",
        help="digits (handwritten, 8 x 8 pixels), text (each character of Python's help from those before it), or a "
        "file: .npz with arrays x and y, .csv with the label in the last column [digits]",
    )
    add("--losses", nargs="+", metavar="NAME", default=LOSSES, help=f"[{' '.join(LOSSES)}]")
    add("--optimizers", nargs="+", metavar="NAME", default=OPTIMIZERS, help=f"[{' '.join(OPTIMIZERS)}]")
    add(
        "--learning-rates",
        nargs="+",
        type=_rate,
        metavar="RATE",
        default=RATES,
        help=f"[{' '.join(f'{rate:g}' for rate in RATES)}]",
    )
    add("--schedule", default="cosine", metavar="NAME", help="how the rate moves over the steps [%(default)s]")
    add("--steps", type=_count, default=400, metavar="N", help="updates of each run [%(default)s]")
    add("--seeds", type=_count, default=5, metavar="N", help="runs of each configuration [%(default)s]")
    add("--batch-size", type=_count, default=64, metavar="N", help="examples in an update [%(default)s]")
    add("--hidden", type=_count, default=32, metavar="N", help="width of the hidden layer [%(default)s]")
    add("--rows", type=int, default=25, metavar="N", help="rows of the table; 0 shows all [%(default)s]")
    add("--output", metavar="FILE", help="write every run to FILE: .csv, or .json with curves")
    add(
        "--picture",
        metavar="FILE",
        default="lossax.png",
        help="draw the curves to FILE (.png, .pdf, .svg) if matplotlib is there; none draws nothing [%(default)s]",
    )
    add("--quiet", action="store_true", help="no progress bar")
    return parser


class Bar:
    """Progress on a terminal, in one line that goes when all is done."""

    def __init__(self, total: int, *, quiet: bool):
        self.total = total
        self.shown = not quiet and sys.stderr.isatty()
        self.began: float | None = None

    def write(self, text: str) -> None:
        """Replaces the line."""
        if self.shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def step(self, step: int) -> None:
        """Shows that so many steps are over; the first call starts the clock."""
        if self.began is None:
            self.began = time.monotonic()
        done = step / self.total
        left = f"{(time.monotonic() - self.began) * (1 - done) / done:.0f} s left" if step else ""
        self.write(f"[{'#' * round(30 * done):<30}] {done:4.0%}  step {step} of {self.total}  {left}")


def main(argv: list[str] | None = None) -> int:
    """Runs the job.

    Args:
      argv: Arguments as from a shell; those of the process if `None`.

    Returns:
      The exit status: 0, or 130 if interrupted. Wrong arguments exit with 2.
    """
    parser = _parser()
    given = parser.parse_args(argv)
    if importlib.util.find_spec("flax") is None:
        print("lossax: the main job trains a Flax model; install it with: python -m pip install flax", file=sys.stderr)
        return 2

    from lossax._main import choices, data, results, train

    try:
        output, picture = _writable(given.output, TABLES), _writable(given.picture, PICTURES)
        for name in given.losses:
            _check.choice(choices.losses(), losses=name)
        for name in given.optimizers:
            _check.choice(choices.optimizers(), optimizers=name)
            choices.needs_the_gradient_alone(name)
        _check.choice(choices.schedules(), schedule=given.schedule)
        task = data.load(given.data)
    except ValueError as error:
        parser.error(str(error))

    plan = train.Plan(
        losses={name: choices.losses()[name] for name in given.losses},
        optimizers={name: choices.optimizers()[name] for name in given.optimizers},
        schedule=choices.schedules()[given.schedule],
        learning_rates=tuple(dict.fromkeys(given.learning_rates)),
        seeds=given.seeds,
        steps=given.steps,
        batch_size=given.batch_size,
        hidden=given.hidden,
    )
    bar = Bar(plan.steps, quiet=given.quiet)
    bar.write(f"compiling {plan.runs} runs into one program ...")
    steps, measures = train.train(plan, task, lambda step, _: bar.step(step))
    bar.write("")

    rows = results.rank(plan, task, measures)
    written = []
    if output:
        results.write(output, plan, task, rows, steps, measures)
        written.append(f"all runs: {output}")
    if picture and importlib.util.find_spec("matplotlib") is None:
        written.append("no picture: matplotlib is not installed (python -m pip install matplotlib)")
    elif picture:
        from lossax._main.picture import draw

        draw(picture, plan, task, rows, steps, measures)
        written.append(f"curves: {picture}")

    done = f"{steps[-1]} steps" if steps[-1] == plan.steps else f"interrupted after {steps[-1]} of {plan.steps} steps"
    print(f"{task.name}: {plan.runs} runs of {done}; mean and 95% interval over {plan.seeds} seeds, on held-out data\n")
    print(results.table(rows, task, given.rows))
    if plan.seeds > 1:
        print(
            f"\nThese seeds do not tell {results.ties(rows, task)} of the others from the first (paired 95% interval)."
        )
    print(f"\nThe best, {results.tested(rows[0], task)}:\n")
    print(textwrap.indent(results.code(plan, task, rows[0]), "    "))
    print("\n".join(written))
    return 0 if steps[-1] == plan.steps else 130


if __name__ == "__main__":
    sys.exit(main())
