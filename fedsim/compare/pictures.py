"""A comparison drawn: each picture as PNG and SVG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fedsim.compare.comparison import STAND_IN, Comparison
from fedsim.compare.frontier import Frontier, Point
from fedsim.compare.labels import Label, write_labels
from fedsim.compare.styles import DASHES_OF_NONE, GREY, Style, styles_of
from fedsim.compare.wording import view_of
from fedsim.tasks import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#444444"
COLUMNS = 4  # panels beside each other, at most
LEAST = 5.0
APART = 0.012  # of an axis, between lines at the same epsilon


def drawn(comparison: Comparison) -> dict[str, bytes]:
    """Return the pictures that the runs have numbers for, by file name."""
    from fedsim.compare.pictures_of_rounds import epsilon_figure, fairness_figure, metric_figure, spread_of

    figures = {"frontier": frontier_figure(comparison), "rounds": metric_figure(comparison)}
    if comparison.adversary:
        figures["epsilon"] = epsilon_figure(comparison)
    if (cost := cost_figure(comparison)) is not None:
        figures["cost"] = cost
    if any(spread_of(comparison, group) for group in comparison.groups):
        figures["fairness"] = fairness_figure(comparison)
    return {
        f"{name}.{kind}": _bytes(figure, kind) for name, figure in figures.items() for kind in ("png", "svg")
    }


def _bytes(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file; the same figure gives the same bytes."""
    import matplotlib as mpl

    content = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "fedsim"}):
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
    return content.getvalue()


# --- what all share -------------------------------------------------------------------------------------


def panels_of(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels that share their vertical axis; width and height of each in inches."""
    from matplotlib.figure import Figure

    across = min(count, COLUMNS)
    down = -(-count // across)
    figure = Figure(figsize=(max(across * width, 6.5), down * height + 0.9), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    for axes in grid[:count]:
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid[:count])


def explain(figure: Figure, title: str, said: str) -> None:
    """Put a title above a figure and what belongs to its reading below."""
    width = int(figure.get_figwidth() * 12)
    figure.suptitle(textwrap.fill(title, width), x=0.01, ha="left", fontsize=12)
    figure.supxlabel(textwrap.fill(said, int(width * 1.35)), x=0.01, ha="left", fontsize=8, color=INK)


def log_epsilon(axes: Axes, values: Sequence[float], *, vertical: bool = False) -> None:
    """Give an axis of epsilons a logarithmic scale, with ticks at round numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    (axes.set_yscale if vertical else axes.set_xscale)("log")
    axis = axes.yaxis if vertical else axes.xaxis
    wide = max(values) / min(values) > 1000
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def interval_said(comparison: Comparison) -> str:
    """Say what bars are, and how many seeds they are of."""
    counts = sorted({len(group.counted) for group in comparison.groups if group.counted})
    if counts == [1]:
        return "One seed each, so no intervals."
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Means over {seeds} seeds; bars: 95 % intervals (Student's t), drawn a little apart."


def privacy_said(frontier: Frontier) -> str:
    """Say delta and the neighbouring relation of each line."""
    lines = []
    for name, points in frontier.series.items():
        costs = [point.cost for point in points if point.cost is not None]
        deltas = ", ".join(sorted({f"{cost.delta:g}" for cost in costs if cost.delta is not None}))
        bound = {cost.bound_by for cost in costs} - {frontier.view.adversary}
        against = f", holds against {', '.join(sorted(bound))}" if bound else ""
        lines.append(
            f"{name}: delta {deltas or '0'}, {', '.join(sorted({c.relation for c in costs}))}{against}"
        )
    return "; ".join(lines)


# --- the frontier ---------------------------------------------------------------------------------------


def frontier_figure(comparison: Comparison) -> Figure:
    """Return the metric against epsilon, a panel for each unit of privacy, with the groups that add no noise."""
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
    """Return of a line's points the best at each epsilon, in order."""
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
    # Lines of the same epsilons are drawn a little apart, so that their intervals can be told.
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
    """Draw a group's interval, and its marker where the line does not pass."""
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


# --- bytes and seconds ----------------------------------------------------------------------------------


def cost_figure(comparison: Comparison) -> Figure | None:
    """Return the metric against bytes and against seconds; None where the runs have neither."""
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
    labels = [
        _draw_costs(axes, name, points, comparison.column.scale, styles)
        for axes, name in zip(panels, there, strict=True)
    ]
    for axes, name in zip(panels, there, strict=True):
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
    figure.draw_without_rendering()  # from here on everything is where it will be
    figure.set_layout_engine("none")
    for axes, written in zip(panels, labels, strict=True):
        write_labels(figure, axes, written)
    return figure


def _draw_costs(
    axes: Axes, name: str, points: Sequence[Point], scale: float, styles: dict[str, Style]
) -> list[Label]:
    """Draw points over their bytes or seconds, and return what is to be written beside them."""
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
    """Have a logarithmic axis end at `LEAST` times its beginning at least, so that small differences look small."""
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
