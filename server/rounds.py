"""The round loop: draw a cohort, train, aggregate, evaluate, write a row; until it is enough."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.arrays import record_of, values_of
from fedsim.errors import RunFailed
from fedsim.experiment import Experiment
from fedsim.privacy.events import Noise
from fedsim.server.account import Account
from fedsim.server.central import Central, Sums, zeros_like
from fedsim.server.cohort import draw, max_cohort_of, secret_generator
from fedsim.server.cohort_account import CohortAccount
from fedsim.server.cohort_grid import CohortGrid
from fedsim.server.correlated import Correlated
from fedsim.server.enrolment import Enrolment
from fedsim.server.evaluation import Evaluation
from fedsim.server.fold import Total, WeightedSum
from fedsim.server.local_account import LocalAccount
from fedsim.server.matrix_account import MatrixAccount
from fedsim.server.replies import AWAY, LATE, Replies, expected_of, expected_vector, metrics_of, read
from fedsim.server.secure_grid import SecureGrid
from fedsim.server.stopping import Stopping
from fedsim.streams import numpy_stream
from fedsim.summed import RELEASED
from fedsim.vectors import CLIPPED, plus, split

log = logging.getLogger(__name__)


@dataclass
class Federation:
    """What the rounds work on, and how far they have come.

    Attributes:
        experiment: Says how.
        grid: Reaches the clients.
        enrolment: Knows the clients, and the nodes of those that are there.
        strategy: Turns a round's updates into the next model.
        arrays: The global model.
        evaluation: Scores the model.
        account: What the rounds cost; None: nothing is to be accounted for.
        central: Noises what the clients' clipped updates sum to; None: nothing is noised here.
        secure: Has clients train by secure aggregation, over the same grid; None: updates come in clear.
        begin: Called with a round before any client is asked to train in it.
        done: Rounds that are whole.
        released: The last round of which something was released that can't be released again: up to it, the
            rounds that are not whole are abandoned.
        tried: The last round that was begun.
        over: Whether they were enough, before the last.
        stopping: Decides that.
    """

    experiment: Experiment
    grid: Grid
    enrolment: Enrolment
    strategy: Strategy
    arrays: ArrayRecord
    evaluation: Evaluation
    account: Account | CohortAccount | MatrixAccount | LocalAccount | None = None
    central: Central | Correlated | None = None
    secure: SecureGrid | None = None
    begin: Callable[[int], None] = lambda round_: None
    done: int = 0
    released: int = 0
    tried: int = 0
    over: bool = False
    stopping: Stopping = field(default_factory=Stopping)

    @property
    def finished(self) -> bool:
        """Whether no round is left."""
        return self.over or self.done >= self.experiment.rounds

    @property
    def charged(self) -> int:
        """How many rounds are spent: those that are whole, and one that has begun where noise is the system's."""
        if Noise(self.experiment.privacy.noise) is Noise.SEEDED:
            return self.done
        return max(self.done, self.released, self.tried)

    def run(self, write: Callable[[dict[str, Any]], None], stop: Callable[[], bool] = lambda: False) -> None:
        """Run the rounds that are left.

        Args:
            write: Called with the row of each round that is whole.
            stop: Asked before each round whether to leave it, and those after it, for later.

        Raises:
            RunFailed: All clients of a round failed (with secure aggregation the run goes on: there are always
                some that may), or the strategy returned what is no model.
        """
        while not self.finished and not stop():
            round_ = self.tried = self.done + 1
            row = self._abandoned(round_) if round_ <= self.released else self._round(round_)
            self.done = round_
            write(row)

    def _round(self, round_: int) -> dict[str, Any]:
        """Run one round and return its row."""
        started = time.perf_counter()
        try:
            row = {"round": round_} | self._train(round_)
            due = self.evaluation.is_due(round_)
            scores = self._evaluate(round_) if due else {}
            cost = self._cost(round_) if due else {}
        except Exception as error:
            error.add_note(f"in round {round_} with strategy {self.experiment.server.strategy}")
            raise
        self.over = bool(scores) and self.stopping.is_enough(
            self.experiment.server, self.evaluation.scoring.headline, scores
        )
        return row | scores | cost | {"seconds": round(time.perf_counter() - started, 4)}

    def _abandoned(self, round_: int) -> dict[str, Any]:
        """Return the row of a round that a kill cut short: it was paid for, and the model stays as it was."""
        log.warning("round %d: abandoned: its clients had begun it when the run was cut short", round_)
        if isinstance(self.central, Correlated):
            self.central.draw(round_)  # who was in it has taken part
        row = {"round": round_, "clients": 0, "failures": 0, "abandoned": True, "seconds": 0.0}
        return row | (self._cost(round_) if self.evaluation.is_due(round_) else {})

    # --- training ---------------------------------------------------------------------------------------

    def _train(self, round_: int) -> dict[str, Any]:
        """Train one round, make the next global model out of it, and return its part of the row."""
        cohort = self._drawn(round_)
        if not cohort and self.central is None:
            return {"clients": 0, "failures": 0}
        there = self._there(cohort)
        spent = {} if self.account is None else self.account.spent_out(there)
        asked = [client for client in there if client not in spent]
        if self.account is not None:
            self.account.check_room(round_, asked)
        grid, requests = self._requests(round_, asked)
        replies = self._collect(round_, grid, requests) if asked else self._nobody(round_)
        replies.failures.update((client, AWAY) for client in cohort if client not in there)
        replies.failures.update(spent)
        updates = 0 if replies.no_sum else len(cohort) - len(replies.failures)
        if there and not updates and not replies.no_sum and self.central is None and self.secure is None:
            client, reason = next(iter(replies.failures.items()))
            raise RunFailed(
                f"round {round_}: all {len(cohort)} clients failed in training; the first, client {client}: {reason}"
            )
        row: dict[str, Any] = {"clients": updates, "failures": len(cohort) - updates, **replies.columns}
        if updates < len(cohort):
            row["failure-reasons"] = replies.reasons
        for line in replies.reasons:
            log.warning("round %d: train: %s", round_, line)
        metrics = self._aggregate(round_, replies.messages, len(replies.messages) and max(updates, 1))
        if metrics is not None and "train-loss" in metrics:
            row["train-loss"] = metrics["train-loss"]
        return row

    def _drawn(self, round_: int) -> list[int]:
        """Draw a round's cohort."""
        server, clients = self.experiment.server, self.enrolment.clients
        if isinstance(self.central, Correlated):
            return self.central.draw(round_)
        if server.sampling == "b-min-sep":
            raise TypeError("the experiment has no [privacy.dp-ftrl], which says how far apart")
        if Noise(self.experiment.privacy.noise) is Noise.SYSTEM:
            generator = secret_generator()
        else:
            generator = numpy_stream(self.experiment.seed, "cohort", round_=round_)
        most = max_cohort_of(server, clients)
        dp_fedavg = self.experiment.privacy.dp_fedavg
        rate = None if dp_fedavg is None else dp_fedavg.rate
        return draw(server.sampling, server.cohort, clients, generator, max_cohort=most, rate=rate)

    def _there(self, cohort: list[int]) -> list[int]:
        """Return those of a cohort who are there; waits for `min-clients` clients, whoever they are."""
        server, enrolment = self.experiment.server, self.enrolment
        enrolment.look()
        least = min(server.min_clients, enrolment.clients)
        enrolment.wait(server.timeout, hoped=least, least=least)
        return [client for client in cohort if client in enrolment.nodes]

    def _requests(self, round_: int, cohort: list[int]) -> tuple[CohortGrid, list[Message]]:
        """Return the cohort's grid and what to send it.

        For an empty cohort somebody else's request is made and not sent: some strategies note the model in it, and
        Flower's sampling waits for ever where there is nobody.
        """
        grid = self._view(cohort or [next(iter(self.enrolment.nodes))])
        config = ConfigRecord({"server-round": round_})
        if self.experiment.server.strategy_entry.needs_initial_loss:
            config["initial-loss"] = True
        for part in (self.account, self.central):
            if part is not None:
                config.update(part.for_clients())
        return grid, grid.checked(self.strategy.configure_train(round_, self.arrays, config, grid))

    def _nobody(self, round_: int) -> Replies:
        """Release what a cohort without clients sums to: zeros, with the noise that is due."""
        if self.central is None:
            return Replies([], {}, [])
        messages, columns = self._noised(round_, zeros_like(self.arrays), {}, 0)
        return Replies(messages, {}, [], columns=columns)

    def _noised(
        self, round_: int, total: Sums, metrics: Mapping[str, float], clients: int
    ) -> tuple[list[Message], dict[str, Any]]:
        """Noise a sum of clipped updates, and of what clients said beside, and note their release.

        Return the one message that stands for all, and what the round's row says of the rest.

        Args:
            round_: From 1.
            total: The sum.
            metrics: Means over the clients.
            clients: How many are in it.
        """
        if self.central is None or self.account is None:
            raise TypeError("the experiment has no mechanism of a trusted server")
        self.account.check_room(round_)
        sent = self.central.summed
        sums = {name: metrics.get(term, 0.0) * clients for name, term in sent.items()}
        mean, released, event = self.central.release(total, round_, sums)
        self.account.note([event])
        said = {name: value for name, value in metrics.items() if name not in sent.values()}
        content = RecordDict(
            {
                "arrays": plus(self.arrays, mean),
                "metrics": MetricRecord({**said, "num-examples": self.experiment.server.cohort}),
            }
        )
        columns = {f"{RELEASED}{name}": value for name, value in released.items()}
        return [Message(content, dst_node_id=0, message_type=MessageType.TRAIN)], columns

    def _collect(self, round_: int, grid: CohortGrid, requests: list[Message]) -> Replies:
        """Have the cohort train, in the way that serves the strategy, and note what that released."""
        self.begin(round_)
        if self.central is not None:
            self.central.begin(round_)
        if self.account is not None and self.account.charges_ahead and self.secure is None:
            self.account.note_planned(round_, grid.clients)
        if self.secure is not None:
            replies = self._sum_securely(self.secure, round_, grid, requests)
        elif self.experiment.server.strategy_entry.linear:
            replies = self._fold(round_, grid, requests)
        else:
            replies = self._gather(grid, requests)
        if self.account is not None and not self.account.charges_ahead:
            self.account.note(replies.events)
        return replies

    def _fold(self, round_: int, grid: CohortGrid, requests: list[Message]) -> Replies:
        """Have the cohort train; one message stands for all updates, their weighted mean."""
        server = self.experiment.server
        expected = expected_of(self.arrays) if self.central is None else expected_vector(self.arrays)
        fold = WeightedSum(expected, uniform=server.weighting == "uniform")
        total = grid.send_and_fold(requests, fold, timeout=server.timeout) or Total()
        columns: dict[str, Any] = {}
        if self.central is not None:
            metrics = {name: value / total.weight for name, value in total.metrics.items()}
            summed = split(total.arrays[CLIPPED], self.arrays) if total.nodes else zeros_like(self.arrays)
            messages, columns = self._noised(round_, summed, metrics, len(total.nodes))
        else:
            messages = [Message(total.content(expected), reply_to=requests[0])] if total.nodes else []
        came = {grid.client(node) for node in total.nodes}
        failures = {grid.client(node): why for node, why in total.failures.items()}
        failed = {c: failures.get(c, LATE) for c in grid.clients if c not in came}
        return Replies(messages, failed, total.events, columns=columns)

    def _sum_securely(
        self, secure: SecureGrid, round_: int, grid: CohortGrid, requests: list[Message]
    ) -> Replies:
        """Have the cohort train by secure aggregation; without a sum, all have failed, and the run goes on."""

        def note(clients: Sequence[int]) -> None:
            if self.account is not None:
                self.account.note_planned(round_, clients)

        result = secure.aggregate(requests, timeout=self.experiment.server.timeout, before_upload=note)
        columns: dict[str, Any] = {"secagg-bytes-up": result.bytes_up, "secagg-bytes-down": result.bytes_down}
        if result.reply is None:
            return Replies([], result.lost, [], result.why, columns)
        columns["secagg-clipped"] = result.clipped
        rest = sorted(set(grid.clients) - set(result.summed))
        failures = {client: result.lost.get(client, "lost too many neighbours") for client in rest}
        messages = [result.reply]
        if self.central is not None and result.decoded is not None:
            decoded = result.decoded
            total = split(decoded.update * decoded.weight, self.arrays)
            messages, released = self._noised(round_, total, decoded.metrics, decoded.clients)
            columns |= released
        return Replies(messages, failures, [], columns=columns)

    def _gather(self, grid: CohortGrid, requests: list[Message]) -> Replies:
        """Have the cohort train; each update stays a message, with the weight that it is to have."""
        server = self.experiment.server
        replies = read(
            grid.send_and_receive(requests, timeout=server.timeout), grid, expected_of(self.arrays)
        )
        if server.weighting == "uniform":
            for message in replies.messages:
                metrics_of(message)["num-examples"] = 1
        return replies

    def _aggregate(self, round_: int, replies: list[Message], updates: int) -> MetricRecord | None:
        """Make the next global model out of the replies; too few for the strategy leave it as it is."""
        server = self.experiment.server
        least = server.strategy_entry.smallest_cohort(server.strategy_options)
        if self.central is None:
            least = max(least, min(server.min_clients, self.enrolment.clients))
        if updates < least:
            log.warning("round %d: %d updates; %d are needed", round_, updates, least)
            return None
        arrays, metrics = self.strategy.aggregate_train(round_, replies)
        if arrays is not None:
            self.arrays = _like(arrays, self.arrays, round_)
        return metrics

    # --- evaluation -------------------------------------------------------------------------------------

    def _evaluate(self, round_: int) -> dict[str, float]:
        """Return the scores of the model after a round."""
        return self.evaluation.scores(round_, self.arrays, self.grid, self.enrolment, self.strategy)

    def _cost(self, round_: int) -> dict[str, Any]:
        """Return what privacy has cost after a round that is evaluated, for its row."""
        return {} if self.account is None else self.account.columns(round_)

    def _view(self, cohort: list[int]) -> CohortGrid:
        return CohortGrid(self.grid, {client: self.enrolment.nodes[client] for client in cohort})


def _like(arrays: ArrayRecord, model: ArrayRecord, round_: int) -> ArrayRecord:
    """Return what a strategy made with the model's dtypes (optimisers compute in float64).

    Raises:
        RunFailed: It has other names or shapes than the model, or NaN or infinity.
    """
    made = {name: values_of(array) for name, array in arrays.items()}
    result = {}
    for name, old in model.items():
        if name not in made or made[name].shape != tuple(old.shape):
            raise RunFailed(f"round {round_}: the strategy returned no {name} of shape {tuple(old.shape)}")
        new = made[name].astype(old.dtype, copy=False)
        if new.dtype.kind == "f" and not np.isfinite(new).all():
            raise RunFailed(f"round {round_}: the strategy returned NaN or infinity in {name}")
        result[name] = np.asarray(new)
    return record_of(result)
