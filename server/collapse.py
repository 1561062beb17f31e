"""Detects a model that collapses in training, as with some algorithms on very uneven clients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedsim.tasks import Metric


@dataclass
class Collapse:
    """Compares each evaluation on the test set with the first one and the best one.

    Attributes:
        first: Headline metric and loss of the first evaluation; None before it.
        best_loss: Lowest loss so far.
        reported: Whether a collapse was reported and the model has not recovered since.
    """

    first: tuple[float, float] | None = None
    best_loss: float = math.inf
    reported: bool = False

    def warning(self, metric: Metric, scores: Mapping[str, float]) -> str:
        """Return a warning at the first evaluation of a collapse, else an empty string.

        The model has collapsed if its loss is not finite; or if it scores no better than the first one, and the loss
        had fallen by a fifth or has doubled.

        Args:
            metric: The task's headline metric.
            scores: Of the model, with the metric and `loss`.
        """
        value, loss = scores[metric.name], scores["loss"]
        self.first = self.first or (value, loss)
        self.best_loss = min(self.best_loss, loss)
        first_value, first_loss = self.first
        no_better = metric.best([value, first_value]) == first_value and loss > first_loss
        far_off = self.best_loss < 0.8 * first_loss or loss > 2 * first_loss
        collapsed = not math.isfinite(loss) or (no_better and far_off)
        is_news, self.reported = collapsed and not self.reported, collapsed
        if not is_news:
            return ""
        return (
            f"the model has collapsed: {metric.name} {value:.4g} and loss {loss:.4g} after {first_value:.4g} and "
            f"{first_loss:.4g} at first; a smaller client.learning-rate or fewer local steps may help"
        )
