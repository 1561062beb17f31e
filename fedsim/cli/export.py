"""`fedsim export`: a publishable folder of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsim.cli.shared import JSON, exit_codes

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
