"""One client that leaves early stops the whole round.

Flower's server counts a client as dead once it stops answering, and later asks its neighbours for shares that it
never handed out; all of them fail. So delaying one client's first message stops the round.

Ours: no masks involve a client that left before it shared its secrets, and no shares of it are requested. At each
stage the round goes on with the remaining clients, down to the threshold.
"""

from __future__ import annotations

import numpy as np

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding
from fedsim.experiments.benchmarks.flower_secagg import SETUP, SHARE_KEYS
from fedsim.privacy.secagg.spec import Stage
from fedsim.privacy.secagg.topology import Adversary

CONTROL = f"{flower.FLOWER}, threshold 3 of 6"


def control() -> Finding:
    """Lose one of six clients at each of the first two stages."""
    outcomes = [
        flower.cohort().round(flower.MODEL, lost={flower.VICTIM: stage}) for stage in (SETUP, SHARE_KEYS)
    ]
    failed = {text for outcome in outcomes for _, _, text in outcome.client_errors}
    halted = all(outcome.halted for outcome in outcomes)
    return Finding(halted, f"1 of 6 lost: the round halts; the others raise {', '.join(sorted(failed))}")


def ours(adversary: Adversary) -> Finding:
    """Lose one of twenty clients at each stage in turn."""
    updates = sessions.updates()
    for lost in sessions.spec_of(sessions.policy(adversary)).stages:

        def gone(stage: Stage, client: int, reply: bytes, lost: Stage = lost) -> bytes | None:
            late = list(Stage).index(stage) >= list(Stage).index(lost)
            return None if late and client == sessions.VICTIM else reply

        server, clients = sessions.attacked(adversary, sessions.Attacker)
        outcome = sessions.run(server, clients, in_transit=gone)
        if outcome.failed or outcome.refused:
            return Finding(True, f"lost in stage {lost.value!r}: {outcome.failed or outcome.refusal}")
        there = [updates[client] for client in sorted(server.uploaded)]
        if np.abs(sessions.mean_of(server).update - sessions.weighted_mean(there)).max() > sessions.TOLERANCE:
            return Finding(True, f"lost in stage {lost.value!r}: the mean of the others is wrong")
    return Finding(False, "one lost at any stage: the mean of those that uploaded")
