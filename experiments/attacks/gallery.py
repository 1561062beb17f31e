"""The attacks, in the order of the table."""

from __future__ import annotations

from fedsim.experiments.attacks import (
    bit_flip,
    both_shares,
    clear_metrics,
    crafted_model,
    dead_lists,
    early_dropout,
    key_swap,
    late_upload,
    low_threshold,
    model_inconsistency,
    overflow,
    reflection,
    replay,
    restart,
    small_cohort,
    small_subset,
    weak_seed,
)
from fedsim.experiments.attacks.finding import Attack

_MODULES: tuple[Attack, ...] = (
    both_shares,
    dead_lists,
    key_swap,
    low_threshold,
    small_cohort,
    small_subset,
    restart,
    late_upload,
    replay,
    reflection,
    weak_seed,
    model_inconsistency,
    crafted_model,
    clear_metrics,
    overflow,
    early_dropout,
    bit_flip,
)


def name_of(attack: Attack) -> str:
    """Return an attack's name."""
    return attack.__name__.rpartition(".")[2].replace("_", "-")


ATTACKS: dict[str, Attack] = {name_of(attack): attack for attack in _MODULES}
