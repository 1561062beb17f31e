"""Attacks, and their findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from fedsim.privacy.secagg.topology import Adversary


@dataclass(frozen=True)
class Finding:
    """Result of one attack on one protocol.

    Attributes:
        succeeded: Whether the attack succeeded.
        what: One line: its result, or the refusal.
        recovered: Numbers that the attacker recovered; empty if none.
        true: The victim's true numbers.
    """

    succeeded: bool
    what: str
    recovered: Sequence[float] = ()
    true: Sequence[float] = ()

    @property
    def error(self) -> float:
        """The largest difference between recovered and true."""
        pairs = zip(self.recovered, self.true, strict=True)
        return max((abs(a - b) for a, b in pairs), default=float("nan"))

    def numbers(self, first: int = 3) -> str:
        """Return the first numbers, recovered against true."""
        if not len(self.recovered):
            return ""
        mine, theirs = (", ".join(f"{x:.4f}" for x in xs[:first]) for xs in (self.recovered, self.true))
        return f"recovered {mine}; true {theirs}; error at most {self.error:.1e} over {len(self.true)}"


def recovery(what: str, recovered: ArrayLike, true: ArrayLike, tolerance: float) -> Finding:
    """Return a finding that succeeded if the recovered numbers are right."""
    mine, theirs = (np.asarray(values, np.float64).ravel().tolist() for values in (recovered, true))
    finding = Finding(True, what, mine, theirs)
    if finding.error <= tolerance:
        return finding
    return Finding(False, f"{what}: wrong by {finding.error:.1e}", mine, theirs)


class Attack(Protocol):
    """A module of this package; its docstring explains the attack."""

    __name__: str
    CONTROL: str
    """The vulnerable protocol."""

    def control(self) -> Finding:
        """Run the attack where it succeeds."""

    def ours(self, adversary: Adversary) -> Finding:
        """Run it against this project's protocol in the mode for this adversary."""
