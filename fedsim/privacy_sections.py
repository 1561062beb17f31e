"""The table `[privacy]` of an experiment: which mechanisms are on, and with what."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from fedsim.catalogue import MECHANISMS
from fedsim.privacy.dp_fedavg.settings import DpFedAvgSettings
from fedsim.privacy.dp_ftrl.settings import DpFtrlSettings
from fedsim.privacy.dp_sgd.settings import DpSgdSettings
from fedsim.privacy.events import Relation
from fedsim.privacy.local_dp.settings import LocalDpSettings
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.settings import Section
from fedsim.privacy.validation import invalid

PARTICIPATIONS = "participations"  # the record in a client's state that counts the `rounds` it took part in


class PrivacySection(Section):
    """The mechanisms: one is on when its table is there."""

    noise: Literal["seeded", "os"] = "seeded"
    """`seeded`: reproducible, for simulation; `os`: the operating system's, which nobody can repeat."""
    arithmetic: Literal["grid", "float32"] = "grid"
    """How noise is added: `grid`: exactly, so that the low bits of a result tell nothing; `float32`: as floating-point
    numbers are added, faster for DP-SGD, in seeded simulations alone: epsilon is then that of ideal real numbers."""
    dp_sgd: DpSgdSettings | None = None
    """Example-level: DP-SGD in each client."""
    dp_fedavg: DpFedAvgSettings | None = None
    """Client-level: a trusted server adds noise."""
    dp_ftrl: DpFtrlSettings | None = None
    """Client-level: a trusted server adds noise that is correlated over rounds."""
    local_dp: LocalDpSettings | None = None
    """Client-level: each client adds noise, and trusts nobody."""
    secagg: SecaggSettings | None = None
    """Secure aggregation: the server sees sums only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.mechanisms) > 1:
            first, second = self.mechanisms[:2]
            both = "" if first == "dp-sgd" else "two client-level mechanisms at once, and "
            raise invalid(
                second,
                "a table",
                f"can't stand beside {first}: {both}a run has one account; allowed: one of them",
            )
        if self.noise == "os" and not self.releases:
            raise invalid("noise", self.noise, "there is no mechanism that adds noise; allowed: seeded")
        if self.arithmetic != "grid" and not self.releases:
            raise invalid(
                "arithmetic", self.arithmetic, "there is no mechanism that adds noise; allowed: grid"
            )
        if self.arithmetic != "grid" and self.noise == "os":
            raise invalid(
                "arithmetic",
                self.arithmetic,
                "the low bits of what is released would tell what was noised; allowed with privacy.noise = 'os': grid",
            )
        return self

    @property
    def mechanisms(self) -> list[str]:
        """Names of those that add noise."""
        return [name for name in MECHANISMS if getattr(self, name.replace("-", "_")) is not None]

    @property
    def chosen(self) -> tuple[str, Section] | None:
        """The mechanism that adds noise, and its table; None: there is none."""
        return next(((name, getattr(self, name.replace("-", "_"))) for name in self.mechanisms), None)

    @property
    def releases(self) -> bool:
        """Whether there is a mechanism that adds noise, and so a ledger."""
        return bool(self.mechanisms)

    @property
    def hides_clients(self) -> bool:
        """Whether the number of clients is protected, and no public constant may be made of it."""
        return self.dp_fedavg is not None and self.dp_fedavg.neighbours is Relation.ADD_OR_REMOVE_ONE

    @property
    def central(self) -> DpFedAvgSettings | DpFtrlSettings | None:
        """The mechanism by which a trusted server noises the sum of clipped updates; None: there is none."""
        return self.dp_fedavg or self.dp_ftrl
