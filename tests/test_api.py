"""What a reader meets: names, layers, docstrings, errors, the catalogue."""

import ast
import doctest
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import lossax
from tests import vocabulary as v
from tests.oracles import oracles

ROOT = pathlib.Path(lossax.__file__).parent
LAYERS = {
    "_types": 0,
    "_angles": 1,
    "_bessel": 1,
    "_devices": 1,
    "_check": 1,
    "_choices": 1,
    "_excess": 1,
    "_exponents": 1,
    "_numerics": 1,
    "_ratios": 1,
    "_hyper": 1,
    "_keys": 1,
    "_running": 1,
    "_factored": 1,
    "_trust": 1,
    "_special": 1,
    "_tree": 1,
    "_units": 1,
    "_vectors": 1,
    "_linalg": 1,
    "_double": 1,
    "_entmax": 1,
    "_tempered": 1,
    "_maps": 1,
    "_reduction": 2,
    "_pairs": 2,
    "_branches": 2,
    "_rounding": 2,
    "_tile": 1,
    "_progress": 2,
    "_assemble": 2,
    "_moments": 2,
    "_matrices": 2.25,
    "_orthogonal": 2.4,
    "_eigenbasis": 2.25,
    "_coupled": 2.25,
    "_distilled": 2.25,
    "_mining": 2.4,
    "_heads": 2.25,
    "_importance": 2.25,
    "_ranking": 2.5,
    "_sampled": 2.25,  # masks
    "_preferences": 2.25,  # masks
    "_sequences": 2.25,
    "activations": 2.5,  # on the mechanisms, under the losses
    "targets": 2.5,
    "losses": 3,
    "metrics": 3,
    "regularizers": 3,
    "schedules": 3,
    "transforms": 3,
    "optimizers": 4,
    "objectives": 4,
    "calibration": 4,
    "monitors": 4,
    "sharding": 4,
    "sweep": 5,
    "_recommend": 5,
    "report": 5,
    "testing": 5,
    "_main": 6,
    "__main__": 7,
}
NAMESPACES = {
    name: getattr(lossax, name)
    for name in (
        "losses",
        "activations",
        "targets",
        "regularizers",
        "metrics",
        "objectives",
        "schedules",
        "transforms",
        "optimizers",
        "calibration",
        "sharding",
        "report",
    )
    if hasattr(lossax, name)
}
PUBLIC = [(space, name, f) for space, module in NAMESPACES.items() for name, f in v.public(module).items()]
PUBLIC += [("lossax", n, f) for n, f in v.public(lossax).items() if f.__module__.startswith("lossax")]
everything = pytest.mark.parametrize(("space", "name", "f"), PUBLIC, ids=[f"{s}.{n}" for s, n, _ in PUBLIC])
MODULES = sorted(ROOT.rglob("*.py"))


def parts(path):
    return path.relative_to(ROOT).with_suffix("").parts


def imports(path):
    """The modules of lossax that a file imports, as tuples of names below lossax."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = [f"{node.module}.{alias.name}" for alias in node.names] if node.module else []
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "lossax":
                yield tuple(target.split(".")[1:])


@pytest.mark.parametrize("path", MODULES, ids=lambda p: "/".join(parts(p)))
def test_imports_point_down(path):
    own = parts(path)
    if own == ("__init__",):
        return
    layer = LAYERS[own[0]]
    order = ("_shapes", "_combinators", "_recipes")
    for target in imports(path):
        if target[0] not in LAYERS:  # a name of the facade
            assert layer >= 6, f"{own} imports the facade"
            continue
        below = LAYERS[target[0]] < layer or (layer == 1 and LAYERS[target[0]] == 1)
        if target[0] == own[0]:
            inside_schedules = own[0] == "schedules" and len(target) > 1 and target[1] in order
            below = own[-1] == "__init__" or layer == 6 or own[-1] == "_combinators"
            if inside_schedules and own[-1] in order:
                below = order.index(target[1]) < order.index(own[-1])
        assert below, f"{'/'.join(own)} (layer {layer}) imports {'.'.join(target)} (layer {LAYERS[target[0]]})"


def test_layer_one_has_no_cycle():
    order = ["_types", "_check", "_numerics", "_double", "_special", "_bessel", "_hyper", "_tree"]
    order += ["_maps", "_entmax", "_tempered", "_running", "_tile", "_choices", "_excess"]
    for name in order[1:]:
        if not (ROOT / f"{name}.py").exists():
            continue
        for target in imports(ROOT / f"{name}.py"):
            assert order.index(target[0]) < order.index(name), f"{name} imports {target[0]}"


@pytest.mark.parametrize("space", NAMESPACES)
def test_the_index_is_complete(space):
    """Every public function and class of a family file is in the index, and the index holds nothing else."""
    module = NAMESPACES[space]
    defined = set()
    for path in MODULES:
        if parts(path)[0] != space:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                defined.add(node.name)
    exported = {n for n, x in vars(module).items() if (inspect.isfunction(x) or inspect.isclass(x)) and n[0] != "_"}
    if hasattr(module, "__path__"):
        assert exported == defined
        for node in ast.parse((ROOT / space / "__init__.py").read_text()).body:
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name == alias.asname for alias in node.names), "one `f as f` for each symbol"
    for name in exported & defined:
        assert getattr(module, name).__module__.startswith(f"lossax.{space}")


@everything
def test_names(space, name, f):
    assert not name.endswith("_loss") or space == "transforms"  # where it is what something is done to
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in inspect.signature(f).parameters.values()) or (
        name == "masked" or space == "schedules"
    )
    assert f.__name__ == name, "no aliases"


SET_TAIL = {
    "where": "Elements to keep, bool `[..., n]`.",
    "weights": "Weight of each element, float `[..., n]`.",
    "reduction": '`"mean"` over the sets that keep something, `"sum"`, or `"none"`.',
}
COUPLED_TAIL = {
    "where": "Elements to keep, bool `[..., n]`; nobody sees those left out.",
    "weights": "Weight of each element, float `[..., n]`; 0 leaves it out.",
    "reduction": '`"mean"` over total weight, `"sum"`, or `"none"`.',
}
TAIL = {
    "where": "Units to keep, bool `[...]`.",
    "weights": "Weight of each unit, float `[...]`.",
    "reduction": '`"mean"` over total weight, `"sum"`, or `"none"`.',
}


def sections(doc):
    """The docstring by its section heads."""
    found = re.split(r"^(Args|Returns|Raises|Example|Reference):\n", doc, flags=re.M)
    return found[0], dict(zip(found[1::2], found[2::2], strict=True))


@everything
def test_docstrings(space, name, f):
    doc = inspect.getdoc(f) or ""
    head, body = sections(doc)
    first, _, rest = head.partition("\n")
    assert first.endswith("."), "one line that says what"
    assert not rest or rest.startswith("\n"), "a blank line after the first"
    order = [s for s in ("Args", "Returns", "Raises", "Example", "Reference") if s in body]
    assert list(body) == order, "sections in order"
    parameters = [p for p in inspect.signature(f).parameters.values()]
    documented = re.findall(r"^  (\*?\w+): (.*)$", body.get("Args", ""), flags=re.M)
    expected = [("*" if p.kind is p.VAR_POSITIONAL else "") + p.name for p in parameters]
    assert [n for n, _ in documented] == expected, "every parameter, in order"
    assert "Returns" in body
    assert ">>> " in body.get("Example", ""), "an example that can be checked by hand"
    if space in ("losses", "optimizers"):
        assert ".. math::" in head, "the definition"
        assert re.search(r"\*.+\*.*\b(1[6-9]|20)\d\d", body.get("Reference", ""), flags=re.S), "author, *title*, year"
    if space == "losses":
        text = dict(documented)
        assert {k: text[k] for k in TAIL} == (COUPLED_TAIL if v.coupled(f) else SET_TAIL if v.of_sets(f) else TAIL)
        for data in v.data_arguments(f):
            assert re.search(r"`\[.*\]`", text[data]), f"the shape of {data}"
        assert "Raises" in body


@everything
def test_doctests_run(space, name, f):
    found = doctest.DocTestFinder(recurse=False).find(f, name, globs={})
    assert any(test.examples for test in found)


@pytest.mark.parametrize(
    "name", [*v.LOSSES, *v.SET_LOSSES, *v.SCHEDULES, *v.OPTIMIZERS, *v.public(lossax.regularizers)]
)
def test_everything_has_an_oracle(name):
    assert name in oracles()


def test_import_is_light():
    """Only jax, optax and what they bring; nothing that a user may not have."""
    code = (
        "import sys, jax, optax; before = set(sys.modules); import lossax; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - {m.split('.')[0] for m in before} - {'lossax'}; "
        "print(sorted(m for m in new if m not in sys.stdlib_module_names))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.strip() == "[]"


def test_nothing_speaks_of_where_it_was_made():
    for path in [*MODULES, *pathlib.Path(__file__).parent.rglob("*.py")]:
        assert not re.search(r"/(?:work|root|home)/\w", path.read_text().replace("/(?:work|root|home)/", "")), path
