"""`fedsim compare` and `fedsim export`: what is made of finished runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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
PICTURES = typer.Option(metavar="DIR", help="Write pictures there, each as PNG and SVG.")
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
    out: Annotated[Path | None, PICTURES] = None,
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


RUN = typer.Argument(metavar="RUN", help="The run directory of a completed run, or a copy.")
DIR = typer.Argument(metavar="DIR", help="The folder, which must not exist.")
PRIVATE = typer.Option("--private", help="Also copy private files; the folder must then not be published.")


def export(
    run: Annotated[Path, RUN],
    out: Annotated[Path, DIR],
    private: Annotated[bool, PRIVATE] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Make a publishable folder of a run, and say which epsilon covers it.

    It holds the experiment, the model, and the covered part of rows and manifest; two runs that released the same
    models give the same bytes.
    """
    with exit_codes():
        from fedsim.results.exporting import UNCOVERED
        from fedsim.results.exporting import export as make

        covered = make(run, out, private).manifest["covered-by"]
        if as_json:
            typer.echo(json.dumps({"export": str(out), "covered-by": covered, "private": private}))
        else:
            typer.echo(f"{out}: {said_of(covered)}")
        if private:
            typer.echo(f"fedsim: warning: {UNCOVERED}; don't publish {str(out)!r}", err=True)


def said_of(covered: Mapping[str, Any]) -> str:
    """Return the epsilon that covers an export, as a line.

    >>> said_of({"adversary": "released-models", "epsilon": 2.0661, "delta": 1e-3, "unit": "client",
    ...     "relation": "zero-out"})
    'covered by epsilon 2.066 against released-models (client, zero-out, delta 0.001)'
    """
    but = f"; but {covered['but']}" if "but" in covered else ""
    if covered["epsilon"] is None:
        return f"covered by no epsilon: {covered['why']}{but}"
    terms = f"{covered['unit']}, {covered['relation']}, delta {covered['delta']:g}"
    return f"covered by epsilon {covered['epsilon']:.4g} against {covered['adversary']} ({terms}){but}"
