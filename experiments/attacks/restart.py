"""A server repeats a round without the victim, and subtracts.

Each of the two sums is protected; their difference is the victim's update, with its weight.

Ours: a client gives one masked vector for a round of a run, and refuses to begin it again. (Cohorts also differ
between rounds and runs, with changed updates. Differential privacy protects against that, not secure aggregation.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType

from fedsim.clients.mods.secagg import Participant, secure
from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.experiments.benchmarks.flower_secagg import Update
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.spec import Policy, Stage
from fedsim.privacy.secagg.topology import Adversary
from fedsim.runtime.spec import RUN_ID, SERVER_NODE_ID, acting_as, node_id
from fedsim.secagg.messages import body_of, request, task_of

CONTROL = flower.FLOWER
ROUND = 1


def control() -> Finding:
    """Let Flower's server run round 1 with six clients, and round 1 again with five."""
    clients, cohort = flower.updates(), flower.cohort()
    weights = {node: client.examples for node, client in clients.items()}
    others = [node for node in clients if node != flower.VICTIM]
    every = cohort.round(flower.MODEL)
    again = cohort.round(flower.MODEL, among=others)
    if every.mean is None or again.mean is None:
        return Finding(False, f"halted: {every.log} {again.log}")
    total = sum(weights.values()) * every.mean - sum(weights[node] for node in others) * again.mean
    what = f"{len(again.client_errors)} clients object to the same round again; the victim's update"
    return recovery(what, total / weights[flower.VICTIM], clients[flower.VICTIM].vector, 4 * flower.TOLERANCE)


class Node(sessions.Party):
    """A client as in Flower: behind the mod, with a state that outlives a round."""

    def __init__(self, me: int, policy: Policy, train: Update) -> None:
        super().__init__(me, policy, train)
        self._update = train
        self._context = Context(RUN_ID, node_id(me), {}, RecordDict(), {})
        participant = Participant(policy=policy, number=me, run="attacked", identity=self.private)
        self._mod = secure(lambda context: participant)

    def answer(self, stage: Stage, request_: bytes, model: sessions.Model) -> bytes:
        """Answer a request; a refusal is a `ValueError` with the reason that the client logs."""
        with acting_as(SERVER_NODE_ID):
            content = request(ROUND, stage, request_, trained_on(model) if stage is Stage.UPLOAD else None)
            message = Message(content, node_id(self.me), MessageType.TRAIN)
        with _Logged() as reasons, acting_as(node_id(self.me)):
            reply = self._mod(message, self._context, self._app)
        if reasons.said:
            raise ValueError(reasons.said[0])
        return body_of(reply)

    def _app(self, message: Message, context: Context) -> Message:
        (model,) = message.content.array_records.values()
        moved = {name: Array(array.numpy() + self._update.vector) for name, array in model.items()}
        metrics = MetricRecord({"num-examples": self._update.examples})
        return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": metrics}), reply_to=message)


class _Logged(logging.Handler):
    """Collects the log of the clients' mod, and keeps it off the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._logger = logging.getLogger("fedsim.clients.mods.secagg")

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage().partition("Error: ")[2])

    def __enter__(self) -> _Logged:
        self._logger.addHandler(self)
        self._logger.propagate = False
        return self

    def __exit__(self, *raised: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True


def trained_on(model: sessions.Model) -> RecordDict:
    """Return the server's message for training."""
    return RecordDict({"arrays": ArrayRecord({"weights": Array(np.asarray(model))})})


def ours(adversary: Adversary) -> Finding:
    """Run round 1 with twenty clients, and round 1 again without the victim."""
    rule, updates = sessions.policy(adversary), sessions.updates()
    nodes = {client: Node(client, rule, update) for client, update in updates.items()}
    others = [client for client in nodes if client != sessions.VICTIM]
    sums = []
    for session, among in enumerate((list(nodes), others)):
        server, outcome = _round(rule, nodes, among, session)
        if outcome.failed:
            return sessions.refused(outcome)
        found = sessions.mean_of(server)
        sums.append(found.update * found.weight)
    victim = updates[sessions.VICTIM]
    what = "no client objects to the same round again; the victim's update"
    return recovery(what, (sums[0] - sums[1]) / victim.examples, victim.vector, sessions.TOLERANCE)


def _round(
    rule: Policy, nodes: dict[int, Node], among: Iterable[int], session: int
) -> tuple[ServerSession, sessions.Outcome]:
    """Play round 1 among some of the clients, in a new session."""
    clients = list(among)
    spec = rule.spec(
        run="attacked",
        round_=ROUND,
        session=f"{session:032x}",
        clients=len(clients),
        task=task_of(trained_on(sessions.MODEL)),
    )
    server = ServerSession(spec, clients, registry=rule.registry)
    return server, sessions.run(server, nodes)
