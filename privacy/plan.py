"""A mechanism's noise for a training, and what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.cohorts.sampling import CohortSampling, IndependentCohorts
from fedsim.privacy.events import Event, Noise
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.server_half import ServerHalf
from fedsim.privacy.training import Draws

NOISE = {
    Noise.SEEDED: "seeded: epsilon is the mechanism's, not this artefact's; whoever has the seed has the noise",
    Noise.SYSTEM: "of the operating system, added exactly on a grid; the manifest's arithmetic says what remains",
}


class Plan(ABC):
    """A mechanism's noise for a training, and what it costs.

    Nothing goes on past its budget: `check_room` counts what the ledger has, and compares it with what is planned for
    the whole run. Whole numbers do: what a run releases is one mechanism over and over, with the noise, the rate and
    the sensitivity of the plan, and epsilon of a composition never falls with one more of them (leaving the last ones
    out is post-processing). So a count within the plan's keeps what is spent within the epsilon that the plan was
    made for.

    Attributes:
        by_clients: Whether clients release their updates, so that their events come with their replies; else the server
            releases sums.
        cohorts: The public rule of the cohorts.
        noise_multiplier: Given, or calibrated for the epsilon that was asked for.
    """

    by_clients: ClassVar[bool]
    cohorts: Cohorts
    noise_multiplier: float

    def instructions(self) -> dict[str, Any]:
        """Return what clients are told, for a message's config."""
        return {}

    def sampling(self, draws: Draws) -> CohortSampling:
        """Return what draws the cohorts."""
        return IndependentCohorts(self.cohorts, draws.coins)

    def server(self, draws: Draws) -> ServerHalf:
        """Return the server's half.

        Raises:
            ValueError: No theorem covers these values.
        """
        return ServerHalf()

    def spent_out(self, ledger: Ledger, clients: Sequence[int]) -> dict[int, str]:
        """Return why some of the clients that were drawn are not asked: they have released all that they may."""
        return {}

    @abstractmethod
    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a round that would bring a count of releases above what is planned for the whole run.

        Args:
            ledger: What was released so far.
            round_: That is about to begin, or to release its sum; from 1.
            clients: That are about to be asked.

        Raises:
            ValueError: It would, or the ledger is not of this mechanism.
        """

    def charge(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> list[Event]:
        """Return the events of what clients that are about to be asked release by themselves, at most."""
        return []

    @abstractmethod
    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return what the row of a round says: epsilon so far, by adversary, with what belongs to it.

        Args:
            ledger: What was released so far.
            rounds: That were begun.

        Raises:
            ValueError: The ledger is not of this mechanism.
        """

    @abstractmethod
    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return what the manifest says, by adversary: epsilon of the whole run, and what is spent. As `row`."""


class ReleasedByClients(Plan):
    """The plan of a mechanism whose clients release their updates.

    Clients have disjoint data: what one has spent is nothing to the others.

    Attributes:
        most: Participations of a client at most; None: there is no limit.
        participations: Of a client in the whole run, at most.
    """

    by_clients = True
    most: int | None
    participations: int

    @abstractmethod
    def releases(self, client: int) -> int:
        """Return how often a client releases in a round."""

    @abstractmethod
    def planned(self, round_: int, client: int) -> Event:
        """Return the event of what a client is to release in a round."""

    def spent_out(self, ledger: Ledger, clients: Sequence[int]) -> dict[int, str]:
        """Return why some of the clients that were drawn are not asked: they have released all that they may.

        They would refuse by their own count, but for what a worker that died had not yet said of it: that is in the
        ledger alone.
        """
        if self.most is None:
            return {}
        why = f"BudgetExhausted: has taken part in {self.participations} rounds, all that max-participations allows"
        return {c: why for c in clients if ledger.releases_of(c) == self.participations * self.releases(c)}

    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a round in which a client's releases would become more than are planned for it. As `Plan` says."""
        for client in clients:
            so_far, planned = ledger.releases_of(client), self.participations * self.releases(client)
            if so_far + self.releases(client) > planned:
                raise ValueError(
                    f"client {client} has {so_far} releases in the ledger, of {planned} that are planned for the whole "
                    f"run, and would have {self.releases(client)} more; nothing goes on past its budget"
                )

    def charge(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> list[Event]:
        """Return the events of what clients that are about to be asked release by themselves, at most.

        Nobody is charged beyond its participations, for a client refuses to go beyond them.
        """
        so_far = {} if self.most is None else ledger.participations()
        may = (client for client in clients if self.most is None or so_far.get(client, 0) < self.most)
        return [self.planned(round_, client) for client in may]
