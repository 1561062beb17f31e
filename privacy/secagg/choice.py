"""How clients choose the graph together, so that a server that cheats can't: commit, then reveal.

Each commits to a random part before it knows any other; when the roster is fixed, all parts are revealed and make
the seed. Where a client is lost in between, those that are left begin anew with their next parts; a server that
feigns losses gains one more graph to choose from with each attempt, and there are at most `topology.ATTEMPTS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.privacy.secagg.primitives import derive, digest
from fedsim.privacy.secagg.wire import id_bytes


def part_of(secret: bytes, attempt: int) -> bytes:
    """Return the part (32 bytes) of a client with some secret (32 bytes) in an attempt, from 1."""
    return derive(secret, b"graph-part", bytes([attempt]))


def commitment_to(client: int, part: bytes) -> bytes:
    """Return a commitment (32 bytes) to a client's part."""
    return digest(b"graph-commitment", id_bytes(client), part)


def joint_seed(parts: Mapping[int, bytes]) -> bytes:
    """Return the graph's seed (32 bytes) that the parts of all clients make, by client."""
    return digest(b"graph", *(id_bytes(client) + parts[client] for client in sorted(parts)))
