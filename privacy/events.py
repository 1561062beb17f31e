"""What was released, as typed events, made only by what adds the noise.

An event says what the mechanism did, not what it costs: epsilon is derived from events, for an adversary. So the account
can't disagree with the execution. Each mechanism has events of its own, in its package.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self


class Unit(StrEnum):
    """The privacy unit: what one neighbouring data set has and the other has not."""

    EXAMPLE = "example"
    CLIENT = "client"


class Relation(StrEnum):
    """Which data sets are neighbours.

    `ZERO_OUT`: one record's (or client's) contribution is replaced by nothing while their number stays public
    (dp-accounting's REPLACE_SPECIAL); `ADD_OR_REMOVE_ONE`: a data set has one more than the other, and their number
    is protected, so that no rate, denominator or other public constant may be made of it. The Gaussian mechanism on a
    sum of clipped terms has the same sensitivity, the clip norm, under both. `REPLACE_ONE`: one is replaced by any
    other, which moves such a sum by twice the clip norm; it includes `ZERO_OUT`.
    """

    ZERO_OUT = "zero-out"
    ADD_OR_REMOVE_ONE = "add-or-remove-one"
    REPLACE_ONE = "replace-one"


class Sampling(StrEnum):
    """How the records of a step, or the clients of a round, are drawn."""

    POISSON = "poisson"  # each by its own coin
    TRUNCATED_POISSON = "truncated-poisson"  # of those, at most so many, chosen uniformly
    FIXED = "fixed"  # always so many, each set equally likely
    OWN = "own"  # by a user's own code, of which no law is known
    SEPARATED = "b-min-sep"  # each at most once in so many rounds: by coins within the group whose turn it is


class Noise(StrEnum):
    """Where the noise comes from: whoever has the seed has the noise."""

    SEEDED = "seeded"
    SYSTEM = "os"


class Law(StrEnum):
    """What the noise is distributed as."""

    GAUSSIAN = "gaussian"  # scale: the standard deviation
    LAPLACE = "laplace"  # scale: the mean absolute value


class Event:
    """What a mechanism has released: a line of `ledger.jsonl`, and of what travels with a reply.

    A mechanism's events are dataclasses; a field that is at its default is left out of the line.

    Attributes:
        mechanism: What released it.
        round: From 1.
        unit: The privacy unit.
        relation: Which data sets are neighbours.
        noise: Where the noise comes from.
    """

    _kinds: ClassVar[dict[str, Any]] = {}  # what makes of a JSON value what a field holds

    mechanism: str
    round: int
    unit: Unit
    relation: Relation
    noise: Noise

    @property
    def released_by(self) -> int | None:
        """The client that released it; None: the server."""
        return None

    def terms(self) -> Hashable:
        """Return what the accountant needs to know; releases of equal terms compose as one mechanism."""
        raise NotImplementedError

    def count(self) -> int:
        """Return how many releases of these terms it stands for, 1 or more."""
        return 1

    def to_json(self) -> dict[str, Any]:
        """Return the event as a line of `ledger.jsonl` has it."""
        defaults = self._defaults()
        return {
            name.replace("_", "-"): _plain(value)
            for name, value in asdict(self).items()  # type: ignore[call-overload]
            if name not in defaults or value != defaults[name]
        }

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        """Return what the fields that may be left out are then."""
        return {field.name: field.default for field in fields(cls) if field.default is not MISSING}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Return the event of a line; raises `ValueError` where it is none."""
        values = cls._defaults() | {key.replace("-", "_"): value for key, value in tree.items()}
        if values.keys() != {field.name for field in fields(cls)}:  # type: ignore[arg-type]
            raise ValueError(f"no event has the keys {', '.join(sorted(tree))}")
        return cls(**values | {name: kind(values[name]) for name, kind in cls._kinds.items()})

    def dumps(self) -> str:
        """Return the event as JSON text, as it travels with what was released."""
        return json.dumps(self.to_json())

    @classmethod
    def loads(cls, text: str) -> Self:
        """Return the event of a JSON text; raises `ValueError` where it is none."""
        return cls.from_json(json.loads(text))


@dataclass(frozen=True)
class RawEvent(Event):
    """A line of a mechanism that is not known here: it can be looked at, and not accounted for.

    Attributes:
        line: As the ledger has it.
    """

    line: Mapping[str, Any]

    @property
    def noise_multiplier(self) -> Any:
        """What the line says of it; None: nothing."""
        return self.line.get("noise-multiplier")

    def to_json(self) -> dict[str, Any]:
        """Return the line."""
        return dict(self.line)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [{name.replace("_", "-"): inner for name, inner in part.items()} for part in value]
    return value
