"""A user's own task: counts, by a Poisson model of their logarithm. An experiment file names it `tests.toys.counts:Counts`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import poisson_nll_loss

from fedsim.data import DataSpec, Examples
from fedsim.tasks import Direction, InputSpec, Metric, OutputSpec, Score, Targets


class Counts:
    """One count for each input; a model returns z, the logarithm of its mean, `(examples, 1)`.

    The loss is the negative logarithm of the Poisson probability, without the term that no model changes: `e^z - y z`.
    """

    targets = Targets.VALUES
    metrics = (Metric(name="mean-error", direction=Direction.LOWER),)
    loss_unit = "nats"

    def __init__(self, data: DataSpec, ceiling: float = 1e6) -> None:
        self.inputs = InputSpec.of(data)
        self.outputs = OutputSpec(size=1)
        self.ceiling = ceiling

    def tensors(self, examples: Examples) -> tuple[Tensor, Tensor]:
        assert examples.y is not None
        return torch.from_numpy(examples.x), torch.from_numpy(examples.y).clamp(max=self.ceiling)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.losses(outputs, targets).mean()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return poisson_nll_loss(outputs[:, 0], targets, reduction="none")

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs[:, 0].double().exp() - targets).abs().sum()
        count = torch.tensor(float(len(targets))).double()
        return torch.stack([count, self.losses(outputs, targets).double().sum(), errors])

    def score(self, sums: Sequence[float]) -> Score:
        count, losses, errors = sums
        return Score(loss=losses / count, metrics={"mean-error": errors / count}, predictions=int(count))
