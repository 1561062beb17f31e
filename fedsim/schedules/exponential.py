"""A rate that falls by the same factor after each round."""


def exponential(round_: int, rounds: int, learning_rate_decay: float) -> float:
    """Return the factor on the learning rate in a round from 1: the decay, in (0, 1], to the power of `round_ - 1`."""
    return learning_rate_decay ** (round_ - 1)
