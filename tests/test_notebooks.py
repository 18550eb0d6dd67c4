"""The notebooks run as they stand, and are kept with what they print and draw.

`python -m tests.test_notebooks` runs them in a kernel and keeps the outputs.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def test_there_is_one():
    assert NOTEBOOKS


@notebooks
def test_it_runs(path, tmp_path):
    """In a process of its own, with the settings of a user, but for the time that XLA spends on machine code."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(source(cell) for cell in code_cells(path)))
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    faster = " ".join(flags).replace("optimization_level=0", "optimization_level=1")  # 0: training takes too long
    environment = os.environ | {"XLA_FLAGS": faster, "MPLBACKEND": "Agg"}
    run = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env=environment,
    )
    assert run.returncode == 0, run.stderr


@notebooks
def test_it_is_kept_as_it_ran(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run from top to bottom"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] == "display_data" for output in outputs), "figures, no warnings or errors"
    figures = [base64.b64decode(output["data"]["image/png"]) for output in outputs]
    assert figures
    assert max(map(len, figures)) < 100_000
    assert path.stat().st_size < 700_000


if __name__ == "__main__":
    import nbformat
    from nbclient import NotebookClient

    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times of day, which would differ at every run
        nbformat.write(notebook, path)
