"""What the theorems of `[privacy.dp-fedavg]` allow each adversary to see."""

from __future__ import annotations

from fedsim.privacy.mechanism import SEES_MODELS, Cover, Kind

COVERS = (
    Cover("dp-fedavg", "server", (), "none: it is trusted, and sees the sums before the noise"),
    Cover(
        "dp-fedavg",
        "known-cohort",
        (*SEES_MODELS, Kind.NOISED, Kind.COHORTS),
        "Gaussian releases of sums compose, without amplification (Balle and Wang 2018, theorem 8); metrics are "
        "coordinates of the same release (Andrew et al. 2021, theorem 1)",
    ),
    Cover(
        "dp-fedavg",
        "released-models",
        (*SEES_MODELS, Kind.NOISED),
        "Poisson-sampled Gaussians compose (Mironov et al. 2019; PLD), truncated ones likewise; fixed cohorts: "
        "sampling without replacement (Wang et al. 2019)",
    ),
)
