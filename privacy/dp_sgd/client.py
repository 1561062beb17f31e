"""DP-SGD on a client: its local training, and its check of the server's noise multiplier."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from fedsim.privacy.dp_sgd.plan import RELEASED_MODELS, Adversary, adversaries, local_steps
from fedsim.privacy.dp_sgd.release import Batches, DpSgdEvent
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.halves import ClientDraws, ClientHalf, ClientRound, Kernel, Losses
from fedsim.privacy.randomness import Randomness
from fedsim.privacy.training import Intent

if TYPE_CHECKING:
    from torch import nn

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
        from fedsim.privacy.dp_sgd.steps import PrivateKernel

        gradient = PrivateGradient(
            model,
            losses,
            clip=self._settings.clip,
            kernel=self._settings.kernel,
            max_batch=self._settings.max_batch,
            arithmetic=self._intent.arithmetic,
        )
        return PrivateKernel(model, gradient, self._begin)

    def check_instructions(self, at: ClientRound) -> None:
        """Refuse a noise multiplier that would bring this client's epsilon above the experiment's.

        The server calibrates to the worst client by the record counts that it knows. The client checks the result
        against its own count, without trusting the server's value. For released models this needs the number of
        clients; if the experiment leaves that to the data, nothing is checked.
        """
        adversary = self._adversary()
        if self._settings.epsilon is None or adversary is None:
            return
        told = self._noise_multiplier(at)
        epsilon = self._epsilon(told, at.records, adversary)
        if epsilon > self._settings.epsilon * (1 + TOLERANCE):
            raise ValueError(
                f"the message's noise-multiplier is {told}: with it the epsilon of this client's {at.records} records is "
                f"{epsilon:.4g}, above the experiment's {self._settings.epsilon}"
            )

    def _begin(self, at: ClientRound) -> tuple[Batches, DpSgdEvent, Randomness]:
        """Return a round's batches, the event of all its steps, and the source of its batches and noise."""
        batches, noise_multiplier = (
            self._settings.batches(self._intent.work, at.records),
            self._noise_multiplier(at),
        )
        planned = self._settings.planned_event(
            batches, noise_multiplier, self._intent.noise, round_=at.round, client=at.client
        )
        return batches, planned, self._draws.noise_and_coins("dp-sgd-noise", "dp-sgd-batches", at)

    def _noise_multiplier(self, at: ClientRound) -> float:
        """Return the experiment's noise multiplier, else the calibrated one from the message."""
        if self._settings.noise_multiplier is not None:
            return self._settings.noise_multiplier
        calibrated = float(at.instructions.get("noise-multiplier", 0.0))
        if not (calibrated > 0 and math.isfinite(calibrated)):
            raise ValueError(f"the message's noise-multiplier is {calibrated}; a number above 0 is needed")
        return calibrated

    def _epsilon_of(self, noise_multiplier: float, records: int, adversary: Adversary) -> float:
        """Return a client's epsilon over the whole run."""
        return adversary.epsilon(
            local_steps(self._settings, self._intent.work, records, noise_multiplier)
        ).best

    def _adversary(self) -> Adversary | None:
        """Return the adversary that the experiment's epsilon holds against; None: the number of clients is unknown."""
        rate = None
        if self._settings.adversary == RELEASED_MODELS and self._intent.clients is not None:
            rate = self._intent.rule.cohort / self._intent.clients
        found = adversaries(
            self._intent.rounds, self._settings.delta, client_rate=rate, max_participations=self.most
        )
        return found.get(self._settings.adversary)
