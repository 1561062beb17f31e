"""A plan of DP-SGD in the clients: its epsilons as JSON, as tables and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from fedsim.errors import Refused
from fedsim.privacy.accounting import Epsilon, LocalSteps, known_cohort, released_models, smallest_noise

UNIT = "one record"
RELATION = "zero-out (the record's gradient becomes zero; each client's record count is public)"
NO_THEOREM = "a client that stops after so many rounds is not drawn by independent coins"
FACTORS = (0.5, math.sqrt(0.5), 1.0, math.sqrt(2), 2.0)  # of the plan's noise that are shown beside it


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is planned.

    Attributes:
        local: What a client releases in a round.
        rounds: 1 or more.
        client_rate: Of Poisson cohorts.
        delta: Above 0 and below 1.
        max_participations: None: as many as there are rounds.
        target: The epsilon that the noise was found for, and the adversary; None if noise was given.
    """

    local: LocalSteps
    rounds: int
    client_rate: float
    delta: float
    max_participations: int | None
    target: tuple[float, str] | None

    @classmethod
    def of(
        cls,
        *,
        rate: float,
        steps: int,
        delta: float,
        rounds: int,
        client_rate: float,
        max_participations: int | None,
        max_batch: int | None,
        records: int | None,
        noise_multiplier: float | None,
        target: tuple[float, str] | None,
    ) -> Plan:
        """Return a plan, with the smallest noise for the target if there is one.

        Raises:
            Refused: A value is out of its range, or there is no noise, or no theorem, for the target.
        """
        if rounds < 1:
            raise Refused(f"--rounds {rounds}: must be 1 or more")
        if max_participations is not None and not 1 <= max_participations <= rounds:
            raise Refused(f"--max-participations {max_participations}: must be 1 to --rounds {rounds}")
        if noise_multiplier is not None and noise_multiplier <= 0:
            raise Refused(
                f"--noise-multiplier {noise_multiplier}: must be above 0; without noise nothing is private"
            )
        try:
            local = LocalSteps(
                noise_multiplier=1.0 if noise_multiplier is None else noise_multiplier,
                rate=rate,
                steps=steps,
                max_batch=max_batch,
                records=records,
            )
            plan = cls(
                local=local,
                rounds=rounds,
                client_rate=client_rate,
                delta=delta,
                max_participations=max_participations,
                target=target,
            )
            released_models(local, client_rate, 0, delta)  # checks what remains
            return plan if target is None else plan._calibrated(*target)
        except ValueError as error:
            raise Refused(str(error)) from None

    def _calibrated(self, epsilon: float, adversary: str) -> Plan:
        if adversary == "released-models" and self.max_participations is not None:
            raise Refused(
                f"--adversary released-models: has no theorem with --max-participations, as {NO_THEOREM}"
            )

        def at(noise: float) -> Epsilon:
            plan = self.with_noise(noise)
            if adversary == "known-cohort":
                return plan.known()
            return released_models(plan.local, plan.client_rate, plan.rounds, plan.delta)

        return self.with_noise(smallest_noise(at, epsilon))

    def with_noise(self, noise_multiplier: float) -> Plan:
        """Return the plan with another noise."""
        return replace(self, local=replace(self.local, noise_multiplier=noise_multiplier))

    @property
    def participations(self) -> int:
        """In how many rounds a client may take part."""
        return min(self.rounds, self.max_participations or self.rounds)

    def known(self) -> Epsilon:
        """Return epsilon against who knows the cohorts."""
        return known_cohort(self.local, self.participations, self.delta)

    def released(self) -> Epsilon | None:
        """Return epsilon against who sees the models alone; None: there is no theorem."""
        if self.max_participations is not None:
            return None
        return released_models(self.local, self.client_rate, self.rounds, self.delta)

    def as_json(self) -> dict[str, Any]:
        """Return epsilons (null: no theorem, or infinite) and inputs."""
        tree: dict[str, Any] = {
            "known-cohort": plain(self.known()),
            "released-models": plain(self.released()),
            "unit": UNIT,
            "neighbouring-relation": RELATION,
            "noise-multiplier": self.local.noise_multiplier,
            "rate": self.local.rate,
            "steps": self.local.steps,
            "rounds": self.rounds,
            "client-rate": self.client_rate,
            "delta": self.delta,
            "max-participations": self.max_participations,
            "max-batch": self.local.max_batch,
            "records": self.local.records,
        }
        if self.target is not None:
            tree |= {"epsilon": self.target[0], "adversary": self.target[1]}
        return tree

    def show(self, console: Console) -> None:
        """Print what is planned, and its epsilons over rounds, noise and client rates."""
        console.print(f"[bold]DP-SGD in the clients[/bold], delta {self.delta:g}")
        console.print(f"Protects {UNIT}; neighbours: {RELATION}.")
        if self.target is not None:
            epsilon, adversary = self.target
            console.print(
                f"The smallest noise for epsilon {epsilon:g} against {adversary}: "
                f"[bold]{self.local.noise_multiplier:g}[/bold]."
            )
        rounds = [replace(self, rounds=count) for count in up_to(self.rounds)]
        _show(
            console,
            f"Over rounds: {self.said('rounds')}",
            "rounds",
            [f"{p.rounds:,}" for p in rounds],
            rounds,
        )
        noises = [self.with_noise(self.noise(factor)) for factor in FACTORS]
        _show(
            console,
            f"Over noise: {self.said('noise')}",
            "noise multiplier",
            [f"{p.local.noise_multiplier:.4g}" for p in noises],
            noises,
        )
        if self.max_participations is None:
            rates = [replace(self, client_rate=rate) for rate in self.client_rates()]
            title = f"Over cohorts: {self.said('client rate')}"
            _show(console, title, "client rate", [f"{p.client_rate:.4g}" for p in rates], rates)
        console.print(
            "\nKnown cohort: the server, and whoever sees a client's updates and when it took part."
            "\nReleased models: who sees each round's model, cohorts being secret Poisson coins (cluster sampling)."
        )
        if self.max_participations is not None:
            console.print(f"Released models, unavailable: there is no theorem, as {NO_THEOREM}.")
        if self.local.truncated:
            console.print("RDP, unavailable: dp-accounting has no theorem for batches that are cut.")

    def said(self, leaving_out: str = "") -> str:
        """Return the inputs in words, but for the one that varies."""
        local = self.local
        said = {
            "noise": f"noise multiplier {local.noise_multiplier:.4g}",
            "rate": f"rate {local.rate:.4g}",
            "steps": counted(local.steps, "local step"),
            "rounds": counted(self.rounds, "round"),
            "client rate": f"client rate {self.client_rate:.4g}",
        }
        if self.max_participations is not None:
            said["participations"] = f"at most {counted(self.max_participations, 'participation')}"
        if local.max_batch is not None:
            said["batch"] = f"batches of at most {local.max_batch:,} of {local.records:,} records"
        said["delta"] = f"delta {self.delta:g}"
        return ", ".join(words for name, words in said.items() if name != leaving_out)

    def noise(self, factor: float) -> float:
        """Return a multiple of the plan's noise, in round numbers."""
        return (
            self.local.noise_multiplier
            if factor == 1
            else float(f"{self.local.noise_multiplier * factor:.3g}")
        )

    def client_rates(self) -> list[float]:
        """Return the plan's client rate, and some beside it."""
        return sorted(
            {min(float(f"{self.client_rate * factor:.3g}"), 1.0) for factor in (0.1, 0.3, 3)}
            | {self.client_rate}
        )


def counted(count: int, what: str) -> str:
    """Return a number of things.

    >>> counted(1, "round"), counted(2000, "round")
    ('1 round', '2,000 rounds')
    """
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def up_to(rounds: int, points: int = 7) -> list[int]:
    """Return a few counts up to a number, roughly in proportion.

    >>> up_to(100), up_to(3)
    ([1, 2, 5, 10, 22, 46, 100], [1, 2, 3])
    """
    return sorted({round(rounds ** (k / (points - 1))) for k in range(points)} | {1, rounds})


def plain(epsilon: Epsilon | None) -> dict[str, float | None] | None:
    """Return an epsilon for JSON, which knows no infinity."""
    if epsilon is None:
        return None
    return {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in (("pld", epsilon.pld), ("rdp", epsilon.rdp))
    }


def shown(value: float | None) -> str:
    """Return an epsilon for people.

    >>> shown(7.3), shown(12345.6), shown(float("inf")), shown(None)
    ('7.300', '12,346', 'infinite', 'unavailable')
    """
    if value is None:
        return "unavailable"
    if math.isinf(value):
        return "infinite"
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}"


def _show(console: Console, title: str, varies: str, names: Sequence[str], plans: Sequence[Plan]) -> None:
    console.print(f"\n[bold]{title}[/bold]", highlight=False)
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for column in (varies, "known cohort (PLD)", "(RDP)", "released models (PLD)"):
        table.add_column(column, justify="right")
    for name, plan in zip(names, plans, strict=True):
        known, released = plan.known(), plan.released()
        table.add_row(name, shown(known.pld), shown(known.rdp), shown(released.pld if released else None))
    console.print(table)
