"""Pictures of the metric against what it costs: against epsilon, and against bytes and seconds."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsim.compare.comparison import STAND_IN, Comparison
from fedsim.compare.format import view_of
from fedsim.compare.frontier import Frontier, Point, best_of_levels
from fedsim.compare.labels import Label, write_labels
from fedsim.compare.styles import (
    DASHES_OF_NONE,
    GREY,
    Style,
    explain,
    interval_said,
    log_epsilon,
    panels_of,
    privacy_said,
    styles_of,
)
from fedsim.tasks import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 0.012  # share of an axis between lines at the same epsilon
LEAST = 5.0  # smallest ratio of an axis' end to its beginning


def frontier_figure(comparison: Comparison) -> Figure:
    """Return the metric against epsilon, a panel for each privacy unit, with groups without noise."""
    styles = styles_of(comparison)
    figure, panels = panels_of(len(comparison.frontiers), 6.2, 4.6)
    for axes, frontier in zip(panels, comparison.frontiers, strict=True):
        _draw_frontier(axes, frontier, styles)
    panels[0].set_ylabel(comparison.column.axis)
    lines = [points for frontier in comparison.frontiers for points in frontier.series.values()]
    said = interval_said(comparison)
    if any(len(_best(points, comparison.column)) < len(points) for points in lines):
        said += " Hollow: another setting does better at this epsilon."
    terms = ". ".join(text for frontier in comparison.frontiers if (text := privacy_said(frontier)))
    explain(figure, f"What privacy costs: {comparison.task}", f"{said} {terms}{'.' if terms else ''}")
    return figure


def _best(points: Sequence[Point], column: Column) -> list[Point]:
    """Return a line's best points at each epsilon, in order."""
    return sorted(best_of_levels(points, column).values(), key=lambda point: point.epsilon or 0.0)


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
        style, best = styles[name], _best(points, frontier.column)
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


def cost_figure(comparison: Comparison) -> Figure | None:
    """Return the metric against bytes and against seconds; None if the runs have neither."""
    said = {
        "bytes": "bytes of all rounds, models and updates, both ways",
        "seconds": "seconds of all rounds, on the machine of each run",
    }
    points = [point for f in comparison.frontiers for point in (*f.baselines, *f.points)]
    there = [name for name in said if any(point.group.summary(name) for point in points)]
    if not there:
        return None
    styles = styles_of(comparison)
    figure, panels = panels_of(len(there), 6.2, 4.4)
    labels = []
    for axes, name in zip(panels, there, strict=True):
        labels.append(_draw_costs(axes, name, points, comparison.column.scale, styles))
        axes.set_xscale("log")
        axes.set_xlabel(said[name])
        axes.margins(x=0.15)
        _widen(axes)
        _few_ticks(axes, name)
    panels[0].set_ylabel(comparison.column.axis)
    panels[0].legend(frameon=False, fontsize=9)
    against = f" Numbers: epsilon against {comparison.adversary}." if comparison.adversary else ""
    ideal = f" {STAND_IN}" if "bytes" in there and STAND_IN in comparison.notes else ""
    explain(figure, f"Bytes and seconds: {comparison.task}", f"Means over seeds.{against}{ideal}")
    figure.draw_without_rendering()  # fixes the layout
    figure.set_layout_engine("none")
    for axes, written in zip(panels, labels, strict=True):
        write_labels(figure, axes, written)
    return figure


def _draw_costs(
    axes: Axes, name: str, points: Sequence[Point], scale: float, styles: dict[str, Style]
) -> list[Label]:
    """Draw points over their bytes or seconds, and return their labels."""
    lines: dict[str, list[tuple[float, float]]] = {}
    labels = []
    for point in points:
        if (summary := point.group.summary(name)) is None:
            continue
        x, y = summary.mean, scale * point.summary.mean
        lines.setdefault(point.series, []).append((x, y))
        number = "" if point.epsilon is None else f"{point.epsilon:.3g}"
        labels.append(Label(x, y, number, styles[point.series].colour))
    for series, placed in lines.items():
        style = styles[series]
        xs, ys = zip(*placed, strict=True)
        axes.plot(xs, ys, linestyle="", marker=style.marker, color=style.colour, markersize=7, label=series)
    return labels


def _widen(axes: Axes) -> None:
    """Extend a logarithmic axis to `LEAST` times its beginning, so that small differences look small."""
    low, high = axes.get_xlim()
    if high < LEAST * low:
        middle = (low * high) ** 0.5
        axes.set_xlim(middle / LEAST**0.5, middle * LEAST**0.5)


def _few_ticks(axes: Axes, name: str) -> None:
    """Label a logarithmic axis at one, two and five of a decade; bytes with k, M and G."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(EngFormatter("B") if name == "bytes" else lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
