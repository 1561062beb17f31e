"""Buffered asynchronous aggregation: FedBuff (Nguyen et al. 2022), in virtual time."""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedsim.arrays import arrays_in
from fedsim.layout import plus
from fedsim.messages import ARRAYS, METRICS
from fedsim.privacy.cohorts.sampling import Coins
from fedsim.server.aggregation.gathered import gather
from fedsim.server.aggregation.updates import Ask, Collected, NoUpdates, Updates
from fedsim.server.schedules import Schedule

MEAN = math.sqrt(math.pi / 2)  # makes the mean of a half-normal time 1
Training = tuple[int, int]  # a client, and the round of its model


@dataclass(frozen=True)
class Arrived:
    """A client's update and its metrics."""

    change: dict[str, NDArray[np.float64]]  # trained model minus received model, by name
    metrics: Mapping[str, float]


class BufferedMean(Updates):
    """Mean of a buffer's changes, each with its staleness factor, and with weight 1 or its number of examples."""

    def __init__(self, arrived: list[tuple[Arrived, float]], uniform: bool, ask: Ask) -> None:
        self.count = len(arrived)
        updates, factors = [update for update, _ in arrived], [factor for _, factor in arrived]
        weights = [1.0 if uniform else float(update.metrics["num-examples"]) for update in updates]
        weight = sum(weights)
        names = set.intersection(*(set(update.metrics) for update in updates))
        self.reported_sums = {
            name: sum(w * update.metrics[name] for w, update in zip(weights, updates, strict=True))
            for name in sorted(names)
        }
        self.reported = {name: value / weight for name, value in self.reported_sums.items()}
        self._examples = sum(int(update.metrics["num-examples"]) for update in updates)
        self._ask = ask
        shares = [w * factor / weight for w, factor in zip(weights, factors, strict=True)]
        self._mean = {
            name: functools.reduce(
                np.add, (share * update.change[name] for share, update in zip(shares, updates, strict=True))
            )
            for name in ask.layout.model
        }

    def messages(self) -> list[Message]:
        """Return one message with the mean."""
        metrics: dict[str, Any] = {**self.reported, "num-examples": self._examples}
        content = RecordDict({ARRAYS: plus(self._ask.model, self._mean), METRICS: MetricRecord(metrics)})
        return [Message(content, reply_to=self._ask.requests[0])]


class Buffered(Schedule):
    """FedBuff: `concurrency` clients train at any time; every `cohort` arrived updates make the next model.

    When an update arrives, another client begins at once on the newest model, drawn uniformly from those that neither
    train nor have begun on that model. Training times are independent and half-normal with mean 1 (section 5 of the
    paper). An update on a model that is s versions old has the factor (1 + s) ** -staleness_exponent.

    The result of a training does not depend on its time. So all clients that begin on a model are trained in parallel
    at once, and their updates wait for their virtual time.

    Args:
        cohort: Size K of the buffer.
        clients: Number of clients.
        coins: Returns a round's random generator, for clients and times.
        uniform: Whether each update has weight 1, else its number of examples.
        concurrency: From 1 to `clients`; None: twice the cohort, at most `clients`.
        staleness_exponent: At least 0.

    Raises:
        ValueError: `concurrency` is out of its range.
    """

    def __init__(
        self,
        cohort: int,
        clients: int,
        coins: Coins,
        *,
        uniform: bool,
        concurrency: int | None = None,
        staleness_exponent: float = 0.5,
    ) -> None:
        super().__init__()
        if concurrency is not None and not 1 <= concurrency <= clients:
            raise ValueError(f"concurrency = {concurrency}: must be from 1 to the {clients} clients")
        self._cohort = cohort
        self._concurrency = min(2 * cohort, clients) if concurrency is None else concurrency
        self._coins = coins
        self._uniform = uniform
        self._exponent = staleness_exponent
        self._now = 0.0  # in mean times of a training
        self._training: list[tuple[float, int, int]] = []  # a heap: end, client, round of its model
        self._due: list[Training] = []  # arrived, for the next model
        self._round = 0
        self._done: dict[Training, Arrived] = {}
        self._failed: dict[Training, str] = {}

    def draw(self, round_: int, clients: int) -> list[int]:
        """Return the clients that begin to train on the round's model, in ascending order. As `CohortSampling` says."""
        coins, self._round = self._coins(round_), round_
        begun: list[int] = []

        def begin() -> None:
            busy = {client for _, client, _ in self._training}.union(begun)
            idle = [client for client in range(clients) if client not in busy]
            if idle:
                begun.append(idle[coins.integers(len(idle))])
                end = self._now + abs(coins.normal()) * MEAN
                heapq.heappush(self._training, (end, begun[-1], round_))

        for _ in range(self._concurrency - len(self._training)):
            begin()
        for _ in range(self._cohort):
            self._now, client, began = heapq.heappop(self._training)
            self._due.append((client, began))
            begin()
        return sorted(begun)

    def collect(self, ask: Ask) -> Collected:
        """Train the clients that begin, and return the updates that are due. As `Schedule` says."""
        ask.charge(ask.grid.clients)
        round_ = self._round
        updates, failures, events = gather(ask)
        received = arrays_in(ask.model)
        for client, (update, _) in updates.items():
            change = {
                name: np.subtract(array, received[name], dtype=np.float64)
                for name, array in update.records[ARRAYS].items()
            }
            metrics = {name: float(value) for name, value in update.metrics.items()}
            self._done[client, round_] = Arrived(change, metrics)
        self._failed |= {(client, round_): why for client, why in failures.items()}
        due, self._due = self._due, []
        failed = {training[0]: self._failed.pop(training) for training in due if training in self._failed}
        staleness, arrived = [], []
        for training in due:
            if training in self._done:
                staleness.append(round_ - training[1])
                arrived.append((self._done.pop(training), (1.0 + staleness[-1]) ** -self._exponent))
        columns = {"virtual-time": round(self._now, 4)}
        if not arrived:
            return Collected(NoUpdates(ask.layout), failed, events, columns=columns)
        columns["staleness"] = sum(staleness) / len(staleness)
        return Collected(BufferedMean(arrived, self._uniform, ask), failed, events, columns=columns)

    def state(self) -> dict[str, Any]:
        """Return the virtual time, the clients in training, and the updates that wait."""
        return {
            "now": self._now,
            "training": [list(entry) for entry in sorted(self._training)],
            "due": [list(training) for training in self._due],
            "done": {
                f"{client}/{began}": {"change": update.change, "metrics": dict(update.metrics)}
                for (client, began), update in self._done.items()
            },
            "failed": {f"{client}/{began}": why for (client, began), why in self._failed.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._now = state["now"]
        self._training = [(end, client, began) for end, client, began in state["training"]]
        self._done = {
            _training(key): Arrived(tree["change"], tree["metrics"]) for key, tree in state["done"].items()
        }
        self._failed = {_training(key): why for key, why in state["failed"].items()}


def _training(key: str) -> Training:
    client, _, began = key.partition("/")
    return int(client), int(began)
