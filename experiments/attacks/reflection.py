"""A server sends a client its own ciphertext back as a neighbour's.

Two clients have one key for both directions. If the ciphertext does not bind sender and receiver, the client takes
its own share for its neighbour's; later the neighbour's secret is reconstructed with a wrong share, and the sum is
wrong.

Ours: sender, receiver and session are authenticated with each ciphertext, and each direction has its own nonce.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedsim.experiments.attacks import sessions
from fedsim.experiments.attacks.finding import Finding
from fedsim.privacy.secagg.spec import Stage
from fedsim.privacy.secagg.topology import Adversary

CONTROL = "AES-GCM that authenticates no names"


def control() -> Finding:
    """Reflect a share."""
    one, other = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    nonce, share = os.urandom(12), os.urandom(33)
    sent = AESGCM(one.exchange(other.public_key())).encrypt(nonce, share, None)
    try:
        taken = AESGCM(one.exchange(other.public_key())).decrypt(nonce, sent, None)
    except InvalidTag:
        return Finding(False, "the client doesn't decrypt its own ciphertext")
    return Finding(
        taken == share, "the client takes its own share for its neighbour's", list(taken), list(share)
    )


class Mirror(sessions.Attacker):
    """Sends each client the shares that it has sealed itself, as its neighbours'."""

    def requests(self) -> dict[int, bytes]:
        """Return the requests with senders and receivers of all shares exchanged."""
        if self.stage is Stage.UPLOAD:
            self._sealed = {
                sender: {receiver: self._sealed[receiver][sender] for receiver in self._neighbours[sender]}
                for sender in self._sealed
            }
        return super().requests()


def ours(adversary: Adversary) -> Finding:
    """Reflect all shares."""
    server, clients = sessions.attacked(adversary, Mirror)
    outcome = sessions.run(server, clients)
    if len(outcome.refused) < len(clients):
        return Finding(True, "clients take their own shares for their neighbours'")
    return sessions.refused(outcome)
