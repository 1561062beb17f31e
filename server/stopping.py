"""Early stopping: targets and patience."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedsim.errors import Refused
from fedsim.sections import ServerSection
from fedsim.tasks import Metric, Scoring
from fedsim.tasks.metric import ACCURACY


def check_target(server: ServerSection, scoring: Scoring) -> None:
    """Refuse a `target-accuracy` where the task has no accuracy."""
    if server.target_accuracy is not None and ACCURACY.name not in scoring.names:
        raise Refused(
            f"server.target-accuracy = {server.target_accuracy}: the task {scoring.task!r} has no accuracy; allowed: "
            f"server.target, of its headline metric, {scoring.headline.name}"
        )


@dataclass
class Stopping:
    """State of `server.patience`; part of the checkpoint.

    Attributes:
        best_loss: Lowest test loss so far.
        evaluations_since_best: Evaluations without a lower loss since.
    """

    best_loss: float = float("inf")
    evaluations_since_best: int = 0

    def is_enough(self, server: ServerSection, headline: Metric, scores: Mapping[str, float]) -> bool:
        """Record an evaluation, and return whether a target or `patience` ends the run.

        Args:
            server: Sets the targets and the patience.
            headline: The task's headline metric.
            scores: On the central test set, by column.
        """
        if scores["loss"] < self.best_loss:
            self.best_loss, self.evaluations_since_best = scores["loss"], 0
        else:
            self.evaluations_since_best += 1
        reached = server.target_accuracy is not None and scores[ACCURACY.name] >= server.target_accuracy
        if server.target is not None and headline.name in scores:
            score = scores[headline.name]
            reached = score <= server.target if headline.lower_is_better else score >= server.target
        return reached or (server.patience is not None and self.evaluations_since_best >= server.patience)
