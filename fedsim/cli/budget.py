"""`fedsim budget`: a plan's cost, in epsilon or in bytes and seconds, before a run.

Commands are generated on demand from the catalogue's budgets (`fedsim.privacy.budget`).
"""

from __future__ import annotations

import inspect
import json
import math
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid
from typer.core import TyperGroup

from fedsim.cli.shared import JSON, exit_codes
from fedsim.errors import Refused

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedsim.privacy.budget import Budget, Curve, Panel, Picture, Table

OWN = "#000000"  # the plan's own curves
SCALE = ("#aa3377", "#ee6677", "#4477aa", "#66ccee")  # from little noise to much
SHADES = ("#ccbb44", "#44aa99", "#228833", "#999933")
EMPHASIS = re.compile(r"\*(\S|\S.*?\S)\*")


class _Budgets(TyperGroup):
    """The catalogue's budgets as commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from fedsim.catalogue import BUDGETS

        return list(BUDGETS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from fedsim.catalogue import BUDGETS
        from fedsim.references import load_reference

        return _command(cmd_name, load_reference(BUDGETS[cmd_name])) if cmd_name in BUDGETS else None


budget = typer.Typer(
    cls=_Budgets,
    help="Plan privacy before a run: epsilon from noise, noise from epsilon; bytes and seconds of secure aggregation.",
    no_args_is_help=True,
)


@budget.callback()
def _budget() -> None: ...


def _command(name: str, kind: type[Budget]) -> click.Command:
    """Return a budget's command; the budget's fields are its options."""

    def show(*, picture: Path | None = None, as_json: bool, **options: Any) -> None:
        plan = kind(**options)
        with exit_codes():
            try:
                plan.check()
            except ValueError as error:
                raise Refused(str(error)) from None
            if picture is not None:
                _write(plan.picture(), picture)
            if as_json:
                typer.echo(json.dumps(plan.to_json()))
            else:
                _print_blocks(plan, Console())

    show.__signature__ = inspect.Signature(_parameters(kind))  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command(name, help=inspect.getdoc(kind))(show)
    return typer.main.get_command(app)


def _parameters(kind: type[Budget]) -> list[inspect.Parameter]:
    """Return the options of a budget's command, as typer reads them."""
    parameters = []
    for name, field in kind.model_fields.items():
        help_ = " ".join((field.description or "").split())
        metavar = next((text for text in field.metadata if isinstance(text, str)), None)
        info = typer.Option(metavar=metavar, help=help_)
        default = inspect.Parameter.empty if field.is_required() else field.default
        parameters.append(_parameter(name, field.annotation, info, default))
    if kind.picture_help:
        info = typer.Option("--out", metavar="FILE.png", help=kind.picture_help)
        parameters.append(_parameter("picture", Path | None, info, None))
    return [*parameters, _parameter("as_json", bool, JSON, False)]


def _parameter(name: str, of: Any, option: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[of, option])


def _print_blocks(plan: Budget, console: Console) -> None:
    """Print a budget's paragraphs and tables, each as soon as it is computed."""
    for block in plan.blocks():
        if isinstance(block, str):
            console.print(EMPHASIS.sub(r"[bold]\1[/bold]", escape(block)), highlight=False)
            continue
        if block.title:
            console.print(f"\n[bold]{escape(block.title)}[/bold]", highlight=False)
        console.print(_grid(block))


def _grid(table: Table) -> Grid:
    grid = Grid(box=None, padding=(0, table.gap, 0, 0), header_style="dim")
    for index, column in enumerate(table.columns):
        grid.add_column(column, justify="left" if table.named and index == 0 else "right")
    for row in table.rows:
        grid.add_row(*row)
    return grid


# --- pictures ---------------------------------------------------------------------------------------------


def _write(picture: Picture, path: Path) -> None:
    """Write a picture, as PNG, SVG or PDF by the file's ending; raises `Refused`."""
    try:
        _figure(picture).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise Refused(f"--out {str(path)!r}: {error}") from None


def _figure(picture: Picture) -> Figure:
    """Return the panels, with one logarithmic y axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11.5, 5.6), layout="constrained")
    panels = figure.subplots(1, len(picture.panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(panels, picture.panels, strict=True):
        _draw(axes, panel)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(which="major", color="#dddddd", linewidth=0.8)
        axes.grid(which="minor", color="#eeeeee", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(picture.axis)
    figure.suptitle(textwrap.fill(picture.title, 120), x=0.01, ha="left", fontsize=11)
    figure.supxlabel(picture.caption, x=0.01, ha="left", fontsize=8, color="#555555")
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    colours = SCALE if panel.styles else SHADES
    for curve in panel.curves:
        _line(axes, curve, OWN if curve.colour is None else colours[curve.colour])
    for x, y, text in panel.marks:
        if 0 < y < math.inf:
            _mark(axes, x, y, text)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set_xlabel(panel.axis)
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if not panel.styles:
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        return
    from matplotlib.lines import Line2D

    axes.margins(x=0.1)
    colours_legend = axes.legend(frameon=False, fontsize=8, loc="upper left", title=panel.legend)
    colours_legend.get_title().set_fontsize(8)
    axes.add_artist(colours_legend)
    lines = [
        Line2D([], [], color="#555555", linestyle="--" if dashed else "-", label=label)
        for dashed, label in enumerate(panel.styles)
    ]
    axes.legend(handles=lines, frameon=False, fontsize=8, loc="lower right")


def _line(axes: Axes, curve: Curve, colour: str) -> None:
    """Draw the points that are finite and, on a logarithmic axis, above 0."""
    ys = [y if 0 < y < math.inf else math.nan for y in curve.ys]
    if not all(map(math.isnan, ys)):
        style, width = "--" if curve.dashed else "-", 2.2 if curve.colour is None else 1.3
        axes.plot(curve.xs, ys, style, color=colour, linewidth=width, label=curve.label or None)


def _mark(axes: Axes, x: float, y: float, text: str) -> None:
    """Mark one of the plan's own points, with its number."""
    axes.plot([x], [y], "o", color=OWN, markersize=6, zorder=5)
    axes.annotate(
        text,
        (x, y),
        xytext=(7, 4),
        textcoords="offset points",
        fontsize=9,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        zorder=6,
    )
