"""A server runs a second round with the messages of the first.

Where the keys of a client outlive a round and nothing of the round goes into the masks, the same keys give the
same masks, and the difference of a client's two uploads is the difference of its two updates.

Ours: keys are fresh in each session, and all that is derived from them is bound to the session's id: the hash of
the round's specification, of the model and of everybody's keys. What is replayed from another session fails to
decrypt, or isn't what was signed.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from experiments.attacks.finding import Finding, recovery
from experiments.attacks.late_upload import DIMENSION, mask
from fedsim.streams import numpy_stream

CONTROL = "long-lived keys, masks bound to no round; 4 clients"
CLIENTS = 4


def control() -> Finding:
    """Collect the first client's uploads of two rounds."""
    private = [X25519PrivateKey.generate() for _ in range(CLIENTS)]
    own_seeds = [private[c].exchange(private[c].public_key()) for c in range(CLIENTS)]
    vectors = [numpy_stream(0, "replayed", round_=r).integers(0, 2**16, DIMENSION) for r in (1, 2)]

    def upload(vector: NDArray[np.int64]) -> NDArray[np.uint32]:
        total = vector.astype(np.uint32) + mask(own_seeds[0])
        for other in range(1, CLIENTS):
            total += mask(private[0].exchange(private[other].public_key()))
        return total

    first, second = (upload(vector) for vector in vectors)
    change = (second - first).astype(np.int32)
    return recovery("how the victim's vector changed between rounds", change, vectors[1] - vectors[0], 0.0)
