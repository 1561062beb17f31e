"""How an account comes to its ledger: this server notes what it releases, or clients do what they release."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from fedsim.errors import RunFailed
from fedsim.experiment import Experiment
from fedsim.privacy.events import AnyEvent, Event, LocalEvent, Noise
from fedsim.privacy.ledger import Ledger
from fedsim.results.ledger import LedgerFile


class KeptLedger(ABC):
    """A ledger, and the file that it is in once the run has a directory.

    Nothing goes on past its budget: before a round's clients are asked, and before this server releases a sum,
    `check_room` counts what the ledger has and compares it with what was planned for the whole run. Whole numbers
    do: what a run releases is one mechanism over and over, with the noise, the rate and the sensitivity of the plan,
    and epsilon of a composition never falls with one more of them (leaving the last ones out is post-processing). So
    a count within the plan's keeps what is spent within the epsilon that the plan was made for.

    Attributes:
        noise: Where the noise comes from.
        ledger: What was released so far.
        charges_ahead: Whether what clients are asked for is noted before they are, and not what they say of it.
    """

    charges_ahead = False

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.ledger = Ledger()
        self._file: LedgerFile | None = None

    def open(self, file: LedgerFile, events: Sequence[AnyEvent]) -> None:
        """Keep the ledger in a file, and go on from the events that are in it."""
        self._file = file
        self.ledger.extend(events)

    def spent_out(self, clients: Sequence[int]) -> dict[int, str]:
        """Return why some of those who were drawn are not asked: they have released all that they may."""
        return {}

    @abstractmethod
    def check_room(self, round_: int, clients: Sequence[int] = ()) -> None:
        """Refuse a round that would bring a count of releases above what was planned for the whole run.

        Args:
            round_: That is about to begin, or to release its sum; from 1.
            clients: That are about to be asked.

        Raises:
            RunFailed: It would, or the ledger is not of this run's mechanism.
        """

    def _write(self, events: Sequence[AnyEvent]) -> None:
        """Note events; they are on the disk when this returns."""
        if self._file is not None and events:
            self._file.write(events)
        self.ledger.extend(events)


class KeptByServer(KeptLedger, ABC):
    """The ledger of what this server releases itself: clients need to know nothing of it."""

    def for_clients(self) -> dict[str, Any]:
        """Return what clients have to know of it, for a message's config: nothing."""
        return {}

    def note(self, events: Sequence[AnyEvent]) -> None:
        """Note what was released; it is on the disk when this returns."""
        self._write(events)

    def note_planned(self, round_: int, clients: Sequence[int]) -> None:
        """Note nothing: this server notes what it releases itself."""


class KeptByClients(KeptLedger, ABC):
    """The ledger of what clients release: their events come with their replies, or are in the file before those.

    Args:
        experiment: With secure aggregation no event comes, and what is planned is noted instead.
        most: Participations of a client at most; None: there is no limit.
    """

    def __init__(self, experiment: Experiment, most: int | None) -> None:
        super().__init__(Noise(experiment.privacy.noise))
        self._most = most
        self._participations = min(most or experiment.rounds, experiment.rounds)
        self.charges_ahead = experiment.privacy.secagg is not None

    def for_clients(self) -> dict[str, Any]:
        """Return what clients have to know of it, for a message's config: where to note what they release."""
        if self._file is not None and self._file.lasting and not self.charges_ahead:
            return {"ledger": str(self._file.path)}
        return {}

    def note(self, events: Sequence[AnyEvent]) -> None:
        """Note what a round's clients released."""
        self.ledger.extend(events if self._file is None else self._file.take(events))

    def note_planned(self, round_: int, clients: Sequence[int]) -> None:
        """Note what clients that are about to be asked will release at most.

        With secure aggregation nothing else is known of it, and from a client of another machine nothing may come
        any more once this process has ended: who then fails is charged too. Nobody is charged
        beyond the participations that it may have, for a client refuses to go beyond them.
        """
        so_far = {} if self._most is None else self.ledger.participations()
        may = (client for client in clients if self._most is None or so_far.get(client, 0) < self._most)
        self._write([self._planned(round_, client) for client in may])

    def spent_out(self, clients: Sequence[int]) -> dict[int, str]:
        """Return why some of those who were drawn are not asked: they have released all that they may.

        They would refuse by their own count, but for what a worker that died had not yet said of it: that is in the
        ledger alone.
        """
        if self._most is None:
            return {}
        self._catch_up()
        why = f"BudgetExhausted: has taken part in {self._participations} rounds, all that max-participations allows"
        return {c: why for c in clients if self.ledger.releases_of(c) == self._planned_releases(c)}

    def check_room(self, round_: int, clients: Sequence[int] = ()) -> None:
        """Refuse a round in which a client's releases would become more than are planned for it in the whole run.

        Clients have disjoint data: what one has spent is nothing to the others.

        Args:
            round_: That is about to begin; from 1.
            clients: That are about to be asked.

        Raises:
            RunFailed: They would.
        """
        self._catch_up()
        for client in clients:
            so_far, planned = self.ledger.releases_of(client), self._planned_releases(client)
            if so_far + self._releases(client) > planned:
                raise RunFailed(
                    f"round {round_}: client {client} has {so_far} releases in the ledger, of {planned} that are planned "
                    f"for the whole run, and would have {self._releases(client)} more; nothing goes on past its budget"
                )

    def _catch_up(self) -> None:
        """Read what clients have noted since: some may have come late, or died after they had noted it."""
        if self._file is not None and self._file.lasting and not self.charges_ahead:
            self.ledger.extend(self._file.take(()))

    def _planned_releases(self, client: int) -> int:
        """Return how often a client releases at most in the whole run."""
        return self._participations * self._releases(client)

    @abstractmethod
    def _releases(self, client: int) -> int:
        """Return how often a client releases in a round."""

    @abstractmethod
    def _planned(self, round_: int, client: int) -> Event | LocalEvent:
        """Return the event of what a client is to release in a round."""
