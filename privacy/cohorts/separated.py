"""B-min-separated cohorts: a client takes part at most once in so many rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.privacy.cohorts.draw import draw_separated, group_of
from fedsim.privacy.cohorts.participation import History, Participation
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.cohorts.sampling import CohortSampling, Coins


class SeparatedCohorts(CohortSampling):
    """Cohorts that respect a participation pattern, checked by a secret history.

    Clients with no participations left are not drawn.

    Args:
        rule: The public rule.
        participation: How often and how far apart a client takes part.
        coins: Returns a round's random generator.
    """

    remembers = True

    def __init__(self, rule: Cohorts, participation: Participation, coins: Coins) -> None:
        super().__init__()
        self._rule = rule
        self._participation = participation
        self._coins = coins
        self._groups = [group_of(str(client), participation.separation) for client in range(rule.population)]
        self._history = History(participation)

    def draw(self, round_: int, clients: int) -> list[int]:
        """Draw a round's clients, in ascending order, and record their participation, whether or not they answer.

        A round that was drawn before a kill gets the same clients again.

        Raises:
            ValueError: A client would break the separation.
        """
        cohort = self.noted.get(round_)
        if cohort is None:
            drawn = draw_separated(
                round_, self._participation.separation, self._rule.cohort, self._groups, self._coins(round_)
            )
            cohort = [client for client in drawn if not self._history.is_spent(client)]
        self._history.admit(round_, cohort)
        if round_ not in self.noted:
            self.note(round_, cohort)
        return cohort

    def abandon(self, round_: int, clients: int) -> None:
        """Count the clients of an interrupted round as having taken part."""
        self.draw(round_, clients)

    def state(self) -> dict[str, Any]:
        """Return each client's last participation and their number."""
        return self._history.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. As `CohortSampling` says."""
        self._history = History(self._participation, state)
