"""Costs of a round: exact bytes of each message, and seconds of a client's and the server's operations.

Sizes are those of the messages that `client`, `server` and `roster` write. Operations are counted as in that code and
multiplied by their measured duration (`calibration.calibrate`), so that rounds of a million clients can be planned by
timing a few calls. Dropouts are assumed to occur before the upload, after neighbours have masked for them: the most
expensive case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from fedsim.privacy.secagg.merkle import HASH_BYTES, depth
from fedsim.privacy.secagg.primitives import KEY, SIGNATURE
from fedsim.privacy.secagg.roster import KEYS, entry_size
from fedsim.privacy.secagg.shamir import SEALED, SHARE
from fedsim.privacy.secagg.spec import RoundSpec, Stage
from fedsim.privacy.secagg.wire import INDEX


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Number of each operation; or, as unit costs, its duration in seconds."""

    key_pairs: float = 0  # X25519 keys made usable from their 32 bytes
    agreements: float = 0  # X25519 agreements
    derivations: float = 0  # HKDF
    seals: float = 0  # AES-256-GCM of two shares, encryption or decryption
    signing_keys: float = 0  # Ed25519 keys made usable from their 32 bytes
    signatures: float = 0  # Ed25519 signatures
    verifications: float = 0  # Ed25519 signatures checked
    multiplications: float = 0  # modulo Shamir's prime
    inversions: float = 0  # modulo Shamir's prime
    coefficients: float = 0  # drawn uniformly modulo Shamir's prime
    bytes: float = 0  # hashed by SHA-256
    digests: float = 0  # short SHA-256 hashes over a few parts
    nodes: float = 0  # of a Merkle tree, hashed
    entries: float = 0  # of a roster, read, hashed and checked by a client
    choosers: float = 0  # the same if the clients choose the graph: read twice, with commitments and parts
    written: float = 0  # entries of a roster, written into a request with their proofs
    places: float = 0  # of the ring, drawn
    members: float = 0  # of a list of uploads, read
    fields: float = 0  # of a message, read and kept
    masked: float = 0  # elements to which a mask is added or subtracted
    encoded: float = 0  # elements that are clipped, scaled and rounded
    packed: float = 0  # elements packed into bits
    unpacked: float = 0  # elements unpacked and added up

    def seconds(self, unit: Operations) -> float:
        """Return the total duration on one core, given the seconds of each."""
        return math.fsum(getattr(self, f.name) * getattr(unit, f.name) for f in fields(self))


@dataclass(frozen=True)
class Message:
    """Bytes of a stage's request and reply, for a client that stays to the end; a mean if they differ."""

    down: float
    up: float


@dataclass(frozen=True)
class Costs:
    """Costs of a round."""

    spec: RoundSpec
    survivors: int  # clients that upload
    messages: Mapping[Stage, Message]  # in order
    client: Operations  # of one that stays to the end
    server: Operations

    @property
    def upload(self) -> float:
        """Bytes that a client sends, including the packed vector."""
        return math.fsum(message.up for message in self.messages.values())

    @property
    def extra_download(self) -> float:
        """Bytes that a client receives besides the model."""
        return math.fsum(message.down for message in self.messages.values())

    @property
    def model(self) -> int:
        """Bytes of the model, sent outside the protocol, in float32."""
        return 4 * self.spec.encoding.dimension

    @property
    def expansion(self) -> float:
        """A client's bytes both ways, without the model, as a multiple of its bare vector of `input_bits` a number."""
        bare = self.spec.encoding.dimension * self.spec.encoding.input_bits / 8
        return (self.upload + self.extra_download) / bare


def round_costs(spec: RoundSpec, *, dropped: int) -> Costs:
    """Return the costs of a round in which all invited clients take part.

    `dropped` are lost between sharing and uploading; raises `ValueError` unless they are fewer than the clients.
    """
    if not 0 <= dropped < spec.clients:
        raise ValueError(f"dropped = {dropped}: must be from 0 to {spec.clients - 1}")
    shape = _Shape(spec, spec.clients - dropped)
    messages = {stage: shape.message(stage) for stage in spec.stages}
    return Costs(spec, shape.survivors, messages, shape.client(messages), shape.server(messages))


@dataclass(frozen=True)
class _Shape:
    spec: RoundSpec
    survivors: int

    @property
    def degree(self) -> int:
        return min(self.spec.degree, self.spec.clients - 1)

    @property
    def confirmed(self) -> int:
        """Signatures of the list of uploads that each survivor receives."""
        return min(self.spec.quorum, self.survivors) if self.spec.malicious else 0

    @property
    def by_proof(self) -> bool:
        """Whether clients see their neighbours' entries of the roster alone."""
        return not (self.spec.complete or self.spec.reveals)

    def message(self, stage: Stage) -> Message:
        clients, degree, encoding = self.spec.clients, self.degree, self.spec.encoding
        bitmap, entry = -(-clients // 8), entry_size(self.spec)
        signatures = self.confirmed * (INDEX + SIGNATURE)
        with_proof = INDEX + entry + 1 + HASH_BYTES * depth(clients)
        down, body = {
            Stage.ADVERTISE: (len(self.spec.dumps()), KEYS + KEY * self.spec.reveals),
            Stage.REVEAL: (1 + INDEX + clients * (entry + KEY), 2 * KEY),
            Stage.SHARE: (
                2 * KEY + INDEX + (degree + 1) * with_proof
                if self.by_proof
                else INDEX + clients * (entry + 2 * KEY * self.spec.reveals),
                degree * SEALED + KEY,
            ),
            Stage.UPLOAD: (degree * (INDEX + SEALED), encoding.ring.packed_size(encoding.length)),
            Stage.CONFIRM: (bitmap, SIGNATURE),
            Stage.UNMASK: (bitmap + signatures, (degree + 1) * SHARE),
        }[stage]
        return Message(down, body + SIGNATURE)

    def client(self, messages: Mapping[Stage, Message]) -> Operations:
        spec, clients, degree = self.spec, self.spec.clients, self.degree
        length = spec.encoding.length
        confirms = Stage.CONFIRM in spec.stages
        signatures = len(spec.stages) + confirms
        return Operations(
            key_pairs=4,
            agreements=2 * degree,  # for the channel, for the mask
            derivations=2 * degree + 2 + 3 * self.spec.reveals,
            seals=2 * degree,
            signing_keys=signatures + 1 + self.spec.malicious,
            signatures=signatures,
            verifications=degree * self.spec.malicious + self.confirmed,
            multiplications=2 * (degree + 1) * (spec.threshold - 1),
            coefficients=2 * (spec.threshold - 1),
            bytes=math.fsum(m.down + m.up for m in messages.values()),
            digests=2 + len(spec.stages) + degree * self.spec.malicious,
            nodes=(degree + 1) * depth(clients) * self.by_proof,
            entries=clients * spec.complete + (degree + 1) * self.by_proof,
            choosers=clients * self.spec.reveals,
            places=0 if spec.complete else clients,
            members=self.survivors * (1 + confirms),
            fields=2 * degree,
            masked=length * (degree + 1),
            encoded=spec.encoding.dimension,
            packed=length,
        )

    def server(self, messages: Mapping[Stage, Message]) -> Operations:
        spec, clients, degree, left = self.spec, self.spec.clients, self.degree, self.survivors
        length, lost = spec.encoding.length, clients - self.survivors
        asked = dict.fromkeys(spec.stages, clients) | {Stage.CONFIRM: left, Stage.UNMASK: left}
        came = asked | {Stage.UPLOAD: left}
        pairs = lost * degree * left / (clients - 1)  # of a lost client and a surviving one
        sets = 1 if spec.complete else clients  # of points: Lagrange weights are computed once for each
        traffic = math.fsum(came[s] * (m.down + m.up) for s, m in messages.items())
        return Operations(
            key_pairs=lost,
            agreements=pairs + 2 * clients,  # each public key is tried once
            derivations=pairs + left,
            verifications=sum(came[stage] for stage in spec.stages) + left * (Stage.CONFIRM in spec.stages),
            multiplications=clients * spec.threshold + sets * 2 * spec.threshold**2,
            inversions=sets * spec.threshold,
            bytes=traffic,
            digests=sum(came[stage] for stage in spec.stages) + left + 2 * clients * self.spec.reveals,
            nodes=2 * clients * (1 + self.spec.reveals) + clients * depth(clients) * self.by_proof,
            written=clients * (degree + 1) * self.by_proof,
            places=0 if spec.complete else 2 * clients,
            fields=3 * clients * degree,
            masked=length * (left + pairs),
            unpacked=length * left,
        )


def bonawitz_expansion(users: int, dimension: int, input_bits: int = 16) -> float:
    """Return the expansion factor that Bonawitz et al. (2017) state for their protocol, with keys and shares of 256 bits.

    >>> [round(bonawitz_expansion(1 << n, 1 << d), 2) for n, d in ((10, 20), (14, 20), (14, 24))]
    [1.73, 3.62, 1.98]
    """
    bits = (users * (2**input_bits - 1)).bit_length()  # ceil(log2(n (2^p - 1) + 1))
    keys, shares = 2 * users * 256, (5 * users - 4) * 256
    expansion: float = (keys + shares + dimension * bits) / (input_bits * dimension)
    return expansion
