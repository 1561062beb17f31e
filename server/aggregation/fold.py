"""How the replies of a cohort become one: the weighted mean, as a sum over a fixed tree.

The tree is fixed by the cohort alone: its clients in order, cut into blocks; within a block one after another,
then neighbouring blocks in pairs. So the order in which replies come, and who computes, leave every bit as it
is; a client that failed leaves its place empty. Sums are in float64. An engine that can (`FoldingGrid`) adds
replies where they are, so that neither traffic nor memory grows with the cohort.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedsim.arrays import record_of
from fedsim.layout import Expected
from fedsim.messages import ARRAYS, METRICS, VECTOR
from fedsim.privacy.events import Event
from fedsim.server.aggregation.replies import Records, events_of, read_update

PIECE = 1 << 16  # numbers: 512 KiB of float64


@dataclass
class Total:
    """A weighted sum of updates, and the failures among the replies.

    Attributes:
        records: Of each record of arrays the sum, float64, by record and name: of weight times array, but of an algorithm's
            field, which counts the same for all clients, of the arrays themselves.
        metrics: Sum of weight times metric, by name.
        weight: Sum of the weights.
        examples: Sum of the clients' numbers of examples.
        nodes: Whose updates are in it.
        failures: Why others' are not, by node.
        events: What the clients released, whether or not it is in the sum.
    """

    records: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0
    examples: int = 0
    nodes: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def means(self) -> dict[str, float]:
        """Weighted means of the metrics, by name."""
        return {name: value / self.weight for name, value in self.metrics.items()}

    def content(self, like: Expected) -> RecordDict:
        """Return the one reply that a linear strategy gets.

        `arrays` are the weighted means of the models, in the dtypes of `like` (of a counter, rounded); `metrics` the
        weighted means, and `num-examples` the sum.
        """
        arrays = {}
        for name, (_, dtype) in like.items():
            mean = self.records[ARRAYS][name] / self.weight
            arrays[name] = (np.rint(mean) if dtype.kind in "biu" else mean).astype(dtype)
        metrics: dict[str, Any] = {**self.means, "num-examples": self.examples}
        return RecordDict({ARRAYS: record_of(arrays), METRICS: MetricRecord(metrics)})


@dataclass(frozen=True)
class WeightedSum:
    """The fold of a linear strategy.

    Attributes:
        expected: What an update must be, by record.
        uniform: Whether all updates weigh 1, or as much as their numbers of examples.
        own: Reference of the run's mechanism, where it is a user's own.
    """

    expected: Records
    uniform: bool
    own: str = ""

    def add(self, total: Total | None, reply: Message) -> Total:
        """Add an update to the total, or note its failure."""
        total = Total() if total is None else total
        try:
            total.events += events_of(reply, self.own)
            update = read_update(reply, self.expected)
        except ValueError as error:
            total.failures[reply.metadata.src_node_id] = str(error)
            return total
        weight = 1.0 if self.uniform else float(update.metrics["num-examples"])
        for record, arrays in update.records.items():
            sums = total.records.setdefault(record, {})
            factor = weight if record in (ARRAYS, VECTOR) else 1.0
            for name, array in arrays.items():
                if total.nodes:
                    _add_product(sums[name], array, factor)
                else:
                    sums[name] = _product(array, factor)
        metrics = {name: weight * float(value) for name, value in update.metrics.items()}
        total.metrics = _sum_of_common(total.metrics, metrics) if total.nodes else metrics
        total.weight += weight
        total.examples += int(update.metrics["num-examples"])
        total.nodes.append(reply.metadata.src_node_id)
        return total

    def merge(self, left: Total, right: Total) -> Total:
        """Return the total of two, in the memory of the left one."""
        failures, events = left.failures | right.failures, left.events + right.events
        if left.nodes and right.nodes:
            for record, arrays in left.records.items():
                for name, array in arrays.items():
                    array += right.records[record][name]
            left.metrics = _sum_of_common(left.metrics, right.metrics)
            left.weight += right.weight
            left.examples += right.examples
            left.nodes += right.nodes
        elif right.nodes:
            left = right
        left.failures, left.events = failures, events
        return left


def _product(array: NDArray[Any], weight: float) -> NDArray[np.float64]:
    """Return `weight * array`, a new array in C's order; with uniform weights it is the array, to the last bit."""
    product = array.astype(np.float64, order="C")
    if weight != 1.0:
        product *= weight
    return product


def _add_product(total: NDArray[np.float64], array: NDArray[Any], weight: float) -> None:
    """Add `weight * array` to a total, a piece at a time, so that what is between stays in the cache."""
    if weight == 1.0:  # the array is the product
        np.add(total, array, out=total)
        return
    flat_total, flat_array = total.reshape(-1), array.reshape(-1)
    for start in range(0, flat_array.size, PIECE):
        flat_total[start : start + PIECE] += _product(flat_array[start : start + PIECE], weight)


def _sum_of_common(left: dict[str, float], right: dict[str, float]) -> dict[str, float]:
    """Add metrics; one that not all clients report has no mean, and is left out."""
    return {name: value + right[name] for name, value in left.items() if name in right}
