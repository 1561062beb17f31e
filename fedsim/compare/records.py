"""A comparison as plain rows, for CSV, JSON and further computation."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from fedsim.compare.comparison import Comparison
from fedsim.compare.frontier import Frontier, Point
from fedsim.compare.runs import ComparedRun

if TYPE_CHECKING:
    import polars as pl


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row for each group on a frontier, with the same columns in each; missing values are None."""
    rows = []
    for frontier in comparison.frontiers:
        # A group without noise is on every unit's frontier, but appears once.
        first = frontier is comparison.frontiers[0]
        points = [*(frontier.baselines if first else ()), *frontier.points]
        rows += [_row(comparison, frontier, point) for point in points]
    return rows


def _row(comparison: Comparison, frontier: Frontier, point: Point) -> dict[str, Any]:
    group, summary, cost = point.group, point.summary, point.cost
    price, behind = point.price, point.behind
    return {
        "label": group.label,
        "mechanism": group.mechanism,
        "budget": group.budget or None,
        "variant": group.variant or None,
        "adversary": None if cost is None else cost.adversary,
        "unit": None if cost is None else cost.unit,
        "epsilon": point.epsilon,
        "epsilon-bound-by": None if cost is None else cost.bound_by,
        "relation": None if cost is None else cost.relation,
        "noise-multiplier": None if cost is None else cost.noise_multiplier,
        "sampling": None if cost is None else cost.sampling,
        "composed": None if cost is None else cost.steps,
        "delta": None if cost is None else cost.delta,
        "metric": frontier.metric,
        "seeds": summary.n,
        "mean": summary.mean,
        "sd": summary.sd,
        "half-width-95": summary.half_width,
        "against-no-noise": None if price is None else price.mean,
        "against-no-noise-half-width-95": None if price is None else price.half_width,
        "against-no-noise-test": None if price is None else price.test or None,
        "against-no-noise-p": None if price is None else price.p,
        "against-no-noise-p-holm": point.price_p,
        "best-of-epsilon": point.best if cost is not None else None,
        "behind-best": None if behind is None else behind.mean,
        "behind-best-test": None if behind is None else behind.test or None,
        "behind-best-p": None if behind is None else behind.p,
        "behind-best-p-holm": point.behind_p,
        "pruned": len(group.pruned),
        "not-completed": len(group.pending),
    } | {key: group.settings.get(key) for key in comparison.differing}


def frame_of(comparison: Comparison) -> pl.DataFrame:
    """Return the rows as a data frame."""
    import polars as pl

    return pl.DataFrame(rows_of(comparison), infer_schema_length=None)


def csv_of(comparison: Comparison) -> str:
    """Return the rows as CSV, with a header."""
    rows = rows_of(comparison)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tree_of(comparison: Comparison) -> dict[str, Any]:
    """Return everything for JSON: the rows, each group's runs and costs, and paths left out."""
    return {
        "task": comparison.task,
        "metric": comparison.metric,
        "adversary": comparison.adversary or None,
        "rows": rows_of(comparison),
        "absent": [
            {"label": group.label, **vars(frontier.view), "why": why}
            for frontier in comparison.frontiers
            for group, why in frontier.absent
        ],
        "groups": [
            {
                "label": group.label,
                "costs": [
                    {name.replace("_", "-"): value for name, value in vars(cost).items()}
                    for cost in group.costs.values()
                ],
                "runs": [_run(member, comparison.metric) for member in group.members],
            }
            for group in comparison.groups
        ],
        "differing": comparison.differing,
        "left-out": [{"path": str(path), "why": why} for path, why in comparison.left_out],
        "notes": comparison.notes,
    }


def _run(member: ComparedRun, metric: str) -> dict[str, Any]:
    return {
        "path": str(member.path),
        "name": member.name,
        "seed": member.seed,
        "status": member.status,
        "error": member.error or None,
        "rounds": len(member.rows),
        metric: member.finals.get(metric),
    }
