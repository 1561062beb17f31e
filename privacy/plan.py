"""A mechanism's plan: its noise for a training, and its cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from fedsim.privacy.cohorts.rule import Cohorts, roomy_cohort
from fedsim.privacy.cohorts.sampling import CohortSampling, IndependentCohorts
from fedsim.privacy.events import Event, Ledger, Noise
from fedsim.privacy.halves import ServerHalf
from fedsim.privacy.training import Draws

MUCH_CUT = 0.01  # share of the drawn clients, or of the drawn examples
NOISE = {
    Noise.SEEDED: "seeded: epsilon is the mechanism's, not this artefact's; whoever has the seed has the noise",
    Noise.SYSTEM: "of the operating system, added exactly on a grid; the manifest's arithmetic says what remains",
}


class Plan(ABC):
    """A mechanism's noise for a training, and its cost.

    No run exceeds its budget: `check_room` compares the ledger's number of releases with the planned number for the
    whole run. Counting is enough: a run repeats one mechanism with the plan's noise, rate and sensitivity, and the
    epsilon of a composition never falls with more releases (leaving out the last ones is post-processing). So a count
    within the plan keeps the spent epsilon within the planned one.

    Attributes:
        by_clients: Whether clients release their updates, and send events with their replies; else the server
            releases sums.
        cohorts: The public rule of the cohorts.
        noise_multiplier: Given, or calibrated to an epsilon.
    """

    by_clients: ClassVar[bool]
    cohorts: Cohorts
    noise_multiplier: float

    def instructions(self) -> dict[str, Any]:
        """Return the plan's values for clients, for a message's config."""
        return {}

    def cautions(self) -> list[str]:
        """Return what the run is told before its first round: a key whose limit cuts much, and a value to try."""
        rule = self.cohorts
        if rule.cut <= MUCH_CUT:
            return []
        roomy = roomy_cohort(rule.cohort, rule.population)
        return [
            f"server.max-cohort = {rule.max_cohort}: cuts {100 * rule.cut:.2g} % of the drawn clients; try {roomy}"
        ]

    def sampling(self, draws: Draws) -> CohortSampling:
        """Return the cohort sampling."""
        return IndependentCohorts(self.cohorts, draws.coins)

    def server(self, draws: Draws) -> ServerHalf:
        """Return the server's half; raises `ValueError` if no theorem covers the plan's values."""
        return ServerHalf()

    def exhausted(self, ledger: Ledger, clients: Sequence[int]) -> dict[int, str]:
        """Return the drawn clients that have no budget left and are not asked, each with the reason."""
        return {}

    @abstractmethod
    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a round that would exceed the planned number of releases of the whole run.

        Args:
            ledger: Releases so far.
            round_: The round that is about to begin, or to release its sum; from 1.
            clients: Clients that are about to be asked.

        Raises:
            ValueError: The round would exceed the budget, or the ledger belongs to another mechanism.
        """

    def charge(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> list[Event]:
        """Return the events of what clients that are about to be asked release by themselves, at most."""
        return []

    @abstractmethod
    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the columns of a row after some begun rounds: epsilon so far, by adversary, with its terms.

        Raises `ValueError` if the ledger belongs to another mechanism.
        """

    @abstractmethod
    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the manifest's report by adversary: epsilon of the whole run, and epsilon spent. As `row`."""


class ReleasedByClients(Plan):
    """The plan of a mechanism with updates released by clients.

    Clients have disjoint data, so each has a budget of its own.

    Attributes:
        most: Limit on a client's participations, or None.
        participations: Most participations of a client in the whole run.
    """

    by_clients = True
    most: int | None
    participations: int

    @abstractmethod
    def releases(self, client: int) -> int:
        """Return a client's number of releases in a round."""

    @abstractmethod
    def planned(self, round_: int, client: int) -> Event:
        """Return the event of a client's planned release in a round."""

    def exhausted(self, ledger: Ledger, clients: Sequence[int]) -> dict[int, str]:
        """Return the drawn clients that have no budget left. As `Plan` says.

        Clients refuse by their own count too, but releases of a worker that died may be in the ledger only.
        """
        if self.most is None:
            return {}
        why = f"BudgetExhausted: has taken part in {self.participations} rounds, all that max-participations allows"
        return {c: why for c in clients if ledger.releases_of(c) == self.participations * self.releases(c)}

    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a round in which a client would exceed its planned releases. As `Plan` says."""
        for client in clients:
            so_far, planned = ledger.releases_of(client), self.participations * self.releases(client)
            if so_far + self.releases(client) > planned:
                raise ValueError(
                    f"client {client} has {so_far} releases in the ledger, of {planned} that are planned for the whole "
                    f"run, and would have {self.releases(client)} more; nothing goes on past its budget"
                )

    def charge(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> list[Event]:
        """Return the events of the clients' planned releases: none beyond its participations, which a client refuses."""
        so_far = {} if self.most is None else ledger.participations()
        may = (client for client in clients if self.most is None or so_far.get(client, 0) < self.most)
        return [self.planned(round_, client) for client in may]
