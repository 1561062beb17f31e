"""When a run has learned enough to end before its last round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedsim.sections import ServerSection


@dataclass
class Stopping:
    """What `server.patience` goes by; a part of a run's checkpoint.

    Attributes:
        best_loss: The lowest test loss so far.
        evaluations_since_best: How many have not been lower since.
    """

    best_loss: float = float("inf")
    evaluations_since_best: int = 0

    def is_enough(self, server: ServerSection, scores: Mapping[str, float]) -> bool:
        """Note an evaluation, and say whether `target-accuracy` or `patience` ends the run.

        Args:
            server: Has the target and the patience.
            scores: On the central test set, by the names of a row.
        """
        if scores["loss"] < self.best_loss:
            self.best_loss, self.evaluations_since_best = scores["loss"], 0
        else:
            self.evaluations_since_best += 1
        reached = server.target_accuracy is not None and scores["accuracy"] >= server.target_accuracy
        return reached or (server.patience is not None and self.evaluations_since_best >= server.patience)
