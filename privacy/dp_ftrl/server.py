"""DP-FTRL on the server: each round's sum is released with its row of correlated noise, each row once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic, ExactSum
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.dp_ftrl.accounting import NoisePlan
from fedsim.privacy.dp_ftrl.correlated_noise import Banded
from fedsim.privacy.dp_ftrl.event import MatrixEvent
from fedsim.privacy.events import Noise, Relation, Sampling, Unit
from fedsim.privacy.halves import Released, ServerHalf, Sums
from fedsim.privacy.randomness import KeyedRandomness, Prefetch, Randomness
from fedsim.privacy.ranges import check_positive
from fedsim.privacy.training import Draws, Training
from fedsim.privacy.vectors import concatenated, split_like


class DpFtrlServer(ServerHalf):
    """The server's half of DP-FTRL.

    The noise's state is secret, and is in the checkpoint. Unseeded noise has one secret key for all sessions of a
    run, so that a round interrupted by a kill draws the same noise again. Raises `ValueError` where no theorem covers
    its values.
    """

    noises = True

    def __init__(
        self, noise: NoisePlan, clip: float, training: Training, cohorts: Cohorts, draws: Draws
    ) -> None:
        self._noise = noise
        self._clip = clip
        self._training = training
        self._cohorts = cohorts
        self._draws = draws
        self.key = os.urandom(32) if draws.source is Noise.SYSTEM else b""
        self._randomness = Prefetch(self._noise_of, training.dimension)
        self._releases = self._begun(None)

    def instructions(self) -> dict[str, Any]:
        """Return the clip norm."""
        return {"clip-norm": self._clip}

    def prefetch(self, round_: int) -> None:
        """Begin to draw a round's noise, while clients train."""
        self._randomness.begin(round_)

    def release(self, total: Sums, round_: int, reported: Mapping[str, float]) -> Released:
        """Release a round's sum with its row of noise. As `ServerHalf` says."""
        mean, event = self._releases.release(concatenated(total, self._training.shapes), round_)
        return Released(split_like(mean, self._training.shapes), {}, event)

    def state(self) -> dict[str, Any]:
        """Return the noise's state; secret."""
        return {"noise": self._releases.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. As `ServerHalf` says."""
        self._releases = self._begun(state["noise"])

    def _begun(self, state: Mapping[str, Any] | None) -> CorrelatedGaussian:
        return CorrelatedGaussian(
            self._noise,
            self._cohorts,
            sum_sensitivity=self._training.sum_sensitivity(self._clip),
            size=self._training.dimension,
            randomness=self._randomness,
            state=state,
            arithmetic=self._training.arithmetic,
        )

    def _noise_of(self, round_: int) -> Randomness:
        if self._draws.source is Noise.SYSTEM:
            return KeyedRandomness(self.key, f"dp-ftrl noise, round {round_}")
        return self._draws.noise("dp-ftrl-noise", round_)


class CorrelatedGaussian:
    """Noised means of a training's rounds, in order (Denisov et al. 2022, arXiv 2202.08312).

    Each row of noise is added on a grid, the same in all rounds, and calibrated to the rounded sums
    (`fedsim.privacy.arithmetic`): the release is post-processing of the ideal mechanism on these sums.

    Unit: a client with all its participations. Neighbouring relation: zero-out. Trusted: the server, which has the
    sums before the noise. Sensitive: the sums, and the noise's state. The caller must enforce the participation
    pattern (`History`), since a sum does not show its clients.

    Args:
        plan: The mechanism and its noise multiplier.
        cohorts: How cohorts are drawn: b-min-separated, with the pattern's separation.
        sum_sensitivity: How far one client moves one round's sum, in L2 norm: the clip norm, after rounding if there
            is any. The same in all rounds.
        randomness: Draws the normals of a round (from 1); called once for each round, in order.
        state: State of an earlier release with the same arguments, to resume; None: from round 1.

    Raises:
        ValueError: A value is out of its range, the cohorts keep another separation, or the state belongs to another
            release.
    """

    def __init__(
        self,
        plan: NoisePlan,
        cohorts: Cohorts,
        *,
        sum_sensitivity: float,
        size: int,
        randomness: Callable[[int], Randomness],
        state: Mapping[str, NDArray[Any]] | None = None,
        arithmetic: Arithmetic = Arithmetic.GRID,
    ) -> None:
        check_positive("sensitivity of a sum", sum_sensitivity)
        check_positive("noise multiplier", plan.noise_multiplier)
        separation = plan.mechanism.participation.separation
        if cohorts.sampling is not Sampling.SEPARATED or cohorts.separation != separation:
            raise ValueError(
                f"cohorts by {cohorts.sampling}, separation {cohorts.separation}: the sensitivity is that of "
                f"participations {separation} rounds apart, which only b-min-sep sampling keeps"
            )
        self._plan = plan
        self._cohorts = cohorts
        self._sum_sensitivity = sum_sensitivity
        self._size = size
        self._randomness = randomness
        self._exact = ExactSum.of(sum_sensitivity, plan.deviation, size, arithmetic=arithmetic)
        self._noise = plan.mechanism.noise(size, state)

    def release(self, total: NDArray[np.float64], round_: int) -> tuple[NDArray[np.float64], MatrixEvent]:
        """Return the noised mean of a round (sum over the expected cohort, `(size,)`), and the event.

        Rows of earlier rounds without a release are skipped and never used.

        Args:
            total: Sum of the cohort's clipped updates, `(size,)`; zeros where there are none.
            round_: From 1; after the last released one.

        Raises:
            ValueError: The total has another shape or is not finite, or the round's row was passed or not planned.
        """
        if total.shape != (self._size,):
            raise ValueError(f"total: of shape {total.shape}, where ({self._size},) is needed")
        if not np.isfinite(total).all():
            raise ValueError("total: is not finite, so it was not clipped")
        if round_ <= self._noise.row:
            raise ValueError(
                f"round {round_}: row {round_} of the noise has been made; each is released once"
            )
        while self._noise.row < round_ - 1:
            self._next()
        mean, randomness = self._next()
        mean *= self._plan.deviation * self._exact.sensitivity
        self._exact.add(total, mean)
        mean /= self._cohorts.cohort
        return mean, self._event(round_, randomness)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the state as arrays; secret."""
        return self._noise.state()

    def _next(self) -> tuple[NDArray[np.float64], Randomness]:
        randomness = self._randomness(self._noise.row + 1)
        return self._noise.next(randomness.normals(self._size)), randomness

    def _event(self, round_: int, randomness: Randomness) -> MatrixEvent:
        mechanism, cohorts = self._plan.mechanism, self._cohorts
        strategy, pattern = mechanism.strategy, mechanism.participation
        return MatrixEvent(
            mechanism="dp-ftrl",
            strategy=mechanism.name,
            round=round_,
            rounds=pattern.rounds,
            unit=Unit.CLIENT,
            relation=Relation.ZERO_OUT,
            sum_sensitivity=self._sum_sensitivity,
            sensitivity=mechanism.sensitivity * self._sum_sensitivity,
            noise_multiplier=self._plan.deviation / mechanism.sensitivity,
            bands=strategy.vectors + 1 if isinstance(strategy, Banded) else None,
            buffers=None if isinstance(strategy, Banded) else strategy.vectors,
            separation=pattern.separation,
            participations=pattern.participations,
            sampling=cohorts.sampling,
            clients=cohorts.population,
            cohort=cohorts.cohort,
            denominator=float(cohorts.cohort),
            noise=randomness.source,
        )
