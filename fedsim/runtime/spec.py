"""What an engine runs: a ClientApp and its run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flwr.app import Context, Error, Message, RecordDict, UserConfig

from fedsim.errors import Refused, reason
from fedsim.flower.constants import ErrorCode
from fedsim.flower.messages import identity
from fedsim.references import load_reference
from fedsim.runtime.seeding import global_draws_from
from fedsim.threads import single_threaded

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

SERVER_APP = "fedsim.server.app:app"
CLIENT_APP = "fedsim.clients.app:app"
App = TypeVar("App")

RUN_ID = 1  # a simulation has one run
SERVER_NODE_ID = 1  # as Flower's SuperLink has it; clients begin after it


def node_id(client: int) -> int:
    """Return a client's Flower node."""
    return SERVER_NODE_ID + 1 + client


def client_of(node: int) -> int:
    """Return a Flower node's client."""
    return node - SERVER_NODE_ID - 1


def numbered_id(node: int, number: int) -> str:
    """Return the id of a node's message by its number there, from 1."""
    return f"{node}-{number}"


def number_of(message: Message) -> int:
    """Return the number of a sent message at its node."""
    return int(message.metadata.message_id.rpartition("-")[2])


@dataclass(frozen=True)
class AppSpec:
    """A ClientApp by reference, the number of clients, and their run config; sent to every worker."""

    clients: int
    run_config: UserConfig  # in each client's context
    reference: str = CLIENT_APP  # `"module:attribute"`
    folder: str = ""  # first folder to search for its modules; empty: none
    second_try: bool = True
    """Whether a client is retried once if its worker died. False if its release can't be repeated: it may have noted
    one with unrepeatable noise, and would release twice."""
    seed: int | None = None  # of the global generators while the app runs; None: they are left alone
    node_configs: Sequence[UserConfig] = ()  # beside a client's partition: none, one for all, or one for each

    def load(self) -> ClientApp:
        """Import the ClientApp; raises `Refused` if there is none."""
        from flwr.clientapp import ClientApp

        if self.folder and sys.path[0] != self.folder:
            sys.path.insert(0, self.folder)
        with self.seeded("app-modules"):
            return _load(self.reference, ClientApp)

    def load_in_worker(self) -> ClientApp:
        """As `load`, in a worker process."""
        app = self.load()
        gc.freeze()  # scanning the objects of hundreds of modules takes longer than a client's training
        return app

    def context(self, client: int, state: RecordDict | None = None) -> Context:
        """Return a client's context with its state; None before its first message."""
        return Context(
            run_id=RUN_ID,
            node_id=node_id(client),
            node_config={"partition-id": client, "num-partitions": self.clients, **self._own_config(client)},
            state=RecordDict() if state is None else state,
            run_config=dict(self.run_config),
        )

    def seeded(self, purpose: str, round_: int = 0, client: int = 0) -> AbstractContextManager[None]:
        """Let the global generators draw from a named stream of the seed inside the block; without a seed, do nothing."""
        if self.seed is None:
            return nullcontext()
        return global_draws_from(self.seed, purpose, round_=round_, client=client)

    def _own_config(self, client: int) -> UserConfig:
        if not self.node_configs:
            return {}
        return self.node_configs[0 if len(self.node_configs) == 1 else client]


def load_server_app(reference: str) -> ServerApp:
    """Import a ServerApp; raises `Refused` if there is none."""
    from flwr.serverapp import ServerApp

    return _load(reference, ServerApp)


def _load(reference: str, kind: type[App]) -> App:
    app, name = load_reference(reference), kind.__name__
    if not isinstance(app, kind):
        found = type(app).__name__
        raise Refused(f"{name.lower()} = {reference!r}: is a {found}; a flwr {name} is needed")
    return app


def acting_as(node: int, run: int = RUN_ID) -> AbstractContextManager[None]:
    """Let messages made inside the block come from a node of a run (by default the simulation's)."""
    return identity(node, run)


def play(app: ClientApp, message: Message, context: Context) -> Message:
    """Let one client answer one message, on one thread; raises its exceptions, and `TypeError`, `ValueError`."""
    run_config = dict(context.run_config)
    with acting_as(context.node_id, context.run_id), single_threaded():
        reply = app(message, context)
    if not isinstance(reply, Message) or reply.metadata.src_node_id != context.node_id:
        raise TypeError(f"answered with {type(reply).__name__}; a Message(..., reply_to=message) is needed")
    if context.run_config != run_config:
        raise ValueError("changed its run config, which is the same for all clients")
    return reply


def answer(app: ClientApp, message: Message, context: Context, folder: str = "") -> Message:
    """Let one client answer one message; an exception becomes its error reply, with its place in a folder, if given."""
    try:
        return play(app, message, context)
    except Exception as error:  # a client may raise anything; the round continues
        why = reason(error, Path(folder)) if folder else f"{type(error).__name__}: {error}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, why), reply_to=message)
