"""FedAvg: clients train the model that they receive (McMahan et al. 2017); messages have no extra fields."""

from __future__ import annotations

from fedsim.algorithms.protocol import Algorithm, Fields, Job, Trained


class FedAvg(Algorithm):
    """Local training of the received model; with other strategies, FedProx, FedAvgM, FedAdam and others."""

    def train(self, job: Job) -> tuple[Trained, Fields]:
        """Train. As `Algorithm` says."""
        return job.train(), {}
