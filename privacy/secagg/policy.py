"""What the parties of an experiment with `[privacy.secagg]` agree on in advance."""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.privacy.secagg.encoding import Encoding
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.secagg.spec import Policy
from fedsim.privacy.secagg.topology import Adversary, Assumptions


def make_policy(
    settings: SecaggSettings,
    *,
    dimension: int,
    max_weight: int,
    metrics: tuple[str, ...],
    registry: Mapping[int, bytes],
) -> Policy:
    """Return the policy of the settings.

    Args:
        settings: The table `[privacy.secagg]`.
        dimension: Numbers in the model.
        max_weight: Largest weight of a client.
        metrics: Names of the averaged metrics.
        registry: Each client's public identity key (32 bytes).
    """
    return Policy(
        assumptions=Assumptions(
            corrupt=settings.corrupt, dropout=settings.dropout, adversary=Adversary(settings.adversary)
        ),
        encoding=Encoding(
            dimension=dimension,
            cohort=1,  # each round has its own
            input_bits=settings.input_bits,
            clip=settings.clip,
            max_weight=max_weight,
            metrics=metrics,
        ),
        graph=settings.graph,
        mode=settings.mode,
        minimum=settings.minimum,
        registry=registry,
    )
