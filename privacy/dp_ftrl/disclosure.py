"""What the theorems of `[privacy.dp-ftrl]` allow each adversary to see."""

from __future__ import annotations

from fedsim.privacy.mechanism import SEES_MODELS, Cover, Kind

COVERS = (
    Cover("dp-ftrl", "server", (), "none: it is trusted, and sees the sums before the noise"),
    Cover(
        "dp-ftrl",
        "known-cohort",
        (*SEES_MODELS, Kind.COHORTS),
        "all rounds are one Gaussian release, of the matrix's sensitivity to a client's participations (Denisov et "
        "al. 2022, theorem 2.1)",
    ),
    Cover(
        "dp-ftrl",
        "released-models",
        SEES_MODELS,
        "groups that take turns, secret coins within: sampled Gaussians, for banded matrices (Choquette-Choo et al. "
        "2023); else that of known cohorts",
    ),
)

# Further keys of an entry of the manifest's `epsilon`.
REPORT_TERMS = frozenset(
    {"group-rate", "mechanism", "min-separation", "parameters", "sensitivity", "sensitivity-to"}
)
