"""Replies of a stage of secure aggregation, folded where they are: uploads added up, others collected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from fedsim.privacy.secagg.progress import Total, Uploads
from fedsim.secagg.messages import body_of


@dataclass
class Came:
    """What came in a stage.

    Attributes:
        bodies: The protocol's bytes, by client, in the stages that have no sum.
        total: The sum of the uploads, in the one that has.
        failed: Why there is nothing of a client.
        size: Bytes that came.
    """

    bodies: dict[int, bytes] = field(default_factory=dict)
    total: Total | None = None
    failed: dict[int, str] = field(default_factory=dict)
    size: int = 0

    @property
    def clients(self) -> set[int]:
        """Those of whom there is something."""
        return self.bodies.keys() | set(self.total.clients if self.total else ())


@dataclass(frozen=True)
class StageFold:
    """The fold of a stage.

    Attributes:
        clients: Who is behind each node.
        uploads: Adds uploads up; None where the stage has none.
    """

    clients: Mapping[int, int]
    uploads: Uploads | None = None

    def add(self, came: Came | None, reply: Message) -> Came:
        """Add a reply, or note its failure."""
        came = Came() if came is None else came
        client = self.clients[reply.metadata.src_node_id]
        try:
            body = body_of(reply)
        except ValueError as error:
            came.failed[client] = str(error)
            return came
        came.size += len(body)
        if self.uploads is None:
            came.bodies[client] = body
        else:
            came.total = self.uploads.add(came.total, client, body)
        return came

    def merge(self, left: Came, right: Came) -> Came:
        """Return the two as one, in the memory of the left one."""
        if self.uploads is not None and left.total is not None and right.total is not None:
            left.total = self.uploads.merge(left.total, right.total)
        else:
            left.total = left.total or right.total
        left.bodies |= right.bodies
        left.failed |= right.failed
        left.size += right.size
        return left
