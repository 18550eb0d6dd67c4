"""The main job: from arguments to table, code, files and picture."""

import csv
import itertools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

from lossax import __main__ as shell
from lossax._main import choices, data, results, train

CE = "softmax_cross_entropy_with_integer_labels"
TINY = ["--steps", "6", "--seeds", "2", "--batch-size", "8", "--hidden", "4", "--picture", "none"]
SMALL = ["--losses", CE, "--optimizers", "adamw", "--learning-rates", "0.01", *TINY]


def plan(**change):
    one = train.Plan(
        losses={CE: choices.losses()[CE]},
        optimizers={"adamw": choices.optimizers()["adamw"]},
        schedule=choices.schedules()["cosine"],
        learning_rates=(0.01,),
        seeds=1,
        steps=8,
        batch_size=16,
        hidden=8,
    )
    return one._replace(**change)


def wide_plan():
    return plan(
        losses=dict(list(choices.losses().items())[:3]) | plan().losses,
        optimizers={name: choices.optimizers()[name] for name in ("adam", "adamw")},
        learning_rates=(0.001, 0.1),
        seeds=3,
    )


def nothing(*_):
    pass


def test_defaults_are_choices():
    assert set(shell.LOSSES) <= set(choices.losses())
    assert not {"coral", "corn"} & set(choices.losses()), "their logits are of thresholds, not of classes"
    assert set(shell.OPTIMIZERS) <= set(choices.optimizers())
    for name in shell.OPTIMIZERS:
        choices.needs_the_gradient_alone(name)


@pytest.mark.parametrize("name", list(choices.schedules()))
def test_schedules_are_called_with_sense(name):
    """Traced rates too; a schedule starts or peaks at the rate and stays finite."""
    f = choices.schedules()[name]

    def values(rate):
        return jax.vmap(f(**choices.schedule_arguments(f, rate, 100)))(jnp.arange(100))

    drawn = jax.jit(values)(0.25)
    assert float(drawn.max()) == pytest.approx(0.25, rel=0.1)
    assert np.isfinite(drawn).all()
    assert (drawn >= 0).all()


def test_end_to_end(tmp_path, capsys):
    """Table, best configuration as code that runs, JSON and picture."""
    output, picture = tmp_path / "runs.json", tmp_path / "curves.png"
    losses = list(choices.losses())[:2]
    arguments = ["--losses", *losses, "--optimizers", "adam", "adamw", "--learning-rates", "0.001", "0.1"]
    assert shell.main([*arguments, *TINY, "--output", str(output), "--picture", str(picture)]) == 0
    out, err = capsys.readouterr()
    assert err == "", "no progress bar where there is no terminal"
    table = out[out.index("rank") : out.index("These seeds")].strip().splitlines()
    assert len(table) == 2 + 2 * 2 * 2
    assert [line.split()[0] for line in table[2:]] == [str(i) for i in range(1, 9)]
    document = json.loads(output.read_text(), parse_constant=pytest.fail)
    assert len(document["runs"]) == 2 * 2 * 2 * 2
    assert [run["rank"] for run in document["runs"]] == sorted(run["rank"] for run in document["runs"])
    assert len(document["runs"][0]["curve"]["accuracy"]) == len(document["measured_at"])
    assert document["measured_at"][0] == 0
    assert document["measured_at"][-1] == 6
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "runs.json"], "nothing temporary is left"

    best = document["best"]
    assert (best["loss"], best["optimizer"]) == tuple(table[2].split()[1:3])
    task, scope = data.load("digits"), {}
    exec(best["code"], scope)
    before = scope["train_step"](
        scope["model"], scope["optimizer"], jnp.asarray(task.train.x), jnp.asarray(task.train.y)
    )
    assert np.isfinite(before)
    for line in best["code"].splitlines():
        assert line in out


def test_runs_as_csv(tmp_path):
    output = tmp_path / "runs.csv"
    assert shell.main([*SMALL, "--output", str(output)]) == 0
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert 0 <= float(rows[0]["accuracy"]) <= 1


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "runs.json"
    path.write_text("old")

    def write():
        with results.replacing(path) as draft:
            draft.write_text("half of it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_as_a_process():
    """`python -m lossax` and its help; what is compared is listed."""
    out = subprocess.run([sys.executable, "-m", "lossax", "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--data", "--losses", "--optimizers", "--learning-rates", "--schedule", "--steps", "--seeds"):
        assert option in out
    for name in (CE, "adamw", "cosine"):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--losses", "softmax_cross_entropy"[:-1]], "softmax_cross_entropy_with_integer_labels"),
        (["--optimizers", "admw"], "adamw"),
        (["--schedule", "cosin"], "cosine"),
        (["--data", "nowhere.csv"], "nowhere.csv: No such file"),
        (["--data", "digit"], "digits, text, or a file"),
        (["--steps", "0"], "at least 1"),
        (["--seeds", "two"], "invalid"),
        (["--learning-rates", "-1"], "positive"),
        (["--learning-rates", "nan"], "positive"),
        (["--output", "runs.xls"], ".json, .csv"),
        (["--output", "nowhere/runs.json"], "no folder 'nowhere'"),
        (["--picture", "curves.txt"], ".png"),
        (["--no-such-option"], "unrecognized"),
    ],
)
def test_wrong_arguments(arguments, says, capsys):
    with pytest.raises(SystemExit) as exit:
        shell.main([*SMALL, *arguments])
    assert exit.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("lossax: error: ")
    assert says in message


def flowers():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    return (rng.normal(size=(60, 2)) + 3 * np.stack([y, -y], 1)).round(3), np.array(["red", "green", "blue"])[y]


@pytest.mark.parametrize("ending", ["header.csv", "bare.csv", "german.csv", "arrays.npz"])
def test_own_data(tmp_path, ending):
    x, y = flowers()
    path = tmp_path / ending
    if ending == "arrays.npz":
        np.savez(path, x=x.reshape(60, 2, 1), y=y)
    else:
        delimiter = ";" if ending == "german.csv" else ","
        rows = [delimiter.join([*map(str, features), label]) for features, label in zip(x, y, strict=True)]
        path.write_text("\n".join([delimiter.join(["a", "b", "kind"])] * (ending == "header.csv") + rows) + "\n")
    task = data.load(str(path))
    assert task.classes == 3
    assert (len(task.train.y), len(task.held_out.y), len(task.test.y)) == (36, 12, 12)
    np.testing.assert_allclose(task.train.x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(task.train.x.std(0), 1, atol=1e-5)
    assert shell.main([*SMALL, "--data", str(path)]) == 0


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "at least 10 examples"),
        ("a.csv", b"1\n2\n", "found one column"),
        ("a.csv", b"1,2,a\n1,x,b\n", "line 2, column 2: 'x' is not a number"),
        ("a.csv", b"1,2,a\n1,b\n", "line 2 has 2 columns"),
        ("a.csv", b"1,nan,a\n" * 20, "example 1, feature 2 is nan"),
        ("a.csv", b"1,2,a\n" * 20, "2 classes or more"),
        ("a.csv", b"\xff\xfe\x00", "not a text file"),
        ("a.npz", b"not a zip file", "not a NumPy archive"),
        ("a.npz", {"x": np.ones((20, 2))}, "needs arrays x and y, holds ['x']"),
        ("a.npz", {"x": np.ones((20, 2)), "y": np.ones(19)}, "got x[20, 2], y[19]"),
        ("a.npz", {"x": np.full((20, 2), "a"), "y": np.ones(20)}, "x must be numbers"),
        ("a.npz", {"x": np.ones((20, 2)), "y": np.array([object()] * 20)}, "not a NumPy archive of plain arrays"),
        ("a.npz", {"x": np.ones((20, 2)), "y": np.arange(20)}, "found 20"),
    ],
)
def test_bad_files(tmp_path, capsys, name, content, says):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(SystemExit) as exit:
        shell.main([*SMALL, "--data", str(path)])
    assert exit.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(path) in message
    assert says in message


def test_text(capsys):
    """Characters from those before them; windows of the held-out text follow the windows of the training text."""
    task = data.load("text")
    assert task.train.x.shape[1] == data.WINDOW
    np.testing.assert_array_equal(task.train.x[1:, -1], task.train.y[:-1])
    assert max(len(task.held_out.y), len(task.test.y)) <= data.MOST
    assert shell.main([*SMALL, "--data", "text"]) == 0
    out = capsys.readouterr().out
    assert "bits per character" in out
    scope = {}
    exec(out[out.index("    import lossax") :].split("\ncurves")[0].replace("\n    ", "\n").strip(), scope)
    assert np.isfinite(scope["train_step"](scope["model"], scope["optimizer"], task.train.x[:4], task.train.y[:4]))


def test_digits_are_the_original():
    datasets = pytest.importorskip("sklearn.datasets")
    ours = np.load(pathlib.Path(data.__file__).parent.parent / "_data" / "digits.npz")
    theirs = datasets.load_digits()
    np.testing.assert_array_equal(ours["x"], theirs.data)
    np.testing.assert_array_equal(ours["y"], theirs.target)


def test_lanes_equal_runs_of_their_own():
    """Nothing in the company of other losses, optimizers, rates and seeds changes a run beyond rounding."""
    task, together = data.load("digits"), wide_plan()
    _, all_of_them = train.train(together, task, nothing)
    for (o, optimizer), (i, loss) in zip(
        itertools.cycle(enumerate(together.optimizers)), enumerate(together.losses), strict=False
    ):
        alone = plan(
            losses={loss: together.losses[loss]},
            optimizers={optimizer: together.optimizers[optimizer]},
            learning_rates=together.learning_rates[1:],
        )
        _, solo = train.train(alone, task, nothing)
        for name, own, lane in zip(solo._fields, solo, all_of_them, strict=True):
            tolerance = 2e-3 if "accuracy" in name else 1e-5
            np.testing.assert_allclose(lane[:, o, i, 1, 0], own[:, 0, 0, 0, 0], rtol=1e-4, atol=tolerance)


def test_one_compilation(caplog):
    """However many chunks, the loop is compiled once."""
    with jax.log_compiles():
        steps, _ = train.train(plan(), data.load("digits"), nothing)
    assert len(steps) > 3
    assert sum("Finished XLA compilation of jit(advance)" in record.getMessage() for record in caplog.records) == 1


def test_diverged_runs_come_last(capsys):
    """A rate that no run survives is shown as such."""
    arguments = ["--losses", CE, "--optimizers", "adamw", "--learning-rates", "1e30", "0.01", "--schedule", "constant"]
    assert shell.main([*arguments, *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, last = (line.split() for line in lines if line[:1] in "12" and line[1:2] == " ")
    assert first[3] == "0.01"
    assert last[3] == "1e+30"
    assert last[-3:] == ["2", "of", "2"]


def test_interval_is_students():
    stats = pytest.importorskip("scipy.stats")
    values = np.array([1.0, 2.0, 4.0])
    mean, half = results.interval(values)
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert np.isnan(results.interval(values[:1])[1])


def test_ties_are_paired():
    """Seeds that shift all runs alike do not hide a difference; noise of one run does."""
    task, seeds, fine = data.load("digits"), np.array([0.1, 0.2, 0.3]), np.zeros(3, bool)

    def row(accuracy):
        return results.Row("", "", 0.1, (0, 0, 0), accuracy, seeds, seeds, seeds, fine)

    first, worse, noisy = row(seeds), row(seeds - [0.01, 0.012, 0.011]), row(seeds - [0.1, -0.1, 0.05])
    assert results.ties([first, worse], task) == 0
    assert results.ties([first, worse, noisy], task) == 1


def test_a_long_table_keeps_both_ends():
    task, wide = data.load("digits"), wide_plan()
    shape = (2, 2, len(wide.losses), 2, 3)
    measures = train.Measures(*(np.linspace(1, 0, int(np.prod(shape))).reshape(shape) for _ in range(5)))
    rows = results.rank(wide, task, measures)
    lines = results.table(rows, task, 5).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3", "4", "...", str(len(rows))]
    assert len(results.table(rows, task, 0).splitlines()) == 2 + len(rows)


def test_an_interrupt_keeps_what_is_there():
    """Ctrl-C after a chunk ends the training, not the job."""

    def stop(step, _):
        if step >= 4:
            raise KeyboardInterrupt

    steps, measures = train.train(plan(), data.load("digits"), stop)
    assert steps[-1] == 4
    assert len(measures.own) == len(steps)


def test_ctrl_c_shows_what_is_there(monkeypatch, capsys):
    def stop(_, step):
        if step >= 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(shell.Bar, "step", stop)
    assert shell.main(SMALL) == 130
    assert "interrupted after 3 of 6 steps" in capsys.readouterr().out


def test_bar_on_a_terminal(monkeypatch, capsys):
    bar = shell.Bar(10, quiet=False)
    bar.step(5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = shell.Bar(10, quiet=False)
    bar.step(0)
    bar.step(5)
    assert " 50%  step 5 of 10" in capsys.readouterr().err
    shell.Bar(10, quiet=True).step(5)
    assert capsys.readouterr().err == ""


def test_without_flax(monkeypatch, capsys):
    found = shell.importlib.util.find_spec
    monkeypatch.setattr(shell.importlib.util, "find_spec", lambda name: None if name == "flax" else found(name))
    assert shell.main([]) == 2
    assert "pip install flax" in capsys.readouterr().err
