"""`fedsim client`: one client of a federation, as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsim.cli.shared import PARENT, QUIET, exit_codes

ON = typer.Option("--on", metavar="HOST:PORT", help="The server.")
KEYS = typer.Option(
    metavar="DIR",
    help="This client's folder of `fedsim keys`. Needed but for --insecure.",
)
PARTITION = typer.Option(min=0, metavar="I", help="Its number, from 0 on. Default: the number of its keys.")
OF = typer.Option(min=1, metavar="N", help="How many clients there are. Default: as many as have keys.")
DATA = typer.Option(
    metavar="PATH",
    help="Its own examples (.npz, .parquet, .txt), which stay here. Default: its share of the experiment's data.",
)
STATE = typer.Option(metavar="DIR", help="What it keeps from run to run; its own, and one that lasts.")
ONLY = typer.Option(
    metavar="CONFIG.toml",
    help="Take part in this experiment alone; may be given more than once.",
)
INSECURE = typer.Option("--insecure", help="Neither TLS nor keys, for a server on this machine alone.")


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
        from fedsim.deployment.client.run import Options, run_client

        run_client(Options(address, state, keys, partition, of, data, only or [], insecure, quiet))
