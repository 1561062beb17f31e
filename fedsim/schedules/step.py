"""A rate that falls in steps of several rounds."""


def step(round_: int, rounds: int, every: int, gamma: float) -> float:
    """Return the factor on the learning rate in a round from 1: `gamma`, in (0, 1], to the number of steps so far.

    There are `every` rounds from one step to the next.
    """
    return gamma ** ((round_ - 1) // every)
