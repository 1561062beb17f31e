"""Randomness of an experiment's noise and cohorts: named streams of its seed, or the operating system."""

from __future__ import annotations

import numpy as np

from fedsim.experiment import Experiment
from fedsim.privacy.arithmetic import Arithmetic
from fedsim.privacy.cohorts.sampling import secret_generator
from fedsim.privacy.events import Noise
from fedsim.privacy.halves import ClientRound
from fedsim.privacy.randomness import NumpyRandomness, Randomness, SeededRandomness, SystemRandomness
from fedsim.streams import noise_stream, numpy_stream, torch_stream


def randomness_of(experiment: Experiment, purpose: str, *, round_: int, client: int = 0) -> Randomness:
    """Return the randomness of a mechanism's noise by `privacy.noise`; other arguments as `noise_stream`."""
    if Noise(experiment.privacy.noise) is Noise.SYSTEM:
        return SystemRandomness()
    return NumpyRandomness(noise_stream(experiment.seed, purpose, round_=round_, client=client))


class ClientsDraws:
    """Randomness of an experiment's clients (`fedsim.privacy.halves.ClientDraws`)."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def noise(self, purpose: str, at: ClientRound) -> Randomness:
        """Return the randomness of a client's noise in a round."""
        return randomness_of(self._experiment, purpose, round_=at.round, client=at.client)

    def noise_and_coins(self, noise: str, coins: str, at: ClientRound) -> Randomness:
        """Return the randomness of a client's noise and batches in a round, from streams of these names."""
        if Noise(self._experiment.privacy.noise) is Noise.SYSTEM:
            return SystemRandomness()
        seed, place = self._experiment.seed, {"round_": at.round, "client": at.client}
        drawn = numpy_stream(seed, coins, **place)
        if Arithmetic(self._experiment.privacy.arithmetic) is Arithmetic.FLOAT32:
            return SeededRandomness(drawn, torch_stream(seed, noise, **place))
        return NumpyRandomness(noise_stream(seed, noise, **place), drawn)


class ServerDraws:
    """Randomness of an experiment's server (`fedsim.privacy.training.Draws`)."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    @property
    def source(self) -> Noise:
        """Source of the noise."""
        return Noise(self._experiment.privacy.noise)

    def noise(self, purpose: str, round_: int) -> Randomness:
        """Return the randomness of the server's noise in a round."""
        return randomness_of(self._experiment, purpose, round_=round_)

    def coins(self, round_: int) -> np.random.Generator:
        """Return the generator of a round's cohort; secret if noise is the operating system's."""
        if self.source is Noise.SYSTEM:
            return secret_generator()
        return numpy_stream(self._experiment.seed, "cohort", round_=round_)
