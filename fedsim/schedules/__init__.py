"""Learning-rate schedules of the clients: one file each, pure functions of the round.

A schedule is a function `(round, rounds, **options) -> factor` of the learning rate. Rates change by round, not by
step: a client keeps nothing between rounds, and its number of steps depends on its examples.
"""

__all__: list[str] = []
