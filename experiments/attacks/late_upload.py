"""A server declares a slow client dead, and its upload arrives later.

With pairwise masks only, the survivors reveal the seeds that they share with the dead client, so that its half of the
masks can be cancelled in their sum. When the upload arrives, or if the server had it all along, all of its masks are
known.

Ours: each upload is also masked by its client's own seed, of which shares are given only for clients that are alive.
A client is dead or alive to all, so the server never has both.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedsim.experiments.attacks import sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.privacy.secagg.shamir import combine_key
from fedsim.privacy.secagg.spec import Stage
from fedsim.privacy.secagg.topology import Adversary
from fedsim.privacy.secagg.wire import bitmap
from fedsim.streams import numpy_stream

CONTROL = "pairwise masks alone, 5 clients"
CLIENTS, VICTIM, DIMENSION = 5, 2, 20


def mask(seed: bytes) -> NDArray[np.uint32]:
    """Return the mask of a 32-byte seed."""
    stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(4 * DIMENSION)), np.uint32)


def control() -> Finding:
    """Let the victim's upload arrive after the others have revealed the seeds that they share with it."""
    vectors = [numpy_stream(0, "late", client=c).integers(0, 2**16, DIMENSION) for c in range(CLIENTS)]
    private = [X25519PrivateKey.generate() for _ in range(CLIENTS)]

    def shared(one: int, other: int) -> bytes:
        return private[one].exchange(private[other].public_key())

    def upload(client: int) -> NDArray[np.uint32]:
        total = vectors[client].astype(np.uint32)
        for other in range(CLIENTS):
            if other != client:
                total += mask(shared(client, other)) * np.uint32(1 if client < other else 2**32 - 1)
        return total

    survivors = [client for client in range(CLIENTS) if client != VICTIM]
    told = {client: shared(client, VICTIM) for client in survivors}  # seeds revealed by each
    total = sum((upload(client) for client in survivors), np.zeros(DIMENSION, np.uint32))
    for client, seed in told.items():
        total -= mask(seed) * np.uint32(1 if client < VICTIM else 2**32 - 1)
    if not np.array_equal(total, sum(vectors[client] for client in survivors)):
        return Finding(False, "the survivors' own sum is wrong")
    late = upload(VICTIM)
    for client, seed in told.items():
        late -= mask(seed) * np.uint32(1 if client > VICTIM else 2**32 - 1)
    return recovery("the sum of the survivors, and the late client's vector", late, vectors[VICTIM], 0.0)


class Patient(sessions.Attacker):
    """Declares the victim dead, and keeps its upload."""

    def masks_key(self) -> bytes:
        """Return the private key behind the victim's masks with neighbours, from their shares."""
        return combine_key(self._shares[sessions.VICTIM])


def ours(adversary: Adversary) -> Finding:
    """Let the victim's upload arrive after its neighbours have given shares of its key; ask for the other secret."""

    def late(stage: Stage, client: int, reply: bytes) -> bytes | None:
        return None if (stage, client) == (Stage.UPLOAD, sessions.VICTIM) else reply

    server, clients = sessions.attacked(adversary, Patient)
    outcome = sessions.run(server, clients, in_transit=late)
    upload = outcome.replies[Stage.UPLOAD][sessions.VICTIM]
    left = server.without_pair_masks(sessions.VICTIM, upload, server.masks_key())
    sessions.ask(clients, Stage.UNMASK, bitmap(sessions.CLIENTS, len(sessions.CLIENTS)), outcome)
    vectors = left, clients[sessions.VICTIM].vector(sessions.MODEL)
    recovered, true = (server.spec.encoding.ring.centred(v)[: sessions.DIMENSION] for v in vectors)
    found = recovery("the late client's vector", recovered, true, 0.0)
    return found if found.succeeded else Finding(False, f"its own mask stays on: {outcome.refusal}")
