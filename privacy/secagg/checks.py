"""Checks of an experiment with `[privacy.secagg]`."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.privacy import checks
from fedsim.privacy.events import Sampling
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.training import Intent, Problem


def problems(settings: SecaggSettings, intent: Intent, metrics: tuple[str, ...]) -> Iterator[Problem]:
    """Yield problems, the most important first; `metrics` are the averaged ones."""
    yield from checks.needs_sums_only(intent, "and secure aggregation shows only their sum; allowed")
    if intent.client_evaluation != "none":
        yield Problem(
            ("server", "client-evaluation"),
            intent.client_evaluation,
            "clients would send their losses and numbers of examples in clear; allowed with secure "
            "aggregation: none",
        )
    if settings.max_weight is not None and intent.weighting == "uniform":
        yield Problem(
            ("privacy", "secagg", "max-weight"),
            settings.max_weight,
            "is for server.weighting = 'examples', not 'uniform'",
        )
    if intent.rule.sampling is Sampling.FIXED:
        yield from _cohort(settings, intent, metrics)


def problems_of_own_data(settings: SecaggSettings, intent: Intent) -> Iterator[Problem]:
    """Yield problems if clients bring their own data, with unknown numbers of examples."""
    if settings.max_weight is None and intent.weighting == "examples":
        yield Problem(
            ("privacy", "secagg", "max-weight"),
            None,
            "the most examples of a client must be agreed on, or server.weighting = 'uniform'",
        )


def _cohort(settings: SecaggSettings, intent: Intent, metrics: tuple[str, ...]) -> Iterator[Problem]:
    """Refuse a cohort without a graph or a ring."""
    from fedsim.privacy.secagg.spec import make_policy  # loads cryptography, which few experiments need

    largest = 1 if intent.weighting == "uniform" else settings.max_weight or 1
    policy = make_policy(settings, dimension=1, max_weight=largest, metrics=metrics, registry={})
    try:
        policy.spec(run="", round_=1, session="", clients=intent.rule.cohort, task="")
    except ValueError as error:
        yield Problem(("server", "cohort"), intent.rule.cohort, f"for privacy.secagg: {error}")
