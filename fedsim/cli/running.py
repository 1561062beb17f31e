"""`fedsim run` and `fedsim resume`, for experiments and for Flower apps."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedsim.cli.deploy import ServerOptions, resume_on, run_on
from fedsim.cli.shared import ADDRESS, INSECURE, JSON, KEYS, ON, QUIET, SET, exit_codes
from fedsim.errors import Refused
from fedsim.references import see_folders

if TYPE_CHECKING:
    from fedsim.experiment import Experiment
    from fedsim.tracking import Tracker

SOURCE = typer.Argument(
    metavar="CONFIG.toml | APP_DIR", help="The experiment file, or the folder of any Flower app."
)
RUN = typer.Argument(metavar="RUN", help="The run directory of a run that has not ended well.")
RUN_CONFIG = typer.Option(
    "--run-config",
    "-c",
    metavar="'KEY=VALUE ...' | FILE.toml",
    help="Override an app's run config, as in flwr run.",
)
CLIENTS = typer.Option(metavar="N", help="An app's clients. Default: its num-supernodes, else 10.")
NODE_CONFIG = typer.Option(
    "--node-config",
    metavar="'KEY=VALUE ...' | FILE.toml",
    help="What an app's nodes have in their context; in a file, [[node]] tables are for one node each.",
)
SEED = typer.Option(
    metavar="N | os",
    help="Of the global generators that an app draws from (default 0); os: other draws in each run.",
)
ENGINE = typer.Option(
    metavar="ENGINE", help="local (worker processes), ray (actors of a cluster) or sequential (this process)."
)
WORKERS = typer.Option(metavar="N", help="Worker processes or actors; 0: one for each core.")
OUT = typer.Option(metavar="DIR", help="The run directory, which must not exist. Default: runs/NAME-TIME.")
VERIFY = typer.Option(
    "--verify", help="Hash all of the prepared data in the cache first; prepare it again if damaged."
)
DETACH = typer.Option("--detach", help="Start the run, and don't wait for it.")
TRACK = typer.Option(
    metavar="mlflow | tensorboard[:PLACE] | MODULE:CLASS",
    help="Tell this tracker, too: MLflow at a URI, TensorBoard in a folder, or one's own class.",
)


@dataclass(frozen=True)
class _Options:
    """The options that experiments and apps share."""

    runtime: Mapping[str, Any]  # engine, workers, address; None: unset
    out: Path | None
    track: Sequence[str]
    silent: bool
    as_json: bool


def run(
    source: Annotated[Path, SOURCE],
    overrides: Annotated[list[str] | None, SET] = None,
    run_config: Annotated[list[str] | None, RUN_CONFIG] = None,
    clients: Annotated[int | None, CLIENTS] = None,
    node_config: Annotated[list[str] | None, NODE_CONFIG] = None,
    seed: Annotated[str | None, SEED] = None,
    engine: Annotated[str | None, ENGINE] = None,
    workers: Annotated[int | None, WORKERS] = None,
    address: Annotated[str | None, ADDRESS] = None,
    out: Annotated[Path | None, OUT] = None,
    on: Annotated[str | None, ON] = None,
    keys: Annotated[Path | None, KEYS] = None,
    insecure: Annotated[bool, INSECURE] = False,
    detach: Annotated[bool, DETACH] = False,
    track: Annotated[list[str] | None, TRACK] = None,
    verify: Annotated[bool, VERIFY] = False,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run an experiment, or any Flower app, and write a run directory.

    The engine and the number of workers change how long it takes, never the result: the same experiment with
    the same seed gives the same bits. An experiment takes --set; an app takes --run-config, --clients,
    --node-config and --seed.

    With --on the experiment runs on a server, by its clients, and the run directory is copied here. Ctrl-C lets go
    of it, and the run goes on: `fedsim follow` and `fedsim stop` are for it.
    """
    runtime = {"engine": engine, "workers": workers, "address": address}
    how = _Options(runtime, out, track or (), quiet or as_json, as_json)
    where = ServerOptions(on, keys, insecure, how.silent, as_json)
    for_apps = {"run-config": run_config, "clients": clients, "node-config": node_config, "seed": seed}
    with exit_codes():
        where.check(
            {"detach": detach},
            {**runtime, **for_apps, "run-config": None, "track": track, "verify": verify or None},
        )
        if on is not None:
            if source.is_dir() or run_config:
                raise Refused("--on: takes an experiment file; `flwr run` runs other Flower apps on a server")
            see_folders([Path.cwd(), source.absolute().parent])
            run_on(source, overrides or [], where, out, detach)
            return
        if source.is_dir():
            if verify:
                raise Refused("--verify: is for experiment files; fedsim prepares no data of other apps")
            _run_app(source, overrides or [], run_config or [], clients, node_config or [], seed, how)
            return
        for option, given in for_apps.items():
            if given is not None:
                raise Refused(f"--{option}: is for Flower apps; an experiment file takes --set")
        see_folders([Path.cwd(), source.absolute().parent])  # for "module:callable"
        from fedsim.experiment import Experiment

        changes = [f"runtime.{key}={value}" for key, value in runtime.items() if value is not None]
        experiment = Experiment.load(source, [*(overrides or []), *changes])
        if verify:
            _verify(experiment)
        _run_experiment(experiment, how)


def resume(
    path: Annotated[Path, RUN],
    engine: Annotated[str | None, ENGINE] = None,
    workers: Annotated[int | None, WORKERS] = None,
    address: Annotated[str | None, ADDRESS] = None,
    on: Annotated[str | None, ON] = None,
    keys: Annotated[Path | None, KEYS] = None,
    insecure: Annotated[bool, INSECURE] = False,
    track: Annotated[list[str] | None, TRACK] = None,
    verify: Annotated[bool, VERIFY] = False,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Go on with a run that was killed, interrupted or failed.

    It continues after its last whole round, and ends with the bits that it would have had without the interruption,
    on any engine and with any number of workers. With --on it continues at its server, and RUN is its copy
    here or its name.
    """
    runtime: dict[str, Any] = {"engine": engine, "workers": workers, "address": address}
    silent = quiet or as_json
    where = ServerOptions(on, keys, insecure, silent, as_json)
    with exit_codes():
        where.check({}, {**runtime, "track": track, "verify": verify or None})
        if on is not None:
            resume_on(path, where)
            return
        see_folders([Path.cwd()])
        from fedsim.cli.display import following, tell
        from fedsim.results import Run
        from fedsim.results.resumption import examine

        name, trackers = examine(path).manifest["name"], _trackers(track or ())
        if verify:
            _verify(Run(path).experiment)
        with following(Console(), silent, name) as progress:
            from fedsim.simulate import resume as go_on

            done = go_on(path, progress, trackers, **runtime)
        tell(done, silent, as_json)


def _verify(experiment: Experiment) -> None:
    """Check all of an experiment's prepared data."""
    from fedsim.data import prepare

    prepare(experiment, verify=True)


def _trackers(texts: Sequence[str]) -> list[Tracker]:
    """Return the trackers of `--track`; raises `Refused`."""
    if not texts:
        return []
    from fedsim.tracking import tracker_of

    return [tracker_of(text) for text in texts]


def _run_app(
    folder: Path,
    overrides: list[str],
    run_config: list[str],
    clients: int | None,
    node_config: list[str],
    seed: str | None,
    how: _Options,
) -> None:
    """Run a Flower app; Flower's log is its progress."""
    from fedsim.flower.app import FlowerApp, parse_node_config, parse_overrides
    from fedsim.simulate_app import experiment_of, is_fedsim
    from fedsim.simulate_app import run_app as simulate

    if overrides:
        raise Refused("--set: is for experiment files; a Flower app takes --run-config")
    changes, nodes = parse_overrides(run_config), parse_node_config(node_config)
    if seed not in (None, "os") and not seed.isdecimal():
        raise Refused(f"--seed {seed!r}: must be an integer of at least 0, or os")
    app = FlowerApp.read(folder)
    if is_fedsim(app):
        for option, given in (("node-config", node_config), ("seed", seed)):
            if given:
                raise Refused(
                    f"--{option}: is for other apps, not for an experiment, which has a seed of its own"
                )
        config = app.fused(changes)
        out = how.out or (Path(str(config["run-dir"])) if config["run-dir"] else None)
        _run_experiment(experiment_of(config, clients, **how.runtime), replace(how, out=out))
        return
    if how.track:
        raise Refused(f"--track {how.track[0]!r}: is for experiments; fedsim knows no metrics of other apps")
    from fedsim.cli.display import failures_of, tell
    from fedsim.results.directory import from_here

    with _no_stdout() if how.silent else nullcontext():
        number = None if seed == "os" else int(seed or 0)
        done = simulate(
            folder, changes, clients, how.out, node_config=nodes, seed=number, **how.runtime, quiet=how.silent
        )
    if how.silent and (failures := failures_of(done)):
        typer.echo(f"fedsim: {failures}; all are in {from_here(done.path)}/log.txt", err=True)
    tell(done, how.silent, how.as_json)


def _run_experiment(experiment: Experiment, how: _Options) -> None:
    from fedsim.cli.display import following, tell

    trackers = _trackers(how.track)
    with following(Console(), how.silent, experiment.name) as progress:
        from fedsim.simulate import run

        done = run(experiment, how.out, progress, trackers)
    tell(done, how.silent, how.as_json)


@contextmanager
def _no_stdout() -> Iterator[None]:
    """Redirect the stdout of worker processes, so that --json prints only JSON."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
