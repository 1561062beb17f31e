"""`fedsim sweep`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedsim.errors import Refused

if TYPE_CHECKING:
    from fedsim.sweeps import Sweep

UNLIMITED = 10**9  # runs


def sweep(
    configs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CONFIG.toml ...",
            help="Experiment files, each an arm of the sweep; or one sweep file, with a table [sweep].",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="KEY=V1,V2,...",
            help="Vary a key, as in --grid client.learning-rate=0.1,0.3; several: every combination.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of all runs.", show_default=False),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Runs of each point: the experiment's seed and those after it. Default: the sweep file's, or 1.",
            show_default=False,
        ),
    ] = None,
    search: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Draw N points at random; each is run with each of the grid.",
            show_default=False,
        ),
    ] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="KEY=LOW:HIGH[:log]",
            help="What --search draws from, evenly or, with log, evenly by factors.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Runs at the same time; 0: one for each core (of ray: one).")
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The sweep directory; one with the same plan goes on. Default: runs/NAME.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="ENGINE",
            help="sequential: a process plays a run; ray: a Ray cluster plays its clients.",
        ),
    ] = "sequential",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Of a Ray cluster. Default: this machine alone.", show_default=False
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Go on with this sweep; no CONFIG is needed then.", show_default=False
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try those runs again that failed before.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Allow more than 200 runs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Run every combination of experiments, settings and seeds, side by side.

    The sweep directory holds sweep.json (the plan, and what became of each run) and runs/. A sweep that was killed
    goes on by the same command: runs that are done are kept, those under way go on after their last whole round,
    and all have the bits that they would have had anyway. A run that fails is noted, and the rest goes on.
    """
    from fedsim.cli.app import exit_codes

    with exit_codes():
        from fedsim.cli.sweep_view import following, show
        from fedsim.references import see_folders
        from fedsim.sweeps.grid import parse_grid
        from fedsim.sweeps.ranges import Search
        from fedsim.sweeps.run import MOST, make_plan, play_plan, resume_sweep

        see_folders([Path.cwd()])  # for "module:callable"
        options = {"--grid": grid, "--set": overrides, "--seeds": seeds, "--out": out}
        _check(configs or [], resume, options | {"--search": search, "--range": ranges})
        plan = None
        if resume is None:
            most = UNLIMITED if yes else MOST
            plan = make_plan(
                configs or [],
                parse_grid(grid or []),
                overrides or [],
                seeds,
                Search.of(search, ranges or []),
                most,
            )
        with following(Console(), quiet or as_json) as progress:
            go_on = partial(resume_sweep, resume or "")
            play = go_on if plan is None else partial(play_plan, plan, out)
            done = play(
                workers=workers,
                engine=engine,
                address=address or "",
                retry_failed=retry_failed,
                progress=progress,
            )
        if as_json:
            typer.echo(json.dumps(_json(done)))
        elif not quiet:
            show(done, Console())
        if done.failures:
            raise typer.Exit(1)


def _check(configs: list[Path], resume: Path | None, options: Mapping[str, object]) -> None:
    """Refuse a command without configs, or with both configs and a sweep to go on with."""
    if resume is None:
        if not configs:
            raise Refused("sweep: a CONFIG.toml, or --resume DIR, is needed")
        return
    given = [name for name, value in options.items() if value is not None]
    if configs or given:
        raise Refused(
            f"--resume {str(resume)!r}: can't stand beside {(given or ['CONFIG.toml'])[0]}; the plan is there"
        )


def _json(done: Sweep) -> dict[str, object]:
    states = done.states
    return {
        "sweep": str(done.path),
        "runs": len(states),
        "completed": sum(state == "completed" for state in states.values()),
        "failed": done.failures,
    }
