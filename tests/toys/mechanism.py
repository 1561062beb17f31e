"""A user's own privacy mechanism: one file outside fedsim, which an experiment file names.

A trusted server adds Laplace noise to the sum of clipped updates. A client moves that sum by at most `clip` in L2 norm, so by
sqrt(d) `clip` in L1 norm over d numbers; noise of scale b costs sqrt(d) `clip` / b in every round, and rounds add up
(Dwork et al. 2006). It is pure: there is no delta.

[privacy.own]
use = "tests.toys.mechanism:LaplaceSums"
epsilon = 1e6
clip = 1.0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray
from pydantic import Field

from fedsim.privacy import checks
from fedsim.privacy.arithmetic import ExactSum
from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.events import Event, Ledger, Noise, Relation, Unit
from fedsim.privacy.halves import ClientDraws, ClientHalf, ClientRound, Protected, Released, ServerHalf, Sums
from fedsim.privacy.mechanism import SEES_MODELS, Cover, Kind, Mechanism
from fedsim.privacy.plan import Plan
from fedsim.privacy.randomness import laplaces
from fedsim.privacy.settings import Section
from fedsim.privacy.training import Draws, Intent, Problem, Training

NAME = "toy-laplace"


class LaplaceSettings(Section):
    """The keys of the table."""

    epsilon: float = Field(gt=0)
    """A client's epsilon over the whole run, against an adversary that sees models and cohorts."""
    clip: float = Field(gt=0)
    """L2 norm that an update has at most."""


@dataclass(frozen=True, kw_only=True)
class LaplaceEvent(Event):
    """One round's noised sum."""

    _kinds: ClassVar[dict[str, Any]] = {"unit": Unit, "relation": Relation, "noise": Noise}

    mechanism: str
    round: int
    unit: Unit
    relation: Relation
    epsilon: float  # of this release
    noise: Noise

    def terms(self) -> float:
        """Return its epsilon: those of all rounds add up."""
        return self.epsilon


class ClippingClient(ClientHalf):
    """Clips its update by the experiment's norm."""

    protects = "difference"

    def __init__(self, clip: float) -> None:
        self._clip = clip

    def protect(self, update: NDArray[Any], metrics: Mapping[str, float], at: ClientRound) -> Protected:
        """Return the clipped update."""
        return Protected(clip_jointly({"update": update}, self._clip).arrays["update"], {}, None)


class LaplaceServer(ServerHalf):
    """Noises each round's sum."""

    noises = True

    def __init__(
        self, clip: float, epsilon: float, training: Training, cohorts: Cohorts, draws: Draws
    ) -> None:
        self._epsilon = epsilon
        self._draws = draws
        self._cohort = cohorts.cohort
        l1 = math.sqrt(training.dimension) * training.sum_sensitivity(clip)
        self._sum = ExactSum.of(l1, 1 / epsilon, training.dimension, order=1, arithmetic=training.arithmetic)

    def release(self, total: Sums, round_: int, reported: Mapping[str, float]) -> Released:
        """Return the noised sum over the expected cohort."""
        randomness = self._draws.noise("toy-laplace-noise", round_)
        mean = {}
        for name in sorted(total):
            noise = laplaces(randomness, total[name].size).reshape(total[name].shape)
            noise *= self._sum.sensitivity / self._epsilon
            mean[name] = self._sum.add(total[name], noise) / self._cohort
        event = LaplaceEvent(
            mechanism=NAME,
            round=round_,
            unit=Unit.CLIENT,
            relation=Relation.ZERO_OUT,
            epsilon=self._epsilon,
            noise=randomness.source,
        )
        return Released({name: mean[name] for name in total}, {}, event)


class LaplacePlan(Plan):
    """The same share of epsilon for each round."""

    by_clients = False

    def __init__(self, settings: LaplaceSettings, training: Training) -> None:
        self._settings = settings
        self._training = training
        rule = training.rule
        self.cohorts = Cohorts.of(rule.sampling, rule.cohort, training.clients, most=rule.max_cohort)
        self.epsilon = settings.epsilon / training.rounds
        self.noise_multiplier = 1 / self.epsilon  # scale over L1 sensitivity

    def server(self, draws: Draws) -> LaplaceServer:
        """Return the server's half."""
        return LaplaceServer(self._settings.clip, self.epsilon, self._training, self.cohorts, draws)

    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a release above those that are planned."""
        if self._spent(ledger) + self.epsilon > self._settings.epsilon * (1 + 1e-9):
            raise ValueError(f"the ledger has {len(ledger)} rounds, and epsilon is spent")

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return epsilon so far."""
        said = {"unit": Unit.CLIENT.value, "relation": Relation.ZERO_OUT.value}
        return {"epsilon-known-cohort": self._spent(ledger), **said}

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return epsilon of the whole run, and so far."""
        entry = {"epsilon": self._settings.epsilon, "spent": self._spent(ledger), "clip": self._settings.clip}
        said = {
            "unit": Unit.CLIENT.value,
            "relation": Relation.ZERO_OUT.value,
            "secret": "not for all to see",
        }
        return {"known-cohort": entry | said}

    def _spent(self, ledger: Ledger) -> float:
        return sum(float(epsilon) * spent.count for epsilon, spent in ledger.spent().items())  # type: ignore[arg-type]


class LaplaceSums(Mechanism[LaplaceSettings]):
    """Client-level privacy by a trusted server, which adds Laplace noise."""

    unit = Unit.CLIENT
    Settings = LaplaceSettings
    events: ClassVar[Mapping[str, type[Event]]] = {NAME: LaplaceEvent}
    covers = (Cover("own", "known-cohort", (*SEES_MODELS, Kind.COHORTS), "Laplace's releases add up"),)
    defaults: ClassVar[Mapping[str, Any]] = {"server.weighting": "uniform"}

    def check(self, settings: LaplaceSettings, intent: Intent) -> Iterable[Problem]:
        """Refuse what the noise is not made for."""
        return self._problems(settings, intent)

    def _problems(self, settings: LaplaceSettings, intent: Intent) -> Iterator[Problem]:
        yield from checks.needs_noised_sums(intent, self.name)
        yield from checks.needs_whole_clips(intent, self.name, settings.clip)
        yield from checks.needs_equal_weights_in_sums(intent, self.name)

    def client(self, settings: LaplaceSettings, intent: Intent, draws: ClientDraws) -> ClippingClient:
        """Return the client's half."""
        return ClippingClient(settings.clip)

    def plan(self, settings: LaplaceSettings, training: Training) -> LaplacePlan:
        """Return the noise for a training."""
        return LaplacePlan(settings, training)
