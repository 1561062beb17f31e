"""A round of secure aggregation with all its messages, and the seconds and bytes of each stage.

The clients run one after another, in this process or split over several. Timed is the work of clients and server:
encoding, masking, sealing, packing, checking, adding up, unmasking. Making the updates and the exact check of the sum
are not timed.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.experiments.benchmarks.stopwatch import NONE, Seconds, since, total
from fedsim.privacy.secagg.client import ClientSession
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.masking import own_seed, pair_masks
from fedsim.privacy.secagg.primitives import KEY, AgreementKey, SigningKey
from fedsim.privacy.secagg.progress import Total, Uploads
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.spec import Policy, RoundSpec, Stage
from fedsim.privacy.secagg.topology import Adversary, Assumptions, Graph
from fedsim.streams import numpy_stream

TASK = hashlib.sha256(b"a benchmark's model").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Setting of a round.

    Attributes:
        clients: Invited clients.
        dimension: Numbers in an update.
        dropped: Clients lost between sharing and uploading, which costs the server most.
        graph: Complete or k-regular.
        adversary: Assumed adversary; 5 % of the clients are assumed corrupt, and 5 % lost.
        processes: Processes for the clients; 0: this one.
        seed: Of the updates and of the roundings; keys and masks are the operating system's.
    """

    clients: int
    dimension: int
    dropped: int = 0
    graph: Graph = "auto"
    adversary: Adversary = Adversary.SEMI_HONEST
    processes: int = 0
    seed: int = 0

    @property
    def policy(self) -> Policy:
        """The policy of all parties."""
        everyone = range(self.clients if self.adversary is Adversary.MALICIOUS_SERVER else 0)
        return Policy(
            assumptions=Assumptions(corrupt=0.05, dropout=0.05, adversary=self.adversary),
            encoding=Encoding(self.dimension, cohort=self.clients),
            graph=self.graph,
            registry={client: SigningKey(identity(client)).public for client in everyone},
        )

    @property
    def spec(self) -> RoundSpec:
        """The round."""
        return self.policy.spec(run="benchmark", round_=1, session="00" * 16, clients=self.clients, task=TASK)


def identity(client: int) -> bytes:
    """Return a client's private identity key."""
    return hashlib.sha256(b"identity of %d" % client).digest()


def update_of(client: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Return a client's update, float32 in [-1, 1), of shape (dimension,)."""
    draws = numpy_stream(seed, "update", client=client).random(dimension, np.float32)
    made: NDArray[np.float32] = 2 * draws - 1
    return made


@dataclass
class Spent:
    """Seconds and bytes of a round, by stage; `end` is the unmasking of the sum.

    Attributes:
        clients: Seconds in all clients together.
        server: Seconds of the server's work, in any process.
        down: Bytes to all clients.
        up: Bytes from all clients.
        wall: Seconds from the first request to the sum.
    """

    clients: dict[str, Seconds] = field(default_factory=dict)
    server: dict[str, Seconds] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)
    up: dict[str, int] = field(default_factory=dict)
    wall: float = 0.0

    @property
    def seconds(self) -> Seconds:
        """Of clients and server together."""
        return total([*self.clients.values(), *self.server.values()])

    def add(self, stage: Stage, clients: Seconds, server: Seconds) -> None:
        """Add time to a stage, which may repeat."""
        self.clients[stage.value] = self.clients.get(stage.value, NONE) + clients
        self.server[stage.value] = self.server.get(stage.value, NONE) + server

    def count(self, stage: Stage, down: int, up: int) -> None:
        """Add bytes to a stage."""
        self.down[stage.value] = self.down.get(stage.value, 0) + down
        self.up[stage.value] = self.up.get(stage.value, 0) + up


@dataclass
class Answers:
    """Answers of some clients in a stage.

    Attributes:
        replies: By client; empty in stage `upload`, where they are summed at once.
        total: The sum of their uploads.
        plain: The same without masks, to check the result.
        clients: Seconds in the clients.
        server: Seconds that adding up took.
        up: Bytes of the replies.
    """

    replies: dict[int, bytes] = field(default_factory=dict)
    total: Total | None = None
    plain: NDArray[Any] | None = None
    clients: Seconds = NONE
    server: Seconds = NONE
    up: int = 0


class Group:
    """Some of the clients, run one after another.

    Args:
        setting: The setting.
        clients: Their numbers.
        lost: Clients that don't answer from stage `upload` on.
    """

    def __init__(self, setting: Setting, clients: Iterable[int], lost: Iterable[int]) -> None:
        self._policy, self._spec, self._seed = setting.policy, setting.spec, setting.seed
        self._signed = setting.adversary is Adversary.MALICIOUS_SERVER
        self.clients, self._lost = list(clients), set(lost)
        self._sessions: dict[int, ClientSession] = {}

    def answer(self, stage: Stage, requests: Mapping[int, bytes], uploads: Uploads | None) -> Answers:
        """Let the asked clients of the group answer a stage."""
        answers = Answers()
        for client in self.clients:
            if client not in requests or (client in self._lost and stage is Stage.UPLOAD):
                continue
            if stage is Stage.UPLOAD and uploads is not None:
                self._upload(client, requests[client], uploads, answers)
                continue
            begun = Seconds.now()
            reply = self._reply(client, stage, requests[client])
            answers.clients += since(begun)
            answers.up += len(reply)
            answers.replies[client] = reply
        return answers

    def _reply(self, client: int, stage: Stage, request: bytes) -> bytes:
        if stage is not Stage.ADVERTISE:
            return self._sessions[client].answer(stage, request)
        key = identity(client) if self._signed else None
        self._sessions[client], reply = ClientSession.begin(request, self._policy, client, identity=key)
        return reply

    def _upload(self, client: int, request: bytes, uploads: Uploads, answers: Answers) -> None:
        encoding = self._spec.encoding
        update = update_of(client, encoding.dimension, self._seed)
        rounding = numpy_stream(self._seed, "rounding", client=client)
        begun = Seconds.now()
        vector = encoding.encode(update, 1, {}, rounding)
        answers.clients += since(begun)
        if answers.plain is None:
            answers.plain = vector.copy()
        else:
            encoding.ring.add(answers.plain, vector)
        begun = Seconds.now()
        reply = self._sessions[client].answer(Stage.UPLOAD, request, vector=vector, task=TASK)
        answers.clients += since(begun)
        begun = Seconds.now()
        answers.total = uploads.add(answers.total, client, reply)
        answers.server += since(begun)
        answers.up += len(reply)


Ask = Callable[[Stage, Mapping[int, bytes], Uploads | None], list[Answers]]


def play(setting: Setting) -> Spent:
    """Play a round.

    Raises:
        RuntimeError: The sum differs from that of the uploaded vectors.
    """
    lost = range(0, setting.clients, max(1, setting.clients // max(setting.dropped, 1)))[: setting.dropped]
    if not setting.processes:
        group = Group(setting, range(setting.clients), lost)
        return _play(setting, lambda *asked: [group.answer(*asked)])
    with Workers(setting, lost) as workers:
        return _play(setting, workers.ask)


def _play(setting: Setting, ask: Ask) -> Spent:
    spent, policy, ring = Spent(), setting.policy, setting.spec.encoding.ring
    begun = time.perf_counter()
    server = ServerSession(setting.spec, range(setting.clients), registry=policy.registry)
    plain: NDArray[Any] | None = None
    while (stage := server.stage) is not None:
        at = Seconds.now()
        requests = server.requests()
        uploads = server.uploads if stage is Stage.UPLOAD else None
        asking = since(at)
        answers = ask(stage, requests, uploads)
        at = Seconds.now()
        for each in answers:
            for client, reply in each.replies.items():
                server.receive(client, reply)
        if uploads is not None:
            server.take(merged(uploads, [each.total for each in answers]))
            for each in answers:
                if each.plain is not None:
                    plain = each.plain if plain is None else plain + each.plain
        server.close_stage()
        taking = since(at) + total(each.server for each in answers)
        spent.add(stage, total(each.clients for each in answers), asking + taking)
        spent.count(stage, sum(map(len, requests.values())), sum(each.up for each in answers))
    at = Seconds.now()
    found = server.total()
    server.spec.encoding.decode(found, len(server.uploaded))
    spent.server["end"] = since(at)
    spent.wall = time.perf_counter() - begun
    same = plain is not None and np.array_equal(ring.centred(found), ring.centred(plain))
    if not same or len(server.uploaded) != setting.clients - setting.dropped:
        raise RuntimeError("the sum is not that of the clients' vectors")
    return spent


def merged(uploads: Uploads, totals: Sequence[Total | None]) -> Total | None:
    """Return the sum of totals, some of which may be None."""
    there = [each for each in totals if each is not None]
    return functools.reduce(uploads.merge, there) if there else None


class Workers:
    """Processes that each run some of the clients; started, with their imports, before timing."""

    def __init__(self, setting: Setting, lost: Iterable[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for index in range(setting.processes):
            here, there = context.Pipe()
            mine = range(index, setting.clients, setting.processes)
            process = context.Process(target=_work, args=(there, setting, mine, list(lost)), daemon=True)
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)
        for end in self._ends:
            end.recv()

    def ask(self, stage: Stage, requests: Mapping[int, bytes], uploads: Uploads | None) -> list[Answers]:
        """Ask all of them, and wait for all."""
        for index, end in enumerate(self._ends):
            mine = {c: request for c, request in requests.items() if c % len(self._ends) == index}
            end.send((stage, mine, uploads))
        return [end.recv() for end in self._ends]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *raised: object) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join()


def _work(end: Connection, setting: Setting, clients: Sequence[int], lost: Sequence[int]) -> None:
    """Answer until the other end is closed."""
    group = Group(setting, clients, lost)
    end.send("ready")
    while True:
        try:
            asked = end.recv()
        except EOFError:
            return
        end.send(group.answer(*asked))


def mask_seconds(neighbours: int, dimension: int) -> Seconds:
    """Return the time for one client to make and add all its masks, including key agreements."""
    encoding = Encoding(dimension, cohort=neighbours + 1)
    keys = [AgreementKey(bytes([i % 251]) * KEY) for i in range(1, neighbours + 2)]
    vector, session = encoding.ring.zeros(encoding.length), bytes(KEY)
    others = {client: key.public for client, key in enumerate(keys[1:])}
    begun = Seconds.now()
    masks = [(own_seed(bytes(KEY), session), 1), *pair_masks(keys[0], neighbours // 2, others, session)]
    encoding.ring.add_masks(vector, masks)
    return since(begun)
