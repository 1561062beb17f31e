"""The picture of the frontier: the metric against epsilon."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsim.compare.comparison import Comparison
from fedsim.compare.format import view_of
from fedsim.compare.frontier import Frontier, Point
from fedsim.compare.panels import explain, interval_said, log_epsilon, panels_of, privacy_said
from fedsim.compare.styles import DASHES_OF_NONE, GREY, Style, styles_of
from fedsim.tasks import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 0.012  # share of an axis between lines at the same epsilon


def frontier_figure(comparison: Comparison) -> Figure:
    """Return the metric against epsilon, a panel for each privacy unit, with groups without noise."""
    styles = styles_of(comparison)
    figure, panels = panels_of(len(comparison.frontiers), 6.2, 4.6)
    for axes, frontier in zip(panels, comparison.frontiers, strict=True):
        _draw_frontier(axes, frontier, styles)
    panels[0].set_ylabel(comparison.column.axis)
    hollow = " Hollow: another setting does better at this epsilon." if _has_hollow(comparison) else ""
    said = ". ".join(text for frontier in comparison.frontiers if (text := privacy_said(frontier)))
    explain(
        figure,
        f"What privacy costs: {comparison.task}",
        f"{interval_said(comparison)}{hollow} {said}{'.' if said else ''}",
    )
    return figure


def best_of_line(points: Sequence[Point], column: Column) -> list[Point]:
    """Return a line's best points at each epsilon, in order."""
    sign = -1 if column.lower_is_better else 1
    best: dict[int, Point] = {}
    for point in points:
        leader = best.setdefault(point.level, point)
        if sign * (point.summary.mean - leader.summary.mean) > 0:
            best[point.level] = point
    return sorted(best.values(), key=lambda point: point.epsilon or 0.0)


def _has_hollow(comparison: Comparison) -> bool:
    lines = [points for frontier in comparison.frontiers for points in frontier.series.values()]
    return any(len(best_of_line(points, comparison.column)) < len(points) for points in lines)


def _draw_frontier(axes: Axes, frontier: Frontier, styles: dict[str, Style]) -> None:
    scale = frontier.column.scale
    for place, point in enumerate(frontier.baselines):
        mean, half = scale * point.summary.mean, scale * (point.summary.half_width or 0.0)
        dash = DASHES_OF_NONE[place % len(DASHES_OF_NONE)]
        axes.axhline(mean, color=GREY, linestyle=dash, linewidth=1.6, label=point.group.label)
        axes.axhspan(mean - half, mean + half, color=GREY, alpha=0.15 if half else 0, linewidth=0)
    lines = frontier.series
    epsilons = [point.epsilon for point in frontier.points if point.epsilon]
    # Lines of the same epsilons are drawn a little apart, to keep their intervals distinguishable.
    spread = max(max(epsilons) / min(epsilons), 10.0) if epsilons else 1.0
    for place, (name, points) in enumerate(lines.items()):
        style, best = styles[name], best_of_line(points, frontier.column)
        apart = spread ** (APART * (place - (len(lines) - 1) / 2))
        axes.plot(
            [apart * (point.epsilon or 0.0) for point in best],
            [scale * point.summary.mean for point in best],
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markersize=7,
            linewidth=1.6,
            label=name,
            zorder=3,
        )
        for point in points:
            _draw_point(axes, apart, point, scale, style, hollow=point not in best)
    axes.set_xlabel(textwrap.fill(view_of(frontier.view), 60))
    if epsilons:
        log_epsilon(axes, epsilons)
    if frontier.column.percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2), min(high, 102))
    axes.legend(frameon=False, fontsize=9)


def _draw_point(axes: Axes, apart: float, point: Point, scale: float, style: Style, *, hollow: bool) -> None:
    """Draw a group's interval, and its marker if no line passes through it."""
    half = point.summary.half_width
    axes.errorbar(
        [apart * (point.epsilon or 0.0)],
        [scale * point.summary.mean],
        yerr=None if half is None else [scale * half],
        fmt=style.marker if hollow else "none",
        color=style.colour,
        markerfacecolor="white",
        capsize=3,
        elinewidth=1.1,
        zorder=2,
    )
