"""How a comparison looks: styles of its lines, in pictures and on the page; panels, axes and captions of pictures.

Colours are Okabe and Ito's (2008), which the colour-blind can distinguish; each line also has its own marker and
dash.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fedsim.compare.comparison import Comparison
from fedsim.compare.frontier import Frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # most panels in a row
INK = "#444444"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#666666"  # groups without noise
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES_OF_NONE = ("--", ":", "-.")  # the same
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


class Style(NamedTuple):
    """A line's style: its colour as `#rrggbb`, marker and dash as Matplotlib takes them."""

    colour: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]]

    @classmethod
    def at(cls, place: int) -> Style:
        """Return the style of a line by its position."""
        return cls(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)])


def styles_of(comparison: Comparison) -> dict[str, Style]:
    """Return each line's style by its name, the same in all pictures."""
    private = dict.fromkeys(comparison.series[group.label] for group in comparison.groups if group.costs)
    styles = {name: Style.at(place) for place, name in enumerate(private)}
    return {name: styles.get(name, Style(GREY, "*", DASHES[0])) for name in comparison.series.values()}


def panels_of(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels that share their vertical axis; width and height of each in inches."""
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
    """Put a title above a figure and a caption below."""
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
    """Explain the bars, with the number of seeds."""
    counts = sorted({len(group.counted) for group in comparison.groups if group.counted})
    if counts == [1]:
        return "One seed each, so no intervals."
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Means over {seeds} seeds; bars: 95 % intervals (Student's t), drawn a little apart."


def privacy_said(frontier: Frontier) -> str:
    """Return delta and the neighbouring relation of each line as text."""
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
