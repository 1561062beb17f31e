"""What local client-level privacy costs over a run: the most that a client may spend, and what was spent."""

from __future__ import annotations

import math
from typing import Any

from fedsim.client_level_sections import LocalDpSection
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.privacy.accounting.steps import Epsilon
from fedsim.privacy.events import Law, LocalEvent, Noise, Relation, Unit
from fedsim.privacy.local_dp import accounting as local
from fedsim.server.cohort_account import check_delta_of_clients
from fedsim.server.kept_ledger import KeptByClients

SERVER = "server"
WHO = (
    "everybody: the server, and whoever else sees a client's updates and when it takes part; who sees less, as the "
    "models alone, learns no more"
)


class LocalAccount(KeptByClients):
    """The account of local client-level privacy over a run.

    Protected is all of one client's data, against everybody. Clients have disjoint data, so what is said is the
    largest of their epsilons, and not the sum; cohorts amplify nothing, for who takes part is not hidden.

    Attributes:
        noise: Where the noise comes from.
        noise_multiplier: What the clients add: given, or calibrated for the epsilon of the experiment.
        ledger: What was released so far.
    """

    def __init__(
        self, experiment: Experiment, section: LocalDpSection, clients: int, said: dict[Noise, str]
    ) -> None:
        """Make the account of so many clients; `said` is what the manifest says of where noise comes from.

        Raises:
            Refused: delta is too large for so few clients, no noise reaches the epsilon, or the noise reaches none.
        """
        super().__init__(experiment, section.max_participations)
        if section.delta is not None:
            check_delta_of_clients("local-dp", section.delta, clients)
        self._section = section
        self._said = said
        try:
            self.noise_multiplier = section.calibrated(experiment.rounds)
        except ValueError as error:
            raise Refused(f"privacy.local-dp.epsilon = {section.epsilon}: {error}") from None
        if not math.isfinite(self._epsilon(self._participations).best):
            raise Refused(
                f"privacy.local-dp.noise-multiplier = {self.noise_multiplier}: so little noise has no finite epsilon"
            )

    # --- during the run -----------------------------------------------------------------------------------

    def _planned(self, round_: int, client: int) -> LocalEvent:
        return LocalEvent(
            mechanism="local-dp",
            round=round_,
            client=client,
            unit=Unit.CLIENT,
            relation=Relation.REPLACE_ONE,
            law=Law(self._section.law),
            sensitivity=2 * self._section.clip,
            noise_multiplier=self.noise_multiplier,
            noise=self.noise,
        )

    def _releases(self, client: int) -> int:
        return 1

    def columns(self, rounds: int) -> dict[str, Any]:
        """Return what a row says: the most that a client has spent so far, with what belongs to it."""
        spent = self._spent(rounds)
        return {
            f"epsilon-{SERVER}": self._epsilon(spent).best,
            "noise-multiplier": self.noise_multiplier,
            "sampling-rate": 1.0,  # all that a client has is in each of its releases
            "dp-steps": spent,
            "delta": self._section.delta or 0.0,
            "unit": Unit.CLIENT.value,
            "relation": Relation.REPLACE_ONE.value,
        }

    # --- what it costs ------------------------------------------------------------------------------------

    def report(self, rounds: int) -> dict[str, Any]:
        """Return what the manifest says: epsilon of the whole run, and what is spent."""
        section, epsilon = self._section, self._epsilon(self._participations)
        return {
            SERVER: {
                "who": WHO,
                "epsilon": epsilon.best,
                "pld": epsilon.pld,
                "rdp": epsilon.rdp,
                "spent": self._epsilon(self._spent(rounds)).best,
                "unit": Unit.CLIENT.value,
                "relation": Relation.REPLACE_ONE.value,
                "noise": self._said[self.noise],
                "law": section.law,
                "noise-multiplier": self.noise_multiplier,
                "clip": section.clip,
                "participations": self._participations,
                "delta": section.delta or 0.0,
            }
        }

    def _epsilon(self, participations: int) -> Epsilon:
        """Return what a client's updates of so many rounds cost."""
        if self._section.delta is None:
            return Epsilon(local.laplace(self.noise_multiplier, participations), None)
        return local.gaussian(self.noise_multiplier, participations, self._section.delta)

    def _spent(self, rounds: int) -> int:
        """Return the most updates that a client has released; `ValueError` where they are not of this mechanism.

        With the operating system's noise it is the most that a client can have released in so many rounds: what this
        says is public, and how often somebody was drawn is not.
        """
        most = min(self._participations, rounds) if self.noise is Noise.SYSTEM else 0
        for release, count in self.ledger.spent_locally():
            if release.law != self._section.law or not math.isclose(
                release.noise_multiplier, self.noise_multiplier, rel_tol=1e-9
            ):
                raise ValueError(
                    f"the ledger's noise is {release.law}, multiplier {release.noise_multiplier}; this run's "
                    f"{self._section.law}, {self.noise_multiplier}"
                )
            most = max(most, count)
        return most
