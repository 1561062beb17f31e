"""Exit codes of all commands: 0 done, 1 failed, 2 refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fedsim.errors import Interrupted, Refused, RunFailed


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn refusals into exit code 2, and failures into 1, with one line each."""
    try:
        yield
    except Refused as refused:
        typer.echo(f"fedsim: {refused}", err=True)
        raise typer.Exit(2) from None
    except Interrupted as interrupted:
        typer.echo(f"fedsim: {interrupted}", err=True)
        raise typer.Exit(1) from None
    except RunFailed as failed:
        typer.echo(f"fedsim: failed: {failed}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("fedsim: interrupted", err=True)
        raise typer.Exit(1) from None
