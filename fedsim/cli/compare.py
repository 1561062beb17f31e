"""`fedsim compare`: the model score that privacy costs, by epsilon and mechanism."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.cli.shared import JSON, exit_codes

RUNS = typer.Argument(
    metavar="RUNS...", help="Run directories, sweep directories, folders of runs, or globs of these."
)
ADVERSARY = typer.Option(
    metavar="NAME",
    help="Adversary of the shown epsilons: released-models, known-cohort, server. Default: the one with most epsilons.",
)
METRIC = typer.Option(
    metavar="NAME",
    help="What is compared: a column of the runs' rows by its last value; or seconds or bytes, of all rounds. "
    "Default: the headline metric of the task.",
)
BY = typer.Option(
    metavar="KEY",
    help="A setting that distinguishes lines, as client.learning-rate. Default: only the mechanism does.",
)
TASK = typer.Option(metavar="NAME", help="Of runs of several tasks, the one to compare.")
OUT = typer.Option(metavar="DIR", help="Write pictures there, each as PNG and SVG.")
CSV = typer.Option("--csv", metavar="FILE", help="Write the table as CSV.")
LATEX = typer.Option(metavar="FILE", help="Write the table as LaTeX, for booktabs.")
HTML = typer.Option(metavar="FILE", help="Write one interactive page, which needs no network.")
WIDE = 160  # characters of a line in a file or a pipe


def compare(
    runs: Annotated[list[str], RUNS],
    adversary: Annotated[str | None, ADVERSARY] = None,
    metric: Annotated[str | None, METRIC] = None,
    by: Annotated[str | None, BY] = None,
    task: Annotated[str | None, TASK] = None,
    out: Annotated[Path | None, OUT] = None,
    csv: Annotated[Path | None, CSV] = None,
    latex: Annotated[Path | None, LATEX] = None,
    html: Annotated[Path | None, HTML] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Compare runs: means over seeds, the best of each epsilon, and the cost of privacy.

    Runs that differ only in their seed form a group. A frontier has epsilons against one adversary and of one privacy
    unit. Runs that did not complete are listed and do not count.
    """
    from fedsim.compare import compare as compared
    from fedsim.compare import files, records, table

    with exit_codes():
        comparison = compared(runs, metric=metric, adversary=adversary, by=by, task=task)
        written = files.write(comparison, pictures=out, csv=csv, latex=latex, html=html)
        if as_json:
            typer.echo(json.dumps(records.tree_of(comparison)))
            return
        console = Console()
        table.show(comparison, console if console.is_terminal else Console(width=WIDE))
        for path in written:
            typer.echo(f"written: {path}")
