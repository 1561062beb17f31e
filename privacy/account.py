"""Privacy account of a run: its ledger, the ledger's file, and the plan that turns it into costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fedsim.privacy.events import Event, Ledger, Noise
from fedsim.privacy.plan import Plan


class LedgerFile(Protocol):
    """The file of a run's events, one a line."""

    @property
    def path(self) -> Any:
        """Where it is."""

    @property
    def lasting(self) -> bool:
        """Whether events are never removed, as the operating system's noise requires."""

    def write(self, events: Sequence[Event]) -> None:
        """Note events; they are on the disk when this returns."""

    def take(self, events: Sequence[Event]) -> Sequence[Event]:
        """Note a round's events, or return those that its clients have noted, late ones included."""


class Account:
    """The account of a run.

    If clients release their updates, their events arrive with the replies or are already in the file. Secure
    aggregation delivers no events, and events of clients on other machines are lost if this process ends. Clients are
    then charged before they are asked, including those that fail.

    Args:
        plan: Computes what the run costs.
        noise: Where noise comes from.
        charges_ahead: Whether clients are charged before they are asked, where they release their updates.

    Attributes:
        ledger: Events released so far.
    """

    def __init__(self, plan: Plan, noise: Noise, *, charges_ahead: bool) -> None:
        self.noise = noise
        self.ledger = Ledger()
        self.charges_ahead = charges_ahead and plan.by_clients
        self._plan = plan
        self._file: LedgerFile | None = None
        self._begun = 0

    def open(self, file: LedgerFile, events: Sequence[Event]) -> None:
        """Keep the ledger in a file, and continue from its events."""
        self._file = file
        self.ledger.extend(events)

    def instructions(self) -> dict[str, Any]:
        """Return the plan's instructions for clients and the ledger's path, for a message's config."""
        told = self._plan.instructions()
        return told if self._shared is None else told | {"ledger": str(self._shared.path)}

    def exhausted(self, clients: Sequence[int]) -> dict[int, str]:
        """Return the drawn clients that have no budget left and are not asked, each with the reason."""
        self._catch_up()
        return self._plan.exhausted(self.ledger, clients)

    def check_room(self, round_: int, clients: Sequence[int] = ()) -> None:
        """Refuse a round that would exceed the planned budget, as `Plan` says; note that the round began."""
        self._catch_up()
        self._plan.check_room(self.ledger, round_, clients)
        self._begun = max(self._begun, round_)

    def planned(self, round_: int, clients: Sequence[int]) -> Mapping[int, Event]:
        """Return the most that each of the clients about to be asked releases by itself, before `charge` notes it."""
        events = self._plan.charge(self.ledger, round_, clients) if self._plan.by_clients else []
        return {event.released_by: event for event in events if event.released_by is not None}

    def charge(self, round_: int, clients: Sequence[int]) -> None:
        """If clients are charged ahead, note the most that those about to be asked can release."""
        if self.charges_ahead:
            self._write(self._plan.charge(self.ledger, round_, clients))

    def note_released(self, event: Event) -> None:
        """Note a release of the server; it is on the disk when this returns."""
        self._write([event])

    def note_reported(self, events: Sequence[Event]) -> None:
        """Unless clients are charged ahead, note the events that a round's clients report."""
        if self._plan.by_clients and not self.charges_ahead:
            self.ledger.extend(events if self._file is None else self._file.take(events))

    def row(self, round_: int) -> dict[str, Any]:
        """Return the privacy columns of a round's row."""
        return self._plan.row(self.ledger, max(round_, self._begun))

    def report(self, rounds: int) -> dict[str, Any]:
        """Return the manifest's report after a number of rounds, by adversary. As `Plan` says."""
        return self._plan.report(self.ledger, max(rounds, self._begun))

    @property
    def _shared(self) -> LedgerFile | None:
        """The file, if clients write their events to it themselves."""
        if self._file is None or not self._file.lasting:
            return None
        return self._file if self._plan.by_clients and not self.charges_ahead else None

    def _catch_up(self) -> None:
        """Read the events that clients have written since, including clients that were late or died afterwards."""
        if self._shared is not None:
            self.ledger.extend(self._shared.take(()))

    def _write(self, events: Sequence[Event]) -> None:
        if self._file is not None and events:
            self._file.write(events)
        self.ledger.extend(events)
