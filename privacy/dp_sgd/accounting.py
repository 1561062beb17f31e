"""Accounting of DP-SGD in the clients, for each adversary that a theorem covers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fedsim.privacy.accounting import (
    Adversary,
    Epsilon,
    KnownCohort,
    LocalSteps,
    ReleasedModels,
    smallest_noise,
    worst,
)

KNOWN_COHORT = "known-cohort"
RELEASED_MODELS = "released-models"


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


def noise_for(
    epsilon: float, adversary: Adversary, clients: Callable[[float], Iterable[LocalSteps]]
) -> float:
    """Return the smallest noise multiplier (up to 0.1 %) that keeps an epsilon for every client.

    Args:
        epsilon: Above 0.
        adversary: Adversary that it holds against.
        clients: What each client releases in a round, with a noise multiplier.

    Raises:
        ValueError: No noise reaches the epsilon.
    """

    def epsilon_at(noise_multiplier: float) -> Epsilon:
        return worst(clients(noise_multiplier), adversary)[1]

    return smallest_noise(epsilon_at, epsilon)
