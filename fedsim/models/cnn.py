"""The convolutional network of McMahan et al. 2017."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedsim.errors import Refused
from fedsim.options import CnnOptions
from fedsim.tasks import Task


class Cnn(nn.Module):
    """Two 5x5 convolutions with pooling, and one hidden layer.

    With x of shape `(B, C, H, W)` (batch, channels, height, width), for each of the two blocks:

    - convolution, stride 1, padded by 2 so that height and width stay:
      `z[b, k, i, j] = bias[k] + sum_{c, u, v} weight[k, c, u, v] * x[b, c, i + u - 2, j + v - 2]`,
      weight `(K, C, 5, 5)`, zero outside the image; K is 32, then 64;
    - maximum over 2x2, stride 2, height and width halved and rounded down;
    - group normalisation, if asked for: over groups of channels, so one example at a time;
    - `max(0, z)`.

    Then `(B, 64 * (H // 4) * (W // 4))` flattened, 512 hidden units with ReLU, and the logits `(B, classes)`. `width`
    is a factor on 32, 64 and 512, and `hidden` replaces the last. Pooling comes before ReLU: both are monotone, so
    the result is the same and a quarter of the work is saved. On 28x28 images it has the paper's 1,663,370
    parameters. There is no batch norm: its running statistics would mix examples, which example-level privacy
    forbids, and clients, which differ in labels.

    Raises:
        Refused: The images are smaller than 4x4.
    """

    def __init__(self, task: Task, options: CnnOptions) -> None:
        super().__init__()
        channels, height, width = task.inputs.shape
        if min(height, width) < 4:
            raise Refused(f"model.name = 'cnn': images are {height}x{width}; at least 4x4 is needed")
        first, second, hidden = (max(round(size * options.width), 1) for size in (32, 64, 512))
        hidden = options.hidden or hidden
        self.block1 = _block(channels, first, options.group_norm)
        self.block2 = _block(first, second, options.group_norm)
        self.hidden = nn.Linear(second * (height // 4) * (width // 4), hidden)
        self.output = nn.Linear(hidden, task.outputs.size)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, classes)` of images `(B, C, H, W)`."""
        x = self.block2(self.block1(x))
        logits: Tensor = self.output(torch.relu(self.hidden(x.flatten(1))))
        return logits


def _block(inputs: int, outputs: int, group_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel_size=5, padding=2), nn.MaxPool2d(2)]
    if group_norm:
        layers.append(nn.GroupNorm(math.gcd(outputs, 8), outputs))
    return nn.Sequential(*layers, nn.ReLU())
