"""What plans of client-level privacy print alike."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from fedsim.privacy.accounting import Epsilon
from fedsim.privacy.events import Relation

UNIT = "one client"
RELATIONS = {
    Relation.ZERO_OUT: "zero-out (the client's update becomes zero; the number of clients is public)",
    Relation.ADD_OR_REMOVE_ONE: "add-or-remove-one (one client more or less; the rate is declared, whatever their number)",
    Relation.REPLACE_ONE: "replace-one (the client's data become any other; that it takes part is public)",
}


def scaled(noise_multiplier: float, factor: float) -> float:
    """Return a multiple of the plan's noise, in round numbers."""
    return noise_multiplier if factor == 1 else float(f"{noise_multiplier * factor:.3g}")


def both(epsilon: Epsilon | None) -> tuple[float | None, float | None]:
    """Return both bounds; None where there is none."""
    return (None, None) if epsilon is None else (epsilon.pld, epsilon.rdp)


def say_noise(console: Console, epsilon: float, adversary: str, noise: float) -> None:
    """Print what noise was found for an epsilon."""
    console.print(
        f"The smallest noise for epsilon {epsilon:g} against {adversary}: [bold]{noise:.6g}[/bold]."
    )


def table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table under a title."""
    console.print(f"\n[bold]{title}[/bold]", highlight=False)
    grid = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
