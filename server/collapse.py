"""A run that unlearns what it had learned, as some algorithms do on very uneven clients: told when it happens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedsim.tasks import Metric


@dataclass
class Collapse:
    """Watches the headline metric on the test set.

    Attributes:
        best: Its best value so far; None before the first evaluation.
        told: Whether a collapse was told, and the metric has not recovered since.
    """

    best: float | None = None
    told: bool = False

    def warning(self, metric: Metric, scores: Mapping[str, float]) -> str:
        """Return what is to be told after an evaluation; empty where there is nothing.

        A collapse is a loss that is not finite, or a metric that is less than half as good as its best.

        Args:
            metric: The task's headline metric.
            scores: Of the model, with the metric and `loss`.
        """
        value = scores[metric.name]
        best = self.best = metric.best([value] if self.best is None else [value, self.best]) or 0.0
        fallen = value > 2 * best if metric.lower_is_better else value < best / 2
        collapsed = not math.isfinite(scores["loss"]) or (best > 0 and fallen)
        first, self.told = collapsed and not self.told, collapsed
        if not first:
            return ""
        return (
            f"the model has collapsed: {metric.name} {value:.4g} after a best of {best:.4g}, loss {scores['loss']:.4g}; a "
            "smaller client.learning-rate or fewer local steps may help"
        )
