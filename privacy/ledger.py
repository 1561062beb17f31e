"""The ledger: what was released, as typed events, written only by what adds the noise.

An event says what the mechanism did, not what it costs: epsilon is derived from events, for an adversary, by
`privacy.accounting`. So the account can't disagree with the execution.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple, Self


class Unit(StrEnum):
    """Whose presence is hidden."""

    EXAMPLE = "example"
    CLIENT = "client"


class Relation(StrEnum):
    """Which data sets are neighbours.

    `ZERO_OUT`: one record's contribution is replaced by nothing while the number of records stays public
    (dp-accounting's REPLACE_SPECIAL); `ADD_OR_REMOVE_ONE`: a data set has one record more than the other. The
    Gaussian mechanism on a sum of clipped terms has the same sensitivity, the clip norm, under both.
    """

    ZERO_OUT = "zero-out"
    ADD_OR_REMOVE_ONE = "add-or-remove-one"


class Sampling(StrEnum):
    """How the records of a step are drawn."""

    POISSON = "poisson"  # each by its own coin
    TRUNCATED_POISSON = "truncated-poisson"  # of those, at most `max_batch`, chosen uniformly


class Noise(StrEnum):
    """Where the noise comes from: whoever has the seed has the noise."""

    SEEDED = "seeded"
    SYSTEM = "os"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One client's participation in one round: `steps` releases of a sum of sampled, clipped gradients.

    Attributes:
        mechanism: What released it.
        round: From 1.
        client: The client's index.
        unit: Whose presence is hidden.
        relation: Which data sets are neighbours.
        sensitivity: L2 sensitivity of each sum: the clip norm, above 0.
        noise_multiplier: Standard deviation of the noise on each sum, over `sensitivity`; at least 0.
        sampling: How a step's records are drawn.
        rate: Probability that a record is drawn for a step, above 0 and at most 1.
        max_batch: Records in a step at most, where `sampling` truncates, else None.
        records: The client's records, public.
        steps: Releases, at least 1.
        noise: Where the noise comes from.
    """

    mechanism: str
    round: int
    client: int
    unit: Unit
    relation: Relation
    sensitivity: float
    noise_multiplier: float
    sampling: Sampling
    rate: float
    max_batch: int | None
    records: int
    steps: int
    noise: Noise

    def to_json(self) -> dict[str, Any]:
        """Return the event as a line of `ledger.jsonl` has it."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Return the event of a line; raises `ValueError` where it is none."""
        values = {key.replace("-", "_"): value for key, value in tree.items()}
        if values.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"no event has the keys {', '.join(sorted(tree))}")
        kinds = {"unit": Unit, "relation": Relation, "sampling": Sampling, "noise": Noise}
        return cls(**values | {name: kind(values[name]) for name, kind in kinds.items()})

    def dumps(self) -> str:
        """Return the event as JSON text, as it travels with what was released."""
        return json.dumps(self.to_json())

    @classmethod
    def loads(cls, text: str) -> Self:
        """Return the event of a JSON text; raises `ValueError` where it is none."""
        return cls.from_json(json.loads(text))


class Release(NamedTuple):
    """What the steps of an event have in common: a sampled Gaussian mechanism."""

    noise_multiplier: float
    rate: float
    max_batch: int | None
    records: int


class Ledger:
    """Events, in the order in which they were noted; none is ever taken back."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: list[Event] = []
        self._rounds: dict[int, set[int]] = {}
        self._steps: dict[int, Counter[Release]] = {}
        self.extend(events)

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def extend(self, events: Iterable[Event]) -> None:
        """Note events."""
        for event in events:
            self._events.append(event)
            self._rounds.setdefault(event.client, set()).add(event.round)
            release = Release(event.noise_multiplier, event.rate, event.max_batch, event.records)
            self._steps.setdefault(event.client, Counter())[release] += event.steps

    def participations(self) -> dict[int, int]:
        """Return in how many rounds each client that is in the ledger took part."""
        return {client: len(rounds) for client, rounds in self._rounds.items()}

    def spent(self) -> set[tuple[Release, int]]:
        """Return what clients have released so far, and in how many steps; what several have alike, once.

        Raises:
            ValueError: A client's noise or sampling has changed, so that its steps are not of one mechanism.
        """
        spent = set()
        for client, steps in self._steps.items():
            if len(steps) > 1:
                raise ValueError(f"client {client}'s noise or sampling has changed between its events")
            spent |= set(steps.items())
        return spent
