"""Nested tables, as TOML has them: with dotted keys, and without unset values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables, and lists of them, as one table with dotted keys: `transforms.0.name`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        elif is_tables(value):
            flat |= dotted({str(i): table for i, table in enumerate(value)}, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def without_unset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Drop None values, which TOML does not have."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            kept[key] = without_unset(value)
        elif is_tables(value):
            kept[key] = [without_unset(table) for table in value]
        elif value is not None:
            kept[key] = value
    return kept


def is_tables(value: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Return whether a value is a list of tables, at least one."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Mapping) for v in value)
