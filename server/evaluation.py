"""Scores of the global model: on the central test set, and on clients' held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.experiment import Experiment
from fedsim.models import Score
from fedsim.privacy.cohorts.draw import draw
from fedsim.server.aggregation.replies import metrics_of
from fedsim.server.enrolment import Enrolment
from fedsim.server.grids.cohort import CohortGrid
from fedsim.streams import numpy_stream

SPREAD = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9}  # quantiles of the clients' accuracies in a row


@dataclass(frozen=True)
class Evaluation:
    """Scores the global model after the rounds in which that is due.

    Attributes:
        experiment: Says when, and which clients evaluate.
        central: Scores a model on the central test set.
    """

    experiment: Experiment
    central: Callable[[ArrayRecord], Score]

    def is_due(self, round_: int) -> bool:
        """Whether the model is scored after a round: every `evaluate-every` rounds, and after the last."""
        return round_ % self.experiment.server.evaluate_every == 0 or round_ == self.experiment.rounds

    def scores(
        self, round_: int, arrays: ArrayRecord, grid: Grid, enrolment: Enrolment, strategy: Strategy
    ) -> dict[str, float]:
        """Return the scores of a model, for the round's row.

        Args:
            round_: From 1.
            arrays: The model.
            grid: Reaches the clients.
            enrolment: Knows those that are there.
            strategy: Asks the clients, and averages what they answer.
        """
        central = self.central(arrays)
        scores = {"accuracy": central.accuracy, "loss": central.loss}
        return scores | self._on_clients(round_, arrays, grid, enrolment, strategy)

    def _on_clients(
        self, round_: int, arrays: ArrayRecord, grid: Grid, enrolment: Enrolment, strategy: Strategy
    ) -> dict[str, float]:
        cohort = self._cohort(round_, list(enrolment.nodes))
        if not cohort:
            return {}
        view = CohortGrid(grid, {client: enrolment.nodes[client] for client in cohort})
        config = ConfigRecord({"server-round": round_})
        messages = view.checked(strategy.configure_evaluate(round_, arrays, config, view))
        replies = sorted(
            view.send_and_receive(messages, timeout=self.experiment.server.timeout),
            key=lambda reply: view.client(reply.metadata.src_node_id),
        )
        scored = [reply for reply in replies if reply.has_content() and "loss" in metrics_of(reply)]
        metrics = strategy.aggregate_evaluate(round_, scored) if scored else None
        if not metrics:
            return {}
        means = {f"client-{name}": float(metrics[name]) for name in ("accuracy", "loss")}  # type: ignore[arg-type]
        return means | spread([metrics_of(reply) for reply in scored])

    def _cohort(self, round_: int, everyone: list[int]) -> list[int]:
        """Return the clients that evaluate: none, a fresh draw of the cohort's size, or all that are there."""
        server = self.experiment.server
        if server.client_evaluation == "none":
            return []
        if server.client_evaluation == "all":
            return everyone
        generator = numpy_stream(self.experiment.seed, "evaluation-cohort", round_=round_)
        return draw("fixed", server.cohort, len(everyone), generator)


def spread(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how accuracy is spread over the clients that evaluated, all alike; nothing where none said its own."""
    accuracies = [float(record["accuracy"]) for record in records if "accuracy" in record]
    if not accuracies:
        return {}
    values = np.quantile(accuracies, list(SPREAD.values()))
    return {f"client-accuracy-{name}": float(value) for name, value in zip(SPREAD, values, strict=True)}
