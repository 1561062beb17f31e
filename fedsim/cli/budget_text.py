"""Prints a budget's paragraphs and tables."""

from __future__ import annotations

import re

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from fedsim.privacy.budget import Budget, Table

EMPHASIS = re.compile(r"\*(\S|\S.*?\S)\*")


def print_blocks(plan: Budget, console: Console) -> None:
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
