"""The network of Opacus' MNIST example (its examples/mnist.py, 26,010 parameters)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.tasks import Task

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels


class OpacusMnist(nn.Module):
    """Two convolutions, each with ReLU and a maximum over 2x2 at stride 1, and two linear layers.

    Images `(B, 1, 28, 28)` from 0 to 1, standardised; then, by `(channels, height, width)`: `(16, 14, 14)` by an
    8x8 convolution of stride 2 padded by 3, `(16, 13, 13)`, `(32, 5, 5)` by a 4x4 convolution of stride 2,
    `(32, 4, 4)`; 32 hidden units with ReLU, 10 logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 8, stride=2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),
            nn.Conv2d(16, 32, 4, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),
        )
        self.head = nn.Sequential(nn.Linear(32 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, 10)` of images `(B, 1, 28, 28)`."""
        logits: Tensor = self.head(self.convolutions((x - MEAN) / DEVIATION).flatten(1))
        return logits


def model(task: Task) -> nn.Module:
    """Return the network; raises `ValueError` for anything but 28x28 grey images."""
    if task.inputs.shape != (1, 28, 28):
        raise ValueError(f"images are {task.inputs.shape}; (1, 28, 28) is needed")
    return OpacusMnist().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
