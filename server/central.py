"""Client-level privacy by this server: what a cohort's clipped updates sum to, noised, and nothing else of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedsim.client_level_sections import AdaptiveSection, DpFedavgSection
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.cohorts import Cohorts
from fedsim.privacy.dp_fedavg.adaptive import MOST, AdaptiveClipping
from fedsim.privacy.dp_fedavg.gaussian import CentralGaussian
from fedsim.privacy.dp_fedavg.metrics import BoundedMetric
from fedsim.privacy.events import CohortEvent, MatrixEvent
from fedsim.privacy.randomness import Randomness
from fedsim.privacy.rounding import sensitivity_after_rounding
from fedsim.privacy.secagg.encoding import METRIC_BITS
from fedsim.randomness import randomness_of
from fedsim.server.ahead import Ahead
from fedsim.server.summable import check_summable
from fedsim.summed import summed
from fedsim.vectors import dimension_of

Sums = Mapping[str, NDArray[np.float64]]


class Noised(NamedTuple):
    """What a round releases.

    Attributes:
        mean: Of the updates, noised, by name.
        metrics: Means of what clients said beside, noised, by the metrics' names.
        event: For the ledger.
    """

    mean: Sums
    metrics: dict[str, float]
    event: CohortEvent | MatrixEvent


class Central:
    """DP-FedAvg in a run: the clip norm that clients are told, and the release of each round.

    Args:
        section: What is asked for.
        cohorts: How cohorts are drawn.
        noise_multiplier: Given, or calibrated.
        randomness: Draws a round's noise.
        rounded: The L2 sensitivity of a sum of updates that were clipped to some norm and then rounded.
        summed: What clients call what they say beside, by what the ledger calls it (`fedsim.summed`).
        step: Of the grid that this is rounded to; 0: it is not.
        arithmetic: How noise is added.
        most: What an adaptive clip norm is at most.

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
        randomness: Ahead,
        rounded: Callable[[float], float],
        summed: Mapping[str, str],
        step: float,
        arithmetic: Arithmetic,
        most: float,
    ) -> None:
        self.clip = section.clip
        self.summed = summed
        self._section = section
        self._cohorts = cohorts
        self._noise_multiplier = noise_multiplier
        self._randomness = randomness
        self._rounded = rounded
        self._arithmetic = arithmetic
        self._most = most
        self._metrics = tuple(
            BoundedMetric(
                name=name, bound=table.bound, noise_multiplier=table.noise or cohorts.cohort / 10, step=step
            )
            for name, table in section.released.items()
        )
        if section.adaptive is None:  # either refuses what there is no theorem for
            self._fixed(randomness(1))
        else:
            self._adaptive(section.adaptive, randomness(1))

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
        dimension = dimension_of(tuple(array.shape) for array in arrays.values())
        secagg = experiment.privacy.secagg
        try:
            return cls(
                section,
                cohorts,
                noise_multiplier,
                Ahead(lambda round_: randomness_of(experiment, "dp-fedavg-noise", round_=round_), dimension),
                rounding(experiment, dimension),
                summed(experiment),
                0.0 if secagg is None else 2.0**-METRIC_BITS,
                Arithmetic(experiment.privacy.arithmetic),
                MOST if secagg is None else secagg.clip,
            )
        except ValueError as error:
            raise Refused(f"privacy.dp-fedavg: {error}") from None

    def for_clients(self) -> dict[str, Any]:
        """Return what clients have to know of it, for a message's config."""
        bit = {"clip-bit": True} if self._section.adaptive is not None else {}
        return {"clip-norm": self.clip, **bit}

    def begin(self, round_: int) -> None:
        """Begin to draw a round's noise, while clients train."""
        self._randomness.begin(round_)

    def release(self, total: Sums, round_: int, sums: Mapping[str, float]) -> Noised:
        """Return what a round releases, and the event that says so.

        Args:
            total: Sum of the clipped updates, by name; zeros where there were none.
            round_: From 1.
            sums: Of what clients said beside, by what the ledger calls it; 0 where there were none.
        """
        randomness, adaptive = self._randomness(round_), self._section.adaptive
        if adaptive is None:
            return Noised(*self._fixed(randomness).release(total, round_, sums))
        mean, self.clip, metrics, event = self._adaptive(adaptive, randomness).release(
            self.clip, total, round_, sums, sensitivity=self._rounded(self.clip)
        )
        return Noised(mean, {metric.name: metrics[metric.name] for metric in self._metrics}, event)

    def state(self) -> dict[str, Any]:
        """Return what the next rounds depend on, for the checkpoint."""
        return {"clip": self.clip}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.clip = state["clip"]

    def _fixed(self, randomness: Randomness) -> CentralGaussian:
        return CentralGaussian(
            sensitivity=self._rounded(self.clip),
            noise_multiplier=self._noise_multiplier,
            metrics=self._metrics,
            cohorts=self._cohorts,
            relation=self._section.neighbours,
            randomness=randomness,
            arithmetic=self._arithmetic,
        )

    def _adaptive(self, adaptive: AdaptiveSection, randomness: Randomness) -> AdaptiveClipping:
        return AdaptiveClipping(
            noise_multiplier=self._noise_multiplier,
            bit_noise=adaptive.bit_noise or self._cohorts.cohort / 20,
            quantile=adaptive.quantile,
            rate=adaptive.rate,
            metrics=self._metrics,
            most=self._most,
            cohorts=self._cohorts,
            relation=self._section.neighbours,
            randomness=randomness,
            arithmetic=self._arithmetic,
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
