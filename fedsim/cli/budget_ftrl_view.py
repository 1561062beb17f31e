"""A plan of DP-FTRL: its epsilons and errors as JSON and as tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from fedsim.cli.budget_view import FACTORS, counted, shown
from fedsim.errors import Refused
from fedsim.privacy.accounting import Epsilon
from fedsim.privacy.dp_ftrl.accounting import Groups
from fedsim.privacy.dp_ftrl.calibration import NoisePlan, alternatives, plan
from fedsim.privacy.dp_ftrl.factorization import (
    BUFFERS,
    Factorization,
    banded,
    buffered,
    independent,
    square_root_toeplitz,
)
from fedsim.privacy.dp_ftrl.participation import Participation
from fedsim.privacy.dp_ftrl.toeplitz import Objective

UNIT = "one client, with all its participations"
RELATION = "zero-out (the client's updates become zero; who takes part when stays as it is)"


@dataclass(frozen=True, kw_only=True)
class View:
    """What is planned.

    Attributes:
        plan: The mechanism and its noise.
        delta: Above 0 and below 1.
        target: The epsilon that the noise was found for; None if noise was given.
        bands: Of banded noise, else None.
        buffers: Of BLT noise, else None.
    """

    plan: NoisePlan
    delta: float
    target: float | None
    bands: int | None
    buffers: int | None

    @classmethod
    def of(
        cls,
        *,
        mechanism: str,
        rounds: int,
        separation: int,
        participations: int | None,
        bands: int | None,
        buffers: int | None,
        client_rate: float | None,
        delta: float,
        noise_multiplier: float | None,
        epsilon: float | None,
    ) -> View:
        """Return a view of a plan, with the smallest noise for the epsilon if there is one.

        Raises:
            Refused: A value is out of its range, or there is no noise, or no theorem, for the target.
        """
        if noise_multiplier is not None and noise_multiplier <= 0:
            raise Refused(
                f"--noise-multiplier {noise_multiplier}: must be above 0; without noise nothing is private"
            )
        if client_rate is not None and participations is not None:
            raise Refused(
                f"--participations {participations}: has no theorem with --client-rate, as a client that stops after so "
                "many rounds is not drawn by independent coins"
            )
        try:
            pattern = Participation(rounds=rounds, separation=separation, most=participations)
            if mechanism == "banded":
                bands = bands if bands is not None else min(separation, rounds)
                built = banded(pattern, bands)
            elif mechanism == "blt":
                buffers = BUFFERS if buffers is None else buffers
                built = buffered(pattern, buffers)
            else:
                built = square_root_toeplitz(pattern)
            groups = (
                None
                if client_rate is None
                else Groups(count=separation, rounds=rounds, client_rate=client_rate)
            )
            made = NoisePlan(mechanism=built, noise_multiplier=noise_multiplier or 1.0, groups=groups)
            made.known_cohort(delta)  # checks what remains
            if epsilon is not None:
                made = plan(built, epsilon, delta, client_rate)
        except ValueError as error:
            raise Refused(str(error)) from None
        return cls(plan=made, delta=delta, target=epsilon, bands=bands, buffers=buffers)

    @property
    def client_rate(self) -> float | None:
        """Expected cohort / clients; None: no amplification."""
        return None if self.plan.groups is None else self.plan.groups.client_rate

    def known(self) -> Epsilon:
        """Return epsilon against who knows the cohorts."""
        return self.plan.known_cohort(self.delta)

    def released(self) -> Epsilon:
        """Return epsilon against who sees the models alone."""
        return self.plan.released_models(self.delta)

    def relative(self) -> float | None:
        """Return the model's error over that of independent noise at the same epsilon and client rate; None: not finite."""
        other = self._instead(independent)
        return None if other is None else self.plan.error(Objective.RMS) / other.error(Objective.RMS)

    def _instead(
        self, build: Callable[[Participation], Factorization], separation: int | None = None
    ) -> NoisePlan | None:
        """Return a plan with another mechanism, as good for privacy; independent noise needs no groups."""
        pattern, epsilon = self.plan.mechanism.participation, self.released().best
        if self.plan.groups is None:
            return replace(self.plan, mechanism=build(pattern))
        if not math.isfinite(epsilon):
            return None
        turns = Participation(rounds=pattern.rounds, separation=separation or 1)
        return plan(build(turns), epsilon, self.delta, self.client_rate)

    def as_json(self) -> dict[str, Any]:
        """Return epsilons (null: infinite), errors and inputs."""
        mechanism, groups = self.plan.mechanism, self.plan.groups
        pattern = mechanism.participation
        tree: dict[str, Any] = {
            "known-cohort": _plain(self.known()),
            "released-models": _plain(self.released()),
            "server": None,
            "unit": UNIT,
            "neighbouring-relation": RELATION,
            "mechanism": mechanism.name,
            "noise-multiplier": self.plan.noise_multiplier,
            "sensitivity": self.plan.sensitivity,
            "rms-error": self.plan.error(Objective.RMS),
            "max-error": self.plan.error(Objective.MAX),
            "rms-error-over-independent": self.relative(),
            "vectors-in-memory": mechanism.strategy.vectors,
            "rounds": pattern.rounds,
            "min-separation": pattern.separation,
            "participations": pattern.participations,
            "bands": self.bands,
            "buffers": self.buffers,
            "client-rate": self.client_rate,
            "group-rate": None if groups is None else groups.rate,
            "delta": self.delta,
        }
        if self.target is not None:
            tree["epsilon"] = self.target
        return tree

    def show(self, console: Console) -> None:
        """Print what is planned, its epsilons over noise, and its error against that of other mechanisms."""
        console.print(f"[bold]DP-FTRL[/bold] with {self.said()}, delta {self.delta:g}")
        console.print(f"Protects {UNIT}; neighbours: {RELATION}.")
        if self.target is not None:
            against = "known cohort" if self.plan.groups is None else "released models"
            console.print(
                f"The smallest noise for epsilon {self.target:g} against {against}: "
                f"[bold]{self.plan.noise_multiplier:g}[/bold]."
            )
        console.print(
            f"Sensitivity of what is released to {'one' if self.plan.groups else 'all'} of a client's participations: "
            f"{self.plan.sensitivity:.4g} clip norms."
        )
        self._show_noise(console)
        if self.plan.groups is None:
            self._show_mechanisms(console)
        else:
            self._show_bands(console)
        self._explain(console)

    def said(self) -> str:
        """Return the mechanism and its pattern in words."""
        pattern, groups = self.plan.mechanism.participation, self.plan.groups
        kinds = {
            "banded": f"banded noise ({counted(self.bands or 0, 'band')})",
            "blt": f"buffered noise ({counted(self.buffers or 0, 'buffer')})",
            "sqrt-toeplitz": "square-root Toeplitz noise",
        }
        kind = kinds.get(self.plan.mechanism.name, "independent noise")
        if groups is not None:
            return (
                f"{kind}, {counted(pattern.rounds, 'round')}, {counted(groups.count, 'group')} in turn, client rate "
                f"{groups.client_rate:.4g}, hence {groups.rate:.4g} in a group"
            )
        return (
            f"{kind}, {counted(pattern.rounds, 'round')}, at most {counted(pattern.participations, 'participation')} of a "
            f"client, {counted(pattern.separation, 'round')} or more apart"
        )

    def _show_noise(self, console: Console) -> None:
        console.print("\n[bold]Over noise[/bold]", highlight=False)
        names = ["noise multiplier", "known cohort (PLD)", "(RDP)"]
        table = _table(*names, *(["released models (PLD)", "(RDP)"] if self.plan.groups else []))
        for factor in FACTORS:
            noise = self.plan.noise_multiplier
            noise = noise if factor == 1 else float(f"{noise * factor:.3g}")
            varied = replace(self, plan=replace(self.plan, noise_multiplier=noise))
            columns = [varied.known()] + ([varied.released()] if self.plan.groups else [])
            numbers = [shown(bound) for epsilon in columns for bound in (epsilon.pld, epsilon.rdp)]
            table.add_row(f"{noise:.4g}", *numbers)
        console.print(table)

    def _show_mechanisms(self, console: Console) -> None:
        pattern, epsilon = self.plan.mechanism.participation, self.known().best
        title = f"Over mechanisms, each with epsilon {shown(epsilon)}"
        bands = self.bands or min(pattern.separation, pattern.rounds)
        mechanisms = alternatives(pattern, bands, self.buffers or BUFFERS)
        _show_errors(
            console, title, "mechanism", [(m.name, replace(self.plan, mechanism=m)) for m in mechanisms]
        )

    def _show_bands(self, console: Console) -> None:
        rows: list[tuple[str, NoisePlan]] = []
        own, rate, rounds = self.bands or 1, self.client_rate or 1.0, self.plan.mechanism.participation.rounds
        for bands in sorted({1, own // 4, own // 2, own, 2 * own} - {0}):
            if bands * rate > 1 or bands > rounds:
                continue
            other = (
                self.plan
                if bands == own
                else self._instead(lambda turns: banded(turns, turns.separation), bands)
            )
            if other is not None:
                rows.append((f"{bands:,}", other))
        title = f"Over bands, each with epsilon {shown(self.released().best)} against released models"
        _show_errors(console, title, "bands = groups", rows)

    def _explain(self, console: Console) -> None:
        console.print(
            "\nError: standard deviation of the noise on the sum of all updates so far, over the clip norm: root mean "
            "square over rounds, and in the last round. Vectors: of the model's size, in memory."
            "\nServer: sees the sums without noise; epsilon is infinite."
            "\nKnown cohort: who sees each round's model, and when the client took part."
        )
        if self.plan.groups is None:
            console.print("Released models: the same, without --client-rate.")
        else:
            console.print(
                "Released models: who sees each round's model alone, cohorts being secret Poisson coins within groups "
                "by a hash of identity.\n1 band: independent noise and no groups, as DP-FedAvg has it."
            )


def _show_errors(console: Console, title: str, varies: str, rows: Sequence[tuple[str, NoisePlan]]) -> None:
    console.print(f"\n[bold]{title}[/bold]", highlight=False)
    table = _table(
        varies, "noise multiplier", "sensitivity", "rms error", "last error", "rms / independent", "vectors"
    )
    first = rows[0][1].error(Objective.RMS)
    for name, each in rows:
        rms, last = each.error(Objective.RMS), each.error(Objective.MAX)
        numbers = (each.noise_multiplier, each.sensitivity, rms, last, rms / first)
        table.add_row(name, *(f"{number:.4g}" for number in numbers), f"{each.mechanism.strategy.vectors:,}")
    console.print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _plain(epsilon: Epsilon) -> dict[str, float | None]:
    bounds = (("pld", epsilon.pld), ("rdp", epsilon.rdp))
    return {name: value if value is not None and math.isfinite(value) else None for name, value in bounds}
