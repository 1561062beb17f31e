"""Formats numbers, the same in the terminal, in pictures and on the page."""

from __future__ import annotations

from fedsim.compare.costs import Cost
from fedsim.compare.frontier import Point, View
from fedsim.compare.statistics import Difference, Summary
from fedsim.tasks import Column

UNITS = {"example": "one record of one client", "client": "all data of one client"}


def value_of(column: Column, value: float) -> str:
    """Format a value of a column.

    >>> from fedsim.tasks import Scoring, column_of
    >>> accuracy, loss, sent = (column_of(name, Scoring()) for name in ("accuracy", "loss", "bytes"))
    >>> value_of(accuracy, 0.8765), value_of(loss, 1.23456), value_of(sent, 2421000.0)
    ('87.65 %', '1.235', '2.421 MB')
    """
    scale, form, _, unit = _format_of(column)
    return f"{scale * value:{form}}{unit}"


def _format_of(column: Column) -> tuple[float, str, str, str]:
    """Return the factor on a column's values, the formats of values and of half-widths, and the unit."""
    if column.percent:
        return 100.0, ".2f", ".2f", " %"
    return (1e-6, ".4g", ".2g", " MB") if column.name.endswith("bytes") else (1.0, ".4g", ".2g", "")


def summary_of(column: Column, summary: Summary) -> str:
    """Format a mean with its 95 % interval.

    >>> from fedsim.tasks import Scoring, column_of
    >>> summary_of(column_of("accuracy", Scoring()), Summary(3, 0.9, 0.01, 0.0248))
    '90.00 ± 2.48 %'
    """
    if summary.half_width is None:
        return value_of(column, summary.mean)
    scale, form, half, unit = _format_of(column)
    return f"{scale * summary.mean:{form}} ± {scale * summary.half_width:{half}}{unit}"


def difference_of(column: Column, difference: Difference | None) -> str:
    """Format a difference; of shares, in percentage points.

    >>> from fedsim.tasks import Scoring, column_of
    >>> difference_of(column_of("accuracy", Scoring()), Difference(-0.0212, 0.013))
    '-2.12 ± 1.30 pp'
    """
    if difference is None:
        return ""
    scale, form, half, unit = _format_of(column)
    width = difference.half_width
    spread = "" if width is None else f" ± {scale * width:{half}}"
    return f"{scale * difference.mean:+{form}}{spread}{' pp' if column.percent else unit}"


def p_of(p: float | None) -> str:
    """Format a p-value.

    >>> p_of(0.00012), p_of(0.0421), p_of(None)
    ('< 0.001', '0.042', '')
    """
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def standing_of(column: Column, point: Point) -> str:
    """Return whether a point is the best of its epsilon, or how far behind, as text; empty without an epsilon."""
    if point.behind is not None:
        p = f" (p {p_of(point.behind_p)})" if point.behind_p is not None else ""
        return difference_of(column, point.behind) + p
    if not point.best:
        return ""
    return "best" if point.rivals else "only one"


def terms_of(cost: Cost) -> dict[str, str]:
    """Format an epsilon and its terms; empty texts stand for missing ones."""
    return {
        "epsilon": "" if cost.epsilon is None else f"{cost.epsilon:.4g}",
        "delta": "" if cost.delta is None else f"{cost.delta:g}",
        "sigma": "" if cost.noise_multiplier is None else f"{cost.noise_multiplier:.4g}",
        "q": cost.sampling,
        "T": cost.steps,
        "relation": cost.relation,
    }


def view_of(view: View) -> str:
    """Describe a view's epsilons.

    >>> view_of(View("released-models", "client"))
    'epsilon against released-models, of all data of one client'
    """
    if not view.adversary:
        return "no run adds noise"
    return f"epsilon against {view.adversary}, of {UNITS.get(view.unit, view.unit)}"
