"""One client that leaves early stops everybody's round.

Flower's server counts a client as dead from the moment it stops answering, and later asks its neighbours for
shares that it never handed out; all of them fail. So whoever can delay one client's first message stops the round.

Ours: a client that left before it shared its secrets is in nobody's masks, and nothing is asked about it. At each
stage the round goes on with who is left, down to the threshold.
"""

from __future__ import annotations

from experiments.attacks import flower
from experiments.attacks.finding import Finding
from experiments.benchmarks.flower_secagg import SETUP, SHARE_KEYS

CONTROL = f"{flower.FLOWER}, threshold 3 of 6"


def control() -> Finding:
    """Lose one of six clients at each of the first two stages."""
    outcomes = [
        flower.cohort().round(flower.MODEL, lost={flower.VICTIM: stage}) for stage in (SETUP, SHARE_KEYS)
    ]
    failed = {text for outcome in outcomes for _, _, text in outcome.client_errors}
    halted = all(outcome.halted for outcome in outcomes)
    return Finding(halted, f"1 of 6 lost: the round halts; the others raise {', '.join(sorted(failed))}")
