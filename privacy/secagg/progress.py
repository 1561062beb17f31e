"""The server's side of a round without its contents: which clients remain, and whether they are enough.

The real and the ideal protocol share it, so that both end with the same clients, or both fail.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from fedsim.privacy.secagg.graph import joint_seed, neighbours
from fedsim.privacy.secagg.primitives import KEY, Entropy
from fedsim.privacy.secagg.spec import RoundSpec, Stage, TooFew
from fedsim.privacy.secagg.topology import ATTEMPTS


@dataclass
class Total:
    """A sum of uploads."""

    values: NDArray[Any]  # ring elements, as many as the encoding has
    clients: list[int] = field(default_factory=list)  # with vectors in it
    refused: dict[int, str] = field(default_factory=dict)  # reasons for refused vectors, by client
    transcripts: dict[int, bytes] = field(default_factory=dict)  # of its clients, after the upload


@dataclass(frozen=True)
class Uploads(ABC):
    """Adds uploads in any process; can be pickled."""

    spec: RoundSpec

    def add(self, total: Total | None, client: int, reply: bytes) -> Total:
        """Add a client's reply to a total (None: the first), or note why it is refused."""
        encoding = self.spec.encoding
        total = Total(encoding.ring.zeros(encoding.length)) if total is None else total
        try:
            packed = self._checked(total, client, reply)
            encoding.ring.add(total.values, encoding.ring.unpack(packed, encoding.length))
            total.clients.append(client)
        except ValueError as error:
            total.refused[client] = str(error)
        return total

    @abstractmethod
    def _checked(self, total: Total, client: int, reply: bytes) -> bytes | memoryview:
        """Return a reply's packed vector; raises `ValueError` to refuse it."""

    def merge(self, left: Total, right: Total) -> Total:
        """Add one total to another, in the memory of the left one."""
        self.spec.encoding.ring.add(left.values, right.values)
        left.clients += right.clients
        left.refused |= right.refused
        left.transcripts |= right.transcripts
        return left


class Progress(ABC):
    """The server's view of a round, stage by stage: `requests`, `receive` each reply, `close_stage`.

    A client with a refused or missing reply when the stage is closed is lost: it is asked nothing more.

    Args:
        spec: The round's specification.
        clients: Invited clients; as many as in the specification.
        graph_seed: 32 bytes that determine a sparse graph, unless the clients choose it; unset: from the operating
            system.
        entropy: Draws the graph's seed.

    Attributes:
        stage: The current stage; None: the round is over.
        roster: Participating clients, in ascending order, once all have advertised.
        uploaded: Clients with vectors in the sum, after stage `upload`.
        lost: Reasons for refused replies, by client.

    Raises:
        ValueError: The clients are not distinct, or not as many as in the specification.
    """

    def __init__(
        self,
        spec: RoundSpec,
        clients: Iterable[int],
        *,
        graph_seed: bytes | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.spec = spec
        self.roster = sorted(set(clients))
        if len(self.roster) != spec.clients or self.roster[0] < 0:
            raise ValueError(f"clients = {self.roster}: allowed: {spec.clients} different numbers")
        self.stage: Stage | None = Stage.ADVERTISE
        self.uploaded: frozenset[int] = frozenset()
        self.lost: dict[int, str] = {}
        self._graph_seed = graph_seed or entropy(KEY)
        self._attempt = 1
        self._asked: frozenset[int] = frozenset(self.roster)
        self._came: set[int] = set()
        self._shared: frozenset[int] = frozenset()
        self._neighbours: dict[int, frozenset[int]] = {}
        self._parts: dict[int, bytes] = {}  # of the graph's seed
        self._received: Total | None = None
        self._sum: NDArray[Any] | None = None

    # --- one stage --------------------------------------------------------------------------------------

    def requests(self) -> dict[int, bytes]:
        """Return the request to each remaining client."""
        return {client: self._request(client) for client in sorted(self._asked)}

    def receive(self, client: int, reply: bytes) -> None:
        """Take the reply of a client in the current stage.

        Raises:
            ValueError: The client was not asked, has answered already, or sent an invalid reply; in the last case it
                is lost.
        """
        if client not in self._asked or client in self._came or client in self.lost:
            raise ValueError(f"client {client} was not asked, or has answered already")
        try:
            if self.stage is Stage.UPLOAD:
                self._received = self.uploads.add(self._received, client, reply)
                if client in self._received.refused:
                    raise ValueError(self._received.refused[client])
            else:
                self._accept(client, reply)
        except ValueError as error:
            self.lost[client] = str(error)
            raise
        self._came.add(client)

    def take(self, total: Total | None) -> None:
        """Take the sum of all uploads, instead of `receive`, in stage `upload`."""
        if total is None:
            return
        strangers = set(total.clients) - self._asked
        if self.stage is not Stage.UPLOAD or strangers or len(set(total.clients)) != len(total.clients):
            raise ValueError("a sum holds vectors that were not asked for")
        self._came |= set(total.clients)
        self.lost.update(total.refused)
        self._received = total if self._received is None else self.uploads.merge(self._received, total)

    def close_stage(self) -> None:
        """Go on with the clients that have answered; if too few (`TooFew`), the round is over, and nothing revealed."""
        stage, came = self.stage, frozenset(self._came)
        if stage is None:
            raise ValueError("the round is over")
        self._came.clear()
        try:
            self._asked = self._next_asked(stage, came)
        except TooFew:
            self.close()
            raise
        if stage is not Stage.REVEAL or self._neighbours:
            following = (*self.spec.stages, None)
            self.stage = following[following.index(stage) + 1]

    def close(self) -> None:
        """End the round and erase secrets."""
        self.stage = self._sum = None
        self._forget_messages()

    def total(self) -> NDArray[Any]:
        """Return the sum of the vectors of `uploaded`, once the round is over, and erase the messages behind it.

        Raises `ValueError` if there is none, or shares of a secret are wrong.
        """
        if self._sum is None:
            if self._received is None or self.stage is not None:
                raise ValueError("there is no sum")
            try:
                self._sum = self._unmasked(self._received.values)
            finally:
                self._forget_messages()
        return self._sum

    def _forget_messages(self) -> None:
        """Drop all client messages; copies in freed memory can't be wiped."""
        self._parts.clear()
        self._received = None

    # --- the next requests ------------------------------------------------------------------------------

    def _next_asked(self, stage: Stage, came: frozenset[int]) -> frozenset[int]:
        """Return the clients to ask after a stage."""
        if stage is not Stage.UNMASK:
            self._check_enough(stage, came)
        if stage is Stage.ADVERTISE:
            self.roster = sorted(came)
            if not self.spec.reveals:
                self._draw_graph(self._graph_seed)
            return came
        if stage is Stage.REVEAL:
            return self._revealed(came)
        if stage is Stage.SHARE:
            self._shared = came
        if stage is Stage.UPLOAD:
            self.uploaded = came
        if stage is Stage.UNMASK:
            self._check_unmaskable(came)
            return frozenset()
        if stage is Stage.CONFIRM:
            return came
        return self._with_enough_around(came)

    def _revealed(self, came: frozenset[int]) -> frozenset[int]:
        """Draw the graph if all have revealed their part; else start again with those that have.

        If a seed could omit parts, a server that knows them all could choose which to leave out.
        """
        if len(came) == len(self.roster):
            self._draw_graph(joint_seed({client: self._parts[client] for client in self.roster}))
        elif self._attempt == ATTEMPTS:
            raise TooFew(f"clients were lost in each of {ATTEMPTS} attempts to agree on the graph")
        else:
            self._attempt += 1
            self.roster = sorted(came)
        return came

    def _draw_graph(self, seed: bytes) -> None:
        self._graph_seed = seed
        rows = neighbours(seed, len(self.roster), self.spec.degree)
        self._neighbours = {
            client: frozenset(self.roster[index] for index in row)
            for client, row in zip(self.roster, rows, strict=True)
        }

    def _with_enough_around(self, came: frozenset[int]) -> frozenset[int]:
        """Return clients with a threshold of neighbours, themselves included: others would refuse to continue."""
        return frozenset(c for c in came if len(self._holders(c) & came) >= self.spec.threshold)

    def _check_enough(self, stage: Stage, came: Set[int]) -> None:
        left = len(self.uploaded) if self.uploaded else len(came)
        needed = self.spec.quorum if stage is Stage.CONFIRM else self.spec.threshold
        if left < self.spec.least or len(came) < needed:
            raise TooFew(
                f"{len(came)} clients are left after stage {stage.value!r}; {max(self.spec.least, needed)} are needed"
            )

    def _check_unmaskable(self, answered: Set[int]) -> None:
        """Raise `TooFew` unless all masks in the sum can be reconstructed.

        These are the own masks of clients that uploaded, and the pair masks of clients lost after sharing, which are
        in their neighbours' uploads. Each needs a threshold of the holders of its secret's shares.
        """
        for client in sorted(self._shared):
            if client not in self.uploaded and not self._neighbours[client] & self.uploaded:
                continue
            shares = len(self._holders(client) & self._shared & answered)
            if shares < self.spec.threshold:
                raise TooFew(
                    f"{shares} shares of client {client}'s secret are left after stage 'unmask'; "
                    f"{self.spec.threshold} are needed"
                )

    def _holders(self, client: int) -> frozenset[int]:
        """Return the holders of shares of a client's secrets: its neighbours and itself."""
        return self._neighbours[client] | {client}

    # --- contents of messages ---------------------------------------------------------------------------

    @property
    @abstractmethod
    def uploads(self) -> Uploads:
        """The adder of uploads, in stage `upload`."""

    @abstractmethod
    def _request(self, client: int) -> bytes:
        """Return the request to a client in the current stage."""

    @abstractmethod
    def _accept(self, client: int, reply: bytes) -> None:
        """Check and keep a client's reply, other than an upload; raises `ValueError` to refuse it."""

    @abstractmethod
    def _unmasked(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of the uploads without its masks; may change it in place."""
