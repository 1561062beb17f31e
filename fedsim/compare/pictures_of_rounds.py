"""Pictures over rounds, a panel for each line of the frontier; and the spread of the headline metric over clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fedsim.compare.comparison import Comparison
from fedsim.compare.frontier import Point
from fedsim.compare.groups import Curve, Group
from fedsim.compare.styles import (
    COLOURS,
    COLUMNS,
    DASHES,
    DASHES_OF_NONE,
    GREY,
    explain,
    log_epsilon,
    panels_of,
    privacy_said,
)
from fedsim.tasks import column_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTILES = ("p10", "median", "p90")  # of the clients' scores in rows, besides the worst


def metric_figure(comparison: Comparison) -> Figure:
    """Return the metric over rounds: in each panel a line's groups, and groups without noise."""
    metric, headline = comparison.metric, comparison.scoring.headline.name
    column = column_of(headline, comparison.scoring) if metric in ("seconds", "bytes") else comparison.column
    metric, scale = column.name, column.scale
    baselines = comparison.frontiers[0].baselines

    def draw(axes: Axes, points: Sequence[Point]) -> None:
        for place, point in enumerate(baselines):
            dash = DASHES_OF_NONE[place % len(DASHES_OF_NONE)]
            _line(axes, point.group.curve(metric), scale, GREY, dash, point.group.label)
        _lines(axes, points, lambda point: point.group.curve(metric), scale)
        axes.legend(frameon=False, fontsize=8)

    figure = _over_rounds(comparison, draw, column.axis)
    against = f"Epsilon is against {comparison.adversary}." if comparison.adversary else ""
    said = f"Lines: means over seeds; bands: from the lowest seed to the highest. {against}"
    explain(figure, f"{column.title.capitalize()} over rounds: {comparison.task}", said)
    return figure


def epsilon_figure(comparison: Comparison) -> Figure:
    """Return epsilon over rounds, as the runs accounted for it."""

    def draw(axes: Axes, points: Sequence[Point]) -> None:
        _lines(axes, points, _spending, 1.0)
        values = [value for point in points for value in _spending(point).mean if value > 0]
        if values:
            log_epsilon(axes, values, vertical=True)
        axes.legend(frameon=False, fontsize=8)

    figure = _over_rounds(comparison, draw, f"epsilon against {comparison.adversary}")
    said = "Spent so far, mean over seeds; it may end below the epsilon of the whole run as planned, which names the line."
    terms = ". ".join(privacy_said(frontier) for frontier in comparison.frontiers)
    explain(figure, f"Epsilon over rounds: {comparison.task}", f"{said} {terms}.")
    return figure


def _spending(point: Point) -> Curve:
    """Return the epsilon spent over rounds; the logarithmic axis leaves out zeros."""
    bound_by = "" if point.cost is None else point.cost.bound_by
    return point.group.curve(f"epsilon-{bound_by}")


def _over_rounds(comparison: Comparison, draw: Callable[[Axes, Sequence[Point]], None], label: str) -> Figure:
    from matplotlib.ticker import MaxNLocator

    lines = [
        (f"{name} ({frontier.view.unit})", points)
        for frontier in comparison.frontiers
        for name, points in frontier.series.items()
    ] or [("", [])]
    figure, panels = panels_of(len(lines), 4.2, 3.6)
    for axes, (title, points) in zip(panels, lines, strict=True):
        draw(axes, points)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[::COLUMNS]:
        axes.set_ylabel(label)
    return figure


def _lines(axes: Axes, points: Sequence[Point], curve: Callable[[Point], Curve], scale: float) -> None:
    for place, point in enumerate(points):
        colour = COLOURS[place % len(COLOURS)]
        dash = DASHES[(place + place // len(COLOURS)) % len(DASHES)]
        variant = f", {point.group.variant}" if point.group.variant else ""
        _line(axes, curve(point), scale, colour, dash, f"epsilon {point.epsilon:.3g}{variant}")


def _line(axes: Axes, curve: Curve, scale: float, colour: str, dash: object, label: str) -> None:
    if not curve.rounds:
        return
    mean, low, high = ([scale * value for value in values] for values in (curve.mean, curve.low, curve.high))
    marker = "." if len(curve.rounds) < 3 else ""
    axes.plot(curve.rounds, mean, color=colour, linestyle=dash, linewidth=1.6, marker=marker, label=label)
    axes.fill_between(curve.rounds, low, high, color=colour, alpha=0.15, linewidth=0)


def fairness_figure(comparison: Comparison) -> Figure:
    """Return the spread of the headline metric over clients, for groups that recorded it."""
    from matplotlib.figure import Figure

    groups = [group for group in comparison.groups if spread_of(comparison, group)]
    headline = comparison.scoring.headline.name
    column = column_of(f"client-{headline}", comparison.scoring)
    figure = Figure(figsize=(9, 1.8 + 0.36 * len(groups)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(groups)), [group.label for group in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    bar: dict[str, Any] = {"linewidth": 5, "solid_capstyle": "butt", "alpha": 0.6}
    black = "#000000"
    for place, group in enumerate(groups):
        worst, tenth, median, ninetieth = (column.scale * mean for mean in spread_of(comparison, group))
        names = ["", "", ""] if place else ["worst client", "tenth to ninetieth percentile", "median"]
        axes.plot([worst], [place], marker="x", color=COLOURS[1], label=names[0])
        axes.plot([tenth, ninetieth], [place, place], color=COLOURS[0], label=names[1], **bar)
        axes.plot([median], [place], marker="|", markersize=14, color=black, linestyle="", label=names[2])
    axes.set_xlabel(column.axis)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
    said = "Over the clients of the last evaluation; means over seeds."
    explain(figure, f"How {headline} is spread over clients: {comparison.task}", said)
    return figure


def spread_of(comparison: Comparison, group: Group) -> list[float]:
    """Return the worst client's headline metric and the quantiles; empty if a group did not record it."""
    metric = comparison.scoring.headline
    names = ("max" if metric.lower_is_better else "min", *QUANTILES)
    summaries = [group.summary(f"client-{metric.name}-{name}") for name in names]
    means = [summary.mean for summary in summaries if summary is not None]
    return means if len(means) == len(names) else []
