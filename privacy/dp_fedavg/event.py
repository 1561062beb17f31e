"""A round's noised sums over a cohort, as an event."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

from fedsim.privacy.events import Event, Noise, Relation, Sampling, Unit


class CohortTerms(NamedTuple):
    """Terms that rounds of central client-level privacy share."""

    noise_multiplier: float
    relation: Relation
    sampling: Sampling
    clients: int | None
    cohort: int
    max_cohort: int | None
    separation: int | None
    rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of several noised sums over a cohort, released together.

    Attributes:
        name: What is summed.
        sensitivity: L2 sensitivity of the sum, above 0: how far one client moves it.
        noise_multiplier: Standard deviation of the noise on the sum, over `sensitivity`; above 0.
    """

    name: str
    sensitivity: float
    noise_multiplier: float


@dataclass(frozen=True, kw_only=True)
class CohortEvent(Event):
    """One round of central client-level privacy: noised sums over one cohort, which is drawn by a public rule.

    It does not contain the cohort or its size: the cohort is secret if sampling amplifies privacy.

    Attributes:
        unit: A client.
        parts: The sums, one or more.
        sampling: How the cohort is drawn.
        clients: The population, public; None if it is protected (add-or-remove-one).
        cohort: Expected clients in a cohort; a public constant.
        max_cohort: Most clients in a cohort if `sampling` truncates, else None.
        separation: A client takes part at most once in so many rounds, if `sampling` ensures it, else None.
        denominator: Divisor of the noised sums, a public constant.
        rate: Declared probability of drawing each client; None: it follows from `clients`.
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
        """Noise multiplier of one Gaussian release with the parts' joint cost."""
        return joint_noise_multiplier(self.parts)

    def terms(self) -> CohortTerms:
        """Return the terms that the accountant needs."""
        return CohortTerms(**{name: getattr(self, name) for name in CohortTerms._fields})


def joint_noise_multiplier(parts: Iterable[Part]) -> float:
    """Return the noise multiplier of one Gaussian release with the joint cost of several over one cohort.

    Scaled to noise 1, they are one vector with noise 1 that a client moves by at most sqrt(sum of z_i^-2).

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
