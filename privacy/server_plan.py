"""The plan of a mechanism that a trusted server applies: its costs by adversary, for a round's row and the manifest."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from fedsim.privacy.accounting.steps import KNOWN_COHORT, RELEASED_MODELS, SERVER, AdversaryCost
from fedsim.privacy.events import Ledger, Relation, Spent, Unit
from fedsim.privacy.plan import NOISE, Plan
from fedsim.privacy.training import Training

WHO = {
    SERVER: "the server: it is trusted, and sees the sums before the noise",
    KNOWN_COHORT: "whoever sees the global models and knows who takes part",
    RELEASED_MODELS: "whoever sees the global models alone, and not who takes part",
}


class ReleasedByServer(Plan):
    """The plan of a trusted server that noises sums of clipped updates. Unit: a client, with all its data."""

    by_clients = False

    def __init__(self, training: Training, relation: Relation, delta: float) -> None:
        self._training = training
        self._rounds = training.rounds
        self._relation = relation
        self._delta = delta

    @abstractmethod
    def _counted(self, ledger: Ledger, rounds: int) -> int:
        """Return the number of rounds that count, of those begun; raises `ValueError` as `_spent`."""

    @abstractmethod
    def _costs(self, rounds: int) -> dict[str, AdversaryCost]:
        """Return the epsilon against each adversary after a number of rounds, by name."""

    @abstractmethod
    def _terms(self, adversary: str) -> dict[str, Any]:
        """Return the mechanism's own terms of an entry of the report."""

    def row(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the columns of a round's row. As `Plan` says."""
        done = self._counted(ledger, rounds)
        return {
            f"epsilon-{name}": cost.epsilon.best
            for name, cost in self._costs(done).items()
            if cost.epsilon is not None and math.isfinite(cost.epsilon.best)
        } | {
            "noise-multiplier": self.noise_multiplier,
            "sampling-rate": self.cohorts.rate,
            "dp-steps": done,
            "delta": self._delta,
            "unit": Unit.CLIENT.value,
            "relation": self._relation.value,
        }

    def report(self, ledger: Ledger, rounds: int) -> dict[str, Any]:
        """Return the manifest's report. As `Plan` says."""
        spent = self._costs(self._counted(ledger, rounds))
        return {
            name: self._entry(cost, self._terms(name)) | {"who": WHO[name], "spent": _to_json(spent[name])}
            for name, cost in self._costs(self._rounds).items()
        }

    def _entry(self, cost: AdversaryCost, terms: dict[str, Any]) -> dict[str, Any]:
        bounds = {} if cost.epsilon is None else {"pld": cost.epsilon.pld, "rdp": cost.epsilon.rdp}
        return {
            "epsilon": _to_json(cost),
            **{name: value for name, value in bounds.items() if value is None or math.isfinite(value)},
            "why": cost.why,
            "relation": (cost.relation or self._relation).value,
            "unit": Unit.CLIENT.value,
            "noise": NOISE[self._training.noise],
            **terms,
            "rounds": self._rounds,
            "delta": self._delta,
        }


def _to_json(cost: AdversaryCost) -> float | str | None:
    if cost.epsilon is None:
        return None
    return cost.epsilon.best if math.isfinite(cost.epsilon.best) else "infinite"


def spent_in(ledger: Ledger, terms_of: type[Any], noise_multiplier: float, *, once: bool = False) -> Spent:
    """Return the releases of a ledger that is this run's, with terms of a class.

    Raises:
        ValueError: The ledger belongs to another mechanism or noise, or, if a round is released `once`, has one twice.
    """
    if len(ledger.spent()) > 1:
        raise ValueError("the noise or the cohorts' rule has changed between the rounds")
    for terms, spent in ledger.spent().items():
        if once and spent.repeated:
            raise ValueError("a row of the noise was released twice: their difference has no noise")
        if not isinstance(terms, terms_of):
            raise ValueError("the ledger's rounds are of another mechanism")
        if not math.isclose(terms.noise_multiplier, noise_multiplier, rel_tol=1e-9):
            raise ValueError(
                f"the ledger's noise multiplier is {terms.noise_multiplier}, this run's {noise_multiplier}"
            )
        return spent
    return Spent()
