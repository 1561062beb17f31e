"""A sum that is larger than the modulus is wrong, and nobody says so.

Flower compares the modulus with the number of shares, not with the number of clients or their weights.

Ours: the modulus follows from the cohort, the largest weight and the bits of a coordinate, and can't wrap; where
there is none large enough the configuration is refused.
"""

from __future__ import annotations

import numpy as np

from experiments.attacks import flower
from experiments.attacks.finding import Finding
from experiments.benchmarks.flower_secagg import Cohort, Update

CONTROL = f"{flower.FLOWER}, modulus 2^24, 2^22 levels"


def control() -> Finding:
    """Average six vectors of 4.0."""
    clients = {node: Update(np.full(flower.DIMENSION, 4.0), 1000) for node in flower.NODES}
    outcome = Cohort(clients, modulus_range=2**24).round(flower.MODEL)
    if outcome.mean is None:
        return Finding(False, f"halted: {outcome.log}")
    wrong = float(np.abs(outcome.mean - 4.0).max()) > 1
    what = f"the mean of six times 4.0 is {outcome.mean[0]:.4f}; warnings: {len(outcome.log)}"
    return Finding(wrong, what, outcome.mean.tolist(), [4.0] * flower.DIMENSION)
