"""What the theorems of `[privacy.local-dp]` allow each adversary to see."""

from __future__ import annotations

from fedsim.privacy.mechanism import SEES_MODELS, Cover, Kind

COVERS = (
    Cover(
        "local-dp",
        "server",
        (*SEES_MODELS, Kind.COHORTS),
        "a client's noised updates compose: Gaussian (Balle and Wang 2018, theorem 8) or Laplace (Dwork et al. 2006)",
    ),
)

# Further keys of an entry of the manifest's `epsilon`.
REPORT_TERMS = frozenset({"law"})
