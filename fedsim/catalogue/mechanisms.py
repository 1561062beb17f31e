"""Privacy mechanisms and their budgets."""

from __future__ import annotations

from fedsim.catalogue.entries import MechanismEntry, find, table

NO_MECHANISM = MechanismEntry(
    name="none", reference="fedsim.privacy.mechanism:Unprotected", summary="no noise, and no guarantee"
)


MECHANISMS = table(
    MechanismEntry(
        name="dp-sgd",
        reference="fedsim.privacy.dp_sgd.mechanism:DpSgdMechanism",
        summary="Example-level: DP-SGD in each client.",
        budget="fedsim.privacy.dp_sgd.budget:DpSgdBudget",
    ),
    MechanismEntry(
        name="dp-fedavg",
        reference="fedsim.privacy.dp_fedavg.mechanism:DpFedAvg",
        summary="Client-level: a trusted server adds noise.",
        budget="fedsim.privacy.dp_fedavg.budget:DpFedAvgBudget",
    ),
    MechanismEntry(
        name="dp-ftrl",
        reference="fedsim.privacy.dp_ftrl.mechanism:DpFtrl",
        summary="Client-level: a trusted server adds noise that is correlated over rounds.",
        budget="fedsim.privacy.dp_ftrl.budget:DpFtrlBudget",
    ),
    MechanismEntry(
        name="local-dp",
        reference="fedsim.privacy.local_dp.mechanism:LocalDp",
        summary="Client-level: each client adds noise; no trusted server.",
        budget="fedsim.privacy.local_dp.budget:LocalDpBudget",
    ),
)


BUDGETS = {entry.name: entry.budget for entry in MECHANISMS.values() if entry.budget} | {
    "secagg": "fedsim.privacy.secagg.budget:SecaggBudget"
}


def find_mechanism(name: str) -> MechanismEntry:
    """Return the entry of a privacy mechanism; `"module:Class"` is the user's own."""
    if ":" in name:
        return MechanismEntry(name=name, reference=name, summary="")
    return find(MECHANISMS, name, ', or "module:Class"')
