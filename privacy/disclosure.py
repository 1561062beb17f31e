"""What a mechanism's theorems allow an adversary to see, if noise is the operating system's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a value depends on."""

    PLAN = "the public plan, and how many rounds are over"
    MODELS = "the released models, scored on the central test set, which is taken as public"
    NOISED = "clients' metrics, noised within the same epsilon"
    COHORTS = "who took part when, and how many (that a client fails is taken not to depend on its data)"
    REST = "failures and their reasons, errors, times, bytes, losses without noise, the hash of the data"


@dataclass(frozen=True)
class Cover:
    """Values that a theorem covers.

    Attributes:
        mechanism: The table under `[privacy]`.
        adversary: As the manifest calls it.
        kinds: Values that this adversary may see; empty: nothing is written for it.
        theorem: The theorem.
    """

    mechanism: str
    adversary: str
    kinds: tuple[Kind, ...]
    theorem: str


SEES_MODELS = (Kind.PLAN, Kind.MODELS)
