"""What commands share: options, and exit codes: 0 done, 1 failed or interrupted, 2 refused."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click
import typer

from fedsim.errors import Interrupted, Refused, RunFailed, printable

LINE = 500  # characters of a refusal or a failure, at most

QUIET = typer.Option("--quiet", "-q", help="Print nothing but errors.")
JSON = typer.Option("--json", help="Print JSON instead.")
SET = typer.Option(
    "--set",
    metavar="KEY=VALUE",
    help="Override a key, as in --set rounds=5 --set data.alpha=0.1. A relative data.path starts at the current folder.",
)
ADDRESS = typer.Option(metavar="ADDRESS", help="Of a Ray cluster. Default: this machine alone.")
ON = typer.Option("--on", metavar="HOST:PORT", help="The server, which `fedsim server` starts.")
KEYS = typer.Option(metavar="DIR", help="The operator's folder of those that `fedsim keys` makes.")
INSECURE = typer.Option("--insecure", help="The server was started with --insecure, on this machine.")
PARENT = typer.Option("--parent-pid", hidden=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn refusals into exit code 2, and failures into 1, with one line of at most `LINE` characters each."""
    try:
        yield
        return
    except Refused as refused:
        code, said = 2, str(refused)
        context = click.get_current_context(silent=True)
        if refused.__cause__ and context and context.find_root().params.get("debug"):
            traceback.print_exception(refused.__cause__)
    except Interrupted as interrupted:
        code, said = 1, str(interrupted)
    except RunFailed as failed:
        code, said = 1, f"failed: {failed}"
    except OSError as error:  # a full disk, no more file descriptors
        where = "" if error.filename is None else f"{error.filename}: "
        code, said = 1, f"failed: {where}{error.strerror or error}"
    except KeyboardInterrupt:
        code, said = 1, "interrupted"
    typer.echo(printable(f"fedsim: {said}", LINE), err=True)
    raise typer.Exit(code)
