"""A rate that falls along half a cosine (Loshchilov and Hutter 2017, without restarts)."""

from __future__ import annotations

import math


def cosine(round_: int, rounds: int, floor: float) -> float:
    """Return the factor on the learning rate: 1 in round 1, `floor` in the round that would follow the last.

    So the last round still trains where `floor` is 0.

    Args:
        round_: From 1 to `rounds`.
        rounds: Over which the rate falls.
        floor: From 0 to 1.
    """
    return floor + (1 - floor) * (1 + math.cos(math.pi * (round_ - 1) / rounds)) / 2
