"""Rules of the code base that neither the linter nor the import contracts check."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import grimp
import pytest

from fedsim import catalogue

ROOT = Path(__file__).parents[2]
PACKAGES = ("clients", "experiments", "fedsim", "privacy", "server")  # folders of the repository
INITS = [init for package in PACKAGES for init in (ROOT / package).rglob("__init__.py")]
FLOWERS_PUBLIC = {
    "flwr.app",
    "flwr.clientapp",
    "flwr.clientapp.mod",
    "flwr.clientapp.typing",
    "flwr.serverapp",
    "flwr.serverapp.strategy",
    "flwr.simulation",
}  # as `fedsim.flower` has it
# The adapter, and what examines Flower's own secure aggregation.
MAY_IMPORT_FLOWERS_PRIVATE = (
    "fedsim/flower/",
    "experiments/attacks/",
    "experiments/benchmarks/flower_secagg.py",
)
IN_TEXT = re.compile(r"\b(?:from|import) (flwr[\w.]*)")  # of a program in a string
# A mechanism is one folder of privacy/: elsewhere the catalogue alone names it.
MECHANISM = re.compile(r"dp[-_]?sgd|dp[-_]?fed[-_]?avg|dp[-_]?ftrl|local[-_]?dp", re.IGNORECASE)
UNROOTED = re.compile(r"^\s*(from|import) (clients|experiments|privacy|server)\b", re.MULTILINE)


def module_of(init: Path) -> str:
    """Return the name that a package is imported by."""
    parts = init.parent.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "fedsim" else ("fedsim", *parts))


@pytest.mark.parametrize("name", sorted(map(module_of, INITS)))
def test_public_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for public in module.__all__:
        assert getattr(module, public) is not None


def test_nothing_is_imported_by_another_name_than_fedsims() -> None:
    """From the repository's folder `import server` finds the same module a second time, and its classes are others."""
    sources = [path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 400
    assert [path for path in sources if UNROOTED.search(path.read_text())] == []
    assert UNROOTED.search("def f():\n    from server.app import app")


def flowers_private(source: str) -> list[str]:
    """Return what a module imports of Flower that isn't public: anywhere in it, and in the programs of its strings."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module in FLOWERS_PUBLIC:
            public = getattr(importlib.import_module(node.module), "__all__", None)
            names = [alias.name for alias in node.names]
            found += [f"{node.module}.{name}" for name in names if public is not None and name not in public]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += IN_TEXT.findall(node.value)
    return [name for name in found if name.split(".")[0] == "flwr" and name not in FLOWERS_PUBLIC]


@pytest.mark.parametrize(
    "source",
    [
        "import flwr",
        "import os, flwr.common",
        "import flwr.proto.run_pb2 as run",
        "from flwr import supercore",
        "from flwr.app import message",
        "from flwr.app.message import make_message",
        "def f():\n    from flwr.common.serde import message_to_proto",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from flwr.supercore.run import Run",
        "RUN = 'from flwr.supercore.cli import flower_superexec'",
    ],
)
def test_a_private_import_of_flower_is_found(source: str) -> None:
    assert len(flowers_private(source)) == 1


@pytest.mark.parametrize("module", sorted(FLOWERS_PUBLIC))
def test_flowers_public_modules_are_allowed(module: str) -> None:
    names = getattr(importlib.import_module(module), "__all__", ["Mod"])
    assert flowers_private(f"import {module}\nfrom {module} import {', '.join(names)}") == []


def test_flowers_private_modules_are_imported_by_the_adapter_alone() -> None:
    sources = [path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]
    outside = [
        p for p in sources if not p.relative_to(ROOT).as_posix().startswith(MAY_IMPORT_FLOWERS_PRIVATE)
    ]
    assert 300 < len(outside) < len(sources)
    found = {str(path.relative_to(ROOT)): flowers_private(path.read_text()) for path in outside}
    assert {path: names for path, names in found.items() if names} == {}


def mechanisms_named(source: str) -> list[str]:
    """Return the names of mechanisms in a module, whatever stands for one: an identifier, an import or a text.

    What only explains (a docstring, a comment) may name them.
    """
    tree = ast.parse(source)
    explaining = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in explaining:
            found.append(str(node.value))
        found += [str(getattr(node, key, "")) for key in ("id", "attr", "arg", "name", "asname", "module")]
    return [name for name in found if MECHANISM.search(name)]


@pytest.mark.parametrize(
    "source",
    [
        "if privacy.dp_sgd is not None: pass",
        "from fedsim.privacy import dp_ftrl",
        "from fedsim.privacy.local_dp.noise import Noise",
        "import fedsim.privacy.dp_fedavg.plan as plan",
        "def f(dp_sgd): pass",
        "x = DpFedAvgSettings()",
        "if name == 'dp-ftrl': pass",
        "say(f'with {x}: privacy.local-dp is on')",
    ],
)
def test_a_mechanisms_name_is_found(source: str) -> None:
    assert len(mechanisms_named(source)) == 1


def test_what_explains_may_name_mechanisms() -> None:
    assert (
        mechanisms_named('"""As DP-SGD."""  # dp_sgd\nclass A:\n    x: int = 1\n    """For dp-ftrl."""') == []
    )


def test_the_catalogue_alone_names_mechanisms() -> None:
    """The exceptions are what is still to move: a file that no longer names a mechanism comes off the list."""
    sources = [path for folder in ("clients", "fedsim", "server") for path in (ROOT / folder).rglob("*.py")]
    names = {path.relative_to(ROOT).as_posix() for path in sources if mechanisms_named(path.read_text())}
    assert names == {"fedsim/catalogue/mechanisms.py"}


def protected_by(name: str) -> set[str]:
    """Return the modules that the import contract of such a name protects."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if name in contract["name"])
    return set(contract["protected_modules"])


def test_the_contracts_about_what_the_catalogue_names_have_all_modules() -> None:
    packages = {path.parent.name for path in (ROOT / "privacy").glob("*/mechanism.py")}
    assert protected_by("A mechanism is known") == {f"fedsim.privacy.{name}" for name in packages}
    kinds = (
        catalogue.ALGORITHMS,
        catalogue.TASKS,
        catalogue.OPTIMIZERS,
        catalogue.SCHEDULES,
        catalogue.TRANSFORMS,
        catalogue.ROUND_SCHEDULES,
    )
    entries = [entry for kind in kinds for entry in kind.values()]
    assert protected_by("An algorithm, a task") == {entry.reference.partition(":")[0] for entry in entries}


def circle_in(package: str, ignored: list[str]) -> list[str]:
    """Return modules each of which imports the next one, the first one again at the end; empty where there are none.

    All imports count: of a module, in a function, and for types alone. Whoever imports a module imports the packages
    that it is in.
    """
    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    for importer, imported in (line.split(" -> ") for line in ignored):
        assert graph.direct_import_exists(importer=importer, imported=imported), "an exception of nothing"
        graph.remove_import(importer=importer, imported=imported)
    imports: dict[str, set[str]] = {}
    for module in graph.modules:
        needed = imports.setdefault(module, set())
        for imported in graph.find_modules_directly_imported_by(module):
            parts = imported.split(".")
            above = {".".join(parts[:depth]) for depth in range(1, len(parts))}
            needed |= {imported} | {name for name in above if not f"{module}.".startswith(f"{name}.")}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_import_goes_in_a_circle() -> None:
    """The exceptions are those of the import contract, and each of them closes a circle."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (ignored,) = (
        contract.get("ignore_imports", []) for contract in contracts if "circles" in contract["name"]
    )
    assert circle_in("fedsim", ignored) == []
    for needed in ignored:
        circle = circle_in("fedsim", [other for other in ignored if other != needed])
        assert needed in [f"{a} -> {b}" for a, b in pairwise(circle)]


@pytest.mark.parametrize(
    ("circular", "circle"),
    [
        ("a", {"A.a", "A.b"}),  # a function's import closes it
        ("types", {"A.c", "A.d"}),  # an import for types alone
        (
            "init",
            {"A.e", "A.f"},
        ),  # the package's `__init__` imports the one, which imports the other one's package
        ("", set()),
    ],
)
def test_a_circle_is_found(
    circular: str, circle: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"circular_{circular or 'not'}"
    modules = {
        "__init__": "",
        "a": f"from {name} import b" if circular == "a" else "",
        "b": f"def f():\n    from {name} import a",
        "c": f"from {name} import d",
        "d": f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {name} import c"
        if circular == "types"
        else "",
        "e/__init__": f"from {name}.e.inner import x" if circular == "init" else "",
        "e/inner": f"from {name}.f import y\nx = 1",
        "e/other": "z = 1",
        "f": f"from {name}.e.other import z\ny = 1",
    }
    for path, text in modules.items():
        file = tmp_path / name / f"{path}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = circle_in(name, [])
    assert {module.replace(name, "A") for module in found} >= circle
    assert bool(found) == bool(circle)


def test_fedsim_itself_loads_neither_pytorch_nor_flower() -> None:
    code = "import sys, fedsim, fedsim.cli; print([m for m in ('torch', 'flwr', 'flwr_datasets') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_users_modules_may_have_the_names_of_ours(tmp_path: Path) -> None:
    """A `server.py`, `clients/` and `privacy/` beside a script are the script's; fedsim trains with its own."""
    (tmp_path / "server.py").write_text("WHOSE = 'the user'")
    for name in ("clients", "privacy", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this is not fedsim')")
    (tmp_path / "script.py").write_text(
        "import fedsim, server\n"
        "run = fedsim.run(fedsim.Experiment(rounds=1, server={'cohort': 2}))\n"
        "print(server.WHOSE, len(run.rows))"
    )
    result = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stdout == "the user 1\n"
    (tmp_path / "e.toml").write_text("rounds = 1")
    command = [sys.executable, "-m", "fedsim.cli", "run", "e.toml", "--out", "run"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, (tmp_path / "run" / "metrics.jsonl").exists()) == (0, True), result.stderr


def test_validation_imports_no_library_for_accounting() -> None:
    code = (
        "import sys, fedsim\n"
        "tables = {'dp-sgd': {'delta': 1e-5}, 'dp-fedavg': {'delta': 1e-3, 'clip': 1.0}, 'local-dp': {'delta': 1e-3, 'clip': 1.0}}\n"
        "for name, table in tables.items():\n"
        "    fedsim.Experiment.from_dict({'privacy': {name: {**table, 'epsilon': 1.0}}})\n"
        "heavy = ('torch', 'flwr', 'scipy', 'dp_accounting', 'opacus', 'cryptography')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"
