"""The table `[privacy]` of an experiment: which mechanisms are on, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from fedsim.catalogue import MECHANISMS, NO_MECHANISM
from fedsim.privacy.events import Unit
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.settings import Section
from fedsim.privacy.validation import invalid

PARTICIPATIONS = "participations"  # the record in a client's state that counts the `rounds` it took part in


class _PrivacySection(Section):
    noise: Literal["seeded", "os"] = "seeded"
    """`seeded`: reproducible, for simulation; `os`: the operating system's, which nobody can repeat."""
    arithmetic: Literal["grid", "float32"] = "grid"
    """How noise is added: `grid`: exactly, so that the low bits of a result tell nothing; `float32`: as floating-point
    numbers are added, faster for DP-SGD, in seeded simulations alone: epsilon is then that of ideal real numbers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.mechanisms) > 1:
            first, second = self.mechanisms[:2]
            client_level = MECHANISMS[first].load().unit is Unit.CLIENT
            both = "two client-level mechanisms at once, and " if client_level else ""
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
        return [name for name in MECHANISMS if getattr(self, _field(name)) is not None]

    @property
    def mechanism(self) -> Mechanism[Any]:
        """The mechanism that adds noise; `Unprotected` where none does."""
        name = next(iter(self.mechanisms), None)
        mechanism: Mechanism[Any] = (NO_MECHANISM if name is None else MECHANISMS[name]).load()()
        return mechanism

    @property
    def settings(self) -> Section:
        """The table of the mechanism that adds noise; an empty one where none does."""
        found: Section | None = next((getattr(self, _field(name)) for name in self.mechanisms), None)
        return Section() if found is None else found

    @property
    def releases(self) -> bool:
        """Whether there is a mechanism that adds noise, and so a ledger."""
        return bool(self.mechanisms)


def _field(name: str) -> str:
    return name.replace("-", "_")


if TYPE_CHECKING:

    class PrivacySection(_PrivacySection):
        """The mechanisms, of which type checkers know no names."""

        secagg: SecaggSettings | None = None

        def __getattr__(self, name: str) -> Any:
            """Return the table of a mechanism; None where it is off."""

else:
    PrivacySection = create_model(
        "PrivacySection",
        __base__=_PrivacySection,
        __doc__="The mechanisms: one is on when its table is there.",
        __module__=__name__,
        **{
            _field(entry.name): (entry.load().Settings | None, Field(default=None, description=entry.summary))
            for entry in MECHANISMS.values()
        },
        secagg=(
            SecaggSettings | None,
            Field(default=None, description="Secure aggregation: the server sees sums only."),
        ),
    )


def defaults_of(tree: object) -> Mapping[str, Any]:
    """Return the keys that the mechanism of a table `[privacy]` sets where the experiment doesn't.

    Args:
        tree: The table, before or after it is validated; one that is invalid may have none.
    """
    if isinstance(tree, _PrivacySection):
        return tree.mechanism.defaults
    if not isinstance(tree, Mapping):
        return {}
    on = (name for name in MECHANISMS if tree.get(name, tree.get(_field(name))) is not None)
    return {key: value for name in on for key, value in MECHANISMS[name].load().defaults.items()}
