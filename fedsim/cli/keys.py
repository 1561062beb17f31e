"""`fedsim keys`: the key folders of a server, its operator and its clients."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shared import exit_codes
from fedsim.errors import Refused

DIR = typer.Argument(metavar="DIR", help="A new folder; with --add, one made before.")
CLIENTS = typer.Option(min=1, metavar="N", help="How many clients.")
ADD = typer.Option(min=1, metavar="N", help="Add clients to a folder made before, instead.")
HOST = typer.Option(
    metavar="NAME|IP",
    help="What clients call the server by, beside localhost; may be given more than once.",
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
    from fedsim.deployment.key_making import add_clients, make_keys

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
