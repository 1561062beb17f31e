"""Where an experiment's noise comes from: a named stream of its seed, or the operating system."""

from __future__ import annotations

from fedsim.experiment import Experiment
from fedsim.privacy.events import Noise
from fedsim.privacy.randomness import NumpyRandomness, Randomness, SystemRandomness
from fedsim.streams import noise_stream


def randomness_of(experiment: Experiment, purpose: str, *, round_: int, client: int = 0) -> Randomness:
    """Return what draws a mechanism's noise, as `privacy.noise` says; the others name a stream (`noise_stream`)."""
    if Noise(experiment.privacy.noise) is Noise.SYSTEM:
        return SystemRandomness()
    return NumpyRandomness(noise_stream(experiment.seed, purpose, round_=round_, client=client))
