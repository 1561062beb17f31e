"""A user's own cohort sampling, in one file: clients take turns, from a random start."""

from __future__ import annotations

from fedsim.privacy.cohorts.sampling import CohortSampling


class TakingTurns(CohortSampling):
    """So many clients a round, one after another, with a stride."""

    def __init__(self, cohort, clients, coins, stride=1):
        super().__init__()
        self._cohort = cohort
        self._stride = stride
        self._next = int(coins(1).integers(clients))

    def draw(self, round_, clients):
        """Return the next clients."""
        cohort = [(self._next + k * self._stride) % clients for k in range(self._cohort)]
        self._next = (cohort[-1] + self._stride) % clients
        return cohort

    def state(self):
        """Return whose turn it is."""
        return {"next": self._next}

    def restore(self, state):
        """Go on from there."""
        self._next = state["next"]


class Wrong(TakingTurns):
    """Draws what it is told to."""

    def __init__(self, cohort, clients, coins, drawn=()):
        super().__init__(cohort, clients, coins)
        self._drawn = drawn

    def draw(self, round_, clients):
        """Return it."""
        return self._drawn
