"""The house rules that neither the linter nor the import contracts see."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("clients", "experiments", "fedsim", "privacy", "server")  # folders of the repository
INITS = [init for package in PACKAGES for init in (ROOT / package).rglob("__init__.py")]
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


def test_fedsim_itself_loads_neither_pytorch_nor_flower() -> None:
    code = "import sys, fedsim, fedsim.cli; print([m for m in ('torch', 'flwr', 'flwr_datasets') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


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
