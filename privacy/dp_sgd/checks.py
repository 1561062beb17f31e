"""Checks of an experiment with `[privacy.dp-sgd]`."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.privacy import checks
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Noise, Relation, Sampling
from fedsim.privacy.training import Intent, Problem

TABLE = ("privacy", "dp-sgd")


def problems(settings: DpSgdSettings, intent: Intent) -> Iterator[Problem]:
    """Yield problems, the most important first."""
    yield from checks.needs_no_losses(intent)
    if settings.adversary == "released-models" and intent.rule.sampling is not Sampling.POISSON:
        needed = f"needs server.sampling = 'poisson', not {intent.rule.sampling.value!r}"
        why = "only Poisson sampling hides who takes part"
        yield Problem((*TABLE, "adversary"), settings.adversary, f"{needed}: {why}")
    if settings.neighbours is Relation.ADD_OR_REMOVE_ONE:
        yield from _protected_number(settings, intent)
    if settings.rate is not None and intent.work.steps is None:
        yield Problem((*TABLE, "rate"), settings.rate, "needs client.steps: epochs are counted by batch size")
    yield from checks.needs_ledger_here(intent)
    if intent.noise is Noise.SYSTEM:
        yield from _real_noise(settings, intent)


def _protected_number(settings: DpSgdSettings, intent: Intent) -> Iterator[Problem]:
    """Refuse public values that depend on a protected number of records."""
    needs = {
        "a public rate": settings.rate is not None,
        "client.steps": intent.work.steps is not None,
        "server.weighting = 'uniform'": intent.weighting == "uniform",
    }
    for need in (need for need, met in needs.items() if not met):
        why = f"needs {need}: else a record more changes what is public"
        yield Problem((*TABLE, "relation"), settings.relation, why)


def _real_noise(settings: DpSgdSettings, intent: Intent) -> Iterator[Problem]:
    """Refuse settings that make clients send more than their updates."""
    if settings.neighbours is Relation.ADD_OR_REMOVE_ONE:
        why = "clients send their number of records, which relation = 'add-or-remove-one' protects"
        yield Problem(("privacy", "noise"), "os", f"{why}; allowed: seeded, or relation = 'zero-out'")
    if intent.client_evaluation != "none":
        why = "sends no losses of clients, and server.client-evaluation asks for them"
        yield Problem(("privacy", "noise"), "os", why)
