"""Models of fully connected layers."""

from __future__ import annotations

import math

from torch import nn

from fedsim.options import MlpOptions, Options
from fedsim.tasks import Task


def linear(task: Task, options: Options) -> nn.Module:
    """Return one linear layer: multinomial logistic regression, or linear regression.

    `z = x W^T + b`, with x `(batch, inputs)` the flattened input, W `(outputs, inputs)`, b `(outputs,)`; the outputs are
    a task's logits, or its real-valued targets.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.inputs.shape), task.outputs.size))


def mlp(task: Task, options: MlpOptions) -> nn.Module:
    """Return fully connected layers with ReLU between them.

    `h_0 = x` flattened, `h_i = max(0, h_{i-1} W_i^T + b_i)`, outputs `h_n W^T + b`; the default of two layers
    of 200 units is the 2NN of McMahan et al. 2017 (199,210 parameters on 28x28 images).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = math.prod(task.inputs.shape)
    for units in options.hidden:
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, task.outputs.size))
