"""Regression: one or several real numbers for each input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fedsim.catalogue import Targets
from fedsim.options import RegressionOptions
from fedsim.tasks.metric import Direction, Metric
from fedsim.tasks.task import InputSpec, OutputSpec, Score, inputs_of, outputs_of, targets_of

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.data.federated import Examples
    from fedsim.data.spec import DataSpec

RMSE = Metric(name="rmse", direction=Direction.LOWER)
MAE = Metric(name="mae", direction=Direction.LOWER)
R2 = Metric(name="r2", by_client=False)  # the variance of the targets is undefined for few examples


class Regression:
    """A model returns a number for each of an example's k targets, `(examples, k)`.

    Targets are trained in units that the options say, `t = (y - offset) / scale`, and a model's outputs are in these
    units. With residuals `r = output - t`, an example's loss is the mean over its targets of

    - `mse`: `r^2`;
    - `huber`: `r^2 / 2` where `|r| <= delta`, else `delta (|r| - delta / 2)` (Huber 1964).

    Metrics are in units of y: with residuals `e = scale * r`, for each target the root mean square of e (`rmse`), the
    mean of `|e|` (`mae`) and `1 - sum e^2 / sum (y - mean y)^2` (`r2`), each averaged over the targets, as
    scikit-learn does. `r2` is absent where all examples have the same value of a target.
    """

    targets: ClassVar[Targets] = Targets.VALUES
    metrics: ClassVar[tuple[Metric, ...]] = (RMSE, MAE, R2)
    loss_unit: ClassVar[str] = ""

    def __init__(self, data: DataSpec, options: RegressionOptions) -> None:
        self.inputs = InputSpec.of(data)
        self.outputs = OutputSpec(size=data.values)
        self._options = options

    def tensors(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Return inputs, and targets in trained units, float32 `(examples, k)`."""
        import torch

        y = torch.from_numpy(targets_of(examples, np.float32)).reshape(len(examples), self.outputs.size)
        return inputs_of(examples), (y - self._options.offset) / self._options.scale

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, `(examples,)`."""
        from torch.nn.functional import huber_loss

        residuals = _residuals(outputs, targets)
        if self._options.loss == "mse":
            return residuals.square().mean(1)
        zeros = residuals.new_zeros(residuals.shape)
        return huber_loss(residuals, zeros, reduction="none", delta=self._options.delta).mean(1)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the count, the sum of the losses, and for each target the sums of e^2, |e|, t and t^2."""
        import torch

        outputs = outputs_of(outputs)
        residuals, t = _residuals(outputs.double(), targets.double()), targets.double()
        each = [residuals.square(), residuals.abs(), t, t.square()]
        sums = torch.cat([column.sum(0) for column in each])
        losses = self.losses(outputs, targets).double().sum()
        return torch.cat([torch.stack([losses.new_tensor(len(t)), losses]), sums])

    def score(self, sums: Sequence[float]) -> Score:
        """Return the mean loss and the metrics."""
        count, total, *rest = sums
        k, scale = self.outputs.size, self._options.scale
        squares, absolute, t, t_squares = (rest[i * k : (i + 1) * k] for i in range(4))
        metrics = {
            RMSE.name: scale * math.fsum(math.sqrt(square / count) for square in squares) / k,
            MAE.name: scale * math.fsum(absolute) / count / k,
        }
        spread = [own - one * one / count for one, own in zip(t, t_squares, strict=True)]
        # If all targets are equal, the rounding error is no variance.
        if all(part > 1e-12 * own for part, own in zip(spread, t_squares, strict=True)):
            metrics[R2.name] = math.fsum(1 - s / v for s, v in zip(squares, spread, strict=True)) / k
        return Score(loss=total / count, metrics=metrics, predictions=int(count) * k)


def _residuals(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return outputs less targets, `(examples, k)`; raises `ValueError` if their shapes differ."""
    outputs = outputs_of(outputs)
    if outputs.numel() != targets.numel() or len(outputs) != len(targets):
        raise ValueError(
            f"the model's outputs have shape {tuple(outputs.shape)}, the targets {tuple(targets.shape)}; they must be "
            "as many"
        )
    return outputs.reshape(targets.shape) - targets
