"""Privacy mechanisms and their budgets."""

from __future__ import annotations

from fedsim.catalogue.entries import MechanismEntry, finder, table

NO_MECHANISM = MechanismEntry("none", "fedsim.privacy.mechanism:Unprotected", "no noise, and no guarantee")

MECHANISMS = table(
    MechanismEntry(
        "dp-sgd",
        "fedsim.privacy.dp_sgd.mechanism:DpSgdMechanism",
        "Example-level: DP-SGD in each client.",
        budget="fedsim.privacy.dp_sgd.budget:DpSgdBudget",
    ),
    MechanismEntry(
        "dp-fedavg",
        "fedsim.privacy.dp_fedavg.mechanism:DpFedAvg",
        "Client-level: a trusted server adds noise.",
        budget="fedsim.privacy.dp_fedavg.budget:DpFedAvgBudget",
    ),
    MechanismEntry(
        "dp-ftrl",
        "fedsim.privacy.dp_ftrl.mechanism:DpFtrl",
        "Client-level: a trusted server adds noise that is correlated over rounds.",
        budget="fedsim.privacy.dp_ftrl.budget:DpFtrlBudget",
    ),
    MechanismEntry(
        "local-dp",
        "fedsim.privacy.local_dp.mechanism:LocalDp",
        "Client-level: each client adds noise; no trusted server.",
        budget="fedsim.privacy.local_dp.budget:LocalDpBudget",
    ),
)
find_mechanism = finder(MECHANISMS, '"module:Class"')

BUDGETS = {entry.name: entry.budget for entry in MECHANISMS.values() if entry.budget} | {
    "secagg": "fedsim.privacy.secagg.budget:SecaggBudget"
}
