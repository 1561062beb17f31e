"""Applies overrides (`section.key=value`) and resolves paths in an experiment's TOML, before validation."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedsim import catalogue
from fedsim.catalogue import find_optimizer, find_schedule
from fedsim.errors import Refused
from fedsim.privacy.settings import kebab

# A key that names an entry, its default, and the table of the entry's options.
_NAMES = {
    "data.source": (catalogue.find_source, "digits", "data"),
    "data.partition": (catalogue.find_partition, "dirichlet", "data"),
    "task.name": (catalogue.find_task, "", "task"),
    "model.name": (catalogue.find_model, "cnn", "model"),
    "algorithm.name": (catalogue.find_algorithm, "", "algorithm"),
    "server.strategy": (catalogue.find_strategy, "fedavg", "server.options"),
    "server.schedule": (catalogue.find_round_schedule, "", "server.schedule-options"),
    "client.optimizer": (find_optimizer, "sgd", "client.optimizer-options"),
    "client.schedule": (find_schedule, "exponential", "client.schedule-options"),
}


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put overrides into the tables of an experiment, in place.

    A value is read as TOML (`0.1`, `true`, `[1, 2]`), else as a string, so `iid` needs no quotes. An override that
    names another source, partition, task, model, algorithm, strategy, optimizer or schedule drops options of the former
    one that the new one lacks.

    Raises:
        Refused: An override has no `=`, is given twice, or has a key below a value that is no table.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        key = kebab(key.strip())
        if not equals or not key:
            raise Refused(f"override {override!r}: must be section.key=value")
        if key in changes:
            raise Refused(f"override {key}: is given twice, as {changes[key]!r} and {_value(value)!r}")
        changes[key] = _value(value)
    for key, value in changes.items():
        if key in _NAMES and isinstance(value, str):
            _drop_former_options(tree, key, value)
    for key, value in changes.items():
        _put(tree, key, value)


def resolve_path(tree: dict[str, Any], folder: Path) -> None:
    """Make `data.path` absolute, in place.

    The path of `huggingface` may also be a name on the hub, so it is changed only if such a folder exists.
    """
    data = tree.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("path"), str) or not data["path"]:
        return
    path = Path(os.path.abspath(folder / Path(data["path"]).expanduser()))  # noqa: PTH100 (links stay)
    if data.get("source") != "huggingface" or path.exists():
        data["path"] = str(path)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _table(tree: dict[str, Any], path: str) -> Any:
    found: Any = tree
    for part in path.split("."):
        found = found.get(part, {}) if isinstance(found, Mapping) else None
    return found


def _drop_former_options(tree: dict[str, Any], key: str, new: str) -> None:
    find, default, where = _NAMES[key]
    former = _table(tree, key) or default
    if not isinstance(former, str):
        return
    try:
        old: catalogue.Entry = find(former)
        now: catalogue.Entry = find(new)
    except Refused:
        return  # validation gives a better message
    _drop(tree, where, catalogue.option_keys(old) - catalogue.option_keys(now))
    _drop(tree, key.rpartition(".")[0], old.beside - now.beside)


def _drop(tree: dict[str, Any], path: str, stale: set[str] | frozenset[str]) -> None:
    table = _table(tree, path)
    if isinstance(table, dict):
        for name in stale & set(table):
            del table[name]


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    here = tree
    for depth, name in enumerate(tables):
        here = here.setdefault(name, {})
        if not isinstance(here, dict):
            raise Refused(f"override {key}: {'.'.join(tables[: depth + 1])} is a value, not a table")
    here[last] = value
