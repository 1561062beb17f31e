"""A column's curve over a group's rounds."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.compare.groups import Group


@dataclass(frozen=True)
class Curve:
    """A column over rounds and a group's seeds; all lists have one length.

    Attributes:
        rounds: Rounds in which every counted run has the column, in order.
        mean: Over seeds.
        low: The lowest seed.
        high: The highest seed.
    """

    rounds: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve_of(group: Group, column: str) -> Curve:
    """Return a column's curve; it is empty if no round has the column in every run."""
    by_round: dict[int, list[float]] = {}
    for member in group.counted.values():
        for row in member.rows:
            if column in row:
                by_round.setdefault(row["round"], []).append(float(row[column]))
    whole = {r: values for r, values in sorted(by_round.items()) if len(values) == len(group.counted)}
    return Curve(
        rounds=list(whole),
        mean=[sum(values) / len(values) for values in whole.values()],
        low=[min(values) for values in whole.values()],
        high=[max(values) for values in whole.values()],
    )
