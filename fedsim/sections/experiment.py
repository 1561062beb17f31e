"""All tables of an experiment, for the checks of their combinations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from fedsim.catalogue import AlgorithmEntry, TaskEntry, find_algorithm, find_task
from fedsim.options import Options
from fedsim.privacy.settings import Section, invalid
from fedsim.sections.client import ClientSection
from fedsim.sections.named import AlgorithmSection, DataSection, ModelSection, TaskSection, TransformSection
from fedsim.sections.privacy import PrivacySection, defaults_of
from fedsim.sections.server import ServerSection
from fedsim.sections.simulation import FaultsSection, RuntimeSection


class ExperimentTables(Section):
    """The tables of an experiment, with the defaults that its mechanism sets."""

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


def _with_default(table: object, key: str, value: Any) -> object:
    """Return a table, validated or not, with a default for a key; other values are returned unchanged."""
    if isinstance(table, Section):
        return table if key in table.model_fields_set else table.model_copy(update={key: value})
    if not isinstance(table, Mapping) or key in table:
        return table
    return {**table, key: value}
