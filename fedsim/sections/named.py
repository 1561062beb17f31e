"""The tables that name entries of the catalogue: `[data]`, `[task]`, `[model]`, `[algorithm]`, `[[transforms]]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from fedsim import catalogue
from fedsim.options import keywords
from fedsim.privacy.settings import invalid
from fedsim.sections.options import WithOptions, lookup


class DataSection(WithOptions):
    """Data source, and its partition over clients."""

    finders: ClassVar = {"source": catalogue.find_source, "partition": catalogue.find_partition}
    source: str = "digits"
    """A source's name (see `fedsim data`) or `"module:callable"`."""
    clients: int | None = Field(default=None, ge=1)
    """Number of clients; unset: every user with a partition by user, else one for each of `sizes`, else 50."""
    partition: str = "dirichlet"
    """A partition's name: see `fedsim data`."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of each client's examples that is held out for its evaluation."""

    @model_validator(mode="before")
    @classmethod
    def _fill_clients(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or "clients" in raw:
            return raw
        found = lookup("partition", raw.get("partition", "dirichlet"), catalogue.find_partition)
        if not found or found[0].by_user:
            return raw
        sizes = raw.get("sizes")
        return {**raw, "clients": len(sizes) if isinstance(sizes, list) else 50}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.partition_entry.by_user and not self.source_entry.has_users:
            with_users = ", ".join(name for name, entry in catalogue.SOURCES.items() if entry.has_users)
            raise invalid(
                "partition",
                self.partition,
                f"needs a source whose examples belong to users ({with_users}), not {self.source!r}",
            )
        if self.partition == "grouped-natural" and self.clients is not None:
            raise invalid("clients", self.clients, "is not for grouped-natural, which uses group-size")
        sizes = (self.model_extra or {}).get("sizes")
        if sizes is not None and self.clients is not None and len(sizes) != self.clients:
            raise invalid(
                "sizes", f"{len(sizes)} sizes", f"must be one size for each of the {self.clients} clients"
            )
        return self

    @property
    def source_entry(self) -> catalogue.SourceEntry:
        """The source's entry in the catalogue."""
        return catalogue.find_source(self.source)

    @property
    def partition_entry(self) -> catalogue.PartitionEntry:
        """The partition's entry in the catalogue."""
        return catalogue.find_partition(self.partition)


class TaskSection(WithOptions):
    """The learning task. Without this table: the source's default."""

    finders: ClassVar = {"name": catalogue.find_task}
    name: str
    """A task's name (see `fedsim tasks`) or `"module:callable"`."""

    @property
    def entry(self) -> catalogue.TaskEntry:
        """The task's entry in the catalogue."""
        return catalogue.find_task(self.name)


class ModelSection(WithOptions):
    """The model that every client trains."""

    finders: ClassVar = {"name": catalogue.find_model}
    name: str = "cnn"
    """A model's name (see `fedsim models`) or `"module:callable"`."""
    classes: int | None = Field(default=None, ge=2, le=1_000_000)
    """Number of labels; unset: the data's."""

    @property
    def entry(self) -> catalogue.ModelEntry:
        """The model's entry in the catalogue."""
        return catalogue.find_model(self.name)


class AlgorithmSection(WithOptions):
    """The federated learning algorithm. Without this table: FedAvg."""

    finders: ClassVar = {"name": catalogue.find_algorithm}
    name: str
    """An algorithm's name (see `fedsim algorithms`) or `"module:callable"`."""

    @property
    def entry(self) -> catalogue.AlgorithmEntry:
        """The algorithm's entry in the catalogue."""
        return catalogue.find_algorithm(self.name)


class TransformSection(WithOptions):
    """One transform of a client's update, after its training and before its privacy mechanism."""

    finders: ClassVar = {"name": catalogue.find_transform}
    name: str
    """A transform's name (see `fedsim transforms`) or `"module:callable"`."""

    @property
    def entry(self) -> catalogue.TransformEntry:
        """The transform's entry in the catalogue."""
        return catalogue.find_transform(self.name)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the transform."""
        return keywords(self.pick(self.entry).model_dump(by_alias=True))
