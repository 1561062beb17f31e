"""Evaluates the global model on the central test set and on clients' held-out examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.experiment import Experiment
from fedsim.privacy.cohorts.sampling import draw
from fedsim.server.aggregation.replies import metrics_of
from fedsim.server.enrolment import Enrolment
from fedsim.server.grids.cohort import CohortGrid
from fedsim.streams import numpy_stream
from fedsim.tasks import Metric, Score, Scoring

# Quantiles over clients of the headline metric, for a round's row: the worst client's and three more.
SPREAD = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9}
SPREAD_OF_LOWER = {"p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True)
class Evaluation:
    """Scores the global model after some rounds.

    Attributes:
        experiment: Sets the rounds, and the clients that evaluate.
        scoring: The task's metrics.
        central: Scores a model on the central test set.
    """

    experiment: Experiment
    scoring: Scoring
    central: Callable[[ArrayRecord], Score]

    def is_due(self, round_: int) -> bool:
        """Return whether the model is scored after a round: every `evaluate-every` rounds, and after the last."""
        return round_ % self.experiment.server.evaluate_every == 0 or round_ == self.experiment.rounds

    def scores(
        self, round_: int, arrays: ArrayRecord, grid: Grid, enrolment: Enrolment, strategy: Strategy
    ) -> dict[str, float]:
        """Return the scores of a model, for the round's row.

        Args:
            round_: From 1.
            arrays: The model.
            grid: Reaches the clients.
            enrolment: Knows the online clients.
            strategy: Makes the requests, and averages the replies.
        """
        central = self.central(arrays)
        scores = {**central.metrics, "loss": central.loss}
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
        names = [metric.name for metric in self.scoring.metrics if metric.by_client] + ["loss"]
        means = {f"client-{name}": float(metrics[name]) for name in names}  # type: ignore[arg-type]
        return means | spread(self.scoring.headline, [metrics_of(reply) for reply in scored])

    def _cohort(self, round_: int, online: list[int]) -> list[int]:
        """Return the clients that evaluate: none, a fresh draw of the cohort's size, or all online ones."""
        server = self.experiment.server
        if server.client_evaluation == "none":
            return []
        if server.client_evaluation == "all":
            return online
        generator = numpy_stream(self.experiment.seed, "evaluation-cohort", round_=round_)
        return draw("fixed", server.cohort, len(online), generator)


def spread(metric: Metric, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return quantiles of a metric over the clients that evaluated, unweighted; empty if none reported it."""
    values = [float(record[metric.name]) for record in records if metric.name in record]
    if not values:
        return {}
    names = SPREAD_OF_LOWER if metric.lower_is_better else SPREAD
    quantiles = np.quantile(values, list(names.values()))
    return {f"client-{metric.name}-{n}": float(q) for n, q in zip(names, quantiles, strict=True)}
