"""An attacker on the network flips one bit of a masked upload.

Masked vectors look random, so the change goes unnoticed, and the sum is wrong by the bit's value.

Ours: every reply is signed over all of its client's messages, and the server refuses an altered one; the client
counts as lost. (Integrity against the server itself is not claimed.)
"""

from __future__ import annotations

import numpy as np
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.secaggplus_constants import Key

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding
from fedsim.privacy.secagg.spec import Stage
from fedsim.privacy.secagg.topology import Adversary

CONTROL = flower.FLOWER
BIT = 23


def control() -> Finding:
    """Flip a bit of the first coordinate of the victim's upload."""

    def flip(node: int, fields: flower.Fields) -> flower.Fields:
        if node != flower.VICTIM:
            return {}
        weight, vector = fields[Key.MASKED_PARAMETERS]
        changed = bytes_to_ndarray(vector)
        changed[0] ^= 1 << BIT
        return {Key.MASKED_PARAMETERS: [weight, ndarray_to_bytes(changed)]}

    cohort, clients = flower.cohort(), flower.updates().values()
    outcome = cohort.round(flower.MODEL, in_transit=flower.at(collect_masked_vectors=flip))
    if outcome.mean is None:
        return Finding(False, f"halted: {outcome.log}")
    true = np.average([c.vector for c in clients], axis=0, weights=[c.examples for c in clients])
    error = float(np.abs(outcome.mean - true).max())
    what = f"a bit flipped in an upload: the mean is wrong by {error:.2f}, and no error is raised"
    return Finding(error > 0.1, what, outcome.mean.tolist(), true.tolist())


def ours(adversary: Adversary) -> Finding:
    """Flip the same bit."""

    def flip(stage: Stage, client: int, reply: bytes) -> bytes:
        if (stage, client) != (Stage.UPLOAD, sessions.VICTIM):
            return reply
        return bytes([reply[0], reply[1], reply[2] ^ 1 << BIT - 16]) + reply[3:]

    server, clients = sessions.attacked(adversary, sessions.Attacker)
    outcome = sessions.run(server, clients, in_transit=flip)
    others = [update for client, update in sessions.updates().items() if client in server.uploaded]
    error = np.abs(sessions.mean_of(server).update - sessions.weighted_mean(others)).max()
    if error > sessions.TOLERANCE or not outcome.rejected:
        return Finding(True, f"the mean is wrong by {error:.2f}")
    return Finding(False, f"the server refuses the upload: {outcome.rejected[0][2]}; the mean of the others")
