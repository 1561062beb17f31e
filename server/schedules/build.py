"""Builds an experiment's schedule of rounds."""

from __future__ import annotations

from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.privacy.cohorts.sampling import Coins
from fedsim.server.schedules.protocol import Schedule


def build_schedule(experiment: Experiment, clients: int, coins: Coins) -> Schedule | None:
    """Return an experiment's schedule; None if rounds are synchronous.

    The catalogue's reference is called as `make(cohort, clients, coins, uniform=..., own=..., **options)`:
    `server.cohort`, the number of clients, a function that returns a round's generator, whether clients have equal
    weights, the reference of the user's own mechanism (or an empty string), and `[server.schedule-options]`.

    Raises:
        Refused: The reference can't be loaded, doesn't take the options, or returns no `Schedule`.
    """
    server = experiment.server
    entry = server.schedule_entry
    if entry is None:
        return None
    where = f"server.schedule = {entry.name!r}"
    options = {key.replace("-", "_"): value for key, value in (server.schedule_options or {}).items()}
    own = "" if experiment.privacy.own is None else experiment.privacy.own.use
    make = entry.load()
    try:
        made = make(server.cohort, clients, coins, uniform=server.weighting == "uniform", own=own, **options)
    except (TypeError, ValueError) as error:
        raise Refused(f"{where}: {error}") from None
    if not isinstance(made, Schedule):
        raise Refused(
            f"{where}: returned {type(made).__name__}; a fedsim.server.schedules.Schedule is needed"
        )
    return made
