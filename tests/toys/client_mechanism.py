"""A user's own privacy mechanism whose clients noise their updates themselves, and trust nobody: one file.

Two clipped updates differ by at most twice `clip` in L2 norm, and so by twice sqrt(d) `clip` in L1 norm; Laplace noise of that
over epsilon costs epsilon in each round that a client takes part in.

[privacy.own]
use = "tests.toys.client_mechanism:LocalLaplace"
epsilon = 1e6
clip = 1.0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray
from pydantic import Field

from fedsim.privacy import checks
from fedsim.privacy.arithmetic import ExactSum
from fedsim.privacy.clipping import clip_jointly
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.events import Event, Ledger, Noise, Relation, Unit
from fedsim.privacy.halves import ClientDraws, ClientHalf, ClientRound, Protected
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.plan import ReleasedByClients
from fedsim.privacy.randomness import laplaces
from fedsim.privacy.settings import Section
from fedsim.privacy.training import Intent, Problem, Training

NAME = "toy-local-laplace"


class LocalSettings(Section):
    """The keys of the table."""

    epsilon: float = Field(gt=0)
    """What anybody may learn of a client in one round."""
    clip: float = Field(gt=0)
    """L2 norm that an update has at most."""


@dataclass(frozen=True, kw_only=True)
class LocalEvent(Event):
    """One client's noised update."""

    _kinds: ClassVar[dict[str, Any]] = {"unit": Unit, "relation": Relation, "noise": Noise}

    mechanism: str
    round: int
    client: int
    unit: Unit
    relation: Relation
    epsilon: float
    noise: Noise

    @property
    def released_by(self) -> int:
        """The client."""
        return self.client

    def terms(self) -> float:
        """Return its epsilon."""
        return self.epsilon


def event_of(round_: int, client: int, epsilon: float, noise: Noise) -> LocalEvent:
    """Return a release."""
    return LocalEvent(
        mechanism=NAME,
        round=round_,
        client=client,
        unit=Unit.CLIENT,
        relation=Relation.REPLACE_ONE,
        epsilon=epsilon,
        noise=noise,
    )


class NoisingClient(ClientHalf):
    """Clips and noises its update."""

    releases = True
    protects = "model"

    def __init__(self, settings: LocalSettings, intent: Intent, draws: ClientDraws) -> None:
        self._settings, self._intent, self._draws = settings, intent, draws

    def protect(self, update: NDArray[Any], metrics: Mapping[str, float], at: ClientRound) -> Protected:
        """Return the noised update, and its event."""
        clipped = clip_jointly({"update": update}, self._settings.clip).arrays["update"]
        randomness, epsilon = self._draws.noise("toy-local-noise", at), self._settings.epsilon
        l1 = 2 * math.sqrt(update.size) * self._settings.clip
        exact = ExactSum.of(l1, 1 / epsilon, update.size, order=1, arithmetic=self._intent.arithmetic)
        noised = exact.add(clipped, laplaces(randomness, update.size) * exact.sensitivity / epsilon)
        event = event_of(at.round, at.client, epsilon, randomness.source)
        return Protected(noised.astype(update.dtype), {}, event)


class LocalPlan(ReleasedByClients):
    """Nothing is calibrated: a round costs what the table says."""

    most = None

    def __init__(self, settings: LocalSettings, training: Training) -> None:
        self._settings, self._noise = settings, training.noise
        rule = training.rule
        self.cohorts = Cohorts.of(rule.sampling, rule.cohort, training.clients, most=rule.max_cohort)
        self.participations = training.rounds
        self.noise_multiplier = 1 / settings.epsilon

    def releases(self, client: int) -> int:
        """Return 1: its update."""
        return 1

    def planned(self, round_: int, client: int) -> LocalEvent:
        """Return the event of a client that is about to be asked."""
        return event_of(round_, client, self._settings.epsilon, self._noise)

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return epsilon so far, of the client that has released most."""
        return {"epsilon-server": self._settings.epsilon * max(ledger.participations().values(), default=0)}

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return epsilon of the whole run, and so far."""
        spent = self.row(ledger, rounds)["epsilon-server"]
        return {"server": {"epsilon": self._settings.epsilon * self.participations, "spent": spent}}


class LocalLaplace(Mechanism[LocalSettings]):
    """Client-level privacy against everybody."""

    unit = Unit.CLIENT
    Settings = LocalSettings
    events: ClassVar[Mapping[str, type[Event]]] = {NAME: LocalEvent}
    defaults: ClassVar[Mapping[str, Any]] = {"server.weighting": "uniform"}

    def check(self, settings: LocalSettings, intent: Intent) -> Iterable[Problem]:
        """Refuse what clients would say without noise."""
        yield from checks.needs_no_losses(intent)
        yield from checks.needs_ledger_here(intent)
        yield from checks.needs_equal_weights(intent, "clients would send their numbers of examples")

    def client(self, settings: LocalSettings, intent: Intent, draws: ClientDraws) -> NoisingClient:
        """Return the client's half."""
        return NoisingClient(settings, intent, draws)

    def plan(self, settings: LocalSettings, training: Training) -> LocalPlan:
        """Return what the training costs."""
        return LocalPlan(settings, training)
