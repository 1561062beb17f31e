"""DP-FTRL by this server: cohorts that keep their distance, and sums that are released with correlated noise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from fedsim.client_level_sections import DpFtrlSection
from fedsim.errors import Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.cohorts import Cohorts
from fedsim.privacy.dp_ftrl.calibration import Plan
from fedsim.privacy.dp_ftrl.participation import History
from fedsim.privacy.dp_ftrl.release import CorrelatedGaussian
from fedsim.privacy.events import Noise
from fedsim.privacy.randomness import KeyedRandomness, NumpyRandomness, Randomness
from fedsim.server.ahead import Ahead
from fedsim.server.central import Noised, Sums, rounding
from fedsim.server.cohort import draw_separated, group_of, secret_generator
from fedsim.server.summable import check_summable
from fedsim.streams import noise_stream, numpy_stream
from fedsim.vectors import dimension_of, split


class Correlated:
    """DP-FTRL in a run: who is drawn, and the release of each round.

    Its state, the noise's and who took part when, is secret, and is in the checkpoint. Noise that is not seeded has a
    secret key, one for all sessions of a run: later rows go on from the noise of a round that a kill cut short, drawn
    again and the same.

    Args:
        section: What is asked for.
        plan: The mechanism and its noise.
        cohorts: How cohorts are drawn.
        arrays: The model.
        sum_sensitivity: How far one client moves a round's sum.
        seed: The experiment's; None: the noise is drawn from a secret key, and cohorts by secret coins.
        arithmetic: How noise is added.

    Attributes:
        key: That of the noise; empty where it is seeded.
        noted: The cohorts, by round, that sessions before this one have drawn by secret coins: a round that comes
            again has the same clients, whose participations are counted once.
        note: Called with a round and the cohort that was drawn for it, before anyone is told.

    Raises:
        ValueError: There is no theorem for these values.
    """

    summed: Mapping[str, str] = {}  # clients say nothing beside their updates

    def __init__(
        self,
        section: DpFtrlSection,
        plan: Plan,
        cohorts: Cohorts,
        arrays: ArrayRecord,
        sum_sensitivity: float,
        seed: int | None,
        arithmetic: Arithmetic = Arithmetic.GRID,
    ) -> None:
        self._section = section
        self._plan = plan
        self._cohorts = cohorts
        self._arrays = arrays
        self._sum_sensitivity = sum_sensitivity
        self._seed = seed
        self._arithmetic = arithmetic
        self.key = b"" if seed is not None else os.urandom(32)
        self.noted: Mapping[int, list[int]] = {}
        self.note: Callable[[int, list[int]], None] = lambda round_, cohort: None
        self._groups = [
            group_of(str(client), section.min_separation) for client in range(self._cohorts.population)
        ]
        self._history = History(plan.mechanism.participation)
        self._size = dimension_of(tuple(array.shape) for array in arrays.values())
        self._randomness = Ahead(self._noise_of, self._size)
        self._releases = self._begun(None)

    @classmethod
    def of(cls, experiment: Experiment, arrays: ArrayRecord, cohorts: Cohorts, plan: Plan) -> Correlated:
        """Return that of an experiment with `[privacy.dp-ftrl]`.

        Raises:
            Refused: The model has arrays that can't be clipped, or there is no theorem for these values.
        """
        section = experiment.privacy.dp_ftrl
        if section is None:
            raise TypeError("the experiment has no [privacy.dp-ftrl]")
        check_summable(experiment, arrays)
        dimension = dimension_of(tuple(array.shape) for array in arrays.values())
        try:
            sum_sensitivity = rounding(experiment, dimension)(section.clip)
            seed = experiment.seed if Noise(experiment.privacy.noise) is Noise.SEEDED else None
            arithmetic = Arithmetic(experiment.privacy.arithmetic)
            return cls(section, plan, cohorts, arrays, sum_sensitivity, seed, arithmetic)
        except ValueError as error:
            raise Refused(f"privacy.dp-ftrl: {error}") from None

    def for_clients(self) -> dict[str, Any]:
        """Return what clients have to know of it, for a message's config."""
        return {"clip-norm": self._section.clip}

    def draw(self, round_: int) -> list[int]:
        """Draw a round's clients, in ascending order, and count that they take part, whether or not they answer.

        Clients who have taken part as often as they may stay out. Of a round that was drawn before a kill the clients
        are the same.

        Raises:
            RunFailed: One may not take part: the separation would be broken.
        """
        cohort = self.noted.get(round_)
        if cohort is None:
            drawn = draw_separated(
                round_,
                self._section.min_separation,
                self._cohorts.cohort,
                self._groups,
                self._coins(round_),
            )
            cohort = [client for client in drawn if not self._history.is_spent(client)]
        try:
            self._history.admit(round_, cohort)
        except ValueError as error:
            raise RunFailed(f"privacy.dp-ftrl: {error}") from None
        if round_ not in self.noted:
            self.note(round_, cohort)
        return cohort

    def begin(self, round_: int) -> None:
        """Begin to draw a round's noise, while clients train."""
        self._randomness.begin(round_)

    def release(self, total: Sums, round_: int, sums: Mapping[str, float]) -> Noised:
        """Return what a round releases, and the event that says so.

        Args:
            total: Sum of the clipped updates, by name; zeros where there were none.
            round_: From 1.
            sums: Not used: nothing is said beside.

        Raises:
            RunFailed: The row of the round has been made before.
        """
        vector = np.concatenate([total[name].reshape(-1) for name in self._arrays]).astype(np.float64)
        try:
            released = self._releases.release(vector, round_)
        except ValueError as error:
            raise RunFailed(f"privacy.dp-ftrl: {error}") from None
        return Noised(split(released.mean, self._arrays), {}, released.event)

    def state(self) -> dict[str, Any]:
        """Return what the next rounds depend on beside the key, as a tree of arrays for the checkpoint; secret."""
        return {"noise": self._releases.state(), "history": self._history.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            Refused: It is of another mechanism.
        """
        try:
            self._releases = self._begun(state["noise"])
            self._history = History(self._plan.mechanism.participation, state["history"])
        except ValueError as error:
            raise Refused(f"privacy.dp-ftrl: the checkpoint's state: {error}") from None

    def _begun(self, state: Mapping[str, Any] | None) -> CorrelatedGaussian:
        return CorrelatedGaussian(
            self._plan,
            self._cohorts,
            sum_sensitivity=self._sum_sensitivity,
            size=self._size,
            randomness=self._randomness,
            state=state,
            arithmetic=self._arithmetic,
        )

    def _coins(self, round_: int) -> np.random.Generator:
        if self._seed is None:
            return secret_generator()
        return numpy_stream(self._seed, "cohort", round_=round_)

    def _noise_of(self, round_: int) -> Randomness:
        if self._seed is None:
            return KeyedRandomness(self.key, f"dp-ftrl noise, round {round_}")
        return NumpyRandomness(noise_stream(self._seed, "dp-ftrl-noise", round_=round_))
