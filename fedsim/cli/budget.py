"""`fedsim budget`: a plan's cost, in epsilon or in bytes and seconds, before a run.

Commands are generated on demand from the catalogue's budgets (`fedsim.privacy.budget`).
"""

from __future__ import annotations

import inspect
import json
import re
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
    from fedsim.privacy.budget import Budget, Table

EMPHASIS = re.compile(r"\*(\S|\S.*?\S)\*")


class Budgets(TyperGroup):
    """The catalogue's budgets as commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        from fedsim.catalogue import BUDGETS

        return list(BUDGETS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a budget's command, or None."""
        from fedsim.catalogue import BUDGETS
        from fedsim.references import load_reference

        return _command(cmd_name, load_reference(BUDGETS[cmd_name])) if cmd_name in BUDGETS else None


budget = typer.Typer(
    cls=Budgets,
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
                from fedsim.cli.budget_picture import draw

                draw(plan.picture(), picture)
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
        parameters.append(
            _parameter(name, field.annotation, info, ... if field.is_required() else field.default)
        )
    if kind.picture_help:
        info = typer.Option("--out", metavar="FILE.png", help=kind.picture_help)
        parameters.append(_parameter("picture", Path | None, info, None))
    return [*parameters, _parameter("as_json", bool, JSON, False)]


def _parameter(name: str, of: Any, option: Any, default: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[of, option]
    )


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
