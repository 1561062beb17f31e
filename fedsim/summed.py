"""What clients say beside their clipped updates for noised sums, and nothing else of it: each is sent shifted."""

from __future__ import annotations

from fedsim.experiment import Experiment
from fedsim.privacy.dp_fedavg.adaptive import BITS
from fedsim.vectors import SHIFTED_BIT

RELEASED = "released-"  # before the metric's name, in a round's row: what is noised


def shifted_name(metric: str) -> str:
    """Return what the term of a metric is called in a client's reply."""
    return f"shifted-{metric}"


def summed(experiment: Experiment) -> dict[str, str]:
    """Return what each of the terms is called in a client's reply, by what the ledger calls its sum."""
    section = experiment.privacy.dp_fedavg
    if section is None:
        return {}
    bits = {BITS: SHIFTED_BIT} if section.adaptive is not None else {}
    return bits | {name: shifted_name(name) for name in section.released}
