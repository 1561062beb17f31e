"""Tables that name entries of the catalogue, with the options of these entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, model_validator

from fedsim import catalogue
from fedsim.catalogue import AnyEntry, option_keys
from fedsim.errors import Refused
from fedsim.options import FreeOptions, Options
from fedsim.privacy.settings import Section, at_path, invalid, kebab


class WithOptions(Section):
    """A table with the options of its catalogue entries beside its own keys; `pick` returns them typed."""

    model_config = ConfigDict(extra="allow")
    finders: ClassVar[Mapping[str, Callable[[str], catalogue.Entry]]]
    """Finds the entries with options in this table, by the key that names each."""

    @classmethod
    def _entries(cls, raw: Mapping[str, Any]) -> list[catalogue.Entry]:
        names = {key: raw.get(key, cls.model_fields[key].default) for key in cls.finders}
        return [entry for key, find in cls.finders.items() for entry in lookup(key, names[key], find)]

    @model_validator(mode="before")
    @classmethod
    def _fill_options(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        extra = {kebab(str(key)): value for key, value in raw.items()}
        own = {kebab(name) for name in cls.model_fields}
        filled = {key: extra.pop(key) for key in own & set(extra)}
        entries = sorted(cls._entries(filled), key=_is_free)  # the user's own takes the rest
        if not entries:
            return raw  # the name is missing: the type check reports it
        for entry in entries:
            keys = set(extra) if _is_free(entry) else option_keys(entry) & set(extra)
            mine = {key: extra.pop(key) for key in sorted(keys)}
            filled |= entry.options.model_validate(mine).model_dump(by_alias=True)
        for key, value in extra.items():
            allowed = own.union(*map(option_keys, entries))
            names = ", ".join(repr(entry.name) for entry in entries)
            raise invalid(key, value, f"is no key here with {names}; allowed: {', '.join(sorted(allowed))}")
        return filled

    def pick(self, entry: catalogue.Entry) -> Options:
        """Return the options of one entry, typed."""
        extra = self.model_extra or {}
        keys = option_keys(entry)
        if _is_free(entry):
            named = {key: getattr(self, key) for key in self.finders}
            keys = set(extra).difference(*(option_keys(e) for e in self._entries(named) if not _is_free(e)))
        return entry.options.model_validate({key: extra[key] for key in keys})


def _is_free(entry: catalogue.Entry) -> bool:  # the user's own takes any options
    return issubclass(entry.options, FreeOptions)


def lookup(key: str, name: Any, find: Callable[[str], AnyEntry]) -> list[AnyEntry]:
    """Return the entry of a name; none if it is not a string, which the type check reports."""
    if not isinstance(name, str):
        return []
    try:
        return [find(name)]
    except Refused as refused:
        raise invalid(key, name, str(refused)) from None


def fill(raw: dict[str, Any], where: str, entries: Iterable[catalogue.Entry]) -> None:
    """Check the options of an entry in the table `where`, and fill in their defaults, in place."""
    given = raw.get(where, {})
    if not isinstance(given, Mapping):
        return
    for entry in entries:
        allowed = option_keys(entry)
        with at_path(where):
            for key, value in given.items():
                if kebab(str(key)) not in allowed and not _is_free(entry):
                    keys = ", ".join(sorted(allowed)) or "none"
                    raise invalid(str(key), value, f"is no key here with {entry.name!r}; allowed: {keys}")
            raw[where] = entry.options.model_validate(dict(given)).model_dump(by_alias=True)
