"""The round loop: draw a cohort, train, aggregate, evaluate, write a row."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.algorithms.protocol import Fields
from fedsim.arrays import Values, arrays_in, record_of
from fedsim.errors import RunFailed
from fedsim.experiment import Experiment
from fedsim.layout import Layout, plus
from fedsim.messages import ARRAYS, METRICS
from fedsim.privacy.account import Account
from fedsim.privacy.cohorts.sampling import CohortSampling
from fedsim.privacy.events import Noise
from fedsim.privacy.halves import ServerHalf
from fedsim.results.disclosure import PUBLIC
from fedsim.secagg.messages import REFUSED
from fedsim.sections.privacy import metric_terms
from fedsim.server.aggregation.replies import AWAY, DIVERGED, is_injected
from fedsim.server.aggregation.updates import Aggregator, Ask, Collected, NoUpdates, Updates
from fedsim.server.enrolment import Enrolment
from fedsim.server.evaluation import Collapse, Evaluation, Stopping
from fedsim.server.fields import ServerFields
from fedsim.server.grids import CohortGrid
from fedsim.server.model import ServerModel
from fedsim.server.strategies import calling

RELEASED = "released-"  # prefix of a noised metric's column

log = logging.getLogger(__name__)


@dataclass
class Federation:
    """A run's model, its state and its parts.

    Attributes:
        strategy: Turns a round's updates into the next model.
        arrays: The global model.
        half: The server's part of the mechanism.
        layout: Of an update.
        fields: The algorithm's, beside the model.
        share: Expected share of the clients in a cohort.
        model: Separates its parameters and statistics.
        begin: Called with a round before any of its clients is asked to train.
        done: The last completed round.
        released: The last round with a release that can't be repeated. Rounds up to it that are not completed are
            abandoned.
        tried: The last round that was begun.
        over: Whether early stopping has ended the run.
        diverged: Why the last round diverged, if it did.
    """

    experiment: Experiment
    grid: Grid
    enrolment: Enrolment
    strategy: Strategy
    arrays: ArrayRecord
    evaluation: Evaluation
    account: Account
    half: ServerHalf
    sampling: CohortSampling
    aggregator: Aggregator
    layout: Layout
    fields: ServerFields
    share: float
    model: ServerModel = field(default_factory=ServerModel)
    begin: Callable[[int], None] = lambda round_: None
    done: int = 0
    released: int = 0
    tried: int = 0
    over: bool = False
    diverged: str = ""
    stopping: Stopping = field(default_factory=Stopping)
    collapse: Collapse = field(default_factory=Collapse)

    @property
    def mechanism(self) -> str:
        """The privacy mechanism's name, for messages."""
        return self.experiment.privacy.mechanism.name

    @property
    def finished(self) -> bool:
        """Whether no rounds remain."""
        return self.over or self.done >= self.experiment.rounds

    @property
    def failed(self) -> bool:
        """Whether the last round ends the run: it diverged, and `server.on-divergence` says so."""
        return bool(self.diverged) and self.experiment.server.on_divergence == "stop"

    @property
    def charged(self) -> int:
        """Rounds that cost privacy: completed ones, and with the operating system's noise one that has begun."""
        if Noise(self.experiment.privacy.noise) is Noise.SEEDED:
            return self.done
        return max(self.done, self.released, self.tried)

    def run(self, write: Callable[[dict[str, Any]], None], stop: Callable[[], bool] = lambda: False) -> None:
        """Run the remaining rounds, until `stop()` before one of them is true; `write` gets each completed round's row.

        Raises:
            RunFailed: A round diverged, after its row was written; all clients of a round failed and not by injected
                faults (with secure aggregation the run continues); or the strategy failed, or returned no valid model.
        """
        while not self.finished and not stop():
            round_ = self.tried = self.done + 1
            self.diverged = ""
            row = self._abandoned(round_) if round_ <= self.released else self._round(round_)
            self.done = round_
            write(row)
            if self.failed:
                raise RunFailed(
                    f"round {round_}: diverged: {self.diverged}; a smaller client.learning-rate may help, and "
                    "server.on-divergence = 'go-on' goes on"
                )
            if self.diverged:
                log.warning("round %d: diverged: %s", round_, self.diverged)

    def _round(self, round_: int) -> dict[str, Any]:
        """Run one round and return its row."""
        started = time.perf_counter()
        try:
            row = {"round": round_} | self._train(round_)
            scores: dict[str, float] = {}
            if self.evaluation.is_due(round_):
                scores = self.evaluation.scores(round_, self.arrays, self.grid, self.enrolment, self.strategy)
                row |= scores | self.account.row(round_)
        except Exception as error:
            error.add_note(f"in round {round_} with strategy {self.experiment.server.strategy}")
            raise
        if scores:
            headline = self.evaluation.scoring.headline
            if warning := self.collapse.warning(headline, scores):
                log.warning("round %d: %s", round_, warning, extra=PUBLIC)
            self.over = self.stopping.is_enough(self.experiment.server, headline, scores)
            if not math.isfinite(scores["loss"]):
                self.diverged = self.diverged or f"the test loss is {scores['loss']}"
        if self.diverged:
            row["diverged"] = True
        return _in_json(row) | {"seconds": round(time.perf_counter() - started, 4)}

    def _abandoned(self, round_: int) -> dict[str, Any]:
        """Return the row of a round that a kill interrupted: it counts as planned, and the model stays unchanged."""
        log.warning("round %d: abandoned: its clients had begun it when the run was interrupted", round_)
        with _failing(f"privacy.{self.mechanism}"):
            self.sampling.abandon(round_, self.enrolment.clients)
            planned = self.half.planned(round_) if self.half.noises else None
            if planned is not None and all(event.round != round_ for event in self.account.ledger):
                self.account.note_released(planned)  # whatever became of its sum
        row = {"round": round_, "clients": 0, "failures": 0, "abandoned": True, "seconds": 0.0}
        return row | (self.account.row(round_) if self.evaluation.is_due(round_) else {})

    def _train(self, round_: int) -> dict[str, Any]:
        """Train one round, update the global model, and return training's part of the row."""
        with _failing(f"privacy.{self.mechanism}"):
            cohort = self.sampling.draw(round_, self.enrolment.clients)
        if not cohort and not self.half.noises:
            return {"clients": 0, "failures": 0}
        online = self._online(cohort)
        spent = self.account.exhausted(online)
        asked = [client for client in online if client not in spent]
        with _failing(f"round {round_}"):
            self.account.check_room(round_, asked)
        grid, requests = self._requests(round_, asked)
        left_out = set(asked) - set(grid.clients)  # by the strategy
        if left_out and self.experiment.privacy.releases:
            raise RunFailed(
                f"round {round_}: server.strategy = {self.experiment.server.strategy!r}: asked {len(requests)} of the "
                f"{len(asked)} drawn clients to train; under privacy.{self.mechanism} it must ask all of them, since "
                "epsilon depends on how they are drawn"
            )
        called = asked and requests
        got = self._collect(round_, grid, requests) if called else Collected(NoUpdates(self.layout))
        got.failures.update((client, AWAY) for client in cohort if client not in online)
        got.failures.update(spent)
        updates = got.updates.count
        failures = len(cohort) - len(left_out) if got.no_sum else len(got.failures)
        unharmed = set(cohort) - left_out - got.failures.keys()  # without a sum, some did nothing wrong
        if online and not (updates or unharmed or self.half.noises):
            self._note_all_failed(round_, got.failures)
        row: dict[str, Any] = {"clients": updates, "failures": failures, **got.columns}
        absent = left_out | got.failures.keys()
        in_sum = [client for client in cohort if client not in absent] if updates else []
        messages: list[Message] = []
        changes: Fields = {}
        share = len(in_sum) / self.enrolment.clients
        if not self.half.noises:
            messages, changes = got.updates.messages(), got.updates.changes()
        elif not got.no_sum:
            messages, changes, columns = self._release(round_, got.updates)
            share = self.share
            row |= columns
        if failures:
            row["failure-reasons"] = got.reasons
        for line in got.reasons:
            log.warning("round %d: train: %s", round_, line)
        metrics = self._aggregate(round_, messages, len(messages) and max(updates, 1))
        if metrics is not None:
            self.diverged = self.fields.update(round_, changes, in_sum, share)
            if "train-loss" in metrics:
                row["train-loss"] = metrics["train-loss"]
        return row

    def _note_all_failed(self, round_: int, failures: Mapping[int, str]) -> None:
        """Let a round without an update be empty where clients failed by injected faults, or are away.

        If others sent NaN or infinity, the round has diverged; `RunFailed` if some failed for another reason. Under
        secure aggregation clients keep their reasons: it is raised if all refused and there are no faults.
        """
        faults = self.experiment.faults
        if self.aggregator.secure:
            if not faults.active and all(why.endswith(REFUSED) for why in failures.values()):
                raise RunFailed(
                    f"round {round_}: all {len(failures)} clients refused, and the model stays as it was; each says why in "
                    "its own log"
                )
            return
        real = {c: why for c, why in failures.items() if why != AWAY and not is_injected(why, faults)}
        other = {c: why for c, why in real.items() if not why.startswith(DIVERGED)}
        for client, why in (other or real).items():
            said = f"all {len(failures)} clients failed in training; the first, client {client}: {why}"
            if other:
                raise RunFailed(f"round {round_}: {said}")
            self.diverged = said
            return

    def _online(self, cohort: list[int]) -> list[int]:
        """Return the online clients of a cohort, once `min-clients` clients of any cohort are online."""
        server, enrolment = self.experiment.server, self.enrolment
        enrolment.refresh()
        least = min(server.min_clients, enrolment.clients)
        enrolment.wait(server.timeout, hoped=least, least=least)
        return [client for client in cohort if client in enrolment.nodes]

    def _requests(self, round_: int, cohort: list[int]) -> tuple[CohortGrid, list[Message]]:
        """Return the requests to a cohort's clients, or those that the strategy chooses, and the grid of these clients.

        For an empty cohort the strategy makes a request to another client, which is not sent: some strategies store
        the model when they make requests, and Flower's sampling would wait forever for a client.
        """
        nodes = self.enrolment.nodes
        grid = CohortGrid(self.grid, {client: nodes[client] for client in cohort or [next(iter(nodes))]})
        config = ConfigRecord({"server-round": round_})
        if self.experiment.server.strategy_entry.needs_initial_loss:
            config["initial-loss"] = True
        config.update(self.account.instructions() | self.half.instructions() | self.model.instructions())
        parameters = self.model.parameters(self.arrays)
        with calling(self.experiment.server.strategy, round_):
            requests = grid.checked(self.strategy.configure_train(round_, parameters, config, grid))
        self.model.add_to(requests, self.arrays)
        self.fields.add_to(requests, grid)
        chosen = [grid.client(request.metadata.dst_node_id) for request in requests]
        return CohortGrid(self.grid, {client: nodes[client] for client in chosen}), requests

    def _collect(self, round_: int, grid: CohortGrid, requests: list[Message]) -> Collected:
        """Train the cohort, and record its clients' releases."""
        self.begin(round_)
        self.half.prefetch(round_)
        ask = Ask(
            grid=grid,
            requests=requests,
            model=self.arrays,
            layout=self.layout,
            charge=lambda clients: self.account.charge(round_, clients),
            timeout=self.experiment.server.timeout,
            planned={} if self.aggregator.secure else self.account.planned(round_, grid.clients),
        )
        got = self.aggregator.collect(ask)
        self.account.note_reported(got.events)
        return got

    def _release(self, round_: int, updates: Updates) -> tuple[list[Message], Fields, dict[str, Any]]:
        """Noise the sums of a round's updates and metrics, and record the release before it is used.

        Return one message with the mean update, the fields' mean changes, and the columns of released metrics.
        """
        with _failing(f"round {round_}"):
            self.account.check_room(round_)
        terms = metric_terms(self.experiment.privacy)
        reported = {name: updates.reported_sums.get(term, 0.0) for name, term in terms.items()}
        with _failing(f"privacy.{self.mechanism}"):
            mean, released, event = self.half.release(updates.sums(), round_, reported)
        self.account.note_released(event)
        model, changes = self.layout.separate(mean)
        others = {name: value for name, value in updates.reported.items() if name not in terms.values()}
        metrics = MetricRecord({**others, "num-examples": self.experiment.server.cohort})
        content = RecordDict({ARRAYS: plus(self.arrays, model), METRICS: metrics})
        columns = {f"{RELEASED}{name}": value for name, value in released.items()}
        return [Message(content, dst_node_id=0, message_type=MessageType.TRAIN)], changes, columns

    def _aggregate(self, round_: int, replies: list[Message], updates: int) -> MetricRecord | None:
        """Update the global model from the replies, and return the strategy's metrics.

        With too few replies for the strategy, or a next model that is not finite, the model stays unchanged: None.
        """
        server = self.experiment.server
        least = server.strategy_entry.smallest_cohort(server.strategy_options)
        if not self.half.noises:
            least = max(least, min(server.min_clients, self.enrolment.clients))
        if updates < least:
            log.warning("round %d: %d updates; %d are needed", round_, updates, least)
            return None
        statistics = self.model.take_from(replies)
        with calling(server.strategy, round_):
            arrays, metrics = self.strategy.aggregate_train(round_, replies)
        if arrays is not None:
            parameters = _validated_model(arrays, self.model.parameters(self.arrays), round_)
            changed = arrays_in(parameters) | statistics
            if odd := [name for name, new in changed.items() if not _is_finite(new)]:
                self.diverged = f"{odd[0]} of the next model is not finite"
                return None
            self.arrays = self.model.after(self.arrays, changed)
        return metrics


@contextmanager
def _failing(where: str) -> Iterator[None]:
    """Turn a `ValueError` into `RunFailed`."""
    try:
        yield
    except ValueError as error:
        raise RunFailed(f"{where}: {error}") from None


def _validated_model(arrays: ArrayRecord, model: ArrayRecord, round_: int) -> ArrayRecord:
    """Return a strategy's arrays, checked, in the model's dtypes (server optimisers compute in float64)."""
    made = arrays_in(arrays)
    result = {}
    for name, old in model.items():
        if name not in made or made[name].shape != tuple(old.shape):
            raise RunFailed(f"round {round_}: the strategy returned no {name} of shape {tuple(old.shape)}")
        with np.errstate(over="ignore"):  # what becomes infinite is noted
            result[name] = np.asarray(made[name].astype(old.dtype, copy=False))
    return record_of(result)


def _is_finite(array: Values) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _in_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with None in place of NaN and infinities, which JSON lacks."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
