"""What the theorems of `[privacy.secagg]` allow each adversary to see."""

from __future__ import annotations

from fedsim.privacy.mechanism import Cover, Kind

COVERS = (
    Cover(
        "secagg",
        "semi-honest",
        (Kind.PLAN,),
        "no epsilon of its own: the server learns sums alone (Bonawitz et al. 2017; Bell et al. 2020); what a sum says is "
        "bounded by the mechanism beside it",
    ),
    Cover(
        "secagg",
        "malicious-server",
        (Kind.PLAN,),
        "the same against a server that lies (Bell et al. 2020, alpha-summation)",
    ),
)
