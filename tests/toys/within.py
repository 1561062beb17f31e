"""A user's own metric: how many predictions are close. An experiment file names it `tests.toys.within:Within`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedsim.data import DataSpec
from fedsim.options import RegressionOptions
from fedsim.tasks import Format, Metric, Score
from fedsim.tasks.regression import Regression

WITHIN = Metric(name="within", format=Format.PERCENT)


class Within(Regression):
    """Regression whose headline metric is the share of predictions that are at most `tolerance` off."""

    metrics = (WITHIN, *Regression.metrics)

    def __init__(self, data: DataSpec, tolerance: float = 50.0, **options: Any) -> None:
        self.settings = RegressionOptions(**options)
        self.tolerance = tolerance
        super().__init__(data, self.settings)

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        close = (self.settings.scale * (outputs - targets)).abs() <= self.tolerance
        return torch.cat([close.sum().double()[None], super().measure(outputs, targets)])

    def score(self, sums: Sequence[float]) -> Score:
        close, *rest = sums
        found = super().score(rest)
        return replace(found, metrics={WITHIN.name: close / found.predictions, **found.metrics})
