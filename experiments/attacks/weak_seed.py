"""An observer of one upload tries all seeds of its masks.

Flower folds the 256-bit key of a mask into 32 bits and seeds a Mersenne Twister with them. If only one mask is
unknown (one of three clients colludes, and the victim's own seed is revealed as always), each seed can be tried: with
the right one the remaining numbers are below 2^22 of 2^32, which a wrong seed gives with probability 2^-10 for each
number.

Here 2^20 seeds around the right one are tried at the measured rate, and the rest is arithmetic.

Ours: a mask is the AES-256-CTR stream of a 256-bit seed.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from fedsim.experiments.attacks import flower
from fedsim.experiments.attacks.finding import Finding, recovery
from fedsim.experiments.benchmarks.flower_secagg import Cohort
from fedsim.privacy.secagg.ring import Ring
from fedsim.privacy.secagg.topology import Adversary

CONTROL = f"{flower.FLOWER}, 3 clients, one colludes"
COLLUDER, OTHER = 101, 102
TRIED = 2**20
BATCH = 2**14  # seeds at a time, so that their state words stay in the cache
CHECKED = 4  # numbers; a wrong seed passes with probability 2^-40


def folded(key: bytes) -> int:
    """Return the 32 bits to which Flower folds a mask's key."""
    return int(np.bitwise_xor.reduce(np.frombuffer(key, "<u4")))


def first_words(seeds: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """Return the first outputs of MT19937 for many seeds at once, of shape (count, seeds); count below 228.

    An output takes three of the 624 words that a seed is stretched to, so only the first 397 + count are made
    (Matsumoto and Nishimura 1998, with the seeding of 2002).
    """
    kept = np.empty((2, count + 1, len(seeds)), np.uint32)
    word, scratch = seeds.copy(), np.empty_like(seeds)
    for index in range(397 + count):
        if index <= count:
            kept[0, index] = word
        if index >= 397:
            kept[1, index - 397] = word
        np.right_shift(word, 30, out=scratch)
        np.bitwise_xor(word, scratch, out=word)
        np.multiply(word, np.uint32(1812433253), out=word)
        np.add(word, np.uint32(index + 1), out=word)
    one, high = np.uint32(1), np.uint32(0x80000000)
    y = (kept[0, :-1] & high) | (kept[0, 1:] & ~high)
    y = kept[1, :-1] ^ (y >> one) ^ ((y & one) * np.uint32(0x9908B0DF))
    y ^= y >> np.uint32(11)
    y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
    y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
    words: NDArray[np.uint32] = y ^ (y >> np.uint32(18))
    return words


def search(left: NDArray[np.int64], seeds: range) -> list[int]:
    """Return the seeds that unmask an upload to valid numbers.

    Args:
        left: The first numbers of an upload modulo 2^32, with one remaining mask.
        seeds: Seeds to try.
    """
    found, words = [], left.astype(np.uint32)[:, None]
    for start in range(seeds.start, seeds.stop, BATCH):
        tried = np.arange(start, min(start + BATCH, seeds.stop)).astype(np.uint32)
        fits = (words - first_words(tried, len(left)) <= flower.LEVELS).all(axis=0)
        found += tried[fits].tolist()
    return found


def control() -> Finding:
    """Search around the seed of the mask between the victim and the one client that doesn't collude."""
    clients = flower.updates([COLLUDER, OTHER, flower.VICTIM])
    cohort = Cohort(clients, reconstruction_threshold=2)
    outcome = cohort.round(flower.MODEL)

    def key_with_victim(node: int) -> bytes:
        private = flower.remembered(cohort, node)["sk1"]
        return flower.mask_keys(outcome, node, private)[flower.VICTIM]

    # Known to the server and the colluder; the victim, with the highest number, has added all its masks.
    known = [(flower.handed_over(outcome, flower.VICTIM)[0], -1), (key_with_victim(COLLUDER), -1)]
    left = flower.unmasked(outcome.masked(flower.VICTIM), known)

    right = folded(key_with_victim(OTHER))  # used only for the range of the search
    start = min(max(right - TRIED // 3, 0), 2**32 - TRIED)
    begun = time.perf_counter()
    found = search(np.concatenate(left)[:CHECKED], range(start, start + TRIED))
    rate = TRIED / (time.perf_counter() - begun)
    if len(found) != 1:
        return Finding(False, f"{len(found)} of {TRIED:,} seeds fit")
    weight, update = flower.plain(flower.unmasked(left, [(found[0].to_bytes(4, "little"), -1)]))
    what = (
        f"the one seed of {TRIED:,} that fits, at {rate / 1e6:.1f} million a second on one core: all 2^32 take "
        f"{2**32 / rate / 3600:.2f} core-hours; the victim's weight {weight:.3f} and its update"
    )
    return recovery(what, update, clients[flower.VICTIM].vector, flower.TOLERANCE)


def ours(adversary: Adversary) -> Finding:
    """Mask with two seeds that fold to the same 32 bits."""
    ring, seeds = Ring(32), (bytes(32), bytes([1, 0, 0, 0, 1]) + bytes(27))
    masks = [ring.zeros(CHECKED) for _ in seeds]
    for mask, seed in zip(masks, seeds, strict=True):
        ring.add_mask(mask, seed)
    if folded(seeds[0]) == folded(seeds[1]) and np.array_equal(masks[0], masks[1]):
        return Finding(True, "seeds that fold to the same 32 bits give the same mask")
    return Finding(False, f"nothing to search: a seed has {8 * len(seeds[0])} bits, and each of them counts")
