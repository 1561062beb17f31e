"""Someone on the way flips one bit of a masked upload.

What is masked looks random, so that nothing can be seen in it, and the sum is wrong by as much as the bit weighs.

Ours: every reply is signed over all that its client has received and sent, and the server refuses it; the client
counts as lost. (Integrity against the server itself is not claimed.)
"""

from __future__ import annotations

import numpy as np
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.secaggplus_constants import Key

from experiments.attacks import flower
from experiments.attacks.finding import Finding

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
    what = f"a bit flipped in an upload: the mean is wrong by {error:.2f}, and nobody says so"
    return Finding(error > 0.1, what, outcome.mean.tolist(), true.tolist())
