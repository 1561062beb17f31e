"""What was released, as typed events, made only by what adds the noise.

An event says what the mechanism did, not what it costs: epsilon is derived from events, for an adversary, by
`fedsim.privacy.accounting`. So the account can't disagree with the execution.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self


class Unit(StrEnum):
    """Whose presence is hidden."""

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
    SEPARATED = "b-min-sep"  # each at most once in so many rounds: by coins within the group whose turn it is


class Noise(StrEnum):
    """Where the noise comes from: whoever has the seed has the noise."""

    SEEDED = "seeded"
    SYSTEM = "os"


class Law(StrEnum):
    """What the noise is distributed as."""

    GAUSSIAN = "gaussian"  # scale: the standard deviation
    LAPLACE = "laplace"  # scale: the mean absolute value


class _Json:
    """To JSON, as a line of `ledger.jsonl` has it, and back; a field that is at its default is left out."""

    _kinds: ClassVar[dict[str, Any]] = {}  # what makes of a plain value what a field holds

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


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [{name.replace("_", "-"): inner for name, inner in part.items()} for part in value]
    return value


@dataclass(frozen=True, kw_only=True)
class Event(_Json):
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
        records: The client's records, public; None where their number is what is protected (add-or-remove-one).
        steps: Releases, at least 1.
        noise: Where the noise comes from.
    """

    _kinds: ClassVar[dict[str, Any]] = {
        "unit": Unit,
        "relation": Relation,
        "sampling": Sampling,
        "noise": Noise,
    }

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
    records: int | None
    steps: int
    noise: Noise


@dataclass(frozen=True, kw_only=True)
class LocalEvent(_Json):
    """One client's update of one round, which it noised itself.

    Attributes:
        mechanism: What released it.
        round: From 1.
        client: The client's index.
        unit: Whose presence is hidden: the client's.
        relation: Which data sets are neighbours: replace-one, for nobody is trusted with the update.
        law: What the noise is distributed as.
        sensitivity: Of the update, in the norm that `law` goes with (L2 or L1): twice the clip norm.
        noise_multiplier: Scale of the noise, over `sensitivity`; above 0.
        noise: Where the noise comes from.
    """

    _kinds: ClassVar[dict[str, Any]] = {"unit": Unit, "relation": Relation, "law": Law, "noise": Noise}

    mechanism: str
    round: int
    client: int
    unit: Unit
    relation: Relation
    law: Law
    sensitivity: float
    noise_multiplier: float
    noise: Noise


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the noised sums over a cohort that are released together.

    Attributes:
        name: What is summed.
        sensitivity: L2 sensitivity of the sum, above 0: how far one client moves it.
        noise_multiplier: Standard deviation of the noise on the sum, over `sensitivity`; above 0.
    """

    name: str
    sensitivity: float
    noise_multiplier: float


@dataclass(frozen=True, kw_only=True)
class CohortEvent(_Json):
    """One round of central client-level privacy: noised sums over one cohort, which is drawn by a public rule.

    Who was drawn, and how many, is not in it: the cohort is secret where sampling is to amplify.

    Attributes:
        mechanism: What released it.
        round: From 1.
        unit: Whose presence is hidden: a client's.
        relation: Which data sets are neighbours.
        parts: The sums, one or more.
        sampling: How the cohort is drawn.
        clients: The population, public; None where it is what is protected (add-or-remove-one).
        cohort: Clients in a cohort, expected; a public constant.
        max_cohort: Clients in a cohort at most, where `sampling` truncates, else None.
        separation: A client takes part at most once in so many rounds, where `sampling` sees to it, else None.
        denominator: What the noised sums are divided by, a public constant.
        noise: Where the noise comes from.
        rate: Probability with which each client is drawn, where it is declared; None: it follows from `clients`.
    """

    _kinds: ClassVar[dict[str, Any]] = {
        "unit": Unit,
        "relation": Relation,
        "sampling": Sampling,
        "noise": Noise,
        "parts": lambda parts: tuple(_part(part) for part in parts),
    }

    mechanism: str
    round: int
    unit: Unit
    relation: Relation
    parts: tuple[Part, ...]
    sampling: Sampling
    clients: int | None
    cohort: int
    max_cohort: int | None
    separation: int | None
    denominator: float
    noise: Noise
    rate: float | None = None

    @property
    def noise_multiplier(self) -> float:
        """That of one Gaussian release that costs what the parts cost together.

        Scaled to sensitivity 1 and noise 1, the parts are one vector with noise 1 that a client moves by at most
        sqrt(sum of z_i^-2).
        """
        return joint_noise_multiplier(self.parts)


def joint_noise_multiplier(parts: Iterable[Part]) -> float:
    """Return the noise multiplier of one Gaussian release that costs what some over the same cohort cost together.

    >>> update = Part(name="update", sensitivity=0.3, noise_multiplier=1.1547005)
    >>> bits = Part(name="bits", sensitivity=0.5, noise_multiplier=2.0)
    >>> round(joint_noise_multiplier([update, bits]), 6)
    1.0
    """
    return 1 / math.hypot(*(1 / part.noise_multiplier for part in parts))


def _part(tree: Mapping[str, Any]) -> Part:
    values = {key.replace("-", "_"): value for key, value in tree.items()}
    if values.keys() != {field.name for field in fields(Part)}:
        raise ValueError(f"no part of an event has the keys {', '.join(sorted(tree))}")
    return Part(**values)


@dataclass(frozen=True, kw_only=True)
class MatrixEvent(_Json):
    """One round of central client-level privacy by correlated noise: a cohort's sum, and one row of the noise.

    The rounds are one Gaussian mechanism together. Who was drawn, and how many, is not in it.

    Attributes:
        mechanism: What released it.
        strategy: What correlates the noise, by name: the matrix C.
        round: From 1; the row of C.
        rounds: How many are planned: the rows of C.
        unit: Whose presence is hidden: a client's, with all its participations.
        relation: Which data sets are neighbours.
        sum_sensitivity: L2 sensitivity of one round's sum, above 0: how far one participation moves it.
        sensitivity: L2 sensitivity of C x to a client with all its participations, x being the rounds' sums.
        noise_multiplier: Standard deviation of the noise before it is correlated, over `sensitivity`; above 0.
        bands: Of C, where it is banded, else None.
        buffers: Of C, where it is a buffered linear Toeplitz matrix, else None.
        separation: A client takes part at most once in so many rounds.
        participations: In how many rounds a client takes part at most.
        sampling: How the cohort is drawn.
        clients: The population, public.
        cohort: Clients in a cohort, expected.
        denominator: What the noised sum is divided by, a public constant.
        noise: Where the noise comes from.
    """

    _kinds: ClassVar[dict[str, Any]] = {
        "unit": Unit,
        "relation": Relation,
        "sampling": Sampling,
        "noise": Noise,
    }

    mechanism: str
    strategy: str
    round: int
    rounds: int
    unit: Unit
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
    denominator: float
    noise: Noise


AnyEvent = Event | LocalEvent | CohortEvent | MatrixEvent


def event_of(tree: Mapping[str, Any]) -> AnyEvent:
    """Return the event of a line of `ledger.jsonl`, of whichever kind; raises `ValueError` where it is none."""
    if tree.get("unit") != Unit.CLIENT:
        return Event.from_json(tree)
    if "strategy" in tree:
        return MatrixEvent.from_json(tree)
    return LocalEvent.from_json(tree) if "client" in tree else CohortEvent.from_json(tree)


def loads(text: str) -> AnyEvent:
    """Return the event of a JSON text, of whichever kind; raises `ValueError` where it is none."""
    return event_of(json.loads(text))
