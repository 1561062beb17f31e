"""The ideal functionality: the same sum by the same stages, without protection.

Vectors are encoded as in the real protocol and sent unmasked; the same rules decide which clients are lost and which
rounds fail. So large sweeps are cheap, and their results equal the real protocol's to the bit.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from fedsim.privacy.secagg.graph import part_of
from fedsim.privacy.secagg.primitives import KEY, Entropy
from fedsim.privacy.secagg.progress import Progress, Total, Uploads
from fedsim.privacy.secagg.spec import Policy, RoundSpec, Stage, check_due


@dataclass
class IdealClient:
    """A client without secrets, with the methods of `client.ClientSession`."""

    spec: RoundSpec
    me: int  # its number
    graph_secret: bytes  # behind its parts of the graph's seed (32 bytes)
    due: list[Stage]  # stages that are not over
    attempts: int = 0  # to agree on the graph

    @property
    def closed(self) -> bool:
        """Whether all requests are answered."""
        return not self.due

    @classmethod
    def begin(
        cls,
        spec: bytes,
        policy: Policy,
        me: int,
        *,
        identity: bytes | None = None,
        entropy: Entropy = os.urandom,
        graph_entropy: Entropy = os.urandom,
    ) -> tuple[Self, bytes]:
        """Begin a round and return the reply to stage `advertise`; as `client.ClientSession.begin`."""
        agreed = RoundSpec.loads(spec)
        policy.check(agreed)
        return cls(agreed, me, graph_entropy(KEY), list(agreed.stages[1:])), b""

    def answer(
        self, stage: Stage, request: bytes, *, vector: NDArray[Any] | None = None, task: str | None = None
    ) -> bytes:
        """Answer a stage; as `client.ClientSession.answer`."""
        self.check_due(stage)
        if stage is self.due[0]:
            del self.due[0]
        if stage is Stage.REVEAL:
            self.attempts += 1
            return part_of(self.graph_secret, self.attempts)
        if stage is not Stage.UPLOAD:
            return b""
        if vector is None or task != self.spec.task:
            raise ValueError(f"task = {task}: allowed: {self.spec.task}, that of the round, and a vector")
        return self.spec.encoding.ring.pack(vector)

    def check_due(self, stage: Stage) -> None:
        """Raise `ValueError` for a stage that is not the next; as `client.ClientSession.check_due`."""
        check_due(stage, self.due, self.attempts)

    def dumps(self) -> bytes:
        """Return the session as bytes."""
        state = [self.spec.dumps().decode(), self.me, self.graph_secret.hex(), self.due, self.attempts]
        return json.dumps(state).encode()

    @classmethod
    def loads(
        cls, text: bytes, policy: Policy, *, identity: bytes | None = None, entropy: Entropy = os.urandom
    ) -> Self:
        """Read what `dumps` wrote; as `client.ClientSession.loads`."""
        spec, me, graph_secret, due, attempts = json.loads(text)
        stages = [Stage(stage) for stage in due]
        return cls(RoundSpec.loads(spec.encode()), me, bytes.fromhex(graph_secret), stages, attempts)


@dataclass(frozen=True)
class IdealUploads(Uploads):
    """Adds unmasked vectors."""

    def _checked(self, total: Total, client: int, reply: bytes) -> bytes:
        return reply


class IdealServer(Progress):
    """A server that sees every vector; otherwise as `server.ServerSession`."""

    @property
    def uploads(self) -> IdealUploads:
        """The adder of uploads, in stage `upload`."""
        return IdealUploads(self.spec)

    def _request(self, client: int) -> bytes:
        return self.spec.dumps() if self.stage is Stage.ADVERTISE else b""

    def _accept(self, client: int, reply: bytes) -> None:
        if self.stage is Stage.REVEAL:
            if len(reply) != KEY:
                raise ValueError(f"sent {len(reply)} bytes for the graph, not {KEY}")
            self._parts[client] = reply
        elif reply:
            raise ValueError("sent an unrequested reply")

    def _unmasked(self, values: NDArray[Any]) -> NDArray[Any]:
        return values
