"""Metrics of a task, as data: names, directions and formats; and columns of rows. Nothing here needs PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Other columns of a round's row, and prefixes of columns: not allowed as names of metrics.
COLUMNS = frozenset(
    {
        *("round", "loss", "clients", "failures", "failure-reasons", "abandoned", "seconds", "bytes"),
        "diverged",
        *("virtual-time", "staleness"),
        *("noise-multiplier", "sampling-rate", "dp-steps", "delta", "unit", "relation"),
    }
)
LOWER = ("loss", "seconds", "bytes", "failures")  # suffixes of columns of which less is better
CLIENTS = "client-"
PREFIXES = (CLIENTS, "train-", "initial-", "released-", "epsilon-", "secagg-")


class Direction(StrEnum):
    """Which values of a metric are better."""

    HIGHER = "higher"
    LOWER = "lower"


class Format(StrEnum):
    """How a metric's values are printed."""

    PERCENT = "percent"  # a share from 0 to 1
    NUMBER = "number"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric on a set of examples.

    Attributes:
        name: Its column in a round's row: small letters, digits and single hyphens.
        direction: Which values are better.
        format: How values are printed.
        by_client: Whether clients compute it on their held-out examples; false if it is undefined for few examples.

    Raises:
        ValueError: The name is malformed, or another column's.
    """

    name: str
    direction: Direction = Direction.HIGHER
    format: Format = Format.NUMBER
    by_client: bool = True

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name in COLUMNS or self.name.startswith(PREFIXES):
            raise ValueError(
                f"metric {self.name!r}: a name is small letters, digits and single hyphens, and not a column of rows "
                f"already; taken: {', '.join([*sorted(COLUMNS), *(f'{prefix}*' for prefix in PREFIXES)])}"
            )

    @property
    def lower_is_better(self) -> bool:
        """Whether lower values are better."""
        return Direction(self.direction) is Direction.LOWER

    def text(self, value: float) -> str:
        """Format a value.

        >>> Metric(name="accuracy", format=Format.PERCENT).text(0.5), Metric(name="rmse").text(2)
        ('50.00%', '2.0000')
        """
        return f"{value:.2%}" if Format(self.format) is Format.PERCENT else f"{value:.4f}"

    def best(self, values: Sequence[float]) -> float | None:
        """Return the best of some values, or None."""
        choose = min if self.lower_is_better else max
        return choose(values, default=None)


ACCURACY = Metric(name="accuracy", format=Format.PERCENT)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The metrics in a run's rows.

    Attributes:
        task: The task's name.
        metrics: At least one; the first is the headline metric, by which runs are compared, pruned and stopped.
        loss_unit: Unit of the loss; may be empty.
    """

    task: str = "classification"
    metrics: tuple[Metric, ...] = (ACCURACY,)
    loss_unit: str = "nats"

    @property
    def headline(self) -> Metric:
        """The first metric."""
        return self.metrics[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics and of the loss, in the order of a row."""
        return (*(metric.name for metric in self.metrics), "loss")

    def manifest(self) -> dict[str, Any]:
        """Return the task's entry in a run's manifest: empty for accuracy and cross-entropy."""
        plain = Scoring()
        if (self.metrics, self.loss_unit) == (plain.metrics, plain.loss_unit):
            return {}
        metrics = [{key.replace("_", "-"): value for key, value in asdict(m).items()} for m in self.metrics]
        return {"task": {"name": self.task, "metrics": metrics, "loss-unit": self.loss_unit}}

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Self:
        """Return the scoring of a manifest, as `manifest` wrote it.

        >>> Scoring.of({}).headline.name
        'accuracy'
        """
        said = manifest.get("task")
        if said is None:
            return cls()
        metrics = [
            Metric(
                name=metric["name"],
                direction=Direction(metric["direction"]),
                format=Format(metric["format"]),
                by_client=metric["by-client"],
            )
            for metric in said["metrics"]
        ]
        return cls(task=said["name"], metrics=tuple(metrics), loss_unit=said["loss-unit"])


@dataclass(frozen=True)
class Column:
    """A number of a round's row, or of a whole run."""

    name: str  # its key in the row
    lower_is_better: bool = False
    percent: bool = False  # a share, from 0 to 1, printed in percent
    axis: str = ""  # its name with its unit, for an axis

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
    if metric is None:
        lower, percent = name.endswith(LOWER), False
    else:
        whole = name in (metric.name, CLIENTS + metric.name)
        lower, percent = metric.lower_is_better, whole and Format(metric.format) is Format.PERCENT
    return Column(name, lower, percent, _axis(name, metric, percent, scoring.loss_unit))


def _metric_of(name: str, scoring: Scoring) -> Metric | None:
    """Return the metric of a column: on the test set, or on clients, with quantiles over them."""
    for metric in scoring.metrics:
        if name in (metric.name, CLIENTS + metric.name) or name.startswith(f"{CLIENTS}{metric.name}-"):
            return metric
    return None


def _axis(name: str, metric: Metric | None, percent: bool, loss_unit: str) -> str:
    unit, share = f" ({loss_unit})" if loss_unit else "", " (%)" if percent else ""
    axes = {
        "seconds": "seconds of all rounds",
        "bytes": "bytes of all rounds, both ways",
        "loss": f"test loss{unit}",
        "client-loss": f"loss on clients' held-out data{unit}",
        "train-loss": f"training loss{unit}",
        "released-train-loss": f"training loss as released, noised{unit}",
    }
    if metric is not None:
        axes[metric.name] = f"test {metric.name}{share}"
        axes[CLIENTS + metric.name] = f"{metric.name} on clients' held-out data{share}"
    return axes.get(name, name)
