"""`fedsim budget dp-ftrl`: epsilon of correlated noise, and its error against independent noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal

from fedsim.privacy.budget import NoiseBudget, Table, both, bounds_to_json, counted, shown
from fedsim.privacy.cohorts.rule import Participation
from fedsim.privacy.dp_ftrl.accounting import Groups, NoisePlan, plan
from fedsim.privacy.dp_ftrl.factorization import (
    BUFFERS,
    Factorization,
    alternatives,
    factorization_of,
    independent,
)
from fedsim.privacy.dp_ftrl.toeplitz import Objective


class DpFtrlBudget(NoiseBudget):
    """Plan DP-FTRL: a client's epsilon, and the model's error against independent noise at the same epsilon.

    Give either --noise-multiplier or --epsilon. Epsilon depends on how often and how far apart a client takes part,
    not on sampling, unless --client-rate declares secret Poisson cohorts.
    """

    noise_multiplier: Annotated[float | None, "Z"] = None
    """Standard deviation of the noise before it is correlated / (sensitivity * clip norm)."""
    rounds: Annotated[int, "T"]
    """Rounds."""
    delta: Annotated[float, "D"]
    """Must be below 1 / clients."""
    mechanism: Literal["sqrt-toeplitz", "banded", "blt"] = "banded"
    """Strategy that correlates the noise."""
    bands: Annotated[int | None, "B"] = None
    """Bands of banded noise, at most M: rounds over which its parts cancel. Default: M."""
    buffers: Annotated[int | None, "N"] = None
    """Buffers of blt noise: vectors in memory. Default: 3."""
    min_separation: Annotated[int | None, "M"] = None
    """Rounds between two participations of a client; 1 allows consecutive rounds. Default: B, or 1."""
    participations: Annotated[int | None, "R"] = None
    """Most rounds in which a client takes part. Default: as many as M allows."""
    client_rate: Annotated[float | None, "P"] = None
    """Expected cohort / clients, for amplification: clients in M groups that take turns, and secret Poisson sampling
    with rate M * P in a group."""
    unit: ClassVar[str] = "one client, with all its participations"
    neighbours: ClassVar[str] = "zero-out (the client's updates become zero; cohorts stay the same)"

    def check(self) -> None:
        """Find the noise, if it isn't given. As `Budget` says."""
        super().check()
        for name, value, mechanism in (("bands", self.bands, "banded"), ("buffers", self.buffers, "blt")):
            if value is not None and self.mechanism != mechanism:
                raise ValueError(
                    f"--{name} {value}: is for --mechanism {mechanism}, not for {self.mechanism}"
                )
        self.check_noise()
        if self.client_rate is not None and self.participations is not None:
            raise ValueError(
                f"--participations {self.participations}: has no theorem with --client-rate, as a client that stops after "
                "so many rounds is not Poisson-sampled"
            )
        self._with(self.noise_multiplier or 1.0).known_cohort(self.delta)
        _ = self.noise

    @cached_property
    def _pattern(self) -> Participation:
        separation = (self.bands or 1) if self.min_separation is None else self.min_separation
        return Participation(rounds=self.rounds, separation=separation, most=self.participations)

    @cached_property
    def _factorization(self) -> Factorization:
        return factorization_of(self.mechanism, self._pattern, self._bands, self._buffers)

    @property
    def _bands(self) -> int | None:
        if self.mechanism != "banded" or self.bands is not None:
            return self.bands
        return min(self._pattern.separation, self.rounds)

    @property
    def _buffers(self) -> int | None:
        return BUFFERS if self.mechanism == "blt" and self.buffers is None else self.buffers

    @property
    def _groups(self) -> Groups | None:
        return None if self.client_rate is None else Groups.of(self._pattern, self.client_rate)

    def _with(self, noise_multiplier: float) -> NoisePlan:
        return NoisePlan(
            mechanism=self._factorization, noise_multiplier=noise_multiplier, groups=self._groups
        )

    @cached_property
    def _plan(self) -> NoisePlan:
        return self._with(self.noise)

    def noise_for(self, epsilon: float) -> float:
        """Return the smallest noise multiplier for an epsilon. As `NoiseBudget` says."""
        return plan(self._factorization, epsilon, self.delta, self.client_rate).noise_multiplier

    def _instead(
        self, build: Callable[[Participation], Factorization], separation: int = 1
    ) -> NoisePlan | None:
        """Return a plan with another factorization and the same epsilon; None: there is no epsilon to compare at."""
        if self._groups is None:
            return replace(self._plan, mechanism=build(self._pattern))
        epsilon = self._plan.released_models(self.delta).best
        if not math.isfinite(epsilon):
            return None
        turns = Participation(rounds=self.rounds, separation=separation)
        return plan(build(turns), epsilon, self.delta, self.client_rate)

    def to_json(self) -> dict[str, Any]:
        """Return epsilons (null: infinite), errors and inputs."""
        groups, rms, other = self._groups, self._plan.error(Objective.RMS), self._instead(independent)
        answers = {
            "known-cohort": bounds_to_json(self._plan.known_cohort(self.delta)),
            "released-models": bounds_to_json(self._plan.released_models(self.delta)),
            "server": None,
        }
        inputs = {
            "mechanism": self.mechanism,
            "noise-multiplier": self.noise,
            "sensitivity": self._plan.sensitivity,
            "rms-error": rms,
            "max-error": self._plan.error(Objective.MAX),
            "rms-error-over-independent": None if other is None else rms / other.error(Objective.RMS),
            "vectors-in-memory": self._factorization.strategy.vectors,
            "rounds": self.rounds,
            "min-separation": self._pattern.separation,
            "participations": self._pattern.participations,
            "bands": self._bands,
            "buffers": self._buffers,
            "client-rate": self.client_rate,
            "group-rate": None if groups is None else groups.rate,
            "delta": self.delta,
        }
        return self.tree(answers, inputs)

    @property
    def columns(self) -> Sequence[str]:
        """Names of the tables' columns, after what varies."""
        known, released = ("known cohort (PLD)", "(RDP)"), ("released models (PLD)", "(RDP)")
        return known if self._groups is None else known + released

    def bounds(self, exact: bool) -> Sequence[float | None]:
        """Return this plan's row of a table."""
        known = both(self._plan.known_cohort(self.delta))
        return known if self._groups is None else known + both(self._plan.released_models(self.delta))

    def words(self) -> dict[str, str]:
        """Return the factorization and its pattern in words."""
        kinds = {
            "banded": f"banded noise ({counted(self._bands or 0, 'band')})",
            "blt": f"buffered noise ({counted(self._buffers or 0, 'buffer')})",
            "sqrt-toeplitz": "square-root Toeplitz noise",
        }
        words = {"noise": kinds[self.mechanism], "rounds": counted(self.rounds, "round")}
        pattern, groups = self._pattern, self._groups
        if groups is not None:
            return words | {
                "groups": f"{counted(groups.count, 'group')} in turn",
                "rate": f"client rate {groups.client_rate:.4g}, hence {groups.rate:.4g} in a group",
            }
        return words | {
            "participations": f"at most {counted(pattern.participations, 'participation')} of a client",
            "separation": f"{counted(pattern.separation, 'round')} or more apart",
        }

    def blocks(self) -> Iterator[str | Table]:
        """Yield the plan, its epsilons over noise, and its error against that of other factorizations."""
        amplified = self._groups is not None
        against = "released models" if amplified else "known cohort"
        yield from self.head(f"*DP-FTRL* with {self.said()}, delta {self.delta:g}", against)
        yield (
            f"Sensitivity of what is released to {'one' if amplified else 'all'} of a client's participations: "
            f"{self._plan.sensitivity:.4g} clip norms."
        )
        yield self.over_noise("Over noise")
        yield self._over_bands() if amplified else self._over_mechanisms()
        yield (
            "\nError: standard deviation of the noise on the sum of all updates so far, over the clip norm: root mean "
            "square over rounds, and in the last round. Vectors: of the model's size, in memory."
            "\nServer: sees the sums without noise; epsilon is infinite."
            "\nKnown cohort: sees each round's model, and knows when the client took part."
        )
        yield (
            "Released models: sees each round's model only; cohorts are secret Poisson samples of groups "
            "by a hash of identity.\n1 band: independent noise and no groups, as in DP-FedAvg."
            if amplified
            else "Released models: the same, without --client-rate."
        )

    def _over_mechanisms(self) -> Table:
        bands = self._bands or min(self._pattern.separation, self.rounds)
        others = alternatives(self._pattern, bands, self._buffers or BUFFERS)
        epsilon = shown(self._plan.known_cohort(self.delta).best)
        return _errors(
            f"Over mechanisms, each with epsilon {epsilon}",
            "mechanism",
            [(other.name, replace(self._plan, mechanism=other)) for other in others],
        )

    def _over_bands(self) -> Table:
        rows: list[tuple[str, NoisePlan]] = []
        own, rate = self._bands or 1, self.client_rate or 1.0
        for bands in sorted({1, own // 4, own // 2, own, 2 * own} - {0}):
            if bands * rate > 1 or bands > self.rounds:
                continue
            other = self._plan if bands == own else self._instead(partial(factorization_of, "banded"), bands)
            if other is not None:
                rows.append((f"{bands:,}", other))
        epsilon = shown(self._plan.released_models(self.delta).best)
        return _errors(
            f"Over bands, each with epsilon {epsilon} against released models", "bands = groups", rows
        )


def _errors(title: str, varies: str, plans: Sequence[tuple[str, NoisePlan]]) -> Table:
    """Return a table of errors; others are compared with the first row's."""
    columns = ("noise multiplier", "sensitivity", "rms error", "last error", "rms / independent", "vectors")
    first = plans[0][1].error(Objective.RMS)
    rows = []
    for name, each in plans:
        rms, last = each.error(Objective.RMS), each.error(Objective.MAX)
        numbers = (each.noise_multiplier, each.sensitivity, rms, last, rms / first)
        vectors = f"{each.mechanism.strategy.vectors:,}"
        rows.append((name, *(f"{number:.4g}" for number in numbers), vectors))
    return Table(title, (varies, *columns), rows)
