"""Checks of an experiment with `[privacy.local-dp]`: clients may send nothing without noise."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.privacy import checks
from fedsim.privacy.training import Intent, Problem


def problems(intent: Intent) -> Iterator[Problem]:
    """Yield problems, the most important first."""
    yield from checks.needs_no_losses(intent)
    yield from checks.needs_ledger_here(intent)
    yield from checks.needs_equal_weights(
        intent,
        "clients would send their numbers of examples without noise; allowed with privacy.local-dp: uniform",
    )
