"""`fedsim sweep`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedsim.cli.shared import ADDRESS, JSON, QUIET, exit_codes
from fedsim.errors import Refused

if TYPE_CHECKING:
    from fedsim.sweeps import Pruning, Sweep

CONFIGS = typer.Argument(
    metavar="CONFIG.toml ...",
    help="Experiment files, each an arm of the sweep; or one sweep file, with a table [sweep].",
)
GRID = typer.Option(
    "--grid",
    metavar="KEY=V1,V2,...",
    help="Vary a key, as in --grid client.learning-rate=0.1,0.3; several: every combination.",
)
SET = typer.Option(
    "--set",
    metavar="KEY=VALUE",
    help="Override a key of all runs. A relative data.path starts at the current folder; in a grid, at its file's.",
)
SEEDS = typer.Option(
    metavar="N",
    help="Runs of each point: the experiment's seed and those after it. Default: the sweep file's, or 1.",
)
SEARCH = typer.Option(metavar="N", help="Draw N points at random; each is run with each of the grid.")
RANGES = typer.Option(
    "--range",
    metavar="KEY=LOW:HIGH[:log]",
    help="Range that --search draws from, uniformly or, with log, log-uniformly.",
)
PRUNE = typer.Option(
    "--prune", help="Stop settings early that score worse than others of the same arm, data and privacy."
)
PRUNE_FACTOR = typer.Option(
    metavar="N",
    help="One in N settings continues after a rung; the next rung is at N times the rounds. Default: 3.",
)
PRUNE_AFTER = typer.Option(
    metavar="N", help="Rounds up to the first rung. Default: all, divided twice by the factor."
)
PRUNE_METRIC = typer.Option(
    metavar="NAME", help="A metric of the task, or loss, on the test set. Default: the headline metric."
)
PRUNE_WITHIN = typer.Option(
    metavar="KEY", help="A further varied key; settings with different values don't compete."
)
WORKERS = typer.Option(metavar="N", help="Runs at the same time; 0: one for each core (of ray: one).")
OUT = typer.Option(
    metavar="DIR", help="The sweep directory; one with the same plan is continued. Default: runs/NAME."
)
ENGINE = typer.Option(
    metavar="ENGINE", help="sequential: a process plays a run; ray: a Ray cluster plays its clients."
)
RESUME = typer.Option(metavar="DIR", help="Go on with this sweep; no CONFIG is needed then.")
RETRY_FAILED = typer.Option("--retry-failed", help="Try those runs again that failed before.")
TRACK = typer.Option(
    metavar="mlflow | tensorboard[:PLACE] | MODULE:CLASS",
    help="Tell this tracker of each run, too: MLflow at a URI, TensorBoard in a folder, or one's own class.",
)
YES = typer.Option("--yes", help="Allow more than 200 runs.")
UNLIMITED = 10**9  # runs


def sweep(
    configs: Annotated[list[Path] | None, CONFIGS] = None,
    grid: Annotated[list[str] | None, GRID] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    seeds: Annotated[int | None, SEEDS] = None,
    search: Annotated[int | None, SEARCH] = None,
    ranges: Annotated[list[str] | None, RANGES] = None,
    prune: Annotated[bool, PRUNE] = False,
    prune_factor: Annotated[int | None, PRUNE_FACTOR] = None,
    prune_after: Annotated[int | None, PRUNE_AFTER] = None,
    prune_metric: Annotated[str | None, PRUNE_METRIC] = None,
    prune_within: Annotated[list[str] | None, PRUNE_WITHIN] = None,
    workers: Annotated[int, WORKERS] = 0,
    out: Annotated[Path | None, OUT] = None,
    engine: Annotated[str, ENGINE] = "sequential",
    address: Annotated[str | None, ADDRESS] = None,
    resume: Annotated[Path | None, RESUME] = None,
    retry_failed: Annotated[bool, RETRY_FAILED] = False,
    track: Annotated[list[str] | None, TRACK] = None,
    yes: Annotated[bool, YES] = False,
    quiet: Annotated[bool, QUIET] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Run every combination of experiments, settings and seeds, side by side.

    The sweep directory holds sweep.json (the plan, and the state of each run) and runs/. The same command resumes a
    killed sweep: completed runs are kept, others continue after their last whole round, and all give the same bits as
    without the interruption. A failed run is noted, and the others continue.

    With --prune all settings run up to a rung, those of a bracket are ranked by their means over seeds, and the best
    third continues to the next rung. A bracket has the settings of one arm that have the same values of all varied keys
    under data, faults and privacy, clip norms apart (with a noise multiplier also of those that epsilon follows from):
    settings of different epsilons never compete.
    """
    with exit_codes():
        from fedsim.cli.sweep_view import following, show
        from fedsim.references import see_folders
        from fedsim.sweeps.points import Search, parse_grid
        from fedsim.sweeps.run import MOST, make_plan, play_plan, resume_sweep
        from fedsim.tracking import tracker_of

        see_folders([Path.cwd()])  # for "module:callable"
        details: dict[str, object] = {
            "--prune-factor": prune_factor,
            "--prune-after": prune_after,
            "--prune-metric": prune_metric,
            "--prune-within": prune_within,
        }
        options: dict[str, object] = {"--grid": grid, "--set": overrides, "--seeds": seeds, "--out": out}
        options |= {"--search": search, "--range": ranges, "--prune": prune or None, **details}
        _check(configs or [], resume, options)
        pruning = _pruning(prune, details)
        trackers = [tracker_of(text) for text in track or ()]
        play: Callable[..., Sweep]
        if resume is not None:
            play = partial(resume_sweep, resume)
        else:
            points, searched = parse_grid(grid or []), Search.of(search, ranges or [])
            most = UNLIMITED if yes else MOST
            plan = make_plan(configs or [], points, overrides or [], seeds, searched, most, pruning)
            play = partial(play_plan, plan, out)
        with following(Console(), quiet or as_json) as progress:
            done = play(
                workers=workers,
                engine=engine,
                address=address or "",
                retry_failed=retry_failed,
                progress=progress,
                trackers=trackers,
            )
        if as_json:
            typer.echo(json.dumps(_json(done)))
        elif not quiet:
            show(done, Console())
        if done.failures:
            raise typer.Exit(1)


def _check(configs: list[Path], resume: Path | None, options: Mapping[str, object]) -> None:
    """Refuse a command with neither or both of configs and a sweep to resume."""
    if resume is None:
        if not configs:
            raise Refused("sweep: a CONFIG.toml, or --resume DIR, is needed")
        return
    given = [name for name, value in options.items() if value is not None]
    if configs or given:
        raise Refused(
            f"--resume {str(resume)!r}: can't stand beside {(given or ['CONFIG.toml'])[0]}; the plan is there"
        )


def _pruning(wanted: bool, details: Mapping[str, Any]) -> Pruning | None:
    """Return the settings of `--prune` and its details, or None."""
    from fedsim.sweeps.pruning import Pruning

    given = {name: value for name, value in details.items() if value is not None}
    if not wanted:
        if given:
            raise Refused(f"{next(iter(given))}: is for --prune")
        return None
    return Pruning(**{name.removeprefix("--prune-"): value for name, value in given.items()})


def _json(done: Sweep) -> dict[str, object]:
    states = done.states
    return {
        "sweep": str(done.path),
        "runs": len(states),
        "completed": sum(state == "completed" for state in states.values()),
        "pruned": done.pruned,
        "failed": done.failures,
    }
