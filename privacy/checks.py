"""Checks of an experiment that several mechanisms share; each refuses a combination without a theorem."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.privacy.events import Noise, Sampling
from fedsim.privacy.training import Intent, Problem

WHY_NO_COINS = (
    "with privacy.secagg a round fails where too few are drawn, and secret coins have no theorem then"
)


def needs_sums_only(intent: Intent, why: str) -> Iterator[Problem]:
    """Refuse a strategy that needs each client's update; `why` precedes the list of allowed ones."""
    strategy = intent.strategy
    if not strategy.linear:
        allowed = ", ".join(strategy.linear_ones)
        yield Problem(("server", "strategy"), strategy.name, f"needs each client's update, {why}: {allowed}")


def needs_noised_sums(intent: Intent, name: str) -> Iterator[Problem]:
    """Refuse a strategy that needs each client's update: a trusted server noises only the sum of clipped ones."""
    yield from needs_sums_only(
        intent, f"which moves its answer by more than any noise is made for; allowed with privacy.{name}"
    )


def needs_no_losses(intent: Intent) -> Iterator[Problem]:
    """Refuse a strategy that uses clients' losses, which are not noised."""
    if intent.strategy.needs_initial_loss:
        why = "uses its clients' losses, which are sent without noise"
        yield Problem(("server", "strategy"), intent.strategy.name, why)


def needs_ledger_here(intent: Intent) -> Iterator[Problem]:
    """Refuse clients on other machines: they write their releases to a ledger file on this one."""
    if intent.noise is Noise.SYSTEM and intent.engine == "ray":
        why = "needs the clients' ledger on this machine; allowed: engine local, sequential"
        yield Problem(("privacy", "noise"), "os", why)


def needs_whole_clips(intent: Intent, name: str, clip: float) -> Iterator[Problem]:
    """Refuse secure aggregation that would truncate an update of L2 norm `clip`, which may lie in one coordinate."""
    if intent.secagg_clip is not None and intent.secagg_clip < clip:
        why = "an update of that norm may have it all in one coordinate, which would be cut unnoticed"
        needed = f"must be at least privacy.{name}.clip = {clip}: {why}"
        yield Problem(("privacy", "secagg", "clip"), intent.secagg_clip, needed)


def needs_fixed_cohorts(intent: Intent, name: str) -> Iterator[Problem]:
    """Refuse secret cohorts with secure aggregation: a round without a sum reveals that the cohort was small."""
    if intent.secagg_clip is not None and intent.rule.sampling is not Sampling.FIXED:
        why = f"{WHY_NO_COINS}; allowed with privacy.{name}: fixed"
        yield Problem(("server", "sampling"), intent.rule.sampling.value, why)


def needs_equal_weights(intent: Intent, why: str) -> Iterator[Problem]:
    """Refuse weights by examples, and clients' losses with the operating system's noise."""
    if intent.weighting != "uniform":
        yield Problem(("server", "weighting"), intent.weighting, why)
    if intent.noise is Noise.SYSTEM and intent.client_evaluation != "none":
        allowed = "asks for losses of clients, and privacy.noise = 'os' sends none; allowed: none"
        yield Problem(("server", "client-evaluation"), intent.client_evaluation, allowed)


def needs_equal_weights_in_sums(intent: Intent, name: str) -> Iterator[Problem]:
    """Refuse unequal weights in a sum that a trusted server noises. As `needs_equal_weights`."""
    yield from needs_equal_weights(
        intent,
        "one client could weigh as much as all others, and the noise is made for equal weights; allowed with "
        f"privacy.{name}: uniform",
    )
