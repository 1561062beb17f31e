"""The commands. Each imports its modules when it runs, so that `--help` and refusals are fast."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedsim.cli import listing
from fedsim.cli.budget import budget
from fedsim.cli.deploy import follow, stop, up
from fedsim.cli.federation import client, keys, server
from fedsim.cli.finished import compare, export
from fedsim.cli.running import resume, run
from fedsim.cli.sweep import sweep
from fedsim.output import lasting_output


class _App(typer.Typer):
    """The commands, with output that outlives its reader."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run the command of the process's arguments."""
        with lasting_output():
            return super().__call__(*arguments, **options)


app = _App(
    name="fedsim",
    help="Simulate federated learning, with privacy that is measured, not assumed.",
    epilog="Exit codes: 0 done, 1 failed, 2 refused. A run is one TOML file: see `fedsim run --help`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fedsim {version('fedsim')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Print the traceback of what your own code raised, before a refusal."),
    ] = False,
) -> None:
    """Define the options of all commands."""


app.add_typer(budget, name="budget")
for command in (
    client,
    keys,
    server,
    run,
    resume,
    *listing.COMMANDS,
    sweep,
    compare,
    export,
    up,
    follow,
    stop,
):
    app.command()(command)
