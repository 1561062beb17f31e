"""What an engine does for a grid: some clients' messages, answered one after another in one place."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from flwr.app import Message, RecordDict

from fedsim.arrays import Values
from fedsim.runtime.packing import Packer, unpack
from fedsim.runtime.spec import AppSpec, answer, client_of

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

T = TypeVar("T")


class Fold(Protocol, Generic[T]):
    """How replies become one thing, where the replies are; it travels to the workers."""

    def add(self, total: T | None, reply: Message) -> T:
        """Return a total (None: of nothing yet) with one more reply; may change the total."""

    def merge(self, left: T, right: T) -> T:
        """Return the total of two; may change either."""


@dataclass(frozen=True)
class Job:
    """Packed messages to some clients, and the fold of their replies, if there is one.

    Each message is packed on its own, so that what one client does to its message is not seen by the next.
    """

    clients: tuple[int, ...]
    messages: tuple[bytes, ...]
    fold: bytes | None = None

    @classmethod
    def of(cls, messages: Sequence[Message], fold: Fold[Any] | None, packer: Packer) -> Job:
        """Pack messages, their arrays into `packer`."""
        clients = tuple(client_of(message.metadata.dst_node_id) for message in messages)
        packed = tuple(packer.pack(message) for message in messages)
        return cls(clients, packed, None if fold is None else pickle.dumps(fold))


@dataclass
class Outcome:
    """What a job gave.

    Attributes:
        replies: One for each message, in their order; empty where they were folded.
        folded: Their total.
        states: The states of those clients that have any.
    """

    replies: list[Message] = field(default_factory=list)
    folded: Any = None
    states: dict[int, RecordDict] = field(default_factory=dict)


def perform(
    app: ClientApp, spec: AppSpec, job: Job, arrays: Sequence[Values], states: Mapping[int, RecordDict]
) -> Outcome:
    """Let the clients of a job answer, one after another.

    Args:
        app: Answers.
        spec: Makes the clients' contexts.
        job: The messages.
        arrays: What their arrays were packed into.
        states: The states of those of the clients that have any, for this job alone.
    """
    outcome = Outcome()
    fold = None if job.fold is None else _unpickle_once(job.fold)
    for client, packed in zip(job.clients, job.messages, strict=True):
        context = spec.context(client, states.get(client))
        reply = answer(app, unpack(packed, arrays), context)
        if reply.has_content() and (client in states or len(context.state)):  # who raises keeps its old state
            outcome.states[client] = context.state
        if fold is None:
            outcome.replies.append(reply)
        else:
            outcome.folded = fold.add(outcome.folded, reply)
            del reply  # before the next client: whose arrays nobody has any more need not be copied
    return outcome


@functools.lru_cache(maxsize=2)
def _unpickle_once(packed: bytes) -> Fold[Any]:
    """Return a fold; all jobs of a round have the same."""
    fold: Fold[Any] = pickle.loads(packed)  # noqa: S301 (of this run's own server)
    return fold
