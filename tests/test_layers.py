"""The house rules that a reader of one file can't see: layers, public names, no global randomness."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "privacy": set(),
    "fedsim": {"privacy"},
    "clients": {"fedsim", "privacy"},
    "server": {"fedsim", "privacy"},
    "experiments": {"fedsim", "privacy", "clients", "server"},
}
MODULES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported_packages(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = imported_packages(ast.parse(path.read_text())) & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[package] | {package}


def test_the_check_sees_an_import_upwards() -> None:
    assert imported_packages(ast.parse("def f():\n    from server.app import app")) == {"server"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_global_generator_is_used(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(np|numpy)\.random\.(?!Generator|Philox|PCG64DXSM)\w+", text)
    assert not re.search(r"^\s*(import random|from random import)", text, re.MULTILINE)
    assert not re.search(r"\btorch\.(manual_seed|seed|rand\w*|normal)\(", text)


@pytest.mark.parametrize(
    "name",
    sorted({".".join(path.parent.relative_to(ROOT).parts) for path in MODULES if path.name == "__init__.py"}),
)
def test_public_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for public in module.__all__:
        assert getattr(module, public) is not None


def test_fedsim_itself_loads_neither_pytorch_nor_flower() -> None:
    import subprocess
    import sys

    code = "import sys, fedsim, fedsim.cli; print([m for m in ('torch', 'flwr', 'flwr_datasets') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"
