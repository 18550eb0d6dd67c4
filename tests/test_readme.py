"""The README tells the truth: its code runs, its names exist, its tables are those of the library.

`python -m tests.test_readme` writes the tables anew.
"""

import ast
import inspect
import json
import pathlib
import re

import pytest

import lossax
from lossax import _recommend

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
NAMESPACES = (
    "losses",
    "activations",
    "targets",
    "calibration",
    "regularizers",
    "metrics",
    "objectives",
    "schedules",
    "transforms",
    "optimizers",
)


def functions(namespace):
    return {name: f for name, f in vars(namespace).items() if inspect.isfunction(f) and not name.startswith("_")}


def summary(f):
    return (inspect.getdoc(f) or "").partition("\n")[0]


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def catalogue():
    """One table per namespace: every public function with the first line of its docstring."""
    doors = {name: f for name, f in functions(lossax).items() if f.__module__.startswith("lossax")}
    spaces = {"lossax": doors} | {f"lossax.{name}": functions(getattr(lossax, name)) for name in NAMESPACES}
    parts = []
    for space, found in spaces.items():
        rows = [(f"`{name}`", summary(f).replace("|", "\\|")) for name, f in found.items()]
        if rows:
            parts.append(f"### `{space}`\n\n{table(('Name', 'What it is'), rows)}")
    return "\n\n".join(parts)


def benchmarks():
    """The rows of benchmarks/results.json."""
    path = ROOT / "benchmarks" / "results.json"
    if not path.exists():
        return ""
    results = json.loads(path.read_text())

    def number(value, digits=2):
        return "-" if value is None else f"{value:.{digits}f}"

    def row(r):
        times = [number(r["lossax_ms"]), number(r.get("peer_ms")), number(r.get("ratio"))]
        memory = ["-" if r.get(k) is None else f"{r[k] / 2**20:.1f}" for k in ("lossax_bytes", "peer_bytes")]
        compiling = [number(r.get(k)) for k in ("lossax_compile_s", "peer_compile_s")]
        return [r["case"], r["peer"] or "-", *times, *memory, *compiling]

    sizes = ("lossax, MiB", "peer, MiB", "lossax, s to compile", "peer, s")
    head = ("Case", "Peer", "lossax, ms", "peer, ms", "ratio", *sizes)
    about = ", ".join(f"{key} {value}" for key, value in results["about"].items())
    return f"{table(head, map(row, results['rows']))}\n\n({about})"


def race():
    """What `benchmarks.race` found, those first that need the fewest steps."""
    path = ROOT / "benchmarks" / "results.json"
    found = json.loads(path.read_text()).get("race") if path.exists() else None
    if not found:
        return ""

    whole = {r["task"]: r["steps"] for r in found["rows"] if r["optimizer"] == "adamw"}

    def row(r):
        losses = f"{sum(r['losses']) / len(r['losses']):.3f} ({min(r['losses']):.3f} to {max(r['losses']):.3f})"
        start = [r["task"], f"`{r['optimizer']}`", f"{r['rate']:.2g}", f"{r['decay']:g}", losses]
        if r["steps"] is None:
            return [*start, "-", "-"]
        steps = f"{r['steps']:.0f}"
        if r["steps_range"]:
            steps += f" ({r['steps_range'][0]:.0f} to {r['steps_range'][1]:.0f})"
        return [*start, steps, f"{r['steps'] / whole[r['task']] * r['step_ratio']:.2f}"]

    by_steps = sorted(found["rows"], key=lambda r: (r["task"], r["steps"] is None, r["steps"], sum(r["losses"])))
    head = ("Task", "Optimizer", "rate", "decay", "loss at the end (range)", "steps to AdamW's (range)", "time")
    about = ", ".join(f"{key} {value}" for key, value in found["about"].items())
    return f"{table(head, map(row, by_steps))}\n\n({about})"


def which_loss():
    """The tasks that `recommend` knows."""
    rows = [(f"{r.have} (`{r.task}`)", ", ".join(f"`{name}`" for name in r.use), r.because) for r in _recommend.TASKS]
    return table(("You have", "Use", "Because"), rows)


def which_optimizer():
    """The models that `recommend` knows."""

    def start(r):
        settings = (f"`{key}={value!r}`" for key, value in r.options.items())
        options = [f"{r.learning_rate:g}", *settings, f"`{r.schedule}`"]
        return ", ".join(options + ([f"`transforms.clip_by_global_norm({r.clip})`"] if r.clip else []))

    rows = [
        (f"{r.train} (`{r.model}`)", ", ".join(f"`{name}`" for name in r.use), start(r), r.because)
        for r in _recommend.MODELS
    ]
    return table(("You train", "Use", "Start with", "Because"), rows)


SECTIONS = {
    "which loss": which_loss,
    "which optimizer": which_optimizer,
    "catalogue": catalogue,
    "benchmarks": benchmarks,
    "race": race,
}


def with_section(text, name, content):
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n{content}\n{end}{tail}" if content else f"{head}{begin}\n{end}{tail}"


@pytest.mark.parametrize("name", SECTIONS)
def test_tables_are_current(name):
    text = README.read_text()
    assert with_section(text, name, SECTIONS[name]()) == text, "run: python -m tests.test_readme"


def test_names_exist():
    """`losses.huber` and the like, wherever they are said."""
    prose = re.sub(r"```sh.*?```", "", README.read_text(), flags=re.S)
    said = set(re.findall(rf"\b({'|'.join(NAMESPACES)})\.([a-z]\w*)", prose))
    assert said
    missing = [f"{space}.{name}" for space, name in said if not hasattr(getattr(lossax, space), name)]
    assert not missing


def test_code_runs():
    """All blocks, in order, in one scope. A line `expression  # literal` must have that value."""
    pytest.importorskip("flax")
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S):
        exec(compile(block, "README.md", "exec"), scope)
        for expression, value in re.findall(r"^(\S.*?)  # (.+)$", block, flags=re.M):
            assert eval(expression, scope) == pytest.approx(ast.literal_eval(value), abs=1e-6), expression


def test_files_exist():
    for path in re.findall(r"`((?:lossax|tests|notebooks|benchmarks|\.ci)/[\w./]+)`", README.read_text()):
        assert (ROOT / path).exists() or path == "benchmarks/results.json", path


if __name__ == "__main__":
    text = README.read_text()
    for name, make in SECTIONS.items():
        text = with_section(text, name, make())
    README.write_text(text)
