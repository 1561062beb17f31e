"""A Grid around any Grid, in which train messages get one reply: the weighted mean, by secure aggregation.

Messages to train go in, the stages of the protocol go over the Grid inside, and what comes out stands for all
updates: a strategy that needs no more than their weighted mean works as it is. Everything else passes through.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedsim.messages import ARRAYS, METRICS, SECAGG
from fedsim.privacy.secagg.encoding import Decoded
from fedsim.privacy.secagg.ideal import IdealServer
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.spec import Policy, Stage, TooFew
from fedsim.records import records_in
from fedsim.secagg.messages import request, task_of
from fedsim.server.aggregation.replies import LATE
from fedsim.server.aggregation.secure_fold import Came, StageFold
from fedsim.server.grids.around import GridAround
from fedsim.server.grids.folding import FoldingGrid, send_and_fold
from fedsim.vectors import moved

log = logging.getLogger(__name__)

PAUSES = (0.01, 1.0)  # seconds between two looks for replies: at first, and at most

Session = ServerSession | IdealServer


@dataclass(frozen=True)
class StageReport:
    """How a stage went: clients that were asked and that answered, bytes of the protocol, seconds."""

    stage: Stage
    asked: int
    answered: int
    bytes_down: int
    bytes_up: int
    seconds: float


@dataclass
class Aggregate:
    """What became of a round's train messages.

    Attributes:
        decoded: What the sum says; None: there is none.
        why: Why there is none.
        summed: Whose updates are in it.
        lost: Why a client is not, with the stage; some of those in the sum were lost after it.
        clipped: Share of the coordinates that were clipped.
        stages: How each went.
    """

    decoded: Decoded | None = None
    why: str = ""
    summed: list[int] = field(default_factory=list)
    lost: dict[int, str] = field(default_factory=dict)
    clipped: float = 0.0
    stages: list[StageReport] = field(default_factory=list)

    @property
    def bytes_down(self) -> int:
        """Bytes of the protocol that clients were sent, beside the model."""
        return sum(stage.bytes_down for stage in self.stages)

    @property
    def bytes_up(self) -> int:
        """Bytes that clients sent."""
        return sum(stage.bytes_up for stage in self.stages)


class SecureGrid(GridAround):
    """A Grid that trains by secure aggregation; clients need the mod `fedsim.clients.mods.secagg.secure`.

    Args:
        grid: Reaches the clients. One that can fold adds uploads where they are.
        policy: What server and clients have agreed on.
        nodes: The node of each client, by its number; unset: a node's id is its client's number.
        run: Of which run the rounds are; unset: the Grid's.
        graph_seed: Of a round, 32 bytes that choose the neighbours where the server does.
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
        """Have clients train, and learn the weighted mean of their updates.

        Args:
            messages: To train, one to each client, all with the same content.
            timeout: Seconds that each stage waits; who is late is lost.
            before_upload: Called with those who are about to be asked to train.

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
        """Play a stage; raises `TooFew`."""
        started = time.perf_counter()
        stage, requests = session.stage, session.requests()
        if stage is None:
            raise ValueError("the round is over")
        messages = [_message(asked[c], session.spec.round, stage, body) for c, body in requests.items()]
        clients = {asked[client].metadata.dst_node_id: client for client in requests}
        fold = StageFold(clients, session.uploads if stage is Stage.UPLOAD else None)
        came = self._exchange(messages, fold, timeout)
        if stage is Stage.UPLOAD:
            session.take(came.total)
        for client, body in sorted(came.bodies.items()):
            try:
                session.receive(client, body)
            except ValueError as error:
                log.info("client %d: stage %s: %s", client, stage.value, error)
        for client in requests.keys() - (came.clients - session.lost.keys()):
            why = session.lost.get(client) or came.failed.get(client, LATE)
            result.lost.setdefault(client, f"lost at stage {stage.value!r}: {why}")
        result.stages.append(
            StageReport(
                stage,
                len(requests),
                len(came.clients),
                sum(map(len, requests.values())),
                came.size,
                time.perf_counter() - started,
            )
        )
        session.close_stage()

    def _exchange(self, messages: Sequence[Message], fold: StageFold, timeout: float | None) -> Came:
        """Send messages and fold the replies, where they are if the Grid can, else one by one as they come."""
        if isinstance(self._grid, FoldingGrid):
            return send_and_fold(self._grid, messages, fold, timeout) or Came()
        came = Came()
        for reply in _as_they_come(self._grid, messages, timeout):
            came = fold.add(came, reply)
        return came

    def _round_of(self, content: RecordDict) -> int:
        """Return the round that the strategy says, else how many there were."""
        count = next(self._rounds)
        for config in records_in(content, ConfigRecord).values():
            if isinstance(round_ := config.get("server-round"), int):
                return round_
        return count

    # --- Flower's interface -----------------------------------------------------------------------------

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies: to those that train, one for all, or none if there is no sum."""
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
                content = mean_of(moved(received, result.decoded.update), result.decoded, name)
                replies.append(Message(content, reply_to=training[0]))
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages that don't train; those that do go by `send_and_receive` only.

        Raises:
            ValueError: One trains.
        """
        listed = list(messages)
        if any(map(_trains, listed)):
            raise ValueError("train messages go by send_and_receive: a reply to one would be an update")
        return self._grid.push_messages(listed)


def mean_of(model: ArrayRecord, decoded: Decoded, name: str = ARRAYS) -> RecordDict:
    """Return the content of the one reply that stands for all: the mean of the models, as a record of that name."""
    metrics: dict[str, Any] = {**decoded.metrics, "num-examples": decoded.weight}
    return RecordDict({name: model, METRICS: MetricRecord(metrics)})


def _decoded(session: Session) -> Decoded:
    """Return what the sum says; raises `TooFew` where there is none, or a client did not encode by the rules."""
    total = session.total()
    try:
        return session.spec.encoding.decode(total, len(session.uploaded))
    except ValueError as error:
        raise TooFew(f"the sum is not one of updates: {error}") from None


def _trains(message: Message) -> bool:
    return message.metadata.message_type.partition(".")[0] == MessageType.TRAIN


def _common(messages: Sequence[Message]) -> tuple[RecordDict, str]:
    """Return the content of the first message, and the hash of what all have in common.

    Raises:
        ValueError: They differ beside what each client is told alone, or hold our own record.
    """
    content = messages[0].content
    task = task_of(content)
    others = {id(message.content): message.content for message in messages}
    if any(task_of(other) != task for other in others.values() if other is not content):
        raise ValueError("train messages differ: secure aggregation needs the same for all clients")
    if SECAGG in content:
        raise ValueError(f"a train message must hold no record named {SECAGG!r}")
    return content, task


def _message(original: Message, round_: int, stage: Stage, body: bytes) -> Message:
    """Return the message of a stage in the place of a train message."""
    metadata = original.metadata
    return Message(
        request(round_, stage, body, original.content if stage is Stage.UPLOAD else None),
        metadata.dst_node_id,
        metadata.message_type,
        ttl=metadata.ttl,
        group_id=metadata.group_id,
    )


def _as_they_come(grid: Grid, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
    """Send messages and yield the replies, for at most `timeout` seconds.

    Flower's own `send_and_receive` keeps all replies, and looks for them every three seconds.
    """
    waiting = set(grid.push_messages(messages))
    nodes = {message.metadata.dst_node_id for message in messages}
    end = float("inf") if timeout is None else time.monotonic() + timeout
    pause, longest = PAUSES
    while waiting and time.monotonic() < end:
        came = list(grid.pull_messages(waiting))
        waiting -= {reply.metadata.reply_to_message_id for reply in came}
        pause = PAUSES[0] if came else min(2 * pause, longest)
        while came:
            reply = came.pop()
            if reply.metadata.src_node_id in nodes:  # else Flower says that a message's time is over
                yield reply
        if waiting:
            time.sleep(max(min(pause, end - time.monotonic()), 0))
