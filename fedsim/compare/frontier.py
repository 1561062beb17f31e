"""A metric against epsilon, for one adversary and one unit of privacy at a time.

Epsilons against different adversaries, or of different units, can't share an axis: a record's epsilon of 2 and a
client's are different guarantees. So a frontier has one of each, and lists mechanisms without an epsilon there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedsim.compare.costs import Cost
from fedsim.compare.groups import Group, by_key
from fedsim.compare.statistics import Difference, Summary, difference, holm
from fedsim.results.disclosure import ADVERSARIES
from fedsim.tasks import Column, Scoring, column_of

SAME = 1.01  # calibration ends a little below the target epsilon


@dataclass(frozen=True, order=True)
class View:
    """Adversary and unit of a frontier's epsilons.

    Attributes:
        adversary: Adversary that they hold against.
        unit: What is protected: `example` or `client`.
    """

    adversary: str
    unit: str


@dataclass(frozen=True)
class Point:
    """A group on a frontier.

    Attributes:
        group: The runs.
        series: Its line: the mechanism, and a setting if requested.
        summary: The metric over seeds.
        cost: Against the view's adversary; None: the group adds no noise.
        level: Epsilons within a hundredth of each other share a level, and are compared.
        price: Its metric minus that of the best group without noise; None: there is none, or this is it.
        price_p: P-value of the price, adjusted (Holm) for all of the frontier.
        rivals: Number of other groups with this epsilon.
        best: Whether none of these has a better mean.
        behind: Its metric minus that of the best with this epsilon; None: this is the best, or has no epsilon.
        behind_p: P-value of that, adjusted (Holm) for all of the frontier.
    """

    group: Group
    series: str
    summary: Summary
    cost: Cost | None
    level: int = 0
    price: Difference | None = None
    price_p: float | None = None
    rivals: int = 0
    best: bool = False
    behind: Difference | None = None
    behind_p: float | None = None

    @property
    def epsilon(self) -> float | None:
        """Its epsilon; None: the group adds no noise."""
        return None if self.cost is None else self.cost.epsilon


@dataclass(frozen=True)
class Frontier:
    """The groups for one adversary and one unit.

    Attributes:
        view: The adversary and the unit.
        column: The compared column.
        points: With epsilon, by series and epsilon.
        baselines: Without noise, the best first.
        absent: Groups of this unit without epsilon here, with the reason.
    """

    view: View
    column: Column
    points: tuple[Point, ...]
    baselines: tuple[Point, ...]
    absent: tuple[tuple[Group, str], ...]

    @property
    def metric(self) -> str:
        """The column's name."""
        return self.column.name

    @property
    def series(self) -> dict[str, list[Point]]:
        """The points by line, in the order of epsilon."""
        return by_key(self.points, lambda point: point.series)


def views_of(groups: Iterable[Group]) -> list[View]:
    """Return the views with an epsilon of some group, those of most groups first."""
    counts = Counter(view for group in groups for view in _views(group))
    return sorted(counts, key=lambda view: (-counts[view], _weakness(view.adversary), view.unit))


def _views(group: Group) -> list[View]:
    return [View(name, cost.unit) for name, cost in group.costs.items() if cost.epsilon is not None]


def _weakness(adversary: str) -> tuple[int, str]:
    """Sort key: adversaries that see least come first."""
    return -ADVERSARIES.index(adversary) if adversary in ADVERSARIES else 1, adversary


def default_adversary(groups: Sequence[Group]) -> str:
    """Return the adversary with epsilons of most groups (of several, the one that sees least), or ''."""
    counts = Counter(view.adversary for group in groups for view in _views(group))
    return min(counts, key=lambda name: (-counts[name], _weakness(name)), default="")


def frontier(
    groups: Sequence[Group],
    view: View,
    metric: str,
    series: Mapping[str, str],
    scoring: Scoring = Scoring(),  # noqa: B008 (frozen)
) -> Frontier:
    """Return the frontier of a view.

    Args:
        groups: Of one task.
        view: The adversary and the unit.
        metric: The compared column, by its final value.
        series: The line of each group, by its label.
        scoring: Of the task.
    """
    points, baselines, absent = [], [], []
    for group in groups:
        summary, cost = group.summary(metric), group.cost(view.adversary)
        if summary is None:
            continue
        if not group.costs:
            baselines.append(Point(group, series[group.label], summary, None))
        elif cost is not None and cost.unit == view.unit and cost.epsilon is not None:
            points.append(Point(group, series[group.label], summary, cost))
        elif view.unit in {other.unit for other in group.costs.values()}:
            absent.append((group, cost.why if cost is not None else f"has no entry for {view.adversary}"))
    column = column_of(metric, scoring)
    baselines.sort(key=lambda point: point.summary.mean * (1 if column.lower_is_better else -1))
    levelled = sorted(_levelled(points), key=lambda point: (point.series, point.level, point.group.label))
    first, rest = baselines[:1], baselines[1:]
    priced = _priced(rest + levelled, first[0] if first else None, metric)
    ranked = _ranked(priced[len(rest) :], column)
    return Frontier(view, column, tuple(ranked), (*first, *priced[: len(rest)]), tuple(absent))


def _levelled(points: list[Point]) -> list[Point]:
    """Return the points in the order of epsilon, with their levels."""
    levelled, level, lowest = [], 0, 0.0
    for point in sorted(points, key=lambda point: point.epsilon or 0.0):
        epsilon = point.epsilon or 0.0
        if epsilon > SAME * lowest:
            level, lowest = level + 1, epsilon
        levelled.append(replace(point, level=level))
    return levelled


def _priced(points: list[Point], baseline: Point | None, metric: str) -> list[Point]:
    """Return the points with their prices against the best group without noise."""
    if baseline is None:
        return points
    base = baseline.group.values(metric)
    prices = [difference(point.group.values(metric), base) for point in points]
    adjusted = holm([price.p for price in prices])
    return [
        replace(point, price=price, price_p=p)
        for point, price, p in zip(points, prices, adjusted, strict=True)
    ]


def best_of_levels(points: Iterable[Point], column: Column) -> dict[int, Point]:
    """Return the point with the best mean of each level; of equal ones, the first."""
    choose = min if column.lower_is_better else max
    levels = by_key(points, lambda point: point.level)
    return {level: choose(rivals, key=lambda point: point.summary.mean) for level, rivals in levels.items()}


def _ranked(points: list[Point], column: Column) -> list[Point]:
    """Return the points with the best of each epsilon marked, and the others' distances to it."""
    levels = Counter(point.level for point in points)
    best = best_of_levels(points, column)
    behind = [
        None
        if point.summary.mean == best[point.level].summary.mean
        else difference(point.group.values(column.name), best[point.level].group.values(column.name))
        for point in points
    ]
    adjusted = holm([None if gap is None else gap.p for gap in behind])
    return [
        replace(point, rivals=levels[point.level] - 1, best=gap is None, behind=gap, behind_p=p)
        for point, gap, p in zip(points, behind, adjusted, strict=True)
    ]
