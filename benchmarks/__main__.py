"""`python -m benchmarks [name ...]`: a table of lossax beside its peers, and benchmarks/results.json.

A name selects the cases that contain it; the rows of the others stay. Every row is one process, one run, interleaved; a
case that loses is shown like the others.
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile
from importlib import metadata

import jax

from benchmarks import contrastive, ctc, growth, heads, losses, matrices, optimizers, ranking
from benchmarks.measure import compare

RESULTS = pathlib.Path(__file__).parent / "results.json"
GROUPS = {
    "losses": losses,
    "contrastive": contrastive,
    "ranking": ranking,
    "sequences": ctc,
    "heads": heads,
    "growth": growth,
    "matrices": matrices,
    "optimizers": optimizers,
}


def megabytes(value):
    return "-" if value is None else f"{value / 2**20:.2f}"


def milliseconds(value):
    return "-" if value is None else f"{value:.2f}"


def line(row):
    ratio = "-" if row.get("ratio") is None else f"{row['ratio']:.2f}"
    own = f"{milliseconds(row['lossax_ms']):>9} {milliseconds(row.get('peer_ms')):>9} {ratio:>6}"
    memory = f"{megabytes(row['lossax_bytes']):>9} {megabytes(row.get('peer_bytes')):>9}"
    compiling = f"{row['lossax_compile_s']:>7.2f} {row.get('peer_compile_s', float('nan')):>7.2f}"
    return f"{row['case']:<52} {row['peer'] or '-':>6} {own} {memory} {compiling}"


def saved():
    """What results.json holds."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"about": {}, "rows": []}


def machine():
    versions = {name: metadata.version(name) for name in ("jax", "optax")}
    return {"backend": jax.default_backend(), "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def write(parts):
    """Parts of results.json anew, atomically: a run that is cut off leaves the old file."""
    results = saved() | parts
    handle, name = tempfile.mkstemp(dir=RESULTS.parent, suffix=".json")
    with os.fdopen(handle, "w") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    pathlib.Path(name).replace(RESULTS)


def merged(rows):
    """Rows in the place of earlier ones of the same cases, beside the others if the earlier run was of this machine."""
    earlier, fresh = saved(), {}
    for row in rows:
        fresh.setdefault(row["case"], []).append(row)
    now, found = set(fresh), []
    for row in earlier["rows"] if earlier["about"] == machine() else ():
        found += fresh.pop(row["case"], []) if row["case"] in now else [row]
    return found + [row for new in fresh.values() for row in new]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of case names; all cases if none")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each program")
    parser.add_argument("--no-write", action="store_true", help="do not touch results.json")
    options = parser.parse_args()
    rows = []
    heads = f"{'ms':>9} {'peer':>9} {'ratio':>6} {'temp MiB':>9} {'peer':>9} {'compile':>7} {'peer':>7}"
    print(f"{'case':<52} {'peer':>6} {heads}")
    for group, module in GROUPS.items():
        for case in module.cases():
            title = f"{group}: {case.name}"
            if options.names and not any(name in title for name in options.names):
                continue
            for row in compare(case, options.rounds):
                row["case"] = title
                rows.append(row)
                print(line(row), flush=True)
    if not rows:
        parser.error(f"no case contains any of {options.names}")
    if not options.no_write:
        write({"about": machine(), "rows": merged(rows) if options.names else rows})


if __name__ == "__main__":
    main()
