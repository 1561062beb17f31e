"""Checks of an experiment with `[privacy.dp-ftrl]`."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.privacy import checks
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.events import Sampling
from fedsim.privacy.training import Intent, Problem

NAME = "dp-ftrl"


def problems(settings: DpFtrlSettings, intent: Intent) -> Iterator[Problem]:
    """Yield problems, the most important first."""
    yield from checks.needs_noised_sums(intent, NAME)
    yield from checks.needs_whole_clips(intent, NAME, settings.clip)
    if intent.secagg_clip is not None and settings.adversary == "released-models":
        yield Problem(
            ("privacy", NAME, "adversary"),
            settings.adversary,
            f"{checks.WHY_NO_COINS}; allowed: known-cohort",
        )
    yield from checks.needs_equal_weights_in_sums(intent, NAME)
    rule = intent.rule
    if rule.sampling is not Sampling.SEPARATED:
        yield Problem(
            ("server", "sampling"),
            rule.sampling.value,
            "lets a client take part in rounds that are too close together for the noise; allowed with "
            f"privacy.dp-ftrl: {Sampling.SEPARATED.value}",
        )
    if intent.clients is not None and settings.min_separation * rule.cohort > intent.clients:
        yield Problem(
            ("privacy", NAME, "min-separation"),
            settings.min_separation,
            f"{settings.min_separation} groups of {rule.cohort} clients need more than data.clients = {intent.clients}",
        )
