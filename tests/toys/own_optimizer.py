"""A user's own optimizer and schedule: one file outside fedsim, which an experiment file names.

[client]
optimizer = "tests.toys.own_optimizer:NoisySigns"
schedule = "tests.toys.own_optimizer:triangle"

[client.optimizer-options]
memory = 0.8
"""

import torch


class NoisySigns:
    """Steps by the signs of a running mean of the gradient, which is blurred by random numbers."""

    def __init__(
        self, parameters: list[torch.nn.Parameter], lr: float, memory: float = 0.9, blur: float = 0.0
    ) -> None:
        self.parameters, self.lr, self.memory, self.blur = parameters, lr, memory, blur
        self.means = [torch.zeros_like(p) for p in parameters]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for parameter, mean in zip(self.parameters, self.means, strict=True):
            if parameter.grad is not None:
                mean.lerp_(parameter.grad, 1 - self.memory)
                noise = self.blur * torch.randn_like(mean)
                parameter.add_(torch.sign(mean + noise), alpha=-self.lr)


def triangle(round_: int, rounds: int, peak: float = 0.5) -> float:
    """Return the factor on the learning rate: up to 1 at a share `peak` of the rounds, then down."""
    at = round_ / (rounds + 1)
    return at / peak if at < peak else (1 - at) / (1 - peak)
