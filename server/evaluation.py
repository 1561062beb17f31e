"""Evaluates the global model, centrally and on clients; early stopping; a warning when the model collapses."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.messages import METRICS
from fedsim.privacy.cohorts.sampling import draw
from fedsim.sections import ServerSection
from fedsim.server.aggregation.replies import Metrics, in_common, read_scores
from fedsim.server.enrolment import Enrolment
from fedsim.server.grids import CohortGrid
from fedsim.server.strategies import calling
from fedsim.streams import numpy_stream
from fedsim.tasks import Metric, Score, Scoring
from fedsim.tasks.metric import ACCURACY

log = logging.getLogger(__name__)

# Quantiles over clients of the headline metric, for a round's row: the worst client's and three more.
SPREAD = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9}
SPREAD_OF_LOWER = {"p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True)
class Evaluation:
    """Scores the global model after some rounds; `central` scores a model on the central test set."""

    experiment: Experiment
    scoring: Scoring
    central: Callable[[ArrayRecord], Score]

    def is_due(self, round_: int) -> bool:
        """Return whether the model is scored after a round: every `evaluate-every` rounds, and after the last."""
        return round_ % self.experiment.server.evaluate_every == 0 or round_ == self.experiment.rounds

    def scores(
        self, round_: int, arrays: ArrayRecord, grid: Grid, enrolment: Enrolment, strategy: Strategy
    ) -> dict[str, float]:
        """Return the scores of a model after a round, for its row; the strategy averages those of clients."""
        central = self.central(arrays)
        scores = {**central.metrics, "loss": central.loss}
        cohort = self._cohort(round_, list(enrolment.nodes))
        if not cohort:
            return scores
        view = CohortGrid(grid, {client: enrolment.nodes[client] for client in cohort})
        config = ConfigRecord({"server-round": round_})
        name = self.experiment.server.strategy
        with calling(name, round_):
            messages = view.checked(strategy.configure_evaluate(round_, arrays, config, view))
        replies = sorted(
            view.send_and_receive(messages, timeout=self.experiment.server.timeout),
            key=lambda reply: view.client(reply.metadata.src_node_id),
        )
        scored, reports = self._read(round_, replies, view)
        with calling(name, round_):
            metrics = strategy.aggregate_evaluate(round_, scored) if scored else None
        if not metrics:
            return scores
        means = {  # a strategy's own metrics may lack some
            f"client-{name}": float(value)
            for name in (*self._by_client, "loss")
            if isinstance(value := metrics.get(name), int | float)
        }
        return scores | means | spread(self.scoring.headline, reports)

    @property
    def _by_client(self) -> list[str]:
        return [metric.name for metric in self.scoring.metrics if metric.by_client]

    def _read(
        self, round_: int, replies: Sequence[Message], view: CohortGrid
    ) -> tuple[list[Message], list[MetricRecord]]:
        """Return the replies with valid scores, and their metrics; a client with another one is told of."""
        scored: list[tuple[Message, Metrics]] = []
        for reply in replies:
            try:
                metrics = read_scores(reply, self._by_client)
            except ValueError as error:
                client = view.client(reply.metadata.src_node_id)
                log.warning("round %d: evaluate: client %d: %s", round_, client, error)
                continue
            if metrics is not None:
                scored.append((reply, metrics))
        common = in_common([metrics for _, metrics in scored])
        for (reply, _), record in zip(scored, common, strict=True):
            reply.content = RecordDict({METRICS: record})
        return [reply for reply, _ in scored], common

    def _cohort(self, round_: int, online: list[int]) -> list[int]:
        """Return the clients that evaluate: none, a fresh draw of the cohort's size, or all online ones."""
        server = self.experiment.server
        if server.client_evaluation != "cohort" or not online:
            return online if server.client_evaluation == "all" else []
        generator = numpy_stream(self.experiment.seed, "evaluation-cohort", round_=round_)
        return [online[i] for i in draw("fixed", min(server.cohort, len(online)), len(online), generator)]


def spread(metric: Metric, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return quantiles of a metric over the clients that evaluated, unweighted; empty if none reported it."""
    values = [float(record[metric.name]) for record in records if metric.name in record]
    if not values:
        return {}
    names = SPREAD_OF_LOWER if metric.lower_is_better else SPREAD
    quantiles = np.quantile(values, list(names.values()))
    return {f"client-{metric.name}-{n}": float(q) for n, q in zip(names, quantiles, strict=True)}


def check_target(server: ServerSection, scoring: Scoring) -> None:
    """Refuse a `target-accuracy` where the task has no accuracy."""
    if server.target_accuracy is not None and ACCURACY.name not in scoring.names:
        raise Refused(
            f"server.target-accuracy = {server.target_accuracy}: the task {scoring.task!r} has no accuracy; allowed: "
            f"server.target, of its headline metric, {scoring.headline.name}"
        )


@dataclass
class Stopping:
    """State of `server.patience`; part of the checkpoint."""

    best_loss: float = math.inf  # lowest test loss so far
    evaluations_since_best: int = 0

    def is_enough(self, server: ServerSection, headline: Metric, scores: Mapping[str, float]) -> bool:
        """Record the scores of an evaluation, by column, and return whether a target or `patience` ends the run."""
        if scores["loss"] < self.best_loss:
            self.best_loss, self.evaluations_since_best = scores["loss"], 0
        else:
            self.evaluations_since_best += 1
        reached = server.target_accuracy is not None and scores[ACCURACY.name] >= server.target_accuracy
        if server.target is not None and headline.name in scores:
            score = scores[headline.name]
            reached = score <= server.target if headline.lower_is_better else score >= server.target
        return reached or (server.patience is not None and self.evaluations_since_best >= server.patience)


@dataclass
class Collapse:
    """Detects a model that collapses in training, as with some algorithms on very uneven clients."""

    first: tuple[float, float] | None = None  # headline metric and loss
    best_loss: float = math.inf
    reported: bool = False  # and the model has not recovered since

    def warning(self, metric: Metric, scores: Mapping[str, float]) -> str:
        """Return a warning at the first evaluation of a collapse, else an empty string.

        The model has collapsed if its loss is not finite; or if it scores no better than the first one, and the loss
        had fallen by a fifth or has doubled.
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
