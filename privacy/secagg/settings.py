"""The table `[privacy.secagg]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedsim.privacy.settings import Section


class SecaggSettings(Section):
    """Secure aggregation: the server learns the sum of a round's updates, and no client's own.

    Bonawitz et al. 2017 on the complete graph, Bell et al. 2020 on a k-regular one. Who shares secrets with whom,
    and how many shares open one, follow from what is assumed here. What a sum says of a client is not bounded by
    this: for that there is differential privacy.
    """

    mode: Literal["real", "ideal"] = "real"
    """`real`: the protocol; `ideal`: the same sum, to the bit, without any protection, for large sweeps."""
    adversary: Literal["semi-honest", "malicious-server"] = "semi-honest"
    """Whether the server follows the protocol, and only looks, or may lie to its clients."""
    corrupt: float = Field(default=0.1, ge=0, lt=1)
    """Largest fraction of a cohort that may share what it sees with the server."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Fraction of a cohort that may be lost in a round without losing the round."""
    graph: Literal["auto", "complete", "k-regular"] = "auto"
    """Who shares secrets with whom: everyone with everyone, or with k others; `auto`: k for large cohorts."""
    minimum: int = Field(default=3, ge=2)
    """Clients in a sum at least."""
    clip: float = Field(default=1.0, ge=1e-12, le=1e12)
    """Largest magnitude of a coordinate of an update; what is beyond is cut. With `dp-fedavg` and `dp-ftrl` at least
    their `clip`, so that nothing is. What `dp-sgd` and `local-dp` send is noised before: cutting it costs accuracy, and
    no privacy (post-processing)."""
    input_bits: int = Field(default=16, ge=2, le=32)
    """Bits of a coordinate, after rounding."""
    max_weight: int | None = Field(default=None, ge=1, lt=2**31)
    """Largest weight of a client, its number of examples; unset: the most that a client has."""
