"""Epsilon over rounds, and over noise and cohorts, drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.cli.budget_view import FACTORS, RELATION, UNIT, Plan, counted, shown
from fedsim.errors import Refused
from fedsim.privacy.accounting import Epsilon

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From little noise to much; the plan's own is in the middle, and black.
COLOURS = ("#aa3377", "#ee6677", "#000000", "#4477aa", "#66ccee")
SHADES = ("#ccbb44", "#44aa99", "#228833", "#999933")  # of other client rates than the plan's, which is black
KNOWN, RELEASED = "-", "--"
POINTS = 9  # along a curve


def draw(plan: Plan, path: Path) -> None:
    """Write a picture of epsilon over rounds, noise and client rates, as PNG, SVG or PDF by the file's ending.

    Raises:
        Refused: The file can't be written.
    """
    try:
        figure_of(plan).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise Refused(f"--out {str(path)!r}: {error}") from None


def figure_of(plan: Plan) -> Figure:
    """Return panels: epsilon over rounds (if there are several) for several noises, and over noise for client rates."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    kinds = [_over_rounds, _over_noise] if plan.rounds > 1 else [_over_noise]
    figure = Figure(figsize=(11.5, 5.6), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, over in zip(panels, kinds, strict=True):
        over(axes, plan)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(which="major", color="#dddddd", linewidth=0.8)
        axes.grid(which="minor", color="#eeeeee", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("epsilon (PLD)")
    title = textwrap.fill(f"DP-SGD in the clients: {plan.said()}", 120)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.supxlabel(
        f"Protects {UNIT}; neighbours: {RELATION}.", x=0.01, ha="left", fontsize=8, color="#555555"
    )
    return figure


def _over_rounds(axes: Axes, plan: Plan) -> None:
    counts = sorted(
        {round(plan.rounds ** (k / (POINTS - 1))) for k in range(POINTS)} | {plan.participations, plan.rounds}
    )
    for factor, colour in zip(FACTORS, COLOURS, strict=True):
        noisy = plan.with_noise(plan.noise(factor))
        plans = [replace(noisy, rounds=count) for count in counts]
        width = 2.2 if factor == 1 else 1.3
        label = f"noise {noisy.local.noise_multiplier:.3g}"
        _line(axes, counts, [p.known() for p in plans], KNOWN, colour, width, label)
        _line(axes, counts, [p.released() for p in plans], RELEASED, colour, width)
    _mark(axes, plan.rounds, plan)
    axes.set_title("over rounds", loc="left", fontsize=10)
    axes.set_xlabel("rounds")
    axes.margins(x=0.1)
    if plan.rounds > 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    lines = axes.get_legend_handles_labels()[0]
    first = axes.legend(handles=lines, frameon=False, fontsize=8, loc="upper left", title="noise multiplier")
    first.get_title().set_fontsize(8)
    for text, line in zip(first.get_texts(), lines, strict=True):
        text.set_text(str(line.get_label()).removeprefix("noise "))
    axes.add_artist(first)
    _explain_lines(axes, plan)


def _explain_lines(axes: Axes, plan: Plan) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color="#555555", linestyle="-", label="known cohort")]
    if plan.max_participations is None:
        released = "released models, secret cohorts"
        handles.append(Line2D([], [], color="#555555", linestyle="--", label=released))
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="lower right")


def _over_noise(axes: Axes, plan: Plan) -> None:
    own = plan.local.noise_multiplier
    noises = [plan.noise(2 ** (2 * k / (POINTS - 1) - 1)) for k in range(POINTS)]
    plans = [plan.with_noise(noise) for noise in noises]
    name = f"known cohort, {counted(plan.participations, 'participation')}"
    _line(axes, noises, [p.known() for p in plans], KNOWN, "#000000", 2.2, name)
    if plan.max_participations is None:
        shades = iter(SHADES)
        for rate in reversed(plan.client_rates()):
            colour, width = ("#000000", 2.2) if rate == plan.client_rate else (next(shades), 1.3)
            released = [replace(p, client_rate=rate).released() for p in plans]
            _line(axes, noises, released, RELEASED, colour, width, f"released models, client rate {rate:.3g}")
    _mark(axes, own, plan)
    axes.set_title(f"over noise, after {counted(plan.rounds, 'round')}", loc="left", fontsize=10)
    axes.set_xlabel("noise multiplier")
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _line(
    axes: Axes,
    places: Sequence[float],
    epsilons: Sequence[Epsilon | None],
    style: str,
    colour: str,
    width: float,
    label: str | None = None,
) -> None:
    """Draw what is finite and, on a logarithmic axis, above 0."""
    values = [math.nan if e is None or not 0 < e.pld < math.inf else e.pld for e in epsilons]
    if any(value == value for value in values):
        axes.plot(places, values, style, color=colour, linewidth=width, label=label)


def _mark(axes: Axes, place: float, plan: Plan) -> None:
    """Mark the plan's own epsilons, with their numbers."""
    for epsilon in (plan.known(), plan.released()):
        if epsilon is None or not 0 < epsilon.pld < math.inf:
            continue
        axes.plot([place], [epsilon.pld], "o", color="#000000", markersize=6, zorder=5)
        axes.annotate(
            shown(epsilon.pld),
            (place, epsilon.pld),
            xytext=(7, 4),
            textcoords="offset points",
            fontsize=9,
            fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
            zorder=6,
        )
