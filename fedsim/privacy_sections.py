"""The table `[privacy]` of an experiment: its mechanisms and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import Field, create_model, model_validator

from fedsim.catalogue import MECHANISMS, NO_MECHANISM, find_mechanism
from fedsim.own_mechanism import OwnMechanismSection, defaults_of_own
from fedsim.privacy.events import Unit
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.settings import Section, invalid

OWN = "own"  # the table of a mechanism that is not in the catalogue
PARTICIPATIONS = "participations"  # the record in a client's state that counts the `rounds` it took part in


class _PrivacySection(Section):
    noise: Literal["seeded", "os"] = "seeded"
    """`seeded`: reproducible, for simulation; `os`: the operating system's, which can't be repeated."""
    arithmetic: Literal["grid", "float32"] = "grid"
    """How noise is added: `grid`: exactly, so that the low bits of a result reveal nothing; `float32`: by
    floating-point addition, faster for DP-SGD, only in seeded simulations: epsilon is then that of ideal real
    numbers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self._tables) > 1:
            first, second = list(self._tables)[:2]
            both = "two client-level mechanisms at once, and " if self.mechanism.unit is Unit.CLIENT else ""
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
                "low bits of floating-point sums would reveal the values before noise; allowed with privacy.noise = 'os': grid",
            )
        return self

    @property
    def _tables(self) -> dict[str, Section]:
        """Tables of the given mechanisms, by key."""
        tables = {key: getattr(self, _field(key)) for key in (*MECHANISMS, OWN)}
        return {key: table for key, table in tables.items() if table is not None}

    @property
    def mechanisms(self) -> list[str]:
        """Names of the mechanisms that add noise; a user's own is named by its reference."""
        return [
            table.use if isinstance(table, OwnMechanismSection) else key
            for key, table in self._tables.items()
        ]

    @property
    def mechanism(self) -> Mechanism[Any]:
        """The mechanism that adds noise, or `Unprotected`."""
        for name in self.mechanisms:
            return cast(Mechanism[Any], find_mechanism(name).load()())
        return cast(Mechanism[Any], NO_MECHANISM.load()())

    @property
    def settings(self) -> Section:
        """The settings of the mechanism that adds noise; empty without one."""
        for table in self._tables.values():
            return table.settings if isinstance(table, OwnMechanismSection) else table
        return Section()

    @property
    def releases(self) -> bool:
        """Whether a mechanism adds noise, so that there is a ledger."""
        return bool(self._tables)


def _field(name: str) -> str:
    return name.replace("-", "_")


if TYPE_CHECKING:

    class PrivacySection(_PrivacySection):
        """The mechanisms, with attributes unknown to type checkers."""

        own: OwnMechanismSection | None = None
        secagg: SecaggSettings | None = None

        def __getattr__(self, name: str) -> Any:
            """Return a mechanism's table, or None."""

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
        own=(
            OwnMechanismSection | None,
            Field(default=None, description="A mechanism that you have written, and its settings."),
        ),
        secagg=(
            SecaggSettings | None,
            Field(default=None, description="Secure aggregation: the server sees sums only."),
        ),
    )


def defaults_of(tree: object) -> Mapping[str, Any]:
    """Return the defaults that the mechanism of a table `[privacy]` sets.

    Args:
        tree: The table, before or after validation; an invalid one may have none.
    """
    if isinstance(tree, _PrivacySection):
        return tree.mechanism.defaults
    if not isinstance(tree, Mapping):
        return {}
    for name, entry in MECHANISMS.items():
        if tree.get(name, tree.get(_field(name))) is not None:
            return cast(Mapping[str, Any], entry.load().defaults)
    return {} if tree.get(OWN) is None else defaults_of_own(tree[OWN])
