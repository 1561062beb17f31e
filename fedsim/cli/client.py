"""`fedsim client`: one client of a federation, as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.exit_codes import exit_codes

ON = typer.Option("--on", metavar="HOST:PORT", help="The server.", show_default=False)
KEYS = typer.Option(
    metavar="DIR",
    help="This client's folder of `fedsim keys`. Needed but for --insecure.",
    show_default=False,
)
PARTITION = typer.Option(
    min=0, metavar="I", help="Its number, from 0 on. Default: the number of its keys.", show_default=False
)
OF = typer.Option(
    min=1, metavar="N", help="How many clients there are. Default: as many as have keys.", show_default=False
)
DATA = typer.Option(
    metavar="PATH",
    help="Its own examples (.npz, .parquet, .txt), which stay here. Default: its share of the experiment's data.",
    show_default=False,
)
STATE = typer.Option(
    metavar="DIR", help="What it keeps from run to run; its own, and one that lasts.", show_default=False
)
ONLY = typer.Option(
    metavar="CONFIG.toml",
    help="Take part in this experiment alone; may be given more than once.",
    show_default=False,
)
INSECURE = typer.Option("--insecure", help="Neither TLS nor keys, for a server on this machine alone.")
QUIET = typer.Option("--quiet", "-q", help="Print nothing but errors.")
PARENT = typer.Option("--parent-pid", hidden=True)


def client(
    address: Annotated[str, ON],
    state: Annotated[Path, STATE],
    keys: Annotated[Path | None, KEYS] = None,
    partition: Annotated[int | None, PARTITION] = None,
    of: Annotated[int | None, OF] = None,
    data: Annotated[Path | None, DATA] = None,
    only: Annotated[list[Path] | None, ONLY] = None,
    insecure: Annotated[bool, INSECURE] = False,
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
