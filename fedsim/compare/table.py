"""A comparison in the terminal and in LaTeX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.compare.comparison import Comparison
from fedsim.compare.format import difference_of, p_of, standing_of, summary_of, terms_of, value_of, view_of
from fedsim.compare.frontier import Frontier, Point
from fedsim.tasks import Column


def show(comparison: Comparison, console: Console) -> None:
    """Print the scores, the terms of each epsilon, and notes."""
    console.print(Text(f"{len(comparison.members)} runs of {comparison.task}", style="bold"))
    for frontier in comparison.frontiers:
        console.print()
        console.print(_scores(frontier, narrow=console.width < ROOMY))
        if frontier.points:
            console.print(_epsilons(frontier))
        for group, why in frontier.absent:
            console.print(Text(f"no epsilon here: {group.label}: {why}"))
    console.print()
    if console.width < ROOMY and any(frontier.points for frontier in comparison.frontiers):
        console.print(f"a line of {ROOMY} characters also has {', '.join(DETAILS)}.")
    if any(_bound(point) for frontier in comparison.frontiers for point in frontier.points):
        console.print("bound by: the epsilon is against an adversary that sees more, and holds here too.")
    for line in remarks(comparison):
        console.print(Text(line))


def remarks(comparison: Comparison) -> list[str]:
    """Return the lines below the tables: explanations, incomplete runs, and paths left out."""
    lines = []
    points = [point for frontier in comparison.frontiers for point in (*frontier.points, *frontier.baselines)]
    if any(point.summary.half_width is not None for point in points):
        lines.append("± is half a 95 % interval over seeds (Student's t), of each mean or difference alone.")
    if any(p.cost is not None and (p.price_p is not None or p.behind_p is not None) for p in points):
        lines.append(
            "p: paired t test where seeds are the same, else Welch's; adjusted for all tests of a column (Holm)."
        )
    lines += comparison.notes
    for group in comparison.groups:
        # A setting is pruned with all its seeds.
        reasons = Counter(m.error for m in group.pruned).items()
        lines += [f"pruned: {group.label} ({count} run{'s' * (count > 1)}): {why}" for why, count in reasons]
        lines += [
            f"not counted: {m.path}: {m.status} after {len(m.rows)} rounds{f': {m.error}' if m.error else ''}"
            for m in group.pending
        ]
    return lines + [f"left out: {path}: {why}" for path, why in comparison.left_out]


def _scores(frontier: Frontier, narrow: bool) -> Table:
    table = _table(f"{frontier.column.title}; {view_of(frontier.view)}")
    shown = [name for name in _columns(frontier) if not (narrow and name in DETAILS)]
    for name in shown:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=name != "settings")
    for point in (*frontier.baselines, *frontier.points):
        cells = _cells(point, frontier.column)
        table.add_row(*(cells[name] for name in shown), style="bold" if point.best and point.rivals else "")
    return table


ROOMY = 125  # characters of a line with all columns
DETAILS = ("sd", "p", "best of epsilon")  # columns that a narrow terminal omits
LEFT = ("mechanism", "settings", "best of epsilon", "relation", "bound by")


def _columns(frontier: Frontier) -> list[str]:
    """Return the columns that are not empty for some point."""
    cells = [_cells(point, frontier.column) for point in (*frontier.baselines, *frontier.points)]
    return [name for name in cells[0] if any(row[name] for row in cells)] if cells else []


def _cells(point: Point, column: Column) -> dict[str, str]:
    return {
        "mechanism": point.group.mechanism,
        "settings": point.group.variant,
        "epsilon": "" if point.epsilon is None else f"{point.epsilon:.4g}",
        "seeds": str(point.summary.n),
        column.name: summary_of(column, point.summary),
        "sd": "" if point.summary.sd is None else value_of(column, point.summary.sd),
        "against no noise": difference_of(column, point.price),
        "p": p_of(point.price_p),
        "best of epsilon": standing_of(column, point),
    }


def _epsilons(frontier: Frontier) -> Table:
    """Return a table of each epsilon's terms."""
    table = _table("what each epsilon is")
    rows = []
    for point in frontier.points:
        if point.cost is not None:
            name = ", ".join(part for part in (point.group.mechanism, point.group.variant) if part)
            rows.append({"mechanism": name, **terms_of(point.cost), "bound by": _bound(point)})
    shown = [name for name in rows[0] if any(row[name] for row in rows)]
    for name in shown:
        table.add_column(name, justify="left" if name in (*LEFT, "q", "T") else "right")
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    return table


def _bound(point: Point) -> str:
    cost = point.cost
    return "" if cost is None or cost.bound_by == cost.adversary else cost.bound_by


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="italic", box=box.SIMPLE, pad_edge=False)


# --- LaTeX ----------------------------------------------------------------------------------------------


def latex_of(comparison: Comparison) -> str:
    r"""Return a `table` for each frontier, for the package `booktabs`."""
    return "\n".join(_latex_table(comparison, frontier) for frontier in comparison.frontiers)


def _latex_table(comparison: Comparison, frontier: Frontier) -> str:
    shown = [name for name in _columns(frontier) if name != "sd"]
    align = "".join("l" if name in LEFT else "r" for name in shown)
    lines = [_latex_row(shown), r"\midrule"]
    for point in (*frontier.baselines, *frontier.points):
        cells = _cells(point, frontier.column)
        lines.append(_latex_row([cells[name] for name in shown], bold=point.best and point.rivals > 0))
    costs = [point.cost for point in frontier.points if point.cost is not None]
    deltas = ", ".join(f"{delta:g}" for delta in sorted({c.delta for c in costs if c.delta is not None}))
    relations = ", ".join(sorted({cost.relation for cost in costs}))
    said = f"; delta {deltas}; neighbours: {relations}" if deltas else ""
    caption = f"{comparison.task}: {frontier.column.axis}; {view_of(frontier.view)}{said}."
    head = [
        r"\begin{table}",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
    ]
    foot = [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join([*head, *lines, *foot])


def _latex_row(cells: Sequence[str], bold: bool = False) -> str:
    texts = [escaped(cell) for cell in cells]
    return " & ".join(rf"\textbf{{{text}}}" if bold and text else text for text in texts) + r" \\"


def escaped(text: str) -> str:
    r"""Escape a text for LaTeX.

    >>> escaped("50 % ± 2_a")
    '50 \\% $\\pm$ 2\\_a'
    """
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"±": r"$\pm$", "<": "$<$"}
    special |= {char: "\\" + char for char in "&%$#_{}"}
    return "".join(special.get(char, char) for char in text)
