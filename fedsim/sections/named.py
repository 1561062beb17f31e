"""The tables that name one entry of the catalogue: `[task]`, `[model]`, `[algorithm]`, `[[transforms]]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from fedsim import catalogue
from fedsim.sections.options import WithOptions, lookup


class TaskSection(WithOptions):
    """The learning task. Without this table: the source's default."""

    name: str
    """A task's name (see `fedsim tasks`) or `"module:callable"`."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return list(lookup("name", raw.get("name"), catalogue.find_task))

    @property
    def entry(self) -> catalogue.TaskEntry:
        """The task's entry in the catalogue."""
        return catalogue.find_task(self.name)


class ModelSection(WithOptions):
    """The model that every client trains."""

    name: str = "cnn"
    """A model's name (see `fedsim models`) or `"module:callable"`."""
    classes: int | None = Field(default=None, ge=2)
    """Number of labels; unset: the data's."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return list(lookup("name", raw.get("name", "cnn"), catalogue.find_model))

    @property
    def entry(self) -> catalogue.ModelEntry:
        """The model's entry in the catalogue."""
        return catalogue.find_model(self.name)


class AlgorithmSection(WithOptions):
    """The federated learning algorithm. Without this table: FedAvg."""

    name: str
    """An algorithm's name (see `fedsim algorithms`) or `"module:callable"`."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return list(lookup("name", raw.get("name"), catalogue.find_algorithm))

    @property
    def entry(self) -> catalogue.AlgorithmEntry:
        """The algorithm's entry in the catalogue."""
        return catalogue.find_algorithm(self.name)


class TransformSection(WithOptions):
    """One transform of a client's update, after its training and before its privacy mechanism."""

    name: str
    """A transform's name (see `fedsim transforms`) or `"module:callable"`."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        return list(lookup("name", raw.get("name"), catalogue.find_transform))

    @property
    def entry(self) -> catalogue.TransformEntry:
        """The transform's entry in the catalogue."""
        return catalogue.find_transform(self.name)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the transform."""
        options = self.pick(self.entry).model_dump(by_alias=True)
        return {key.replace("-", "_"): value for key, value in options.items()}
