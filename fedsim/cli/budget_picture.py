"""Draws a budget's picture: epsilon over what varies."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import Refused
from fedsim.privacy.budget import Curve, Panel, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN = "#000000"  # the plan's own curves
SCALE = ("#aa3377", "#ee6677", "#4477aa", "#66ccee")  # from little noise to much
SHADES = ("#ccbb44", "#44aa99", "#228833", "#999933")


def draw(picture: Picture, path: Path) -> None:
    """Write a picture, as PNG, SVG or PDF by the file's ending.

    Raises:
        Refused: The file can't be written.
    """
    try:
        figure_of(picture).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise Refused(f"--out {str(path)!r}: {error}") from None


def figure_of(picture: Picture) -> Figure:
    """Return the panels, with one logarithmic y axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(11.5, 5.6), layout="constrained")
    panels = figure.subplots(1, len(picture.panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(panels, picture.panels, strict=True):
        _draw(axes, panel)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(which="major", color="#dddddd", linewidth=0.8)
        axes.grid(which="minor", color="#eeeeee", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(picture.axis)
    figure.suptitle(textwrap.fill(picture.title, 120), x=0.01, ha="left", fontsize=11)
    figure.supxlabel(picture.caption, x=0.01, ha="left", fontsize=8, color="#555555")
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    colours = SCALE if panel.styles else SHADES
    for curve in panel.curves:
        _line(axes, curve, OWN if curve.colour is None else colours[curve.colour])
    for x, y, text in panel.marks:
        if 0 < y < math.inf:
            _mark(axes, x, y, text)
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set_xlabel(panel.axis)
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if not panel.styles:
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        return
    axes.margins(x=0.1)
    colours_legend = axes.legend(frameon=False, fontsize=8, loc="upper left", title=panel.legend)
    colours_legend.get_title().set_fontsize(8)
    axes.add_artist(colours_legend)
    _explain_lines(axes, panel)


def _explain_lines(axes: Axes, panel: Panel) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color="#555555", linestyle="--" if dashed else "-", label=label)
        for dashed, label in enumerate(panel.styles)
    ]
    axes.legend(handles=lines, frameon=False, fontsize=8, loc="lower right")


def _line(axes: Axes, curve: Curve, colour: str) -> None:
    """Draw the points that are finite and, on a logarithmic axis, above 0."""
    ys = [y if 0 < y < math.inf else math.nan for y in curve.ys]
    if not all(map(math.isnan, ys)):
        style, width = "--" if curve.dashed else "-", 2.2 if curve.colour is None else 1.3
        axes.plot(curve.xs, ys, style, color=colour, linewidth=width, label=curve.label or None)


def _mark(axes: Axes, x: float, y: float, text: str) -> None:
    """Mark one of the plan's own points, with its number."""
    axes.plot([x], [y], "o", color=OWN, markersize=6, zorder=5)
    axes.annotate(
        text,
        (x, y),
        xytext=(7, 4),
        textcoords="offset points",
        fontsize=9,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        zorder=6,
    )
