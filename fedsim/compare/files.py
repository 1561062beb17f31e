"""Writes a comparison's files, each atomically."""

from __future__ import annotations

from pathlib import Path

from fedsim.compare.comparison import Comparison
from fedsim.compare.pictures import drawn
from fedsim.compare.records import csv_of
from fedsim.compare.report import page_of
from fedsim.compare.table import latex_of
from fedsim.errors import Refused
from fedsim.results.files import write_whole


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
        contents |= {pictures / name: ("--out", content) for name, content in drawn(comparison).items()}
    for path, (option, content) in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise Refused(f"{option} {str(path)!r}: {error.strerror}") from None
    return list(contents)
