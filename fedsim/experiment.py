"""The experiment: one complete, frozen description of a run, from TOML or from Python.

The same experiment runs on every engine. An invalid one (an unknown key, a wrong type, a value out of range, an invalid
combination) is refused here, before a run.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import ValidationError, model_validator

from fedsim.checks import problems_of
from fedsim.errors import Refused
from fedsim.overrides import apply_overrides, resolve_path, seen_from_here
from fedsim.privacy.settings import invalid_at, one_line
from fedsim.sections import ExperimentTables
from fedsim.tables import without_unset


class Experiment(ExperimentTables):
    """One experiment. Without arguments: the quickstart, digits by 50 Dirichlet clients.

    >>> Experiment(rounds=3).server.cohort
    10
    """

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        for problem in problems_of(self):
            raise invalid_at(*problem)
        return self

    @property
    def own_code(self) -> dict[str, str]:
        """References to the user's own code, `"module:attribute"`, by key."""
        return own_code_in(self.model_dump(by_alias=True))

    def check_importable(self, cure: str = "") -> None:
        """Refuse code in the main module, which other processes have another of; `cure` is what else is allowed."""
        for key, reference in self.own_code.items():
            if reference.startswith("__main__:"):
                raise Refused(
                    f"{key} = {reference!r}: is in the main module, a script or a notebook, which worker processes "
                    f"can't import; allowed: in a module (file) of its own{cure and f', or {cure}'}"
                )

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
        """Read an experiment file: TOML, in which relative paths start at the file's folder.

        Overrides are `"section.key=value"`, each key once; a relative `data.path` of theirs starts at the current folder.

        Raises:
            Refused: The file is missing, malformed or invalid.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise Refused(f"experiment file {str(path)!r}: {reason}; a TOML file is needed") from None
        return cls.from_toml(text, seen_from_here(overrides, text), folder=file.parent, origin=str(path))

    @classmethod
    def from_toml(
        cls, text: str, overrides: Iterable[str] = (), *, folder: str | Path = ".", origin: str = "experiment"
    ) -> Experiment:
        """Read an experiment from TOML text; `folder` is where relative paths start, `origin` names it in errors.

        Raises:
            Refused: The text is malformed or invalid.
        """
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Refused(f"{origin}: not valid TOML: {error}") from None
        if "sweep" in tree:
            raise Refused(
                f"{origin}: is a sweep file, with a table [sweep]; run it with fedsim sweep {origin}"
            )
        apply_overrides(tree, overrides)
        resolve_path(tree, Path(folder))
        return cls.from_dict(tree)

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Experiment:
        """Build an experiment from nested dictionaries with TOML keys; raises `Refused` if it is invalid."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise Refused(one_line(error, cls)) from None

    @classmethod
    def from_run_config(cls, config: Mapping[str, Any]) -> Experiment:
        """Read the experiment in Flower's run config.

        `experiment` is TOML text or a file's path (a single line that ends in .toml). `set` holds overrides,
        separated by spaces as in a shell.
        """
        text = str(config.get("experiment", ""))
        overrides = shlex.split(str(config.get("set", "")))
        if "\n" not in text and text.endswith(".toml"):
            return cls.load(text, overrides)
        return cls.from_toml(text, overrides)

    def to_toml(self) -> str:
        """Return the experiment as TOML with all defaults, without unset options."""
        return tomli_w.dumps(without_unset(self.model_dump(by_alias=True)))

    def to_run_config(self) -> dict[str, str]:
        """Return the experiment as a Flower run config."""
        return {"experiment": self.to_toml(), "set": ""}


NAMES_CODE = (
    "data.source",
    "task.name",
    "model.name",
    "algorithm.name",
    "transforms.*.name",
    "client.optimizer",
    "client.schedule",
    "server.strategy",
    "server.sampling",
    "server.schedule",
    "privacy.own.use",
)
"""Keys that may name the user's own code; `*` is each table of a list."""


def own_code_in(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return the references to the user's own code in nested dictionaries with TOML keys, by key; nothing is loaded."""
    found: dict[str, str] = {}
    for key in NAMES_CODE:
        values: dict[str, Any] = {"": tree}
        for part in key.split("."):
            values = {
                f"{path}.{name}".lstrip("."): value
                for path, table in values.items()
                for name, value in _members(table, part)
            }
        found |= {path: value for path, value in values.items() if isinstance(value, str) and ":" in value}
    return found


def _members(table: object, part: str) -> Iterable[tuple[str, Any]]:
    """Return the key and value of a table, or with `*` all tables of a list, each with its index."""
    if part == "*":
        return [(str(i), value) for i, value in enumerate(table)] if isinstance(table, list | tuple) else []
    return [(part, table[part])] if isinstance(table, Mapping) and part in table else []
