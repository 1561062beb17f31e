"""Who takes part: the public keys of the clients, and how a client learns those of its neighbours.

The roster is the clients in ascending order; its hash is a Merkle root, so that a client on a sparse graph can be
sure of its neighbours' keys without all others'. Session and roster determine the session's id, on which all keys
depend: clients that were shown different rosters, rounds or global models have no key in common.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from privacy.secagg import merkle
from privacy.secagg.choice import commitment_to, joint_seed
from privacy.secagg.graph import neighbours_of
from privacy.secagg.primitives import KEY, SIGNATURE, digest
from privacy.secagg.spec import RoundSpec, Stage
from privacy.secagg.topology import Adversary
from privacy.secagg.wire import ID, INDEX, Reader, id_bytes, index_bytes, must_ascend

KEYS = 3 * KEY  # bytes


@dataclass(frozen=True)
class Keys:
    """The public keys that a client has advertised: of its channel, of its masks, of its signatures.

    Attributes:
        commitment: To its part in the choice of the graph, where the clients choose it; else empty.
        signature: Of the advertisement, against a malicious server; else empty.
    """

    channel: bytes
    masks: bytes
    signing: bytes
    commitment: bytes = b""
    signature: bytes = b""

    @property
    def advertised(self) -> bytes:
        """What the client sent."""
        return self.channel + self.masks + self.signing + self.commitment

    @classmethod
    def read(cls, reader: Reader, spec: RoundSpec, *, signed: bool) -> Keys:
        """Read what a client sent, and its signature where it is there."""
        channel, masks, signing = (reader.take(KEY) for _ in range(3))
        commitment = reader.take(KEY) if Stage.REVEAL in spec.stages else b""
        signature = reader.take(SIGNATURE) if signed else b""
        return cls(channel, masks, signing, commitment, signature)


@dataclass(frozen=True)
class Place:
    """A client's place among the others, as it found it by itself.

    Attributes:
        session: The session's id: 32 bytes.
        size: Clients in the roster.
        index: Its own place there.
        neighbours: Place and keys of each neighbour, by client.
    """

    session: bytes
    size: int
    index: int
    neighbours: Mapping[int, tuple[int, Keys]]


def session_id(spec: RoundSpec, root: bytes, graph_seed: bytes) -> bytes:
    """Return the id (32 bytes) that a round, the roster's root and the graph have together."""
    return digest(b"session", spec.dumps(), root, graph_seed)


def _is_signed(spec: RoundSpec) -> bool:
    """Say whether the roster holds signatures: against a malicious server."""
    return spec.adversary is Adversary.MALICIOUS_SERVER


def _entry(client: int, keys: Keys) -> bytes:
    return id_bytes(client) + keys.advertised + keys.signature


class Roster:
    """All clients with their keys, as the server writes them into its requests."""

    def __init__(self, spec: RoundSpec, keys: Mapping[int, Keys]) -> None:
        self._spec = spec
        self.clients = sorted(keys)
        self._index = {client: index for index, client in enumerate(self.clients)}
        self._entries = [_entry(client, keys[client]) for client in self.clients]
        self.root = merkle.root(self._entries)

    @functools.cached_property
    def _proofs(self) -> list[list[bytes]]:
        """The proof of each entry."""
        return merkle.prove_all(self._entries, range(len(self._entries)))

    def index(self, client: int) -> int:
        """Return a client's place."""
        return self._index[client]

    def to_reveal(self, attempt: int, commitments: Mapping[int, bytes]) -> bytes:
        """Return the request for the clients' parts in the choice of the graph, with everyone's commitment."""
        return bytes([attempt]) + self._whole(commitments)

    def to_share(
        self, client: int, graph_seed: bytes, neighbours: Sequence[int], commitments: Mapping[int, bytes]
    ) -> bytes:
        """Return what a client needs to find its place by itself.

        Args:
            client: To whom it goes.
            graph_seed: Of the graph.
            neighbours: The client's.
            commitments: On a sparse graph that the clients have chosen, everyone's, and then its part; else none.
        """
        if self._spec.complete or commitments:
            return self._whole(commitments)
        size = len(self._entries)
        indices = [self._index[client], *sorted(self._index[neighbour] for neighbour in neighbours)]
        parts = [graph_seed, self.root, index_bytes(size)]
        for index in indices:
            proof = self._proofs[index]
            parts += [index_bytes(index), self._entries[index], bytes([len(proof)]), *proof]
        return b"".join(parts)

    def _whole(self, extras: Mapping[int, bytes]) -> bytes:
        entries = (
            entry + extras.get(client, b"") for client, entry in zip(self.clients, self._entries, strict=True)
        )
        return b"".join((index_bytes(len(self._entries)), *entries))


@dataclass(frozen=True)
class Whole:
    """A whole roster as a client has read it: keys, and what stands beside each, by client."""

    keys: dict[int, Keys]
    extras: dict[int, bytes]

    @classmethod
    def read(cls, reader: Reader, spec: RoundSpec, extra: int) -> Whole:
        """Read a whole roster with so many bytes beside each entry.

        Raises:
            ValueError: It is not in order, or more or fewer clients than may be.
        """
        size = reader.number(INDEX)
        if not spec.least <= size <= spec.clients:
            raise ValueError(f"a roster of {size} clients: allowed: {spec.least} to {spec.clients}")
        keys, extras, order = {}, {}, []
        for _ in range(size):
            client = reader.number(ID)
            keys[client] = Keys.read(reader, spec, signed=_is_signed(spec))
            extras[client] = reader.take(extra)
            order.append(client)
        must_ascend(order, "clients of the roster")
        return cls(keys, extras)

    @property
    def root(self) -> bytes:
        """The roster's Merkle root."""
        return merkle.root([_entry(client, keys) for client, keys in self.keys.items()])

    @property
    def fingerprint(self) -> bytes:
        """A hash of the roster and what stands beside the entries."""
        return digest(b"roster", self.root, *self.extras.values())


def read_to_reveal(
    request: bytes, spec: RoundSpec, *, me: int, own: Keys, commitment: bytes, attempt: int
) -> bytes:
    """Check a request to reveal, and return the fingerprint of the commitments that it fixes.

    Raises:
        ValueError: It is not the attempt that is due, or lacks one's own keys or commitment.
    """
    reader = Reader(request)
    if (asked := reader.number(1)) != attempt:
        raise ValueError(f"attempt {asked} to agree on the graph: allowed: {attempt}")
    whole = Whole.read(reader, spec, KEY)
    reader.end()
    if whole.keys.get(me) != own or whole.extras[me] != commitment:
        raise ValueError("the roster lacks this client's own keys and commitment")
    return whole.fingerprint


def read_place(
    request: bytes, spec: RoundSpec, *, me: int, own: Keys, part: bytes, fingerprint: bytes
) -> Place:
    """Find one's place from a request to share.

    Args:
        request: The request.
        spec: The round.
        me: Whose place.
        own: Its keys, as it has advertised them.
        part: Its part in the choice of the graph, where clients choose it.
        fingerprint: Of the roster with the commitments to which that part was revealed; there too.

    Raises:
        ValueError: Something in it is not as it should be.
    """
    if spec.complete or Stage.REVEAL in spec.stages:
        place = _place_in_whole(request, spec, me, own, part, fingerprint)
    else:
        place = _place_by_proofs(request, spec, me, own)
    _check_distinct(own, [keys for _, keys in place.neighbours.values()])
    return place


def _place_in_whole(
    request: bytes, spec: RoundSpec, me: int, own: Keys, part: bytes, fingerprint: bytes
) -> Place:
    """Find one's place in a roster that is all there."""
    reader = Reader(request)
    whole = Whole.read(reader, spec, 0 if spec.complete else 2 * KEY)
    reader.end()
    if whole.keys.get(me) != own:
        raise ValueError("the roster lacks this client's own keys")
    seed = b"" if spec.complete else _chosen_seed(whole, me, part, fingerprint)
    clients = list(whole.keys)
    index = clients.index(me)
    around = neighbours_of(seed or bytes(KEY), len(clients), spec.degree, index)
    neighbours = {clients[other]: (other, whole.keys[clients[other]]) for other in around}
    return Place(session_id(spec, whole.root, seed), len(clients), index, neighbours)


def _chosen_seed(whole: Whole, me: int, part: bytes, fingerprint: bytes) -> bytes:
    """Return the graph's seed from the parts that clients have revealed, each as it was committed to."""
    commitments = {client: extra[:KEY] for client, extra in whole.extras.items()}
    parts = {client: extra[KEY:] for client, extra in whole.extras.items()}
    if Whole(whole.keys, commitments).fingerprint != fingerprint or parts[me] != part:
        raise ValueError("the roster is not the one to which this client revealed its part in the graph")
    for client, revealed in parts.items():
        if commitments[client] != commitment_to(client, revealed):
            raise ValueError(f"client {client}'s part in the graph is not the one that it committed to")
    return joint_seed(parts)


def _place_by_proofs(request: bytes, spec: RoundSpec, me: int, own: Keys) -> Place:
    """Find one's place from the roster's root and the proofs of the neighbours' entries."""
    reader = Reader(request)
    seed, root, size = reader.take(KEY), reader.take(KEY), reader.number(INDEX)
    if not spec.least <= size <= spec.clients:
        raise ValueError(f"a roster of {size} clients: allowed: {spec.least} to {spec.clients}")
    found: list[tuple[int, int, Keys]] = []
    while reader.left:
        index = reader.number(INDEX)
        client, keys = reader.number(ID), Keys.read(reader, spec, signed=_is_signed(spec))
        proof = [reader.take(KEY) for _ in range(reader.number(1))]
        if not merkle.verify(root, _entry(client, keys), index, size, proof):
            raise ValueError(f"client {client} is not in the roster at place {index}")
        found.append((index, client, keys))
    if not found or found[0][1:] != (me, own):
        raise ValueError("the roster lacks this client's own keys")
    index, others = found[0][0], found[1:]
    if tuple(other for other, _, _ in others) != neighbours_of(seed, size, spec.degree, index):
        raise ValueError("the neighbours are not those of the graph")
    must_ascend([client for _, client, _ in sorted(found)], "clients of the roster")
    neighbours = {client: (other, keys) for other, client, keys in others}
    return Place(session_id(spec, root, seed), size, index, neighbours)


def _check_distinct(own: Keys, others: Sequence[Keys]) -> None:
    """Refuse keys that two clients have, or that one uses twice."""
    keys = [key for one in (own, *others) for key in (one.channel, one.masks, one.signing)]
    if len(set(keys)) != len(keys):
        raise ValueError("two clients advertise the same public key")
