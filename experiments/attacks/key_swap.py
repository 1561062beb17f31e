"""A server replaces the neighbours' public keys with its own.

The victim agrees on all its masks with the server, and encrypts the shares of its own seed for the server. Its upload
alone then suffices. The other clients are told that the victim has left, and notice nothing.

Ours: semi-honest mode has no defence, as documented. In malicious-server mode each client signs its keys with an
identity that the others did not get from the server.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import (
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes, public_key_to_bytes
from numpy.typing import NDArray

from fedsim.experiments.attacks import flower, sessions
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.experiments.benchmarks.flower_secagg import SETUP, SHARE_KEYS
from fedsim.privacy.secagg.primitives import SigningKey
from fedsim.privacy.secagg.server import ServerSession
from fedsim.privacy.secagg.topology import Adversary

CONTROL = flower.FLOWER
OTHERS = [node for node in flower.NODES if node != flower.VICTIM]


def control() -> Finding:
    """Let Flower's server be the man in the middle between the victim and all others."""
    secret = {node: [generate_key_pairs()[0] for _ in range(2)] for node in OTHERS}
    private = {node: [private_key_to_bytes(key) for key in keys] for node, keys in secret.items()}
    public = {node: [public_key_to_bytes(key.public_key()) for key in keys] for node, keys in secret.items()}
    channel: dict[int, bytes] = {}

    def own_keys(node: int, fields: flower.Fields) -> flower.Fields:
        if node != flower.VICTIM:
            return {}
        victims = fields[str(node)][1]
        channel.update({other: flower.pair_key(private[other][1], victims) for other in OTHERS})
        return {str(other): public[other] for other in OTHERS}

    def own_shares(node: int, fields: flower.Fields) -> flower.Fields:
        pairs = dict(zip(fields[Key.SOURCE_LIST], fields[Key.CIPHERTEXT_LIST], strict=True))
        if node == flower.VICTIM:
            texts = {
                other: share_keys_plaintext_concat(other, node, bytes(52), bytes(52)) for other in OTHERS
            }
            pairs = {other: encrypt(channel[other], text) for other, text in texts.items()}
        else:
            del pairs[flower.VICTIM]
        return {Key.SOURCE_LIST: list(pairs), Key.CIPHERTEXT_LIST: list(pairs.values())}

    def without(node: int, fields: flower.Fields) -> flower.Fields:
        return {} if node == flower.VICTIM else {Key.ACTIVE_NODE_ID_LIST: OTHERS}

    tamper = flower.at(share_keys=own_keys, collect_masked_vectors=own_shares, unmask=without)
    outcome = flower.cohort().round(flower.MODEL, tamper=tamper)
    sent = outcome.reply(SHARE_KEYS, flower.VICTIM)
    named = zip(sent[Key.DESTINATION_LIST], sent[Key.CIPHERTEXT_LIST], strict=True)
    seed = combine_shares(
        [share_keys_plaintext_separate(decrypt(channel[other], text))[2] for other, text in named]
    )
    victims = outcome.reply(SETUP, flower.VICTIM)[Key.PUBLIC_KEY_1]
    keys = {other: flower.pair_key(private[other][0], victims) for other in OTHERS}
    weight, update = flower.opened(outcome, flower.VICTIM, seed, keys)
    what = f"{len(outcome.client_errors)} clients object; the victim's weight {weight:.3f} and its update"
    return recovery(what, update, flower.updates()[flower.VICTIM].vector, flower.TOLERANCE)


class Puppet(sessions.Party):
    """A client run by the server: its keys are the server's, and its vector is zero."""

    def vector(self, model: sessions.Model) -> NDArray[Any]:
        """Return zeros."""
        return self.policy.encoding.ring.zeros(self.policy.encoding.length)


def ours(adversary: Adversary) -> Finding:
    """Impersonate all of the victim's neighbours; tell the others that it has left."""
    rule, update = sessions.policy(adversary), sessions.updates()[sessions.VICTIM]
    keys = {client: bytes([client]) * 32 for client in sessions.CLIENTS if client != sessions.VICTIM}
    swapped = {**rule.registry, **{client: SigningKey(key).public for client, key in keys.items()}}
    theirs = replace(rule, registry=swapped)
    puppets = {client: Puppet(client, theirs, update, private=key) for client, key in keys.items()}
    clients = puppets | {sessions.VICTIM: sessions.Party(sessions.VICTIM, rule, update)}
    server = ServerSession(sessions.spec_of(rule), sessions.CLIENTS, registry=swapped)
    outcome = sessions.run(server, clients)
    if outcome.refused:
        return sessions.refused(outcome)
    found = rule.encoding.decode(server.total(), 1)
    what = f"the victim's weight {found.weight} and its update, from a sum of it alone"
    return recovery(what, found.update, update.vector, sessions.TOLERANCE)
