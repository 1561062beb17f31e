"""What the `fedsim budget` commands have in common: options, and the check that one of two is given."""

from __future__ import annotations

import typer

from fedsim.errors import Refused

EPSILON = typer.Option(
    metavar="E", help="Find the smallest noise multiplier that gives it.", show_default=False
)
ROUNDS = typer.Option(metavar="T", help="Rounds.", show_default=False)
JSON = typer.Option("--json", help="Print JSON instead.")


def exactly_one(noise_multiplier: float | None, epsilon: float | None) -> None:
    """Raise `Refused` unless exactly one of the two is given."""
    if (noise_multiplier is None) == (epsilon is None):
        raise Refused(
            "--noise-multiplier, --epsilon: exactly one of them is needed; "
            f"given: {'none' if epsilon is None else 'both'}"
        )
