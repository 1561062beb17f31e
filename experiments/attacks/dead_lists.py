"""A server tells some clients that the victim is alive, and others that it is dead.

No client is asked for both shares, but half of the neighbours give shares of the victim's seed and the other half
shares of its private key. With a threshold of half the neighbours, both halves suffice.

Ours: semi-honest mode has no defence on a k-regular graph, as documented. In malicious-server mode all clients sign
the list of survivors that they received, and require a threshold of signatures of one list before they reveal shares;
there are too few neighbours for two such thresholds.
"""

from __future__ import annotations

from collections.abc import Set

from flwr.common.secure_aggregation.secaggplus_constants import Key

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.privacy.secagg.shamir import combine_key
from fedsim.privacy.secagg.spec import Stage
from fedsim.privacy.secagg.topology import Adversary

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


class TwoFaced(sessions.Attacker):
    """Tells every second neighbour of the victim that it is dead."""

    @property
    def told_dead(self) -> set[int]:
        """The clients that are told so."""
        return set(sorted(self._neighbours[sessions.VICTIM])[::2])

    def said_alive(self, client: int) -> Set[int]:
        """Return the list of uploads for a client."""
        return self.uploaded - {sessions.VICTIM} if client in self.told_dead else self.uploaded

    def secrets(self) -> tuple[bytes, bytes] | None:
        """Return the victim's secrets, of its own mask and of its pair masks; None without enough shares."""
        given = self._shares.get(sessions.VICTIM, {})
        lied_to = {self._roster.index(client) + 1 for client in self.told_dead}
        own = {point: share for point, share in given.items() if point not in lied_to}
        masks = {point: share for point, share in given.items() if point in lied_to}
        if min(len(own), len(masks)) < self.spec.threshold:
            return None
        return combine_key(own), combine_key(masks)


def ours(adversary: Adversary) -> Finding:
    """Tell half of the victim's neighbours that it is dead."""
    server, clients = sessions.attacked(adversary, TwoFaced)
    outcome = sessions.run(server, clients)
    if (secrets := server.secrets()) is None:
        return sessions.refused(outcome)
    found = server.opened(sessions.VICTIM, outcome.replies[Stage.UPLOAD][sessions.VICTIM], *secrets)
    what = f"shares of both secrets; the victim's weight {found.weight} and its update"
    return recovery(what, found.update, sessions.updates()[sessions.VICTIM].vector, sessions.TOLERANCE)
