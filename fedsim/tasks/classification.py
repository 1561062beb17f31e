"""Classification: a label for each input, by cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedsim.catalogue import Targets
from fedsim.options import Options
from fedsim.tasks.metric import ACCURACY, Metric
from fedsim.tasks.task import InputSpec, OutputSpec, Score, inputs_of, outputs_of, targets_of

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.data.federated import Examples
    from fedsim.data.spec import DataSpec


class Classification:
    """A model returns logits z `(..., classes)`; the loss at a label y is `log(sum_k exp(z_k)) - z_y`, in nats.

    All methods raise `ValueError` where the outputs' shape is not that of the labels and the classes.
    """

    targets: ClassVar[Targets] = Targets.LABELS
    metrics: ClassVar[tuple[Metric, ...]] = (ACCURACY,)
    loss_unit: ClassVar[str] = "nats"

    def __init__(self, data: DataSpec, options: Options) -> None:
        self.inputs = InputSpec.of(data)
        self.outputs = OutputSpec(size=data.classes, per_token=data.per_token)

    def tensors(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Return inputs, and labels int64 `(examples,)`."""
        import torch

        return inputs_of(examples), torch.from_numpy(targets_of(examples, np.int64))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy (nats, a scalar) of logits `(..., classes)` at labels `(...)`."""
        return _cross_entropy(self._logits(outputs, targets), targets, "mean")

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean cross-entropy (nats) over its labels, `(examples,)`."""
        each = _cross_entropy(self._logits(outputs, targets), targets, "none").view(targets.shape)
        return each if each.dim() == 1 else each.mean(1)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the losses, and how many labels are right, of how many."""
        import torch

        logits = self._logits(outputs, targets)
        total, correct = _cross_entropy(logits, targets, "sum"), (logits.argmax(-1) == targets).sum()
        return torch.stack([total.double(), correct.double(), torch.tensor(targets.numel()).double()])

    def score(self, sums: Sequence[float]) -> Score:
        """Return mean cross-entropy and accuracy."""
        total, correct, count = sums
        return Score(loss=total / count, metrics={ACCURACY.name: correct / count}, predictions=int(count))

    def _logits(self, outputs: Any, targets: Tensor) -> Tensor:
        logits = outputs_of(outputs)
        if logits.shape[:-1] != targets.shape or logits.dim() == 0:
            raise ValueError(
                f"the model's outputs have shape {tuple(logits.shape)}, the labels {tuple(targets.shape)}; outputs of "
                f"shape {(*targets.shape, self.outputs.size)} are needed"
            )
        if logits.shape[-1] < self.outputs.size:
            raise ValueError(
                f"the model's outputs have shape {tuple(logits.shape)}: {logits.shape[-1]} for each label, and there are "
                f"{self.outputs.size} classes; task.outputs.size outputs are needed"
            )
        return logits


def _cross_entropy(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction=reduction)
