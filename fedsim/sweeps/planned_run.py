"""A planned run of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedsim.experiment import Experiment


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        name: Name of its directory, below `runs/`.
        point: The varied settings, by key.
        sha256: Hash of the experiment, as in the run's manifest.
    """

    name: str
    arm: str
    point: Mapping[str, Any]
    seed: int
    experiment: Experiment
    sha256: str

    @property
    def work(self) -> int:
        """Relative duration: local epochs, or steps, of all rounds."""
        experiment, client = self.experiment, self.experiment.client
        return experiment.rounds * experiment.server.cohort * (client.steps or client.epochs)
