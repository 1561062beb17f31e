"""Where the benchmarks print."""

from __future__ import annotations

from rich.console import Console

WIDTH = 132  # of the widest table


def wide(console: Console) -> Console:
    """Return a console on which the tables have room: this one, or one as wide as they need."""
    return console if console.width >= WIDTH else Console(width=WIDTH)
