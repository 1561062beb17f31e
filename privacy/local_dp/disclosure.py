"""What the theorems of `[privacy.local-dp]` let each adversary have."""

from __future__ import annotations

from fedsim.privacy.disclosure import SEES_MODELS, Cover, Kind

COVERS = (
    Cover(
        "local-dp",
        "server",
        (*SEES_MODELS, Kind.COHORTS),
        "a client's noised updates compose: Gaussian (Balle and Wang 2018, theorem 8) or Laplace (Dwork et al. 2006)",
    ),
)
