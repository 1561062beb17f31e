"""Aggregation for linear strategies, which need only the weighted mean of a cohort's updates, in float64.

Sums go over a fixed tree (`fedsim.server.grids`), so the result has the same bits whatever the order of replies and the
engine. A `FoldingGrid` sums replies in its workers: traffic and memory do not grow with the cohort.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedsim.algorithms.protocol import Fields
from fedsim.arrays import record_of
from fedsim.layout import Expected, Layout
from fedsim.messages import ARRAYS, METRICS, VECTOR
from fedsim.privacy.halves import Sums
from fedsim.server.aggregation.replies import LATE, Records, read_update
from fedsim.server.aggregation.updates import Aggregator, Ask, Collected, NoUpdates, Updates

PIECE = 1 << 16  # numbers: 512 KiB of float64


@dataclass
class Total:
    """A weighted sum of updates, and the failures among the replies.

    Attributes:
        records: Sums, float64, by record and array: of weight times array, but for an algorithm's fields, which count
            the same for all clients, of the arrays.
        metrics: Sums of weight times metric, by name.
        nodes: Nodes with an update in the sum.
        failures: Reasons for failure of other nodes, by node.
        charged: Nodes whose replies have a content, in the sum or not: it may hold a release.
    """

    records: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0
    examples: int = 0
    nodes: list[int] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    charged: list[int] = field(default_factory=list)

    @property
    def means(self) -> dict[str, float]:
        """Weighted means of the metrics, by name."""
        return {name: value / self.weight for name, value in self.metrics.items()}

    def content(self, like: Expected) -> RecordDict:
        """Return a linear strategy's single reply.

        `arrays` are weighted means of the models, in the dtypes of `like` (integers are rounded). `metrics` are
        weighted means, but `num-examples` is the sum.
        """
        arrays = {}
        for name, (_, dtype) in like.items():
            mean = self.records[ARRAYS][name] / self.weight
            arrays[name] = (np.rint(mean) if dtype.kind in "biu" else mean).astype(dtype)
        metrics: dict[str, Any] = {**self.means, "num-examples": self.examples}
        return RecordDict({ARRAYS: record_of(arrays), METRICS: MetricRecord(metrics)})


@dataclass(frozen=True)
class WeightedSum:
    """The fold for a linear strategy.

    Attributes:
        expected: Required arrays of an update, by record.
        uniform: Whether each update has weight 1, else its number of examples.
        planned: The event (JSON) of the release of each node that releases its update.
    """

    expected: Records
    uniform: bool
    planned: Mapping[int, str] = field(default_factory=dict)

    def add(self, total: Total | None, reply: Message) -> Total:
        """Add an update to the total, or record its failure."""
        total = Total() if total is None else total
        node = reply.metadata.src_node_id
        if reply.has_content():
            total.charged.append(node)
        try:
            update = read_update(reply, self.expected, self.planned.get(node, ""))
        except ValueError as error:
            total.failures[node] = str(error)
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
        total.nodes.append(node)
        return total

    def merge(self, left: Total, right: Total) -> Total:
        """Return the sum of two totals, in the memory of the left one."""
        failures, charged = left.failures | right.failures, left.charged + right.charged
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
        left.failures, left.charged = failures, charged
        return left


class Summed(Updates):
    """The sum of a cohort's updates: of models and changes of fields, or of clipped differences."""

    def __init__(self, total: Total, layout: Layout, request: Message) -> None:
        self.count = len(total.nodes)
        self.reported, self.reported_sums = total.means, total.metrics
        self._total = total
        self._layout = layout
        self._request = request

    def messages(self) -> list[Message]:
        """Return one message with the weighted mean of the models."""
        self._check_clear()
        return [Message(self._total.content(self._layout.model), reply_to=self._request)]

    def changes(self) -> Fields:
        """Return the sums of the changes, divided by the count."""
        self._check_clear()
        return {
            field: {name: total / self.count for name, total in self._total.records[field].items()}
            for field in self._layout.fields
        }

    def sums(self) -> Sums:
        """Return the sum of the clipped differences, by the layout's names."""
        if VECTOR not in self._total.records:
            return super().sums()
        return self._layout.split(self._total.records[VECTOR][VECTOR])

    def _check_clear(self) -> None:
        if VECTOR in self._total.records:
            raise TypeError("a sum of clipped differences must be noised first")


@dataclass(frozen=True, kw_only=True)
class Folded(Aggregator):
    """Sums updates in the engine, `clipped` differences or models; `uniform` as `WeightedSum`."""

    uniform: bool
    clipped: bool

    def collect(self, ask: Ask) -> Collected:
        """Train the cohort. As `Aggregator` says."""
        ask.charge(ask.grid.clients)
        expected = ask.layout.vector if self.clipped else ask.layout.records
        planned = ask.planned_by_node
        texts = {node: event.dumps() for node, event in planned.items()}
        fold = WeightedSum(expected, uniform=self.uniform, planned=texts)
        total = ask.grid.send_and_fold(ask.requests, fold, timeout=ask.timeout) or Total()
        arrived = {ask.grid.client(node) for node in total.nodes}
        failures = {ask.grid.client(node): why for node, why in total.failures.items()}
        return Collected(
            Summed(total, ask.layout, ask.requests[0]) if arrived else NoUpdates(ask.layout),
            {client: failures.get(client, LATE) for client in ask.grid.clients if client not in arrived},
            [planned[node] for node in total.charged if node in planned],
        )


def _product(array: NDArray[Any], weight: float) -> NDArray[np.float64]:
    """Return `weight * array`, a new array in C order."""
    product = array.astype(np.float64, order="C")
    if weight != 1.0:
        product *= weight
    return product


def _add_product(total: NDArray[np.float64], array: NDArray[Any], weight: float) -> None:
    """Add `weight * array` to a total in pieces, so that intermediate results stay in the cache."""
    if weight == 1.0:  # the array is the product
        np.add(total, array, out=total)
        return
    flat_total, flat_array = total.reshape(-1), array.reshape(-1)
    for start in range(0, flat_array.size, PIECE):
        flat_total[start : start + PIECE] += _product(flat_array[start : start + PIECE], weight)


def _sum_of_common(left: dict[str, float], right: dict[str, float]) -> dict[str, float]:
    """Add metrics; those that not all clients report are left out."""
    return {name: value + right[name] for name, value in left.items() if name in right}
