"""How numbers are said, the same in the terminal, in pictures and on the page."""

from __future__ import annotations

from fedsim.compare.frontier import Point, View
from fedsim.compare.statistics import Difference, Summary

UNITS = {
    "example": "one record of one client",
    "client": "all data of one client",
}


def value_of(metric: str, value: float) -> str:
    """Say a metric's value.

    >>> value_of("accuracy", 0.8765), value_of("loss", 1.23456), value_of("bytes", 2421000.0)
    ('87.65 %', '1.235', '2.421 MB')
    """
    if metric.endswith("bytes"):
        return f"{value / 1e6:.4g} MB"
    return f"{value:.2%}".replace("%", " %") if metric.endswith("accuracy") else f"{value:.4g}"


def summary_of(metric: str, summary: Summary) -> str:
    """Say a mean with its 95 % interval.

    >>> summary_of("accuracy", Summary(3, 0.9, 0.01, 0.0248))
    '90.00 ± 2.48 %'
    """
    if summary.half_width is None:
        return value_of(metric, summary.mean)
    if metric.endswith("accuracy"):
        return f"{100 * summary.mean:.2f} ± {100 * summary.half_width:.2f} %"
    scale, unit = (1e-6, " MB") if metric.endswith("bytes") else (1.0, "")
    return f"{scale * summary.mean:.4g} ± {scale * summary.half_width:.2g}{unit}"


def difference_of(metric: str, difference: Difference | None) -> str:
    """Say a difference; of accuracies, in percentage points.

    >>> difference_of("accuracy", Difference(-0.0212, 0.013))
    '-2.12 ± 1.30 pp'
    """
    if difference is None:
        return ""
    half = difference.half_width
    if metric.endswith("accuracy"):
        spread = "" if half is None else f" ± {100 * half:.2f}"
        return f"{100 * difference.mean:+.2f}{spread} pp"
    scale, unit = (1e-6, " MB") if metric.endswith("bytes") else (1.0, "")
    return f"{scale * difference.mean:+.4g}{'' if half is None else f' ± {scale * half:.2g}'}{unit}"


def p_of(p: float | None) -> str:
    """Say a p-value.

    >>> p_of(0.00012), p_of(0.0421), p_of(None)
    ('< 0.001', '0.042', '')
    """
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def standing_of(metric: str, point: Point) -> str:
    """Say whether a point is the best of its epsilon, or how far behind it is; empty without an epsilon."""
    if point.behind is not None:
        p = f" (p {p_of(point.behind_p)})" if point.behind_p is not None else ""
        return difference_of(metric, point.behind) + p
    if not point.best:
        return ""
    return "best" if point.rivals else "only one"


def view_of(view: View) -> str:
    """Say what a view's epsilons are.

    >>> view_of(View("released-models", "client"))
    'epsilon against released-models, of all data of one client'
    """
    if not view.adversary:
        return "no run adds noise"
    return f"epsilon against {view.adversary}, of {UNITS.get(view.unit, view.unit)}"


def axis_of(metric: str) -> str:
    """Name a metric with its unit, for an axis."""
    names = {
        "accuracy": "test accuracy (%)",
        "loss": "test loss (nats)",
        "seconds": "seconds of all rounds",
        "bytes": "bytes of all rounds, both ways",
        "client-accuracy": "accuracy on clients' held-out data (%)",
        "client-loss": "loss on clients' held-out data (nats)",
        "train-loss": "training loss (nats)",
        "released-train-loss": "training loss as released, noised (nats)",
    }
    return names.get(metric, f"{metric} (%)" if metric.endswith("accuracy") else metric)


def scale_of(metric: str) -> float:
    """Return what a metric's values are multiplied by on an axis."""
    return 100.0 if metric.endswith("accuracy") else 1.0
