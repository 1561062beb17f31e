"""Times the operations of a round on this machine, each as the protocol calls it."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import time
import timeit
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from fedsim.privacy.secagg import merkle
from fedsim.privacy.secagg.costs import Operations
from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.graph import commitment_to, permutation
from fedsim.privacy.secagg.primitives import (
    KEY,
    SIGNATURE,
    AgreementKey,
    SigningKey,
    derive,
    digest,
    is_signed,
    seal,
    unseal,
)
from fedsim.privacy.secagg.roster import Keys, Roster, read_place, read_to_reveal
from fedsim.privacy.secagg.shamir import PRIME, SHARE, split
from fedsim.privacy.secagg.spec import RoundSpec
from fedsim.privacy.secagg.topology import Adversary
from fedsim.privacy.secagg.wire import Reader, bitmap, members_of

ELEMENTS = 1 << 20  # of timed vectors
CLIENTS = 128  # of timed rosters
REPEATS = 3  # the median counts
LEAST_SECONDS = 2e-3  # of a repeat
Clock = Callable[[], float]


def calibrate(encoding: Encoding, *, clock: Clock = time.thread_time) -> Operations:
    """Return the seconds of each operation, in about half a second, on one core, by this thread's CPU time.

    At most `ELEMENTS` of the encoding's dimension are timed.
    """
    few = replace(encoding, dimension=min(encoding.dimension, ELEMENTS), metrics=())
    return Operations(**_of_keys(clock), **_of_messages(clock), **_of_vectors(few, clock))


def seconds_of(call: Callable[[], object], clock: Clock) -> float:
    """Return the duration of a call: the median of a few repeats of enough calls."""
    timer, calls = timeit.Timer(call, timer=clock), 1
    while (took := timer.timeit(calls)) < LEAST_SECONDS:
        calls *= 2 if took <= 0 else max(2, min(64, math.ceil(LEAST_SECONDS / took)))
    return statistics.median(timer.repeat(REPEATS, calls)) / calls


@lru_cache(maxsize=1)
def _of_keys(clock: Clock) -> dict[str, float]:
    secret, message = os.urandom(KEY), os.urandom(2 * KEY)
    key, other, signing = AgreementKey(secret), AgreementKey(os.urandom(KEY)), SigningKey(os.urandom(KEY))
    signature = signing.sign(message)
    nonce = bytes(12)
    sealed = seal(secret, nonce, os.urandom(2 * SHARE), message)
    number = int.from_bytes(secret, "big") | 1
    points = range(1, 65)
    coefficient = seconds_of(lambda: int.from_bytes(os.urandom(SHARE), "big"), clock)
    splitting = seconds_of(lambda: split(1, len(points), points, os.urandom), clock)
    multiplications = (len(points) - 1) * len(points)
    return {
        "key_pairs": seconds_of(lambda: AgreementKey(secret), clock),
        "agreements": seconds_of(lambda: key.agree(other.public), clock),
        "derivations": seconds_of(lambda: derive(secret, b"pair-mask", message, nonce), clock),
        "seals": seconds_of(lambda: unseal(secret, nonce, sealed, message), clock),
        "signing_keys": seconds_of(lambda: SigningKey(secret), clock),
        "signatures": seconds_of(lambda: signing.sign(message), clock),
        "verifications": seconds_of(lambda: is_signed(signing.public, signature, message), clock),
        "multiplications": (splitting - (len(points) - 1) * coefficient) / multiplications,
        "coefficients": coefficient,
        "inversions": seconds_of(lambda: pow(number, -1, PRIME), clock),
    }


@lru_cache(maxsize=1)
def _of_messages(clock: Clock) -> dict[str, float]:
    parts = [os.urandom(KEY) for _ in range(CLIENTS)]
    words = [int.from_bytes(part[:8], "little") for part in parts]
    alive, message = bitmap(range(CLIENTS), CLIENTS), b"".join(parts)
    proof = merkle.prove(parts, [0])[0]

    def read_fields() -> None:
        reader, found = Reader(message), {}
        for place in range(CLIENTS):
            found[place] = reader.take(KEY)

    return {
        "digests": seconds_of(lambda: digest(b"stage", *parts[:4]), clock),
        "nodes": seconds_of(lambda: merkle.verify(b"", parts[0], 0, CLIENTS, proof), clock) / len(proof),
        "places": seconds_of(lambda: permutation(iter(words), CLIENTS, 64), clock) / CLIENTS,
        "members": seconds_of(lambda: members_of(alive, CLIENTS), clock) / CLIENTS,
        "fields": seconds_of(read_fields, clock) / CLIENTS,
        **_of_rosters(clock),
    }


def _of_rosters(clock: Clock) -> dict[str, float]:
    """Time whole rosters, of the complete graph and of one chosen by the clients."""
    complete = RoundSpec(
        run="",
        round=1,
        session="",
        mode="real",
        clients=CLIENTS,
        degree=CLIENTS - 1,
        threshold=2,
        least=2,
        quorum=2,
        adversary=Adversary.SEMI_HONEST,
        task="",
        encoding=Encoding(1, cohort=CLIENTS),
    )
    keys = {client: Keys(*(os.urandom(KEY) for _ in range(3))) for client in range(CLIENTS)}
    roster = Roster(keys)
    share = roster.whole()

    chosen = replace(complete, degree=6, adversary=Adversary.MALICIOUS_SERVER)
    parts = {client: os.urandom(KEY) for client in keys}
    commitments = {client: commitment_to(client, part) for client, part in parts.items()}
    signed = {c: replace(k, commitment=commitments[c], signature=bytes(SIGNATURE)) for c, k in keys.items()}
    choosing = Roster(signed)
    reveal = choosing.to_reveal(1, commitments)
    revealed = choosing.whole({c: commitments[c] + parts[c] for c in keys})

    def choose() -> None:
        own = signed[0]
        fixed = read_to_reveal(reveal, chosen, me=0, own=own, commitment=commitments[0], attempt=1)
        read_place(revealed, chosen, me=0, own=own, part=parts[0], fingerprint=fixed)

    def read() -> None:
        read_place(share, complete, me=0, own=keys[0], part=b"", fingerprint=b"")

    return {
        "entries": seconds_of(read, clock) / CLIENTS,
        "choosers": seconds_of(choose, clock) / CLIENTS,
        "written": seconds_of(lambda: roster.around(0, parts[0], range(1, CLIENTS)), clock) / CLIENTS,
    }


def _of_vectors(encoding: Encoding, clock: Clock) -> dict[str, float]:
    generator = np.random.Generator(np.random.Philox(key=0))
    update = generator.standard_normal(encoding.dimension, dtype=np.float32) * np.float32(encoding.clip / 4)
    ring, seed = encoding.ring, bytes(KEY)
    vector = encoding.encode(update, 1, {}, generator)
    total, packed = ring.zeros(len(vector)), ring.pack(vector)

    def encode() -> None:
        encoding.encode(update, encoding.max_weight, {}, generator)

    def unpack() -> None:
        ring.add(total, ring.unpack(packed, len(vector)))

    return {
        "bytes": seconds_of(lambda: hashlib.sha256(packed[:-1]).digest(), clock)
        / len(packed),  # a body, copied and hashed
        "masked": seconds_of(lambda: ring.add_mask(vector, seed), clock) / len(vector),
        "encoded": seconds_of(encode, clock) / len(vector),
        "packed": seconds_of(lambda: ring.pack(vector), clock) / len(vector),
        "unpacked": seconds_of(unpack, clock) / len(vector),
    }
