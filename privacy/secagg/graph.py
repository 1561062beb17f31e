"""The k-regular graph of a round: a ring in random order, each client beside the k/2 to its left and right.

The order follows from a public seed of 32 bytes, so that every party can verify the graph. An extendable hash
(SHAKE-256) draws it: the order must look random even to parties that know the seed, which a keyed cipher does not
guarantee.

A malicious server can't bias a seed that the clients choose: they commit, then reveal. Each client commits to a random
part before it knows any other. Once the roster is fixed, all parts are revealed and make the seed. If a client is lost
in between, the others start again with their next parts. A server that feigns losses gains one more graph to choose
from with each of at most `topology.ATTEMPTS` attempts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.secagg.primitives import KEY, derive, digest
from fedsim.privacy.secagg.wire import id_bytes

_PURPOSE = b"fedsim/secagg/graph/1"
_WORD = 8  # bytes of a draw; one in 2^64 / clients is redrawn


def neighbours(seed: bytes, clients: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """Return each client's neighbours, by index in the roster.

    Args:
        seed: 32 bytes, public.
        clients: At least 1.
        degree: Neighbours of a client: even, or `clients - 1` or more, which is the complete graph.

    Returns:
        `clients` tuples of `degree` indices, ascending, without the client's own; if i is in j's, j is in i's.

    Raises:
        ValueError: The seed has another length, or there is no such graph.
    """
    _check(seed, clients, degree)
    return _rows(seed, clients, degree, range(clients))


def neighbours_of(seed: bytes, clients: int, degree: int, index: int) -> tuple[int, ...]:
    """Return the neighbours of the client at an index; raises `ValueError` if it is out of range, or as `neighbours`."""
    _check(seed, clients, degree)
    if not 0 <= index < clients:
        raise ValueError(f"index {index}: must be from 0 to {clients - 1}")
    return _rows(seed, clients, degree, [index])[0]


def _check(seed: bytes, clients: int, degree: int) -> None:
    if len(seed) != KEY:
        raise ValueError(f"a graph's seed of {len(seed)} bytes: must have {KEY}")
    if clients < 1:
        raise ValueError(f"a graph of {clients} clients: must have 1 or more")
    if degree < clients - 1 and (degree < 2 or degree % 2):
        raise ValueError(
            f"degree {degree} of {clients} clients: must be even and 2 or more, or {clients - 1}"
        )


def _rows(seed: bytes, clients: int, degree: int, indices: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the neighbours of some clients."""
    if degree >= clients - 1:
        everyone = tuple(range(clients))
        return tuple(everyone[:i] + everyone[i + 1 :] for i in indices)
    order, place = _ring(seed, clients)
    half = np.arange(1, degree // 2 + 1)
    beside = order[(place[indices, None] + np.concatenate([-half, half])) % clients]
    beside.sort(axis=1)
    return tuple(map(tuple, beside.tolist()))


@lru_cache(maxsize=4)  # one process may run many of a round's clients
def _ring(seed: bytes, clients: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the client at each place of the ring, and each client's place."""
    order = np.array(permutation(_words(seed), clients, 8 * _WORD), dtype=np.int64)
    place = np.empty_like(order)
    place[order] = np.arange(clients)
    order.setflags(write=False)
    place.setflags(write=False)
    return order, place


def permutation(words: Iterator[int], count: int, bits: int) -> list[int]:
    """Return a permutation of 0 to `count - 1`, all equally likely (Fisher and Yates).

    The words are independent and uniform, of `bits` bits; those above the largest multiple of the current range are
    skipped. `count` is at most 2^bits.
    """
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        fair = (1 << bits) // (last + 1) * (last + 1)
        word = next(words)
        while word >= fair:
            word = next(words)
        drawn = word % (last + 1)
        order[last], order[drawn] = order[drawn], order[last]
    return order


def _words(seed: bytes) -> Iterator[int]:
    """Yield the seed's words: the little-endian 64-bit words of its SHAKE-256 blocks, one hash a block."""
    block = 0
    while True:
        drawn = hashlib.shake_256(_PURPOSE + seed + block.to_bytes(8, "little")).digest(1024 * _WORD)
        yield from np.frombuffer(drawn, dtype="<u8").tolist()
        block += 1


def part_of(secret: bytes, attempt: int) -> bytes:
    """Return the part (32 bytes) of a client with a secret (32 bytes) in an attempt, from 1."""
    return derive(secret, b"graph-part", bytes([attempt]))


def commitment_to(client: int, part: bytes) -> bytes:
    """Return a commitment (32 bytes) to a client's part."""
    return digest(b"graph-commitment", id_bytes(client), part)


def joint_seed(parts: Mapping[int, bytes]) -> bytes:
    """Return the graph's seed (32 bytes) from the parts of all clients, by client."""
    return digest(b"graph", *(id_bytes(client) + parts[client] for client in sorted(parts)))
