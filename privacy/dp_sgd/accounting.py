"""Accounting of DP-SGD in the clients, for each adversary that a theorem covers."""

from __future__ import annotations

from fedsim.privacy.accounting import KnownCohort, LocalSteps, ReleasedModels
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Relation
from fedsim.privacy.intent import LocalWork

KNOWN_COHORT = "known-cohort"
RELEASED_MODELS = "released-models"

Adversary = KnownCohort | ReleasedModels


def adversaries(
    rounds: int, delta: float, *, client_rate: float | None, max_participations: int | None
) -> dict[str, Adversary]:
    """Return the adversaries with an epsilon, by name.

    Args:
        rounds: 0 or more.
        delta: Above 0 and below 1.
        client_rate: Rate of Poisson cohorts, above 0 and at most 1; None: another sampling.
        max_participations: Most participations of a client; None: no limit.

    Raises:
        ValueError: A value is out of its range.
    """
    most = rounds if max_participations is None else min(max_participations, rounds)
    found: dict[str, Adversary] = {KNOWN_COHORT: KnownCohort(most, delta)}
    if client_rate is not None and max_participations is None:
        found[RELEASED_MODELS] = ReleasedModels(client_rate, rounds, delta)
    return found


def local_steps(
    settings: DpSgdSettings, work: LocalWork, records: int, noise_multiplier: float
) -> LocalSteps:
    """Return what a client with this number of records, unless they are protected, releases in a round."""
    batches = settings.batches(work, records)
    return LocalSteps(
        noise_multiplier=noise_multiplier,
        rate=batches.rate,
        steps=batches.steps,
        max_batch=batches.max_batch,
        records=records if settings.neighbours is Relation.ZERO_OUT else None,
    )
