"""A comparison as one HTML page that needs no network: it contains Plotly, styles and numbers.

The tables are HTML, so that they can be read, searched, printed and reached by keyboard; the script draws the charts
from the same numbers and applies the filters.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import resources
from typing import Any

from fedsim.compare.comparison import Comparison
from fedsim.compare.format import (
    UNITS,
    difference_of,
    p_of,
    standing_of,
    summary_of,
    terms_of,
    value_of,
    view_of,
)
from fedsim.compare.frontier import Frontier, Point
from fedsim.compare.groups import Group
from fedsim.compare.styles import Style, styles_of
from fedsim.compare.table import remarks
from fedsim.errors import Refused
from fedsim.tasks import Column

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down"}
SYMBOLS |= {"P": "cross", "X": "x", "*": "star"}
DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}


def page_of(comparison: Comparison) -> str:
    """Return the page; raises `Refused` if Jinja or Plotly is not installed."""
    try:
        from jinja2 import Environment, StrictUndefined
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise Refused(
            f"--html: needs {error.name}, which is not installed: pip install 'fedsim[report]'"
        ) from None
    files = resources.files("fedsim.compare") / "page"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((files / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(
        **_texts(comparison),
        numbers=_script_json(_numbers(comparison)),
        plotly=get_plotlyjs(),
        script=(files / "report.js").read_text(encoding="utf-8"),
        style=(files / "report.css").read_text(encoding="utf-8"),
    )


def _script_json(tree: Any) -> str:
    """Return JSON for embedding in a script: no text in it can end the script."""
    return json.dumps(tree, allow_nan=False).replace("<", "\\u003c")


# --- numbers, for the charts ----------------------------------------------------------------------------


def _numbers(comparison: Comparison) -> dict[str, Any]:
    """Return the script's data."""
    styles = styles_of(comparison)
    anchors = _anchors(comparison)
    return {
        "metric": comparison.metric,
        "axis": comparison.column.axis,
        "scale": comparison.column.scale,
        "groups": {anchors[group.label]: _group(comparison, group, styles) for group in comparison.groups},
        "views": [_view(frontier, anchors) for frontier in comparison.all_frontiers],
    }


def _group(comparison: Comparison, group: Group, styles: dict[str, Style]) -> dict[str, Any]:
    series = comparison.series[group.label]
    spent = {name: group.curve(f"epsilon-{cost.bound_by}") for name, cost in group.costs.items()}
    return {
        "label": group.label,
        "mechanism": group.mechanism,
        "series": series,
        "style": _style(styles[series]),
        "curve": asdict(group.curve(comparison.metric)),
        "spent": {name: asdict(curve) for name, curve in spent.items() if curve.rounds},
        "runs": [
            {"anchor": _run_anchor(comparison, m), "seed": seed, "value": m.finals[comparison.metric]}
            for seed, m in group.counted.items()
            if comparison.metric in m.finals
        ],
    }


def _style(style: Style) -> dict[str, str]:
    dash = DASHES[style.dash] if isinstance(style.dash, str) else "longdashdot"
    return {"colour": style.colour, "symbol": SYMBOLS[style.marker], "dash": dash}


def _view(frontier: Frontier, anchors: dict[str, str]) -> dict[str, Any]:
    def place(point: Point) -> dict[str, Any]:
        return {
            "group": anchors[point.group.label],
            "epsilon": point.epsilon,
            "mean": point.summary.mean,
            "half": point.summary.half_width,
            "said": summary_of(frontier.column, point.summary),
            "terms": _terms(point),
        }

    return {
        **vars(frontier.view),
        "said": view_of(frontier.view),
        "points": [place(point) for point in frontier.points],
        "baselines": [place(point) for point in frontier.baselines],
    }


def _terms(point: Point) -> list[str]:
    """Return the terms of an epsilon, a line each."""
    cost = point.cost
    if cost is None:
        return []
    return [
        *([] if cost.noise_multiplier is None else [f"sigma {cost.noise_multiplier:.4g}"]),
        f"q {cost.sampling}",
        f"T {cost.steps}",
        f"delta {cost.delta or 0:g}",
        f"unit {cost.unit}, relation {cost.relation}",
        f"against {cost.bound_by}{'' if cost.bound_by == cost.adversary else ', which sees more'}",
    ]


# --- texts, for the tables ------------------------------------------------------------------------------


def _texts(comparison: Comparison) -> dict[str, Any]:
    """Return the template's texts."""
    anchors = _anchors(comparison)
    return {
        "task": comparison.task,
        "metric": comparison.metric,
        "axis": comparison.column.axis,
        "remarks": remarks(comparison),
        "runs": len(comparison.members),
        "completed": sum(len(group.counted) for group in comparison.groups),
        "adversaries": list(dict.fromkeys(view.adversary for view in comparison.views)),
        "units": {view.unit: UNITS.get(view.unit, view.unit) for view in comparison.views},
        "mechanisms": list(dict.fromkeys(group.mechanism for group in comparison.groups)),
        "frontiers": [_frontier_rows(frontier, anchors) for frontier in comparison.all_frontiers],
        "epsilons": [row for group in comparison.groups for row in _epsilon_rows(group, anchors)],
        "differences": _differences(comparison, anchors),
        "groups": [_section(comparison, group, anchors) for group in comparison.groups],
    }


def _anchors(comparison: Comparison) -> dict[str, str]:
    """Return the name of each group's section, by its label."""
    return {group.label: f"group-{place}" for place, group in enumerate(comparison.groups, 1)}


def _named(group: Group, anchors: dict[str, str]) -> dict[str, str]:
    return {"anchor": anchors[group.label], "label": group.label, "mechanism": group.mechanism}


def _run_anchor(comparison: Comparison, member: Any) -> str:
    return f"run-{comparison.members.index(member) + 1}"


def _frontier_rows(frontier: Frontier, anchors: dict[str, str]) -> dict[str, Any]:
    return {
        **vars(frontier.view),
        "said": view_of(frontier.view),
        "rows": [
            {
                **_named(point.group, anchors),
                "epsilon": "none spent" if point.epsilon is None else f"{point.epsilon:.4g}",
                "seeds": point.summary.n,
                "score": summary_of(frontier.column, point.summary),
                "price": difference_of(frontier.column, point.price),
                "p": p_of(point.price_p),
                "standing": standing_of(frontier.column, point),
            }
            for point in (*frontier.baselines, *frontier.points)
        ],
    }


def _epsilon_rows(group: Group, anchors: dict[str, str]) -> list[dict[str, Any]]:
    """Return a row for each adversary of a group."""
    return [
        {
            **_named(group, anchors),
            "adversary": name,
            "unit": cost.unit,
            **terms_of(cost),
            "remark": cost.why
            or ("" if cost.bound_by == name else f"the epsilon against {cost.bound_by}, which sees more"),
        }
        for name, cost in group.costs.items()
    ]


def _differences(comparison: Comparison, anchors: dict[str, str]) -> dict[str, Any]:
    """Return the settings in which groups differ; those of mechanisms in one column, since most groups lack them."""
    shared = [key for key in comparison.differing if not key.startswith("privacy.")]
    private = [key for key in comparison.differing if key.startswith("privacy.")]
    return {
        "keys": shared,
        "rows": [
            {
                **_named(group, anchors),
                "values": [_said(group.settings.get(key)) for key in shared],
                "privacy": [
                    f"{key.removeprefix('privacy.')} = {_said(group.settings[key])}"
                    for key in private
                    if key in group.settings
                ],
            }
            for group in comparison.groups
        ],
    }


def _section(comparison: Comparison, group: Group, anchors: dict[str, str]) -> dict[str, Any]:
    """Return the texts of a group's section."""
    summary = group.summary(comparison.metric)
    scores = {"bytes": group.summary("bytes"), "seconds": group.summary("seconds")}
    return {
        **_named(group, anchors),
        "score": ("pruned" if group.pruned else "no completed run")
        if summary is None
        else summary_of(comparison.column, summary),
        "scores": {
            name: value_of(Column(name), found.mean) for name, found in scores.items() if found is not None
        },
        "settings": {key: _said(value) for key, value in group.settings.items()},
        "runs": [
            {
                "anchor": _run_anchor(comparison, member),
                "seed": member.seed,
                "status": member.status,
                "error": member.error,
                "rounds": len(member.rows),
                "value": value_of(comparison.column, member.finals[comparison.metric])
                if comparison.metric in member.finals
                else "",
                "spent": ", ".join(
                    f"{cost.spent:.4g} ({name})"
                    for name, cost in member.costs.items()
                    if cost.spent is not None and cost.bound_by == name
                ),
                "path": str(member.path),
            }
            for member in group.members
        ],
    }


def _said(value: Any) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, list) else str(value)
