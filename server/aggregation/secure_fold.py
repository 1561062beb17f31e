"""Folds the replies of a stage of secure aggregation: sums uploads, collects other replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from fedsim.privacy.secagg.progress import Total, Uploads
from fedsim.secagg.messages import body_of


@dataclass
class StageReplies:
    """Replies of a stage.

    Attributes:
        bodies: Protocol bytes by client, in all stages but the upload.
        total: Sum of the uploads, in the upload stage.
        failed: Reasons for failure, by client.
        size: Bytes received.
    """

    bodies: dict[int, bytes] = field(default_factory=dict)
    total: Total | None = None
    failed: dict[int, str] = field(default_factory=dict)
    size: int = 0

    @property
    def clients(self) -> set[int]:
        """Clients with a reply."""
        return self.bodies.keys() | set(self.total.clients if self.total else ())


@dataclass(frozen=True)
class StageFold:
    """The fold of a stage.

    Attributes:
        clients: The client of each node.
        uploads: Sums uploads; None in other stages.
    """

    clients: Mapping[int, int]
    uploads: Uploads | None = None

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
