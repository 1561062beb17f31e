"""`fedsim budget` with every entry of the catalogue: the command names none itself."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from typer.testing import CliRunner

from fedsim.catalogue import BUDGETS, MECHANISMS
from fedsim.cli import app
from fedsim.privacy.budget import Budget, Table

RUNNER = CliRunner(env={"COLUMNS": "100"})
CLI = Path(__file__).parents[2] / "fedsim" / "cli"


class Toy(Budget):
    """Plan a toy."""

    size: Annotated[int, "N"]
    """How large."""
    kind: Literal["round", "flat"] = "round"
    """What it is."""
    weight: Annotated[float | None, "W"] = None
    """How heavy."""

    def check(self) -> None:
        """Refuse toys of no size."""
        if self.size < 1:
            raise ValueError(f"--size {self.size}: must be 1 or more")

    def to_json(self) -> dict[str, Any]:
        """Return the options."""
        return {"size": self.size, "kind": self.kind, "weight": self.weight}

    def blocks(self) -> Iterator[str | Table]:
        """Yield a paragraph and a table."""
        yield f"*Toy* [of {self.size}], 2 * 3 * 4"
        yield Table("All toys", ("name", "size"), [("a", "1"), ("long", "100")], named=True)


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, "toy", f"{__name__}:Toy")


def budget(line: str, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["budget", *line.split()])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_its_fields_are_options_and_its_docstring_is_the_help() -> None:
    text = budget("toy --help")
    for words in ("Plan a toy.", "--size", "How large.", "[required]", "[round|flat]", "[default: round]"):
        assert words in text
    assert "--out" not in text
    assert [line.split()[1] for line in budget("--help").splitlines() if re.match("│ [a-z]", line)] == [
        *BUDGETS
    ]


def test_numbers_for_machines() -> None:
    expected = {"size": 3, "kind": "flat", "weight": 0.5}
    assert json.loads(budget("toy --size 3 --kind flat --weight 0.5 --json")) == expected


def test_paragraphs_and_tables_for_people() -> None:
    lines = [line.rstrip() for line in budget("toy --size 3").splitlines()]
    assert lines == ["Toy [of 3], 2 * 3 * 4", "", "All toys", "name   size", "a         1", "long    100"]


def test_what_it_refuses() -> None:
    assert budget("toy --size 0", code=2) == "fedsim: --size 0: must be 1 or more\n"
    assert "No such command 'toys'" in budget("toys", code=2)


def test_every_mechanism_has_one_and_the_command_names_none() -> None:
    assert set(MECHANISMS) <= set(BUDGETS)
    names = re.compile("|".join(name.replace("-", "[-_]") for name in BUDGETS))
    assert names.findall((CLI / "budget.py").read_text()) == []
