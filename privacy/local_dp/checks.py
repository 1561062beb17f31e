"""What an experiment with `[privacy.local-dp]` may not say: what its clients would tell without noise."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.privacy import checks
from fedsim.privacy.intent import Intent, Problem


def problems(intent: Intent) -> Iterator[Problem]:
    """Yield what is refused, the first reason first."""
    yield from checks.needs_no_losses(intent)
    yield from checks.needs_ledger_here(intent)
    yield from checks.needs_equal_weights(
        intent,
        "clients would send their numbers of examples without noise; allowed with privacy.local-dp: uniform",
    )
