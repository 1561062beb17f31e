"""A rate that falls in steps of several rounds."""

from __future__ import annotations


def step(round_: int, rounds: int, every: int, gamma: float) -> float:
    """Return the factor on the learning rate: `gamma` to the number of steps so far.

    Args:
        round_: From 1 to `rounds`.
        rounds: Of the schedule; makes no difference.
        every: Rounds from one step to the next.
        gamma: Factor of one step, above 0, at most 1.
    """
    return gamma ** ((round_ - 1) // every)
