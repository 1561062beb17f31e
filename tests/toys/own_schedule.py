"""A schedule of rounds of one's own, in one file: more clients are asked than are needed, and the first ones count.

Over-selection as in Bonawitz et al. 2019, "Towards federated learning at scale: system design".

[server]
cohort = 4
schedule = "tests.toys.own_schedule:OverSelection"

[server.schedule-options]
factor = 1.5
"""

from __future__ import annotations

import math

from fedsim.server.aggregation.gathered import Each, gather
from fedsim.server.aggregation.updates import Collected
from fedsim.server.schedules import Schedule


class OverSelection(Schedule):
    """Asks `factor * cohort` clients; the `cohort` that are quickest, in virtual time, make the next model."""

    def __init__(self, cohort, clients, coins, *, uniform, factor=1.3):
        super().__init__()
        self._asked = min(math.ceil(factor * cohort), clients)
        self._cohort = cohort
        self._coins = coins

    def draw(self, round_, clients):
        """Draw the clients to ask, and the fast ones among them."""
        coins = self._coins(round_)
        asked = coins.choice(clients, size=self._asked, replace=False).tolist()
        times = dict(zip(asked, coins.exponential(size=len(asked)).tolist(), strict=True))
        self._quick = sorted(asked, key=times.__getitem__)[: self._cohort]
        return sorted(asked)

    def collect(self, ask):
        """Have all train, and take the quick ones' updates."""
        ask.charge(ask.grid.clients)
        updates, failures, events = gather(ask)
        quick = [message for client, (_, message) in updates.items() if client in self._quick]
        slow = dict.fromkeys(updates.keys() - set(self._quick), "was too slow")
        return Collected(Each(quick), failures | slow, events)
