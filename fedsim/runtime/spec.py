"""What an engine runs: a ClientApp, and the run that its clients take part in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict, UserConfig

from fedsim.catalogue import load_reference
from fedsim.errors import Refused
from fedsim.threads import single_threaded

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

SERVER_APP = "server.app:app"
CLIENT_APP = "clients.app:app"

RUN_ID = 1  # one run a simulation
SERVER_NODE_ID = 1  # as Flower's SuperLink has it; clients begin after it


def node_id(client: int) -> int:
    """Return the Flower node that plays a client."""
    return SERVER_NODE_ID + 1 + client


@dataclass(frozen=True)
class AppSpec:
    """A ClientApp by reference, how many clients there are, and their run config; travels to every worker."""

    clients: int
    run_config: UserConfig
    reference: str = CLIENT_APP

    def load(self) -> ClientApp:
        """Import the ClientApp."""
        from flwr.clientapp import ClientApp

        app = load_reference(self.reference)
        if not isinstance(app, ClientApp):
            raise Refused(
                f"clientapp = {self.reference!r}: is a {type(app).__name__}; a flwr ClientApp is needed"
            )
        return app

    def context(self, client: int) -> Context:
        """Return a client's context before its first message."""
        return Context(
            run_id=RUN_ID,
            node_id=node_id(client),
            node_config={"partition-id": client, "num-partitions": self.clients},
            state=RecordDict(),
            run_config=dict(self.run_config),
        )


def load_server_app(reference: str) -> ServerApp:
    """Import a ServerApp."""
    from flwr.serverapp import ServerApp

    app = load_reference(reference)
    if not isinstance(app, ServerApp):
        raise Refused(f"serverapp = {reference!r}: is a {type(app).__name__}; a flwr ServerApp is needed")
    return app


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """Let one client answer one message, on one thread; what it raises becomes its error reply."""
    from flwr.app import Error
    from flwr.common.constant import ErrorCode

    try:
        with single_threaded():
            return app(message, context)
    except Exception as error:  # a client may raise anything, and the round goes on
        reason = f"{type(error).__name__}: {error}"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
