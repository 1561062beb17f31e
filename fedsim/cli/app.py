"""The commands. Each imports what it needs when it runs, so that `--help` and refusals come at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedsim.catalogue import see_folders
from fedsim.errors import Interrupted, Refused, RunFailed

if TYPE_CHECKING:
    from fedsim.results import Run

app = typer.Typer(
    name="fedsim",
    help="Simulate federated learning, with privacy that is measured, not assumed.",
    epilog="Exit codes: 0 done, 1 failed, 2 refused. A run is one TOML file: see `fedsim run --help`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CONFIG = typer.Argument(metavar="CONFIG.toml", help="The experiment file.", show_default=False)
SET = typer.Option(
    "--set",
    metavar="KEY=VALUE",
    help="Override a key, as in --set rounds=5 --set data.alpha=0.1.",
    show_default=False,
)
ENGINE = typer.Option(
    metavar="ENGINE", help="local (worker processes) or sequential (this process).", show_default=False
)
WORKERS = typer.Option(metavar="N", help="Worker processes; 0: one for each core.", show_default=False)
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
    """Say what goes for all commands."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what fedsim refuses into exit code 2, and what failed into 1, with one line each."""
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


@app.command()
def run(
    config: Annotated[Path, CONFIG],
    overrides: Annotated[list[str] | None, SET] = None,
    engine: Annotated[str | None, ENGINE] = None,
    workers: Annotated[int | None, WORKERS] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run directory, which must not exist. Default: runs/NAME-TIME.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run an experiment and write a run directory.

    The engine and the number of workers change how long it takes, never the result: the same experiment with
    the same seed gives the same bits.
    """
    from fedsim.cli.display import following
    from fedsim.experiment import Experiment

    changes = list(overrides or [])
    changes += [f"runtime.engine={engine}"] if engine is not None else []
    changes += [f"runtime.workers={workers}"] if workers is not None else []
    with exit_codes():
        see_folders([Path.cwd(), config.absolute().parent])  # for "module:callable"
        experiment = Experiment.load(config, changes)
        with following(Console(), quiet or as_json, experiment.name) as progress:
            from fedsim.simulate import run as simulate

            done = simulate(experiment, out, progress)
        _tell(done, quiet, as_json)


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
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Go on with a run that was killed, interrupted or failed.

    It goes on after its last whole round, and ends with the bits that it would have had without the interruption,
    on any engine and with any number of workers.
    """
    from fedsim.cli.display import following
    from fedsim.results.resumption import examine

    with exit_codes():
        see_folders([Path.cwd()])
        name = examine(path).manifest["name"]
        with following(Console(), quiet or as_json, name) as progress:
            from fedsim.simulate import resume as go_on

            done = go_on(path, progress, engine=engine, workers=workers)
        _tell(done, quiet, as_json)


def _tell(done: Run, quiet: bool, as_json: bool) -> None:
    """Print how a run has ended."""
    if as_json:
        summary = {"run": str(done.path), "status": done.status, **done.manifest["final"]}
        typer.echo(json.dumps(summary))
    elif not quiet:
        from fedsim.cli.display import summary_of

        typer.echo(summary_of(done))


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
    """List the sources and partitions, or show how an experiment's data is dealt."""
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

        experiment = Experiment.load(config, overrides or [])
        view = partition_view.View.of(experiment, prepare(experiment))
        if as_json:
            typer.echo(json.dumps(view.as_json()))
        else:
            view.show(Console())
        if picture is not None:
            view.draw(picture)


@app.command()
def models(as_json: Annotated[bool, JSON] = False) -> None:
    """List the models and their options."""
    from fedsim.cli import listing

    listing.show_models(Console(), as_json)


@app.command()
def strategies(as_json: Annotated[bool, JSON] = False) -> None:
    """List the strategies and their options."""
    from fedsim.cli import listing

    listing.show_strategies(Console(), as_json)


@app.command()
def schema() -> None:
    """Print the JSON schema of experiment files, for editors.

    Save it, and begin an experiment file with `#:schema ./fedsim.schema.json` to have an editor complete and
    check it.
    """
    from fedsim.schema import schema as tree

    typer.echo(json.dumps(tree(), indent=2))
