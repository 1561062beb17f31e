"""`fedsim server`: the server of a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shared import PARENT, exit_codes
from fedsim.errors import Refused

MIB = 2**20

KEYS = typer.Option(metavar="DIR", help="The server's folder of those that `fedsim keys` made.")
STATE = typer.Option(metavar="DIR", help="Keeps the runs, and state that must survive a restart.")
HOST = typer.Option(
    metavar="ADDRESS",
    help="What to listen on. Default: all addresses of this machine; with --insecure 127.0.0.1.",
)
PORT = typer.Option(min=0, max=65535, metavar="N", help="0: a free one.")
MAX_MESSAGE = typer.Option(min=1, metavar="MIB", help="Largest accepted request.")
MAX_NODES = typer.Option(min=1, metavar="N", help="Clients joined at a time. Default: all registered.")
JOINS = typer.Option(min=1, metavar="N", help="How often clients may join.")
INSECURE = typer.Option(
    "--insecure", help="No TLS, no keys, no credential: on this machine alone, for trying things out."
)


def server(
    state: Annotated[Path, STATE],
    keys: Annotated[Path | None, KEYS] = None,
    host: Annotated[str | None, HOST] = None,
    port: Annotated[int, PORT] = 9091,
    max_message: Annotated[int, MAX_MESSAGE] = 512,
    max_nodes: Annotated[int | None, MAX_NODES] = None,
    joins_per_minute: Annotated[int, JOINS] = 600,
    insecure: Annotated[bool, INSECURE] = False,
    parent: Annotated[int | None, PARENT] = None,
) -> None:
    """Serve clients and an operator, over TLS, until SIGTERM or Ctrl-C.

    Only clients with keys in the folder can join, and only the operator's key starts, stops and reads runs. Refusals
    are logged (standard error) with the caller and the reason.
    """
    with exit_codes():
        if insecure == (keys is not None):
            raise Refused("--keys or --insecure: exactly one is needed")
        from fedsim.deployment.keys import ServerKeys
        from fedsim.deployment.server.serve import Settings, serve

        if insecure:
            said = "fedsim server: --insecure: no TLS, no keys; anyone on this machine may use it"
            typer.echo(said, err=True)
        serve(
            Settings(
                keys=None if keys is None else ServerKeys.load(keys),
                state=state.absolute(),
                host=host or ("127.0.0.1" if insecure else "0.0.0.0"),  # noqa: S104
                port=port,
                max_message=max_message * MIB,
                max_nodes=max_nodes,
                joins_per_minute=joins_per_minute,
                parent=parent,
            )
        )
