"""DP-SGD on a client: its local training, and its check of the server's noise multiplier."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedsim.privacy.accounting import Adversary, KnownCohort, LocalSteps, ReleasedModels
from fedsim.privacy.client_half import ClientDraws, ClientHalf, ClientRound, Kernel
from fedsim.privacy.dp_sgd.event import DpSgdEvent
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Relation
from fedsim.privacy.intent import Intent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedsim.privacy.client_half import Losses
    from fedsim.privacy.dp_sgd.gradient import PrivateGradient
    from fedsim.privacy.dp_sgd.release import DpSgd

TOLERANCE = 1e-6  # relative, of epsilon: by how much a calibrated one may exceed its target


class DpSgdClient(ClientHalf):
    """The client's half of DP-SGD.

    Args:
        settings: The table `[privacy.dp-sgd]`.
        intent: What the experiment says.
        draws: Draws batches and noise.
    """

    releases = True

    def __init__(self, settings: DpSgdSettings, intent: Intent, draws: ClientDraws) -> None:
        self.most = settings.max_participations
        self._settings = settings
        self._intent = intent
        self._draws = draws
        self._epsilon = functools.lru_cache(maxsize=8)(self._epsilon_of)

    def kernel(self, model: nn.Module, losses: Losses, plain: Kernel) -> Kernel:
        """Return what clips, sums and noises the gradients. As `ClientHalf` says."""
        from fedsim.privacy.dp_sgd.gradient import PrivateGradient  # loads PyTorch

        gradient = PrivateGradient(
            model,
            losses,
            clip=self._settings.clip,
            kernel=self._settings.kernel,
            max_batch=self._settings.max_batch,
            arithmetic=self._intent.arithmetic,
        )
        return PrivateKernel(self, model, gradient)

    def check_instructions(self, at: ClientRound) -> None:
        """Refuse a noise multiplier that would bring this client's epsilon above the experiment's.

        The server calibrates to the worst client by the record counts that it knows. The client checks the result
        against its own count, without trusting the server's value. For released models this needs the number of
        clients; if the experiment leaves that to the data, nothing is checked.
        """
        adversary = self._adversary()
        if self._settings.epsilon is None or adversary is None:
            return
        told = self.noise_multiplier(at)
        epsilon = self._epsilon(told, at.records)
        if epsilon > self._settings.epsilon * (1 + TOLERANCE):
            raise ValueError(
                f"the message's noise-multiplier is {told}: with it the epsilon of this client's {at.records} records is "
                f"{epsilon:.4g}, above the experiment's {self._settings.epsilon}"
            )

    def noise_multiplier(self, at: ClientRound) -> float:
        """Return the experiment's noise multiplier, else the calibrated one from the message.

        Raises:
            ValueError: The message has none.
        """
        if self._settings.noise_multiplier is not None:
            return self._settings.noise_multiplier
        calibrated = float(at.instructions.get("noise-multiplier", 0.0))
        if not (calibrated > 0 and math.isfinite(calibrated)):
            raise ValueError(f"the message's noise-multiplier is {calibrated}; a number above 0 is needed")
        return calibrated

    def release(self, gradient: PrivateGradient, at: ClientRound) -> DpSgd:
        """Return the release of a round, before its first step."""
        from fedsim.privacy.dp_sgd.release import DpSgd  # loads PyTorch

        return DpSgd(
            gradient=gradient,
            batches=self._settings.batches(self._intent.work, at.records),
            noise_multiplier=self.noise_multiplier(at),
            relation=self._settings.neighbours,
            randomness=self._draws.noise_and_coins("dp-sgd-noise", "dp-sgd-batches", at),
            noise=self._intent.noise,
        )

    def _epsilon_of(self, noise_multiplier: float, records: int) -> float:
        """Return a client's epsilon over the whole run, by its number of records, for the experiment's adversary."""
        settings = self._settings
        batches = settings.batches(self._intent.work, records)
        steps = LocalSteps(
            noise_multiplier=noise_multiplier,
            rate=batches.rate,
            steps=batches.steps,
            max_batch=batches.max_batch,
            records=records if settings.neighbours is Relation.ZERO_OUT else None,
        )
        adversary = self._adversary()
        return math.inf if adversary is None else adversary.epsilon(steps).best

    def _adversary(self) -> Adversary | None:
        """Return the adversary that the experiment's epsilon holds against; None: the number of clients is unknown."""
        intent, settings = self._intent, self._settings
        if settings.adversary == "released-models":
            if intent.clients is None:
                return None
            return ReleasedModels(intent.rule.cohort / intent.clients, intent.rounds, settings.delta)
        return KnownCohort(min(self.most or intent.rounds, intent.rounds), settings.delta)


class PrivateKernel:
    """The kernel of DP-SGD.

    Args:
        half: The client's half.
        model: Trained in place.
        gradient: The model's clipped and noised gradient.
    """

    def __init__(self, half: DpSgdClient, model: nn.Module, gradient: PrivateGradient) -> None:
        self._half = half
        self._model = model
        self._gradient = gradient

    def steps(self, inputs: Tensor, targets: Tensor, at: ClientRound) -> PrivateSteps:
        """Return the steps of a client's round. As `Kernel` says."""
        return PrivateSteps(self._half.release(self._gradient, at), self._model, inputs, targets, at)


class PrivateSteps:
    """The steps of one round of DP-SGD.

    Only trained parameters, which are noised, change: buffers and frozen parameters are restored after each step,
    since their effect on the next step is not clipped.
    """

    def __init__(
        self, release: DpSgd, model: nn.Module, inputs: Tensor, targets: Tensor, at: ClientRound
    ) -> None:
        from fedsim.privacy.dp_sgd.state import Untrained  # loads PyTorch

        self._release = release
        self._untrained = Untrained(model)
        self._inputs = inputs
        self._targets = targets
        self._at = at

    def __iter__(self) -> Iterator[float | None]:
        """Yield the mean loss of each step's batch, un-noised. As `Steps` says."""
        while self._release.taken < self._release.batches.steps:
            yield self._release.step(self._inputs, self._targets)

    def stepped(self) -> None:
        """Restore buffers and frozen parameters."""
        self._untrained.put_back()

    def mean(self, losses: Sequence[float | None]) -> float:
        """Return the mean of the losses of batches with records; 0 without any."""
        seen = [loss for loss in losses if loss is not None]
        return math.fsum(seen) / len(seen) if seen else 0.0

    def event(self) -> DpSgdEvent:
        """Return the event of the steps that were taken."""
        return self._release.event(self._at.round, self._at.client)
