"""A server tells some clients that the victim lives, and others that it died.

Nobody is asked for both shares, but half of the neighbours give shares of the victim's seed and the other half
shares of its private key. With a threshold of half the neighbours, both halves are enough.

Ours: semi-honest mode has no defence, and says so. In malicious-server mode all clients sign the set of survivors
that they were told, and see a threshold of signatures over one set before they hand over anything; of a threshold
above half of the neighbours and the corrupt ones there aren't two.
"""

from __future__ import annotations

from flwr.common.secure_aggregation.secaggplus_constants import Key

from experiments.attacks import flower
from experiments.attacks.finding import Finding, recovery

CONTROL = f"{flower.FLOWER}, 6 clients, threshold 3"


def control() -> Finding:
    """Let Flower's server tell three clients one thing and three the other."""
    told_dead = {101, 105, 106}

    def lie(node: int, fields: flower.Fields) -> flower.Fields:
        if node not in told_dead:
            return {}
        others = [other for other in flower.NODES if other != flower.VICTIM]
        return {Key.ACTIVE_NODE_ID_LIST: others, Key.DEAD_NODE_ID_LIST: [flower.VICTIM]}

    cohort = flower.cohort()
    outcome = cohort.round(flower.MODEL, tamper=flower.at(unmask=lie))
    seed, private = flower.handed_over(outcome, flower.VICTIM)
    keys = flower.mask_keys(outcome, flower.VICTIM, private)
    weight, update = flower.opened(outcome, flower.VICTIM, seed, keys)
    what = f"3 shares of each secret; the victim's weight {weight:.3f} and its update"
    return recovery(what, update, flower.updates()[flower.VICTIM].vector, flower.TOLERANCE)
