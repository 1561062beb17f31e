"""The same rate in all rounds."""


def constant(round_: int, rounds: int) -> float:
    """Return the factor on the learning rate: 1."""
    return 1.0
