"""Shared code of the attacks on this project's protocol: twenty clients, their server, and an attacking server.

The graph is k-regular in both modes: the harder one to defend.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim.experiments.attacks.finding import Finding
from fedsim.experiments.benchmarks.flower_secagg import Update
from fedsim.privacy.secagg.client import ClientSession
from fedsim.privacy.secagg.encoding import Decoded, Encoding
from fedsim.privacy.secagg.masking import own_seed, pair_masks
from fedsim.privacy.secagg.primitives import AgreementKey, SigningKey
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.spec import Policy, RoundSpec, Stage, TooFew
from fedsim.privacy.secagg.topology import Adversary, Assumptions, Graph
from fedsim.privacy.secagg.transcript import body_of, hash_of
from fedsim.privacy.secagg.wire import Reader, bitmap, index_bytes
from fedsim.streams import numpy_stream

CLIENTS = range(20)
VICTIM = 7
DIMENSION = 20
TOLERANCE = 1e-4
Model = NDArray[np.float64]
GRAPH: Graph = "k-regular"
MODEL: Model = np.zeros(DIMENSION)


def task_of(model: Model) -> str:
    """Return the hash of a model that a client trained on."""
    return hashlib.sha256(np.ascontiguousarray(model).tobytes()).hexdigest()


def identity(client: int) -> bytes:
    """Return a client's private identity key."""
    return hashlib.sha256(b"identity of %d" % client).digest()


def policy(adversary: Adversary, dimension: int = DIMENSION, **encoding: Any) -> Policy:
    """Return the policy of all clients."""
    shape = {"input_bits": 24, "clip": 8.0, "max_weight": 200} | encoding
    return Policy(
        assumptions=Assumptions(corrupt=0.05, dropout=0.05, adversary=adversary),
        encoding=Encoding(dimension, cohort=len(CLIENTS), **shape),
        graph=GRAPH,
        registry={client: SigningKey(identity(client)).public for client in CLIENTS},
    )


def updates(dimension: int = DIMENSION) -> dict[int, Update]:
    """Return an update for each client, uniform on [-1, 1], weighing 10, 20, 30, ..."""
    return {
        client: Update(numpy_stream(0, "attacked", client=client).uniform(-1, 1, dimension), 10 + 10 * client)
        for client in CLIENTS
    }


class Party:
    """A client: its policy, its update, and its session.

    Args:
        me: Its number.
        policy: Its policy.
        train: Its update, or a function of the server's model.
        private: Its identity key.
    """

    def __init__(
        self,
        me: int,
        policy: Policy,
        train: Update | Callable[[Model], Update],
        private: bytes | None = None,
    ) -> None:
        self.me, self.policy, self.train = me, policy, train
        malicious = policy.assumptions.adversary is Adversary.MALICIOUS_SERVER
        self.private = (private or identity(me)) if malicious else None
        self.session: ClientSession | None = None

    def answer(self, stage: Stage, request: bytes, model: Model) -> bytes:
        """Answer a request; `ValueError` is its refusal."""
        if stage is Stage.ADVERTISE:
            self.session, reply = ClientSession.begin(request, self.policy, self.me, identity=self.private)
            return reply
        if self.session is None:
            raise ValueError("there is no session")
        if stage is Stage.UPLOAD:
            return self.session.answer(stage, request, vector=self.vector(model), task=task_of(model))
        return self.session.answer(stage, request)

    def vector(self, model: Model) -> NDArray[Any]:
        """Return its upload without masks."""
        update = self.train if isinstance(self.train, Update) else self.train(model)
        rounding = numpy_stream(0, "rounding", client=self.me)
        metrics = {name: float(value) for name, value in update.metrics.items()}
        return self.policy.encoding.encode(update.vector, update.examples, metrics, rounding)


class Attacker(ServerSession):
    """A server that keeps all messages; base class of attacks."""

    def said_alive(self, client: int) -> Set[int]:
        """Return the list of uploads for a client."""
        return self.uploaded

    def requests(self) -> dict[int, bytes]:
        """Return the request to each client."""
        requests = super().requests()
        if self.stage in (Stage.CONFIRM, Stage.UNMASK):
            requests = {client: self._lie(client) for client in requests}
            self._asked_hashes = {client: hash_of(lie) for client, lie in requests.items()}
        return requests

    def _lie(self, client: int) -> bytes:
        """Return the list of uploads for a client, and the signatures of the same list."""
        alive = self.said_alive(client)
        same = sorted(signer for signer in self._confirmations if self.said_alive(signer) == alive)
        return self._said(client) + b"".join(
            index_bytes(self._roster.index(s)) + self._confirmations[s] for s in same
        )

    def _said(self, client: int) -> bytes:
        return bitmap(map(self._roster.index, self.said_alive(client)), len(self.roster))

    def _accept_confirmation(self, client: int, reader: Reader) -> None:
        self._to_all = self._said(client)
        super()._accept_confirmation(client, reader)

    def _forget_messages(self) -> None:
        """Keep all messages."""

    def opened(self, client: int, reply: bytes, own: bytes, masks: bytes) -> Decoded:
        """Open an upload with both secrets of its client."""
        ring, values = self.spec.encoding.ring, self.without_pair_masks(client, reply, masks)
        ring.add_mask(values, own_seed(own, self._session), -1)
        return self.spec.encoding.decode(values, 1)

    def unpacked(self, reply: bytes) -> NDArray[Any]:
        """Return the vector in an upload."""
        return self.spec.encoding.ring.unpack(body_of(reply)[0], self.spec.encoding.length)

    def without_pair_masks(self, client: int, reply: bytes, key: bytes) -> NDArray[Any]:
        """Remove the pair masks from an upload, given its client's private key."""
        ring, values = self.spec.encoding.ring, self.unpacked(reply)
        masks = ring.zeros(len(values))
        others = {other: self._keys[other].masks for other in self._neighbours[client] & self._shared}
        ring.add_masks(masks, pair_masks(AgreementKey(key), client, others, self._session))
        left: NDArray[Any] = values - masks
        return left


Server = TypeVar("Server", bound=Attacker)


@dataclass
class Outcome:
    """Outcome of a round.

    Attributes:
        refused: Refusals by clients: stage, client, message.
        rejected: Refusals by the server.
        failed: Why the round ended early; empty if it didn't.
        replies: What clients answered, by stage and client.
    """

    refused: list[tuple[Stage, int, str]] = field(default_factory=list)
    rejected: list[tuple[Stage, int, str]] = field(default_factory=list)
    failed: str = ""
    replies: dict[Stage, dict[int, bytes]] = field(default_factory=dict)

    @property
    def refusal(self) -> str:
        """The number of clients that refused, and the first message."""
        if not self.refused:
            return self.failed or "no client refused"
        stage, client, words = self.refused[0]
        many = "one client refuses" if len(self.refused) == 1 else f"{len(self.refused)} clients refuse"
        return f"{many}; client {client} in stage {stage.value!r}: {words}"


def parties(policy: Policy, updates: Mapping[int, Update | Callable[[Model], Update]]) -> dict[int, Party]:
    """Return the clients."""
    return {client: Party(client, policy, update) for client, update in updates.items()}


def spec_of(policy: Policy, model: Model = MODEL, *, round_: int = 1, session: str = "00" * 16) -> RoundSpec:
    """Return the round that a policy allows."""
    return policy.spec(
        run="attacked", round_=round_, session=session, clients=len(CLIENTS), task=task_of(model)
    )


def run(
    server: ServerSession,
    clients: Mapping[int, Party],
    *,
    model_of: Callable[[int], Model] = lambda client: MODEL,
    in_transit: Callable[[Stage, int, bytes], bytes | None] = lambda stage, client, reply: reply,
) -> Outcome:
    """Carry messages between a server and its clients until the round is over.

    Args:
        server: The server.
        clients: The clients.
        model_of: The model sent to each client.
        in_transit: Changes a reply in transit; returns None to drop it.
    """
    outcome = Outcome()
    while (stage := server.stage) is not None:
        outcome.replies[stage] = {}
        for client, request in server.requests().items():
            try:
                reply = clients[client].answer(stage, request, model_of(client))
            except ValueError as error:
                outcome.refused.append((stage, client, str(error)))
                continue
            outcome.replies[stage][client] = reply
            arrived = in_transit(stage, client, reply)
            try:
                if arrived is not None:
                    server.receive(client, arrived)
            except ValueError as error:
                outcome.rejected.append((stage, client, str(error)))
        try:
            server.close_stage()
        except TooFew as error:
            outcome.failed = str(error)
    return outcome


def attacked(
    adversary: Adversary,
    kind: Callable[..., Server],
    change: Callable[[RoundSpec], RoundSpec] = lambda spec: spec,
) -> tuple[Server, dict[int, Party]]:
    """Return a server that attacks and twenty clients.

    Args:
        adversary: The clients' assumed adversary.
        kind: The server's class.
        change: Changes the round that the clients would accept.
    """
    rule = policy(adversary)
    return kind(change(spec_of(rule)), CLIENTS, registry=rule.registry), parties(rule, updates())


def ask(clients: Mapping[int, Party], stage: Stage, request: bytes, outcome: Outcome) -> None:
    """Send all clients the same request, out of turn, and note refusals."""
    for client, party in clients.items():
        try:
            party.answer(stage, request, MODEL)
        except ValueError as error:
            outcome.refused.append((stage, client, str(error)))


def mean_of(server: ServerSession) -> Decoded:
    """Return the server's decoded sum."""
    return server.spec.encoding.decode(server.total(), len(server.uploaded))


def weighted_mean(updates: Iterable[Update]) -> NDArray[np.float64]:
    """Return the true mean."""
    everyone = list(updates)
    return np.average([u.vector for u in everyone], axis=0, weights=[u.examples for u in everyone])


def refused(outcome: Outcome) -> Finding:
    """Return a finding in which clients refused."""
    return Finding(False, outcome.refusal)
