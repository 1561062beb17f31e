"""A user's own algorithm: one file outside fedsim, which an experiment file names.

FedCM (Xu et al. 2021): each local step mixes the client's gradient with the mean gradient of the round before, which the
server sends beside the model.

[algorithm]
name = "tests.toys.own_algorithm:FedCM"
alpha = 0.2

[server]
weighting = "uniform"
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedsim.algorithms import Algorithm, Arrays, Field, Job

Fields = dict[str, dict[str, NDArray[Any]]]


class FedCM(Algorithm):
    """FedCM; the server's step is that of the strategy, with FedAvg the mean of the trained models.

    Args:
        alpha: Weight of a client's own gradient in its steps, above 0, at most 1; with 1 it is FedAvg.
        scale: What a unit of the mean gradient counts beside a unit of the model, above 0.
    """

    def __init__(self, alpha: float = 0.1, scale: float = 1.0) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha = {alpha}: must be above 0, at most 1")
        self.alpha = alpha
        self.fields = {"momentum": Field(scale=scale)}

    def init(self, parameters: Arrays) -> Fields:
        return {"momentum": {name: np.zeros_like(values) for name, values in parameters.items()}}

    def train(self, job: Job) -> Fields:
        momentum = {name: torch.tensor(values) for name, values in job.fields["momentum"].items()}
        received = {name: parameter.detach().clone() for name, parameter in job.parameters.items()}
        last = {name: weights.clone() for name, weights in received.items()}

        def mix() -> None:
            for name, parameter in job.parameters.items():
                weights = parameter.detach()
                step = self.alpha * (last[name] - weights)
                weights.copy_(last[name] - step - (1 - self.alpha) * job.learning_rate * momentum[name])
                last[name].copy_(weights)

        taken = job.train(after_step=mix) * job.learning_rate
        change = {name: (received[name] - last[name]) / taken - momentum[name] for name in momentum}
        return {"momentum": {name: tensor.numpy() for name, tensor in change.items()}}

    def update(self, fields: Any, change: Any, share: float) -> Fields:
        old, mean = fields["momentum"], change["momentum"]
        return {"momentum": {name: old[name] + mean[name] for name in old}}
