"""A client's update that it noised itself, as an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from fedsim.privacy.events import Event, Law, Noise, Relation, Unit


class LocalDpTerms(NamedTuple):
    """Terms that a client's own releases share."""

    law: Law
    noise_multiplier: float


@dataclass(frozen=True, kw_only=True)
class LocalDpEvent(Event):
    """One client's update of one round, which it noised itself.

    Unit: a client. Relation: replace-one, since no other party is trusted with the update.

    Attributes:
        client: The client's index.
        law: Distribution of the noise.
        sensitivity: Of the update, in the norm of `law` (L2 or L1): twice the clip norm.
        noise_multiplier: Scale of the noise, over `sensitivity`; above 0.
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

    @classmethod
    def of(
        cls, round_: int, client: int, law: Law, sensitivity: float, noise_multiplier: float, noise: Noise
    ) -> Self:
        """Return the event of a client's update."""
        return cls(
            mechanism="local-dp",
            round=round_,
            client=client,
            unit=Unit.CLIENT,
            relation=Relation.REPLACE_ONE,
            law=law,
            sensitivity=sensitivity,
            noise_multiplier=noise_multiplier,
            noise=noise,
        )

    @property
    def released_by(self) -> int:
        """The client."""
        return self.client

    def terms(self) -> LocalDpTerms:
        """Return the terms that the accountant needs."""
        return LocalDpTerms(**{name: getattr(self, name) for name in LocalDpTerms._fields})
