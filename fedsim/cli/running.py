"""`fedsim run`, for experiments and for Flower apps."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from fedsim.errors import Refused

if TYPE_CHECKING:
    from fedsim.experiment import Experiment
    from fedsim.results import Run
    from fedsim.tracking import Tracker


@dataclass(frozen=True)
class RunOptions:
    """The options that experiments and apps share."""

    engine: str | None
    workers: int | None
    address: str | None
    out: Path | None
    silent: bool
    as_json: bool
    track: tuple[str, ...] = ()

    def trackers(self) -> list[Tracker]:
        """Return the trackers of `--track`; raises `Refused`."""
        if not self.track:
            return []
        from fedsim.tracking import tracker_of

        return [tracker_of(text) for text in self.track]


def run_file(file: Path, overrides: list[str], how: RunOptions) -> None:
    """Run an experiment file."""
    from fedsim.experiment import Experiment

    runtime = {"engine": how.engine, "workers": how.workers, "address": how.address}
    changes = [f"runtime.{key}={value}" for key, value in runtime.items() if value is not None]
    _run_experiment(Experiment.load(file, [*overrides, *changes]), how.out, how)


def run_app(
    folder: Path, overrides: list[str], run_config: list[str], clients: int | None, how: RunOptions
) -> None:
    """Run a Flower app; Flower's log is its progress."""
    from fedsim.flower.app import FlowerApp, parse_overrides
    from fedsim.simulate_app import experiment_of, is_fedsim
    from fedsim.simulate_app import run_app as simulate

    if overrides:
        raise Refused("--set: is for experiment files; a Flower app takes --run-config")
    changes = parse_overrides(run_config)
    app = FlowerApp.read(folder)
    if is_fedsim(app):
        config = app.fused(changes)
        out = how.out or (Path(str(config["run-dir"])) if config["run-dir"] else None)
        experiment = experiment_of(config, clients, how.engine, how.workers, how.address)
        _run_experiment(experiment, out, how)
        return
    if how.track:
        raise Refused(f"--track {how.track[0]!r}: is for experiments; fedsim knows no metrics of other apps")
    with _no_stdout() if how.silent else nullcontext():
        done = simulate(
            folder,
            changes,
            clients,
            how.out,
            engine=how.engine,
            workers=how.workers,
            address=how.address,
            quiet=how.silent,
        )
    tell(done, how.silent, how.as_json)


def resume(path: Path, how: RunOptions) -> None:
    """Go on with a run."""
    from fedsim.cli.display import following
    from fedsim.results.resumption import examine

    name, trackers = examine(path).manifest["name"], how.trackers()
    with following(Console(), how.silent, name) as progress:
        from fedsim.simulate import resume as go_on

        done = go_on(path, progress, trackers, engine=how.engine, workers=how.workers, address=how.address)
    tell(done, how.silent, how.as_json)


def _run_experiment(experiment: Experiment, out: Path | None, how: RunOptions) -> None:
    from fedsim.cli.display import following

    trackers = how.trackers()
    with following(Console(), how.silent, experiment.name) as progress:
        from fedsim.simulate import run

        done = run(experiment, out, progress, trackers)
    tell(done, how.silent, how.as_json)


def tell(done: Run, silent: bool, as_json: bool) -> None:
    """Print a run's result."""
    if as_json:
        typer.echo(json.dumps({"run": str(done.path), "status": done.status, **done.manifest["final"]}))
    elif not silent:
        from fedsim.cli.display import summary_of

        typer.echo(summary_of(done))


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
