"""Runs complete rounds of secure aggregation in one process, message by message."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.secagg.client import ClientSession
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.ideal import IdealClient, IdealServer
from fedsim.privacy.secagg.primitives import Entropy, SigningKey
from fedsim.privacy.secagg.progress import Progress
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.spec import Policy, RoundSpec, Stage
from fedsim.privacy.secagg.topology import Adversary, Assumptions

TASK = hashlib.sha256(b"the global model").hexdigest()
SESSION = "5e" * 16


def seeded(name: str) -> Entropy:
    """Return bytes that anyone can repeat."""
    counter = itertools.count()

    def draw(size: int) -> bytes:
        return hashlib.shake_256(f"{name}/{next(counter)}".encode()).digest(size)

    return draw


def identity(client: int) -> bytes:
    return hashlib.sha256(f"identity {client}".encode()).digest()


def policy_of(
    *,
    adversary: str = "semi-honest",
    corrupt: float = 0.1,
    dropout: float = 0.3,
    dimension: int = 5,
    input_bits: int = 16,
    clients: range = range(200),
    **kwargs: Any,
) -> Policy:
    kind = Adversary(adversary)
    malicious = kind is Adversary.MALICIOUS_SERVER
    return Policy(
        assumptions=Assumptions(corrupt=corrupt, dropout=dropout, adversary=kind),
        encoding=Encoding(dimension, cohort=1, input_bits=input_bits),
        registry={c: SigningKey(identity(c)).public for c in clients} if malicious else {},
        **kwargs,
    )


def spec_of(policy: Policy, clients: int, round_: int = 1) -> RoundSpec:
    return policy.spec(run="run", round_=round_, session=SESSION, clients=clients, task=TASK)


Wire = Callable[[Stage, int, bytes], bytes]  # what is made of a message on its way


def as_it_is(stage: Stage, client: int, message: bytes) -> bytes:
    return message


@dataclass
class Round:
    """A round that can be played stage by stage, in which anything can go wrong.

    Attributes:
        lost: The stage at which a client is lost, by client.
        down: What becomes of requests.
        up: What becomes of replies.
        refused: Why clients have refused, by client.
        seen: All replies that the server got.
    """

    policy: Policy
    vectors: Mapping[int, NDArray[Any]]
    lost: Mapping[int, Stage] = field(default_factory=dict)
    down: Wire = as_it_is
    up: Wire = as_it_is
    seed: str = "round"
    stored: bool = False
    round_: int = 1

    def __post_init__(self) -> None:
        self.spec = spec_of(self.policy, len(self.vectors), self.round_)
        real = self.policy.mode == "real"
        self.client_class: Any = ClientSession if real else IdealClient
        arguments: dict[str, Any] = {"registry": self.policy.registry} if real else {}
        graph_seed = hashlib.sha256(f"{self.seed} graph".encode()).digest()
        server_class: Any = ServerSession if real else IdealServer
        self.server: Progress = server_class(
            self.spec, list(self.vectors), graph_seed=graph_seed, **arguments
        )
        self.sessions: dict[int, Any] = {}
        self.refused: dict[int, str] = {}
        self.seen: list[tuple[Stage, int, bytes]] = []

    def run(self) -> NDArray[Any]:
        """Play the round and return its total; `TooFew` where it fails."""
        for _ in self.stages():
            pass
        return self.server.total()

    def stages(self) -> Iterator[Stage]:
        """Play one stage at a time; yields each before it is played."""
        played = 0
        while self.server.stage is not None:
            assert played < 100, f"the round doesn't get past {self.server.stage}"
            yield self.server.stage
            self.play()
            played += 1

    def play(self) -> None:
        """Play the present stage."""
        stage = self.server.stage
        assert stage is not None
        for client, request in self.server.requests().items():
            if self.is_lost(client, stage):
                continue
            try:
                reply = self.answer(stage, client, self.down(stage, client, request))
            except ValueError as error:
                self.refused[client] = str(error)
                continue
            self.deliver(stage, client, self.up(stage, client, reply))
        self.server.close_stage()

    def is_lost(self, client: int, stage: Stage) -> bool:
        order = list(Stage)
        return client in self.lost and order.index(self.lost[client]) <= order.index(stage)

    def deliver(self, stage: Stage, client: int, reply: bytes) -> None:
        self.seen.append((stage, client, reply))
        try:
            self.server.receive(client, reply)
        except ValueError as error:
            self.refused.setdefault(client, f"server: {error}")

    def answer(self, stage: Stage, client: int, request: bytes) -> bytes:
        if stage is Stage.ADVERTISE:
            self.sessions[client], reply = self.begin(client, request)
            return reply
        session = self.sessions[client]
        if self.stored:
            keys = {"identity": self._identity(client), "entropy": seeded(f"{self.seed} {client} {stage}")}
            session = self.client_class.loads(session.dumps(), self.policy, **keys)
            self.sessions[client] = session
        if stage is Stage.UPLOAD:
            return session.answer(stage, request, vector=self.vectors[client].copy(), task=TASK)
        return session.answer(stage, request)

    def begin(self, client: int, request: bytes) -> Any:
        return self.client_class.begin(
            request,
            self.policy,
            client,
            identity=self._identity(client),
            entropy=seeded(f"{self.seed} keys {client}"),
            graph_entropy=seeded(f"{self.seed} graph {client}"),
        )

    def _identity(self, client: int) -> bytes | None:
        return identity(client) if self.policy.registry else None


def vectors_of(policy: Policy, clients: list[int], seed: int = 0) -> dict[int, NDArray[Any]]:
    """Return a random vector for each client, anywhere in the ring (so that only the protocol is tested)."""
    encoding = spec_of(policy, len(clients)).encoding
    draws = np.random.default_rng(seed)
    return {
        client: draws.integers(0, 2**encoding.ring.bits, size=encoding.length).astype(encoding.ring.dtype)
        for client in clients
    }


def sum_of(policy: Policy, vectors: Mapping[int, NDArray[Any]], clients: Any) -> list[int]:
    """Return the sum of clients' vectors, by plain integers."""
    bits = spec_of(policy, len(vectors)).encoding.ring.bits
    columns = zip(*(vectors[client].tolist() for client in clients), strict=True)
    return [sum(column) % 2**bits for column in columns]
