"""A server that has all uploads unmasks the sum of the victim's and a colluding client's.

It declares all others dead. Whatever the threshold of secrets, clients must also require a minimum number of clients
in the sum; Flower's require only the threshold, which the server chooses.

Ours: a client refuses a list of survivors below the round's minimum, which it computes itself: all except the assumed
dropouts on a k-regular graph, the threshold on the complete one.
"""

from __future__ import annotations

from collections.abc import Set

from flwr.common.secure_aggregation.secaggplus_constants import Key

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.privacy.secagg.topology import Adversary

CONTROL = f"{flower.FLOWER}, 6 clients, threshold 2"
COLLUDER = 101


def control() -> Finding:
    """Let Flower's server declare four of six clients dead that have uploaded."""
    alive = [COLLUDER, flower.VICTIM]
    dead = [node for node in flower.NODES if node not in alive]

    def four_dead(_: int, fields: flower.Fields) -> flower.Fields:
        return {Key.ACTIVE_NODE_ID_LIST: alive, Key.DEAD_NODE_ID_LIST: dead}

    outcome = flower.cohort(reconstruction_threshold=2).round(
        flower.MODEL, tamper=flower.at(unmask=four_dead)
    )
    seeds = {node: flower.handed_over(outcome, node)[0] for node in alive}
    pairs = {node: flower.mask_keys(outcome, node, flower.handed_over(outcome, node)[1]) for node in dead}
    # The mask between the two cancels in their sum; those with dead clients follow from these clients' keys.
    parts = []
    for node in alive:
        known = [(seeds[node], -1)] + [(pairs[d][node], -1 if node > d else 1) for d in dead]
        parts.append(flower.unmasked(outcome.masked(node), known))
    total = [(one + other) % flower.MODULUS for one, other in zip(*parts, strict=True)]
    clients = flower.updates()
    mine, theirs = clients[COLLUDER], clients[flower.VICTIM]
    weights, sums = flower.plain(total, clients=2)
    update = (sums * weights - mine.examples * mine.vector) / (weights - mine.examples)
    what = f"{len(outcome.client_errors)} clients object; less the colluder's own, the victim's update"
    return recovery(what, update, theirs.vector, 2 * flower.TOLERANCE)


class Undertaker(sessions.Attacker):
    """Declares the second half of the roster dead."""

    def said_alive(self, client: int) -> Set[int]:
        """Return the list of uploads for a client."""
        return set(self.roster[: len(self.roster) // 2])


def ours(adversary: Adversary) -> Finding:
    """Declare half of the clients dead."""
    server, clients = sessions.attacked(adversary, Undertaker)
    outcome = sessions.run(server, clients)
    if len(outcome.refused) < len(clients):
        return Finding(True, "clients help to unmask a half")
    return sessions.refused(outcome)
