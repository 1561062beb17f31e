"""Jobs of an engine: messages to some clients, answered one after another by one worker."""

from __future__ import annotations

import functools
import itertools
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from flwr.app import Message, RecordDict

from fedsim.arrays import Values
from fedsim.flower.constants import ErrorCode
from fedsim.runtime.packing import Packer, unpack
from fedsim.runtime.spec import AppSpec, answer, client_of, number_of
from fedsim.runtime.tree import PairTree

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

T = TypeVar("T")


class Fold(Protocol, Generic[T]):
    """Combines replies where they are; sent to the workers."""

    def add(self, total: T | None, reply: Message) -> T:
        """Return a total (None: empty) with one more reply; may change the total."""

    def merge(self, left: T, right: T) -> T:
        """Return the total of two; may change either."""


Groups = Sequence[Sequence[Message]]  # each group is a leaf of the tree over which replies are folded


def fold_groups(fold: Fold[T], sizes: Sequence[int], replies: Iterable[Message | None]) -> T | None:
    """Return the total of replies in groups of these sizes, at least one each; None if all are missing.

    A group's replies are added in order, and the groups' totals over a `PairTree`. The replies come in the order of their
    messages (None: missing); each is released before the next is requested.
    """
    tree: PairTree[T] = PairTree(len(sizes), fold.merge)
    coming = iter(replies)
    for leaf, size in enumerate(sizes):
        total: T | None = None
        for reply in itertools.islice(coming, size):
            if reply is not None:
                total = fold.add(total, reply)
            del reply
        tree.add(leaf, total)
    return tree.total


@dataclass(frozen=True)
class Job:
    """Packed messages to some clients, and the fold of their replies, if there is one.

    Each unpacked message has its own content, so that clients can't see each other's changes.
    """

    clients: tuple[int, ...]
    messages: bytes
    sizes: tuple[int, ...]  # of their groups
    fold: bytes | None = None

    @classmethod
    def of(cls, groups: Groups, fold: Fold[Any] | None, packer: Packer) -> Job:
        """Pack messages, their arrays into `packer`."""
        messages = list(itertools.chain.from_iterable(groups))
        return cls(
            clients=tuple(client_of(message.metadata.dst_node_id) for message in messages),
            messages=packer.pack(messages),
            sizes=tuple(len(group) for group in groups),
            fold=None if fold is None else pickle.dumps(fold),
        )


@dataclass
class Outcome:
    """Result of a job."""

    replies: list[Message] = field(
        default_factory=list
    )  # one for each message, in order; empty if they were folded
    folded: Any = None  # their total
    states: dict[int, RecordDict] = field(default_factory=dict)  # the existing ones of its clients


def perform(
    app: ClientApp, spec: AppSpec, job: Job, arrays: Sequence[Values], states: Mapping[int, RecordDict]
) -> Outcome:
    """Let the clients of a job answer, one after another.

    The arrays are those of the packed messages; the clients' existing states are owned by this job.
    """
    outcome = Outcome()

    def reply_of(client: int, message: Message) -> Message:
        context = spec.context(client, states.get(client))
        with spec.seeded("client-app", number_of(message), client):
            reply = answer(app, message, context, spec.folder)
        # A client that raised keeps its old state.
        raised = reply.has_error() and reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        if not raised and (client in states or len(context.state)):
            outcome.states[client] = context.state
        return reply

    messages: list[Message] = unpack(job.messages, arrays)
    replies = map(reply_of, job.clients, messages)  # one by one: released arrays need no copy
    if job.fold is None:
        outcome.replies = list(replies)
    else:
        outcome.folded = fold_groups(_unpickle_once(job.fold), job.sizes, replies)
    return outcome


@functools.lru_cache(maxsize=2)
def _unpickle_once(packed: bytes) -> Fold[Any]:
    """Return a fold; all jobs of a round have the same."""
    fold: Fold[Any] = pickle.loads(packed)  # noqa: S301 (of this run's own server)
    return fold
