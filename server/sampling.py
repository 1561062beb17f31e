"""A user's own cohort sampling, and an experiment's schedule of rounds: loaded by reference, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.errors import RunFailed
from fedsim.experiment import Experiment
from fedsim.making import made
from fedsim.options import keywords
from fedsim.privacy.cohorts.sampling import CohortSampling, Coins
from fedsim.server.schedules import Schedule


class OwnSampling(CohortSampling):
    """Checks the cohorts of a user's own sampling; `where` is its key and its reference, for messages."""

    def __init__(self, own: CohortSampling, where: str) -> None:
        super().__init__()
        self._own = own
        self._where = where

    def draw(self, round_: int, clients: int) -> list[int]:
        """Return the user's cohort, in ascending order; `RunFailed` if that sampling fails, or the cohort is invalid."""
        where = f"round {round_}: {self._where}"
        try:
            cohort = sorted(int(client) for client in self._own.draw(round_, clients))
        except Exception as error:
            raise RunFailed(f"{where}: {type(error).__name__}: {error}") from error
        if len(set(cohort)) < len(cohort):
            raise RunFailed(f"{where}: drew a client twice; different clients are needed")
        if cohort and not 0 <= cohort[0] <= cohort[-1] < clients:
            raise RunFailed(
                f"{where}: drew {cohort[-1 if cohort[0] >= 0 else 0]}; clients from 0 to {clients - 1} are needed"
            )
        return cohort

    def abandon(self, round_: int, clients: int) -> None:
        """Count the clients of an interrupted round as having taken part."""
        self._own.abandon(round_, clients)

    def state(self) -> dict[str, Any]:
        """Return the user's state, for the checkpoint."""
        return self._own.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._own.restore(state)


def own_sampling(experiment: Experiment, clients: int, coins: Coins) -> OwnSampling:
    """Make the sampling that an experiment names by reference.

    The reference is called as `make(cohort, clients, coins, **options)`, with `server.cohort`, the number of clients,
    and a function that returns a round's generator.

    Raises:
        Refused: The reference can't be loaded, doesn't take the options, or returns no `CohortSampling`.
    """
    server = experiment.server
    where = f"server.sampling = {server.sampling!r}"
    options = keywords(server.sampling_options)
    sampling = made(
        lambda: server.sampling_entry.load()(server.cohort, clients, coins, **options),
        CohortSampling,
        where,
        "a fedsim.privacy.cohorts.sampling.CohortSampling",
    )
    return OwnSampling(sampling, where)


def build_schedule(experiment: Experiment, clients: int, coins: Coins) -> Schedule | None:
    """Return an experiment's schedule; None if rounds are synchronous.

    The catalogue's reference is called as `make(cohort, clients, coins, uniform=..., **options)`:
    `server.cohort`, the number of clients, a function that returns a round's generator, whether clients have equal
    weights, and `[server.schedule-options]`.

    Raises:
        Refused: The reference can't be loaded, doesn't take the options, or returns no `Schedule`.
    """
    server = experiment.server
    entry = server.schedule_entry
    if entry is None:
        return None
    uniform = server.weighting == "uniform"
    options = keywords(server.schedule_options)
    schedule: Schedule = made(
        lambda: entry.load()(server.cohort, clients, coins, uniform=uniform, **options),
        Schedule,
        f"server.schedule = {entry.name!r}",
        "a fedsim.server.schedules.Schedule",
    )
    return schedule
