"""Joint choice of the graph by the clients, which a malicious server can't bias: commit, then reveal.

Each client commits to a random part before it knows any other. Once the roster is fixed, all parts are revealed and
make the seed. If a client is lost in between, the others start again with their next parts. A server that feigns
losses gains one more graph to choose from with each of at most `topology.ATTEMPTS` attempts.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.privacy.secagg.primitives import derive, digest
from fedsim.privacy.secagg.wire import id_bytes


def part_of(secret: bytes, attempt: int) -> bytes:
    """Return the part (32 bytes) of a client with a secret (32 bytes) in an attempt, from 1."""
    return derive(secret, b"graph-part", bytes([attempt]))


def commitment_to(client: int, part: bytes) -> bytes:
    """Return a commitment (32 bytes) to a client's part."""
    return digest(b"graph-commitment", id_bytes(client), part)


def joint_seed(parts: Mapping[int, bytes]) -> bytes:
    """Return the graph's seed (32 bytes) from the parts of all clients, by client."""
    return digest(b"graph", *(id_bytes(client) + parts[client] for client in sorted(parts)))
