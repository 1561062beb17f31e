"""The table `[data]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from fedsim import catalogue
from fedsim.privacy.settings import invalid
from fedsim.sections.options import WithOptions, lookup


class DataSection(WithOptions):
    """Data source, and its partition over clients."""

    source: str = "digits"
    """A source's name (see `fedsim data`) or `"module:callable"`."""
    clients: int | None = Field(default=None, ge=1)
    """Number of clients; unset: every user with a partition by user, else one for each of `sizes`, else 50."""
    partition: str = "dirichlet"
    """A partition's name: see `fedsim data`."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of each client's examples that is held out for its evaluation."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return [
            *lookup("source", raw.get("source", "digits"), catalogue.find_source),
            *lookup("partition", raw.get("partition", "dirichlet"), catalogue.find_partition),
        ]

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
