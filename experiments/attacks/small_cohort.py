"""A server invites the victim and one client that colludes with it.

The sum of two is protected from who has neither; the colluding client subtracts its own.

Ours: a client refuses a cohort below the minimum that it has been configured with, and at each stage fewer
survivors than the threshold.
"""

from __future__ import annotations

from experiments.attacks import flower
from experiments.attacks.finding import Finding, recovery

CONTROL = f"{flower.FLOWER}, 2 clients"


def control() -> Finding:
    """Run an honest round of Flower's with two clients."""
    clients = flower.updates()
    colluder, victim = clients[101], clients[flower.VICTIM]
    outcome = flower.cohort().round(flower.MODEL, among=[101, flower.VICTIM])
    if outcome.mean is None:
        return Finding(False, f"halted: {outcome.log}")
    total = outcome.mean * (colluder.examples + victim.examples) - colluder.examples * colluder.vector
    what = f"{len(outcome.client_errors)} clients object to a cohort of two; the victim's update"
    return recovery(what, total / victim.examples, victim.vector, flower.TOLERANCE)
