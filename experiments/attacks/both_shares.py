"""A server asks for both secrets of one client.

A client's upload has two kinds of masks: those shared with its neighbours, and its own. The neighbours help to remove
exactly one kind: the shared ones if the client has dropped out, its own if not. The server lists the victim as alive
and as dead; Flower's clients never compare the two lists, and hand over a share of each secret. All masks come off.

Ours: a request lists only the dead, and is answered with one share for each neighbour: asking for both is impossible.
(Telling some clients that it is alive and others that it is dead is possible: `dead_lists`.)
"""

from __future__ import annotations

from flwr.common.secure_aggregation.secaggplus_constants import Key

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.privacy.secagg.spec import Stage
from fedsim.privacy.secagg.topology import Adversary
from fedsim.privacy.secagg.wire import bitmap

CONTROL = flower.FLOWER


def control() -> Finding:
    """Let Flower's server put the victim into both lists."""

    def both(_: int, fields: flower.Fields) -> flower.Fields:
        return {Key.DEAD_NODE_ID_LIST: [flower.VICTIM]}

    cohort = flower.cohort()
    outcome = cohort.round(flower.MODEL, tamper=flower.at(unmask=both))
    seed, private = flower.handed_over(outcome, flower.VICTIM)
    weight, update = flower.opened(
        outcome, flower.VICTIM, seed, flower.mask_keys(outcome, flower.VICTIM, private)
    )
    what = f"{len(outcome.client_errors)} clients object; the victim's weight {weight:.3f} and its update"
    return recovery(what, update, flower.updates()[flower.VICTIM].vector, flower.TOLERANCE)


def ours(adversary: Adversary) -> Finding:
    """Ask all clients to unmask, and then again with the victim as dead."""
    server, clients = sessions.attacked(adversary, sessions.Attacker)
    outcome = sessions.run(server, clients)
    others = bitmap(set(sessions.CLIENTS) - {sessions.VICTIM}, len(sessions.CLIENTS))
    sessions.ask(clients, Stage.UNMASK, others, outcome)
    if len(outcome.refused) < len(clients):
        return Finding(True, "clients give a second share")
    return sessions.refused(outcome)
