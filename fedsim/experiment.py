"""The experiment: one complete, frozen description of a run, from TOML or from Python.

The same experiment runs on every engine. An invalid one (an unknown key, a wrong type, a value out of range, an invalid
combination) is refused here, before a run.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from fedsim.catalogue import AlgorithmEntry, TaskEntry, find_algorithm, find_task
from fedsim.checks import problems_of
from fedsim.errors import Refused
from fedsim.options import Options
from fedsim.overrides import apply_overrides, resolve_path
from fedsim.privacy.settings import Section, invalid, invalid_at, one_line
from fedsim.privacy_sections import PrivacySection, defaults_of
from fedsim.sections import (
    AlgorithmSection,
    ClientSection,
    DataSection,
    FaultsSection,
    ModelSection,
    RuntimeSection,
    ServerSection,
    TaskSection,
    TransformSection,
)
from fedsim.tables import without_unset


class Experiment(Section):
    """One experiment. Without arguments: the quickstart, digits by 50 Dirichlet clients.

    >>> Experiment(rounds=3).server.cohort
    10
    """

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Names the run directory: letters, digits, dot, hyphen, underscore."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of every random draw of the experiment."""
    rounds: int = Field(default=30, ge=1)
    """Rounds of training, at most."""
    data: DataSection = Field(default_factory=DataSection)
    task: TaskSection | None = None
    model: ModelSection = Field(default_factory=ModelSection)
    algorithm: AlgorithmSection | None = None
    transforms: Annotated[tuple[TransformSection, ...], Field(strict=False)] | None = None
    """Transforms of a client's update after training, in this order; unset: none."""
    client: ClientSection = Field(default_factory=ClientSection)
    server: ServerSection = Field(default_factory=ServerSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)
    faults: FaultsSection = Field(default_factory=FaultsSection)
    runtime: RuntimeSection = Field(default_factory=RuntimeSection)

    @model_validator(mode="before")
    @classmethod
    def _set_defaults_of_mechanism(cls, raw: Any) -> Any:
        """Set the mechanism's defaults for keys that the experiment doesn't set."""
        if not isinstance(raw, Mapping):
            return raw
        tree = dict(raw)
        if not isinstance(tree.get("transforms"), list | tuple | None):
            raise invalid("transforms", tree["transforms"], "must be a list of tables, [[transforms]]")
        if not tree.get("transforms"):
            tree.pop("transforms", None)  # an empty list is the same as unset
        for path, value in defaults_of(tree.get("privacy")).items():
            table, _, key = path.partition(".")
            tree[table] = _with_default(tree.get(table, {}), key, value)
        return tree

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        problem = next(iter(problems_of(self)), None)
        if problem is not None:
            raise invalid_at(*problem)
        return self

    # --- task -------------------------------------------------------------------------------------------

    @property
    def task_entry(self) -> TaskEntry:
        """The task's entry in the catalogue: of `[task]`, else the source's default."""
        if self.task is not None:
            return self.task.entry
        source = self.data.source_entry
        return find_task(source.task(self.data.pick(source)))

    @property
    def task_options(self) -> Options:
        """The task's options, typed."""
        entry = self.task_entry
        return entry.options() if self.task is None else self.task.pick(entry)

    # --- algorithm --------------------------------------------------------------------------------------

    @property
    def algorithm_entry(self) -> AlgorithmEntry:
        """The algorithm's entry in the catalogue."""
        return find_algorithm("fedavg") if self.algorithm is None else self.algorithm.entry

    @property
    def algorithm_options(self) -> dict[str, Any]:
        """The algorithm's options, by TOML keys."""
        entry = self.algorithm_entry
        options = entry.options() if self.algorithm is None else self.algorithm.pick(entry)
        return options.model_dump(by_alias=True)

    @property
    def own_code(self) -> dict[str, str]:
        """References to the user's own code, `"module:attribute"`, by key."""
        return own_code_in(self.model_dump(by_alias=True))

    # --- in ---------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
        """Read an experiment file.

        Args:
            path: A TOML file; relative paths in it start at its folder.
            overrides: `"section.key=value"`, each key once.

        Raises:
            Refused: The file is missing, malformed or invalid.
        """
        file = Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise Refused(f"experiment file {str(path)!r}: {reason}; a TOML file is needed") from None
        return cls.from_toml(text, overrides, folder=file.parent, origin=str(path))

    @classmethod
    def from_toml(
        cls,
        text: str,
        overrides: Iterable[str] = (),
        *,
        folder: str | Path = ".",
        origin: str = "experiment",
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
        """Build an experiment from nested dictionaries with TOML keys.

        Raises:
            Refused: It is invalid.
        """
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

    # --- out --------------------------------------------------------------------------------------------

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


def _with_default(table: object, key: str, value: Any) -> object:
    """Return a table, validated or not, with a default for a key; other values are returned unchanged."""
    if isinstance(table, Section):
        return table if key in table.model_fields_set else table.model_copy(update={key: value})
    if not isinstance(table, Mapping) or key in table:
        return table
    return {**table, key: value}
