"""Flower's SecAgg+ in one process: the peer in the benchmark of secure aggregation, and the target of attacks.

Flower's own workflow (server) and mod (clients) run unchanged, connected by a Grid that carries every message as
Flower's bytes. The Grid drops clients, lets a malicious server alter its messages, and keeps all replies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Status,
    bytes_to_ndarray,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.constant import ErrorCode
from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.common.typing import NDArrays, Parameters, Scalar
from flwr.compat.common import recorddict_compat as compat
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.server import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import Strategy
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from flwr.supercore.run import Run
from numpy.typing import NDArray

from fedsim.experiments.benchmarks.stopwatch import NONE, Seconds, since, total
from fedsim.runtime.spec import RUN_ID, SERVER_NODE_ID, acting_as

SETUP, SHARE_KEYS, COLLECT, UNMASK = "setup", "share_keys", "collect_masked_vectors", "unmask"


@dataclass(frozen=True)
class Update:
    """Result of a client's training.

    Attributes:
        vector: The parameters, of shape (dimension,).
        examples: Its weight in the mean.
        metrics: Its reported metrics.
    """

    vector: NDArray[np.floating[Any]]
    examples: int = 1
    metrics: Mapping[str, Scalar] = field(default_factory=dict)


Train = Callable[[NDArray[np.float64]], Update]  # from the model that the server sent
Tamper = Callable[[str, int, RecordDict], None]  # stage, node, content to be sent; in place


@dataclass
class Outcome:
    """Outcome of a round.

    Attributes:
        mean: The weighted mean; None if Flower gave none.
        client_seconds: In all clients' mods, by stage, without training and transport.
        server_seconds: In the workflow, outside the Grid.
        bytes_up: From all clients, by stage: the size of Flower's protobuf records.
        bytes_down: To all clients, by stage.
        client_errors: Exceptions of clients, as (stage, node, text).
        server_error: Exception of the workflow; empty without one.
        log: Flower's logged warnings and errors.
        requests: Sent messages, by stage and node, after tampering.
        replies: Received replies, by stage and node.
    """

    mean: NDArray[np.float64] | None = None
    client_seconds: dict[str, Seconds] = field(default_factory=dict)
    server_seconds: Seconds = NONE
    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    client_errors: list[tuple[str, int, str]] = field(default_factory=list)
    server_error: str = ""
    log: list[str] = field(default_factory=list)
    requests: dict[str, dict[int, RecordDict]] = field(default_factory=dict)
    replies: dict[str, dict[int, RecordDict]] = field(default_factory=dict)

    @property
    def halted(self) -> bool:
        """Whether the round gave no mean."""
        return self.mean is None

    @property
    def seconds(self) -> Seconds:
        """In all clients and the server together."""
        return total(self.client_seconds.values()) + self.server_seconds

    def request(self, stage: str, node: int) -> dict[str, Any]:
        """Return the protocol's fields of a request, after tampering."""
        return dict(self.requests[stage][node].config_records[RECORD_KEY_CONFIGS])

    def reply(self, stage: str, node: int) -> dict[str, Any]:
        """Return the protocol's fields of a reply, which Flower's `Key` names."""
        return dict(self.replies[stage][node].config_records[RECORD_KEY_CONFIGS])

    def masked(self, node: int) -> list[NDArray[np.int64]]:
        """Return the masked upload of a node: its quantised weight, and its vector."""
        return [bytes_to_ndarray(part) for part in self.reply(COLLECT, node)[Key.MASKED_PARAMETERS]]


class Cohort:
    """Clients of Flower's SecAgg+, which persist over rounds as SuperNodes do.

    Args:
        clients: Results of training, by node id.
        settings: Arguments of `SecAggPlusWorkflow`; by default all clients are neighbours, and the threshold is half
            of them.
    """

    def __init__(self, clients: Mapping[int, Train | Update], **settings: Any) -> None:
        self.clients = dict(clients)
        self.settings = {"num_shares": 1.0, "reconstruction_threshold": 0.5} | settings
        self.contexts = {node: Context(RUN_ID, node, {}, RecordDict(), {}) for node in self.clients}

    def round(
        self,
        model: NDArray[np.float64],
        *,
        among: Iterable[int] | None = None,
        lost: Mapping[int, str] | None = None,
        tamper: Tamper | None = None,
        in_transit: Tamper | None = None,
        number: int = 1,
    ) -> Outcome:
        """Run one round of Flower's workflow with Flower's mod.

        Args:
            model: The model to train.
            among: The nodes that take part; default: all.
            lost: By node, the stage from which it doesn't answer.
            tamper: Changes each message, for a malicious server.
            in_transit: Changes each reply, for an attacker on the network.
            number: Number of the round.
        """
        outcome, nodes = Outcome(), list(self.clients if among is None else among)
        grid = _Wire(self, outcome, dict(lost or {}), tamper, in_transit)
        manager = SimpleClientManager()
        for node in nodes:
            manager.register(GridClientProxy(node, grid, RUN_ID))
        context = LegacyContext(
            Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), {}),
            strategy=_Everyone(),
            client_manager=manager,
        )
        context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: number})
        start = ndarrays_to_parameters([model])
        context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(start, True)
        workflow = SecAggPlusWorkflow(**self.settings)
        with acting_as(SERVER_NODE_ID), _heard(outcome.log):
            begun = Seconds.now()
            try:
                workflow(grid, context)
            except Exception as error:  # a malicious server's own bookkeeping may break
                outcome.server_error = f"{type(error).__name__}: {error}"
            outcome.server_seconds = since(begun) - grid.seconds
        if context.history.metrics_distributed_fit.get("done"):
            (outcome.mean,) = parameters_to_ndarrays(_parameters(context.state.array_records))
        return outcome


def _parameters(records: Mapping[str, ArrayRecord]) -> Parameters:
    return compat.arrayrecord_to_parameters(records[MAIN_PARAMS_RECORD], True)


class _Wire(Grid):
    """Carries messages to the clients' mods and back, as bytes."""

    def __init__(
        self,
        cohort: Cohort,
        outcome: Outcome,
        lost: dict[int, str],
        tamper: Tamper | None,
        in_transit: Tamper | None,
    ) -> None:
        self.cohort, self.outcome, self.lost = cohort, outcome, lost
        self.tamper, self.in_transit = tamper, in_transit
        self.gone: set[int] = set()
        self.seconds = NONE  # in here, the clients' included

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        begun = Seconds.now()
        replies = [self._answer(message) for message in messages]
        self.seconds += since(begun)
        return replies

    def _answer(self, message: Message) -> Message:
        node, out = message.metadata.dst_node_id, self.outcome
        stage = str(message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])
        content, size = _carried(message.content)
        if self.tamper:
            self.tamper(stage, node, content)
        out.requests.setdefault(stage, {})[node] = _carried(content)[0]
        out.bytes_down[stage] = out.bytes_down.get(stage, 0) + size
        if node in self.gone or self.lost.get(node) == stage:
            self.gone.add(node)
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "lost"), reply_to=message)
        try:
            reply, seconds = self._in_client(node, _with(message, content))
        except Exception as error:  # as in the SuperNode: any exception becomes an error reply
            out.client_errors.append((stage, node, f"{type(error).__name__}: {error}"))
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)
        if self.in_transit:
            self.in_transit(stage, node, reply)
        carried, size = _carried(reply)
        out.client_seconds[stage] = out.client_seconds.get(stage, NONE) + seconds
        out.bytes_up[stage] = out.bytes_up.get(stage, 0) + size
        out.replies.setdefault(stage, {})[node] = carried
        return Message(_carried(reply)[0], reply_to=message)

    def _in_client(self, node: int, message: Message) -> tuple[RecordDict, Seconds]:
        """Return a client's answer, and the seconds in the mod without its training."""
        training = NONE

        def train(message: Message, context: Context) -> Message:
            nonlocal training
            begun = Seconds.now()
            fit = compat.recorddict_to_fitins(message.content, True)
            (model,) = parameters_to_ndarrays(fit.parameters)
            who = self.cohort.clients[node]
            update = who if isinstance(who, Update) else who(model)
            result = FitRes(
                Status(Code.OK, ""),
                ndarrays_to_parameters([update.vector]),
                update.examples,
                dict(update.metrics),
            )
            reply = Message(compat.fitres_to_recorddict(result, True), reply_to=message)
            training = since(begun)
            return reply

        with acting_as(node):
            begun = Seconds.now()
            reply = secaggplus_mod(message, self.cohort.contexts[node], train)
            seconds = since(begun)
        return reply.content, seconds - training

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(RUN_ID)

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.cohort.clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError


def _with(message: Message, content: RecordDict) -> Message:
    """Return a message with another content."""
    made = Message(content, message.metadata.dst_node_id, message.metadata.message_type)
    made.__dict__["_metadata"] = message.metadata
    return made


def _carried(content: RecordDict) -> tuple[RecordDict, int]:
    """Return a record after transport, and its bytes."""
    data = recorddict_to_proto(content).SerializeToString()
    return recorddict_from_proto(ProtoRecordDict.FromString(data)), len(data)


class _Everyone(Strategy):
    """Takes all clients; the workflow's aggregate is the new model."""

    def initialize_parameters(self, client_manager: Any) -> None:
        return None

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: Any
    ) -> list[tuple[ClientProxy, FitIns]]:
        return [(proxy, FitIns(parameters, {})) for proxy in client_manager.all().values()]

    def aggregate_fit(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], failures: Any
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        return results[0][1].parameters, {"done": True}

    def configure_evaluate(self, server_round: int, parameters: Parameters, client_manager: Any) -> list[Any]:
        return []

    def aggregate_evaluate(
        self, server_round: int, results: Any, failures: Any
    ) -> tuple[None, dict[str, Scalar]]:
        return None, {}

    def evaluate(self, server_round: int, parameters: Parameters) -> None:
        return None


@contextmanager
def _heard(lines: list[str]) -> Iterator[None]:
    """Collect Flower's warnings and errors in a list, off the terminal."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, listener = logging.getLogger("flwr"), Listener(logging.WARNING)
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [listener], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[0], before[1]
        logger.setLevel(before[2])


def mask_seconds(neighbours: int, dimension: int) -> Seconds:
    """Return the time for one client of Flower's to make and add all its masks, including key agreements.

    These are the steps of `secaggplus_mod` between quantising and uploading: its own mask and one for each neighbour,
    each from Flower's generator and added to the int64 vector.

    Args:
        neighbours: Number of neighbours.
        dimension: Numbers in the update.
    """
    mine = private_key_to_bytes(generate_key_pairs()[0])
    theirs = [public_key_to_bytes(generate_key_pairs()[1]) for _ in range(neighbours)]
    shapes: list[tuple[int, ...]] = [(1,), (dimension,)]
    masked: NDArrays = [np.zeros(shape, np.int32) for shape in shapes]
    begun = Seconds.now()
    masked = arithmetic.parameters_addition(masked, pseudo_rand_gen(bytes(32), 2**32, shapes))
    for index, public in enumerate(theirs):
        key = generate_shared_key(bytes_to_private_key(mine), bytes_to_public_key(public))
        mask = pseudo_rand_gen(key, 2**32, shapes)
        if index % 2:
            masked = arithmetic.parameters_addition(masked, mask)
        else:
            masked = arithmetic.parameters_subtraction(masked, mask)
    arithmetic.parameters_mod(masked, 2**32)
    return since(begun)


def vectors(clients: Sequence[int], dimension: int, generator: np.random.Generator) -> dict[int, Update]:
    """Return an update for each client: numbers in [-1, 1), one example."""
    return {client: Update(generator.uniform(-1, 1, dimension)) for client in clients}
