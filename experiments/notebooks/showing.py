"""Pictures in a notebook, or in files outside one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 72  # small, since notebooks are stored with their pictures


def show(figure: Figure, file: Path) -> None:
    """Write a figure to a PNG file; Jupyter shows it, and a script prints its path."""
    figure.savefig(file, dpi=DPI, metadata={"Software": None})
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display

        display(Image(filename=file))  # type: ignore[no-untyped-call]
    else:
        print(f"picture: {file}")
