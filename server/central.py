"""Client-level privacy by this server: what a cohort's clipped updates sum to, noised, and nothing else of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedsim.client_level_sections import DpFedavgSection
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.randomness import randomness_of
from fedsim.vectors import dimension_of
from privacy.cohorts import Cohorts
from privacy.ledger import CohortEvent
from privacy.mechanisms import AdaptiveClipping, CentralGaussian, sensitivity_after_rounding
from privacy.randomness import Randomness
from server.summable import check_summable

Sums = Mapping[str, NDArray[np.float64]]


class Central:
    """DP-FedAvg in a run: the clip norm that clients are told, and the release of each round.

    Args:
        section: What is asked for.
        cohorts: How cohorts are drawn.
        noise_multiplier: Given, or calibrated.
        randomness: Draws a round's noise.
        rounded: The L2 sensitivity of a sum of updates that were clipped to some norm and then rounded.

    Attributes:
        clip: The norm that clients clip to in the next round: the only state.

    Raises:
        ValueError: There is no theorem for these values.
    """

    def __init__(
        self,
        section: DpFedavgSection,
        cohorts: Cohorts,
        noise_multiplier: float,
        randomness: Callable[[int], Randomness],
        rounded: Callable[[float], float],
    ) -> None:
        self.clip = section.clip
        self._section = section
        self._cohorts = cohorts
        self._noise_multiplier = noise_multiplier
        self._randomness = randomness
        self._rounded = rounded
        if section.adaptive is not None:
            self._adaptive(randomness(1))  # refuses what there is no theorem for

    @classmethod
    def of(
        cls, experiment: Experiment, arrays: ArrayRecord, cohorts: Cohorts, noise_multiplier: float
    ) -> Central:
        """Return that of an experiment with `[privacy.dp-fedavg]`.

        Raises:
            Refused: The model has arrays that can't be clipped, or there is no theorem for these values.
        """
        section = experiment.privacy.dp_fedavg
        if section is None:
            raise TypeError("the experiment has no [privacy.dp-fedavg]")
        check_summable(experiment, arrays)
        try:
            return cls(
                section,
                cohorts,
                noise_multiplier,
                lambda round_: randomness_of(experiment, "dp-fedavg-noise", round_=round_),
                rounding(experiment, dimension_of(tuple(array.shape) for array in arrays.values())),
            )
        except ValueError as error:
            raise Refused(f"privacy.dp-fedavg: {error}") from None

    def for_clients(self) -> dict[str, Any]:
        """Return what clients have to know of it, for a message's config."""
        bit = {"clip-bit": True} if self._section.adaptive is not None else {}
        return {"clip-norm": self.clip, **bit}

    def release(self, total: Sums, bits: float, round_: int) -> tuple[Sums, CohortEvent]:
        """Return the noised mean of the updates of a round, and the event that says so.

        Args:
            total: Sum of the clipped updates, by name; zeros where there were none.
            bits: Sum of the shifted bits; 0 where there were none.
            round_: From 1.
        """
        randomness, sensitivity = self._randomness(round_), self._rounded(self.clip)
        if self._section.adaptive is None:
            fixed = CentralGaussian(
                sensitivity=sensitivity,
                noise_multiplier=self._noise_multiplier,
                cohorts=self._cohorts,
                relation=self._section.neighbours,
                randomness=randomness,
            ).release(total, round_)
            return fixed.mean, fixed.event
        adaptive = self._adaptive(randomness).release(self.clip, total, bits, round_, sensitivity=sensitivity)
        self.clip = adaptive.clip
        return adaptive.mean, adaptive.event

    def state(self) -> dict[str, Any]:
        """Return what the next rounds depend on, for the checkpoint."""
        return {"clip": self.clip}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.clip = state["clip"]

    def _adaptive(self, randomness: Randomness) -> AdaptiveClipping:
        adaptive = self._section.adaptive
        if adaptive is None:
            raise TypeError("the clip norm is fixed")
        return AdaptiveClipping(
            noise_multiplier=self._noise_multiplier,
            bit_noise=adaptive.bit_noise or self._cohorts.cohort / 20,
            quantile=adaptive.quantile,
            rate=adaptive.rate,
            cohorts=self._cohorts,
            relation=self._section.neighbours,
            randomness=randomness,
        )


def zeros_like(model: ArrayRecord) -> Sums:
    """Return the sum of no updates."""
    return {name: np.zeros(tuple(array.shape)) for name, array in model.items()}


def rounding(experiment: Experiment, dimension: int) -> Callable[[float], float]:
    """Return what a clip norm becomes as a sensitivity: more, where secure aggregation rounds the clipped updates."""
    secagg = experiment.privacy.secagg
    if secagg is None:
        return lambda clip: clip
    step = secagg.clip / (2 ** (secagg.input_bits - 1) - 1)
    return lambda clip: sensitivity_after_rounding(clip, dimension, step)
