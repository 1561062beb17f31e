"""Make the notebooks from the scripts beside them, and run them: `python -m fedsim.experiments.notebooks.build [NAME...]`.

A notebook's metadata has the size of its run (`fedsim.size`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from fedsim.experiments.notebooks.cells import cells_of_script

HERE = Path(__file__).parent
SIZES = ("full", "small")
SIZE = "FEDSIM_NOTEBOOK_SIZE"
LONGEST = 3600  # seconds that a cell may take


def scripts() -> list[Path]:
    """Return the scripts, by name."""
    return sorted(HERE.glob("0*.py"))


def notebook_of(script: Path) -> Any:
    """Return the notebook of a script, not yet run."""
    import nbformat

    cells = []
    for place, cell in enumerate(cells_of_script(script.read_text(encoding="utf-8"))):
        node: dict[str, Any] = {
            "id": f"cell-{place}",
            "cell_type": cell.kind,
            "metadata": {},
            "source": cell.text,
        }
        if cell.kind == "code":
            node |= {"outputs": [], "execution_count": None}
        cells.append(node)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    tree = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return nbformat.from_dict(tree)  # type: ignore[no-untyped-call]


def executed(notebook: Any, size: str, folder: Path) -> Any:
    """Run a notebook from a clean kernel, in a folder of its own.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raises.
    """
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=LONGEST,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=os.environ | {SIZE: size})
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python"},
        "fedsim": {"size": size},
    }
    return notebook


def main() -> None:
    """Make and run notebooks, each written when it is done."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="as 01_first_run; default: all")
    parser.add_argument("--size", choices=SIZES, default="full")
    given = parser.parse_args()
    known = {script.stem: script for script in scripts()}
    if unknown := sorted(set(given.names) - set(known)):
        parser.error(f"{unknown[0]!r} is no notebook; there are: {', '.join(known)}")
    for name in given.names or known:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(notebook_of(known[name]), given.size, Path(folder))
        nbformat.write(notebook, known[name].with_suffix(".ipynb"))  # type: ignore[no-untyped-call]
        print(f"{name}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
