"""The ledger: the events of a run, grouped by terms for the accountant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from fedsim.privacy.events import Event


@dataclass
class Spent:
    """The server's releases of equal terms.

    Attributes:
        count: Number of releases.
        last: The round of the last one, from 1.
        repeated: Whether a round has two of them.
    """

    count: int = 0
    last: int = 0
    repeated: bool = False


class Ledger:
    """Events in the order in which they were noted; none is ever removed."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: list[Event] = []
        self._rounds: dict[Hashable, set[int]] = {}
        self._spent: dict[Hashable, Spent] = {}
        self._participations: dict[int, set[int]] = {}
        self._by_client: dict[int, Counter[Hashable]] = {}
        self.extend(events)

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def extend(self, events: Iterable[Event]) -> None:
        """Note events."""
        for event in events:
            self._events.append(event)
            client, terms = event.released_by, event.terms()
            if client is not None:
                self._participations.setdefault(client, set()).add(event.round)
                self._by_client.setdefault(client, Counter())[terms] += event.count()
                continue
            rounds, spent = self._rounds.setdefault(terms, set()), self._spent.setdefault(terms, Spent())
            spent.repeated |= event.round in rounds
            rounds.add(event.round)
            spent.count += event.count()
            spent.last = max(spent.last, event.round)

    def participations(self) -> dict[int, int]:
        """Return the number of rounds of each client that released its own updates."""
        return {client: len(rounds) for client, rounds in self._participations.items()}

    def releases_of(self, client: int) -> int:
        """Return a client's number of own releases: steps of DP-SGD, or updates that it noised.

        A round that is in the ledger twice counts twice.
        """
        return sum(self._by_client.get(client, {}).values())

    def spent(self) -> Mapping[Hashable, Spent]:
        """Return the server's releases, by the terms of the events."""
        return self._spent

    def spent_by_clients(self) -> set[tuple[Hashable, int]]:
        """Return the distinct pairs of terms and number of releases of clients.

        Raises:
            ValueError: A client's noise or sampling has changed between its releases.
        """
        spent = set()
        for client, releases in self._by_client.items():
            if len(releases) > 1:
                raise ValueError(f"client {client}'s noise or sampling has changed between its events")
            spent |= set(releases.items())
        return spent
