"""Draws a comparison: each picture as PNG and SVG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fedsim.compare.comparison import Comparison
from fedsim.compare.picture_of_costs import cost_figure
from fedsim.compare.picture_of_frontier import frontier_figure
from fedsim.compare.pictures_of_rounds import epsilon_figure, fairness_figure, metric_figure, spread_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drawn(comparison: Comparison) -> dict[str, bytes]:
    """Return the available pictures, by file name."""
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
    """Return a figure's file content; the same figure gives the same bytes."""
    import matplotlib as mpl

    content = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "fedsim"}):
        figure.savefig(content, format=kind, dpi=150, metadata=metadata)
    return content.getvalue()
