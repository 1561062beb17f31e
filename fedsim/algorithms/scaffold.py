"""SCAFFOLD: control variates against the drift of clients (Karimireddy et al. 2020, Algorithm 1, option II)."""

from __future__ import annotations

import numpy as np
import torch

from fedsim.algorithms.protocol import Algorithm, Arrays, Field, Fields, Job

CONTROL = "control"
SMALL_SHARE = 0.2  # fraction of the clients in a round; below it, most control variates are many rounds old


class Scaffold(Algorithm):
    """SCAFFOLD.

    The server has a control variate c, each client i its own, c_i; both have the shapes of the trained parameters and are
    initially zero. After each step of the optimizer, which may have momentum or be another than SGD, the client moves
    its weights by `-learning_rate * (c - c_i)`; with plain SGD that is the paper's corrected gradient. Afterwards c_i
    becomes `c_i - c + (received - trained) / (steps * learning_rate)`, and c changes by the sum of the clients' changes
    divided by the number of all clients, so that c is the mean of all c_i.

    Args:
        control_scale: Factor of a control variate in the vector of the model's update; above 0. With
            `steps * learning_rate` both have the same size in a client's first round.
    """

    def __init__(self, control_scale: float = 1.0) -> None:
        self.fields = {CONTROL: Field(scale=control_scale, kept=True)}

    def init(self, parameters: Arrays) -> Fields:
        """Return control variates of zeros. As `Algorithm` says."""
        return {CONTROL: {name: np.zeros_like(values, order="C") for name, values in parameters.items()}}

    def train(self, job: Job) -> Fields:
        """Train with corrected steps. As `Algorithm` says."""
        control, own = job.fields[CONTROL], job.own[CONTROL]
        received = {name: parameter.detach().clone() for name, parameter in job.parameters.items()}
        corrections = [
            (parameter.detach(), torch.from_numpy(control[name] - own[name]).mul_(job.learning_rate))
            for name, parameter in job.parameters.items()
        ]

        def correct() -> None:
            for weights, correction in corrections:
                weights.sub_(correction)

        taken = job.train(after_step=correct) * job.learning_rate
        change = {}
        for name, parameter in job.parameters.items():
            gradient = (received[name] - parameter.detach()) / taken
            change[name] = np.ascontiguousarray(gradient.numpy()) - control[name]
        return {CONTROL: change}

    def update(self, fields: Fields, change: Fields, share: float) -> Fields:
        """Return the mean of all clients' control variates. As `Algorithm` says."""
        control = {
            name: np.add(old, share * change[CONTROL][name]).astype(old.dtype)
            for name, old in fields[CONTROL].items()
        }
        return {CONTROL: control}

    def warning(self, share: float) -> str:
        """Return why control variates may be too old. As `Algorithm` says."""
        if share >= SMALL_SHARE:
            return ""
        return (
            f"{share:.0%} of the clients take part in a round, so that most control variates are about {1 / share:.0f} rounds "
            "old; published runs of SCAFFOLD collapse so (NIID-Bench: 10% accuracy with a tenth of 100 clients)"
        )
