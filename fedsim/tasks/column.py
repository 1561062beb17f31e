"""Columns of a round's row: their direction and format."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.tasks.metric import Format, Metric, Scoring

LOWER = ("loss", "seconds", "bytes", "failures")  # suffixes of columns of which less is better
CLIENTS = "client-"
TITLES = {
    "seconds": "seconds of all rounds",
    "bytes": "bytes of all rounds, both ways",
}


@dataclass(frozen=True)
class Column:
    """A number of a round's row, or of a whole run.

    Attributes:
        name: Its key in the row.
        lower_is_better: Whether lower values are better.
        percent: Whether it is a share, from 0 to 1, printed in percent.
        axis: Its name with its unit, for an axis.
    """

    name: str
    lower_is_better: bool = False
    percent: bool = False
    axis: str = ""

    @property
    def title(self) -> str:
        """The axis without the unit."""
        return self.axis.partition(" (")[0]

    @property
    def scale(self) -> float:
        """Factor on its values on an axis."""
        return 100.0 if self.percent else 1.0


def column_of(name: str, scoring: Scoring) -> Column:
    """Return a column by its name, given the run's `scoring`.

    >>> column_of("client-accuracy", Scoring())
    Column(name='client-accuracy', lower_is_better=False, percent=True, axis="accuracy on clients' held-out data (%)")
    >>> column_of("train-loss", Scoring()).lower_is_better
    True
    """
    metric = _metric_of(name, scoring)
    whole = metric is not None and name in (metric.name, CLIENTS + metric.name)
    percent = metric is not None and whole and Format(metric.format) is Format.PERCENT
    lower = name.endswith(LOWER) if metric is None else metric.lower_is_better
    return Column(name, lower, percent, _axis(name, metric, percent, scoring.loss_unit))


def _metric_of(name: str, scoring: Scoring) -> Metric | None:
    """Return the metric of a column: on the test set, or on clients, with quantiles over them."""
    of_clients = name.removeprefix(CLIENTS)
    for metric in scoring.metrics:
        if name == metric.name or (
            name != of_clients and (of_clients == metric.name or of_clients.startswith(f"{metric.name}-"))
        ):
            return metric
    return None


def _axis(name: str, metric: Metric | None, percent: bool, loss_unit: str) -> str:
    unit = f" ({loss_unit})" if loss_unit else ""
    losses = {
        "loss": f"test loss{unit}",
        "client-loss": f"loss on clients' held-out data{unit}",
        "train-loss": f"training loss{unit}",
        "released-train-loss": f"training loss as released, noised{unit}",
    }
    said = TITLES | losses
    if metric is not None:
        share = " (%)" if percent else ""
        said |= {
            metric.name: f"test {metric.name}{share}",
            CLIENTS + metric.name: f"{metric.name} on clients' held-out data{share}",
        }
    return said.get(name, name)
