"""A rate that falls by the same factor after each round."""

from __future__ import annotations


def exponential(round_: int, rounds: int, learning_rate_decay: float) -> float:
    """Return the factor on the learning rate: `learning_rate_decay ** (round_ - 1)`.

    Args:
        round_: From 1 to `rounds`.
        rounds: Of the schedule; makes no difference.
        learning_rate_decay: Above 0, at most 1.
    """
    return learning_rate_decay ** (round_ - 1)
