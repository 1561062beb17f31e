"""A plan of local client-level privacy: its epsilons as JSON and as tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from rich.console import Console

from fedsim.cli.budget_tables import RELATIONS, UNIT, both, say_noise, scaled, table
from fedsim.cli.budget_view import FACTORS, counted, plain, shown, up_to
from fedsim.errors import Refused
from fedsim.privacy.accounting import Epsilon
from fedsim.privacy.dp_fedavg.accounting import SERVER
from fedsim.privacy.events import Relation
from fedsim.privacy.local_dp import accounting as local


@dataclass(frozen=True, kw_only=True)
class LocalPlan:
    """A plan of local privacy.

    Attributes:
        law: `gaussian` or `laplace`.
        noise_multiplier: Above 0.
        rounds: 1 or more.
        participations: At most, 1 to `rounds`.
        delta: 0 with Laplace noise.
        target: The epsilon that the noise was found for; None if noise was given.
    """

    law: str
    noise_multiplier: float
    rounds: int
    participations: int
    delta: float
    target: float | None

    @classmethod
    def of(
        cls,
        *,
        law: str,
        noise_multiplier: float | None,
        epsilon: float | None,
        rounds: int,
        participations: int | None,
        delta: float | None,
    ) -> Self:
        """Return a plan, with the smallest noise for the epsilon if there is one.

        Raises:
            Refused: A value is out of its range.
        """
        if rounds < 1:
            raise Refused(f"--rounds {rounds}: must be 1 or more")
        if participations is not None and not 1 <= participations <= rounds:
            raise Refused(f"--participations {participations}: must be 1 to --rounds {rounds}")
        if (delta is None) == (law == "gaussian"):
            raise Refused(f"--delta {delta}: is needed for Gaussian noise, and Laplace's is 0")
        times = rounds if participations is None else participations
        try:
            if noise_multiplier is None:
                noise_multiplier = _local_noise(epsilon or 0.0, times, delta)
            plan = cls(
                law=law,
                noise_multiplier=noise_multiplier,
                rounds=rounds,
                participations=times,
                delta=delta or 0.0,
                target=epsilon,
            )
            plan.epsilon()
        except ValueError as error:
            raise Refused(str(error)) from None
        return plan

    def epsilon(self) -> Epsilon:
        """Return what whoever sees a client's updates learns."""
        if self.law == "laplace":
            return Epsilon(local.laplace(self.noise_multiplier, self.participations), None)
        return local.gaussian(self.noise_multiplier, self.participations, self.delta)

    def as_json(self) -> dict[str, Any]:
        """Return epsilons (null: no theorem is used) and inputs."""
        tree: dict[str, Any] = {
            SERVER: plain(self.epsilon()),
            "unit": UNIT,
            "neighbouring-relation": RELATIONS[Relation.REPLACE_ONE],
            "law": self.law,
            "noise-multiplier": self.noise_multiplier,
            "rounds": self.rounds,
            "participations": self.participations,
            "delta": self.delta,
        }
        return tree if self.target is None else tree | {"epsilon": self.target}

    def show(self, console: Console) -> None:
        """Print what is planned, and its epsilons over participations and noise."""
        console.print(f"[bold]Local client-level privacy[/bold], {self.law} noise, delta {self.delta:g}")
        console.print(f"Protects {UNIT}; neighbours: {RELATIONS[Relation.REPLACE_ONE]}.")
        if self.target is not None:
            say_noise(console, self.target, "the server", self.noise_multiplier)
        times = counted(self.participations, "participation")
        table(
            console,
            f"Over participations: noise multiplier {self.noise_multiplier:.4g}, delta {self.delta:g}",
            ("participations", *self._columns),
            [
                (f"{count:,}", *replace(self, participations=count)._said())
                for count in up_to(self.participations)
            ],
        )
        noises = [replace(self, noise_multiplier=scaled(self.noise_multiplier, factor)) for factor in FACTORS]
        table(
            console,
            f"Over noise: {times} at most, delta {self.delta:g}",
            ("noise multiplier", *self._columns),
            [(f"{plan.noise_multiplier:.4g}", *plan._said()) for plan in noises],
        )
        console.print(
            "\nAgainst whoever sees a client's updates, the server too; who sees less, as the models alone, learns no "
            "more.\nThe noise multiplier is the noise's scale over twice the clip norm: on the update, it is "
            f"{2 * self.noise_multiplier:.4g} clip norms."
        )

    @property
    def _columns(self) -> tuple[str, ...]:
        return ("epsilon",) if self.law == "laplace" else ("epsilon (exact)", "(RDP)")

    def _said(self) -> tuple[str, ...]:
        return tuple(shown(value) for value in both(self.epsilon())[: len(self._columns)])


def _local_noise(epsilon: float, participations: int, delta: float | None) -> float:
    if delta is None:
        return local.laplace_noise(epsilon, participations)
    return local.gaussian_noise(epsilon, participations, delta)
