"""The table `[privacy.own]`: a user's own privacy mechanism, with its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import (
    ConfigDict,
    Field,
    SerializationInfo,
    ValidationError,
    model_serializer,
    model_validator,
)

from fedsim.catalogue import find_mechanism
from fedsim.errors import Refused
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.settings import Section, invalid, kebab, with_allowed_keys


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
        return {
            "use": self.use,
            **self.settings.model_dump(by_alias=bool(info.by_alias), mode=info.mode),
        }


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
