"""A client's release in a round of DP-SGD: noised gradients and their event."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedsim.privacy.dp_sgd.event import DpSgdEvent
from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.sampling import Batches
from fedsim.privacy.events import Noise, Relation, Unit
from fedsim.privacy.randomness import Randomness


@dataclass
class DpSgd:
    """DP-SGD by one client in one round (Abadi et al. 2016, algorithm 1).

    Unit: one record. Sensitive: the losses that `step` returns, and the number of records it drew.

    Attributes:
        gradient: The model's gradient; its clip norm is the sensitivity of each step's sum.
        batches: How records are drawn; public.
        noise_multiplier: Standard deviation of the noise, over the clip norm.
        relation: Which data sets are neighbours.
        randomness: Draws records and noise.
        noise: Source of `randomness`.
        taken: Steps so far.

    Raises:
        ValueError: A neighbouring data set moves a sum by more than the clip norm, or changes public values.
    """

    gradient: PrivateGradient
    batches: Batches
    noise_multiplier: float
    relation: Relation
    randomness: Randomness
    noise: Noise
    taken: int = 0

    def __post_init__(self) -> None:
        check_relation(self.relation, self.batches)

    def step(self, inputs: Tensor, labels: Tensor) -> float | None:
        """Draw a batch and set every parameter's `grad` to its noised mean gradient.

        Args:
            inputs: All of the client's inputs, `(records, ...)`.
            labels: Their labels, `(records, ...)`.

        Returns:
            The mean loss of the batch, un-noised; None if no record was drawn.
        """
        drawn = torch.from_numpy(self.batches.draw(self.randomness))
        self.taken += 1
        loss = self.gradient(
            inputs.index_select(0, drawn),
            labels.index_select(0, drawn),
            noise_multiplier=self.noise_multiplier,
            denominator=self.batches.denominator,
            noise=self.randomness.fill_normal,
        )
        return loss if len(drawn) else None

    def event(self, round_: int, client: int) -> DpSgdEvent:
        """Return the event of the steps taken."""
        planned = planned_event(
            self.batches, self.noise_multiplier, self.gradient.clip, self.relation, self.noise
        )
        return replace(planned, round=round_, client=client, steps=self.taken)


def planned_event(
    batches: Batches, noise_multiplier: float, clip: float, relation: Relation, noise: Noise
) -> DpSgdEvent:
    """Return the event of a full round, with client and round still to be set.

    Under add-or-remove-one it does not contain the protected number of records. Arguments are as in `DpSgd`, with the
    gradient's clip norm.

    Raises:
        ValueError: A neighbouring data set moves a sum by more than the clip norm, or changes public values.
    """
    check_relation(relation, batches)
    return DpSgdEvent(
        mechanism="dp-sgd",
        round=0,
        client=0,
        unit=Unit.EXAMPLE,
        relation=relation,
        sensitivity=clip,
        noise_multiplier=noise_multiplier,
        sampling=batches.sampling,
        rate=batches.rate,
        max_batch=batches.max_batch,
        records=batches.records if relation is Relation.ZERO_OUT else None,
        steps=batches.steps,
        noise=noise,
    )


def check_relation(relation: Relation, batches: Batches) -> None:
    """Raise `ValueError` for a relation under which no theorem covers the batches."""
    if relation is Relation.REPLACE_ONE:
        raise ValueError(
            f"relation = {relation}: replacing a record moves a step's sum by twice the clip norm; allowed: "
            f"{Relation.ZERO_OUT}, {Relation.ADD_OR_REMOVE_ONE}"
        )
    if relation is Relation.ADD_OR_REMOVE_ONE and batches.max_batch is not None:
        raise ValueError(
            f"max batch = {batches.max_batch}: truncated batches depend on the number of records, which "
            f"{relation} protects; allowed: none, or {Relation.ZERO_OUT}"
        )
    if relation is Relation.ADD_OR_REMOVE_ONE and not batches.declared:
        raise ValueError(
            f"relation = {relation}: the number of records is protected, and rate, steps or denominator depend "
            f"on it; allowed: a declared rate and number of steps, or {Relation.ZERO_OUT}"
        )
