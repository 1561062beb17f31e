"""The ledger: the events of a run, and what they have in common, for the accountant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fedsim.privacy.events import (
    AnyEvent,
    CohortEvent,
    Event,
    Law,
    MatrixEvent,
    Relation,
    Sampling,
)


class Release(NamedTuple):
    """What the steps of an event have in common: a sampled Gaussian mechanism."""

    noise_multiplier: float
    rate: float
    max_batch: int | None
    records: int | None


class LocalRelease(NamedTuple):
    """What a client's own releases have in common."""

    law: Law
    noise_multiplier: float


class CohortRelease(NamedTuple):
    """What rounds of central client-level privacy have in common."""

    noise_multiplier: float
    relation: Relation
    sampling: Sampling
    clients: int | None
    cohort: int
    max_cohort: int | None
    separation: int | None
    rate: float | None = None


class MatrixRelease(NamedTuple):
    """What rounds with correlated noise have in common."""

    strategy: str
    rounds: int
    relation: Relation
    sum_sensitivity: float
    sensitivity: float
    noise_multiplier: float
    bands: int | None
    buffers: int | None
    separation: int
    participations: int
    sampling: Sampling
    clients: int
    cohort: int


class Ledger:
    """Events, in the order in which they were noted; none is ever taken back."""

    def __init__(self, events: Iterable[AnyEvent] = ()) -> None:
        self._events: list[AnyEvent] = []
        self._participations: dict[int, set[int]] = {}
        self._by_client: dict[int, Counter[Release | LocalRelease]] = {}
        self._by_cohorts: Counter[CohortRelease] = Counter()
        self._last_cohort = 0  # the round of the last of them
        self._rows: dict[MatrixRelease, list[int]] = {}
        self.extend(events)

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[AnyEvent]:
        return iter(self._events)

    def extend(self, events: Iterable[AnyEvent]) -> None:
        """Note events."""
        for event in events:
            self._events.append(event)
            if isinstance(event, CohortEvent):
                terms = {name: getattr(event, name) for name in CohortRelease._fields}
                self._by_cohorts[CohortRelease(**terms)] += 1
                self._last_cohort = max(self._last_cohort, event.round)
                continue
            if isinstance(event, MatrixEvent):
                matrix = MatrixRelease(**{name: getattr(event, name) for name in MatrixRelease._fields})
                self._rows.setdefault(matrix, []).append(event.round)
                continue
            self._participations.setdefault(event.client, set()).add(event.round)
            release: Release | LocalRelease
            if isinstance(event, Event):
                release = Release(event.noise_multiplier, event.rate, event.max_batch, event.records)
                count = event.steps
            else:
                release, count = LocalRelease(event.law, event.noise_multiplier), 1
            self._by_client.setdefault(event.client, Counter())[release] += count

    def participations(self) -> dict[int, int]:
        """Return in how many rounds each client that has an event of its own in the ledger took part."""
        return {client: len(rounds) for client, rounds in self._participations.items()}

    def spent(self) -> set[tuple[Release, int]]:
        """Return what clients have released of DP-SGD so far, and in how many steps; what several have alike, once.

        Raises:
            ValueError: A client's noise or sampling has changed, so that its steps are not of one mechanism.
        """
        return {(release, count) for release, count in self._spent() if isinstance(release, Release)}

    def spent_locally(self) -> set[tuple[LocalRelease, int]]:
        """Return what clients have noised themselves so far, and how often; what several have alike, once.

        Raises:
            ValueError: A client's noise has changed, so that its releases are not of one mechanism.
        """
        return {(release, count) for release, count in self._spent() if isinstance(release, LocalRelease)}

    def releases_of(self, client: int) -> int:
        """Return how often a client has released by itself: steps of DP-SGD, or updates that it noised.

        A round that is in the ledger twice counts twice.
        """
        return sum(self._by_client.get(client, {}).values())

    def spent_by_cohorts(self) -> tuple[CohortRelease, int] | None:
        """Return what rounds of central client-level privacy release, and how many count; None: there were none.

        A round before the last that has no event, as its sum did not come, counts too: that there was none is
        something that the round has told, and it was one of those that the cohorts' rule is of.

        Raises:
            ValueError: The noise or the cohorts have changed, so that the rounds are not of one mechanism.
        """
        if len(self._by_cohorts) > 1:
            raise ValueError("the noise or the cohorts' rule has changed between the rounds")
        for release, count in self._by_cohorts.items():
            return release, max(count, self._last_cohort)
        return None

    def spent_by_rows(self) -> tuple[MatrixRelease, int] | None:
        """Return what rounds with correlated noise have released, and the last of them; None: there were none.

        Raises:
            ValueError: The mechanism has changed between the rounds, or a row of its noise was released twice.
        """
        if len(self._rows) > 1:
            raise ValueError("the noise or the cohorts' rule has changed between the rounds")
        for release, rows in self._rows.items():
            if len(set(rows)) < len(rows):
                raise ValueError("a row of the noise was released twice: their difference has no noise")
            return release, max(rows)
        return None

    def _spent(self) -> set[tuple[Release | LocalRelease, int]]:
        spent = set()
        for client, releases in self._by_client.items():
            if len(releases) > 1:
                raise ValueError(f"client {client}'s noise or sampling has changed between its events")
            spent |= set(releases.items())
        return spent
