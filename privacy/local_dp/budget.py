"""`fedsim budget local-dp`: a client's epsilon against all adversaries, over participations and noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from fedsim.privacy.accounting import Epsilon
from fedsim.privacy.budget import RELATIONS, NoiseBudget, Table, both, bounds_to_json, check_rounds, counted
from fedsim.privacy.events import Relation
from fedsim.privacy.local_dp import accounting


class LocalDpBudget(NoiseBudget):
    """Plan local client-level privacy: each client noises its own update, and does not trust the server.

    Give either --noise-multiplier or --epsilon. Epsilon is composed over a client's participations; sampling does not
    amplify, since its updates show that it took part.
    """

    noise_multiplier: Annotated[float | None, "Z"] = None
    """Scale of the noise on a client's update / twice the clip norm."""
    rounds: Annotated[int, "T"]
    """Rounds."""
    participations: Annotated[int | None, "R"] = None
    """Most rounds in which a client takes part. Default: all."""
    delta: Annotated[float | None, "D"] = None
    """For Gaussian noise; must be below 1 / clients. For Laplace noise it is 0."""
    law: Literal["gaussian", "laplace"] = "gaussian"
    """Gaussian noise with clipping in L2 norm, or Laplace noise in L1."""
    neighbours: ClassVar[str] = RELATIONS[Relation.REPLACE_ONE]

    def check(self) -> None:
        """Find the noise, if it isn't given. As `Budget` says."""
        super().check()
        check_rounds(self.rounds, self.participations, "participations")
        if (self.delta is None) == (self.law == "gaussian"):
            raise ValueError(f"--delta {self.delta}: is needed for Gaussian noise; for Laplace noise it is 0")
        _ = self._epsilon

    @property
    def _times(self) -> int:
        return self.rounds if self.participations is None else self.participations

    def noise_for(self, epsilon: float) -> float:
        """Return the smallest noise multiplier for an epsilon. As `NoiseBudget` says."""
        return accounting.noise_for(epsilon, self._times, self.delta)

    @cached_property
    def _epsilon(self) -> Epsilon:
        return accounting.epsilon_of(self.noise, self._times, self.delta)

    @property
    def columns(self) -> Sequence[str]:
        """Names of the tables' columns, after what varies."""
        return ("epsilon",) if self.delta is None else ("epsilon (exact)", "(RDP)")

    def bounds(self, exact: bool) -> Sequence[float | None]:
        """Return this plan's row of a table."""
        return both(self._epsilon)[: len(self.columns)]

    def to_json(self) -> dict[str, Any]:
        """Return epsilons (null: no theorem is used) and inputs."""
        inputs = {
            "law": self.law,
            "noise-multiplier": self.noise,
            "rounds": self.rounds,
            "participations": self._times,
            "delta": self.delta or 0.0,
        }
        return self.tree({"server": bounds_to_json(self._epsilon)}, inputs)

    def words(self) -> dict[str, str]:
        """Return the inputs in words, by what varies in a table."""
        return {
            "noise multiplier": f"noise multiplier {self.noise:.4g}",
            "delta": f"delta {self.delta or 0:g}",
        }

    def blocks(self) -> Iterator[str | Table]:
        """Yield the plan, and its epsilons over participations and noise."""
        title = f"*Local client-level privacy*, {self.law} noise, delta {self.delta or 0:g}"
        yield from self.head(title, "the server")
        yield self.over_counts("participations", self._times)
        times = counted(self._times, "participation")
        yield self.over_noise(f"Over noise: {times} at most, {self.words()['delta']}")
        yield (
            "\nAgainst anyone who sees a client's updates, as the server does; seeing less, such as the models only, tells no "
            "more.\nThe noise multiplier is the noise's scale over twice the clip norm: on the update, it is "
            f"{2 * self.noise:.4g} clip norms."
        )
