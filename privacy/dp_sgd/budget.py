"""`fedsim budget dp-sgd`: a record's epsilon, by adversary, over rounds, noise and client rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from fedsim.privacy.accounting import Epsilon, LocalSteps, ReleasedModels, smallest_noise
from fedsim.privacy.budget import (
    FACTORS,
    Curve,
    NoiseBudget,
    Panel,
    Picture,
    Table,
    bounds_to_json,
    check_rounds,
    counted,
    rates_beside,
    scaled,
    shown,
    up_to,
)
from fedsim.privacy.dp_sgd.plan import KNOWN_COHORT, RELEASED_MODELS, Adversary, adversaries

RELATION = "zero-out (the record's gradient becomes zero; each client's record count is public)"
NO_THEOREM = "a client that stops after so many rounds is not Poisson-sampled"
POINTS = 9  # along a curve


class DpSgdBudget(NoiseBudget):
    """Plan DP-SGD in the clients: a record's epsilon for each adversary, without running anything.

    Give either --noise-multiplier or --epsilon. "Known cohort" is the server's view: who took part, and each update.
    "Released models" sees the models only, with secret Poisson cohorts. --client-rate 1 --rounds 1 is plain DP-SGD
    over L steps.
    """

    noise_multiplier: Annotated[float | None, "Z"] = None
    """Standard deviation of the noise on a batch's sum / the clip norm."""
    rate: Annotated[float, "Q"]
    """Rate of Poisson batches: expected batch size / the client's records."""
    steps: Annotated[int, "L"]
    """Local steps in a round."""
    delta: Annotated[float, "D"]
    """Must be below 1 / all records."""
    adversary: Literal["known-cohort", "released-models"] | None = None
    """Adversary that --epsilon holds against. Default: known-cohort."""
    rounds: Annotated[int, "T"] = 1
    """Rounds."""
    client_rate: Annotated[float, "P"] = 1.0
    """Rate of Poisson cohorts: expected cohort / clients; 1: all clients, always."""
    max_participations: Annotated[int | None, "R"] = None
    """Most rounds in which a client takes part. Default: all."""
    max_batch: Annotated[int | None, "B"] = None
    """A larger batch is cut to a random subset of this size."""
    records: Annotated[int | None, "N"] = None
    """The client's records; for --max-batch."""
    unit: ClassVar[str] = "one record"
    columns: ClassVar[Sequence[str]] = ("known cohort (PLD)", "(RDP)", "released models (PLD)")
    neighbours: ClassVar[str] = RELATION
    only_with_epsilon: ClassVar[Mapping[str, str]] = {"adversary": "with noise given, all are shown"}
    picture_help = "Draw epsilon over rounds, noise and cohorts."

    def check(self) -> None:
        """Find the noise, if it isn't given. As `Budget` says."""
        super().check()
        check_rounds(self.rounds, self.max_participations, "max-participations")
        self.check_noise()
        self._steps(1.0 if self.noise_multiplier is None else self.noise_multiplier)
        ReleasedModels(self.client_rate, 0, self.delta)
        if self.adversary == RELEASED_MODELS and self.max_participations is not None:
            raise ValueError(
                f"--adversary released-models: has no theorem with --max-participations, as {NO_THEOREM}"
            )
        _ = self.noise

    @property
    def _against(self) -> str:
        return self.adversary or KNOWN_COHORT

    @property
    def _adversaries(self) -> dict[str, Adversary]:
        return adversaries(
            self.rounds, self.delta, client_rate=self.client_rate, max_participations=self.max_participations
        )

    def _steps(self, noise_multiplier: float) -> LocalSteps:
        """Return what a client releases in a round."""
        own = self.model_dump(include={"rate", "steps", "max_batch", "records"})
        return LocalSteps(noise_multiplier=noise_multiplier, **own)

    def noise_for(self, epsilon: float) -> float:
        """Return the smallest noise multiplier for an epsilon. As `NoiseBudget` says."""
        adversary = self._adversaries[self._against]
        return smallest_noise(lambda noise: adversary.epsilon(self._steps(noise)), epsilon)

    @cached_property
    def _epsilons(self) -> dict[str, Epsilon]:
        local = self._steps(self.noise)
        return {name: adversary.epsilon(local) for name, adversary in self._adversaries.items()}

    def bounds(self, exact: bool) -> Sequence[float | None]:
        """Return this plan's row of a table."""
        known, released = self._epsilons[KNOWN_COHORT], self._epsilons.get(RELEASED_MODELS)
        return known.pld, known.rdp, None if released is None else released.pld

    def to_json(self) -> dict[str, Any]:
        """Return epsilons (null: no theorem, or infinite) and inputs."""
        no_theorem = {KNOWN_COHORT: None, RELEASED_MODELS: None}
        answers = no_theorem | {name: bounds_to_json(epsilon) for name, epsilon in self._epsilons.items()}
        inputs = self.options(
            "rate", "steps", "rounds", "client_rate", "delta", "max_participations", "max_batch", "records"
        )
        return self.tree(answers, {"noise-multiplier": self.noise} | inputs, adversary=self._against)

    def words(self) -> dict[str, str]:
        """Return the inputs in words, by what varies in a table."""
        words = {
            "noise": f"noise multiplier {self.noise:.4g}",
            "rate": f"rate {self.rate:.4g}",
            "steps": counted(self.steps, "local step"),
            "rounds": counted(self.rounds, "round"),
            "client rate": f"client rate {self.client_rate:.4g}",
        }
        if self.max_participations is not None:
            words["participations"] = f"at most {counted(self.max_participations, 'participation')}"
        if self.max_batch is not None:
            words["batch"] = f"batches of at most {self.max_batch:,} of {self.records:,} records"
        return words | {"delta": f"delta {self.delta:g}"}

    def blocks(self) -> Iterator[str | Table]:
        """Yield the plan, and its epsilons over rounds, noise and client rates."""
        yield from self.head(f"*DP-SGD in the clients*, delta {self.delta:g}", self._against)
        yield self.over_counts("rounds", self.rounds)
        yield self.over_noise(f"Over noise: {self.said('noise')}")
        if self.max_participations is None:
            rates = rates_beside(self.client_rate)
            plans = [(f"{rate:.4g}", self.varied(client_rate=rate)) for rate in rates]
            yield self.over(f"Over cohorts: {self.said('client rate')}", "client rate", plans)
        yield (
            "\nKnown cohort: the server, and anyone who sees a client's updates and when it took part."
            "\nReleased models: sees each round's model; cohorts are secret Poisson samples (cluster sampling)."
        )
        if self.max_participations is not None:
            yield f"Released models, unavailable: there is no theorem, as {NO_THEOREM}."
        if self._steps(self.noise).truncated:
            yield "RDP, unavailable: dp-accounting has no theorem for batches that are cut."

    def picture(self) -> Picture:
        """Return epsilon over rounds (if there are several) for several noises, and over noise for client rates."""
        return Picture(
            title=f"DP-SGD in the clients: {self.said()}",
            caption=f"Protects {self.unit}; neighbours: {self.neighbours}.",
            axis="epsilon (PLD)",
            panels=[self._over_rounds(), self._over_noise()] if self.rounds > 1 else [self._over_noise()],
        )

    def _over_rounds(self) -> Panel:
        most = min(self.rounds, self.max_participations or self.rounds)
        counts = sorted({*up_to(self.rounds, POINTS), most})
        colours = iter(range(len(FACTORS)))
        curves = []
        for factor in FACTORS:
            noise, colour = scaled(self.noise, factor), None if factor == 1 else next(colours)
            plans = [self.varied(noise_multiplier=noise, rounds=count) for count in counts]
            curves.append(_curve(counts, plans, KNOWN_COHORT, colour, f"{noise:.3g}"))
            curves.append(_curve(counts, plans, RELEASED_MODELS, colour))
        known, released = "known cohort", "released models, secret cohorts"
        return Panel(
            title="over rounds",
            axis="rounds",
            legend="noise multiplier",
            curves=curves,
            marks=self._marks(self.rounds),
            styles=(known, released) if self.max_participations is None else (known,),
            logarithmic=self.rounds > 20,
        )

    def _over_noise(self) -> Panel:
        noises = [scaled(self.noise, 2 ** (2 * k / (POINTS - 1) - 1)) for k in range(POINTS)]
        plans = [self.varied(noise_multiplier=noise) for noise in noises]
        most = min(self.rounds, self.max_participations or self.rounds)
        label = f"known cohort, {counted(most, 'participation')}"
        curves = [_curve(noises, plans, KNOWN_COHORT, None, label)]
        if self.max_participations is None:
            colours = iter(range(POINTS))
            for rate in reversed(rates_beside(self.client_rate)):
                colour = None if rate == self.client_rate else next(colours)
                label = f"released models, client rate {rate:.3g}"
                varied = [plan.varied(client_rate=rate) for plan in plans]
                curves.append(_curve(noises, varied, RELEASED_MODELS, colour, label))
        return Panel(
            title=f"over noise, after {counted(self.rounds, 'round')}",
            axis="noise multiplier",
            curves=curves,
            marks=self._marks(self.noise),
        )

    def _marks(self, place: float) -> list[tuple[float, float, str]]:
        return [(place, epsilon.pld, shown(epsilon.pld)) for epsilon in self._epsilons.values()]


def _curve(
    xs: Sequence[float], plans: Sequence[DpSgdBudget], adversary: str, colour: int | None, label: str = ""
) -> Curve:
    """Return the epsilons of plans against an adversary, without points that no theorem covers."""
    epsilons = [plan._epsilons.get(adversary) for plan in plans]
    ys = [math.nan if epsilon is None else epsilon.pld for epsilon in epsilons]
    return Curve(xs=xs, ys=ys, label=label, colour=colour, dashed=adversary == RELEASED_MODELS)
