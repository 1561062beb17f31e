"""Classification: a label for each input, by cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fedsim.catalogue import Targets
from fedsim.options import Options
from fedsim.tasks.metric import ACCURACY, Metric
from fedsim.tasks.task import InputSpec, OutputSpec, Score, inputs_of, targets_of

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.data.federated import Examples
    from fedsim.data.spec import DataSpec


class Classification:
    """A model returns logits z `(..., classes)`; the loss at a label y is `log(sum_k exp(z_k)) - z_y`, in nats."""

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
        return _cross_entropy(outputs, targets, "mean")

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean cross-entropy (nats) over its labels, `(examples,)`."""
        each = _cross_entropy(outputs, targets, "none").view(targets.shape)
        return each if each.dim() == 1 else each.mean(1)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the losses, and how many labels are right, of how many."""
        import torch

        total, correct = _cross_entropy(outputs, targets, "sum"), (outputs.argmax(-1) == targets).sum()
        return torch.stack([total.double(), correct.double(), torch.tensor(targets.numel()).double()])

    def score(self, sums: Sequence[float]) -> Score:
        """Return mean cross-entropy and accuracy."""
        total, correct, count = sums
        return Score(loss=total / count, metrics={ACCURACY.name: correct / count}, predictions=int(count))


def _cross_entropy(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction=reduction)
