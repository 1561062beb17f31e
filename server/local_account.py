"""What local client-level privacy costs over a run: the most that a client may spend, and what was spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedsim.client_level_sections import LocalDpSection
from fedsim.errors import Refused
from fedsim.experiment import Experiment
from fedsim.results.ledger import LedgerFile
from privacy.accounting import local
from privacy.accounting.steps import Epsilon
from privacy.ledger import AnyEvent, Law, Ledger, LocalEvent, Noise, Relation, Unit

SERVER = "server"
WHO = (
    "everybody: the server, and whoever else sees a client's updates and when it takes part; who sees less, as the "
    "models alone, learns no more"
)


class LocalAccount:
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
        if section.delta is not None and section.delta >= 1 / clients:
            raise Refused(
                f"privacy.local-dp.delta = {section.delta}: must be below 1 / clients = 1 / {clients}: a mechanism "
                "that publishes one client at random would pass"
            )
        self._section = section
        self._participations = section.participations(experiment.rounds)
        self._by_clients = experiment.privacy.secagg is None
        self._said = said
        self._file: LedgerFile | None = None
        self.noise = Noise(experiment.privacy.noise)
        self.ledger = Ledger()
        try:
            self.noise_multiplier = section.calibrated(experiment.rounds)
        except ValueError as error:
            raise Refused(f"privacy.local-dp.epsilon = {section.epsilon}: {error}") from None
        if not math.isfinite(self._epsilon(self._participations).best):
            raise Refused(
                f"privacy.local-dp.noise-multiplier = {self.noise_multiplier}: so little noise has no finite epsilon"
            )

    # --- during the run -----------------------------------------------------------------------------------

    def open(self, file: LedgerFile, events: Sequence[AnyEvent]) -> None:
        """Keep the ledger in a file, and go on from the events that are in it."""
        self._file = file
        self.ledger.extend(events)

    def for_clients(self) -> dict[str, Any]:
        """Return what clients have to know of it, for a message's config: where to note what they release."""
        if self._file is not None and self._file.lasting and self._by_clients:
            return {"ledger": str(self._file.path)}
        return {}

    def note(self, events: Sequence[AnyEvent]) -> None:
        """Note what a round's clients released."""
        self.ledger.extend(events if self._file is None else self._file.take(events))

    def note_planned(self, round_: int, clients: Sequence[int]) -> None:
        """Note what clients that are about to be asked will release at most.

        With secure aggregation nothing else is known of it: who then fails is charged too. Nobody is charged
        beyond the participations that it may have, for a client refuses to go beyond them.
        """
        so_far = self.ledger.participations()
        events = [
            self._planned(round_, client)
            for client in clients
            if so_far.get(client, 0) < self._participations
        ]
        if self._file is not None:
            self._file.write(events)
        self.ledger.extend(events)

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

    def columns(self, rounds: int) -> dict[str, Any]:
        """Return what a row says: the most that a client has spent so far, with what belongs to it."""
        spent = self._spent()
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
                "spent": self._epsilon(self._spent()).best,
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

    def _spent(self) -> int:
        """Return the most updates that a client has released; `ValueError` where they are not of this mechanism."""
        most = 0
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
