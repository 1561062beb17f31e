"""DP-FedAvg on the server: the clip norm for clients, and the release of each round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_fedavg.adaptive import MOST, AdaptiveClipping
from fedsim.privacy.dp_fedavg.gaussian import BoundedMetric, CentralGaussian
from fedsim.privacy.dp_fedavg.settings import AdaptiveSettings, DpFedAvgSettings
from fedsim.privacy.events import Event
from fedsim.privacy.halves import Released, ServerHalf, Sums
from fedsim.privacy.randomness import Prefetch, Randomness
from fedsim.privacy.training import Draws, Training


class DpFedAvgServer(ServerHalf):
    """The server's half of DP-FedAvg; raises `ValueError` where no theorem covers its values.

    Attributes:
        clip: The norm that clients clip to in the next round: the only state.
    """

    noises = True

    def __init__(
        self,
        settings: DpFedAvgSettings,
        training: Training,
        cohorts: Cohorts,
        noise_multiplier: float,
        draws: Draws,
    ) -> None:
        self.clip = settings.clip
        self._settings = settings
        self._training = training
        self._cohorts = cohorts
        self._noise_multiplier = noise_multiplier
        self._randomness = Prefetch(lambda round_: draws.noise("dp-fedavg-noise", round_), training.dimension)
        step = 0.0 if training.secure is None else training.secure.metric_step
        self._metrics = tuple(
            BoundedMetric(
                name=name, bound=table.bound, noise_multiplier=table.noise or cohorts.cohort / 10, step=step
            )
            for name, table in settings.released.items()
        )
        if settings.adaptive is None:  # either refuses values that no theorem covers
            self._fixed(self._randomness(1))
        else:
            self._adaptive(settings.adaptive, self._randomness(1))

    def instructions(self) -> dict[str, Any]:
        """Return the clip norm, and whether to report if the update was below it."""
        bit = {"clip-bit": True} if self._settings.adaptive is not None else {}
        return {"clip-norm": self.clip, **bit}

    def prefetch(self, round_: int) -> None:
        """Begin to draw a round's noise, while clients train."""
        self._randomness.begin(round_)

    def release(self, total: Sums, round_: int, reported: Mapping[str, float]) -> Released:
        """Noise a round's sums. As `ServerHalf` says."""
        randomness, adaptive = self._randomness(round_), self._settings.adaptive
        if adaptive is None:
            return self._fixed(randomness).release(total, round_, reported)
        mean, self.clip, metrics, event = self._adaptive(adaptive, randomness).release(
            self.clip, total, round_, reported, sensitivity=self._training.sum_sensitivity(self.clip)
        )
        return Released(mean, {metric.name: metrics[metric.name] for metric in self._metrics}, event)

    def planned(self, round_: int) -> Event:
        """Return the event of a round's release. As `ServerHalf` says."""
        randomness, adaptive = self._randomness(round_), self._settings.adaptive
        if adaptive is None:
            return self._fixed(randomness).event(round_)
        sensitivity = self._training.sum_sensitivity(self.clip)
        return self._adaptive(adaptive, randomness).event(sensitivity, round_)

    def state(self) -> dict[str, Any]:
        """Return the state for the checkpoint."""
        return {"clip": self.clip}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.clip = state["clip"]

    def _fixed(self, randomness: Randomness) -> CentralGaussian:
        return CentralGaussian(
            sensitivity=self._training.sum_sensitivity(self.clip),
            noise_multiplier=self._noise_multiplier,
            metrics=self._metrics,
            cohorts=self._cohorts,
            relation=self._settings.neighbours,
            randomness=randomness,
            arithmetic=self._training.arithmetic,
        )

    def _adaptive(self, adaptive: AdaptiveSettings, randomness: Randomness) -> AdaptiveClipping:
        secure = self._training.secure
        return AdaptiveClipping(
            noise_multiplier=self._noise_multiplier,
            bit_noise=adaptive.bit_noise or self._cohorts.cohort / 20,
            quantile=adaptive.quantile,
            rate=adaptive.rate,
            metrics=self._metrics,
            most=MOST if secure is None else secure.clip,
            cohorts=self._cohorts,
            relation=self._settings.neighbours,
            randomness=randomness,
            arithmetic=self._training.arithmetic,
        )
