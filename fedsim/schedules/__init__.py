"""Learning-rate schedules of the clients: one file each, pure functions of the round.

A schedule is a function `(round, rounds, **options) -> factor` of the learning rate. Rates change from round to
round, not from step to step: a client keeps nothing between rounds, and how many steps it takes in one depends on its
number of examples. A schedule over the local steps would make sense for a few clients with long local trainings; there
is none here.
"""

__all__: list[str] = []
