"""A server runs a second round with the messages of the first.

If a client's keys outlive a round and the masks don't depend on the round, the same keys give the same masks, and the
difference of a client's two uploads is the difference of its two updates.

Ours: keys are fresh in each session, and everything derived from them is bound to the session's id: the hash of the
round's specification, of the model and of all keys. Replayed messages of another session fail to decrypt, or to
verify.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from fedsim.experiments.attacks import sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.experiments.attacks.late_upload import DIMENSION, mask
from fedsim.privacy.secagg.spec import Stage
from fedsim.privacy.secagg.topology import Adversary
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


class Replaying(sessions.Attacker):
    """Sends what clients sealed for each other in an earlier round."""

    def __init__(self, *args: Any, earlier: sessions.Attacker, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._earlier = earlier

    def requests(self) -> dict[int, bytes]:
        """Return the requests, with the earlier shares for clients that are neighbours again."""
        if self.stage is Stage.UPLOAD:
            for receiver, sent in self._sealed.items():
                earlier = self._earlier._sealed[receiver]
                sent.update({sender: earlier[sender] for sender in sent.keys() & earlier.keys()})
        return super().requests()


def ours(adversary: Adversary) -> Finding:
    """Compare the victim's uploads of two rounds; in a third, replay the shares of the first."""
    first, opening = _play(adversary, sessions.Attacker, 1)
    second, again = _play(adversary, sessions.Attacker, 2)
    uploads = [
        server.unpacked(outcome.replies[Stage.UPLOAD][sessions.VICTIM])
        for server, outcome in ((first, opening), (second, again))
    ]
    if not first.spec.encoding.ring.centred(uploads[1] - uploads[0]).any():  # the vector is the same in both
        return Finding(True, "the masks of two rounds are the same")
    outcome = _play(adversary, lambda *a, **k: Replaying(*a, earlier=first, **k), 3)[1]
    if not outcome.failed:
        return Finding(True, "clients take shares of another round")
    return sessions.refused(outcome)


def _play(
    adversary: Adversary, kind: Callable[..., sessions.Attacker], number: int
) -> tuple[sessions.Attacker, sessions.Outcome]:
    """Play a round of a number."""
    server, clients = sessions.attacked(
        adversary, kind, lambda spec: replace(spec, round=number, session=f"{number:032x}")
    )
    return server, sessions.run(server, clients)
