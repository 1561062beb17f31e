"""`fedsim keys`, `server` and `client`: the processes of a federation, and the key folders of their machines."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.shared import PARENT, QUIET, exit_codes
from fedsim.errors import Refused

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

DIR = typer.Argument(metavar="DIR", help="A new folder; with --add, one made before.")
CLIENTS = typer.Option(min=1, metavar="N", help="How many clients.")
ADD = typer.Option(min=1, metavar="N", help="Add clients to a folder made before, instead.")
HOST = typer.Option(
    metavar="NAME|IP", help="What clients call the server by, beside localhost; may be given more than once."
)
DAYS = typer.Option(min=1, max=36500, metavar="D", help="Days for which the certificates are valid.")


def keys(
    folder: Annotated[Path, DIR],
    clients: Annotated[int | None, CLIENTS] = None,
    host: Annotated[list[str] | None, HOST] = None,
    days: Annotated[int, DAYS] = 365,
    add: Annotated[int | None, ADD] = None,
) -> None:
    """Make the keys of a server, its operator and its clients: a folder for each machine.

    DIR/server, DIR/operator and DIR/client-0, client-1, ... each go to their own machine, over a channel that you
    trust. DIR/ca.key stays at home. After --add, take server/ and every registry.json to its machine again.
    """
    from fedsim.deployment.keys import add_clients, make_keys

    with exit_codes():
        if add is not None:
            if clients is not None or host:
                raise Refused("--add: can't stand beside --clients or --host; allowed: DIR --add N")
            numbers = add_clients(folder, add)
            typer.echo(f"{folder}: added client-{numbers[0]} to client-{numbers[-1]}")
            return
        if clients is None:
            raise Refused("--clients: is missing; allowed: a number of clients from 1 on, or --add N")
        make_keys(folder, clients, host or [], timedelta(days=days))
        typer.echo(f"{folder}: server, operator, client-0 to client-{clients - 1}; good for {days} days")


SERVER_KEYS = typer.Option(metavar="DIR", help="The server's folder of those that `fedsim keys` made.")
SERVER_STATE = typer.Option(metavar="DIR", help="Keeps the runs, and state that must survive a restart.")
SERVER_HOST = typer.Option(
    metavar="ADDRESS",
    help="What to listen on. Default: all addresses of this machine; with --insecure 127.0.0.1.",
)
PORT = typer.Option(min=0, max=65535, metavar="N", help="0: a free one.")
MAX_MESSAGE = typer.Option(min=1, metavar="MIB", help="Largest accepted request.")
MAX_NODES = typer.Option(min=1, metavar="N", help="Clients joined at a time. Default: all registered.")
JOINS = typer.Option(min=1, metavar="N", help="How often clients may join.")
SERVER_ONLY = typer.Option(
    "--only",
    metavar="CONFIG.toml",
    help="Run this experiment alone; may be given more than once. Default: all that name no code, file or hub data set.",
)
SERVER_INSECURE = typer.Option(
    "--insecure", help="No TLS, no keys, no credential: on this machine alone, for trying things out."
)


def server(
    state: Annotated[Path, SERVER_STATE],
    keys: Annotated[Path | None, SERVER_KEYS] = None,
    host: Annotated[str | None, SERVER_HOST] = None,
    port: Annotated[int, PORT] = 9091,
    max_message: Annotated[int, MAX_MESSAGE] = 512,
    max_nodes: Annotated[int | None, MAX_NODES] = None,
    joins_per_minute: Annotated[int, JOINS] = 600,
    only: Annotated[list[Path] | None, SERVER_ONLY] = None,
    insecure: Annotated[bool, SERVER_INSECURE] = False,
    parent: Annotated[int | None, PARENT] = None,
) -> None:
    """Serve clients and an operator, over TLS, until SIGTERM or Ctrl-C.

    Only clients with keys in the folder can join, and only the operator's key starts, stops and reads runs. An experiment
    that names code or data is run only if it was given here. Refusals are logged (standard error) with the caller and the
    reason.
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
                max_message=max_message * 2**20,
                max_nodes=max_nodes,
                joins_per_minute=joins_per_minute,
                only=_experiments(only),
                parent=parent,
            )
        )


def _experiments(files: list[Path] | None) -> list[Experiment]:
    from fedsim.experiment import Experiment

    return [Experiment.load(file) for file in files or []]


CLIENT_ON = typer.Option("--on", metavar="HOST:PORT", help="The server.")
CLIENT_KEYS = typer.Option(
    metavar="DIR", help="This client's folder of `fedsim keys`. Needed but for --insecure."
)
PARTITION = typer.Option(min=0, metavar="I", help="Its number, from 0 on. Default: the number of its keys.")
OF = typer.Option(min=1, metavar="N", help="How many clients there are. Default: as many as have keys.")
DATA = typer.Option(
    metavar="PATH",
    help="Its own examples (.npz, .parquet, .txt), which stay here. Default: its share of the experiment's data.",
)
CLIENT_STATE = typer.Option(metavar="DIR", help="What it keeps from run to run; its own, and one that lasts.")
ONLY = typer.Option(
    metavar="CONFIG.toml",
    help="Take part in this experiment alone; may be given more than once. Default: all that name no code, file or hub data set.",
)
CLIENT_INSECURE = typer.Option("--insecure", help="Neither TLS nor keys, for a server on this machine alone.")


def client(
    address: Annotated[str, CLIENT_ON],
    state: Annotated[Path, CLIENT_STATE],
    keys: Annotated[Path | None, CLIENT_KEYS] = None,
    partition: Annotated[int | None, PARTITION] = None,
    of: Annotated[int | None, OF] = None,
    data: Annotated[Path | None, DATA] = None,
    only: Annotated[list[Path] | None, ONLY] = None,
    insecure: Annotated[bool, CLIENT_INSECURE] = False,
    quiet: Annotated[bool, QUIET] = False,
    parent: Annotated[int | None, PARENT] = None,
) -> None:
    """Join a server, and answer its runs by the ClientApp that is installed here, until SIGTERM or Ctrl-C.

    It runs no code but its own: a run of another version, or with modules of its own, is refused. The server may be
    away, or not there yet: the client keeps trying.
    """
    from fedsim.deployment.client.shutdown import until_shutdown

    with exit_codes(), until_shutdown(parent):
        from fedsim.deployment.client.run import run_client

        run_client(address, state, keys, partition, of, data, only or [], insecure, quiet)
