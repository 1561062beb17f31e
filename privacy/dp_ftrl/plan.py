"""DP-FTRL's plan for a training: its noise and its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedsim.privacy.accounting.steps import Epsilon
from fedsim.privacy.cohorts.participation import Participation
from fedsim.privacy.cohorts.rule import Cohorts
from fedsim.privacy.cohorts.separated import SeparatedCohorts
from fedsim.privacy.dp_fedavg.accounting import AdversaryCost, to_json
from fedsim.privacy.dp_fedavg.plan import WHO
from fedsim.privacy.dp_ftrl.accounting import Groups, epsilon_amplified, epsilon_gaussian
from fedsim.privacy.dp_ftrl.calibration import NoisePlan, plan
from fedsim.privacy.dp_ftrl.event import MatrixTerms
from fedsim.privacy.dp_ftrl.factorization import Factorization, factorization_of
from fedsim.privacy.dp_ftrl.server import DpFtrlServer
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.events import Ledger, Relation, Sampling, Unit
from fedsim.privacy.plan import NOISE, Plan
from fedsim.privacy.training import Draws, Training, check_delta_of_clients

TRUSTED = "the server is trusted"
UNAMPLIFIED = (
    "that of known cohorts: secret ones have a theorem for banded noise without max-participations alone, and none "
    "where secure aggregation lets a round fail for want of clients"
)


class DpFtrlPlan(Plan):
    """DP-FTRL for a training.

    Unit: a client, with all its data. Relation: zero-out; the number of clients is public.

    Attributes:
        noise: The factorization and its noise: given, or calibrated to an epsilon.
        noise_multiplier: That of `noise`.
        cohorts: How cohorts are drawn.
    """

    by_clients = False

    def __init__(self, settings: DpFtrlSettings, training: Training) -> None:
        """Make the plan.

        Raises:
            ValueError: delta is too large for so few clients, the cohorts are too large for the separation, no noise
                reaches the epsilon, or no theorem covers these values.
        """
        check_delta_of_clients(settings.delta, training.clients)
        self._settings = settings
        self._training = training
        self._rounds = training.rounds
        self.cohorts = Cohorts(
            sampling=Sampling.SEPARATED,
            clients=training.clients,
            cohort=training.rule.cohort,
            separation=settings.min_separation,
        )
        pattern = Participation(
            rounds=training.rounds, separation=settings.min_separation, most=settings.max_participations
        )
        self.noise = self._calibrated(
            factorization_of(settings.mechanism, pattern, settings.bands, settings.buffers)
        )
        self.noise_multiplier = self.noise.noise_multiplier

    def sampling(self, draws: Draws) -> SeparatedCohorts:
        """Return cohort sampling that keeps the separation assumed by the noise."""
        return SeparatedCohorts(self.cohorts, self.noise.mechanism.participation, draws.coins)

    def server(self, draws: Draws) -> DpFtrlServer:
        """Return the server's half. As `Plan` says."""
        return DpFtrlServer(self.noise, self._settings.clip, self._training, self.cohorts, draws)

    def check_room(self, ledger: Ledger, round_: int, clients: Sequence[int]) -> None:
        """Refuse a round whose row of noise has been passed or was not planned. As `Plan` says."""
        last = self._released(ledger)
        if not last < round_ <= self._rounds:
            raise ValueError(
                f"the ledger has row {last} of the noise, of {self._rounds} that are planned; each is released once, and "
                "nothing goes on past its budget"
            )

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the columns of a round's row. As `Plan` says."""
        done = self._released(ledger)
        return {
            f"epsilon-{name}": answer.epsilon.best
            for name, answer in self._side_by_side(done).items()
            if answer.epsilon is not None and math.isfinite(answer.epsilon.best)
        } | {
            "noise-multiplier": self.noise_multiplier,
            "sampling-rate": self.cohorts.rate,
            "dp-steps": done,
            "delta": self._settings.delta,
            "unit": Unit.CLIENT.value,
            "relation": Relation.ZERO_OUT.value,
        }

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the manifest's report. As `Plan` says."""
        spent = self._side_by_side(self._released(ledger))
        return {
            name: self._entry(name, answer) | {"who": WHO[name], "spent": to_json(spent[name])}
            for name, answer in self._side_by_side(self._rounds).items()
        }

    def _calibrated(self, factorization: Factorization) -> NoisePlan:
        """Return the factorization with the given noise, or the smallest for the given epsilon."""
        settings, amplified = self._settings, self._settings.adversary == "released-models"
        if settings.epsilon is not None:
            rate = self.cohorts.cohort / self.cohorts.population if amplified else None
            return plan(factorization, settings.epsilon, settings.delta, rate)
        if settings.noise_multiplier is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        groups = self._groups(factorization.participation.rounds) if amplified else None
        return NoisePlan(mechanism=factorization, noise_multiplier=settings.noise_multiplier, groups=groups)

    def _entry(self, name: str, answer: AdversaryCost) -> dict[str, Any]:
        settings, mechanism = self._settings, self.noise.mechanism
        bounds = {} if answer.epsilon is None else {"pld": answer.epsilon.pld, "rdp": answer.epsilon.rdp}
        by_one = name == "released-models" and self._is_amplified
        sensitivity = mechanism.once if by_one else mechanism.sensitivity
        return {
            "epsilon": to_json(answer),
            **{bound: value for bound, value in bounds.items() if value is None or math.isfinite(value)},
            "why": answer.why,
            "relation": Relation.ZERO_OUT.value,
            "unit": Unit.CLIENT.value,
            "noise": NOISE[self._training.noise],
            "noise-multiplier": self.noise.deviation / sensitivity,
            "sensitivity": sensitivity,
            "sensitivity-to": "one participation" if by_one else "all of a client's participations",
            "clip": settings.clip,
            "mechanism": mechanism.name,
            "parameters": mechanism.strategy.parameters.tolist()
            if settings.mechanism != "sqrt-toeplitz"
            else [],
            "min-separation": settings.min_separation,
            "participations": mechanism.participation.participations,
            "sampling": self.cohorts.sampling.value,
            "client-rate": self.cohorts.cohort / self.cohorts.population,
            "group-rate": self.cohorts.rate,
            "rounds": self._rounds,
            "delta": settings.delta,
        }

    @property
    def _is_amplified(self) -> bool:
        """Whether a theorem covers secret cohorts: few bands, no limit on participations, no round that can fail."""
        fits = self._settings.mechanism == "banded" and self._settings.max_participations is None
        return fits and self._training.secure is None

    def _groups(self, rounds: int) -> Groups:
        cohorts = self.cohorts
        return Groups(
            count=self._settings.min_separation,
            rounds=rounds,
            client_rate=cohorts.cohort / cohorts.population,
        )

    def _released(self, ledger: Ledger) -> int:
        """Return the last round in the ledger.

        Rounds without a sum cost nothing: all releases are among the first rows of one Gaussian mechanism, whose
        sensitivity covers every participation pattern without relying on sampling.

        Raises:
            ValueError: The ledger belongs to another mechanism, or has a row of noise twice.
        """
        if len(ledger.spent()) > 1:
            raise ValueError("the noise or the cohorts' rule has changed between the rounds")
        for terms, spent in ledger.spent().items():
            if spent.repeated:
                raise ValueError("a row of the noise was released twice: their difference has no noise")
            if not isinstance(terms, MatrixTerms):
                raise ValueError("the ledger's rounds are of another mechanism")
            known = self.noise.deviation / self.noise.mechanism.sensitivity
            if not math.isclose(terms.noise_multiplier, known, rel_tol=1e-9):
                raise ValueError(
                    f"the ledger's noise multiplier is {terms.noise_multiplier}, this run's {known}"
                )
            return spent.last
        return 0

    def _side_by_side(self, rounds: int) -> dict[str, AdversaryCost]:
        """Return the epsilon against each adversary after a number of rounds, by name.

        The first rounds are the mechanism with the first rows of the matrix.
        """
        server = AdversaryCost(Epsilon(math.inf, math.inf), Relation.ZERO_OUT, TRUSTED)
        if rounds == 0:
            nothing = AdversaryCost(Epsilon(0.0, 0.0), Relation.ZERO_OUT)
            return {"server": nothing, "known-cohort": nothing, "released-models": nothing}
        whole, delta = self.noise.mechanism, self._settings.delta
        first = replace(whole, participation=replace(whole.participation, rounds=rounds))
        known = epsilon_gaussian(self.noise.deviation / first.sensitivity, delta)
        released = AdversaryCost(known, Relation.ZERO_OUT, UNAMPLIFIED)
        if self._is_amplified:
            released = AdversaryCost(
                epsilon_amplified(self.noise.deviation / first.once, self._groups(rounds), delta),
                Relation.ZERO_OUT,
            )
        return {
            "server": server,
            "known-cohort": AdversaryCost(known, Relation.ZERO_OUT),
            "released-models": released,
        }
