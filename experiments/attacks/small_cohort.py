"""A server invites the victim and one client that colludes with it.

The colluding client subtracts its own update from the sum of two.

Ours: a client refuses a cohort below its configured minimum, and at each stage fewer survivors than the threshold.
"""

from __future__ import annotations

from dataclasses import replace

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.topology import Adversary

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


def ours(adversary: Adversary) -> Finding:
    """Invite the victim and one more."""
    rule, invited = sessions.policy(adversary), (0, sessions.VICTIM)
    two = replace(sessions.spec_of(rule), clients=2, degree=1, threshold=2, least=2)
    server = ServerSession(two, invited, registry=rule.registry)
    outcome = sessions.run(server, sessions.parties(rule, sessions.updates()))
    if len(outcome.refused) < len(invited):
        return Finding(True, "the victim accepts a cohort of two")
    return sessions.refused(outcome)
