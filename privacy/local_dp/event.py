"""A client's update that it noised itself, as an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from fedsim.privacy.events import Event, Law, Noise, Relation, Unit


class LocalDpTerms(NamedTuple):
    """Terms that a client's own releases share."""

    law: Law
    noise_multiplier: float


@dataclass(frozen=True, kw_only=True)
class LocalDpEvent(Event):
    """One client's update of one round, which it noised itself.

    Attributes:
        mechanism: What released it.
        round: From 1.
        client: The client's index.
        unit: The privacy unit: a client.
        relation: Which data sets are neighbours: replace-one, since no other party is trusted with the update.
        law: Distribution of the noise.
        sensitivity: Of the update, in the norm of `law` (L2 or L1): twice the clip norm.
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

    @property
    def released_by(self) -> int:
        """The client."""
        return self.client

    def terms(self) -> LocalDpTerms:
        """Return the terms that the accountant needs."""
        return LocalDpTerms(**{name: getattr(self, name) for name in LocalDpTerms._fields})
