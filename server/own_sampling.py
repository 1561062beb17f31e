"""A user's own cohort sampling: loads it by reference, and checks each cohort."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.errors import Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.privacy.cohorts.sampling import CohortSampling, Coins


class OwnSampling(CohortSampling):
    """Checks the cohorts of a user's own sampling.

    Args:
        own: The user's sampling.
        name: Its reference, for messages.
    """

    def __init__(self, own: CohortSampling, name: str) -> None:
        super().__init__()
        self._own = own
        self._name = name

    def draw(self, round_: int, clients: int) -> list[int]:
        """Return the user's cohort, in ascending order. As `CohortSampling` says.

        Raises:
            RunFailed: The sampling raised an error, drew a client twice, or drew an unknown client.
        """
        where = f"round {round_}: server.sampling = {self._name!r}"
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
    options = {key.replace("-", "_"): value for key, value in (server.sampling_options or {}).items()}
    try:
        made = server.sampling_entry.load()(server.cohort, clients, coins, **options)
    except (TypeError, ValueError) as error:  # a `Refused` is one
        raise Refused(f"{where}: {error}") from None
    if not isinstance(made, CohortSampling):
        raise Refused(
            f"{where}: returned {type(made).__name__}; a fedsim.privacy.cohorts.sampling.CohortSampling is needed"
        )
    return OwnSampling(made, server.sampling)
