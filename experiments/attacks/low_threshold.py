"""A server sets a threshold so low that two colluding clients can open any upload.

The clients accept the server's threshold. With 2 of 6, two colluding clients have shares of both of the victim's
secrets as soon as all have shared theirs, without any lie.

Ours: a client computes the threshold from its own assumptions (most corrupt neighbours, kind of server) and refuses
any other.
"""

from __future__ import annotations

from dataclasses import replace

from flwr.common.secure_aggregation.crypto.shamir import combine_shares

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.privacy.secagg.topology import Adversary

CONTROL = f"{flower.FLOWER}, 6 clients, threshold 2"


def control() -> Finding:
    """Run an honest round, after which two clients reveal their shares."""
    cohort = flower.cohort(reconstruction_threshold=2)
    outcome = cohort.round(flower.MODEL)
    told = [flower.remembered(cohort, colluder) for colluder in (101, 106)]
    seed, private = (
        combine_shares([dict(zip(t[f"{name}:K"], t[f"{name}:V"], strict=True))[flower.VICTIM] for t in told])
        for name in ("rd_seed_share_dict", "sk1_share_dict")
    )
    keys = flower.mask_keys(outcome, flower.VICTIM, private)
    weight, update = flower.opened(outcome, flower.VICTIM, seed, keys)
    what = f"two of six collude; the victim's weight {weight:.3f} and its update"
    return recovery(what, update, flower.updates()[flower.VICTIM].vector, flower.TOLERANCE)


def ours(adversary: Adversary) -> Finding:
    """Invite to a round with a threshold of one."""
    server, clients = sessions.attacked(
        adversary, sessions.Attacker, change=lambda spec: replace(spec, threshold=1)
    )
    outcome = sessions.run(server, clients)
    if len(outcome.refused) < len(clients):
        return Finding(True, "clients accept a threshold of one")
    return sessions.refused(outcome)
