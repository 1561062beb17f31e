"""DP-SGD's steps in a client: batches are drawn, and gradients clipped, summed and noised."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedsim.privacy.dp_sgd.gradient import PrivateGradient
from fedsim.privacy.dp_sgd.release import Batches, DpSgdEvent
from fedsim.privacy.halves import ClientRound
from fedsim.privacy.randomness import Randomness


@dataclass
class PrivateKernel:
    """The kernel of DP-SGD.

    Attributes:
        model: Trained in place.
        gradient: The model's clipped and noised gradient.
        begin: Returns a round's batches, the event of all its steps, and the source of its batches and noise.
    """

    model: nn.Module
    gradient: PrivateGradient
    begin: Callable[[ClientRound], tuple[Batches, DpSgdEvent, Randomness]]

    def steps(self, inputs: Tensor, targets: Tensor, at: ClientRound) -> PrivateSteps:
        """Return the steps of a client's round. As `Kernel` says."""
        return PrivateSteps(self.model, self.gradient, *self.begin(at), inputs, targets)


@dataclass
class PrivateSteps:
    """DP-SGD by one client in one round (Abadi et al. 2016, algorithm 1).

    Unit: one record. Sensitive: the losses, and the number of records that a step draws. Only trained parameters, which
    are noised, change: buffers and frozen parameters are restored after each step, since their effect on the next step
    is not clipped.

    Attributes:
        model: Trained in place.
        gradient: The model's gradient; its clip norm is the sensitivity of each step's sum.
        batches: How records are drawn; public.
        planned: The event of all steps.
        randomness: Draws records and noise.
        inputs: All of the client's inputs, `(records, ...)`.
        targets: Their targets, `(records, ...)`.
        taken: Steps so far.
    """

    model: nn.Module
    gradient: PrivateGradient
    batches: Batches
    planned: DpSgdEvent
    randomness: Randomness
    inputs: Tensor
    targets: Tensor
    taken: int = 0

    def __post_init__(self) -> None:
        self._untrained = Untrained(self.model)

    def __iter__(self) -> Iterator[float | None]:
        """Take each step: set every parameter's `grad` to the noised mean gradient of a batch.

        Yields:
            The mean loss of the batch, un-noised; None if no record was drawn.
        """
        while self.taken < self.batches.steps:
            drawn = torch.from_numpy(self.batches.draw(self.randomness))
            self.taken += 1
            loss = self.gradient(
                self.inputs.index_select(0, drawn),
                self.targets.index_select(0, drawn),
                noise_multiplier=self.planned.noise_multiplier,
                denominator=self.batches.denominator,
                noise=self.randomness.fill_normal,
            )
            yield loss if len(drawn) else None

    def stepped(self) -> None:
        """Restore buffers and frozen parameters."""
        self._untrained.put_back()

    def mean(self, losses: Sequence[float | None]) -> float:
        """Return the mean of the losses of batches with records; 0 without any."""
        seen = [loss for loss in losses if loss is not None]
        return math.fsum(seen) / len(seen) if seen else 0.0

    def event(self) -> DpSgdEvent:
        """Return the event of the steps that were taken."""
        return replace(self.planned, steps=self.taken)


class Untrained:
    """Saved buffers and frozen parameters of a model, to be restored."""

    def __init__(self, model: nn.Module) -> None:
        self._kept = [
            (place, name, tensor, tensor.detach().clone())
            for module in model.modules()
            for place in (module._parameters, module._buffers)
            for name, tensor in place.items()
            if tensor is not None and not (tensor.requires_grad and isinstance(tensor, nn.Parameter))
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore them exactly, in place."""
        for place, name, tensor, values in self._kept:
            tensor.copy_(values)
            place[name] = tensor  # type: ignore[assignment]
