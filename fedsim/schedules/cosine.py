"""A rate that falls along half a cosine (Loshchilov and Hutter 2017, without restarts)."""

import math


def cosine(round_: int, rounds: int, floor: float) -> float:
    """Return the factor on the learning rate: 1 in round 1, `floor`, in [0, 1], in the round after the last.

    So the last round still trains where `floor` is 0.
    """
    return floor + (1 - floor) * (1 + math.cos(math.pi * (round_ - 1) / rounds)) / 2
