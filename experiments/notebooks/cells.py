"""Cells of a script in the percent format, and of its notebook.

A script is runnable Python. Its docstring is the first cell, with its first line as the title; `# %% [markdown]`
begins a cell of text, in which every line is a comment, and `# %%` a cell of code.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

MARK = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A cell: `kind` is `markdown` or `code`."""

    kind: str
    text: str


def cells_of_script(source: str) -> list[Cell]:
    r"""Return the cells of a script.

    >>> script = '\"\"\"Adding.\n\nTwo numbers.\n\"\"\"\n\n# %% [markdown]\n# Their sum:\n\n# %%\nprint(1 + 2)\n'
    >>> for cell in cells_of_script(script):
    ...     print(cell)
    Cell(kind='markdown', text='# Adding\n\nTwo numbers.')
    Cell(kind='markdown', text='Their sum:')
    Cell(kind='code', text='print(1 + 2)')

    Raises:
        ValueError: It has no docstring, or code before its first mark.
    """
    title, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    head, *parts = MARK.split(source)
    if not title or len(ast.parse(head).body) != 1:
        raise ValueError("a script begins with a docstring, and all else is in cells")
    cells = [Cell("markdown", f"# {title.rstrip('.')}\n{rest}".strip())]
    for mark, text in zip(parts[::2], parts[1::2], strict=True):
        cells.append(Cell("code", text.strip()) if mark is None else Cell("markdown", _uncommented(text)))
    return cells


def _uncommented(text: str) -> str:
    lines = text.strip().split("\n")
    if wrong := [line for line in lines if not re.match(r"#( |$)", line)]:
        raise ValueError(f"a cell of text has a line that is no comment: {wrong[0]!r}")
    return "\n".join(line[2:] for line in lines)


def cells_of_notebook(notebook: Any) -> list[Cell]:
    """Return the cells of a notebook, as `nbformat` reads it."""
    return [Cell(cell.cell_type, cell.source) for cell in notebook.cells]
