"""Checks of an experiment with `[privacy.dp-fedavg]`."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.privacy import checks
from fedsim.privacy.dp_fedavg.settings import DpFedAvgSettings
from fedsim.privacy.events import Relation, Sampling
from fedsim.privacy.training import Intent, Problem

NAME = "dp-fedavg"


def problems(settings: DpFedAvgSettings, intent: Intent) -> Iterator[Problem]:
    """Yield problems, the most important first."""
    yield from checks.needs_noised_sums(intent, NAME)
    if settings.neighbours is Relation.ADD_OR_REMOVE_ONE:
        yield from _protected_number(intent)
    yield from checks.needs_whole_clips(intent, NAME, settings.clip)
    yield from checks.needs_fixed_cohorts(intent, NAME)
    yield from checks.needs_equal_weights_in_sums(intent, NAME)


def _protected_number(intent: Intent) -> Iterator[Problem]:
    """Refuse cohorts whose distribution depends on a protected number of clients."""
    if intent.secagg_clip is not None:
        yield Problem(
            ("privacy", "secagg"),
            "a table",
            "has no theorem with privacy.dp-fedavg.relation = 'add-or-remove-one': a round without a sum tells "
            "how many clients were drawn; allowed with it: no privacy.secagg, or relation = 'zero-out'",
        )
    if intent.rule.sampling is not Sampling.POISSON:
        yield Problem(
            ("server", "sampling"),
            intent.rule.sampling.value,
            "its distribution depends on the number of clients, which privacy.dp-fedavg.relation = 'add-or-remove-one' "
            "protects; allowed with it: poisson",
        )
