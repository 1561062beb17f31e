"""Wraps a Grid so that train messages get one reply: the weighted mean, by secure aggregation.

The wrapped Grid carries the protocol's stages. Strategies that need only the weighted mean work unchanged. Other
messages pass through.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim.errors import printable
from fedsim.layout import plus_vector
from fedsim.messages import ARRAYS, METRICS, SECAGG
from fedsim.privacy.secagg.encoding import Decoded
from fedsim.privacy.secagg.ideal import IdealServer
from fedsim.privacy.secagg.progress import Total, Uploads
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.spec import Policy, Stage, TooFew
from fedsim.records import records_in
from fedsim.secagg.messages import body_of, request, task_of
from fedsim.server.aggregation.replies import LATE
from fedsim.server.grids import FoldingGrid, GridWrapper, as_they_come, send_and_fold

log = logging.getLogger(__name__)

Session = ServerSession | IdealServer


@dataclass(frozen=True)
class StageReport:
    """Statistics of a stage: clients asked and answered, protocol bytes, seconds."""

    stage: Stage
    asked: int
    answered: int
    bytes_down: int
    bytes_up: int
    seconds: float


@dataclass
class Aggregate:
    """Result of a round of secure aggregation.

    Attributes:
        decoded: The decoded sum; None: there is none.
        why: Reason why there is no sum.
        summed: Clients in the sum.
        lost: Stage and reason, by lost client; a client lost after its upload is still in the sum.
        clipped: Share of clipped coordinates.
        stages: Statistics of each stage.
    """

    decoded: Decoded | None = None
    why: str = ""
    summed: list[int] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    clipped: float = 0.0
    stages: list[StageReport] = field(default_factory=list)

    @property
    def bytes_down(self) -> int:
        """Protocol bytes sent to clients, without the model."""
        return sum(stage.bytes_down for stage in self.stages)

    @property
    def bytes_up(self) -> int:
        """Bytes that clients sent."""
        return sum(stage.bytes_up for stage in self.stages)


@dataclass
class StageReplies:
    """Replies of a stage: the sum of the uploads in the upload stage, protocol bytes by client in the others."""

    bodies: dict[int, bytes] = field(default_factory=dict)
    total: Total | None = None
    failed: dict[int, str] = field(default_factory=dict)  # reasons, by client
    size: int = 0  # bytes received

    @property
    def clients(self) -> set[int]:
        """Clients with a reply."""
        return self.bodies.keys() | set(self.total.clients if self.total else ())


@dataclass(frozen=True)
class StageFold:
    """The fold of a stage."""

    clients: Mapping[int, int]  # of each node
    uploads: Uploads | None = None  # None in all stages but the upload

    def add(self, replies: StageReplies | None, reply: Message) -> StageReplies:
        """Add a reply, or record its failure."""
        replies = StageReplies() if replies is None else replies
        client = self.clients[reply.metadata.src_node_id]
        try:
            body = body_of(reply)
        except ValueError as error:
            replies.failed[client] = str(error)
            return replies
        replies.size += len(body)
        if self.uploads is None:
            replies.bodies[client] = body
        else:
            replies.total = self.uploads.add(replies.total, client, body)
        return replies

    def merge(self, left: StageReplies, right: StageReplies) -> StageReplies:
        """Merge two sets of replies, in the memory of the left one."""
        if self.uploads is not None and left.total is not None and right.total is not None:
            left.total = self.uploads.merge(left.total, right.total)
        else:
            left.total = left.total or right.total
        left.bodies |= right.bodies
        left.failed |= right.failed
        left.size += right.size
        return left


class SecureGrid(GridWrapper):
    """A Grid that trains by secure aggregation; clients need the mod `fedsim.clients.mods.secagg.secure`.

    Args:
        grid: Reaches the clients. A `FoldingGrid` sums uploads in its workers.
        policy: Agreed between server and clients.
        nodes: The node of each client; None: a node's id is its client's number.
        run: Label of the run; None: the Grid's run id.
        graph_seed: Returns a round's 32 bytes that determine the graph, if the server chooses it.
    """

    def __init__(
        self,
        grid: Grid,
        policy: Policy,
        *,
        nodes: Mapping[int, int] | None = None,
        run: str | None = None,
        graph_seed: Callable[[int], bytes] = lambda round_: os.urandom(32),
    ) -> None:
        self.policy = policy
        super().__init__(grid)
        self._nodes = nodes
        self._run = run
        self._graph_seed = graph_seed
        self._rounds = itertools.count(1)

    # --- a round ----------------------------------------------------------------------------------------

    def aggregate(
        self,
        messages: Sequence[Message],
        *,
        timeout: float | None = None,
        before_upload: Callable[[Sequence[int]], None] = lambda clients: None,
    ) -> Aggregate:
        """Train clients, and return the weighted mean of their updates.

        Args:
            messages: Train messages, one to each client, all with the same content.
            timeout: Seconds that each stage waits; late clients are lost.
            before_upload: Called with the clients that are about to train.

        Raises:
            ValueError: The messages differ, or two go to one client.
        """
        result = Aggregate()
        content, task = _common(messages)
        clients = None if self._nodes is None else {node: client for client, node in self._nodes.items()}
        to = [message.metadata.dst_node_id for message in messages]
        asked = dict(zip(to if clients is None else [clients[node] for node in to], messages, strict=True))
        if len(asked) < len(messages):
            raise ValueError("two train messages go to one client")
        try:
            session = self._begin(sorted(asked), self._round_of(content), task)
        except ValueError as error:  # too few for any graph
            result.why = str(error)
            return result
        try:
            while session.stage is not None:
                if session.stage is Stage.UPLOAD:
                    before_upload(sorted(session.requests()))
                self._stage(session, asked, result, timeout)
            decoded = _decoded(session)
        except TooFew as error:
            session.close()
            result.why = str(error)
            return result
        result.summed, result.decoded = sorted(session.uploaded), decoded
        result.clipped = decoded.clipped / (decoded.clients * len(decoded.coordinates))
        return result

    def _begin(self, clients: list[int], round_: int, task: str) -> Session:
        policy = self.policy
        spec = policy.spec(
            run=str(self.run.run_id) if self._run is None else self._run,
            round_=round_,
            session=secrets.token_hex(32),
            clients=len(clients),
            task=task,
        )
        if policy.mode == "ideal":
            return IdealServer(spec, clients, graph_seed=self._graph_seed(round_))
        return ServerSession(spec, clients, registry=policy.registry, graph_seed=self._graph_seed(round_))

    def _stage(
        self, session: Session, asked: Mapping[int, Message], result: Aggregate, timeout: float | None
    ) -> None:
        """Run a stage; raises `TooFew`."""
        started = time.perf_counter()
        stage, requests = session.stage, session.requests()
        if stage is None:
            raise ValueError("the round is over")
        messages = [_message(asked[c], session.spec.round, stage, body) for c, body in requests.items()]
        clients = {asked[client].metadata.dst_node_id: client for client in requests}
        fold = StageFold(clients, session.uploads if stage is Stage.UPLOAD else None)
        replies = self._exchange(messages, fold, timeout)
        if stage is Stage.UPLOAD:
            session.take(replies.total)
        for client, body in sorted(replies.bodies.items()):
            try:
                session.receive(client, body)
            except ValueError as error:
                log.info("client %d: stage %s: %s", client, stage.value, error)
        for client in requests.keys() - (replies.clients - session.lost.keys()):
            why = session.lost.get(client) or replies.failed.get(client, LATE)
            result.lost.setdefault(client, printable(f"lost at stage {stage.value!r}: {why}"))
        sent, seconds = sum(map(len, requests.values())), time.perf_counter() - started
        result.stages.append(
            StageReport(stage, len(requests), len(replies.clients), sent, replies.size, seconds)
        )
        session.close_stage()

    def _exchange(self, messages: Sequence[Message], fold: StageFold, timeout: float | None) -> StageReplies:
        """Send messages and fold the replies: in the Grid's workers if it can, else here, as they arrive."""
        if isinstance(self._grid, FoldingGrid):
            return send_and_fold(self._grid, messages, fold, timeout) or StageReplies()
        replies = StageReplies()
        for reply in as_they_come(self._grid, messages, timeout):
            replies = fold.add(replies, reply)
        return replies

    def _round_of(self, content: RecordDict) -> int:
        """Return the strategy's `server-round`, else a count of calls."""
        count = next(self._rounds)
        for config in records_in(content, ConfigRecord).values():
            if isinstance(round_ := config.get("server-round"), int):
                return round_
        return count

    # --- Flower's interface -----------------------------------------------------------------------------

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies: to train messages a single one, or none if there is no sum."""
        listed = list(messages)
        training = [message for message in listed if _trains(message)]
        replies = list(self._grid.send_and_receive([m for m in listed if not _trains(m)], timeout=timeout))
        if training:
            models = records_in(training[0].content, ArrayRecord)
            if len(models) != 1:
                raise ValueError(f"a train message must hold one record of arrays, not {len(models)}")
            result = self.aggregate(training, timeout=timeout)
            for client, why in sorted(result.lost.items()):
                log.warning("client %d: %s", client, why)
            if result.decoded is None:
                log.warning("there is no sum: %s", result.why)
            else:
                ((name, received),) = models.items()
                content = mean_of(plus_vector(received, result.decoded.update), result.decoded, name)
                replies.append(Message(content, reply_to=training[0]))
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages; raises `ValueError` for a train message, which needs `send_and_receive`."""
        listed = list(messages)
        if any(map(_trains, listed)):
            raise ValueError("train messages go by send_and_receive: a reply to one would be an update")
        return self._grid.push_messages(listed)


def mean_of(model: ArrayRecord, decoded: Decoded, name: str = ARRAYS) -> RecordDict:
    """Return the content of the single reply: the mean of the models, in a record of that name, and of the metrics."""
    metrics: dict[str, Any] = {**decoded.metrics, "num-examples": decoded.weight}
    return RecordDict({name: model, METRICS: MetricRecord(metrics)})


def _decoded(session: Session) -> Decoded:
    """Return the decoded sum; raises `TooFew` if there is none, or a client violated the encoding."""
    total = session.total()
    try:
        return session.spec.encoding.decode(total, len(session.uploaded))
    except ValueError as error:
        raise TooFew(f"the sum is not one of updates: {error}") from None


def _trains(message: Message) -> bool:
    return message.metadata.message_type.partition(".")[0] == MessageType.TRAIN


def _common(messages: Sequence[Message]) -> tuple[RecordDict, str]:
    """Return the content of the first message, and the hash of what must be the same in all of them."""
    content = messages[0].content
    task = task_of(content)
    others = {id(message.content): message.content for message in messages}
    if any(task_of(other) != task for other in others.values() if other is not content):
        raise ValueError("train messages differ: secure aggregation needs the same for all clients")
    if SECAGG in content:
        raise ValueError(f"a train message must hold no record named {SECAGG!r}")
    return content, task


def _message(original: Message, round_: int, stage: Stage, body: bytes) -> Message:
    """Return a stage's message to the client of a train message."""
    metadata = original.metadata
    return Message(
        request(round_, stage, body, original.content if stage is Stage.UPLOAD else None),
        metadata.dst_node_id,
        metadata.message_type,
        ttl=metadata.ttl,
        group_id=metadata.group_id,
    )
