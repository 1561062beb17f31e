"""What the theorems of `[privacy.dp-sgd]` allow each adversary to see."""

from __future__ import annotations

from fedsim.privacy.mechanism import SEES_MODELS, Cover, Kind

COVERS = (
    Cover(
        "dp-sgd",
        "known-cohort",
        (*SEES_MODELS, Kind.COHORTS),
        "all steps of all of a client's participations compose: Poisson-sampled Gaussians, by PLD (Doroshenko et al. "
        "2022) and RDP (Mironov et al. 2019)",
    ),
    Cover(
        "dp-sgd",
        "released-models",
        SEES_MODELS,
        "cluster sampling by secret coins (Bun et al. 2020); rounds compose",
    ),
)

# Further keys of an entry of the manifest's `epsilon`.
REPORT_TERMS = frozenset({"by-client", "records", "worst-client"})
