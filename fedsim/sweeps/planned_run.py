"""One run of a sweep, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedsim.experiment import Experiment


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: Of its directory, below `runs/`.
        arm: The arm that it is of.
        point: The varied settings, by key.
        seed: The experiment's.
        experiment: What runs.
        sha256: Hash of it, as its run's manifest has it.
    """

    name: str
    arm: str
    point: Mapping[str, Any]
    seed: int
    experiment: Experiment
    sha256: str

    @property
    def work(self) -> int:
        """How long it may take, in a unit that only compares: local epochs, or steps, of all rounds."""
        experiment = self.experiment
        return (
            experiment.rounds
            * experiment.server.cohort
            * (experiment.client.steps or experiment.client.epochs)
        )
