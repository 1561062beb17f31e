"""Bytes that rounds of ideal secure aggregation would have sent with the real protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedsim.experiment import Experiment

# As long as in the messages of a simulation's rounds.
RUN, SESSION, TASK = "0", "0" * 64, "0" * 64


def protocol_bytes(
    experiment: Experiment, manifest: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], numbers: int
) -> int | None:
    """Return the bytes of the real protocol in all rounds, both ways, by its cost model (`fedsim.privacy.secagg.costs`).

    Failed clients are assumed lost before their uploads.

    Args:
        experiment: Of the run, with `[privacy.secagg]`.
        manifest: Has the largest weight that the run's parties agreed on.
        rows: The rounds.
        numbers: Of an update.

    Returns:
        The bytes, exact if no client failed; None: the manifest or the rows lack the values.
    """
    from fedsim.privacy.secagg.costs import round_costs
    from fedsim.secagg.setup import policy_of  # loads cryptography, which few comparisons need

    weight = manifest.get("secure-aggregation", {}).get("max-weight")
    ideal = None if weight is None else policy_of(experiment, numbers, np.full(1, weight, np.int64))
    if ideal is None or not all("clients" in row for row in rows):
        return None
    policy = replace(ideal, mode="real")
    total = 0.0
    rounds = Counter((int(row["clients"]), int(row["failures"])) for row in rows)
    for (came, lost), count in rounds.items():
        try:
            spec = policy.spec(run=RUN, round_=1, session=SESSION, clients=came + lost, task=TASK)
        except ValueError:  # there is no such round
            continue
        total += count * round_costs(spec, dropped=min(lost, came + lost - 1)).server.bytes
    return round(total)
