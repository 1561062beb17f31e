"""A sum that is larger than the modulus is silently wrong.

Flower compares the modulus with the number of shares, not with the number of clients or their weights.

Ours: the modulus follows from the cohort, the largest weight and the bits of a coordinate, so sums can't wrap; if
none is large enough the configuration is refused.
"""

from __future__ import annotations

import numpy as np

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding
from fedsim.experiments.benchmarks.flower_secagg import Cohort, Update
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.topology import Adversary

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


def ours(adversary: Adversary) -> Finding:
    """Average twenty vectors at the clip bound; ask for more bits than there are."""
    rule = sessions.policy(adversary, clip=4.0)
    clients = {client: Update(np.full(sessions.DIMENSION, 4.0), 200) for client in sessions.CLIENTS}
    server = ServerSession(sessions.spec_of(rule), sessions.CLIENTS, registry=rule.registry)
    sessions.run(server, sessions.parties(rule, clients))
    mean = sessions.mean_of(server).update
    if np.abs(mean - 4.0).max() > sessions.TOLERANCE:
        return Finding(True, "the mean is wrong", mean.tolist(), [4.0] * sessions.DIMENSION)
    try:
        Encoding(1, cohort=2**32, input_bits=32)
    except ValueError as error:
        return Finding(False, f"the mean of twenty times 4.0 is {mean[0]:.4f}; {error}")
    return Finding(True, "a ring too small is accepted")
