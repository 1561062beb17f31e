"""Writes a comparison's files, each atomically: tables, the page, and each picture as PNG and SVG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.compare.comparison import Comparison
from fedsim.compare.pictures_of_costs import cost_figure, frontier_figure
from fedsim.compare.pictures_of_rounds import epsilon_figure, fairness_figure, metric_figure, spread_of
from fedsim.compare.records import csv_of
from fedsim.compare.report import page_of
from fedsim.compare.table import latex_of
from fedsim.errors import Refused
from fedsim.results.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(
    comparison: Comparison,
    *,
    pictures: Path | None = None,
    csv: Path | None = None,
    latex: Path | None = None,
    html: Path | None = None,
) -> list[Path]:
    """Write the requested files, replacing existing ones, and return their paths.

    Raises:
        Refused: A path can't be written, or a library for pictures or the page is not installed.
    """
    contents: dict[Path, tuple[str, bytes]] = {}
    if csv is not None:
        contents[csv] = ("--csv", csv_of(comparison).encode())
    if latex is not None:
        contents[latex] = ("--latex", latex_of(comparison).encode())
    if html is not None:
        contents[html] = ("--html", page_of(comparison).encode())
    if pictures is not None:
        contents |= {pictures / name: ("--out", content) for name, content in _drawn(comparison).items()}
    for path, (option, content) in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise Refused(f"{option} {str(path)!r}: {error.strerror}") from None
    return list(contents)


def _drawn(comparison: Comparison) -> dict[str, bytes]:
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
