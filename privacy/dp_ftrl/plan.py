"""DP-FTRL's plan for a training: its noise and its cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedsim.privacy.accounting.steps import KNOWN_COHORT, RELEASED_MODELS, SERVER, AdversaryCost, Epsilon
from fedsim.privacy.cohorts.rule import Cohorts, Participation
from fedsim.privacy.cohorts.separated import SeparatedCohorts
from fedsim.privacy.dp_ftrl.accounting import Groups, NoisePlan, epsilon_amplified, epsilon_gaussian, plan
from fedsim.privacy.dp_ftrl.event import MatrixTerms
from fedsim.privacy.dp_ftrl.factorization import Factorization, factorization_of
from fedsim.privacy.dp_ftrl.server import DpFtrlServer
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.events import Ledger, Relation, Sampling
from fedsim.privacy.server_plan import ReleasedByServer, spent_in
from fedsim.privacy.training import Draws, Training, check_delta_of_clients

UNAMPLIFIED = (
    "that of known cohorts: secret ones have a theorem for banded noise without max-participations alone, and none "
    "where secure aggregation lets a round fail for want of clients"
)


class DpFtrlPlan(ReleasedByServer):
    """DP-FTRL for a training. Relation: zero-out; the number of clients is public.

    Attributes:
        noise: The factorization and its noise: given, or calibrated to an epsilon.

    Raises:
        ValueError: delta is too large for so few clients, the cohorts are too large for the separation, no noise
            reaches the epsilon, or no theorem covers these values.
    """

    def __init__(self, settings: DpFtrlSettings, training: Training) -> None:
        super().__init__(training, Relation.ZERO_OUT, settings.delta)
        check_delta_of_clients(settings.delta, training.clients)
        self._settings = settings
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
        last = self._counted(ledger, round_)
        if not last < round_ <= self._rounds:
            raise ValueError(
                f"the ledger has row {last} of the noise, of {self._rounds} that are planned; each is released once, and "
                "nothing goes on past its budget"
            )

    def _calibrated(self, factorization: Factorization) -> NoisePlan:
        """Return the factorization with the given noise, or the smallest for the given epsilon."""
        settings, amplified = self._settings, self._settings.adversary == RELEASED_MODELS
        if settings.epsilon is not None:
            rate = self.cohorts.share if amplified else None
            return plan(factorization, settings.epsilon, settings.delta, rate)
        if settings.noise_multiplier is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        groups = Groups.of(factorization.participation, self.cohorts.share) if amplified else None
        return NoisePlan(mechanism=factorization, noise_multiplier=settings.noise_multiplier, groups=groups)

    def _terms(self, adversary: str) -> dict[str, Any]:
        settings, mechanism = self._settings, self.noise.mechanism
        by_one = adversary == RELEASED_MODELS and self._is_amplified
        sensitivity = mechanism.once if by_one else mechanism.sensitivity
        parameters = [] if mechanism.name == "sqrt-toeplitz" else mechanism.strategy.parameters.tolist()
        return {
            "noise-multiplier": self.noise.deviation / sensitivity,
            "sensitivity": sensitivity,
            "sensitivity-to": "one participation" if by_one else "all of a client's participations",
            "clip": settings.clip,
            "mechanism": mechanism.name,
            "parameters": parameters,
            "min-separation": settings.min_separation,
            "participations": mechanism.participation.participations,
            "sampling": self.cohorts.sampling.value,
            "client-rate": self.cohorts.share,
            "group-rate": self.cohorts.rate,
        }

    @property
    def _is_amplified(self) -> bool:
        """Whether a theorem covers secret cohorts: few bands, no limit on participations, no round that can fail."""
        fits = self._settings.mechanism == "banded" and self._settings.max_participations is None
        return fits and self._training.secure is None

    def _counted(self, ledger: Ledger, rounds: int) -> int:
        """Return the last round in the ledger.

        Rounds without a sum cost nothing: all releases are among the first rows of one Gaussian mechanism, whose
        sensitivity covers every participation pattern without relying on sampling.
        """
        known = self.noise.deviation / self.noise.mechanism.sensitivity
        return spent_in(ledger, MatrixTerms, known, once=True).last

    def _costs(self, rounds: int) -> dict[str, AdversaryCost]:
        """Return the epsilon against each adversary: the first rounds are the mechanism with the matrix's first rows."""
        if rounds == 0:
            nothing = AdversaryCost(Epsilon(0.0, 0.0), Relation.ZERO_OUT)
            return dict.fromkeys((SERVER, KNOWN_COHORT, RELEASED_MODELS), nothing)
        whole, delta = self.noise.mechanism, self._settings.delta
        first = replace(whole, participation=replace(whole.participation, rounds=rounds))
        known, why = epsilon_gaussian(self.noise.deviation / first.sensitivity, delta), UNAMPLIFIED
        released = known
        if self._is_amplified:
            groups = Groups.of(first.participation, self.cohorts.share)
            released, why = epsilon_amplified(self.noise.deviation / first.once, groups, delta), ""
        return {
            SERVER: AdversaryCost(Epsilon(math.inf, math.inf), Relation.ZERO_OUT, "the server is trusted"),
            KNOWN_COHORT: AdversaryCost(known, Relation.ZERO_OUT),
            RELEASED_MODELS: AdversaryCost(released, Relation.ZERO_OUT, why),
        }
