"""FedAvg: clients train the model that they receive (McMahan et al. 2017); nothing travels beside it."""

from __future__ import annotations

from fedsim.algorithms.protocol import Algorithm, Fields, Job, Trained


class FedAvg(Algorithm):
    """Local training of the received model.

    With the strategies of the server it is FedProx, FedAvgM, FedAdam and their like.
    """

    def train(self, job: Job) -> tuple[Trained, Fields]:
        """Train. As `Algorithm` says."""
        return job.train(), {}
