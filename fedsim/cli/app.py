"""The commands. Each imports its modules when it runs, so that `--help` and refusals are fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.cli.budget import budget
from fedsim.cli.client import client
from fedsim.cli.compare import compare
from fedsim.cli.deploy import DETACH, INSECURE, KEYS, ON, ServerOptions, follow, resume_on, run_on, stop, up
from fedsim.cli.exit_codes import exit_codes
from fedsim.cli.export import export
from fedsim.cli.keys import keys
from fedsim.cli.server import server
from fedsim.cli.sweep import sweep
from fedsim.errors import Refused
from fedsim.references import see_folders

app = typer.Typer(
    name="fedsim",
    help="Simulate federated learning, with privacy that is measured, not assumed.",
    epilog="Exit codes: 0 done, 1 failed, 2 refused. A run is one TOML file: see `fedsim run --help`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(budget, name="budget")
app.command("client")(client)
app.command("keys")(keys)
app.command("server")(server)

SOURCE = typer.Argument(
    metavar="CONFIG.toml | APP_DIR",
    help="The experiment file, or the folder of any Flower app.",
    show_default=False,
)
SET = typer.Option(
    "--set",
    metavar="KEY=VALUE",
    help="Override a key, as in --set rounds=5 --set data.alpha=0.1.",
    show_default=False,
)
RUN_CONFIG = typer.Option(
    "--run-config",
    "-c",
    metavar="'KEY=VALUE ...' | FILE.toml",
    help="Override an app's run config, as in flwr run.",
    show_default=False,
)
CLIENTS = typer.Option(
    metavar="N", help="An app's clients. Default: its num-supernodes, else 10.", show_default=False
)
ENGINE = typer.Option(
    metavar="ENGINE",
    help="local (worker processes), ray (actors of a cluster) or sequential (this process).",
    show_default=False,
)
WORKERS = typer.Option(
    metavar="N", help="Worker processes or actors; 0: one for each core.", show_default=False
)
ADDRESS = typer.Option(
    metavar="ADDRESS", help="Of a Ray cluster. Default: this machine alone.", show_default=False
)
OUT = typer.Option(
    metavar="DIR",
    help="The run directory, which must not exist. Default: runs/NAME-TIME.",
    show_default=False,
)
TRACK = typer.Option(
    metavar="mlflow | tensorboard[:PLACE] | MODULE:CLASS",
    help="Tell this tracker, too: MLflow at a URI, TensorBoard in a folder, or one's own class.",
    show_default=False,
)
QUIET = typer.Option("--quiet", "-q", help="Print nothing but errors.")
JSON = typer.Option("--json", help="Print JSON instead.")


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
) -> None:
    """Define the options of all commands."""


@app.command()
def run(
    source: Annotated[Path, SOURCE],
    overrides: Annotated[list[str] | None, SET] = None,
    run_config: Annotated[list[str] | None, RUN_CONFIG] = None,
    clients: Annotated[int | None, CLIENTS] = None,
    engine: Annotated[str | None, ENGINE] = None,
    workers: Annotated[int | None, WORKERS] = None,
    address: Annotated[str | None, ADDRESS] = None,
    out: Annotated[Path | None, OUT] = None,
    on: Annotated[str | None, ON] = None,
    keys: Annotated[Path | None, KEYS] = None,
    insecure: Annotated[bool, INSECURE] = False,
    detach: Annotated[bool, DETACH] = False,
    track: Annotated[list[str] | None, TRACK] = None,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run an experiment, or any Flower app, and write a run directory.

    The engine and the number of workers change how long it takes, never the result: the same experiment with
    the same seed gives the same bits. An experiment takes --set; an app takes --run-config and --clients.

    With --on the experiment runs on a server, by its clients, and the run directory is copied here. Ctrl-C lets go
    of it, and the run goes on: `fedsim follow` and `fedsim stop` are for it.
    """
    from fedsim.cli import running

    how = running.RunOptions(engine, workers, address, out, quiet or as_json, as_json, tuple(track or ()))
    where = ServerOptions(on, keys, insecure, quiet or as_json, as_json)
    with exit_codes():
        where.check(
            {"--detach": detach},
            {
                "--engine": engine,
                "--workers": workers,
                "--address": address,
                "--clients": clients,
                "--track": track,
            },
        )
        if on is not None:
            if source.is_dir() or run_config:
                raise Refused("--on: takes an experiment file; `flwr run` runs other Flower apps on a server")
            see_folders([Path.cwd(), source.absolute().parent])
            run_on(source, overrides or [], where, out, detach)
            return
        if source.is_dir():
            running.run_app(source, overrides or [], run_config or [], clients, how)
            return
        for option, given in (("--run-config", run_config), ("--clients", clients is not None)):
            if given:
                raise Refused(f"{option}: is for Flower apps; an experiment file takes --set")
        see_folders([Path.cwd(), source.absolute().parent])  # for "module:callable"
        running.run_file(source, overrides or [], how)


@app.command()
def resume(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="The run directory of a run that has not ended well.", show_default=False
        ),
    ],
    engine: Annotated[str | None, ENGINE] = None,
    workers: Annotated[int | None, WORKERS] = None,
    address: Annotated[str | None, ADDRESS] = None,
    on: Annotated[str | None, ON] = None,
    keys: Annotated[Path | None, KEYS] = None,
    insecure: Annotated[bool, INSECURE] = False,
    track: Annotated[list[str] | None, TRACK] = None,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Go on with a run that was killed, interrupted or failed.

    It goes on after its last whole round, and ends with the bits that it would have had without the interruption,
    on any engine and with any number of workers. With --on it goes on at the server where it is, and RUN is its copy
    here or its name.
    """
    from fedsim.cli import running

    where = ServerOptions(on, keys, insecure, quiet or as_json, as_json)
    with exit_codes():
        where.check({}, {"--engine": engine, "--workers": workers, "--address": address, "--track": track})
        if on is not None:
            resume_on(path, where)
            return
        see_folders([Path.cwd()])
        how = running.RunOptions(
            engine, workers, address, None, quiet or as_json, as_json, tuple(track or ())
        )
        running.resume(path, how)


@app.command()
def data(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG.toml]", help="Show this experiment's partition.", show_default=False),
    ] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw examples and labels of each client.", show_default=False),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List the sources and partitions, or show an experiment's partition."""
    from fedsim.cli import listing

    with exit_codes():
        if config is None:
            if picture is not None or overrides:
                raise Refused("--picture and --set: show an experiment's data; a CONFIG.toml is needed")
            listing.show_sources(Console(), as_json)
            return
        from fedsim.cli import partition_view
        from fedsim.data import prepare
        from fedsim.experiment import Experiment

        see_folders([Path.cwd(), config.absolute().parent])  # for "module:callable"
        experiment = Experiment.load(config, overrides or [])
        view = partition_view.View.of(experiment, prepare(experiment))
        if as_json:
            typer.echo(json.dumps(view.as_json()))
        else:
            view.show(Console())
        if picture is not None:
            view.draw(picture)


@app.command()
def tasks(as_json: Annotated[bool, JSON] = False) -> None:
    """List the tasks and their options."""
    from fedsim.cli import listing

    listing.show_tasks(Console(), as_json)


@app.command()
def models(as_json: Annotated[bool, JSON] = False) -> None:
    """List the models and their options."""
    from fedsim.cli import listing

    listing.show_models(Console(), as_json)


@app.command()
def algorithms(as_json: Annotated[bool, JSON] = False) -> None:
    """List the algorithms and their options."""
    from fedsim.cli import listing

    listing.show_algorithms(Console(), as_json)


@app.command()
def strategies(as_json: Annotated[bool, JSON] = False) -> None:
    """List the strategies and their options."""
    from fedsim.cli import listing

    listing.show_strategies(Console(), as_json)


@app.command()
def optimizers(as_json: Annotated[bool, JSON] = False) -> None:
    """List the clients' optimizers and learning-rate schedules, and their options."""
    from fedsim.cli import listing

    listing.show_optimizers(Console(), as_json)


@app.command()
def schema() -> None:
    """Print the JSON schema of experiment files, for editors.

    Save it, and begin an experiment file with `#:schema ./fedsim.schema.json` to have an editor complete and
    check it.
    """
    from fedsim.schema import schema as tree

    typer.echo(json.dumps(tree(), indent=2))


for command in (sweep, compare, export, up, follow, stop):
    app.command()(command)
