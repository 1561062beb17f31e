"""How the updates of a cohort become one: the weighted mean, as a sum over a fixed tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from server.replies import Update

BLOCK = 8  # clients summed one after another; blocks are then summed in pairs

Sums = dict[str, NDArray[np.float64]]


def fold(cohort: Sequence[int], updates: Mapping[int, Update], weights: Mapping[int, float]) -> RecordDict:
    """Return the content of the one reply that a linear strategy gets: the weighted mean of the updates.

    The tree is fixed by the cohort alone (its clients in order, blocks of `BLOCK`, then neighbouring blocks in
    pairs), so the order in which replies came, and who computed them, leave every bit as it is; a client that
    failed leaves its place empty. Sums are in float64.

    Args:
        cohort: The round's clients, in ascending order.
        updates: The updates that came, at least one.
        weights: What each update counts, above 0.

    Returns:
        `arrays` with the mean, in each array's own dtype; `metrics` with the mean of each metric, and
        `num-examples` the sum.
    """
    total = sum(weights[client] for client in cohort if client in updates)
    blocks = []
    for start in range(0, len(cohort), BLOCK):
        sums: Sums = {}
        for client in cohort[start : start + BLOCK]:
            if client in updates:
                _add(sums, updates[client], weights[client] / total)
        blocks.append(sums)
    mean = _sum_pairs(blocks)
    first = next(iter(updates.values()))
    arrays = {name: Array(_as(mean[name], like)) for name, like in first.arrays.items()}
    metrics: dict[str, Any] = {
        name: sum(weights[c] / total * float(updates[c].metrics[name]) for c in cohort if c in updates)
        for name in first.metrics
    }
    metrics["num-examples"] = sum(int(update.metrics["num-examples"]) for update in updates.values())
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})


def _add(sums: Sums, update: Update, share: float) -> None:
    for name, array in update.arrays.items():
        term = np.multiply(array, share, dtype=np.float64)
        if name in sums:
            sums[name] += term
        else:
            sums[name] = term


def _sum_pairs(blocks: list[Sums]) -> Sums:
    while len(blocks) > 1:
        pairs = [_merge(*blocks[i : i + 2]) for i in range(0, len(blocks), 2)]
        blocks = pairs
    return blocks[0]


def _merge(left: Sums, right: Sums | None = None) -> Sums:
    if not left or not right:
        return left or right or {}
    return {name: left[name] + right[name] for name in left}


def _as(mean: NDArray[np.float64], like: NDArray[Any]) -> NDArray[Any]:
    """Return a mean in the dtype of what was averaged; a mean of whole numbers (a counter) is rounded."""
    rounded = np.rint(mean) if like.dtype.kind in "biu" else mean
    return np.asarray(rounded).astype(like.dtype)
