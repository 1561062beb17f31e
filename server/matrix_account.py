"""What DP-FTRL costs over a run: the noise that it takes, before; what was spent, by the ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedsim.client_level_sections import DpFtrlSection
from fedsim.errors import Refused, RunFailed
from fedsim.experiment import Experiment
from fedsim.privacy.accounting.steps import Epsilon
from fedsim.privacy.cohorts import Cohorts
from fedsim.privacy.dp_fedavg.accounting import Answer
from fedsim.privacy.dp_ftrl.accounting import Groups, epsilon_amplified, epsilon_gaussian
from fedsim.privacy.dp_ftrl.calibration import Plan, plan
from fedsim.privacy.dp_ftrl.factorization import BUFFERS, Mechanism, banded, buffered, square_root_toeplitz
from fedsim.privacy.dp_ftrl.participation import Participation
from fedsim.privacy.events import Noise, Relation, Sampling, Unit
from fedsim.server.cohort_account import WHO, check_delta_of_clients, plain
from fedsim.server.kept_ledger import KeptByServer

TRUSTED = "the server is trusted"
UNAMPLIFIED = (
    "that of known cohorts: secret ones have a theorem for banded noise without max-participations alone, and none "
    "where secure aggregation lets a round fail for want of clients"
)


class MatrixAccount(KeptByServer):
    """The account of DP-FTRL over a run.

    Protected is all of one client's data, under zero-out. The number of clients is public.

    Attributes:
        plan: The mechanism and its noise: given, or calibrated for the epsilon of the experiment.
        noise_multiplier: The plan's.
        cohorts: How cohorts are drawn.
    """

    def __init__(
        self, experiment: Experiment, section: DpFtrlSection, clients: int, said: dict[Noise, str]
    ) -> None:
        """Make the account of so many clients; `said` is what the manifest says of where noise comes from.

        Raises:
            Refused: delta is too large for so few clients, the cohorts are too large for the separation, no noise
                reaches the epsilon, or there is no theorem for these values.
        """
        super().__init__(Noise(experiment.privacy.noise))
        check_delta_of_clients("dp-ftrl", section.delta, clients)
        self._section = section
        self._has_secagg = experiment.privacy.secagg is not None
        self._rounds = experiment.rounds
        self._said = said
        try:
            self.cohorts = Cohorts(
                sampling=Sampling.SEPARATED,
                clients=clients,
                cohort=experiment.server.cohort,
                separation=section.min_separation,
            )
            self.plan = self._planned(_mechanism(section, experiment.rounds))
        except ValueError as error:
            raise Refused(f"privacy.dp-ftrl: {error}") from None
        self.noise_multiplier = self.plan.noise_multiplier

    def _planned(self, mechanism: Mechanism) -> Plan:
        """Return the mechanism with the noise that is given, or the least that keeps the experiment's epsilon."""
        section, amplified = self._section, self._section.adversary == "released-models"
        if section.epsilon is not None:
            rate = self.cohorts.cohort / self.cohorts.population if amplified else None
            return plan(mechanism, section.epsilon, section.delta, rate)
        if section.noise_multiplier is None:
            raise TypeError("neither epsilon nor noise-multiplier is set")
        groups = self._groups(mechanism.participation.rounds) if amplified else None
        return Plan(mechanism=mechanism, noise_multiplier=section.noise_multiplier, groups=groups)

    def check_room(self, round_: int, clients: Sequence[int] = ()) -> None:
        """Refuse a round whose row of the noise is not to come any more, by what the ledger has.

        Args:
            round_: That is about to begin, or to release its sum; from 1.
            clients: Not needed: how often and how far apart each takes part is seen to where they are drawn.

        Raises:
            RunFailed: It has been released, or one after it has, or it was never planned.
        """
        try:
            last = self._released
        except ValueError as error:
            raise RunFailed(f"round {round_}: {error}") from None
        if not last < round_ <= self._rounds:
            raise RunFailed(
                f"round {round_}: the ledger has row {last} of the noise, of {self._rounds} that are planned; each is "
                "released once, and nothing goes on past its budget"
            )

    def columns(self, rounds: int) -> dict[str, Any]:
        """Return what a row says: epsilon so far, by adversary, with what belongs to it."""
        done = self._released
        return {
            f"epsilon-{name}": answer.epsilon.best
            for name, answer in self._side_by_side(done).items()
            if answer.epsilon is not None and math.isfinite(answer.epsilon.best)
        } | {
            "noise-multiplier": self.noise_multiplier,
            "sampling-rate": self.cohorts.rate,
            "dp-steps": done,
            "delta": self._section.delta,
            "unit": Unit.CLIENT.value,
            "relation": Relation.ZERO_OUT.value,
        }

    def report(self, rounds: int) -> dict[str, Any]:
        """Return what the manifest says, by adversary: epsilon of the whole run, and what is spent."""
        spent = self._side_by_side(self._released)
        return {
            name: self._entry(name, answer) | {"who": WHO[name], "spent": plain(spent[name])}
            for name, answer in self._side_by_side(self._rounds).items()
        }

    def _entry(self, name: str, answer: Answer) -> dict[str, Any]:
        section, mechanism = self._section, self.plan.mechanism
        bounds = {} if answer.epsilon is None else {"pld": answer.epsilon.pld, "rdp": answer.epsilon.rdp}
        by_one = name == "released-models" and self._is_amplified
        sensitivity = mechanism.once if by_one else mechanism.sensitivity
        return {
            "epsilon": plain(answer),
            **{bound: value for bound, value in bounds.items() if value is None or math.isfinite(value)},
            "why": answer.why,
            "relation": Relation.ZERO_OUT.value,
            "unit": Unit.CLIENT.value,
            "noise": self._said[self.noise],
            "noise-multiplier": self.plan.deviation / sensitivity,
            "sensitivity": sensitivity,
            "sensitivity-to": "one participation" if by_one else "all of a client's participations",
            "clip": section.clip,
            "mechanism": mechanism.name,
            "parameters": mechanism.strategy.parameters.tolist()
            if section.mechanism != "sqrt-toeplitz"
            else [],
            "min-separation": section.min_separation,
            "participations": mechanism.participation.participations,
            "sampling": self.cohorts.sampling.value,
            "client-rate": self.cohorts.cohort / self.cohorts.population,
            "group-rate": self.cohorts.rate,
            "rounds": self._rounds,
            "delta": section.delta,
        }

    @property
    def _is_amplified(self) -> bool:
        """Whether secret cohorts have a theorem: few bands, and coins alone, with which no round fails."""
        fits = self._section.mechanism == "banded" and self._section.max_participations is None
        return fits and not self._has_secagg

    def _groups(self, rounds: int) -> Groups:
        cohorts = self.cohorts
        return Groups(
            count=self._section.min_separation,
            rounds=rounds,
            client_rate=cohorts.cohort / cohorts.population,
        )

    @property
    def _released(self) -> int:
        """The last round that the ledger has; `ValueError` where its rounds are not of this account's mechanism.

        Rounds after it that had no sum cost nothing more, as the rows of rounds before it that had none don't: what
        was released is part of the first rows of one Gaussian mechanism, whose sensitivity is that of every pattern of
        participations, and no coin is counted on.
        """
        spent = self.ledger.spent_by_rows()
        if spent is None:
            return 0
        release, last = spent
        known = self.plan.deviation / self.plan.mechanism.sensitivity
        if not math.isclose(release.noise_multiplier, known, rel_tol=1e-9):
            raise ValueError(
                f"the ledger's noise multiplier is {release.noise_multiplier}, this run's {known}"
            )
        return last

    def _side_by_side(self, rounds: int) -> dict[str, Answer]:
        """Return what each adversary has learned after so many of the rounds, by name.

        The first rounds are a mechanism like the whole, whose matrix has their rows alone.
        """
        server = Answer(Epsilon(math.inf, math.inf), Relation.ZERO_OUT, TRUSTED)
        if rounds == 0:
            nothing = Answer(Epsilon(0.0, 0.0), Relation.ZERO_OUT)
            return {"server": nothing, "known-cohort": nothing, "released-models": nothing}
        whole, delta = self.plan.mechanism, self._section.delta
        first = replace(whole, participation=replace(whole.participation, rounds=rounds))
        known = epsilon_gaussian(self.plan.deviation / first.sensitivity, delta)
        released = Answer(known, Relation.ZERO_OUT, UNAMPLIFIED)
        if self._is_amplified:
            released = Answer(
                epsilon_amplified(self.plan.deviation / first.once, self._groups(rounds), delta),
                Relation.ZERO_OUT,
            )
        return {
            "server": server,
            "known-cohort": Answer(known, Relation.ZERO_OUT),
            "released-models": released,
        }


def _mechanism(section: DpFtrlSection, rounds: int) -> Mechanism:
    """Return what correlates the noise.

    Raises:
        ValueError: There is no theorem for these values.
    """
    pattern = Participation(rounds=rounds, separation=section.min_separation, most=section.max_participations)
    if section.mechanism == "banded":
        return banded(pattern, section.bands or section.min_separation)
    if section.mechanism == "blt":
        return buffered(pattern, section.buffers or BUFFERS)
    return square_root_toeplitz(pattern)
