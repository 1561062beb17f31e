"""The account of a run: its ledger, the file that this is in, and the plan that says what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fedsim.privacy.events import Event, Noise
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.plan import Plan


class LedgerFile(Protocol):
    """The file of a run's events, one a line."""

    @property
    def path(self) -> Any:
        """Where it is."""

    @property
    def lasting(self) -> bool:
        """Whether nothing is ever cut off, as the operating system's noise needs."""

    def write(self, events: Sequence[Event]) -> None:
        """Note events; they are on the disk when this returns."""

    def take(self, events: Sequence[Event]) -> Sequence[Event]:
        """Note a round's events, or return those that its clients have noted, late ones included."""


class Account:
    """The account of a run.

    Events of a mechanism whose clients release come with their replies, or are in the file before those. With secure
    aggregation none come, and from a client of another machine nothing may come any more once this process has ended:
    then what clients are asked for is charged before they are, and who fails is charged too.

    Args:
        plan: What the run costs.
        noise: Where noise comes from.
        charges_ahead: Whether clients are charged before they are asked, where they release their updates.

    Attributes:
        ledger: What was released so far.
    """

    def __init__(self, plan: Plan, noise: Noise, *, charges_ahead: bool) -> None:
        self.noise = noise
        self.ledger = Ledger()
        self.charges_ahead = charges_ahead and plan.by_clients
        self._plan = plan
        self._file: LedgerFile | None = None
        self._begun = 0

    def open(self, file: LedgerFile, events: Sequence[Event]) -> None:
        """Keep the ledger in a file, and go on from the events that are in it."""
        self._file = file
        self.ledger.extend(events)

    def instructions(self) -> dict[str, Any]:
        """Return what clients are told, for a message's config: the plan's, and where to note what they release."""
        told = self._plan.instructions()
        return told | {"ledger": str(self._file.path)} if self._file is not None and self._is_shared else told

    def spent_out(self, clients: Sequence[int]) -> dict[int, str]:
        """Return why some of the clients that were drawn are not asked: they have released all that they may."""
        self._catch_up()
        return self._plan.spent_out(self.ledger, clients)

    def check_room(self, round_: int, clients: Sequence[int] = ()) -> None:
        """Refuse a round that would bring what is spent above what is planned; note that the round was begun.

        Args:
            round_: That is about to begin, or to release its sum; from 1.
            clients: That are about to be asked.

        Raises:
            ValueError: It would, or the ledger is not of this run's mechanism.
        """
        self._catch_up()
        self._plan.check_room(self.ledger, round_, clients)
        self._begun = max(self._begun, round_)

    def charge(self, round_: int, clients: Sequence[int]) -> None:
        """Note what clients that are about to be asked release at most, where that is charged ahead."""
        if self.charges_ahead:
            self._write(self._plan.charge(self.ledger, round_, clients))

    def note_released(self, event: Event) -> None:
        """Note what this server releases; it is on the disk when this returns."""
        self._write([event])

    def note_reported(self, events: Sequence[Event]) -> None:
        """Note what a round's clients say that they have released, where that wasn't charged ahead."""
        if self._plan.by_clients and not self.charges_ahead:
            self.ledger.extend(events if self._file is None else self._file.take(events))

    def row(self, round_: int) -> dict[str, Any]:
        """Return what privacy has cost after a round, for its row."""
        return self._plan.row(self.ledger, max(round_, self._begun))

    def report(self, rounds: int) -> dict[str, Any]:
        """Return what the manifest says, by adversary, after so many rounds.

        Raises:
            ValueError: The ledger is not of this run's mechanism.
        """
        return self._plan.report(self.ledger, max(rounds, self._begun))

    @property
    def _is_shared(self) -> bool:
        """Whether clients note what they release in the file themselves."""
        return (
            self._file is not None and self._file.lasting and self._plan.by_clients and not self.charges_ahead
        )

    def _catch_up(self) -> None:
        """Read what clients have noted since: some may have come late, or died after they had noted it."""
        if self._file is not None and self._is_shared:
            self.ledger.extend(self._file.take(()))

    def _write(self, events: Sequence[Event]) -> None:
        """Note events; they are on the disk when this returns."""
        if self._file is not None and events:
            self._file.write(events)
        self.ledger.extend(events)
