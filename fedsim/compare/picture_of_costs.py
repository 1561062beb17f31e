"""The picture of costs: the metric against bytes and against seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedsim.compare.comparison import STAND_IN, Comparison
from fedsim.compare.frontier import Point
from fedsim.compare.labels import Label, write_labels
from fedsim.compare.panels import explain, panels_of
from fedsim.compare.styles import Style, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 5.0  # smallest ratio of an axis' end to its beginning


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
