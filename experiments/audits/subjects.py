"""Subjects of the audit of finite precision: one number of each mechanism on worst-case neighbours.

With the record (or client) the sum is the odd multiple of the grid step just below the clip norm; without it, zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.privacy.accounting import LocalSteps, known_cohort
from fedsim.privacy.arithmetic import Arithmetic, ExactSum
from fedsim.privacy.cohorts.rule import Cohorts, Participation
from fedsim.privacy.dp_fedavg import accounting as central
from fedsim.privacy.dp_fedavg.accounting import CohortMechanism
from fedsim.privacy.dp_fedavg.adaptive import BITS, AdaptiveClipping
from fedsim.privacy.dp_fedavg.gaussian import BoundedMetric, CentralGaussian
from fedsim.privacy.dp_ftrl.accounting import NoisePlan
from fedsim.privacy.dp_ftrl.factorization import banded
from fedsim.privacy.dp_ftrl.server import CorrelatedGaussian
from fedsim.privacy.dp_sgd.gradient import Kernel, PrivateGradient
from fedsim.privacy.dp_sgd.rounding import KEPT, step_grid
from fedsim.privacy.events import Law, Relation, Sampling
from fedsim.privacy.local_dp import accounting as local
from fedsim.privacy.local_dp.client import LocalNoise
from fedsim.privacy.randomness import NumpyRandomness, Randomness, SeededRandomness, SystemRandomness

DELTA = 1e-5
EVERYONE = Cohorts(sampling=Sampling.FIXED, clients=1, cohort=1)  # a denominator of 1 leaves all bits

Once = Callable[[NDArray[np.float64]], NDArray[Any]]  # from a sum to its release


@dataclass(frozen=True)
class Subject:
    """A mechanism.

    Attributes:
        mechanism: Makes a release function from a noise multiplier, randomness and an arithmetic.
        claimed: Epsilon, for a noise multiplier.
        delta: Delta of the claim.
        limit: Largest sum: the rest of the clip norm (1 for all).
        step: Grid step, for a noise multiplier and a number of coordinates.
        system: Whether the noise is the operating system's.
        vectors: Whether it releases sums of many coordinates.
    """

    mechanism: Callable[[float, Randomness, Arithmetic], Once]
    claimed: Callable[[float], float]
    step: Callable[[float, int], float]
    delta: float = DELTA
    limit: float = 1.0
    system: bool = False
    vectors: bool = False

    def sum_of(self, noise_multiplier: float, present: bool, coordinates: int = 1) -> NDArray[np.float64]:
        """Return a sum with or without the record; of many coordinates, one step in each."""
        step = self.step(noise_multiplier, coordinates)
        if not present:
            return np.zeros(coordinates)
        whole = np.ceil(self.limit / step) - 1
        return np.full(coordinates, step if coordinates > 1 else step * (whole - (whole + 1) % 2))

    def randomness(self, generator: np.random.Generator, arithmetic: Arithmetic) -> Randomness:
        """Return the randomness of the noise."""
        if self.system:
            return SystemRandomness()
        if arithmetic is Arithmetic.FLOAT32:
            return SeededRandomness(generator, torch.Generator().manual_seed(int(generator.integers(2**62))))
        return NumpyRandomness(generator)


def _dp_sgd(kernel: Kernel, dtype: torch.dtype = torch.float32, *, system: bool = False) -> Subject:
    def made(noise_multiplier: float, randomness: Randomness, arithmetic: Arithmetic) -> Once:
        model = nn.Linear(1, 1, bias=False).to(dtype)
        gradient = PrivateGradient(
            model, _outputs, clip=1.0, kernel=kernel, max_batch=1, arithmetic=arithmetic
        )
        inputs, labels = torch.zeros(1, 1, dtype=dtype), torch.zeros(1)

        def once(total: NDArray[np.float64]) -> NDArray[Any]:
            inputs.fill_(float(total[0]))
            gradient(
                inputs,
                labels,
                noise_multiplier=noise_multiplier,
                denominator=1.0,
                noise=randomness.fill_normal,
            )
            return np.array([p.grad.item() for p in model.parameters() if p.grad is not None])

        return once

    return Subject(made, _steps, lambda z, d: step_grid(1.0, d).step, limit=KEPT - 2e-6, system=system)


def _outputs(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs[:, 0]


def _steps(noise_multiplier: float) -> float:
    return known_cohort(LocalSteps(noise_multiplier=noise_multiplier, rate=1.0, steps=1), 1, DELTA).best


def _gaussian(noise_multiplier: float) -> float:
    epsilon = central.known_cohort(
        CohortMechanism(noise_multiplier=noise_multiplier, rate=1.0), 1, DELTA
    ).epsilon
    return np.inf if epsilon is None else epsilon.best


def _grid(sensitivity: float, order: Any = 2) -> Callable[[float, int], float]:
    def step(noise_multiplier: float, coordinates: int) -> float:
        exact = ExactSum.of(
            sensitivity, noise_multiplier, coordinates, order=order, arithmetic=Arithmetic.GRID
        )
        return 0.0 if exact.grid is None else exact.grid.step

    return step


def _central(noise_multiplier: float, randomness: Randomness, arithmetic: Arithmetic) -> Once:
    release = CentralGaussian(
        sensitivity=1.0,
        noise_multiplier=noise_multiplier,
        cohorts=EVERYONE,
        relation=Relation.ZERO_OUT,
        randomness=randomness,
        arithmetic=arithmetic,
    )
    return lambda total: release.release({"w": total}, 1).mean["w"]


def _metric(noise_multiplier: float, randomness: Randomness, arithmetic: Arithmetic) -> Once:
    """Release a metric with all of the budget except a thousandth."""
    release = CentralGaussian(
        sensitivity=1.0,
        noise_multiplier=noise_multiplier,
        metrics=(BoundedMetric(name="loss", bound=2.0, noise_multiplier=1.001 * noise_multiplier),),
        cohorts=EVERYONE,
        relation=Relation.ZERO_OUT,
        randomness=randomness,
        arithmetic=arithmetic,
    )

    def once(total: NDArray[np.float64]) -> NDArray[Any]:
        metrics = release.release({"w": np.zeros(1)}, 1, {"loss": float(total[0])}).metrics
        return np.array([metrics["loss"] - 1.0])

    return once


def _bits(noise_multiplier: float, randomness: Randomness, arithmetic: Arithmetic) -> Once:
    """Release bits with all of the budget except a thousandth."""
    adaptive = AdaptiveClipping(
        noise_multiplier=noise_multiplier,
        bit_noise=1.001 * noise_multiplier / 2,
        cohorts=EVERYONE,
        relation=Relation.ZERO_OUT,
        randomness=randomness,
        arithmetic=arithmetic,
    )

    def once(total: NDArray[np.float64]) -> NDArray[Any]:
        metrics = adaptive.release(1.0, {"w": np.zeros(1)}, 1, {BITS: float(total[0])}).metrics
        return np.array([metrics[BITS] - 0.5])

    return once


def _row(number: int) -> Callable[[float, Randomness, Arithmetic], Once]:
    """Release a row of correlated noise after others."""
    pattern = Participation(rounds=4, separation=4)
    mechanism = banded(pattern, 2)
    cohorts = Cohorts(sampling=Sampling.SEPARATED, clients=4, cohort=1, separation=4)

    def made(noise_multiplier: float, randomness: Randomness, arithmetic: Arithmetic) -> Once:
        plan = NoisePlan(mechanism=mechanism, noise_multiplier=noise_multiplier)

        def once(total: NDArray[np.float64]) -> NDArray[Any]:
            release = CorrelatedGaussian(
                plan,
                cohorts,
                sum_sensitivity=1.0,
                size=len(total),
                randomness=lambda round_: randomness,
                arithmetic=arithmetic,
            )
            for round_ in range(1, number):
                release.release(np.zeros(len(total)), round_)
            return release.release(total, number)[0]

        return once

    return made


def _row_step(noise_multiplier: float, coordinates: int) -> float:
    plan = NoisePlan(
        mechanism=banded(Participation(rounds=4, separation=4), 2), noise_multiplier=noise_multiplier
    )
    return _grid(1.0)(plan.deviation, coordinates)


def _local(law: Law, dtype: Any = np.float64, *, system: bool = False) -> Subject:
    def made(noise_multiplier: float, randomness: Randomness, arithmetic: Arithmetic) -> Once:
        client = LocalNoise(
            law=law,
            clip=1.0,
            noise_multiplier=noise_multiplier,
            randomness=randomness,
            arithmetic=arithmetic,
        )
        return lambda total: client.release({"w": total.astype(dtype)}, 1, 0).arrays["w"]

    if law is Law.LAPLACE:
        return Subject(
            made, lambda z: local.epsilon_of(z, 1, None).pld, _grid(2.0, 1), delta=0.0, system=system
        )
    return Subject(made, lambda z: local.epsilon_of(z, 1, DELTA).best, _grid(2.0), system=system)


SUBJECTS: Mapping[str, Subject] = {
    "dp-sgd fast": _dp_sgd("fast"),
    "dp-sgd opacus": _dp_sgd("opacus"),
    "dp-sgd compiled": _dp_sgd("compiled"),
    "dp-sgd fast float64": _dp_sgd("fast", torch.float64),
    "dp-sgd fast os": _dp_sgd("fast", system=True),
    "dp-fedavg": Subject(_central, _gaussian, _grid(1.0), vectors=True),
    "dp-fedavg os": Subject(_central, _gaussian, _grid(1.0), system=True, vectors=True),
    "dp-fedavg metric": Subject(_metric, _gaussian, _grid(1.0)),
    "dp-fedavg adaptive bits": Subject(_bits, _gaussian, _grid(0.5), limit=0.5),
    "dp-ftrl row 1": Subject(_row(1), _gaussian, _row_step, vectors=True),
    "dp-ftrl row 2": Subject(_row(2), _gaussian, _row_step, vectors=True),
    "local-dp gaussian": _local(Law.GAUSSIAN),
    "local-dp gaussian float32": _local(Law.GAUSSIAN, np.float32),
    "local-dp laplace": _local(Law.LAPLACE),
    "local-dp laplace os": _local(Law.LAPLACE, system=True),
}
