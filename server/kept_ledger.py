"""How an account comes to its ledger: this server notes what it releases, or clients do what they release."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from fedsim.experiment import Experiment
from fedsim.results.ledger import LedgerFile
from privacy.events import AnyEvent, Event, LocalEvent, Noise
from privacy.ledger import Ledger


class KeptLedger:
    """A ledger, and the file that it is in once the run has a directory.

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

    def _write(self, events: Sequence[AnyEvent]) -> None:
        """Note events; they are on the disk when this returns."""
        if self._file is not None and events:
            self._file.write(events)
        self.ledger.extend(events)


class KeptByServer(KeptLedger):
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

    @abstractmethod
    def _planned(self, round_: int, client: int) -> Event | LocalEvent:
        """Return the event of what a client is to release in a round."""
