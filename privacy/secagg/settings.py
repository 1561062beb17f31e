"""The table `[privacy.secagg]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsim.privacy.settings import Section


class SecaggSettings(Section):
    """Secure aggregation: the server learns the sum of a round's updates, and no client's own.

    Bonawitz et al. 2017 on the complete graph, Bell et al. 2020 on a k-regular one. The graph and the threshold
    follow from the assumptions here. What a sum reveals of a client is bounded only by differential privacy.
    """

    mode: Literal["real", "ideal"] = "real"
    """`real`: the protocol; `ideal`: the same sum, to the bit, without any protection, for large sweeps."""
    adversary: Literal["semi-honest", "malicious-server"] = "semi-honest"
    """Whether the server follows the protocol and only observes, or may lie to its clients."""
    corrupt: float = Field(default=0.1, ge=0, lt=1)
    """Largest fraction of a cohort that may collude with the server."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Fraction of a cohort that may drop out without failing the round."""
    graph: Literal["auto", "complete", "k-regular"] = "auto"
    """Graph of clients that share secrets: complete, or k-regular; `auto`: k-regular for large cohorts."""
    minimum: int = Field(default=3, ge=2)
    """Fewest clients in a sum."""
    clip: float = Field(default=1.0, ge=1e-12, le=1e12)
    """Largest magnitude of a coordinate of an update; larger ones are truncated. With `dp-fedavg` and `dp-ftrl` at
    least their `clip`, so that none is. `dp-sgd` and `local-dp` noise updates before: truncating costs accuracy, but
    no privacy (post-processing)."""
    input_bits: int = Field(default=16, ge=2, le=32)
    """Bits of a coordinate, after rounding."""
    max_weight: int | None = Field(default=None, ge=1, lt=2**31)
    """Largest weight of a client, its number of examples; unset: the largest number."""
