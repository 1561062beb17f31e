"""FedAvg: clients train the model that they receive (McMahan et al. 2017); messages have no extra fields."""

from __future__ import annotations

from fedsim.algorithms.protocol import Algorithm, Fields, Job


class FedAvg(Algorithm):
    """Local training of the received model; with other strategies, FedProx, FedAvgM, FedAdam and others."""

    def train(self, job: Job) -> Fields:
        """Train. As `Algorithm` says."""
        job.train()
        return {}
