"""The server's side of a round without its contents: which clients are in it, and whether they are enough.

The real protocol and the ideal one share it, so that both end with the same clients, or not at all.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from typing import Any, Protocol

from numpy.typing import NDArray

from fedsim.privacy.secagg.graph import neighbours
from fedsim.privacy.secagg.primitives import KEY, Entropy
from fedsim.privacy.secagg.ring import Ring
from fedsim.privacy.secagg.spec import RoundSpec, Stage, TooFew
from fedsim.privacy.secagg.topology import ATTEMPTS


class Total:
    """A sum of uploads.

    Attributes:
        values: Ring elements, as many as the encoding has.
        clients: Whose vectors are in it.
        refused: Why others' are not, by client.
        transcripts: Of those in it, after the upload.
    """

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.clients: list[int] = []
        self.refused: dict[int, str] = {}
        self.transcripts: dict[int, bytes] = {}

    def merged(self, ring: Ring, other: Total) -> Total:
        """Add another sum to this one."""
        ring.add(self.values, other.values)
        self.clients += other.clients
        self.refused |= other.refused
        self.transcripts |= other.transcripts
        return self


class Uploads(Protocol):
    """Adds uploads, wherever that is done; it can be pickled."""

    def add(self, total: Total | None, client: int, reply: bytes) -> Total:
        """Add a client's reply to a total (None: the first), or note there why it is refused."""

    def merge(self, left: Total, right: Total) -> Total:
        """Add one total to another, in the memory of the left one."""


class Progress(ABC):
    """A round as the server sees it, stage by stage: `requests`, `receive` what comes, `close_stage`.

    A client whose reply is refused, or doesn't come before the stage is closed, is lost: it is asked nothing more.

    Args:
        spec: What the round is.
        clients: Who is invited; as many as the specification says.
        graph_seed: 32 bytes that choose the neighbours on a sparse graph, where the clients don't choose them
            themselves; unset: the operating system's.
        entropy: Draws the graph's seed.

    Attributes:
        stage: The present one; None: the round is over.
        roster: Who takes part, in ascending order, once all have advertised.
        uploaded: Whose vectors are in the sum, once all have been asked for theirs.
        lost: Why clients are lost whose replies were refused.

    Raises:
        ValueError: The clients are not distinct numbers, or not as many as they should be.
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

    # --- one stage --------------------------------------------------------------------------------------

    def requests(self) -> dict[int, bytes]:
        """Return what to send to each client that is still there."""
        return {client: self._request(client) for client in sorted(self._asked)}

    def receive(self, client: int, reply: bytes) -> None:
        """Take the reply of a client in the present stage.

        Raises:
            ValueError: It is refused: the client was not asked, has answered already, or its reply is not what it
                should be. In the latter case it is lost.
        """
        if client not in self._asked or client in self._came or client in self.lost:
            raise ValueError(f"client {client} was not asked, or has answered already")
        try:
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
        self._take(total)

    def close_stage(self) -> None:
        """Go on with those that have answered.

        Raises:
            TooFew: They are not enough; the round is over, and nothing is revealed.
        """
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
        """End the round and forget what is secret."""
        self.stage = None
        self._forget()

    # --- who is asked next ------------------------------------------------------------------------------

    def _next_asked(self, stage: Stage, came: frozenset[int]) -> frozenset[int]:
        """Return who is asked after a stage that some have answered."""
        if stage is not Stage.UNMASK:
            self._check_enough(stage, came)
        if stage is Stage.ADVERTISE:
            self.roster = sorted(came)
            if Stage.REVEAL not in self.spec.stages:
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
        """Draw the graph where all have revealed their part; else begin anew with those that have.

        Were a seed made of the parts of some, a server could choose whose to leave out, when it knows them all.
        """
        if len(came) == len(self.roster):
            self._draw_graph(self._joint_seed())
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
        """Return those of whose neighbours and themselves a threshold is there: others would refuse to go on."""
        return frozenset(c for c in came if len(self._holders(c) & came) >= self.spec.threshold)

    def _check_enough(self, stage: Stage, came: Set[int]) -> None:
        left = len(self.uploaded) if self.uploaded else len(came)
        needed = self.spec.quorum if stage is Stage.CONFIRM else self.spec.threshold
        if left < self.spec.least or len(came) < needed:
            raise TooFew(
                f"{len(came)} clients are left after stage {stage.value!r}; {max(self.spec.least, needed)} are needed"
            )

    def _check_unmaskable(self, answered: Set[int]) -> None:
        """Raise `TooFew` unless all masks that are in the sum can be found.

        Of each client that has uploaded that is its own mask, of each that was lost after it had shared, the masks
        that are in its neighbours' uploads: each by a threshold of those that hold a share of its secret.
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
        """Return who holds shares of a client's secrets: its neighbours and itself."""
        return self._neighbours[client] | {client}

    # --- what the messages hold -------------------------------------------------------------------------

    @property
    @abstractmethod
    def uploads(self) -> Uploads:
        """What adds the uploads, in stage `upload`."""

    @abstractmethod
    def total(self) -> NDArray[Any]:
        """Return the sum of the vectors of those in `uploaded`, when the round is over."""

    @abstractmethod
    def _request(self, client: int) -> bytes:
        """Return what to ask a client in the present stage."""

    @abstractmethod
    def _accept(self, client: int, reply: bytes) -> None:
        """Check and keep a client's reply; `ValueError`: it is refused."""

    @abstractmethod
    def _take(self, total: Total) -> None:
        """Keep the sum of the uploads."""

    @abstractmethod
    def _joint_seed(self) -> bytes:
        """Return the graph's seed that the parts of all clients in the roster make."""

    @abstractmethod
    def _forget(self) -> None:
        """Forget what is secret."""
