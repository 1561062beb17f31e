"""The CNN by which NIID-Bench (Li et al. 2022) trains MNIST: LeNet-5's layers with ReLU and max-pooling."""

from __future__ import annotations

from torch import nn

from fedsim.tasks import Task


def build(task: Task) -> nn.Module:
    """Return the model for images of 28 x 28 pixels: convolutions of 6 and 16 kernels of 5 x 5, then 120 and 84 units."""
    return nn.Sequential(
        nn.Conv2d(task.inputs.shape[0], 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, task.outputs.size),
    )
