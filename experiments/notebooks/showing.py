"""Pictures in a notebook, or in files where there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 72  # small enough for a notebook that is kept with its pictures


def show(figure: Figure, file: Path) -> None:
    """Write a figure to a PNG file; Jupyter shows it, and a script says where it is."""
    figure.savefig(file, dpi=DPI, metadata={"Software": None})
    if "ipykernel" in sys.modules:
        from IPython.display import Image, display

        display(Image(filename=file))  # type: ignore[no-untyped-call]
    else:
        print(f"picture: {file}")
