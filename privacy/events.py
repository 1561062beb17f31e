"""Releases as typed events, made only by the code that adds the noise, and the ledger of a run's.

An event describes what the mechanism did, not its cost: epsilon is derived from events, for an adversary. So the
account can't disagree with the execution. Each mechanism has its own events, in its package.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self


class Unit(StrEnum):
    """The privacy unit: that by which neighbouring data sets differ."""

    EXAMPLE = "example"
    CLIENT = "client"


class Relation(StrEnum):
    """Which data sets are neighbours.

    `ZERO_OUT`: one record's (or client's) contribution becomes zero while their number stays public (dp-accounting's
    REPLACE_SPECIAL). `ADD_OR_REMOVE_ONE`: one data set has one more than the other; their number is protected, so no
    rate, denominator or other public constant may depend on it. A sum of clipped terms has the same sensitivity, the
    clip norm, under both. `REPLACE_ONE`: one is replaced by any other, which moves such a sum by twice the clip norm;
    it includes `ZERO_OUT`.
    """

    ZERO_OUT = "zero-out"
    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    REPLACE_ONE = "replace-one"


class Sampling(StrEnum):
    """How the records of a step, or the clients of a round, are drawn."""

    POISSON = "poisson"  # each independently
    TRUNCATED_POISSON = "truncated-poisson"  # the same, cut to a uniformly random subset
    FIXED = "fixed"  # sets of one size, equally likely
    OWN = "own"  # by a user's own code, with unknown distribution
    SEPARATED = "b-min-sep"  # each at most once in so many rounds: Poisson within groups that take turns


class Noise(StrEnum):
    """Source of the noise. Seeded noise is no secret to anyone who has the seed."""

    SEEDED = "seeded"
    SYSTEM = "os"


class Law(StrEnum):
    """Distribution of the noise."""

    GAUSSIAN = "gaussian"  # scale: the standard deviation
    LAPLACE = "laplace"  # scale: the mean absolute value


class Event:
    """A release of a mechanism: a line of `ledger.jsonl`, also sent with a client's reply.

    A mechanism's events are dataclasses; fields at their defaults are left out of the line.

    Attributes:
        mechanism: What released it.
        round: From 1.
        unit: The privacy unit.
        relation: Which data sets are neighbours.
        noise: Where the noise comes from.
    """

    _kinds: ClassVar[dict[str, Any]] = {}  # converts a further field's JSON value to its type

    mechanism: str
    round: int
    unit: Unit
    relation: Relation
    noise: Noise

    @property
    def released_by(self) -> int | None:
        """The releasing client; None: the server."""
        return None

    def terms(self) -> Hashable:
        """Return the terms that the accountant needs; releases of equal terms compose as one mechanism."""
        raise NotImplementedError

    def count(self) -> int:
        """Return the number of releases of these terms, 1 or more."""
        return 1

    def to_json(self) -> dict[str, Any]:
        """Return the event as in a line of `ledger.jsonl`."""
        defaults = self._defaults()
        return {
            name.replace("_", "-"): _plain(value)
            for name, value in asdict(self).items()  # type: ignore[call-overload]
            if value != defaults.get(name, MISSING)
        }

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Return the defaults of optional fields."""
        return {field.name: field.default for field in fields(cls) if field.default is not MISSING}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Return the event of a line; raises `ValueError` for an invalid one."""
        values = cls._defaults() | {key.replace("-", "_"): value for key, value in tree.items()}
        if values.keys() != {field.name for field in fields(cls)}:  # type: ignore[arg-type]
            raise ValueError(f"no event has the keys {', '.join(sorted(tree))}")
        kinds = {"unit": Unit, "relation": Relation, "noise": Noise} | cls._kinds
        return cls(**{name: kinds[name](value) if name in kinds else value for name, value in values.items()})

    def dumps(self) -> str:
        """Return the event as JSON text, as sent with a release."""
        return json.dumps(self.to_json())

    @classmethod
    def loads(cls, text: str) -> Self:
        """Return the event of a JSON text; raises `ValueError` for an invalid one."""
        return cls.from_json(json.loads(text))


@dataclass(frozen=True)
class RawEvent(Event):
    """A line of an unknown mechanism: it can be shown, but not accounted for.

    Attributes:
        line: The ledger's line.
    """

    line: Mapping[str, Any]

    @property
    def noise_multiplier(self) -> Any:
        """The line's value, or None."""
        return self.line.get("noise-multiplier")

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        return dict(self.line)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [{name.replace("_", "-"): inner for name, inner in part.items()} for part in value]
    return value


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
        """Return how many steps of DP-SGD, or noised updates, a client released; a round noted twice counts twice."""
        return sum(self._by_client.get(client, {}).values())

    def spent(self) -> Mapping[Hashable, Spent]:
        """Return the server's releases, by the terms of the events."""
        return self._spent

    def spent_by_clients(self) -> set[tuple[Hashable, int]]:
        """Return the clients' distinct pairs of terms and number of releases; `ValueError` if one's terms changed."""
        spent = set()
        for client, releases in self._by_client.items():
            if len(releases) > 1:
                raise ValueError(f"client {client}'s noise or sampling has changed between its events")
            spent |= set(releases.items())
        return spent
