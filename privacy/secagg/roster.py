"""The roster: the public keys of the participating clients, and how a client learns its neighbours' keys.

The roster lists the clients in ascending order; its hash is a Merkle root, so that a client on a sparse graph can
verify its neighbours' keys without all others'. Session and roster determine the session's id, on which all keys
depend: clients that received different rosters, rounds or global models share no key.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedsim.privacy.secagg import merkle
from fedsim.privacy.secagg.graph import commitment_to, joint_seed, neighbours_of
from fedsim.privacy.secagg.primitives import KEY, SIGNATURE, digest
from fedsim.privacy.secagg.spec import RoundSpec
from fedsim.privacy.secagg.wire import ID, INDEX, Reader, id_bytes, index_bytes, must_ascend

KEYS = 3 * KEY  # bytes


@dataclass(frozen=True)
class Keys:
    """A client's advertised public keys."""

    channel: bytes
    masks: bytes
    signing: bytes
    commitment: bytes = b""  # to its part of the graph's seed, if the clients choose the graph
    signature: bytes = b""  # of the advertisement, against a malicious server

    @property
    def advertised(self) -> bytes:
        """The client's advertisement."""
        return self.channel + self.masks + self.signing + self.commitment

    @classmethod
    def read(cls, reader: Reader, spec: RoundSpec, *, signed: bool) -> Keys:
        """Read a client's advertisement, with its signature if there is one."""
        channel, masks, signing = (reader.take(KEY) for _ in range(3))
        commitment = reader.take(KEY) if spec.reveals else b""
        signature = reader.take(SIGNATURE) if signed else b""
        return cls(channel, masks, signing, commitment, signature)


@dataclass(frozen=True)
class Place:
    """A client's place among the others, computed by itself."""

    session: bytes  # the session's id: 32 bytes
    size: int  # clients in the roster
    index: int  # its own place there
    neighbours: Mapping[int, tuple[int, Keys]]  # place and keys of each, by client
    roster: tuple[int, ...] = ()  # all clients in order; empty if it does not know all


def session_id(spec: RoundSpec, root: bytes, graph_seed: bytes) -> bytes:
    """Return the session's id (32 bytes) from the round, the roster's root and the graph."""
    return digest(b"session", spec.dumps(), root, graph_seed)


def entry_size(spec: RoundSpec) -> int:
    """Return the bytes of a client in the roster: its number, its keys, and what else it advertises."""
    return ID + KEYS + KEY * spec.reveals + SIGNATURE * spec.malicious


def _entry(client: int, keys: Keys) -> bytes:
    return id_bytes(client) + keys.advertised + keys.signature


class Roster:
    """All clients with their keys, as the server writes them into its requests."""

    def __init__(self, keys: Mapping[int, Keys]) -> None:
        self.clients = sorted(keys)
        self._index = {client: index for index, client in enumerate(self.clients)}
        self._entries = [_entry(client, keys[client]) for client in self.clients]
        self.root = merkle.root(self._entries)

    @functools.cached_property
    def _proofs(self) -> list[list[bytes]]:
        return merkle.prove(self._entries, range(len(self._entries)))

    def index(self, client: int) -> int:
        """Return a client's place."""
        return self._index[client]

    def to_reveal(self, attempt: int, commitments: Mapping[int, bytes]) -> bytes:
        """Return the request for the clients' parts of the graph's seed, with all commitments."""
        return bytes([attempt]) + self.whole(commitments)

    def around(self, client: int, graph_seed: bytes, neighbours: Iterable[int]) -> bytes:
        """Return a sparse graph's request to share for a client: the graph's seed, and its neighbours' entries."""
        indices = [self._index[client], *sorted(self._index[neighbour] for neighbour in neighbours)]
        parts = [graph_seed, self.root, index_bytes(len(self._entries))]
        for index in indices:
            proof = self._proofs[index]
            parts += [index_bytes(index), self._entries[index], bytes([len(proof)]), *proof]
        return b"".join(parts)

    def whole(self, beside: Mapping[int, bytes] | None = None) -> bytes:
        """Return all entries, each followed by extra bytes of its client."""
        extras = beside or {}
        entries = (
            entry + extras.get(client, b"") for client, entry in zip(self.clients, self._entries, strict=True)
        )
        return b"".join((index_bytes(len(self._entries)), *entries))


@dataclass(frozen=True)
class Whole:
    """A whole roster as read by a client: in order, the clients, their entries, and extra bytes of each."""

    spec: RoundSpec
    clients: list[int]
    entries: list[bytes]
    extras: list[bytes]

    @classmethod
    def read(cls, reader: Reader, spec: RoundSpec, extra: int) -> Whole:
        """Read a whole roster with `extra` bytes after each entry.

        Raises `ValueError` if it is out of order, or has too many or too few clients.
        """
        size = _checked_size(reader, spec)
        rows = [(reader.take(entry_size(spec)), reader.take(extra)) for _ in range(size)]
        reader.end()
        clients = [int.from_bytes(entry[:ID], "big") for entry, _ in rows]
        must_ascend(clients, "clients of the roster")
        return cls(spec, clients, [entry for entry, _ in rows], [beside for _, beside in rows])

    def index(self, me: int, own: Keys) -> int:
        """Return one's place; raises `ValueError` unless one's advertised keys are there."""
        entry = _entry(me, own)
        if entry not in self.entries:
            raise ValueError("the roster lacks this client's own keys")
        return self.entries.index(entry)

    def keys(self, index: int) -> Keys:
        """Return the keys at a place."""
        reader = Reader(self.entries[index])
        reader.take(ID)
        return Keys.read(reader, self.spec, signed=self.spec.malicious)

    @functools.cached_property
    def root(self) -> bytes:
        """The roster's Merkle root."""
        return merkle.root(self.entries)

    def fingerprint(self, commitments: Sequence[bytes]) -> bytes:
        """Return a hash of the roster and of commitments to the parts of the graph's seed."""
        return digest(b"roster", self.root, *commitments)


def _checked_size(reader: Reader, spec: RoundSpec) -> int:
    """Read the roster's size; raises `ValueError` if it is out of range."""
    size = reader.number(INDEX)
    if not spec.least <= size <= spec.clients:
        raise ValueError(f"a roster of {size} clients: allowed: {spec.least} to {spec.clients}")
    return size


def read_to_reveal(
    request: bytes, spec: RoundSpec, *, me: int, own: Keys, commitment: bytes, attempt: int
) -> bytes:
    """Check a request to reveal, and return the fingerprint of the commitments that it fixes.

    Raises `ValueError` if it is for another attempt, or lacks one's own keys or commitment.
    """
    reader = Reader(request)
    if (asked := reader.number(1)) != attempt:
        raise ValueError(f"attempt {asked} to agree on the graph: allowed: {attempt}")
    whole = Whole.read(reader, spec, KEY)
    if whole.extras[whole.index(me, own)] != commitment:
        raise ValueError("the roster lacks this client's own commitment")
    return whole.fingerprint(whole.extras)


def read_place(
    request: bytes, spec: RoundSpec, *, me: int, own: Keys, part: bytes, fingerprint: bytes
) -> Place:
    """Find one's place from a request to share; raises `ValueError` if it is invalid.

    `own` are one's advertised keys. If clients choose the graph, `part` is one's part of its seed, and `fingerprint`
    that of the roster and the commitments to which it was revealed.
    """
    if spec.complete or spec.reveals:
        place = _place_in_whole(request, spec, me, own, part, fingerprint)
    else:
        place = _place_by_proofs(request, spec, me, own)
    _check_distinct(own, [keys for _, keys in place.neighbours.values()])
    return place


def _place_in_whole(
    request: bytes, spec: RoundSpec, me: int, own: Keys, part: bytes, fingerprint: bytes
) -> Place:
    whole = Whole.read(Reader(request), spec, 0 if spec.complete else 2 * KEY)
    index = whole.index(me, own)
    seed = b"" if spec.complete else _chosen_seed(whole, index, part, fingerprint)
    around = neighbours_of(seed or bytes(KEY), len(whole.clients), spec.degree, index)
    neighbours = {whole.clients[other]: (other, whole.keys(other)) for other in around}
    session = session_id(spec, whole.root, seed)
    return Place(session, len(whole.clients), index, neighbours, tuple(whole.clients))


def _chosen_seed(whole: Whole, index: int, part: bytes, fingerprint: bytes) -> bytes:
    """Return the graph's seed from the revealed parts, each checked against its commitment."""
    commitments, parts = [extra[:KEY] for extra in whole.extras], [extra[KEY:] for extra in whole.extras]
    if whole.fingerprint(commitments) != fingerprint or parts[index] != part:
        raise ValueError("the roster is not the one to which this client revealed its part in the graph")
    for client, revealed, commitment in zip(whole.clients, parts, commitments, strict=True):
        if commitment != commitment_to(client, revealed):
            raise ValueError(f"client {client}'s part in the graph is not the one that it committed to")
    return joint_seed(dict(zip(whole.clients, parts, strict=True)))


def _place_by_proofs(request: bytes, spec: RoundSpec, me: int, own: Keys) -> Place:
    """Find one's place from the roster's root and the proofs of the neighbours' entries."""
    reader = Reader(request)
    seed, root, size = reader.take(KEY), reader.take(KEY), _checked_size(reader, spec)
    found: list[tuple[int, int, Keys]] = []
    while reader.left:
        index = reader.number(INDEX)
        client, keys = reader.number(ID), Keys.read(reader, spec, signed=spec.malicious)
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
    """Refuse a key that is used twice, by one client or two."""
    keys = [key for one in (own, *others) for key in (one.channel, one.masks, one.signing)]
    if len(set(keys)) != len(keys):
        raise ValueError("two clients advertise the same public key")
