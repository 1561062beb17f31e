"""A run's privacy costs by adversary, read from its manifest and never recomputed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedsim.results.disclosure import ADVERSARIES


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A run's epsilon against one adversary, with its terms.

    Attributes:
        adversary: The adversary.
        epsilon: Of the whole run as planned; None: there is no finite one.
        spent: Epsilon spent when the manifest was last written; None: unknown, or not finite.
        why: Why there is no epsilon; empty if there is one.
        bound_by: Adversary that the epsilon was computed for: the same, or one that sees more.
        who: That adversary, in words.
        unit: What is protected: `example` or `client`.
        relation: Which data sets are neighbours.
        delta: Probability that epsilon does not hold.
        noise_multiplier: Sigma, in units of the sensitivity.
        sampling: q: the sampling rates, and whether they amplify.
        steps: T: the composed steps.
        noise: Where the noise comes from, in words.
    """

    adversary: str
    epsilon: float | None
    spent: float | None
    why: str
    bound_by: str
    who: str
    unit: str
    relation: str
    delta: float | None
    noise_multiplier: float | None
    sampling: str
    steps: str
    noise: str


def costs_of(report: Mapping[str, Mapping[str, Any]]) -> dict[str, Cost]:
    """Return the costs by adversary; `report` is a manifest's `epsilon`, empty without noise."""
    # An adversary without a theorem has only `why`: unit and relation are those of the others.
    unit = next((entry["unit"] for entry in report.values() if "unit" in entry), "")
    own = {name: _cost(name, entry, unit) for name, entry in report.items()}
    stronger = None  # the cost with an epsilon against the weakest adversary that sees more
    for name in ADVERSARIES:
        if name in own and own[name].epsilon is not None:
            stronger = own[name]
        elif stronger is not None:
            own[name] = replace(stronger, adversary=name)
    return own


def _cost(adversary: str, entry: Mapping[str, Any], unit: str) -> Cost:
    epsilon = _finite(entry.get("epsilon"))
    why = str(entry.get("why") or entry.get("unavailable") or "")
    return Cost(
        adversary=adversary,
        epsilon=epsilon,
        spent=_finite(entry.get("spent")),
        why=why if epsilon is None else "",
        bound_by=adversary,
        who=str(entry.get("who", "")),
        unit=str(entry.get("unit", unit)),
        relation=str(entry.get("relation", "")),
        delta=_finite(entry.get("delta")),
        noise_multiplier=_finite(entry.get("noise-multiplier")),
        sampling=_sampling(adversary, entry),
        steps=_steps(entry),
        noise=str(entry.get("noise", "")),
    )


def _finite(value: Any) -> float | None:
    """Return a finite number, or None: manifests write `infinite` as text."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _sampling(adversary: str, entry: Mapping[str, Any]) -> str:
    """Return the sampling rates as text.

    >>> _sampling("known-cohort", {"client-rate": 0.3})
    '0.3 of clients, known'
    """
    rates = []
    worst = entry.get("worst-client")
    if worst is not None:
        rates.append(f"{worst['sampling-rate']:.4g} of records")
    if "client-rate" in entry:
        known = ", known" if adversary == "known-cohort" else ""
        rates.append(f"{entry['client-rate']:.4g} of clients{known}")
    if adversary == "released-models" and "group-rate" in entry:
        rates.append(f"{entry['group-rate']:.4g} of a group in its turn")
    return "; ".join(rates) or ("1" if entry else "")


def _steps(entry: Mapping[str, Any]) -> str:
    """Return the composed steps as text.

    >>> _steps({"rounds": 15, "worst-client": {"steps-in-a-round": 2}})
    '15 rounds x 2 steps'
    """
    of = [f"{entry[key]} {key}" for key in ("rounds", "participations") if key in entry]
    worst = entry.get("worst-client")
    steps = "" if worst is None else f" x {worst['steps-in-a-round']} steps"
    return ", ".join(of) + steps
