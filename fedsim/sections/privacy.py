"""The table `[privacy]`: its mechanisms and their settings, with `[privacy.own]`, a mechanism of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import (
    ConfigDict,
    Field,
    SerializationInfo,
    ValidationError,
    create_model,
    model_serializer,
    model_validator,
)

from fedsim.catalogue import MECHANISMS, NO_MECHANISM, find_mechanism
from fedsim.errors import Refused
from fedsim.options import snake
from fedsim.privacy.events import Noise, Unit
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.secagg.settings import SecaggSettings
from fedsim.privacy.settings import Section, invalid, kebab, with_allowed_keys

OWN = "own"  # the table of a mechanism that is not in the catalogue
PARTICIPATIONS = "participations"  # the record in a client's state that counts the `rounds` it took part in


def _schema(tree: dict[str, Any]) -> None:
    """Allow any settings beside `use`; the mechanism defines them."""
    del tree["properties"]["settings"]
    tree["required"] = ["use"]
    tree["additionalProperties"] = True


class OwnMechanismSection(Section):
    """A user's own mechanism: the class, and the keys of its `Settings`."""

    model_config = ConfigDict(json_schema_extra=_schema)

    use: str
    """`"module:Class"`, a subclass of `fedsim.privacy.mechanism.Mechanism`."""
    settings: Section = Field(repr=False)

    @model_validator(mode="before")
    @classmethod
    def _find(cls, raw: Any) -> Any:
        """Validate the table's settings by the mechanism."""
        if not isinstance(raw, Mapping):
            return raw
        tree = {kebab(str(key)): value for key, value in raw.items()}
        if not isinstance(use := tree.pop("use", None), str):
            raise invalid("use", use, 'must be "module:Class", where the mechanism is')
        kind = _own_class(use).Settings
        try:
            return {"use": use, "settings": kind.model_validate(tree)}
        except ValidationError as error:
            raise with_allowed_keys(error, kind, "use") from None

    @model_serializer(mode="plain")
    def _flat(self, info: SerializationInfo) -> dict[str, Any]:
        return {"use": self.use, **self.settings.model_dump(by_alias=bool(info.by_alias), mode=info.mode)}


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
        for key, unset in (("noise", "seeded"), ("arithmetic", "grid")):
            if getattr(self, key) != unset and not self.releases:
                why = f"there is no mechanism that adds noise; allowed: {unset}"
                raise invalid(key, getattr(self, key), why)
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
        tables = {key: getattr(self, snake(key)) for key in (*MECHANISMS, OWN)}
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
        entry = next(map(find_mechanism, self.mechanisms), NO_MECHANISM)
        return cast(Mechanism[Any], entry.load()())

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
            snake(entry.name): (entry.load().Settings | None, Field(default=None, description=entry.summary))
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
    """Return the defaults that the mechanism of a table `[privacy]` sets, before or after validation."""
    if isinstance(tree, _PrivacySection):
        return tree.mechanism.defaults
    if not isinstance(tree, Mapping):
        return {}
    for name, entry in MECHANISMS.items():
        if tree.get(name, tree.get(snake(name))) is not None:
            return cast(Mapping[str, Any], entry.load().defaults)
    return {} if tree.get(OWN) is None else defaults_of_own(tree[OWN])


def defaults_of_own(tree: object) -> Mapping[str, Any]:
    """Return the keys that the mechanism of a table `[privacy.own]` sets; an invalid table has none."""
    use = tree.get("use") if isinstance(tree, Mapping) else getattr(tree, "use", None)
    try:
        return _own_class(str(use)).defaults
    except ValidationError:
        return {}


def _own_class(use: str) -> type[Mechanism[Any]]:
    """Return the class of a reference; raises `ValidationError` if it is no valid mechanism."""
    if ":" not in use:
        raise invalid("use", use, 'must be "module:Class", where the mechanism is')
    try:
        found = find_mechanism(use).load()
    except Refused as error:
        raise invalid("use", use, str(error)) from None
    if not (isinstance(found, type) and issubclass(found, Mechanism)):
        raise invalid("use", use, "a subclass of fedsim.privacy.mechanism.Mechanism is needed")
    for name in ("Settings", "unit"):
        if not hasattr(found, name):
            raise invalid("use", use, f"has no {name}, which says what the mechanism is")
    if abstract := getattr(found, "__abstractmethods__", None):
        raise invalid("use", use, f"lacks {', '.join(sorted(abstract))}")
    return found


def metric_terms(privacy: PrivacySection) -> Mapping[str, str]:
    """Return the metrics that clients send for noised sums: the name in a reply, by the name in the ledger."""
    return privacy.mechanism.metric_terms(privacy.settings)


def metrics_of_sums(privacy: PrivacySection) -> tuple[str, ...]:
    """Return the metrics that secure aggregation averages, without those that clients send only with seeded noise."""
    seeded = Noise(privacy.noise) is Noise.SEEDED
    return ("train-loss",) * seeded + tuple(metric_terms(privacy).values())
