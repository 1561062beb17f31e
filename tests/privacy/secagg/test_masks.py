"""What the server sees depends on the vectors through their sum alone: in a tiny ring, over all masks there are.

Each element of a vector stands for one choice of all masks at once, so that a single run of the code goes through
every choice; the masks are ideal, which is what AES stands in for.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest

from fedsim.privacy.secagg.masking import own_seed, pair_key, pair_masks
from fedsim.privacy.secagg.primitives import AgreementKey
from fedsim.privacy.secagg.ring import Ring

BITS, SESSION = 2, b"s" * 32
CLIENTS = (0, 1, 2)
KEYS = {c: AgreementKey(bytes([c + 1]) * 32) for c in CLIENTS}
OWN = {c: own_seed(bytes([c + 9]) * 32, SESSION) for c in CLIENTS}
PAIRS = list(itertools.combinations(CLIENTS, 2))
PAIR = {(a, b): pair_key(b"pair-mask", KEYS[a], a, KEYS[b].public, b, SESSION) for a, b in PAIRS}
SEEDS = [*OWN.values(), *PAIR.values()]
MASKS = np.indices([2**BITS] * len(SEEDS)).reshape(len(SEEDS), -1).astype(np.uint32)  # a column a choice


class IdealRing(Ring):
    """Takes the mask of a seed from the table of all choices."""

    def add_mask(self, values, seed, sign=1):
        values += np.uint32(sign % 2**BITS) * MASKS[SEEDS.index(seed)]
        values %= 2**BITS


RING = IdealRing(BITS)


def upload(client: int, number: int, *, own: bool = True) -> np.ndarray:
    """Return what a client with a number sends, for each choice of the masks."""
    values = np.full(MASKS.shape[1], number, dtype=np.uint32)
    if own:
        RING.add_mask(values, OWN[client], 1)
    others = {other: KEYS[other].public for other in CLIENTS if other != client}
    for seed, sign in pair_masks(KEYS[client], client, others, SESSION):
        RING.add_mask(values, seed, sign)
    return values


def views(
    uploaded: tuple[int, ...], *, own: bool = True, late: tuple[int, ...] = (), both: tuple[int, ...] = ()
):
    """Return the distribution of the server's view for each choice of the numbers, by numbers.

    Args:
        uploaded: Who is in the sum: their own masks are revealed; of who is lost, the masks in common.
        own: Whether there are own masks.
        late: Of whom uploads come after they were called lost.
        both: Of whom both kinds of masks are revealed.
    """
    shown = [OWN[c] for c in {*uploaded, *both}] if own else []
    lost = {c for c in CLIENTS if c not in uploaded} | set(both)
    shown += [seed for pair, seed in PAIR.items() if lost & set(pair)]
    found = {}
    for numbers in itertools.product(range(2**BITS), repeat=len(CLIENTS)):
        sent = [upload(c, numbers[c], own=own) for c in (*uploaded, *late)]
        columns = np.stack([*sent, *(MASKS[SEEDS.index(seed)] for seed in shown)])
        codes = (columns.T @ (2**BITS) ** np.arange(len(columns))).astype(np.int64)
        found[numbers] = tuple(map(tuple, np.unique(codes, return_counts=True)))
    return found


def says_only(found: dict, about: tuple[int, ...]) -> bool:
    """Say whether views are the same for the same sum of some clients' numbers, and differ for different sums."""
    by_sum = defaultdict(set)
    for numbers, view in found.items():
        by_sum[sum(numbers[c] for c in about) % 2**BITS].add(view)
    return all(len(same) == 1 for same in by_sum.values()) and len(set.union(*by_sum.values())) == 2**BITS


@pytest.mark.parametrize("uploaded", [(0, 1, 2), (0, 1), (1, 2), (0, 2)])
def test_the_servers_view_reveals_only_the_sum(uploaded):
    assert says_only(views(uploaded), about=uploaded)


@pytest.mark.parametrize("late", CLIENTS)
def test_not_even_where_a_client_that_was_called_lost_uploads_late(late):
    uploaded = tuple(c for c in CLIENTS if c != late)
    assert says_only(views(uploaded, late=(late,)), about=uploaded)


def test_controls_without_own_masks_or_with_both_secrets_say_more():
    assert not says_only(views((0, 1), own=False, late=(2,)), about=(0, 1))
    assert not says_only(views((0, 1, 2), both=(1,)), about=(0, 1, 2))
